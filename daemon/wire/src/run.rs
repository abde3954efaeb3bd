//! A run: what a caller asks for and what comes back.

use crate::{Problem, RunId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// Body of `POST /projects/{id}/run` and `…/runs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    pub command: Command,
    /// Where the command starts; relative paths start at `/home/user/project`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Deadline in milliseconds, 1 to 300000; the policy's `timeout` (120000) when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 300_000)]
    pub timeout_ms: Option<i64>,
    /// Added to the policy's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// All of standard input, as text. Without it, input is empty; it stays open for `…/input` with
    /// `interactive`, and of `…/runs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// How `stdin` is written: `base64` for input that is not UTF-8.
    #[serde(default, skip_serializing_if = "Encoding::is_default")]
    pub stdin_encoding: Encoding,
    /// Standard input stays open for `…/input`, as it does for `…/runs`. Excludes `stdin`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interactive: bool,
    /// Name of a policy to use instead of the project's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The text of a policy file to use for this run (needs the scope `admin`; excludes `policy`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_toml: Option<String>,
    #[serde(default, skip_serializing_if = "Encoding::is_default")]
    pub encoding: Encoding,
    /// Leave what the command started in the background alive after it ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_background: bool,
    /// What happens when the caller of a plain `/run` goes away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_disconnect: Option<OnDisconnect>,
    /// Only `…/runs`: the same key and body start one run, however often they are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    pub idempotency_key: Option<String>,
}

impl RunRequest {
    /// With nothing said beside the command.
    pub fn new(command: Command) -> Self {
        Self {
            command,
            cwd: None,
            timeout_ms: None,
            env: BTreeMap::new(),
            stdin: None,
            stdin_encoding: Encoding::Utf8,
            interactive: false,
            policy: None,
            policy_toml: None,
            encoding: Encoding::Utf8,
            keep_background: false,
            on_disconnect: None,
            idempotency_key: None,
        }
    }
}

/// A text is a shell line (`/bin/sh -c`), a list is an argv that no shell sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Command {
    Shell(String),
    Argv(Vec<String>),
}

/// By hand, to say what a derived description cannot: nothing blank, no NUL.
impl PartialSchema for Command {
    fn schema() -> RefOr<Schema> {
        let text = |pattern: &str| ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).build();
        let word = text(r"^[^\x00]*$");
        let line = text(r"^[^\x00]*[^\x00\s][^\x00]*$");
        let program = line.clone();
        let argv = ArrayBuilder::new().prefix_items([Schema::from(program)]).items(word).min_items(Some(1));
        let either = OneOfBuilder::new().item(line).item(argv);
        let description = "A text is a shell line (`/bin/sh -c`), a list is an argv that no shell sees.";
        either.description(Some(description)).into()
    }
}

impl ToSchema for Command {}

/// How bytes become JSON text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Bytes that are not UTF-8 become U+FFFD.
    #[default]
    Utf8,
    /// The exact bytes.
    Base64,
}

impl Encoding {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    Keep,
    Kill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Where a run is, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Running,
    /// The command ended by itself; `exit_code` is its own.
    Exited,
    /// A signal ended it, and none of the causes below.
    Signaled,
    /// The deadline passed; `exit_code` is 124.
    TimedOut,
    /// The memory limit ended it; `exit_code` is 137.
    OomKilled,
    /// A caller, or a caller's going away, ended it.
    Cancelled,
    /// The keeper died with it (crash of the host, kill -9 of the keeper).
    Lost,
}

impl RunState {
    pub fn is_final(self) -> bool {
        self != Self::Running
    }

    /// The word in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Signaled => "signaled",
            Self::TimedOut => "timed_out",
            Self::OomKilled => "oom_killed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

/// How a run ended, what it printed and what it used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunResult {
    /// The command's own, 128+n for signal n, 124 on timeout, 137 on out-of-memory; null while running or lost.
    pub exit_code: Option<i32>,
    /// First and last halves of at most 1 MiB.
    pub stdout: String,
    pub stderr: String,
    pub run_id: RunId,
    pub status: RunState,
    /// Name of the signal that ended the command, such as `SIGKILL`.
    pub signal: Option<String>,
    pub timed_out: bool,
    /// The kernel killed something of this run for memory, whether or not the command itself.
    pub oom_killed: bool,
    /// Which of our limits ended the run, when one did: `disk`, `output`, `caller`, `shutdown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub killed_by: Option<String>,
    pub duration_ms: f64,
    /// Bytes that the command wrote, whether kept or not.
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    #[serde(default)]
    pub truncated: Truncated,
    #[serde(default, skip_serializing_if = "Encoding::is_default")]
    pub encoding: Encoding,
    pub usage: Usage,
    /// Processes that were still there when the command had ended.
    pub lingering: u32,
    #[serde(default)]
    pub denials: Vec<Denial>,
    pub enforced: Enforced,
}

/// What `stdout` and `stderr` of a reply leave out; absent when nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Truncated {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<Omitted>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<Omitted>,
}

/// Bytes `[omitted_from, omitted_to)` of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Omitted {
    pub omitted_from: u64,
    pub omitted_to: u64,
}

/// What a run used. A figure that this host cannot give is null.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    pub cpu_ms: f64,
    pub memory_peak_bytes: Option<u64>,
    pub read_bytes: Option<u64>,
    pub write_bytes: Option<u64>,
    pub pids_peak: Option<u64>,
}

/// One access that a policy refused, with the rule that refused it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Denial {
    /// `filesystem`, `network`, `syscall`, `limit`.
    pub kind: String,
    /// What was asked for: a path, a name and port, a system call, a limit's name.
    pub subject: String,
    /// The rule, as `policy show` prints it.
    pub rule: String,
    pub count: u64,
}

/// The receipt: which layers were really in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Enforced {
    pub policy: String,
    pub namespaces: Vec<String>,
    /// The Landlock ABI in force; null when the kernel has none.
    pub landlock_abi: Option<u32>,
    /// Name of the seccomp profile.
    pub seccomp: String,
    /// `v1`, `v2`, `hybrid`; `none` when limits fall back to rlimits.
    pub cgroup: String,
    /// `none`, `filtered`, `host`.
    pub network: String,
    /// `range` (own host ids), `subordinate` (the daemon's user, without its groups), `single` (the daemon's user).
    pub ids: String,
    /// `quota` or `measured`.
    pub disk: String,
    /// What the policy asked for and this host could not give, each a sentence with its mend.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// One line of a list of runs; `result` on the single run once it has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunSummary {
    pub run_id: RunId,
    pub project_id: crate::ProjectId,
    pub command: Command,
    pub cwd: String,
    pub policy: String,
    pub status: RunState,
    pub exit_code: Option<i32>,
    /// RFC 3339, UTC.
    pub started_at: String,
    pub duration_ms: Option<f64>,
    pub timeout_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<RunResult>,
}

/// Answer of `…/runs`: a page, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunList {
    pub runs: Vec<RunSummary>,
    /// Pass as `cursor` for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<RunId>,
}

/// Body of `POST …/runs/{run}/signal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    pub signal: Signal,
}

/// Answer of `POST …/runs/{run}/input` and `/eof`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InputTaken {
    /// Bytes that are in the command's hands or its pipe; send the others again.
    pub taken: u64,
}

/// A signal by name (`SIGTERM`, `TERM`) or by number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Signal {
    Name(String),
    Number(i32),
}

/// Why a run did not start, as the keeper says it; `http/problem.rs` adds the status code.
pub type RunRefused = Problem;
