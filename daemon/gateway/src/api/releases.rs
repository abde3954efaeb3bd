//! `/apply/v1/releases`, `/apply/v1/resolve`: what is live, what was, and why a URL answers as it does.

use super::{Answer, Api, parse};
use crate::auth::Caller;
use crate::deploy::{merge, summary};
use crate::error::{Refusal, Result};
use crate::gateway::Gateway;
use crate::ids;
use crate::release::{self, Manifest};
use crate::serve::resolve::{self, Found, Match};
use crate::spec::PublicPaths;
use crate::store::deploys::ReleaseRecord;
use crate::store::projects::Project;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

const DEFAULT_LIMIT: usize = 5000;

#[derive(Debug, Deserialize)]
pub(super) struct ReleaseQuery {
    #[serde(default)]
    site_limit: Option<usize>,
    // For `diff`.
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    limit: Option<usize>,
}

/// `active`, `diff`, or a release by its id.
pub(super) async fn get(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(query): Query<ReleaseQuery>,
    headers: HeaderMap,
) -> Answer {
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.keyed()?;
        if id == "diff" {
            return diff(gateway, &project, &query);
        }
        let found = match id.as_str() {
            "active" => gateway.store().live_release(&project.id)?,
            id => Some(find(gateway, &project, id)?),
        };
        inventory(gateway, &project, found.as_ref(), query.site_limit.unwrap_or(DEFAULT_LIMIT))
    });
    answered.await
}

fn find(gateway: &Gateway, project: &Project, id: &str) -> Result<ReleaseRecord> {
    gateway.store().release(&project.id, id)?.ok_or_else(|| Refusal::not_found("release", "RELEASE_NOT_FOUND"))
}

fn inventory(gateway: &Gateway, project: &Project, found: Option<&ReleaseRecord>, limit: usize) -> Result<Value> {
    let empty = Manifest::default();
    let manifest = found.map_or(&empty, |release| &release.manifest);
    let paths: Vec<Value> = manifest
        .site
        .iter()
        .take(limit)
        .map(|(path, content)| json!({"path": path, "content_sha256": content.sha256, "content_type": content.content_type}))
        .collect();
    let function = |(name, function): (&String, &crate::spec::Function)| {
        json!({"name": name, "code_hash": function.code_hash(), "runtime": function.runtime, "timeout_seconds": function.timeout_seconds(),
            "memory_mb": function.memory_mb(), "schedule": function.schedule, "triggers": function.triggers})
    };
    let route = |route: &crate::spec::Route| {
        let kind = if route.prefix().is_some() { "prefix" } else { "exact" };
        json!({"pattern": route.pattern, "kind": kind, "prefix": route.prefix(), "methods": route.methods, "target": route.target})
    };
    let public: Vec<Value> = match &manifest.public_paths {
        Some(PublicPaths::Explicit { replace }) => replace
            .iter()
            .map(|(path, public)| json!({"public_path": path, "asset_path": public.asset, "reachability_authority": "explicit_public_path",
                "direct": true, "cache_class": public.cache_class, "content_type": manifest.site.get(&public.asset).and_then(|c| c.content_type.clone())}))
            .collect(),
        _ => Vec::new(),
    };
    let metadata = found.map(|_| {
        json!({"file_count": manifest.site.len(), "total_bytes": manifest.total_bytes(), "cache_classes": {},
        "cache_class_sources": {}, "spa_fallback": manifest.site.contains_key("index.html").then_some("index.html")})
    });
    let mut body = json!({
        "kind": "release_inventory", "schema_version": "agent-deploy-observability.v1", "project_id": project.id,
        "effective": true, "state_kind": if found.is_some_and(|release| release.status == "active") { "current_live" } else { "desired_manifest" },
        "release_generation": found.map(|release| release.generation), "static_manifest_sha256": found.map(|release| &release.digest),
        "static_manifest_metadata": metadata, "site": {"paths": paths, "totals": {"paths": manifest.site.len()}},
        "static_public_paths": public, "functions": manifest.functions.iter().map(function).collect::<Vec<_>>(),
        "secrets": {"keys": gateway.store().secret_keys(&project.id)?}, "subdomains": {"names": manifest.subdomains},
        "routes": {"manifest_sha256": found.map(|_| manifest.routes_digest()), "entries": manifest.routes.iter().map(route).collect::<Vec<_>>()},
        "migrations_applied": manifest.migrations.iter().map(|(id, sum)| json!({"migration_id": id, "checksum_hex": sum})).collect::<Vec<_>>(),
        "i18n": manifest.i18n, "warnings": [],
    });
    let fields = match found {
        Some(release) => json!({"release_id": release.id, "parent_id": release.parent, "status": release.status,
            "manifest_digest": release.digest, "created_at": release.created_at, "created_by": project.owner, "activated_at": release.created_at,
            "superseded_at": release.superseded_at, "operation_id": release.operation, "plan_id": release.plan,
            "events_url": format!("/apply/v1/operations/{}/events", release.operation)}),
        None => {
            json!({"release_id": null, "parent_id": null, "status": null, "manifest_digest": null, "created_at": null,
            "activated_at": null, "superseded_at": null, "operation_id": null, "plan_id": null, "events_url": null})
        }
    };
    merge(&mut body, fields);
    Ok(body)
}

fn diff(gateway: &Gateway, project: &Project, query: &ReleaseQuery) -> Result<Value> {
    let side = |name: &str, given: Option<&String>| match given.map(String::as_str) {
        None => Err(Refusal::bad("BAD_FIELD", format!("{name} is missing"))),
        Some("empty") => Ok((None, Arc::default())),
        Some("active") => {
            let live = gateway.store().live_release(&project.id)?;
            Ok(live.map_or_else(|| (None, Arc::default()), |release| (Some(release.id), release.manifest)))
        }
        Some(id) => find(gateway, project, id).map(|release| (Some(release.id), release.manifest)),
    };
    let (from_id, from) = side("from", query.from.as_ref())?;
    let (to_id, to) = side("to", query.to.as_ref())?;
    let mut body = release::diff(&from, &to, query.limit.unwrap_or(DEFAULT_LIMIT));
    let said = summary(&body, from == to);
    let applied: Vec<&String> = to.migrations.keys().filter(|id| !from.migrations.contains_key(*id)).collect();
    merge(
        &mut body,
        json!({"kind": "release_diff", "schema_version": "agent-deploy-observability.v1", "from_release_id": from_id,
        "to_release_id": to_id, "is_noop": from == to, "summary": said, "warnings": [], "migrations": {"applied_between_releases": applied}}),
    );
    Ok(body)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PromoteRequest {
    project: String,
    #[serde(default)]
    allow_warning_codes: Vec<String>,
}

pub(super) async fn promote(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let request: PromoteRequest = parse(&body)?;
    let lock = api.gateway.commit_lock(&request.project);
    let _held = lock.lock().await;
    let gateway = &api.gateway;
    let checked = gateway.blocking(move |gateway| check_promotion(gateway, &headers, &request, &id));
    let (project, before, target) = checked.await?;
    // Its tables as it exposed them; what migrations did since stays.
    if let Some(expose) = target.manifest.expose.as_ref().filter(|expose| before.expose.as_ref() != Some(*expose)) {
        gateway.database()?.apply(&project, &[], Some(expose)).await?;
    }
    let promoted = gateway.blocking(move |gateway| {
        let (previous, operation) = gateway.store().promote(&project, &target.id)?;
        Ok(json!({"status": "ok", "release_id": target.id, "operation_id": operation, "previous_release_id": previous,
            "diff": release::diff(&before, &target.manifest, DEFAULT_LIMIT), "warnings": []}))
    });
    promoted.await.map(Json)
}

/// The project, what is live in it, and the release that is to be.
fn check_promotion(
    gateway: &Gateway,
    headers: &HeaderMap,
    request: &PromoteRequest,
    id: &str,
) -> Result<(String, Arc<Manifest>, ReleaseRecord)> {
    const CODE: &str = "MIGRATIONS_NOT_REVERSIBLE";
    let project = Caller::read(gateway, headers)?.owned(gateway, &request.project)?;
    let target = gateway.store().release(&project.id, id)?;
    let target = target.ok_or_else(|| Refusal::not_found("release", "PROMOTE_TARGET_NOT_FOUND"))?;
    if project.live_release.as_deref() == Some(id) {
        return Err(Refusal::conflict("PROMOTE_NO_OP", "this release is live already"));
    }
    let before = gateway.store().live_release(&project.id)?.map(|release| release.manifest).unwrap_or_default();
    let kept = before.migrations.keys().any(|id| !target.manifest.migrations.contains_key(id));
    if kept && !request.allow_warning_codes.iter().any(|code| code == CODE) {
        let message = "migrations that were applied since are not taken back; allow MIGRATIONS_NOT_REVERSIBLE to go on";
        return Err(Refusal::conflict("PROMOTE_WARNING_REQUIRES_ACK", message).detail("codes", json!([CODE])));
    }
    Ok((project.id, before, target))
}

#[derive(Debug, Deserialize)]
pub(super) struct ResolveQuery {
    host: String,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    method: Option<String>,
}

pub(super) async fn resolve(State(api): State<Api>, Query(query): Query<ResolveQuery>, headers: HeaderMap) -> Answer {
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.keyed()?;
        let label = query.host.strip_suffix(".localhost");
        let shown = match label {
            Some(label) => gateway.store().by_label(label)?,
            // A port of its own has no name of its own: the project whose key was shown.
            None if query.host == gateway.address().ip().to_string() => Some(project.clone()),
            None => None,
        };
        let path = query.path.unwrap_or_else(|| "/".to_owned());
        let method = query.method.unwrap_or_else(|| "GET".to_owned()).to_uppercase();
        let base = json!({"hostname": query.host, "authorized": true, "authorization_result": "authorized", "method": method,
            "checked_at": ids::now()});
        let Some(shown) = shown else { return Ok(missing(base, "host_missing")) };
        if shown.id != project.id {
            return Err(Refusal::unknown_project());
        }
        let Some(live) = gateway.store().live_release(&shown.id)? else { return Ok(missing(base, "active_release_missing")) };
        let found = resolve::resolve(&live.manifest, &method, &path, true);
        Ok(described(base, &live, &found))
    });
    answered.await
}

fn missing(mut base: Value, matched: &str) -> Value {
    merge(
        &mut base,
        json!({"match": matched, "result": 404, "fallback_state": "not_used", "normalized_path": null, "asset_path": null,
        "static_sha256": null, "content_type": null, "cache_class": null, "route": null, "allow": [], "release_id": null}),
    );
    base
}

fn described(mut base: Value, live: &ReleaseRecord, found: &Found) -> Value {
    let content = found.file.as_ref().and_then(|file| live.manifest.site.get(file));
    let fallback = if found.matched == Match::SpaFallback { "used" } else { "not_used" };
    merge(
        &mut base,
        json!({
            "match": found.matched.name(), "result": found.status, "fallback_state": fallback, "normalized_path": found.path,
            "asset_path": found.file, "static_sha256": content.map(|content| content.sha256),
            "content_type": content.and_then(|content| content.content_type.clone()),
            "cache_class": found.file.as_deref().map(|file| resolve::cache_class(file).name()), "route": found.route, "allow": found.allow,
            "release_id": live.id, "cas_object": content.map(|content| json!({"sha256": content.sha256, "exists": true})),
        }),
    );
    base
}
