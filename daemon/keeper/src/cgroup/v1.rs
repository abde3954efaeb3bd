//! Limits and counters of cgroup v1: one hierarchy per controller, or some mounted together.
//!
//! Input: a directory and a value; output: the limit as the kernel reads it back. Follows the
//! kernel's `admin-guide/cgroup-v1/memory.rst`, `pids.rst` and `scheduler/sched-bwc.rst`.

use super::meter::{CpuMeter, MemoryEvents, MemoryMeter};
use super::{CPU_PERIOD_US, CgroupError, Driver, MOST_BYTES, has_swap, read, set, verify, verify_bytes, write};
use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use std::path::Path;

/// The weight of a project; the kernel's default, written so that it does not depend on it.
const SHARES: u64 = 1024;

#[derive(Debug)]
pub(super) struct V1;

impl Driver for V1 {
    /// Sets memory and memory-with-swap to the same value. The second may never be below the
    /// first, so the order depends on the direction.
    fn limit_memory(&self, dir: &Path, bytes: u64) -> Result<(), CgroupError> {
        use_hierarchy(dir)?;
        let controller = MemController::new(dir.to_owned(), dir.to_owned(), false);
        let value = bytes.min(MOST_BYTES) as i64;
        let memory = dir.join("memory.limit_in_bytes");
        let total = dir.join("memory.memsw.limit_in_bytes");
        let before = read(&total).ok().and_then(|text| text.parse::<u64>().ok());
        let Some(before) = before else {
            set(&memory, value, controller.set_limit(value))?;
            verify_bytes(&memory, bytes)?;
            return if has_swap() { never_swap(dir, &controller) } else { Ok(()) };
        };
        if bytes > before {
            set(&total, value, controller.set_memswap_limit(value))?;
        }
        set(&memory, value, controller.set_limit(value))?;
        set(&total, value, controller.set_memswap_limit(value))?;
        verify_bytes(&memory, bytes)?;
        verify_bytes(&total, bytes)
    }

    fn limit_pids(&self, dir: &Path, pids: u64) -> Result<(), CgroupError> {
        limit_pids(dir, pids, false)
    }

    fn limit_cpu(&self, dir: &Path, quota_us: u64) -> Result<(), CgroupError> {
        let controller = CpuController::new(dir.to_owned(), dir.to_owned(), false);
        let quota = dir.join("cpu.cfs_quota_us");
        set(&quota, quota_us, controller.set_cfs_quota_and_period(Some(quota_us as i64), Some(CPU_PERIOD_US)))?;
        verify(&quota, &quota_us.to_string())?;
        verify(&dir.join("cpu.cfs_period_us"), &CPU_PERIOD_US.to_string())
    }

    fn share_cpu_equally(&self, dir: &Path) -> Result<(), CgroupError> {
        let controller = CpuController::new(dir.to_owned(), dir.to_owned(), false);
        let shares = dir.join("cpu.shares");
        set(&shares, SHARES, controller.set_shares(SHARES))?;
        verify(&shares, &SHARES.to_string())
    }

    /// `0` in `tasks` moves the calling thread alone, which spares the lock that `cgroup.procs`
    /// takes: tens of microseconds instead of milliseconds. The caller has one thread.
    fn join_file(&self) -> &'static str {
        "tasks"
    }

    fn reclaim(&self, dir: &Path) {
        // Only a favour to the kernel's memory: what cannot be reclaimed stays charged.
        let _ = write(&dir.join("memory.force_empty"), "0");
    }

    fn memory_meter(&self, dir: &Path) -> Result<MemoryMeter, CgroupError> {
        let events = MemoryEvents::v1(&dir.join("memory.oom_control"), &dir.join("memory.failcnt"))?;
        MemoryMeter::open(&dir.join("memory.usage_in_bytes"), &dir.join("memory.max_usage_in_bytes"), events)
    }

    fn cpu_meter(&self, dir: &Path) -> Result<CpuMeter, CgroupError> {
        CpuMeter::nanoseconds(&dir.join("cpuacct.usage"))
    }
}

/// `pids.max` is the same file in both versions.
pub(super) fn limit_pids(dir: &Path, pids: u64, v2: bool) -> Result<(), CgroupError> {
    let controller = PidController::new(dir.to_owned(), dir.to_owned(), v2);
    let file = dir.join("pids.max");
    set(&file, pids, controller.set_pid_max(MaxValue::Value(pids as i64)))?;
    verify(&file, &pids.to_string())
}

/// Kernels before 5.11 count children towards their parent only when told so, before there are any.
fn use_hierarchy(dir: &Path) -> Result<(), CgroupError> {
    let file = dir.join("memory.use_hierarchy");
    match read(&file) {
        Ok(value) if value == "0" => {
            write(&file, "1")?;
            verify(&file, "1")
        }
        // The file goes away one day; then there is only the one behaviour.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Without a limit on swap, the next best is not to swap this cgroup.
fn never_swap(dir: &Path, controller: &MemController) -> Result<(), CgroupError> {
    let file = dir.join("memory.swappiness");
    if !file.exists() {
        return Err(CgroupError::SwapNotCounted { path: dir.join("memory.memsw.limit_in_bytes") });
    }
    set(&file, 0, controller.set_swappiness(0))?;
    verify(&file, "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that takes any value; what the kernel makes of it is tested on the kernel.
    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn memory_and_memory_with_swap_are_the_same() {
        let dir = directory(&[
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.memsw.limit_in_bytes", "9223372036854771712\n"),
            ("memory.use_hierarchy", "0\n"),
        ]);
        V1.limit_memory(dir.path(), 1 << 20).unwrap();
        for file in ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"] {
            assert_eq!(read(&dir.path().join(file)).unwrap(), "1048576");
        }
        assert_eq!(read(&dir.path().join("memory.use_hierarchy")).unwrap(), "1");
    }

    #[test]
    fn pids_and_cpu_are_written_and_read_back() {
        let dir = directory(&[]);
        V1.limit_pids(dir.path(), 65).unwrap();
        V1.limit_cpu(dir.path(), 150_000).unwrap();
        V1.share_cpu_equally(dir.path()).unwrap();
        let text = |file: &str| read(&dir.path().join(file)).unwrap();
        assert_eq!(
            [text("pids.max"), text("cpu.cfs_quota_us"), text("cpu.cfs_period_us"), text("cpu.shares")],
            ["65", "150000", "100000", "1024"]
        );
    }

    #[test]
    fn a_directory_that_is_gone_is_an_error_with_its_file() {
        let error = V1.limit_pids(Path::new("/nonexistent/leaf"), 5).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot write \"5\" to /nonexistent/leaf/pids.max: No such file or directory (os error 2)"
        );
    }
}
