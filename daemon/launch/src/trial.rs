//! What a host may allow or refuse: the doctor's questions to a launcher, and its answers.
//!
//! A launcher that is asked makes no sandbox. It tries each thing in a process of its own, which ends with
//! whatever it made, in the way in which a sandbox would be made.

use crate::report::Report;
use crate::selftest::Layer;
use serde::{Deserialize, Serialize};

/// One thing to try. All but the last two begin in a new user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Trial {
    /// To make a namespace of this kind; for `User`, to map one id there, for `Uts`, to name the host.
    Namespace(Layer),
    /// To mount a file system in memory, and a part of the host's files, in a new mount namespace.
    Mount,
    /// To mount `/proc` for a new pid namespace.
    Proc,
    /// To bring the loopback interface of a new network namespace up.
    Loopback,
    /// To lay one folder over another.
    Overlay,
    /// To speak to nf_tables in a new network namespace.
    NfTables,
    /// To restrict itself by Landlock, and to be refused a file then.
    Landlock,
    /// To load the filter of system calls, and to be refused one then.
    Seccomp,
}

impl Trial {
    pub const ALL: [Self; 14] = [
        Self::Namespace(Layer::User),
        Self::Namespace(Layer::Mnt),
        Self::Namespace(Layer::Pid),
        Self::Namespace(Layer::Net),
        Self::Namespace(Layer::Ipc),
        Self::Namespace(Layer::Uts),
        Self::Namespace(Layer::Cgroup),
        Self::Mount,
        Self::Proc,
        Self::Loopback,
        Self::Overlay,
        Self::NfTables,
        Self::Landlock,
        Self::Seccomp,
    ];
}

/// How a trial ended: `None` as in a sandbox, or what was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub trial: Trial,
    pub refused: Option<Report>,
}
