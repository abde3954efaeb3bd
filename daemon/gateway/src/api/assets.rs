//! Assets of the live release, by key.

use super::{Answer, Api};
use crate::auth::Caller;
use crate::error::{Refusal, Result};
use crate::serve::respond::{self, CacheClass, Stored};
use crate::spec::Asset;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    cursor: Option<String>,
}

pub(super) async fn list(State(api): State<Api>, Query(page): Query<Page>, headers: HeaderMap) -> Answer {
    let limit = page.limit.unwrap_or(100).clamp(1, 1000);
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.any_served()?;
        let live = gateway.store().live_release(&project.id)?;
        let assets = live.iter().flat_map(|release| release.manifest.assets.values().map(move |asset| (release, asset)));
        let after = |key: &str| page.cursor.as_deref().is_none_or(|cursor| key > cursor);
        let mut found: Vec<_> =
            assets.filter(|(_, asset)| asset.key.starts_with(&page.prefix) && after(&asset.key)).take(limit + 1).collect();
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|(_, asset)| asset.key.clone());
        let entry = |(release, asset): &(&crate::store::deploys::ReleaseRecord, &Asset)| {
            json!({"key": asset.key, "size_bytes": asset.size_bytes, "content_type": asset.content_type, "visibility": asset.visibility,
                "created_at": release.created_at, "metadata": asset.metadata, "sha256": asset.sha256})
        };
        Ok(json!({"blobs": found.iter().map(entry).collect::<Vec<Value>>(), "next_cursor": next}))
    });
    answered.await
}

async fn find(api: &Api, project: String, key: String) -> Result<Asset> {
    let found = api.gateway.blocking(move |gateway| {
        let live = gateway.store().live_release(&project)?;
        Ok(live.and_then(|release| release.manifest.assets.get(&key).cloned()))
    });
    found.await?.ok_or_else(|| Refusal::not_found("asset", "ASSET_NOT_FOUND"))
}

async fn send(api: &Api, asset: &Asset, method: &Method, headers: &HeaderMap, cache: CacheClass) -> Result<Response> {
    let stored =
        Stored { digest: asset.sha256, size: asset.size_bytes, content_type: asset.content_type.clone(), cache };
    let mut response = respond::content(&api.gateway, &stored, method, headers, axum::http::StatusCode::OK).await?;
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
    let asked = headers.clone();
    let project = api.gateway.blocking(move |gateway| Caller::read(gateway, &asked)?.any_served()).await?;
    let asset = find(&api, project.id, key).await?;
    send(&api, &asset, &method, &headers, CacheClass::Private).await
}

#[derive(Debug, Deserialize)]
pub(super) struct Version {
    #[serde(default)]
    sha256: Option<String>,
}

pub(super) async fn public(
    State(api): State<Api>,
    Path((project, key)): Path<(String, String)>,
    Query(version): Query<Version>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response> {
    let asset = find(&api, project, key).await?;
    let wanted = version.sha256.is_none_or(|wanted| wanted == asset.sha256.to_string());
    if asset.visibility != "public" || !wanted {
        return Err(Refusal::not_found("asset", "ASSET_NOT_FOUND"));
    }
    send(&api, &asset, &method, &headers, CacheClass::Short).await
}
