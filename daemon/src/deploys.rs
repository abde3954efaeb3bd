//! The way to the gateway that deploys go to.
//!
//! Which gateway, and where wallet and keys are, is the environment's to say (`RUN402_*`), as for the
//! command line; with nothing named it is the local gateway's usual address, with a wallet of its own in
//! the state directory. Wallet and keys are read here and go nowhere but to the gateway.

use run402::api::projects::{self, NewProject};
use run402::client::{Client, Identity};
use run402::deploy::spec::Manifest;
use run402::deploy::walk::Root;
use run402::deploy::{AllowWarnings, Deploy, Event, Observer, Options, Progress, Released};
use run402::environment::{Base, Settings};
use run402::error::Error;
use run402::keys::KeyCache;
use run402::wallet::Wallet;
use sandbox_wire::{Code, Problem, ProjectId};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where `sandboxctl gateway` listens when it is not told otherwise.
const LOCAL: &str = "http://127.0.0.1:7403";

/// What the caller is told of a gateway's refusal.
pub(crate) fn refused(error: &Error) -> Problem {
    let said = serde_json::to_value(error).unwrap_or_default();
    let mut problem = Problem::new(Code::DeployFailed, error.to_string()).with("gateway", said);
    problem.retryable = error.is_retryable();
    match error.code.as_str() {
        "NETWORK_ERROR" => problem.next("start a gateway (sandboxctl gateway), or name one with RUN402_API_BASE"),
        _ => problem,
    }
}

/// An open way to a gateway.
#[derive(Debug)]
pub(crate) struct Target {
    client: Client,
    keys: KeyCache,
    /// On this computer, where a project costs nothing.
    is_local: bool,
    folder: PathBuf,
}

/// A release that is to be made.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) manifest: Value,
    /// File names start here; without it the manifest holds everything.
    pub(crate) root: Option<PathBuf>,
    pub(crate) allow_warnings: Vec<String>,
    pub(crate) idempotency_key: Option<String>,
}

/// What was made, and how much of it was sent.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) released: Released,
    pub(crate) sent: u64,
    pub(crate) total: u64,
}

#[derive(Debug, Default)]
struct Counter {
    sent: AtomicU64,
    kept: AtomicU64,
}

impl Observer for Counter {
    fn observe(&self, event: Event) {
        match event {
            Event::UploadProgress { .. } => self.sent.fetch_add(1, Relaxed),
            Event::UploadSkipped { .. } => self.kept.fetch_add(1, Relaxed),
            _ => 0,
        };
    }
}

fn invalid(error: impl std::fmt::Display) -> Problem {
    Problem::new(Code::InvalidEnvironment, error.to_string())
}

impl Target {
    /// Blocking: reads files. `state` is the daemon's.
    pub(crate) fn open(state: &Path) -> Result<Self, Problem> {
        let folder = state.join("run402");
        let named = ["RUN402_API_BASE", "RUN402_DEPLOY_API_BASE", "RUN402_CONFIG_DIR"];
        let own = !named.iter().any(|name| std::env::var_os(name).is_some());
        let config = folder.clone().into_os_string();
        let look_up = move |name: &str| match name {
            "RUN402_CONFIG_DIR" if own => Some(config.clone()),
            name => std::env::var_os(name),
        };
        let settings = Settings::read(&look_up).map_err(invalid)?;
        let local: Base = LOCAL.parse().map_err(invalid)?;
        let base = settings.deploy_base().cloned().unwrap_or(local);
        let environment = settings.with_default(&base);
        let is_local = base.url().host_str().is_some_and(|host| {
            host == "localhost"
                || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        });
        let identity = match &environment.delegate {
            Some(token) => Identity::Bearer(token.clone()),
            None => {
                let found = Wallet::load(&environment).map_err(|error| refused(&error.into()))?;
                let wallet = match found {
                    Some(wallet) => wallet,
                    None if is_local => Wallet::create(&environment).map_err(|error| refused(&error.into()))?,
                    None => {
                        let problem = Problem::new(Code::DeployFailed, "the daemon has no wallet for this gateway");
                        return Err(problem.next("make one: sandboxctl deploy init --new-wallet"));
                    }
                };
                Identity::Wallet(wallet.signer())
            }
        };
        let address = match &identity {
            Identity::Wallet(signer) => Some(signer.address().to_lower()),
            Identity::Nobody | Identity::Bearer(_) => None,
        };
        let keys = KeyCache::new(&environment, &base, address.as_deref());
        let client = Client::new(base.as_str(), identity, Arc::new(keys.clone())).map_err(|error| refused(&error))?;
        Ok(Self { client, keys, is_local, folder })
    }

    fn link(&self, project: ProjectId) -> PathBuf {
        self.folder.join("links").join(project.to_string())
    }

    /// The project at the gateway that belongs to this one, when there is one.
    pub(crate) fn linked(&self, project: ProjectId) -> Option<String> {
        let text = fs::read_to_string(self.link(project)).ok()?;
        let id = text.trim();
        let known = !id.is_empty() && self.keys.project(id).ok().flatten().is_some();
        known.then(|| id.to_owned())
    }

    /// The project at the gateway: named, linked, or made.
    pub(crate) async fn project(
        &self,
        project: ProjectId,
        named: Option<String>,
        name: &str,
    ) -> Result<String, Problem> {
        if let Some(id) = named.or_else(|| self.linked(project)) {
            return Ok(id);
        }
        if !self.is_local {
            let active = self.keys.active().map_err(|error| refused(&error.into()))?;
            let problem = || {
                Problem::new(Code::DeployFailed, "no project at the gateway is named or active")
                    .next("name one with gateway_project")
            };
            return active.ok_or_else(problem);
        }
        let new = NewProject { name: Some(name.to_owned()), ..NewProject::default() };
        let made = projects::provision(&self.client, &new).await.map_err(|error| refused(&error))?;
        let saved = self.keys.save_project(&made.project_id, &made.keys).await;
        saved.map_err(|error| refused(&error.into()))?;
        let link = self.link(project);
        let kept = link.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&link, &made.project_id));
        kept.map_err(|error| Problem::new(Code::Internal, format!("the project's link cannot be kept: {error}")))?;
        Ok(made.project_id)
    }

    pub(crate) async fn deploy(&self, project: &str, wanted: Wanted) -> Result<Done, Problem> {
        let failed = |error: Error| refused(&error);
        let manifest = Manifest::from_json(wanted.manifest, Some(project)).map_err(failed)?;
        let root = wanted.root.as_deref().map(Root::open).transpose().map_err(failed)?;
        let codes: std::collections::BTreeSet<String> = wanted.allow_warnings.into_iter().collect();
        let allow_warnings = if codes.is_empty() { AllowWarnings::Nothing } else { AllowWarnings::Codes(codes) };
        let options = Options { allow_warnings, idempotency_key: wanted.idempotency_key, ..Options::default() };
        let (counter, progress) = (Counter::default(), Arc::new(Progress::default()));
        let released = Deploy::new(manifest.spec, root).apply(&self.client, &options, &progress, &counter).await;
        let released = released.map_err(failed)?;
        let (sent, kept) = (counter.sent.into_inner(), counter.kept.into_inner());
        Ok(Done { released, sent, total: sent + kept })
    }

    pub(crate) async fn list(&self, project: &str) -> Result<Vec<Value>, Problem> {
        let page = run402::api::releases::list(&self.client, project, Some(50), None).await;
        let page = page.map_err(|error| refused(&error))?;
        Ok(page.operations.iter().filter_map(|operation| serde_json::to_value(operation).ok()).collect())
    }
}
