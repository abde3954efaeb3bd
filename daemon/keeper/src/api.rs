//! What sandboxd and a keeper say to each other.
//!
//! One frame is two little-endian `u32` lengths, a JSON head and a binary tail:
//! `[head_len][tail_len][head][tail]`. The tail carries output bytes, which JSON cannot.
//! A connection serves one request at a time and may be used again after its last reply.
//! A connection that breaks ends no run: runs belong to the keeper, not to the caller.

use sandbox_policy::{Admitted, Policy};
use sandbox_wire::{Problem, ProjectId, RunId, Truncated, event::RunOutcome};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything a keeper has to know when it starts; JSON on its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperSpec {
    pub project: ProjectId,
    /// Host name inside the sandbox: the project's `url_id`.
    pub hostname: String,
    /// `<state>/projects/<id>`; holds `keeper.sock`, `home/`, `runs/`, and `workspace/` unless `dir` is set.
    pub project_dir: PathBuf,
    /// The host folder that is the workspace; `project_dir/workspace` when absent.
    pub dir: Option<PathBuf>,
    /// First of 65,536 host ids that belong to this project alone; none for an ordinary user.
    pub id_base: Option<u32>,
    /// Name of this daemon's cgroup sub-tree, below the cgroup it was started in.
    pub cgroup_name: String,
    /// Exit after this long without a run.
    pub idle_ms: u64,
}

impl KeeperSpec {
    /// The folder on the host that is the home folder inside.
    pub(crate) fn home(&self) -> PathBuf {
        self.project_dir.join("home")
    }

    /// The folder on the host that is the project's inside.
    pub(crate) fn workspace(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| self.project_dir.join("workspace"))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Run to the end; answered by `Finished` (tail: stdout and stderr as kept for the reply).
    Run(Box<RunOrder>),
    /// Start; answered by `Started` as soon as the command runs.
    Start(Box<RunOrder>),
    /// The policy that a `NeedPolicy` asked for; answered as the order that is repeated with it.
    Policy { policy: Box<Policy>, order: Box<RunOrder>, wait: bool },
    /// Answered by `Finished` when the run has ended, without texts when it ended before.
    Wait { run: RunId },
    /// Answered by `Grown` each time the journal has grown (coalesced), then by `Finished`.
    Watch { run: RunId },
    /// Answered by `Done`; the run ends as `cancelled`.
    Kill { run: RunId, cause: KillCause },
    /// Bytes (base64) for its standard input, and then the end of it; answered by `Taken`.
    Input { run: RunId, bytes: String, eof: bool },
    /// Signal (number) to the command and all it started; answered by `Done`.
    Signal { run: RunId, signal: i32 },
    /// Answered by `Runs`: those not yet ended.
    List,
    /// End: kill what runs, remove the sandbox, exit. Answered by `Done` when all is gone.
    Stop { cause: KillCause },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KillCause {
    Caller,
    Shutdown,
}

/// One command to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunOrder {
    pub run: RunId,
    /// [`Policy::digest`] of the policy that admitted the command.
    pub policy_digest: String,
    pub admitted: Admitted,
    pub keep_background: bool,
    /// Standard input stays open for `Input`; else it is what the order has, or empty.
    #[serde(default)]
    pub open_input: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Started {
        run: RunId,
    },
    /// The journal has grown, or the run has changed.
    Grown,
    /// Tail: `stdout_len` bytes of stdout, then stderr.
    Finished {
        outcome: Box<RunOutcome>,
        stdout_len: u64,
        truncated: Truncated,
    },
    /// The keeper does not have this policy yet; nothing was started.
    NeedPolicy,
    Runs {
        runs: Vec<RunId>,
    },
    /// So many bytes; less than were sent when the command did not read.
    Taken {
        bytes: u64,
    },
    Done,
    /// Nothing was started, or the run is not known.
    Refused(Box<Problem>),
}
