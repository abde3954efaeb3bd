//! `/projects/v1`: projects of a wallet.

use super::account::organization;
use super::{Answer, Api, parse};
use crate::auth::Caller;
use crate::error::{Refusal, Result};
use crate::gateway::Gateway;
use crate::ids;
use crate::store::projects::Project;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) const TIERS: [&str; 3] = ["prototype", "hobby", "team"];
const MAX_NAME_CHARS: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateRequest {
    #[serde(default)]
    tier: Option<String>,
    #[serde(default)]
    name: Option<String>,
    // There are no organizations here.
    #[serde(default, rename = "org_id")]
    _org_id: Option<String>,
}

fn check_name(name: &str) -> Result<()> {
    let count = name.chars().count();
    match count > 0 && count <= MAX_NAME_CHARS && !name.chars().any(char::is_control) {
        true => Ok(()),
        false => Err(Refusal::bad("BAD_FIELD", "a name has 1 to 100 printable characters")),
    }
}

pub(super) fn check_tier(tier: &str) -> Result<()> {
    match TIERS.contains(&tier) {
        true => Ok(()),
        false => Err(Refusal::bad("BAD_FIELD", format!("a tier is one of {}", TIERS.join(", ")))),
    }
}

/// Costs nothing here.
pub(super) async fn create(State(api): State<Api>, headers: HeaderMap, body: Bytes) -> Answer {
    let request: CreateRequest = if body.is_empty() { CreateRequest::default() } else { parse(&body)? };
    let tier = request.tier.unwrap_or_else(|| "prototype".to_owned());
    check_tier(&tier)?;
    let name = request.name.unwrap_or_else(|| "project".to_owned());
    check_name(&name)?;
    let (anon, service) = (ids::secret("anon_"), ids::secret("service_"));
    let keys = (anon.clone(), service.clone());
    let made = api.gateway.blocking(move |gateway| {
        let caller = Caller::read(gateway, &headers)?;
        gateway.store().create_project(&name, caller.wallet()?, &tier, &keys.0, &keys.1)
    });
    let project = made.await?;
    let schema = match api.gateway.config().database.as_deref() {
        None => None,
        Some(database) => match database.create_project(&project.id).await {
            Ok(schema) => Some(schema),
            Err(fault) => {
                // Nobody knows its keys yet.
                api.gateway.blocking(move |gateway| gateway.store().delete_project(&project.id)).await?;
                return Err(fault.into());
            }
        },
    };
    let base = api.gateway.base();
    Ok(Json(json!({
        "project_id": project.id, "anon_key": anon, "service_key": service, "schema_slot": schema,
        "endpoints": {"rest_url": format!("{base}/rest/v1"), "static_base_url": format!("{base}/sites/{}", project.id),
            "storage_base_url": format!("{base}/storage/v1")},
    })))
}

fn describe(gateway: &Gateway, project: &Project) -> Value {
    let urls = gateway.site_urls(project, None);
    let site = project.live_release.as_ref().map(|_| urls.own);
    json!({
        "project_id": project.id, "name": project.name, "tier": project.tier, "site_url": site,
        "custom_domains": [], "status": "active", "effective_status": "active", "organization_lifecycle_state": "active",
        "org_id": organization(&project.owner), "created_at": project.created_at,
    })
}

#[derive(Debug, Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    after: Option<String>,
}

pub(super) async fn list(State(api): State<Api>, Query(page): Query<Page>, headers: HeaderMap) -> Answer {
    let limit = page.limit.unwrap_or(50).clamp(1, 200);
    let answered = api.answer(headers, move |gateway, caller| {
        let mut found = gateway.store().projects_of(caller.wallet()?, page.after.as_deref(), limit + 1)?;
        let has_more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| has_more).map(|last| last.id.clone());
        let projects: Vec<Value> = found.iter().map(|project| describe(gateway, project)).collect();
        Ok(json!({"projects": projects, "has_more": has_more, "next_cursor": next, "scope": "wallet"}))
    });
    answered.await
}

pub(super) async fn get(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    api.answer(headers, move |gateway, caller| Ok(describe(gateway, &caller.owned(gateway, &id)?))).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RenameRequest {
    name: String,
}

pub(super) async fn rename(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let RenameRequest { name } = parse(&body)?;
    check_name(&name)?;
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.owned(gateway, &id)?;
        gateway.store().rename_project(&project.id, &name)?;
        Ok(describe(gateway, &Project { name, ..project }))
    });
    answered.await
}

pub(super) async fn delete(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let project = api.gateway.blocking(move |gateway| Caller::read(gateway, &headers)?.served(&id)).await?;
    // Not while a release of it is being made live.
    let lock = api.gateway.commit_lock(&project.id);
    let _held = lock.lock().await;
    // The tables first: as long as the project is there, its owner can try again.
    if let Some(database) = api.gateway.config().database.as_deref() {
        database.drop_project(&project.id).await?;
    }
    let id = project.id.clone();
    let deleted = api.gateway.blocking(move |gateway| {
        gateway.logs().forget(&id)?;
        gateway.store().delete_project(&id)
    });
    deleted.await?;
    Ok(Json(json!({"status": "deleted", "project_id": project.id})))
}

pub(super) async fn usage(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.served(&id)?;
        let bytes = gateway.store().stored_bytes(&project.id)?;
        Ok(json!({"project_id": project.id, "tier": project.tier, "api_calls": 0, "api_calls_limit": null, "storage_bytes": bytes,
            "storage_limit_bytes": null, "effective_status": "active", "organization_lifecycle_state": "active"}))
    });
    answered.await
}
