//! The only door: what callers can ask for, whichever edge they come through.
//!
//! Input: a [`Caller`] and checked wire types; output: wire types, or an [`Error`]. Knows no status code, no
//! header and no JSON. What a run goes through is in [`crate::runs`], its output in [`crate::output`] and
//! [`crate::tail`].

mod deploys;
mod error;
mod files;
mod projects;
mod runs;
mod tokens;

use crate::config::Config;
use crate::gateway::EmbeddedGateway;
use crate::host_ids::Slots;
use crate::index::Index;
use crate::keepers::Keepers;
use crate::metrics::Metrics;
use crate::policies::Policies;
use crate::projects::{Entry, Registry};
use crate::runs::ActiveRuns;
use crate::tokens::{Caller, Tokens};
use sandbox_wire::{Code, DoctorReport, Problem, Scope};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

pub(crate) use deploys::{Release, check_build};
pub(crate) use error::{Error, internal};
pub(crate) use projects::Created;
pub(crate) use runs::{Key, ListRuns, Started};

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) config: Config,
    pub(crate) policies: Policies,
    pub(crate) registry: Registry,
    pub(crate) index: Arc<Index>,
    pub(crate) keepers: Keepers,
    pub(crate) tokens: Tokens,
    pub(crate) active: ActiveRuns,
    /// One permit for each run that may be active.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tasks: TaskTracker,
    /// `<state>` without links; nothing of it may become a workspace.
    pub(crate) state: PathBuf,
    /// None for an ordinary user, who has no host ids to give.
    pub(crate) slots: Option<Mutex<Slots>>,
    /// What preview URLs begin with.
    pub(crate) base_url: String,
    pub(crate) gateway: EmbeddedGateway,
    pub(crate) draining: AtomicBool,
    /// This process ends now; what was not awaited goes on without it.
    pub(crate) leaving: AtomicBool,
    /// Held while a project is made or deleted, so that names and folders are given once.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Held while the host is examined.
    pub(crate) examining: tokio::sync::Mutex<()>,
}

impl Service {
    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    pub(crate) fn leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    /// The project of this id or `url_id`, if it exists for this caller.
    pub(crate) fn project(&self, caller: &Caller, name: &str) -> Result<Arc<Entry>, Problem> {
        match self.registry.find(name) {
            Some(entry) if caller.may_see(entry.id) => Ok(entry),
            _ => {
                let name: String = name.chars().take(64).collect();
                Err(Problem::new(Code::ProjectNotFound, format!("there is no project `{name}`"))
                    .next("GET /projects lists them"))
            }
        }
    }

    /// The project, for a caller with the scope `run`.
    pub(crate) fn project_to_run(&self, caller: &Caller, name: &str) -> Result<Arc<Entry>, Problem> {
        let entry = self.project(caller, name)?;
        caller.require(Scope::Run)?;
        Ok(entry)
    }

    pub(crate) async fn doctor(self: &Arc<Self>) -> Result<DoctorReport, Error> {
        crate::doctor::report(self).await
    }

    pub(crate) fn metrics_text(&self) -> String {
        self.metrics.text(self.active.len(), self.registry.len())
    }
}
