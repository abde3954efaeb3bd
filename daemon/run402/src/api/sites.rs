//! `deploy_site`, `deploy_site_dir`: a static site as the whole release's site.

use crate::client::Client;
use crate::deploy::spec::{Directory, Files, ReleaseSpec, Site, Source};
use crate::deploy::walk::Root;
use crate::deploy::{Deploy, Observer, Options, Progress, Released};
use crate::error::Error;
use indexmap::IndexMap;
use serde::Serialize;
use std::sync::Arc;

/// Where the site is, and what was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeployedSite {
    pub deployment_id: String,
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_uploaded: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
}

impl From<&Released> for DeployedSite {
    fn from(released: &Released) -> Self {
        let assets = &released.diff["static_assets"];
        let new = assets["newly_uploaded_cas_bytes"].as_u64();
        let reused = assets["reused_cas_bytes"].as_u64();
        Self {
            deployment_id: released.deployment_id().to_owned(),
            url: released.url().unwrap_or_default().to_owned(),
            bytes_uploaded: new.and(reused).and(new),
            bytes_total: new.zip(reused).map(|(new, reused)| new + reused),
        }
    }
}

/// Every file of a directory becomes the site.
pub async fn release_dir(
    client: &Client,
    project: &str,
    root: Root,
    options: &Options,
    progress: &Arc<Progress>,
    observer: &dyn Observer,
) -> Result<Released, Error> {
    let spec = site(project, Files::Directory(Directory::new(".")));
    Deploy::new(spec, Some(root)).apply(client, options, progress, observer).await
}

/// The listed files become the site.
pub async fn release(
    client: &Client,
    project: &str,
    files: IndexMap<String, Source>,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Released, Error> {
    let spec = site(project, Files::Listed(files));
    Deploy::new(spec, None).apply(client, options, &Arc::default(), observer).await
}

fn site(project: &str, files: Files) -> ReleaseSpec {
    let site = Site { replace: Some(files), ..Site::default() };
    ReleaseSpec { project: project.to_owned(), site: Some(site), ..ReleaseSpec::default() }
}
