//! Directories of assets: put as they are, or made equal to what is there under a prefix.
//!
//! A key is the prefix, a slash, and the path within the directory. Each is one deploy with many puts.

use crate::client::Client;
use crate::deploy::spec::{AssetPut, Assets, ReleaseSpec, Source, Visibility};
use crate::deploy::walk::{self, Filter, Root};
use crate::deploy::{Deploy, Observer, Options, Progress, content_type};
use crate::error::Error;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// A directory beneath a root, and what its files become.
#[derive(Debug, Clone)]
pub struct AssetDirectory {
    pub path: PathBuf,
    /// Slashes around it do not count; empty: keys are paths within the directory.
    pub prefix: String,
    pub filter: Filter,
    pub visibility: Visibility,
    pub immutable: bool,
}

impl AssetDirectory {
    /// Public and immutable, as single assets are when nothing else is said.
    pub fn new(path: impl Into<PathBuf>, prefix: impl Into<String>) -> Self {
        let filter = Filter::default();
        Self { path: path.into(), prefix: prefix.into(), filter, visibility: Visibility::Public, immutable: true }
    }

    fn prefix(&self) -> &str {
        self.prefix.trim_matches('/')
    }

    fn put(&self, path: String) -> AssetPut {
        let key = match self.prefix() {
            "" => path.clone(),
            prefix => format!("{prefix}/{path}"),
        };
        AssetPut {
            content_type: Some(content_type::of_asset(&key).to_owned()),
            key,
            source: Source::File { path: self.path.join(path), content_type: None },
            visibility: Some(self.visibility),
            immutable: Some(self.immutable),
            metadata: None,
            exif_policy: None,
        }
    }
}

/// What a sync would delete, as it was shown to whoever agreed to it. The gateway refuses it when anything
/// has changed since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneConfirmation {
    pub base_revision: String,
    pub delete_set_digest: String,
    pub expected_delete_count: u64,
}

/// Puts every file; nothing is deleted. The answer is the gateway's reference to each, by its key.
pub async fn upload_dir(
    client: &Client,
    project: &str,
    directory: AssetDirectory,
    root: Root,
    options: &Options,
    progress: &Arc<Progress>,
    observer: &dyn Observer,
) -> Result<Vec<Value>, Error> {
    let (deploy, _) = deploy_of(project, directory, root, None).await?;
    let released = deploy.apply(client, options, progress, observer).await?;
    Ok(entries(&released.diff))
}

/// Puts every file and deletes what else is under the prefix. Without `confirm` nothing is changed: the error
/// `PRUNE_CONFIRMATION_REQUIRED` carries in its details what has to be confirmed.
#[expect(clippy::too_many_arguments, reason = "what every deploy takes, and the confirmation")]
pub async fn sync_dir(
    client: &Client,
    project: &str,
    directory: AssetDirectory,
    root: Root,
    confirm: Option<&PruneConfirmation>,
    options: &Options,
    progress: &Arc<Progress>,
    observer: &dyn Observer,
) -> Result<Vec<Value>, Error> {
    if directory.prefix().is_empty() {
        let message = "a sync deletes what is not in the directory, so it needs a prefix to stay beneath";
        return Err(Error::local("LOCAL_ERROR", message));
    }
    let mut sync = json!({"prefix": directory.prefix(), "prune": true});
    if let Some(confirm) = confirm {
        sync["confirm"] = json!(confirm);
    }
    let (deploy, prefix) = deploy_of(project, directory, root, Some(sync)).await?;
    if confirm.is_none() {
        let plan = deploy.dry_run(client, options, progress).await?;
        let sync = plan.diff["asset_sync"].clone();
        let count = sync["expected_delete_count"].as_u64().unwrap_or_default();
        let message = format!("{count} assets under {prefix} are not in the directory and would be deleted");
        return Err(Error::local("PRUNE_CONFIRMATION_REQUIRED", message).with_details(sync));
    }
    let released = deploy.apply(client, options, progress, observer).await?;
    Ok(entries(&released.diff))
}

/// The deploy, and the prefix.
async fn deploy_of(
    project: &str,
    directory: AssetDirectory,
    root: Root,
    sync: Option<Value>,
) -> Result<(Deploy, String), Error> {
    let prefix = directory.prefix().to_owned();
    let (root, put) = tokio::task::spawn_blocking(move || {
        let mut put = Vec::new();
        walk::walk(&root.beneath(&directory.path)?, &directory.filter, &mut |batch| {
            put.extend(batch.files.into_iter().map(|(_, path)| directory.put(path)));
            true
        })?;
        Ok::<_, Error>((root, put))
    })
    .await
    .expect("walking does not panic")?;
    if put.is_empty() {
        return Err(Error::local("LOCAL_ERROR", "the directory holds no file that could be an asset"));
    }
    let assets = Assets { put: Some(put), sync, ..Assets::default() };
    let spec = ReleaseSpec { project: project.to_owned(), assets: Some(assets), ..ReleaseSpec::default() };
    Ok((Deploy::new(spec, Some(root)), prefix))
}

fn entries(diff: &Value) -> Vec<Value> {
    let entries = diff["asset_entries"].as_array().cloned().unwrap_or_default();
    entries.into_iter().map(|entry| json!({"key": entry["key"], "asset_ref": entry["asset_ref"]})).collect()
}
