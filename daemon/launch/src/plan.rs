//! The launch plan: everything the launcher does, decided beforehand by the keeper.
//!
//! Output of `keeper/plan.rs`, input of the launcher. Paths under `at` are as seen inside and
//! absolute; paths under `source` are the host's.

use serde::{Deserialize, Serialize};

/// Made once per project and policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// Started with the host's CAP_SYS_ADMIN: sources are opened before the user namespace is entered.
    pub privileged: bool,
    /// An own network namespace, with `lo` up; otherwise the host's is shared.
    pub own_network: bool,
    pub hostname: String,
    /// The ids commands run as, inside the user namespace.
    pub uid: u32,
    pub gid: u32,
    /// Carried out in order in the launcher's mount namespace; they make the root directory.
    pub view: Vec<ViewStep>,
    /// Processors that commands may use; empty for all.
    pub cpus: Vec<u32>,
    pub rlimits: Vec<Rlimit>,
    pub landlock: LandlockPlan,
    /// Loaded once the view stands; inherited by all that follows.
    pub seccomp: Vec<BpfInstruction>,
    pub init: InitPlan,
}

/// What each armed init does for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitPlan {
    /// Mounts of the init's own namespace, such as `/proc`.
    pub view: Vec<ViewStep>,
    /// On top of the launcher's: closes what an init needed to get ready.
    pub seccomp: Vec<BpfInstruction>,
    /// A command may start in these directories and below.
    pub writable_roots: Vec<String>,
}

/// One step of making a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ViewStep {
    /// A directory, with its parents, on the view's own tmpfs.
    Directory {
        at: String,
        mode: u32,
    },
    /// A small file with this content on the view's own tmpfs.
    File {
        at: String,
        content: Vec<u8>,
        mode: u32,
    },
    Symlink {
        at: String,
        target: String,
    },
    /// A host file or folder with all mounts below it.
    Bind {
        source: String,
        at: String,
        access: Access,
        devices: bool,
        ids: Option<IdMap>,
    },
    /// A file or folder of the view again, at a second place, read-only.
    Again {
        from: String,
        at: String,
    },
    Tmpfs {
        at: String,
        size_bytes: u64,
        inodes: u64,
        mode: u32,
    },
    /// A new procfs of the pid namespace the step is carried out in.
    Proc {
        at: String,
    },
    /// A new devpts instance.
    Devpts {
        at: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

/// An id-mapped mount: `on_disk` on the filesystem is `on_host` for whoever uses the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    pub on_disk_uid: u32,
    pub on_disk_gid: u32,
    pub on_host_uid: u32,
    pub on_host_gid: u32,
}

/// setrlimit(2): soft and hard limit are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    pub resource: Resource,
    pub limit: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resource {
    /// Private writable memory of one process, where no cgroup limits it.
    Data,
    Core,
    FileSize,
    MemoryLock,
    OpenFiles,
    Processes,
}

/// A Landlock ruleset; whatever the kernel's ABI does not know is left out, and the receipt says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandlockPlan {
    pub rules: Vec<LandlockRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandlockRule {
    /// At and below this path of the view; skipped where it does not exist.
    pub at: String,
    pub grant: Grant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grant {
    /// Read, list and execute.
    Read,
    /// Read and write what is there, and ioctl on devices; nothing new.
    Use,
    /// All rights but making devices.
    Write,
}

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BpfInstruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// One command, as an armed init receives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunPlan {
    pub argv: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub cwd: String,
}
