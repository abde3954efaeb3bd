//! Which list of system calls a policy picks.
//!
//! The lists themselves belong to the launcher; a policy only names one. See seccomp(2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// `[syscalls] profile`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SyscallProfile {
    /// What compilers, package managers, interpreters and servers use.
    #[default]
    Default,
    /// Without what only debuggers and rare programs use.
    Strict,
}

impl SyscallProfile {
    /// The word in a policy file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Strict => "strict",
        }
    }

    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Default => {
                "system calls of compilers, package managers and servers; none for mounts, namespaces, keys, bpf, \
                 perf, io_uring, userfaultfd"
            }
            Self::Strict => "as the default profile, without what only debuggers and rare programs use",
        }
    }
}

impl fmt::Display for SyscallProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
