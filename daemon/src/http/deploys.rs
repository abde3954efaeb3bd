//! `/projects/{id}/deploys` and `/projects/{id}/deploy`.

use super::Shared;
use super::at::AtProject;
use super::json::{Json, with_status};
use super::openapi::Problems;
use super::problem::Failure;
use crate::tokens::Caller;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use sandbox_wire::deploy::{Deploy, DeployList, DeployRequest, FilesDeploy, FilesDeployed};

/// Build in the sandbox, and deploy what was built
///
/// Answers when the release is live. Nothing is deployed when the build does not end with 0. Needs the
/// scope `deploy`, and `run` for a build.
#[utoipa::path(post, path = "/projects/{id}/deploys", tag = "deploys", operation_id = "deploy",
    params(("id" = String, Path, description = "UUID or url_id")), request_body = DeployRequest,
    responses((status = 201, description = "It is live", body = Deploy), Problems))]
pub(crate) async fn create(
    State(service): State<Shared>,
    caller: Caller,
    AtProject(name): AtProject,
    Json(request): Json<DeployRequest>,
) -> Result<Response, Failure> {
    let entry = service.project_to_deploy(&caller, &name)?;
    Ok(with_status(StatusCode::CREATED, service.deploy(&caller, &entry, request).await?))
}

/// What was deployed, newest first
#[utoipa::path(get, path = "/projects/{id}/deploys", tag = "deploys", operation_id = "list_deploys",
    params(("id" = String, Path, description = "UUID or url_id")),
    responses((status = 200, description = "The gateway's operations", body = DeployList), Problems))]
pub(crate) async fn list(
    State(service): State<Shared>,
    caller: Caller,
    AtProject(name): AtProject,
) -> Result<Json<DeployList>, Failure> {
    let entry = service.project_to_deploy(&caller, &name)?;
    Ok(Json(service.list_deploys(&entry).await?))
}

/// Deploy files that come with the request
#[utoipa::path(post, path = "/projects/{id}/deploy", tag = "deploys", operation_id = "deploy_files",
    params(("id" = String, Path, description = "UUID or url_id")), request_body = FilesDeploy,
    responses((status = 200, description = "It is live", body = FilesDeployed), Problems))]
pub(crate) async fn files(
    State(service): State<Shared>,
    caller: Caller,
    AtProject(name): AtProject,
    Json(request): Json<FilesDeploy>,
) -> Result<Json<FilesDeployed>, Failure> {
    let entry = service.project_to_deploy(&caller, &name)?;
    Ok(Json(service.deploy_files(&entry, request).await?))
}
