//! Limits and counters of cgroup v2, and how its tree is made ready.
//!
//! Input: a directory and a value; output: the limit as the kernel reads it back. The tree has two
//! rules of its own: a controller works in a cgroup only when every cgroup above hands it down
//! (`cgroup.subtree_control`), and, but for the root, a cgroup that hands one down holds no
//! processes. Follows the kernel's `admin-guide/cgroup-v2.rst`.

use super::meter::{CpuMeter, MemoryEvents, MemoryMeter};
use super::{
    CPU_PERIOD_US, CgroupError, Controller, Driver, MOST_BYTES, has_swap, read, set, v1, verify, verify_bytes, write,
};
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use std::io;
use std::path::Path;

/// Where the daemon itself lives when it had to make room in its own cgroup.
pub(super) const SUPERVISOR: &str = "supervisor";
/// The weight of a project; the kernel's default, written so that it does not depend on it.
const WEIGHT: u64 = 100;

#[derive(Debug)]
pub(super) struct V2;

impl Driver for V2 {
    fn limit_memory(&self, dir: &Path, bytes: u64) -> Result<(), CgroupError> {
        let controller = MemController::new(dir.to_owned(), dir.to_owned(), true);
        let value = bytes.min(MOST_BYTES) as i64;
        let memory = dir.join("memory.max");
        set(&memory, value, controller.set_limit(value))?;
        verify_bytes(&memory, bytes)?;
        let swap = dir.join("memory.swap.max");
        if swap.exists() {
            set(&swap, 0, controller.set_memswap_limit(0))?;
            verify(&swap, "0")?;
        } else if has_swap() {
            return Err(CgroupError::SwapNotCounted { path: swap });
        }
        // The kernel kills the one process that is too big; what its parent makes of that is the
        // command's own business, as it would be outside.
        let group = dir.join("memory.oom.group");
        if group.exists() {
            write(&group, "0")?;
            verify(&group, "0")?;
        }
        Ok(())
    }

    fn limit_pids(&self, dir: &Path, pids: u64) -> Result<(), CgroupError> {
        v1::limit_pids(dir, pids, true)
    }

    fn limit_cpu(&self, dir: &Path, quota_us: u64) -> Result<(), CgroupError> {
        let controller = CpuController::new(dir.to_owned(), dir.to_owned(), true);
        let file = dir.join("cpu.max");
        set(&file, quota_us, controller.set_cfs_quota_and_period(Some(quota_us as i64), Some(CPU_PERIOD_US)))?;
        verify(&file, &format!("{quota_us} {CPU_PERIOD_US}"))
    }

    fn share_cpu_equally(&self, dir: &Path) -> Result<(), CgroupError> {
        let controller = CpuController::new(dir.to_owned(), dir.to_owned(), true);
        let weight = dir.join("cpu.weight");
        set(&weight, WEIGHT, controller.set_shares(WEIGHT))?;
        verify(&weight, &WEIGHT.to_string())
    }

    /// There is no cheaper way to join from within: it takes milliseconds after a quiet while, so
    /// an init joins when it is armed, not when it gets its command.
    fn join_file(&self) -> &'static str {
        "cgroup.procs"
    }

    fn reclaim(&self, dir: &Path) {
        if let Ok(held) = read(&dir.join("memory.current")) {
            // Only a favour to the kernel's memory, and absent before 5.19: what cannot be
            // reclaimed stays charged.
            let _ = write(&dir.join("memory.reclaim"), &held);
        }
    }

    fn memory_meter(&self, dir: &Path) -> Result<MemoryMeter, CgroupError> {
        let events = MemoryEvents::v2(&dir.join("memory.events"))?;
        MemoryMeter::open(&dir.join("memory.current"), &dir.join("memory.peak"), events)
    }

    fn cpu_meter(&self, dir: &Path) -> Result<CpuMeter, CgroupError> {
        CpuMeter::keyed(&dir.join("cpu.stat"), "usage_usec")
    }
}

/// The real root, not merely the root of a cgroup namespace: only it has no type.
pub(super) fn is_root(dir: &Path) -> bool {
    !dir.join("cgroup.type").exists()
}

/// Controllers that `dir` has.
pub(super) fn available(dir: &Path) -> Vec<String> {
    words(&dir.join("cgroup.controllers"))
}

/// Controllers that `dir` hands down to its children.
pub(super) fn handed_down(dir: &Path) -> Vec<String> {
    words(&dir.join("cgroup.subtree_control"))
}

fn words(file: &Path) -> Vec<String> {
    read(file).map(|text| text.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
}

/// Processes of other programs in `dir` itself; those that this pid namespace cannot see count too.
pub(super) fn others_in(dir: &Path) -> usize {
    let own = std::process::id().to_string();
    read(&dir.join("cgroup.procs")).map(|text| text.lines().filter(|pid| *pid != own).count()).unwrap_or_default()
}

/// Hands the controllers down from `dir` to its children.
pub(super) fn hand_down(dir: &Path, controllers: &[Controller]) -> Result<(), CgroupError> {
    let now = handed_down(dir);
    let lacking: Vec<_> = controllers
        .iter()
        .filter(|controller| **controller != Controller::CpuAccounting)
        .filter(|controller| !now.iter().any(|name| name == controller.name()))
        .map(|controller| format!("+{controller}"))
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let file = dir.join("cgroup.subtree_control");
    write(&file, &lacking.join(" "))?;
    let got = handed_down(dir);
    if lacking.iter().all(|name| got.iter().any(|have| *have == name[1..])) {
        Ok(())
    } else {
        Err(CgroupError::Differs { path: file, wanted: lacking.join(" "), got: got.join(" ") })
    }
}

/// Moves this process, with all its threads and nobody else, from `parent` into `parent/supervisor`.
pub(super) fn make_room(parent: &Path) -> Result<(), CgroupError> {
    let supervisor = parent.join(SUPERVISOR);
    match std::fs::create_dir(&supervisor) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(CgroupError::Create { path: supervisor, source }),
    }
    match write(&supervisor.join("cgroup.procs"), "0") {
        Err(CgroupError::Write { source, .. }) => Err(CgroupError::Move { path: supervisor, source }),
        other => other,
    }
}

/// Memory that a service manager has set aside for the whole of `parent` is meant for the daemon and its keepers, not
/// for commands: `memory.min` counts for those children that ask for it.
pub(super) fn pass_reserve_on(parent: &Path) {
    let file = "memory.min";
    if let Ok(reserve) = read(&parent.join(file))
        && reserve != "0"
    {
        // A favour; without it the reserve is shared with commands.
        let _ = write(&parent.join(SUPERVISOR).join(file), &reserve);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn memory_has_no_swap_and_no_group_kill() {
        let dir = directory(&[("memory.max", "max\n"), ("memory.swap.max", "max\n"), ("memory.oom.group", "1\n")]);
        V2.limit_memory(dir.path(), 3 << 20).unwrap();
        let text = |file: &str| read(&dir.path().join(file)).unwrap();
        assert_eq!(text("memory.max"), "3145728");
        assert_eq!(text("memory.swap.max"), "0");
        // A plain file keeps what a shorter write leaves behind, so only its first byte counts.
        assert!(text("memory.oom.group").starts_with('0'));
    }

    #[test]
    fn cpu_and_pids_are_written_and_read_back() {
        let dir = directory(&[("cpu.max", "max 100000\n")]);
        V2.limit_cpu(dir.path(), 50_000).unwrap();
        V2.limit_pids(dir.path(), 17).unwrap();
        V2.share_cpu_equally(dir.path()).unwrap();
        let text = |file: &str| read(&dir.path().join(file)).unwrap();
        assert_eq!([text("cpu.max"), text("pids.max"), text("cpu.weight")], ["50000 100000", "17", "100"]);
    }

    #[test]
    fn handing_down_asks_only_for_what_is_lacking() {
        let dir = directory(&[("cgroup.subtree_control", "memory pids\n")]);
        hand_down(dir.path(), &[Controller::Memory, Controller::Pids, Controller::CpuAccounting]).unwrap();
        assert_eq!(handed_down(dir.path()), ["memory", "pids"]);
        let error = hand_down(dir.path(), &[Controller::Cpu]).unwrap_err();
        assert!(matches!(error, CgroupError::Differs { .. }), "a plain file hands nothing down: {error}");
    }

    #[test]
    fn a_reserve_is_the_supervisors() {
        let dir = directory(&[("memory.min", "67108864\n")]);
        let supervisor = dir.path().join(SUPERVISOR);
        std::fs::create_dir(&supervisor).unwrap();
        std::fs::write(supervisor.join("memory.min"), "0\n").unwrap();
        pass_reserve_on(dir.path());
        assert_eq!(read(&supervisor.join("memory.min")).unwrap(), "67108864");
    }

    #[test]
    fn own_process_is_not_another() {
        let own = std::process::id();
        let dir = directory(&[("cgroup.procs", &format!("{own}\n0\n1\n"))]);
        assert_eq!(others_in(dir.path()), 2);
    }
}
