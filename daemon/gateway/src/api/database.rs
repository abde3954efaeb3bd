//! SQL, schema and expose manifests of a project. The database behind [`crate::slices::Database`] does the work.

use super::{Answer, Api, parse};
use crate::auth::Caller;
use crate::error::{Refusal, Result};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SqlRequest {
    sql: String,
    #[serde(default)]
    params: Vec<Value>,
}

/// Whose service key was shown.
async fn served(api: &Api, id: String, headers: HeaderMap) -> Result<String> {
    let project = api.gateway.blocking(move |gateway| Caller::read(gateway, &headers)?.served(&id)).await?;
    Ok(project.id)
}

/// SQL as it is, or JSON with parameters.
fn read_sql(headers: &HeaderMap, body: &Bytes) -> Result<SqlRequest> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/json") {
        return parse(body);
    }
    let sql = String::from_utf8(body.to_vec()).map_err(|_| Refusal::bad("BAD_REQUEST", "the SQL is not UTF-8"))?;
    Ok(SqlRequest { sql, params: Vec::new() })
}

pub(super) async fn run_sql(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let request = read_sql(&headers, &body)?;
    let project = served(&api, id, headers).await?;
    if request.sql.trim().is_empty() {
        return Err(Refusal::bad("BAD_FIELD", "there is no SQL"));
    }
    Ok(Json(api.gateway.database()?.run_sql(&project, &request.sql, &request.params).await?))
}

pub(super) async fn schema(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let project = served(&api, id, headers).await?;
    Ok(Json(api.gateway.database()?.schema(&project).await?))
}

pub(super) async fn exposed(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let project = served(&api, id, headers).await?;
    Ok(Json(api.gateway.database()?.exposed(&project).await?))
}

pub(super) async fn expose(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let manifest: Value = parse(&body)?;
    let project = served(&api, id, headers).await?;
    // Not beside a release that exposes its own.
    let lock = api.gateway.commit_lock(&project);
    let _held = lock.lock().await;
    let mut done = api.gateway.database()?.expose(&project, &manifest).await?;
    crate::deploy::merge(&mut done, json!({"status": "ok", "project_id": project}));
    Ok(Json(done))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ValidateRequest {
    manifest: Value,
    #[serde(default)]
    migration_sql: Option<String>,
}

/// Against the project's tables.
pub(super) async fn validate(
    State(api): State<Api>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let request: ValidateRequest = parse(&body)?;
    let project = served(&api, id, headers).await?;
    answer(&api, Some(&project), &request).await
}

/// By itself.
pub(super) async fn validate_alone(State(api): State<Api>, headers: HeaderMap, body: Bytes) -> Answer {
    let request: ValidateRequest = parse(&body)?;
    api.gateway.blocking(move |gateway| Caller::read(gateway, &headers)?.wallet().map(drop)).await?;
    answer(&api, None, &request).await
}

async fn answer(api: &Api, project: Option<&str>, request: &ValidateRequest) -> Answer {
    let database = api.gateway.database()?;
    let found = database.validate_expose(project, &request.manifest, request.migration_sql.as_deref());
    Ok(Json(found.await?))
}
