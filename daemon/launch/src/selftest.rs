//! What a new sandbox is tried with before its first command: one forbidden act for each layer.
//!
//! The keeper says what is outside; an init, isolated like any other, tries to reach it and reports each act
//! that was not refused. That init runs no command.

use crate::plan::{Resource, Rlimit};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is outside, and what has to hold inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTest {
    /// The keeper's own namespaces that the sandbox does not share, as `/proc/self/ns` names them.
    pub namespaces: Vec<(Layer, String)>,
    /// A path that is there outside and has no place in the view.
    pub hidden: String,
    /// A process outside, by its number there.
    pub outsider: i32,
    /// The abstract name of a socket that listens outside; absent when the network is shared.
    pub listener: Option<Vec<u8>>,
    pub uid: u32,
    pub gid: u32,
    pub rlimits: Vec<Rlimit>,
    /// The kernel has Landlock.
    pub landlock: bool,
}

/// A layer of the isolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Layer {
    User,
    Mnt,
    Pid,
    Net,
    Ipc,
    Uts,
    Cgroup,
    Ids,
    Capabilities,
    Landlock,
    Seccomp,
    Rlimits,
    /// Membership of the cgroup that has the limits; seen from outside.
    Limits,
}

impl Layer {
    /// As receipts and `[require]` name it; for namespaces, as `/proc/self/ns` does.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Mnt => "mnt",
            Self::Pid => "pid",
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::Ids => "ids",
            Self::Capabilities => "capabilities",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::Rlimits => "rlimits",
            Self::Limits => "limits",
        }
    }

    /// Those that `/proc/self/ns` has.
    pub const NAMESPACES: [Self; 7] = [Self::User, Self::Mnt, Self::Pid, Self::Net, Self::Ipc, Self::Uts, Self::Cgroup];
}

/// An act that should have been refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breach {
    pub layer: Layer,
    /// What was possible, as a sentence's end: `see /var/lib/sandboxd`.
    pub act: String,
}

impl Breach {
    pub fn new(layer: Layer, act: impl Into<String>) -> Self {
        Self { layer, act: act.into() }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the layer {} let a command {}", self.layer.name(), self.act)
    }
}

/// What getrlimit(2) calls a limit.
impl From<Resource> for rustix::process::Resource {
    fn from(resource: Resource) -> Self {
        match resource {
            Resource::Data => Self::Data,
            Resource::Core => Self::Core,
            Resource::FileSize => Self::Fsize,
            Resource::MemoryLock => Self::Memlock,
            Resource::OpenFiles => Self::Nofile,
            Resource::Processes => Self::Nproc,
        }
    }
}
