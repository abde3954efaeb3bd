//! The caller's end of a keeper's socket.

use crate::api::{KillCause, RunOrder};
use sandbox_policy::Policy;
use sandbox_wire::{Problem, RunId, Truncated, event::RunOutcome};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A keeper as its callers see it: connections that are made when needed and used again.
#[derive(Debug, Clone)]
pub struct Keeper {
    inner: Arc<PathBuf>,
}

/// Why a call got no answer from the keeper.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// No keeper listens (it was idle, or died): start one and repeat the call. Nothing was started.
    #[error("no keeper listens in {0}")]
    Absent(PathBuf),
    /// The connection broke after the order was sent: the journal tells whether the run started.
    #[error("the keeper's connection broke")]
    Broken(#[source] std::io::Error),
    #[error(transparent)]
    Refused(#[from] Box<Problem>),
}

/// A run that has ended, with what its reply keeps of the output.
#[derive(Debug, Clone)]
pub struct Finished {
    pub outcome: RunOutcome,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub truncated: Truncated,
}

impl Keeper {
    /// The keeper of the project whose folder this is; does not connect yet.
    pub fn at(project_dir: &Path) -> Self {
        Self { inner: Arc::new(project_dir.to_owned()) }
    }
}

/// Tells when the journal of a run has grown.
#[derive(Debug)]
pub struct Watch {}

/// What a [`Watch`] saw.
#[derive(Debug, Clone)]
pub enum Seen {
    Grown,
    Finished(Box<RunOutcome>),
}

impl Watch {
    /// Next change. Cancel-safe.
    pub async fn next(&mut self) -> Result<Seen, KeeperError> {
        std::future::pending().await
    }
}

impl Keeper {
    /// Runs to the end. Dropping the future does not end the run.
    pub async fn run(&self, order: RunOrder, policy: &Policy) -> Result<Finished, KeeperError> {
        let _ = (order, policy);
        std::future::pending().await
    }
    /// Starts; returns when the command runs.
    pub async fn start(&self, order: RunOrder, policy: &Policy) -> Result<(), KeeperError> {
        let _ = (order, policy);
        std::future::pending().await
    }
    /// Waits for the end of a run that was started before.
    pub async fn wait(&self, run: &RunId) -> Result<Finished, KeeperError> {
        let _ = run;
        std::future::pending().await
    }
    pub async fn watch(&self, run: &RunId) -> Result<Watch, KeeperError> {
        let _ = run;
        std::future::pending().await
    }
    pub async fn kill(&self, run: &RunId, cause: KillCause) -> Result<(), KeeperError> {
        let _ = (run, cause);
        std::future::pending().await
    }
    pub async fn signal(&self, run: &RunId, signal: i32) -> Result<(), KeeperError> {
        let _ = (run, signal);
        std::future::pending().await
    }
    /// Runs that have not ended.
    pub async fn list(&self) -> Result<Vec<RunId>, KeeperError> {
        std::future::pending().await
    }
    /// Ends the keeper and all that it runs.
    pub async fn stop(&self, cause: KillCause) -> Result<(), KeeperError> {
        let _ = cause;
        std::future::pending().await
    }
}
