//! Functions that are live: listed, changed, taken away. Each change is a release of its own, so that it can
//! be read, compared and taken back like any other.

use super::{Answer, Api, parse};
use crate::auth::Caller;
use crate::error::{Refusal, Result};
use crate::gateway::Gateway;
use crate::spec::{Function, Spec};
use crate::store::deploys::ReleaseRecord;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

const MAX_TAIL: u32 = 1000;

fn describe(gateway: &Gateway, release: &ReleaseRecord, name: &str, function: &Function) -> Value {
    json!({"name": name, "url": format!("{}/functions/v1/{name}", gateway.base()), "runtime": function.runtime,
        "timeout": function.timeout_seconds(), "memory": function.memory_mb(), "schedule": function.schedule,
        "schedule_meta": null, "created_at": release.created_at, "updated_at": release.created_at,
        "code_hash": function.code_hash(), "runtime_version": null, "deps_resolved": null})
}

pub(super) async fn list(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.served(&id)?;
        let live = gateway.store().live_release(&project.id)?;
        let functions = live.iter().flat_map(|release| {
            release.manifest.functions.iter().map(move |(name, function)| describe(gateway, release, name, function))
        });
        Ok(json!({"functions": functions.collect::<Vec<_>>()}))
    });
    answered.await
}

/// The function as it is live, for who shows the project's service key.
async fn find(api: &Api, id: String, name: String, headers: HeaderMap) -> Result<(String, Function)> {
    let found = api.gateway.blocking(move |gateway| {
        let project = Caller::read(gateway, &headers)?.served(&id)?;
        let live = gateway.store().live_release(&project.id)?;
        let function = live.and_then(|release| release.manifest.functions.get(&name).cloned());
        let function = function.ok_or_else(|| Refusal::not_found("function", "FUNCTION_NOT_FOUND"))?;
        Ok((project.id, function))
    });
    found.await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeRequest {
    /// Null takes it away.
    #[serde(default, deserialize_with = "given")]
    schedule: Option<Option<String>>,
    #[serde(default)]
    config: Option<ConfigChange>,
}

fn given<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigChange {
    #[serde(default)]
    timeout: Option<u32>,
    #[serde(default)]
    memory: Option<u32>,
}

pub(super) async fn change(
    State(api): State<Api>,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let ChangeRequest { schedule, config } = parse(&body)?;
    let config = config.filter(|config| config.timeout.is_some() || config.memory.is_some());
    if schedule.is_none() && config.is_none() {
        return Err(Refusal::bad("BAD_FIELD", "a change names a schedule, a timeout or a memory"));
    }
    let (project, mut function) = find(&api, id, name.clone(), headers).await?;
    // What is left out of a patch would stay; here it is said either way.
    function.schedule = Some(schedule.unwrap_or(function.schedule.flatten()));
    if let Some(ConfigChange { timeout, memory }) = config {
        function.config.timeout_seconds = timeout.or(function.config.timeout_seconds);
        function.config.memory_mb = memory.or(function.config.memory_mb);
    }
    let spec = json!({"project_id": project, "functions": {"patch": {"set": {(name.clone()): function}}}});
    api.gateway.release_change(&project, Spec::read(spec)?).await?;
    let described = api.gateway.blocking(move |gateway| {
        let live = gateway.store().live_release(&project)?;
        let described = live.as_ref().and_then(|release| {
            release.manifest.functions.get(&name).map(|function| describe(gateway, release, &name, function))
        });
        described.ok_or_else(|| Refusal::not_found("function", "FUNCTION_NOT_FOUND"))
    });
    described.await.map(Json)
}

pub(super) async fn delete(
    State(api): State<Api>,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    let (project, _) = find(&api, id, name.clone(), headers).await?;
    let spec = json!({"project_id": project, "functions": {"patch": {"delete": [name]}}});
    api.gateway.release_change(&project, Spec::read(spec)?).await?;
    Ok(Json(json!({"status": "deleted", "name": name})))
}

#[derive(Debug, Deserialize)]
pub(super) struct LogQuery {
    #[serde(default)]
    tail: Option<u32>,
    /// Milliseconds since 1970.
    #[serde(default, rename = "since")]
    _since: Option<u64>,
    #[serde(default)]
    request_id: Option<String>,
}

/// `^(req|fnrun|fnatt)_[A-Za-z0-9_-]{4,128}$`
fn is_request_id(id: &str) -> bool {
    let rest = ["req_", "fnrun_", "fnatt_"].into_iter().find_map(|prefix| id.strip_prefix(prefix));
    rest.is_some_and(|rest| {
        (4..=128).contains(&rest.len())
            && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    })
}

/// A function that never ran has written nothing.
pub(super) async fn logs(
    State(api): State<Api>,
    Path((id, name)): Path<(String, String)>,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
) -> Answer {
    let LogQuery { tail, request_id, .. } = query;
    if tail.is_some_and(|tail| tail == 0 || tail > MAX_TAIL) {
        return Err(Refusal::bad("BAD_FIELD", format!("tail is 1 to {MAX_TAIL}")));
    }
    if request_id.is_some_and(|id| !is_request_id(&id)) {
        return Err(Refusal::bad("BAD_FIELD", "a request id starts with req_, fnrun_ or fnatt_"));
    }
    find(&api, id, name, headers).await?;
    Ok(Json(json!({"logs": []})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_have_one_of_three_forms() {
        for good in ["req_abcd", "fnrun_A-b_9", "fnatt_0000"] {
            assert!(is_request_id(good), "{good}");
        }
        for bad in ["req_abc", "abcd", "run_abcd", "req_ab cd", ""] {
            assert!(!is_request_id(bad), "{bad}");
        }
    }
}
