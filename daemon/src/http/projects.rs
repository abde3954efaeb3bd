//! `/projects`.

use super::Shared;
use super::at::AtProject;
use super::json::{Json, with_status};
use super::openapi::Problems;
use super::problem::Failure;
use crate::service::Created;
use crate::tokens::Caller;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use sandbox_wire::project::ProjectList;
use sandbox_wire::{CreateProject, PatchProject, Project};

/// Create a project
///
/// With `dir`, the project that already has the folder is answered.
#[utoipa::path(post, path = "/projects", tag = "projects", operation_id = "create_project", request_body = Option<CreateProject>,
    responses((status = 201, description = "The new project", body = Project),
        (status = 200, description = "The project that already has the folder", body = Project), Problems))]
pub(crate) async fn create(
    State(service): State<Shared>,
    caller: Caller,
    Json(request): Json<CreateProject>,
) -> Result<Response, Failure> {
    Ok(match service.create_project(&caller, request).await? {
        Created::Now(project) => with_status(StatusCode::CREATED, project),
        Created::Before(project) => with_status(StatusCode::OK, project),
    })
}

/// List projects
#[utoipa::path(get, path = "/projects", tag = "projects", operation_id = "list_projects",
    responses((status = 200, description = "Those that the token is good for, oldest first", body = ProjectList), Problems))]
pub(crate) async fn list(State(service): State<Shared>, caller: Caller) -> Json<ProjectList> {
    Json(service.list_projects(&caller))
}

/// Show a project
#[utoipa::path(get, path = "/projects/{id}", tag = "projects", operation_id = "show_project",
    params(("id" = String, Path, description = "UUID or url_id")),
    responses((status = 200, description = "The project", body = Project), Problems))]
pub(crate) async fn show(
    State(service): State<Shared>,
    caller: Caller,
    AtProject(name): AtProject,
) -> Result<Json<Project>, Failure> {
    let entry = service.project(&caller, &name)?;
    Ok(Json(service.describe(&entry)))
}

/// Change a project
///
/// A new policy holds for the runs that start from now on.
#[utoipa::path(patch, path = "/projects/{id}", tag = "projects", operation_id = "change_project",
    params(("id" = String, Path, description = "UUID or url_id")), request_body = Option<PatchProject>,
    responses((status = 200, description = "The project as it is now", body = Project), Problems))]
pub(crate) async fn change(
    State(service): State<Shared>,
    caller: Caller,
    AtProject(name): AtProject,
    Json(patch): Json<PatchProject>,
) -> Result<Json<Project>, Failure> {
    Ok(Json(service.patch_project(&caller, &name, patch).await?))
}

/// Delete a project with its files and runs
///
/// What runs in it is killed. A workspace that is a folder of the host stays.
#[utoipa::path(delete, path = "/projects/{id}", tag = "projects", operation_id = "delete_project",
    params(("id" = String, Path, description = "UUID or url_id")),
    responses((status = 204, description = "It is gone"), Problems))]
pub(crate) async fn delete(
    State(service): State<Shared>,
    caller: Caller,
    AtProject(name): AtProject,
) -> Result<StatusCode, Failure> {
    service.delete_project(&caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
