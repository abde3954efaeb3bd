//! Assets as plans and lists tell of them: references for pages, and what a sync would take away.

use crate::deploy::encode;
use crate::error::{Refusal, Result};
use crate::gateway::Gateway;
use crate::release::{Manifest, is_below};
use crate::spec::{Asset, AssetSync, Assets};
use axum::http::StatusCode;
use run402::deploy::Digest;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Keys that an answer names.
const MAX_SAMPLE: usize = 20;

impl Gateway {
    /// `asset_entries`, `asset_deletes` and `asset_sync` of a plan.
    pub(crate) fn plan_assets(
        &self,
        project: &str,
        slice: &Assets,
        before: &Manifest,
        after: &Manifest,
        missing: &BTreeSet<Digest>,
    ) -> Value {
        let entry = |asset: &Asset| {
            let status = match (missing.contains(&asset.sha256), before.assets.get(&asset.key) == Some(asset)) {
                (true, _) => "upload_pending",
                (false, true) => "present",
                (false, false) => "satisfied_by_plan",
            };
            json!({"key": asset.key, "sha256": asset.sha256, "size_bytes": asset.size_bytes, "content_type": asset.content_type,
                "visibility": asset.visibility, "immutable": asset.immutable, "status": status,
                "asset_ref": self.asset_ref(project, asset)})
        };
        let gone: Vec<&String> = before.assets.keys().filter(|key| !after.assets.contains_key(*key)).collect();
        let mut planned =
            json!({"asset_entries": slice.put.iter().map(entry).collect::<Vec<_>>(), "asset_deletes": gone});
        if let Some(sync) = &slice.sync {
            let Drift { base_revision, delete_set_digest, pruned } = drift(sync, slice, before);
            planned["asset_sync"] = json!({"prefix": sync.prefix, "prune": sync.prune, "base_revision": base_revision,
                "delete_set_digest": delete_set_digest, "expected_delete_count": pruned.len(),
                "sample_keys": pruned.iter().take(MAX_SAMPLE).collect::<Vec<_>>(), "over_inline_threshold": pruned.len() > MAX_SAMPLE});
        }
        planned
    }

    /// What a page needs to refer to an asset.
    pub(crate) fn asset_ref(&self, project: &str, asset: &Asset) -> Value {
        let path: Vec<String> = asset.key.split('/').map(encode).collect();
        let url = format!("{}/assets/{project}/{}", self.base(), path.join("/"));
        let immutable = asset.immutable.then(|| format!("{url}?sha256={}", asset.sha256));
        json!({"key": asset.key, "sha256": asset.sha256, "size_bytes": asset.size_bytes, "content_type": asset.content_type,
            "visibility": asset.visibility, "url": url, "cdn_url": url, "immutable_url": immutable, "cdn_immutable_url": immutable,
            "sri": format!("sha256-{}", asset.sha256.base64()), "etag": format!("\"sha256-{}\"", asset.sha256),
            "content_digest": format!("sha-256=:{}:", asset.sha256.base64()), "metadata": asset.metadata})
    }
}

/// What a sync takes away, and on what it was decided.
struct Drift<'a> {
    base_revision: String,
    delete_set_digest: String,
    pruned: Vec<&'a String>,
}

fn drift<'a>(sync: &AssetSync, slice: &Assets, before: &'a Manifest) -> Drift<'a> {
    let kept: BTreeSet<&String> = slice.put.iter().map(|asset| &asset.key).collect();
    let below: Vec<&Asset> = before.assets.values().filter(|asset| is_below(&asset.key, &sync.prefix)).collect();
    let pruned: Vec<&String> = below.iter().map(|asset| &asset.key).filter(|key| !kept.contains(key)).collect();
    let of = |value: &Value| Digest::of(value.to_string().as_bytes()).to_string();
    let revision: Vec<_> = below.iter().map(|asset| json!([asset.key, asset.sha256])).collect();
    Drift { base_revision: of(&json!(revision)), delete_set_digest: of(&json!(pruned)), pruned }
}

/// Nothing is taken away but what the author has seen.
pub(crate) fn check_sync(slice: &Assets, before: &Manifest) -> Result<()> {
    let Some(sync) = &slice.sync else { return Ok(()) };
    let Drift { base_revision, delete_set_digest, pruned } = drift(sync, slice, before);
    let refuse = |code: &str, message: &str| {
        let refusal = Refusal::deploy(StatusCode::CONFLICT, code, "plan", "assets.sync", message);
        Err(refusal.detail("expected_delete_count", pruned.len().into()))
    };
    match &sync.confirm {
        None if pruned.is_empty() => Ok(()),
        None => {
            refuse("PRUNE_CONFIRMATION_REQUIRED", "the sync takes assets away: plan a dry run and confirm its numbers")
        }
        Some(confirm) => {
            let same = confirm.base_revision == base_revision
                && confirm.delete_set_digest == delete_set_digest
                && confirm.expected_delete_count == pruned.len();
            match same {
                true => Ok(()),
                false => {
                    refuse("ASSET_SYNC_DRIFT", "the assets have changed since the sync was confirmed; look at it again")
                }
            }
        }
    }
}
