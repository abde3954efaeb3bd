//! Events of a live run: one SSE event or one line of NDJSON each.

use crate::{Encoding, RunId, RunResult};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `start`, then `stdout`, `stderr`, `gap` and `ping` in any number, then exactly one `result`.
///
/// As NDJSON the name stands in the field `event`; as SSE it is the event's name and `id:` is `seq`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    Start {
        run_id: RunId,
    },
    Stdout(Chunk),
    Stderr(Chunk),
    /// Output that is no longer kept: the reader was slower than the policy's `output` limit allows.
    Gap {
        seq: u64,
        stdout_bytes: u64,
        stderr_bytes: u64,
    },
    Ping {},
    /// The run result without its texts.
    Result(Box<StreamResult>),
}

/// Consecutive bytes of one stream. A character is never split between chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Chunk {
    /// Counts the chunks of both streams, from 1; a resume point.
    pub seq: u64,
    /// Position of the first byte in its stream.
    pub offset: u64,
    pub data: String,
    #[serde(default, skip_serializing_if = "is_utf8")]
    pub encoding: Encoding,
}

fn is_utf8(encoding: &Encoding) -> bool {
    *encoding == Encoding::Utf8
}

/// A run result whose texts the stream has already carried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StreamResult {
    pub seq: u64,
    #[serde(flatten)]
    pub result: RunOutcome,
}

/// [`RunResult`] without `stdout`, `stderr` and `encoding`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunOutcome {
    pub exit_code: Option<i32>,
    pub run_id: RunId,
    pub status: crate::RunState,
    pub signal: Option<String>,
    pub timed_out: bool,
    pub oom_killed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub killed_by: Option<String>,
    pub duration_ms: f64,
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    pub usage: crate::Usage,
    pub lingering: u32,
    #[serde(default)]
    pub denials: Vec<crate::Denial>,
    pub enforced: crate::Enforced,
}

impl RunOutcome {
    /// Puts the texts back: the result of section "run result".
    pub fn with_texts(
        self,
        stdout: String,
        stderr: String,
        truncated: crate::Truncated,
        encoding: Encoding,
    ) -> RunResult {
        RunResult {
            exit_code: self.exit_code,
            stdout,
            stderr,
            run_id: self.run_id,
            status: self.status,
            signal: self.signal,
            timed_out: self.timed_out,
            oom_killed: self.oom_killed,
            killed_by: self.killed_by,
            duration_ms: self.duration_ms,
            stdout_bytes: self.stdout_bytes,
            stderr_bytes: self.stderr_bytes,
            truncated,
            encoding,
            usage: self.usage,
            lingering: self.lingering,
            denials: self.denials,
            enforced: self.enforced,
        }
    }
}
