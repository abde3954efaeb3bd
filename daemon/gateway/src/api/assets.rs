//! Assets of the live release, by key.
//!
//! They are read by whoever has the service key; by everybody, when they are public; and by whoever has a
//! signed URL, until its time has run out. Taking one away is a release of its own.

use super::{Answer, Api, parse};
use crate::auth::Caller;
use crate::deploy::encode;
use crate::error::{Refusal, Result};
use crate::gateway::Gateway;
use crate::ids;
use crate::serve::respond::{self, CacheClass, Stored};
use crate::spec::Asset;
use crate::store::deploys::ReleaseRecord;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use subtle::ConstantTimeEq;
use time::{Duration, OffsetDateTime};

const DEFAULT_TTL_SECONDS: u32 = 3600;
const MAX_TTL_SECONDS: u32 = 604_800;
const MIN_TTL_SECONDS: u32 = 60;

#[derive(Debug, Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    sort: Option<String>,
    #[serde(flatten)]
    rest: HashMap<String, String>,
}

pub(super) async fn list(State(api): State<Api>, Query(page): Query<Page>, headers: HeaderMap) -> Answer {
    if page.sort.as_ref().is_some_and(|sort| sort != "key:asc") {
        return Err(Refusal::not_here("this gateway lists assets by key only: sort=key:asc"));
    }
    if let Some(name) = page.rest.keys().find(|name| name.starts_with("filter[")) {
        return Err(Refusal::not_here(format!("this gateway does not know {name}: filter by prefix")));
    }
    let limit = page.limit.unwrap_or(100).clamp(1, 1000);
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.any_served()?;
        let live = gateway.store().live_release(&project.id)?;
        let assets = live.iter().flat_map(|release| release.manifest.assets.values().map(move |asset| (release, asset)));
        let after = |key: &str| page.cursor.as_deref().is_none_or(|cursor| key > cursor);
        let matching = assets.filter(|(_, asset)| asset.key.starts_with(&page.prefix) && after(&asset.key));
        let mut found: Vec<_> = matching.take(limit + 1).collect();
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|(_, asset)| asset.key.clone());
        let entry = |(release, asset): &(&ReleaseRecord, &Asset)| {
            json!({"key": asset.key, "size_bytes": asset.size_bytes, "content_type": asset.content_type, "visibility": asset.visibility,
                "created_at": release.created_at, "metadata": asset.metadata, "sha256": asset.sha256})
        };
        Ok(json!({"blobs": found.iter().map(entry).collect::<Vec<Value>>(), "next_cursor": next}))
    });
    answered.await
}

fn find(gateway: &Gateway, project: &str, key: &str) -> Result<Asset> {
    let live = gateway.store().live_release(project)?;
    let asset = live.and_then(|release| release.manifest.assets.get(key).cloned());
    asset.ok_or_else(|| Refusal::not_found("asset", "ASSET_NOT_FOUND"))
}

/// The project whose service key was shown, and its asset.
async fn served(api: &Api, key: String, headers: HeaderMap) -> Result<(String, Asset)> {
    let found = api.gateway.blocking(move |gateway| {
        let project = Caller::read(gateway, &headers)?.any_served()?;
        find(gateway, &project.id, &key).map(|asset| (project.id, asset))
    });
    found.await
}

async fn send(api: &Api, asset: &Asset, method: &Method, headers: &HeaderMap, cache: CacheClass) -> Result<Response> {
    let stored =
        Stored { digest: asset.sha256, size: asset.size_bytes, content_type: asset.content_type.clone(), cache };
    let mut response = respond::content(&api.gateway, &stored, method, headers, StatusCode::OK).await?;
    let digest = HeaderValue::from_str(&asset.sha256.to_string()).map_err(Refusal::internal)?;
    response.headers_mut().insert("x-run402-sha256", digest);
    // Somebody else's upload must not run as a page of this origin.
    response.headers_mut().insert("content-security-policy", HeaderValue::from_static("sandbox"));
    Ok(response)
}

pub(super) async fn get(
    State(api): State<Api>,
    Path(key): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response> {
    let (_, asset) = served(&api, key, headers.clone()).await?;
    send(&api, &asset, &method, &headers, CacheClass::Private).await
}

pub(super) async fn delete(State(api): State<Api>, Path(key): Path<String>, headers: HeaderMap) -> Answer {
    let project = api.gateway.blocking(move |gateway| Caller::read(gateway, &headers)?.any_served()).await?;
    let lock = api.gateway.commit_lock(&project.id);
    let _held = lock.lock().await;
    let (id, wanted) = (project.id, key.clone());
    let found = api.gateway.blocking(move |gateway| {
        find(gateway, &id, &wanted)?;
        // As it is now that nobody else changes it.
        gateway.store().project(&id)?.ok_or_else(Refusal::unknown_project)
    });
    let project = found.await?;
    let spec = json!({"project_id": project.id, "assets": {"delete": [key]}});
    api.gateway.apply_now(project, spec).await?;
    Ok(Json(json!({"status": "deleted", "key": key})))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignRequest {
    #[serde(default)]
    ttl_seconds: Option<u32>,
}

/// `POST /storage/v1/blob/<key>/sign`. A key that ends in `/sign` itself is signed at `<key>/sign` as well.
pub(super) async fn sign(State(api): State<Api>, Path(path): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let key = path.strip_suffix("/sign").ok_or_else(|| Refusal::not_found("endpoint", "NOT_FOUND"))?.to_owned();
    let request: SignRequest = if body.is_empty() { SignRequest::default() } else { parse(&body)? };
    let ttl = request.ttl_seconds.unwrap_or(DEFAULT_TTL_SECONDS);
    if !(MIN_TTL_SECONDS..=MAX_TTL_SECONDS).contains(&ttl) {
        return Err(Refusal::bad("BAD_FIELD", format!("ttl_seconds is {MIN_TTL_SECONDS} to {MAX_TTL_SECONDS}")));
    }
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.any_served()?;
        let asset = find(gateway, &project.id, &key)?;
        let expires = OffsetDateTime::now_utc() + Duration::seconds(ttl.into());
        let seconds = expires.unix_timestamp();
        let signature = gateway.store().sign(&["asset", &project.id, &asset.key, &seconds.to_string()])?;
        let url = format!("{}?expires={seconds}&signature={signature}", public_url(gateway, &project.id, &asset.key));
        Ok(json!({"signed_url": url, "expires_at": ids::iso(expires), "expires_in": ttl}))
    });
    answered.await
}

fn public_url(gateway: &Gateway, project: &str, key: &str) -> String {
    let path: Vec<String> = key.split('/').map(encode).collect();
    format!("{}/assets/{project}/{}", gateway.base(), path.join("/"))
}

#[derive(Debug, Deserialize)]
pub(super) struct Version {
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    expires: Option<i64>,
    #[serde(default)]
    signature: Option<String>,
}

pub(super) async fn public(
    State(api): State<Api>,
    Path((project, key)): Path<(String, String)>,
    Query(version): Query<Version>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response> {
    let found = api.gateway.blocking(move |gateway| {
        let asset = find(gateway, &project, &key);
        let allowed = match (version.expires, &version.signature) {
            (Some(expires), Some(given)) => {
                let good = gateway.store().sign(&["asset", &project, &key, &expires.to_string()])?;
                bool::from(good.as_bytes().ct_eq(given.as_bytes()))
                    && expires > OffsetDateTime::now_utc().unix_timestamp()
            }
            _ => asset.as_ref().is_ok_and(|asset| asset.visibility == "public"),
        };
        let asset = asset?;
        let wanted = version.sha256.is_none_or(|wanted| wanted == asset.sha256.to_string());
        match allowed && wanted {
            true => Ok(asset),
            // Whether there is one is not said.
            false => Err(Refusal::not_found("asset", "ASSET_NOT_FOUND")),
        }
    });
    let asset = found.await?;
    let cache = if asset.visibility == "public" { CacheClass::Short } else { CacheClass::Private };
    send(&api, &asset, &method, &headers, cache).await
}

#[derive(Debug, Deserialize)]
pub(super) struct Diagnosed {
    url: String,
}

/// What a public URL answers with. There is no cache between here and a reader that could be behind.
pub(super) async fn diagnose(State(api): State<Api>, Query(asked): Query<Diagnosed>, headers: HeaderMap) -> Answer {
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.any_served()?;
        let ours = format!("{}/assets/", gateway.base());
        let rest = asked.url.strip_prefix(&ours).ok_or_else(|| {
            Refusal::bad("FOREIGN_HOST", format!("this URL is not one of an asset here: those start with {ours}"))
        })?;
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        let (owner, key) = path.split_once('/').ok_or_else(|| Refusal::bad("BAD_FIELD", "the URL names no asset"))?;
        if owner != project.id {
            return Err(Refusal::unknown_project());
        }
        let key = percent_encoding::percent_decode_str(key).decode_utf8();
        let key = key.map_err(|_| Refusal::bad("BAD_FIELD", "the URL is not UTF-8"))?;
        let asset = find(gateway, &project.id, &key)?;
        let pinned = asked.url.contains("?sha256=");
        Ok(json!({"project_id": project.id, "key": asset.key, "expected_sha256": asset.sha256, "observed_sha256": asset.sha256,
            "vantage": "gateway", "probe_method": "store", "accept_encoding": null, "observed_at": ids::now(),
            "probe_may_have_warmed_cache": false, "canonical_url": public_url(gateway, &project.id, &asset.key),
            "path_kind": if pinned { "blob-immutable" } else { "blob-mutable" },
            "cache": {"x_cache": null, "age_seconds": 0, "cache_kind": if pinned { "immutable" } else { "mutable" }},
            "invalidation": {"id": null, "status": null}, "hint": null}))
    });
    answered.await
}
