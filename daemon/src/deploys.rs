//! The way to the gateway that deploys go to.
//!
//! Which gateway, and where wallet and keys are, is the environment's to say (`RUN402_*`), as for the
//! command line; with nothing named it is the embedded gateway, with a wallet of its own in the state
//! directory. Wallet and keys are read here and go nowhere but to the gateway.

use run402::account::{self, Account};
use run402::deploy::spec::Manifest;
use run402::deploy::walk::Root;
use run402::deploy::{AllowWarnings, Deploy, Digest, Event, Observer, Options, Progress, Released};
use run402::environment::{Base, Environment, Settings};
use run402::error::Error;
use run402::tools::{self, Context, Files, Tool};
use sandbox_policy::PROJECT;
use sandbox_wire::deploy::{DeployPhase, DeployProgress};
use sandbox_wire::{Code, Problem, ProjectId};
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// What the caller is told of a gateway's refusal.
pub(crate) fn refused(error: &Error) -> Problem {
    let said = serde_json::to_value(error).unwrap_or_default();
    let mut problem = Problem::new(Code::DeployFailed, error.to_string()).with("gateway", said);
    problem.retryable = error.is_retryable();
    match error.code.as_str() {
        "NETWORK_ERROR" => problem.next("start a gateway (sandboxctl gateway), or name one with RUN402_API_BASE"),
        "NO_WALLET" => problem.next("make one: sandboxctl deploy init --new-wallet"),
        _ => problem,
    }
}

/// A caller at a gateway, and which of its projects belong to ours.
#[derive(Debug)]
pub(crate) struct Target {
    account: Account,
    /// What belongs together at one gateway means nothing at another.
    links: PathBuf,
}

/// A project's files, but for what its policy denies to commands.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    pub(crate) folder: PathBuf,
    /// Within the folder.
    pub(crate) denied: Vec<PathBuf>,
}

impl Sources {
    /// Named as commands name it. Blocking: opens a directory.
    pub(crate) fn open(&self) -> Result<Root, Error> {
        Ok(Root::open(&self.folder)?.shown_as(Path::new(PROJECT)).denying(&self.denied))
    }
}

/// A release that is to be made.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) manifest: Value,
    /// Where file names lead; without it the manifest holds everything.
    pub(crate) sources: Option<Sources>,
    pub(crate) allow_warnings: Vec<String>,
    pub(crate) idempotency_key: Option<String>,
}

/// How far a release is; written by its making, read by whoever tells of it.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Of [`PHASES`].
    phase: AtomicU8,
    hashing: Arc<Progress>,
    files_uploaded: AtomicU64,
    files_unchanged: AtomicU64,
    bytes_uploaded: AtomicU64,
}

/// In their order.
const PHASES: [DeployPhase; 4] =
    [DeployPhase::Hashing, DeployPhase::Planning, DeployPhase::Uploading, DeployPhase::Committing];

impl Watch {
    pub(crate) fn progress(&self) -> DeployProgress {
        DeployProgress {
            phase: PHASES[usize::from(self.phase.load(Relaxed))],
            files: self.hashing.files(),
            bytes: self.hashing.bytes(),
            files_uploaded: self.files_uploaded.load(Relaxed),
            files_unchanged: self.files_unchanged.load(Relaxed),
            bytes_uploaded: self.bytes_uploaded.load(Relaxed),
        }
    }
}

impl Observer for Watch {
    fn observe(&self, event: Event) {
        match event {
            Event::PlanStarted {} => self.phase.store(1, Relaxed),
            Event::PlanDiff { .. } => self.phase.store(2, Relaxed),
            Event::CommitPhase { .. } => self.phase.store(3, Relaxed),
            Event::UploadProgress { .. } => drop(self.files_uploaded.fetch_add(1, Relaxed)),
            Event::UploadSkipped { .. } => drop(self.files_unchanged.fetch_add(1, Relaxed)),
            _ => {}
        }
    }

    fn sent(&self, count: u64) {
        self.bytes_uploaded.fetch_add(count, Relaxed);
    }
}

fn invalid(error: impl std::fmt::Display) -> Problem {
    Problem::new(Code::InvalidEnvironment, error.to_string())
}

/// Which gateway the environment names, and where wallet and keys are. Blocking: reads files. `state` is the
/// daemon's directory.
pub(crate) fn settings(state: &Path) -> Result<Settings, Problem> {
    account::settings(&state.join("run402")).map_err(invalid)
}

/// The gateway, and where wallet and keys are, which there need not be yet.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) environment: Environment,
    is_embedded: bool,
}

impl Gateway {
    /// `embedded` is where the embedded gateway is, when none is named.
    pub(crate) fn new(settings: Settings, embedded: Option<&Base>) -> Result<Self, Problem> {
        let base = settings.deploy_base().or(embedded).cloned();
        let base = base.ok_or_else(|| invalid("no gateway is named"))?;
        Ok(Self { environment: settings.with_default(&base), is_embedded: embedded.is_some() })
    }
}

impl Target {
    /// Blocking: reads files.
    pub(crate) fn open(state: &Path, gateway: &Gateway) -> Result<Self, Problem> {
        let name = match gateway.is_embedded {
            // Its address may change, what it has does not.
            true => "embedded".to_owned(),
            false => Digest::of(gateway.environment.deploy_base.as_str().as_bytes()).to_string()[..16].to_owned(),
        };
        let account = Account::open(&gateway.environment).map_err(|error| refused(&error))?;
        for warning in &account.warnings {
            tracing::warn!(warning, "the gateway's settings");
        }
        Ok(Self { account, links: state.join("run402/links").join(name) })
    }

    fn link(&self, project: ProjectId) -> PathBuf {
        self.links.join(project.to_string())
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

    pub(crate) async fn deploy(&self, project: &str, wanted: Wanted, watch: &Watch) -> Result<Released, Problem> {
        let failed = |error: Error| refused(&error);
        let manifest = Manifest::from_json(wanted.manifest, Some(project)).map_err(failed)?;
        let root = wanted.sources.as_ref().map(Sources::open).transpose().map_err(failed)?;
        let codes: std::collections::BTreeSet<String> = wanted.allow_warnings.into_iter().collect();
        let allow_warnings = if codes.is_empty() { AllowWarnings::Nothing } else { AllowWarnings::Codes(codes) };
        let options = Options { allow_warnings, idempotency_key: wanted.idempotency_key, ..Options::default() };
        let deploy = Deploy::new(manifest.spec, root);
        deploy.apply(&self.account.client, &options, &watch.hashing, watch).await.map_err(failed)
    }

    /// Calls one of the gateway's tools. `project` is ours whose project there is meant when none is named.
    pub(crate) async fn call(
        &self,
        tool: &Tool,
        arguments: &Map<String, Value>,
        project: Option<ProjectId>,
        files: &dyn Files,
    ) -> Result<Value, Error> {
        let linked = project.and_then(|project| self.linked(project));
        let context = Context { account: &self.account, project: linked.as_deref(), files };
        tools::call(tool, context, arguments).await
    }

    pub(crate) async fn list(&self, project: &str) -> Result<Vec<Value>, Problem> {
        let page = run402::api::releases::list(&self.account.client, project, Some(50), None).await;
        let page = page.map_err(|error| refused(&error))?;
        Ok(page.operations.iter().filter_map(|operation| serde_json::to_value(operation).ok()).collect())
    }
}
