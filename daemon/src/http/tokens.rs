//! `/tokens`: for administrators.

use super::Shared;
use super::at::AtName;
use super::json::{Json, with_status};
use super::openapi::Problems;
use super::problem::Failure;
use crate::tokens::Caller;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use sandbox_wire::token::TokenList;
use sandbox_wire::{CreateToken, Token};

/// Create a token
///
/// The answer is the only place where the token itself is seen.
#[utoipa::path(post, path = "/tokens", tag = "tokens", operation_id = "create_token", request_body = CreateToken,
    responses((status = 201, description = "The token", body = Token), Problems))]
pub(crate) async fn create(
    State(service): State<Shared>,
    caller: Caller,
    Json(request): Json<CreateToken>,
) -> Result<Response, Failure> {
    Ok(with_status(StatusCode::CREATED, service.create_token(&caller, request).await?))
}

/// List tokens
#[utoipa::path(get, path = "/tokens", tag = "tokens", operation_id = "list_tokens",
    responses((status = 200, description = "All tokens, without their secrets", body = TokenList), Problems))]
pub(crate) async fn list(State(service): State<Shared>, caller: Caller) -> Result<Json<TokenList>, Failure> {
    Ok(Json(service.list_tokens(&caller)?))
}

/// Revoke a token
#[utoipa::path(delete, path = "/tokens/{id}", tag = "tokens", operation_id = "revoke_token",
    params(("id" = String, Path, description = "Id of the token, tok_…")),
    responses((status = 204, description = "It is not good any more"), Problems))]
pub(crate) async fn revoke(
    State(service): State<Shared>,
    caller: Caller,
    AtName(id): AtName,
) -> Result<StatusCode, Failure> {
    service.revoke_token(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
