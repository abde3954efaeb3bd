//! The layers of isolation that a policy may insist on.
//!
//! Whether this host can give a layer is not known here; the keeper compares. See namespaces(7),
//! landlock(7), seccomp(2), cgroups(7).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A layer of isolation that a policy may require.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// User namespace.
    User,
    /// PID namespace.
    Pid,
    /// Mount namespace and private view.
    Mnt,
    /// Network namespace.
    Net,
    /// IPC namespace.
    Ipc,
    /// UTS namespace.
    Uts,
    /// Cgroup namespace.
    Cgroup,
    /// Landlock domain.
    Landlock,
    /// System call filter.
    Seccomp,
    /// Memory, cpu and pids limits by cgroup and not by rlimits.
    Limits,
    /// An own host id range for the project.
    Ids,
}

impl Layer {
    pub const ALL: [Self; 11] = [
        Self::User,
        Self::Pid,
        Self::Mnt,
        Self::Net,
        Self::Ipc,
        Self::Uts,
        Self::Cgroup,
        Self::Landlock,
        Self::Seccomp,
        Self::Limits,
        Self::Ids,
    ];

    /// The word in a policy file.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Pid => "pid",
            Self::Mnt => "mnt",
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::Limits => "limits",
            Self::Ids => "ids",
        }
    }

    /// What is certain when the layer is in force.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::User => "commands have no rights outside their own user namespace",
            Self::Pid => "commands see and signal only processes of their own run",
            Self::Mnt => "commands see a file tree of their own",
            Self::Net => "commands have a network of their own",
            Self::Ipc => "commands share no memory, semaphores or queues with others",
            Self::Uts => "commands see a host name of their own",
            Self::Cgroup => "commands do not see the host's cgroup tree",
            Self::Landlock => "the kernel checks file rules a second time, beside the view",
            Self::Seccomp => "only listed system calls reach the kernel",
            Self::Limits => "memory, cpu and process limits hold for all processes of a run together",
            Self::Ids => "the project has host user ids that nobody else has",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_words_of_the_file() {
        for layer in Layer::ALL {
            assert_eq!(serde_json::to_value(layer).expect("a word"), layer.name());
        }
    }
}
