//! A policy's answer to one request: pure, no I/O.

use crate::Policy;
use serde::{Deserialize, Serialize};

/// What a caller asks for, checked for shape only.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSpec {
    /// The words to execute; a shell line is `["/bin/sh", "-c", line]`.
    pub argv: Vec<String>,
    pub cwd: Option<String>,
    pub timeout_ms: Option<i64>,
    /// In order; added to the policy's environment.
    pub env: Vec<(String, String)>,
    pub stdin: Option<Vec<u8>>,
}

/// A request that the policy allows: the keeper runs it as it is. Not constructible otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Admitted {
    pub(crate) argv: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) timeout_ms: u64,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) stdin: Option<Vec<u8>>,
}

/// Why a request is not admitted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AdmitError {
    #[error("placeholder")]
    Placeholder,
}

/// Checks a request against a policy.
pub fn admit(policy: &Policy, spec: RunSpec) -> Result<Admitted, AdmitError> {
    let _ = (policy, spec);
    Err(AdmitError::Placeholder)
}

impl Admitted {
    pub fn argv(&self) -> &[String] {
        &self.argv
    }
    /// Absolute, as asked; not yet resolved against links.
    pub fn cwd(&self) -> &str {
        &self.cwd
    }
    pub fn timeout_ms(&self) -> u64 {
        self.timeout_ms
    }
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }
    pub fn stdin(&self) -> Option<&[u8]> {
        self.stdin.as_deref()
    }
}
