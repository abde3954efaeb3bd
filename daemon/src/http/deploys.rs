//! `/projects/{id}/deploys` and `/projects/{id}/deploy`.

use super::Shared;
use super::accept::{Form, form};
use super::at::AtProject;
use super::deploy_stream;
use super::json::{Json, with_status};
use super::openapi::Problems;
use super::problem::Failure;
use super::runs::accepted;
use crate::tokens::Caller;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use sandbox_wire::deploy::{Deploy, DeployList, DeployRequest, FilesDeploy, FilesDeployed};

/// Build in the sandbox, and deploy what was built
///
/// Answers when the release is live. Nothing is deployed when the build does not end with 0. Needs the
/// scope `deploy`, and `run` for a build. With `Accept: text/event-stream` or `application/x-ndjson` the answer
/// is a stream of events: the build's, then `progress` and, at the end, `deployed` or `problem`.
#[utoipa::path(post, path = "/projects/{id}/deploys", tag = "deploys", operation_id = "deploy",
    params(("id" = String, Path, description = "UUID or url_id")), request_body = DeployRequest,
    responses((status = 201, description = "It is live", body = Deploy),
        (status = 200, description = "Its events", content((String = "text/event-stream"), (String = "application/x-ndjson"))),
        Problems))]
pub(crate) async fn create(
    State(service): State<Shared>,
    caller: Caller,
    AtProject(name): AtProject,
    headers: HeaderMap,
    Json(request): Json<DeployRequest>,
) -> Result<Response, Failure> {
    let entry = service.project_to_deploy(&caller, &name)?;
    let form = form(accepted(&headers)?)?;
    let (build, release) = service.prepare_deploy(&caller, &entry, request)?;
    match form {
        Form::Json => Ok(with_status(StatusCode::CREATED, service.deploy(&entry, build, release).await?)),
        Form::Stream(framing) => deploy_stream::start(service, entry, build, release, framing).await,
    }
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
