//! `/apply/v1/plans`, `/apply/v1/operations`: planning, committing, watching.

use super::{Answer, Api, parse};
use crate::auth::Caller;
use crate::deploy::{Kind, Planned};
use crate::error::{Refusal, Result};
use crate::gateway::Gateway;
use crate::spec::{ContentRef, Spec};
use crate::store::deploys::OperationRecord;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

const MAX_KEY_BYTES: usize = 200;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanRequest<'body> {
    /// May be long: read once, when it is known whose it is.
    #[serde(borrow)]
    spec: &'body RawValue,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    manifest_ref: Option<ContentRef>,
    #[serde(default)]
    mode: Option<String>,
    #[serde(default)]
    required_plan: Option<RequiredPlan>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequiredPlan {
    plan_id: String,
    #[serde(default)]
    plan_fingerprint: Option<String>,
}

/// Whose release it is, beside a manifest by reference.
#[derive(Debug, Deserialize)]
struct Named {
    #[serde(alias = "project")]
    project_id: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct PlanQuery {
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn plan(
    State(api): State<Api>,
    Query(query): Query<PlanQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Planned>> {
    let kind = if query.dry_run { Kind::DryRun } else { Kind::Stored };
    let gateway = &api.gateway;
    let read = gateway.blocking(move |gateway| {
        let request: PlanRequest<'_> = parse(&body)?;
        check_key(request.idempotency_key.as_deref())?;
        if request.mode.as_ref().is_some_and(|mode| mode != "reviewed_plan") {
            return Err(Refusal::bad("BAD_FIELD", "mode is reviewed_plan or absent"));
        }
        let caller = Caller::read(gateway, &headers)?;
        caller.wallet()?;
        let Some(reference) = &request.manifest_ref else {
            let spec = Spec::parse(request.spec.get())?;
            return Ok((caller.owned(gateway, &spec.project_id)?, spec, request.required_plan));
        };
        let named: Named = parse(request.spec.get().as_bytes())?;
        let project = caller.owned(gateway, &named.project_id)?;
        let spec = gateway.referenced_spec(&project.id, reference)?;
        match spec.project_id == project.id {
            true => Ok((project, spec, request.required_plan)),
            false => Err(Refusal::spec("project_id", "the manifest is for another project")),
        }
    });
    let (project, spec, required_plan) = read.await?;
    let migrations = gateway.plan_database(&project.id, &spec).await?;
    let planned = gateway.blocking(move |gateway| {
        let planned = gateway.plan(&project, &spec, kind, &migrations)?;
        match &required_plan {
            Some(required) => check_required(gateway, required, &planned).map(|()| planned),
            None => Ok(planned),
        }
    });
    planned.await.map(Json)
}

/// The release is still the one that was approved.
fn check_required(gateway: &Gateway, required: &RequiredPlan, planned: &Planned) -> Result<()> {
    let approved =
        gateway.store().plan(&required.plan_id)?.ok_or_else(|| Refusal::not_found("plan", "PLAN_NOT_FOUND"))?;
    let same = planned.field("manifest_digest") == approved.digest
        && required.plan_fingerprint.as_ref().is_none_or(|fingerprint| *fingerprint == approved.digest);
    match same {
        true => Ok(()),
        false => Err(Refusal::conflict("REQUIRED_PLAN_MISMATCH", "this is not the release that was approved")),
    }
}

fn check_key(key: Option<&str>) -> Result<()> {
    match key {
        Some(key) if key.is_empty() || key.len() > MAX_KEY_BYTES => {
            Err(Refusal::bad("BAD_FIELD", "an idempotency key has 1 to 200 bytes"))
        }
        _ => Ok(()),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommitRequest {
    #[serde(default)]
    idempotency_key: Option<String>,
    // Was checked when the plan was made.
    #[serde(default, rename = "required_plan")]
    _required_plan: Option<RequiredPlan>,
}

pub(super) async fn commit(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let request: CommitRequest = if body.is_empty() { CommitRequest::default() } else { parse(&body)? };
    check_key(request.idempotency_key.as_deref())?;
    let plan = api.gateway.blocking(move |gateway| {
        let caller = Caller::read(gateway, &headers)?;
        caller.wallet()?;
        let plan = gateway.store().plan(&id)?.ok_or_else(|| Refusal::not_found("plan", "PLAN_NOT_FOUND"))?;
        caller.owned(gateway, &plan.project)?;
        Ok(plan)
    });
    let plan = plan.await?;
    let project = plan.project.clone();
    api.gateway.open_port(&project, &api.shutdown).await?;
    let snapshot = api.gateway.commit(plan, request.idempotency_key).await?;
    Ok(Json(snapshot))
}

#[derive(Debug, Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    cursor: Option<String>,
}

pub(super) async fn list(State(api): State<Api>, Query(page): Query<Page>, headers: HeaderMap) -> Answer {
    let limit = page.limit.unwrap_or(20).clamp(1, 100);
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.keyed()?;
        let mut found = gateway.store().operations(&project.id, page.cursor.as_deref(), limit + 1)?;
        let more = found.len() > limit;
        found.truncate(limit);
        let cursor = found.last().filter(|_| more).map(|last| last.id.clone());
        let operations = found.iter().map(|operation| gateway.snapshot(operation)).collect::<Result<Vec<_>>>()?;
        Ok(json!({"operations": operations, "cursor": cursor}))
    });
    answered.await
}

fn readable(gateway: &Gateway, caller: &Caller, id: &str) -> Result<OperationRecord> {
    let unknown = || {
        Refusal::deploy(StatusCode::NOT_FOUND, "OPERATION_NOT_FOUND", "read", "operation", "there is no such operation")
    };
    let operation = gateway.store().operation(id)?.ok_or_else(unknown)?;
    caller.reader(gateway, &operation.project)?;
    Ok(operation)
}

pub(super) async fn get(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    api.answer(headers, move |gateway, caller| gateway.snapshot(&readable(gateway, caller, &id)?)).await
}

pub(super) async fn events(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(page): Query<Page>,
    headers: HeaderMap,
) -> Answer {
    let limit = page.limit.unwrap_or(100).clamp(1, 500);
    let answered = api.answer(headers, move |gateway, caller| {
        readable(gateway, caller, &id)?;
        let after = page.cursor.as_deref().map_or(Ok(0), str::parse);
        let after = after.map_err(|_| Refusal::bad("BAD_FIELD", "a cursor is the number of an event"))?;
        let events = gateway.store().events(&id, after, limit)?;
        let cursor = events.last().filter(|_| events.len() == limit).map(|last| last["id"].clone());
        Ok(json!({"events": events, "cursor": cursor}))
    });
    answered.await
}

pub(super) async fn resume(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let operation = id.clone();
    let allowed = api.gateway.blocking(move |gateway| {
        let caller = Caller::read(gateway, &headers)?;
        caller.wallet()?;
        readable(gateway, &caller, &operation)
    });
    allowed.await?;
    Ok(Json(api.gateway.carry_on(&id).await?))
}
