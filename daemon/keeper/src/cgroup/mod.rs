//! Cgroups: limits and usage of a project and of each of its runs, on v1, v2 and hybrid hosts.
//!
//! ```text
//! <own cgroup>/<cgroup name>/<project id>/        the project's limits as a whole
//!                            <project id>/run-N/  a leaf: the same limits for one run, used again and again
//! ```
//!
//! Input: the policy's [`Limits`](sandbox_policy::Limits); output: descriptors through which a run's
//! init joins its [`Leaf`], and [`LeafUsage`]. Each controller is looked for by itself ([`Hierarchy`]),
//! because a host may have some on v1 and some on v2, and a process may be at the root of one and
//! deep in another. Every limit that is written is read back.
//!
//! Nothing here kills or freezes: ending a run is the business of its pid namespace. In particular
//! `cgroup.kill` is never written, because a later child placed into the same cgroup by clone3(2)
//! would be killed at birth.
//!
//! Follows cgroups(7) and the kernel's `admin-guide/cgroup-v1` and `admin-guide/cgroup-v2`. All calls
//! are synchronous, and all but [`Leaf::begin`] and [`Leaf::usage`] may take milliseconds.

mod group;
mod leaf;
mod meter;
mod pool;
mod precedence;
mod probe;
mod standstill;
mod throttle;
mod v1;
mod v2;

pub use group::ProjectGroup;
pub use leaf::{Leaf, LeafUsage};
pub use pool::LeafPool;
pub use precedence::Precedence;
pub(crate) use probe::delegate;
pub use probe::{Hierarchy, Kind, Missing};
pub(crate) use standstill::Standstill;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A controller that limits or counts something for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    Memory,
    Pids,
    Cpu,
    /// Counts cpu time on v1; on v2 every cgroup does.
    CpuAccounting,
    /// On v2 only, and only when a policy asks for it.
    Io,
}

impl Controller {
    /// Those that every project has where the host has them.
    pub(crate) const ALL: [Self; 4] = [Self::Memory, Self::Pids, Self::Cpu, Self::CpuAccounting];

    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::CpuAccounting => "cpuacct",
            Self::Io => "io",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a cgroup could not be made, limited, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("{0:?} cannot name a cgroup: 1 to 64 of a-z, 0-9 and '-' can")]
    Name(String),
    #[error("cannot create cgroup {path}: {source}")]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot open {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {value:?} to {path}: {source}")]
    Write { path: PathBuf, value: String, source: io::Error },
    /// The kernel took the value and did something else with it.
    #[error("{path} was set to {wanted} but reads {got}")]
    Differs { path: PathBuf, wanted: String, got: String },
    /// The memory limit would not hold.
    #[error("swap is in use and {path} is missing: boot with swapaccount=1 or run swapoff -a")]
    SwapNotCounted { path: PathBuf },
    #[error("cannot move this process into cgroup {path}: {source}")]
    Move { path: PathBuf, source: io::Error },
    #[error("cannot remove cgroup {path}: {source}")]
    Remove { path: PathBuf, source: io::Error },
    /// The speed of disks would not be limited.
    #[error("the speed of disks is limited by the `io` controller of cgroup v2, which is not there")]
    NoIo,
    #[error(transparent)]
    NoDisk(#[from] throttle::NoDisk),
}

/// How long a quota lasts; the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel refuses shorter quotas.
const MIN_CPU_QUOTA_US: u64 = 1_000;

/// Processor time per [`CPU_PERIOD_US`] for so many processors.
fn cpu_quota_us(processors: f64) -> u64 {
    // A float cast saturates, so a nonsensical number of processors is merely a useless limit.
    ((processors * CPU_PERIOD_US as f64).round() as u64).clamp(MIN_CPU_QUOTA_US, CPU_PERIOD_US * 10_000)
}

/// The two kernel interfaces. Each function sets one limit of one directory and reads it back.
trait Driver: fmt::Debug + Send + Sync {
    /// Memory including swap; the kernel rounds down to pages.
    fn limit_memory(&self, dir: &Path, bytes: u64) -> Result<(), CgroupError>;
    fn limit_pids(&self, dir: &Path, pids: u64) -> Result<(), CgroupError>;
    fn limit_cpu(&self, dir: &Path, quota_us: u64) -> Result<(), CgroupError>;
    /// The same weight as every sibling.
    fn share_cpu_equally(&self, dir: &Path) -> Result<(), CgroupError>;
    /// The file into which a process writes `0` to join.
    fn join_file(&self) -> &'static str;
    /// Gives page cache back, as far as that goes: a removed memory cgroup lives on in the kernel
    /// while anything is charged to it.
    fn reclaim(&self, dir: &Path);
    fn memory_meter(&self, dir: &Path) -> Result<meter::MemoryMeter, CgroupError>;
    fn cpu_meter(&self, dir: &Path) -> Result<meter::CpuMeter, CgroupError>;
}

/// Which interface a hierarchy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Version {
    fn driver(self) -> &'static dyn Driver {
        match self {
            Self::V1 => &v1::V1,
            Self::V2 => &v2::V2,
        }
    }

    /// The file with the bytes that are charged to a cgroup now.
    fn memory_held(self) -> &'static str {
        match self {
            Self::V1 => "memory.usage_in_bytes",
            Self::V2 => "memory.current",
        }
    }

    /// The file with the limit on them.
    fn memory_limit(self) -> &'static str {
        match self {
            Self::V1 => "memory.limit_in_bytes",
            Self::V2 => "memory.max",
        }
    }
}

/// A setter of the cgroups crate, with its error told as the kernel's.
fn set(path: &Path, value: impl fmt::Display, result: cgroups_rs::fs::error::Result<()>) -> Result<(), CgroupError> {
    result.map_err(|error| {
        let errno = std::error::Error::source(&error)
            .and_then(|cause| cause.downcast_ref::<io::Error>())
            .and_then(io::Error::raw_os_error);
        let source = errno.map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error);
        CgroupError::Write { path: path.to_owned(), value: value.to_string(), source }
    })
}

/// Writes to a file that exists; never creates one, not even in a directory that is no cgroup.
fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    use std::io::Write;
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|source| CgroupError::Write { path: path.to_owned(), value: value.to_owned(), source })
}

fn read(path: &Path) -> Result<String, CgroupError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(source) => Err(CgroupError::Read { path: path.to_owned(), source }),
    }
}

/// The limit in `path` is `wanted`.
fn verify(path: &Path, wanted: &str) -> Result<(), CgroupError> {
    let got = read(path)?;
    if got == wanted {
        Ok(())
    } else {
        Err(CgroupError::Differs { path: path.to_owned(), wanted: wanted.to_owned(), got })
    }
}

/// The limit in `path` is `wanted`, or `wanted` in whole pages.
fn verify_bytes(path: &Path, wanted: u64) -> Result<(), CgroupError> {
    let got = read(path)?;
    let page = rustix::param::page_size() as u64;
    // "max" is what v2 makes of everything beyond what it can count.
    let read = if got == "max" { Some(u64::MAX) } else { got.parse::<u64>().ok() };
    match read {
        Some(bytes) if bytes == wanted || bytes == wanted - wanted % page => Ok(()),
        Some(bytes) if wanted > MOST_BYTES && bytes >= MOST_BYTES => Ok(()),
        _ => Err(CgroupError::Differs { path: path.to_owned(), wanted: wanted.to_string(), got }),
    }
}

/// Beyond this the kernel counts no memory.
const MOST_BYTES: u64 = i64::MAX as u64 - 1024 * 1024;

fn has_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_follow_processors_and_stay_in_range() {
        assert_eq!(cpu_quota_us(2.0), 200_000);
        assert_eq!(cpu_quota_us(0.25), 25_000);
        assert_eq!(cpu_quota_us(0.0), MIN_CPU_QUOTA_US);
        assert_eq!(cpu_quota_us(-1.0), MIN_CPU_QUOTA_US);
        assert_eq!(cpu_quota_us(f64::NAN), MIN_CPU_QUOTA_US);
        assert_eq!(cpu_quota_us(f64::INFINITY), CPU_PERIOD_US * 10_000);
    }

    #[test]
    fn a_limit_that_reads_differently_names_file_wanted_and_got() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("memory.max");
        std::fs::write(&file, "max\n").unwrap();
        let error = verify_bytes(&file, 4096).unwrap_err();
        assert_eq!(error.to_string(), format!("{} was set to 4096 but reads max", file.display()));
        std::fs::write(&file, "98304\n").unwrap();
        assert!(verify_bytes(&file, 100_003).is_ok(), "whole pages are what the kernel can do");
        assert!(verify_bytes(&file, 110_000).is_err());
        assert!(verify(&file, "98304").is_ok());
    }

    #[test]
    fn write_never_creates_a_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write(&dir.path().join("memory.max"), "1").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
