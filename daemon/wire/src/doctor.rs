//! What this host can enforce, and how to mend what it cannot.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /doctor` and `sandboxctl doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoctorReport {
    pub lines: Vec<DoctorLine>,
    /// The policy `default` can be enforced here.
    pub default_policy_enforceable: bool,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoctorLine {
    /// `kernel`, `landlock`, `user namespaces`, …
    pub check: String,
    pub status: DoctorStatus,
    /// What was found: a version, a mode, the error of the attempt.
    pub found: String,
    /// What is used instead meanwhile; empty when nothing is missing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub meanwhile: String,
    /// The exact command or setting that mends it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mend: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DoctorStatus {
    Ok,
    /// Weaker, and reported in each receipt.
    Degraded,
    /// Missing: policies that require it are refused.
    Missing,
}
