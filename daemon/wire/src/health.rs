//! Whether a daemon answers, and whether it takes work.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `ok`: a daemon that is not says nothing.
    pub status: String,
    /// Always `sandboxd`, so that a client knows whom it talks to.
    pub service: String,
    pub version: String,
}

/// Answer of `GET /readyz` while runs are accepted; a problem otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ready {
    pub ready: bool,
    /// Runs that have not ended.
    pub active_runs: u64,
}
