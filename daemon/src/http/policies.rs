//! `/policies`: what a project's commands may do, by name.

use super::Shared;
use super::at::AtName;
use super::json::Json;
use super::openapi::Problems;
use super::problem::Failure;
use crate::tokens::Caller;
use axum::extract::State;
use sandbox_wire::{PolicyDocument, PolicyList};

/// List policies
#[utoipa::path(get, path = "/policies", tag = "policies", operation_id = "list_policies",
    responses((status = 200, description = "All that can be named", body = PolicyList), Problems))]
pub(crate) async fn list(State(service): State<Shared>, _: Caller) -> Json<PolicyList> {
    Json(service.policies.list())
}

/// Show a policy with everything that it extends
#[utoipa::path(get, path = "/policies/{name}", tag = "policies", operation_id = "show_policy",
    params(("name" = String, Path, description = "Name of the policy")),
    responses((status = 200, description = "The policy", body = PolicyDocument), Problems))]
pub(crate) async fn show(
    State(service): State<Shared>,
    _: Caller,
    AtName(name): AtName,
) -> Result<Json<PolicyDocument>, Failure> {
    Ok(Json(service.policies.document(&name)?))
}
