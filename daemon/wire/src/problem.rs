//! What went wrong, in one sentence a person can act on.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// The body of every failed call, the same in HTTP, MCP, `sandboxctl --json` and logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// One sentence a person can act on.
    pub error: String,
    pub code: Code,
    /// The same call may succeed later.
    pub retryable: bool,
    #[serde(default)]
    #[schema(value_type = Object)]
    pub details: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    pub next_actions: Vec<String>,
    #[serde(default)]
    pub request_id: String,
}

impl Problem {
    pub fn new(code: Code, error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            code,
            retryable: code.retryable(),
            details: serde_json::Map::new(),
            next_actions: Vec::new(),
            request_id: String::new(),
        }
    }

    /// Adds a fact to `details`.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }

    /// Adds a sentence to `next_actions`.
    #[must_use]
    pub fn next(mut self, action: impl Into<String>) -> Self {
        self.next_actions.push(action.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

impl std::error::Error for Problem {}

/// A machine-readable cause. Status codes belong to `http/problem.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The body is not JSON, or not of the documented shape.
    InvalidRequest,
    /// A field that this call does not have.
    UnknownField,
    EmptyCommand,
    /// A NUL byte where the kernel cannot take one (command, cwd, environment).
    NulByte,
    InvalidEnvironment,
    TimeoutOutOfRange,
    CwdNotFound,
    CwdOutsideProject,
    /// A file's name that is none, or that leads out of the project.
    PathOutsideProject,
    InvalidPolicy,
    PolicyNotFound,
    InvalidName,
    InvalidDirectory,
    Unauthorized,
    Forbidden,
    /// The policy refuses the request itself.
    PolicyRefused,
    /// The host cannot give a layer that the policy requires.
    LayerUnavailable,
    HostNotAllowed,
    OriginNotAllowed,
    NotFound,
    ProjectNotFound,
    RunNotFound,
    MethodNotAllowed,
    NotAcceptable,
    IdempotencyConflict,
    ProjectBusy,
    /// The run has ended, so it cannot be signalled.
    RunEnded,
    /// The run was started without an open standard input, or that has been ended.
    InputClosed,
    NameTaken,
    OutputExpired,
    BodyTooLarge,
    CommandTooLong,
    UnsupportedMediaType,
    HeadersTooLarge,
    TooManyRequests,
    Internal,
    Unavailable,
    Draining,
    NoCapacity,
    DiskFull,
    /// `sandbox.toml` or a deploy manifest is not as it should be.
    InvalidManifest,
    /// The build command did not succeed, so that nothing was deployed.
    BuildFailed,
    /// The gateway refused or failed; `details.gateway` is what it said.
    DeployFailed,
    /// The daemon could not be reached (said by clients only).
    Unreachable,
}

impl Code {
    /// Whether the same call may succeed later.
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Self::TooManyRequests
                | Self::Unavailable
                | Self::Draining
                | Self::NoCapacity
                | Self::ProjectBusy
                | Self::Unreachable
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => f.write_str(&name),
            _ => write!(f, "{self:?}"),
        }
    }
}
