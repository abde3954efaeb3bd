//! What launcher and init report: which step failed, with which errno, on what.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A step that failed. The parent turns it into words for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Report {
    pub step: Step,
    /// errno(3); 0 when no system call failed.
    pub errno: i32,
    /// The path, name or number that the step was working on.
    pub subject: String,
}

impl Report {
    pub fn new(step: Step, error: impl Into<Errno>, subject: impl Into<String>) -> Self {
        Self { step, errno: error.into().0, subject: subject.into() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.step)?;
        if !self.subject.is_empty() {
            write!(f, " {}", self.subject)?;
        }
        if self.errno != 0 {
            write!(f, ": {}", std::io::Error::from_raw_os_error(self.errno))?;
        }
        Ok(())
    }
}

/// An errno from whichever library made the call.
#[derive(Debug, Clone, Copy)]
pub struct Errno(pub i32);

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl From<nix::errno::Errno> for Errno {
    fn from(errno: nix::errno::Errno) -> Self {
        Self(errno as i32)
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(0))
    }
}

impl From<i32> for Errno {
    fn from(errno: i32) -> Self {
        Self(errno)
    }
}

/// The steps, in the order in which they are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Step {
    ReadPlan,
    Try,
    OpenSource,
    OfferMemory,
    MapIds,
    EnterUserNamespace,
    SetIds,
    EnterNamespaces,
    Hostname,
    Loopback,
    NfTables,
    MakeView,
    Mount,
    PivotRoot,
    LockCapabilities,
    Fork,
    JoinCgroup,
    EnterCgroupNamespace,
    Affinity,
    Rlimit,
    DropCapabilities,
    Landlock,
    Seccomp,
    Stdio,
    CwdNotFound,
    CwdOutside,
    Exec,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadPlan => "read the plan",
            Self::Try => "try",
            Self::OpenSource => "open the mount source",
            Self::OfferMemory => "come first when memory runs out:",
            Self::MapIds => "map the ids of",
            Self::EnterUserNamespace => "enter a user namespace",
            Self::SetIds => "become",
            Self::EnterNamespaces => "enter the namespaces",
            Self::Hostname => "set the host name",
            Self::Loopback => "bring up the loopback interface",
            Self::NfTables => "speak to nf_tables",
            Self::MakeView => "make in the view",
            Self::Mount => "mount",
            Self::PivotRoot => "make the view the root directory",
            Self::LockCapabilities => "lock the capability",
            Self::Fork => "fork",
            Self::JoinCgroup => "join the cgroup leaf",
            Self::EnterCgroupNamespace => "enter a cgroup namespace",
            Self::Affinity => "set the processors",
            Self::Rlimit => "set the limit",
            Self::DropCapabilities => "drop the capabilities",
            Self::Landlock => "restrict by Landlock",
            Self::Seccomp => "load the seccomp filter",
            Self::Stdio => "set up standard input and output",
            Self::CwdNotFound => "start in",
            Self::CwdOutside => "start outside the writable folders, in",
            Self::Exec => "execute",
        })
    }
}
