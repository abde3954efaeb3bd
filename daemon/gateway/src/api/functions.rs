//! `/functions/v1/:name`, and the administration of functions.

use super::{Answer, Api, parse};
use crate::auth::Caller;
use crate::error::{Refusal, Result};
use crate::functions::{self, Live, Request};
use crate::gateway::Gateway;
use crate::serve;
use crate::store::projects::Project;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// With the project's service key: its owner calls, whatever the function's own gate.
pub(super) async fn invoke(
    State(api): State<Api>,
    Path(name): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response> {
    let asked = headers.clone();
    let project = api.gateway.blocking(move |gateway| Caller::read(gateway, &asked)?.any_served()).await?;
    let live = api.gateway.live_function(&project.id, &name).await?;
    let url = format!("{}{}", api.gateway.base(), uri.path_and_query().map_or("/", |path| path.as_str()));
    let mut headers = headers;
    // The key of the project is not for the function's eyes.
    headers.remove("authorization");
    let request = Request { method: method.to_string(), url, headers, body: body.to_vec() };
    api.gateway.invoke(live, request).await.map(serve::function_response)
}

fn describe(gateway: &Gateway, at: &str, live: &Live) -> Value {
    let Live { project, name, function } = live;
    json!({"name": name, "url": format!("{}/functions/v1/{name}", gateway.base()), "runtime": function.runtime,
        "timeout": function.timeout_seconds(), "memory": function.memory_mb(), "schedule": function.schedule,
        "created_at": at, "updated_at": at, "code_hash": function.code_hash(), "runtime_version": null,
        "deps_resolved": functions::packages::resolved(gateway, project, function)})
}

fn all(gateway: &Gateway, project: &Project) -> Result<Vec<(String, Live)>> {
    let Some(release) = gateway.store().live_release(&project.id)? else { return Ok(Vec::new()) };
    let at = release.created_at;
    let live = |(name, function)| (at.clone(), Live { project: project.id.clone(), name, function });
    Ok(release.manifest.functions.clone().into_iter().map(live).collect())
}

pub(super) async fn list(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.served(&id)?;
        let functions: Vec<Value> =
            all(gateway, &project)?.iter().map(|(at, live)| describe(gateway, at, live)).collect();
        Ok(json!({"functions": functions}))
    });
    answered.await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeRequest {
    /// Null removes it.
    #[serde(default, deserialize_with = "given")]
    schedule: Option<Option<String>>,
    #[serde(default)]
    config: Option<ConfigChange>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigChange {
    #[serde(default)]
    timeout: Option<u32>,
    #[serde(default)]
    memory: Option<u32>,
}

fn given<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A change is a release of its own, with everything else carried forward.
pub(super) async fn change(
    State(api): State<Api>,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let request: ChangeRequest = parse(&body)?;
    if request.schedule.is_none() && request.config.is_none() {
        return Err(Refusal::bad("BAD_FIELD", "give a schedule, a timeout or a memory"));
    }
    let lock = api.gateway.commit_lock(&id);
    let _held = lock.lock().await;
    let changed = api.gateway.blocking(move |gateway| {
        let project = Caller::read(gateway, &headers)?.served(&id)?;
        let (at, mut live) = find(gateway, &project, &name)?;
        if let Some(schedule) = request.schedule {
            live.function.schedule = Some(schedule);
        }
        let (config, given) = (&mut live.function.config, request.config.as_ref());
        config.timeout_seconds = given.and_then(|given| given.timeout).or(config.timeout_seconds);
        config.memory_mb = given.and_then(|given| given.memory).or(config.memory_mb);
        let function = serde_json::to_value(&live.function).map_err(Refusal::internal)?;
        let spec = json!({"project_id": project.id, "functions": {"patch": {"set": {(name): function}}}});
        Ok((describe(gateway, &at, &live), project, spec))
    });
    let (described, project, spec) = changed.await?;
    api.gateway.apply_now(project, spec).await?;
    Ok(Json(described))
}

pub(super) async fn delete(
    State(api): State<Api>,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    let lock = api.gateway.commit_lock(&id);
    let _held = lock.lock().await;
    let wanted = name.clone();
    let project = api.gateway.blocking(move |gateway| {
        let project = Caller::read(gateway, &headers)?.served(&id)?;
        find(gateway, &project, &wanted).map(|_| project)
    });
    let project = project.await?;
    let spec = json!({"project_id": project.id, "functions": {"patch": {"delete": [name]}}});
    api.gateway.apply_now(project, spec).await?;
    Ok(Json(json!({"status": "deleted", "name": name})))
}

fn find(gateway: &Gateway, project: &Project, name: &str) -> Result<(String, Live)> {
    let found = all(gateway, project)?.into_iter().find(|(_, live)| live.name == name);
    found.ok_or_else(|| Refusal::not_found("function", "FUNCTION_NOT_FOUND"))
}

#[derive(Debug, Deserialize)]
pub(super) struct LogQuery {
    #[serde(default)]
    tail: Option<usize>,
    #[serde(default)]
    since: Option<i64>,
    #[serde(default)]
    request_id: Option<String>,
}

pub(super) async fn logs(
    State(api): State<Api>,
    Path((id, name)): Path<(String, String)>,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
) -> Answer {
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.served(&id)?;
        let tail = query.tail.unwrap_or(50).clamp(1, 1000);
        let wanted = functions::Wanted { tail, since_ms: query.since, request_id: query.request_id };
        Ok(json!({"logs": gateway.logs().read(&project.id, &name, &wanted)?}))
    });
    answered.await
}
