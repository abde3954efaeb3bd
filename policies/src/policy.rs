//! A resolved and valid policy.
//!
//! Output of [`crate::resolve`]; input of [`crate::admit`] and of the keeper. Its rules, not their
//! origin, make two policies equal and give them their digest.

use crate::{Layer, Place, SyscallProfile};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What a project's commands may do. Made only by resolving a policy file; serialised between
/// sandboxd and its keepers, without the origin of its rules.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "Rules", into = "Rules")]
pub struct Policy {
    rules: Rules,
    digest: String,
    provenance: Provenance,
}

/// All that a policy says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rules {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) filesystem: Filesystem,
    pub(crate) network: Network,
    pub(crate) limits: Limits,
    pub(crate) syscalls: SyscallProfile,
    pub(crate) environment: Environment,
    pub(crate) require: Vec<Layer>,
    pub(crate) tests: Vec<PolicyTest>,
}

/// All paths are absolute, as seen inside, without `.`/`..`; `~` is resolved to `/home/user`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// Host folders and files that are in the view, read-only, where they exist on the host.
    pub read: Vec<String>,
    /// Writable: at or below `/home/user`, or `/tmp`.
    pub write: Vec<String>,
    /// Neither readable nor writable, though below one of the above.
    pub deny: Vec<String>,
    /// Overlap neither each other nor `read`.
    pub mount: Vec<Mount>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub host: String,
    pub at: String,
    pub mode: MountMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MountMode {
    /// Readable.
    Ro,
    /// Refused in policy files.
    Rw,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub mode: NetworkMode,
    /// Canonical spellings of [`crate::EgressRule`]; empty unless `filtered`.
    pub allow: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// A network of its own, with loopback only.
    None,
    /// Only the destinations in `allow`.
    Filtered,
    /// The host's network, unfiltered.
    Host,
}

impl NetworkMode {
    /// The word in a policy file.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Filtered => "filtered",
            Self::Host => "host",
        }
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Limits of a project's sandbox as a whole and of each run in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    pub memory_bytes: u64,
    /// Processors, such as 2.0 or 0.5.
    pub cpu: f64,
    pub pids: u32,
    pub disk_bytes: u64,
    /// Bytes a second, of reading and of writing each; absent: as fast as the disk is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_rate: Option<u64>,
    pub tmp_bytes: u64,
    pub open_files: u32,
    /// Journal bytes kept per run.
    pub output_bytes: u64,
    pub timeout_ms: u64,
    pub max_timeout_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    pub set: BTreeMap<String, String>,
    /// Names passed on from the daemon's own environment, where it has them; see [`crate::environment`].
    pub pass: Vec<String>,
}

/// A claim that `policy check` runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyTest {
    /// A shell line.
    pub command: String,
    pub expect: Expectation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Expectation {
    /// The command ends with exit code 0.
    Allowed,
    /// The command fails, or is not admitted.
    Denied,
}

impl Expectation {
    /// The word in a policy file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }
}

/// Which file and line a rule comes from. Empty for a policy that came over a wire.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    /// By rule (`filesystem.read`, `limits.memory`, …) and item (a path, a name; empty for single values).
    places: Arc<BTreeMap<(&'static str, String), Place>>,
}

impl Provenance {
    pub(crate) fn new(places: BTreeMap<(&'static str, String), Place>) -> Self {
        Self { places: Arc::new(places) }
    }

    /// Where `rule` says `item`: `of("filesystem.read", "/usr")`, `of("limits.memory", "")`.
    pub fn of(&self, rule: &'static str, item: &str) -> Option<&Place> {
        self.places.get(&(rule, item.to_owned()))
    }
}

impl Policy {
    pub(crate) fn new(rules: Rules, provenance: Provenance) -> Self {
        let canonical = serde_json::to_vec(&rules).expect("rules are texts and finite numbers");
        let digest = Sha256::digest(canonical).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self { rules, digest, provenance }
    }

    pub fn name(&self) -> &str {
        &self.rules.name
    }
    pub fn description(&self) -> &str {
        &self.rules.description
    }
    pub fn filesystem(&self) -> &Filesystem {
        &self.rules.filesystem
    }
    pub fn network(&self) -> &Network {
        &self.rules.network
    }
    pub fn limits(&self) -> &Limits {
        &self.rules.limits
    }
    pub fn syscalls(&self) -> SyscallProfile {
        self.rules.syscalls
    }
    pub fn environment(&self) -> &Environment {
        &self.rules.environment
    }
    /// Sorted, each once. Contains `net` whenever the network mode is `none`.
    pub fn require(&self) -> &[Layer] {
        &self.rules.require
    }
    pub fn tests(&self) -> &[PolicyTest] {
        &self.rules.tests
    }
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }
    /// Equal for equal policies; names a policy between sandboxd and its keepers. 32 hexadecimal
    /// digits: the first half of the SHA-256 of all rules.
    pub fn digest(&self) -> String {
        self.digest.clone()
    }
    /// [`Policy::digest`] without a copy.
    pub fn digest_str(&self) -> &str {
        &self.digest
    }
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}

impl From<Rules> for Policy {
    fn from(rules: Rules) -> Self {
        Self::new(rules, Provenance::default())
    }
}

impl From<Policy> for Rules {
    fn from(policy: Policy) -> Self {
        policy.rules
    }
}
