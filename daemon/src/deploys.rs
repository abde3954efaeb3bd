//! The way to the gateway that deploys go to.
//!
//! Which gateway, and where wallet and keys are, is the environment's to say (`RUN402_*`), as for the
//! command line; with nothing named it is the local gateway's usual address, with a wallet of its own in
//! the state directory. Wallet and keys are read here and go nowhere but to the gateway.

use run402::account::{self, Account};
use run402::deploy::spec::Manifest;
use run402::deploy::walk::Root;
use run402::deploy::{AllowWarnings, Deploy, Digest, Event, Observer, Options, Progress, Released};
use run402::environment::Base;
use run402::error::Error;
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
        "NETWORK_ERROR" | "NO_GATEWAY" => {
            problem.next("start a gateway (sandboxctl gateway), or name one with RUN402_API_BASE")
        }
        "NO_WALLET" => problem.next("make one: sandboxctl deploy init --new-wallet"),
        _ => problem,
    }
}

/// A caller at a gateway, and which of its projects belong to ours.
#[derive(Debug)]
pub(crate) struct Target {
    account: Account,
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
        let settings = account::settings(&folder).map_err(invalid)?;
        let local: Base = LOCAL.parse().map_err(invalid)?;
        let base = match settings.deploy_base() {
            Some(base) => base.clone(),
            None => {
                account::require_trusted(&local).map_err(|error| refused(&error))?;
                local
            }
        };
        let account = Account::open(&settings.with_default(&base)).map_err(|error| refused(&error))?;
        for warning in &account.warnings {
            tracing::warn!(warning, "the gateway's settings");
        }
        Ok(Self { account, folder })
    }

    fn link(&self, project: ProjectId) -> PathBuf {
        // What belongs together at one gateway means nothing at another.
        let gateway = Digest::of(self.account.client.base().as_bytes()).to_string();
        self.folder.join("links").join(&gateway[..16]).join(project.to_string())
    }

    /// The project at the gateway that belongs to this one, when there is one.
    pub(crate) fn linked(&self, project: ProjectId) -> Option<String> {
        let text = fs::read_to_string(self.link(project)).ok()?;
        let id = text.trim();
        let known = !id.is_empty() && self.account.knows(id).unwrap_or(false);
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
        if !self.account.is_local() {
            let active = self.account.active_project().map_err(|error| refused(&error))?;
            return active.ok_or_else(|| {
                Problem::new(Code::DeployFailed, "no project at the gateway is named or active")
                    .next("name one with gateway_project")
            });
        }
        let made = self.account.provision(Some(name)).await.map_err(|error| refused(&error))?;
        let link = self.link(project);
        let kept = link.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&link, &made));
        kept.map_err(|error| Problem::new(Code::Internal, format!("the project's link cannot be kept: {error}")))?;
        Ok(made)
    }

    pub(crate) async fn deploy(&self, project: &str, wanted: Wanted) -> Result<Done, Problem> {
        let failed = |error: Error| refused(&error);
        let manifest = Manifest::from_json(wanted.manifest, Some(project)).map_err(failed)?;
        let root = wanted.root.as_deref().map(Root::open).transpose().map_err(failed)?;
        let codes: std::collections::BTreeSet<String> = wanted.allow_warnings.into_iter().collect();
        let allow_warnings = if codes.is_empty() { AllowWarnings::Nothing } else { AllowWarnings::Codes(codes) };
        let options = Options { allow_warnings, idempotency_key: wanted.idempotency_key, ..Options::default() };
        let (counter, progress) = (Counter::default(), Arc::new(Progress::default()));
        let released =
            Deploy::new(manifest.spec, root).apply(&self.account.client, &options, &progress, &counter).await;
        let released = released.map_err(failed)?;
        let (sent, kept) = (counter.sent.into_inner(), counter.kept.into_inner());
        Ok(Done { released, sent, total: sent + kept })
    }

    pub(crate) async fn list(&self, project: &str) -> Result<Vec<Value>, Problem> {
        let page = run402::api::releases::list(&self.account.client, project, Some(50), None).await;
        let page = page.map_err(|error| refused(&error))?;
        Ok(page.operations.iter().filter_map(|operation| serde_json::to_value(operation).ok()).collect())
    }
}
