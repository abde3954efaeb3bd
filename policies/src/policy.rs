//! A resolved and valid policy.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a project's commands may do. Made only by resolving a policy file; serialised between
/// sandboxd and its keepers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
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
    pub mount: Vec<Mount>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub host: String,
    pub at: String,
    pub mode: MountMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountMode {
    Ro,
    Rw,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub mode: NetworkMode,
    pub allow: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    None,
    Filtered,
    Host,
}

/// Limits of a project's sandbox as a whole and of each run in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    pub memory_bytes: u64,
    /// Processors, such as 2.0 or 0.5.
    pub cpu: f64,
    pub pids: u32,
    pub disk_bytes: u64,
    pub tmp_bytes: u64,
    pub open_files: u32,
    /// Journal bytes kept per run.
    pub output_bytes: u64,
    pub timeout_ms: u64,
    pub max_timeout_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyscallProfile {
    Default,
    Strict,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    pub set: BTreeMap<String, String>,
    /// Names passed on from the daemon's own environment, where it has them.
    pub pass: Vec<String>,
}

/// A layer of isolation that a policy may require.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    User,
    Pid,
    Mnt,
    Net,
    Ipc,
    Uts,
    Cgroup,
    Landlock,
    Seccomp,
    /// Memory, cpu and pids limits by cgroup and not by rlimits.
    Limits,
    /// An own host id range for the project.
    Ids,
}

/// A claim that `policy check` runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyTest {
    pub command: String,
    pub expect: Expectation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expectation {
    Allowed,
    Denied,
}

impl Policy {
    pub fn name(&self) -> &str {
        &self.name
    }
    pub fn description(&self) -> &str {
        &self.description
    }
    pub fn filesystem(&self) -> &Filesystem {
        &self.filesystem
    }
    pub fn network(&self) -> &Network {
        &self.network
    }
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
    pub fn syscalls(&self) -> SyscallProfile {
        self.syscalls
    }
    pub fn environment(&self) -> &Environment {
        &self.environment
    }
    pub fn require(&self) -> &[Layer] {
        &self.require
    }
    pub fn tests(&self) -> &[PolicyTest] {
        &self.tests
    }
    /// Equal for equal policies; names a policy between sandboxd and its keepers.
    pub fn digest(&self) -> String {
        String::new()
    }
}
