//! Assets: single files under keys of their own, outside the site.

use super::{Rest, encoded_path, query};
use crate::client::{Auth, Client, Reply};
use crate::deploy::spec::{AssetPut, Assets, ExifPolicy, ReleaseSpec, Source, Visibility};
use crate::deploy::walk::Root;
use crate::deploy::{Deploy, Observer, Options, Progress, Released, content_type};
use crate::error::Error;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

const MAX_TEXT_BYTES: usize = 1 << 20;

/// One asset to be put.
#[derive(Debug)]
pub struct NewAsset {
    pub key: String,
    pub source: Source,
    /// Guessed from the key when `None`.
    pub content_type: Option<String>,
    pub visibility: Visibility,
    pub immutable: bool,
    pub metadata: Option<Value>,
    pub exif_policy: Option<ExifPolicy>,
}

/// Puts one asset. `root` is where file names start.
pub async fn release(
    client: &Client,
    project: &str,
    asset: NewAsset,
    root: Option<Root>,
    options: &Options,
    progress: &Arc<Progress>,
    observer: &dyn Observer,
) -> Result<Released, Error> {
    if matches!(&asset.source, Source::Text { text, .. } if text.len() > MAX_TEXT_BYTES) {
        return Err(Error::local("LOCAL_ERROR", "an asset given as a text has at most 1 MiB; put a file instead"));
    }
    let put = AssetPut {
        content_type: Some(asset.content_type.unwrap_or_else(|| content_type::of_asset(&asset.key).to_owned())),
        key: asset.key,
        source: asset.source,
        visibility: Some(asset.visibility),
        immutable: Some(asset.immutable),
        metadata: asset.metadata,
        exif_policy: asset.exif_policy,
    };
    let assets = Assets { put: Some(vec![put]), ..Assets::default() };
    let spec = ReleaseSpec { project: project.to_owned(), assets: Some(assets), ..ReleaseSpec::default() };
    Deploy::new(spec, root).apply(client, options, progress, observer).await
}

/// The gateway's reference to an asset that a release has put; null when it gave none.
pub fn reference(released: &Released, key: &str) -> Value {
    let entries = released.diff["asset_entries"].as_array();
    let entry = entries.into_iter().flatten().find(|entry| entry["key"] == json!(key));
    entry.map(|entry| entry["asset_ref"].clone()).unwrap_or_default()
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AssetRecord {
    pub key: String,
    #[serde(default)]
    pub size_bytes: Option<u64>,
    #[serde(default)]
    pub content_type: Option<String>,
    #[serde(flatten)]
    pub rest: Rest,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AssetPage {
    pub blobs: Vec<AssetRecord>,
    #[serde(default)]
    pub next_cursor: Option<String>,
}

pub async fn list(
    client: &Client,
    project: &str,
    prefix: Option<&str>,
    limit: Option<u32>,
    cursor: Option<&str>,
) -> Result<AssetPage, Error> {
    let query = query(&[
        ("prefix", prefix.map(str::to_owned)),
        ("limit", limit.map(|limit| limit.to_string())),
        ("cursor", cursor.map(str::to_owned)),
    ]);
    client.get(format!("/storage/v1/blobs{query}"), Auth::ServicePair(project)).receive("listing assets").await
}

/// The bytes as they are.
pub async fn get(client: &Client, project: &str, key: &str) -> Result<Reply, Error> {
    let path = format!("/storage/v1/blob/{}", encoded_path(key));
    client.get(path, Auth::ServicePair(project)).send("reading the asset").await
}

pub async fn delete(client: &Client, project: &str, key: &str) -> Result<Value, Error> {
    let path = format!("/storage/v1/blob/{}", encoded_path(key));
    Ok(client.delete(path, Auth::ServicePair(project)).send("deleting the asset").await?.value())
}

/// A URL that works for `ttl_seconds` (60 to 604800, an hour when `None`) without a key.
pub async fn sign(client: &Client, project: &str, key: &str, ttl_seconds: Option<u32>) -> Result<Value, Error> {
    if ttl_seconds.is_some_and(|ttl| !(60..=604_800).contains(&ttl)) {
        return Err(Error::local("LOCAL_ERROR", "a signed URL lives 60 to 604800 seconds"));
    }
    let path = format!("/storage/v1/blob/{}/sign", encoded_path(key));
    let body = match ttl_seconds {
        Some(ttl) => json!({"ttl_seconds": ttl}),
        None => json!({}),
    };
    let request = client.post(path, Auth::ServicePair(project)).json(&body)?;
    Ok(request.send("signing a URL of the asset").await?.value())
}

/// Which bytes the public URL of an asset serves at the moment.
pub async fn diagnose(client: &Client, project: &str, url: &str) -> Result<Value, Error> {
    let query = query(&[("url", Some(url.to_owned()))]);
    let path = format!("/storage/v1/blobs/diagnose{query}");
    Ok(client.get(path, Auth::ServicePair(project)).send("diagnosing the asset's URL").await?.value())
}
