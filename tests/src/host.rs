//! Looking at the host from outside the sandbox: processes, memory, descriptors. See proc(5).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// An argument for `sleep`, about fifty minutes, that no other process on this host has: by it the
/// processes of one test are found, wherever they hid.
pub fn marker() -> String {
    format!("3000.{}", unique())
}

/// Digits that nobody else has.
pub fn unique() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    format!("{:07}{:04}{nanos:09}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// All processes that this user can see.
pub fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Live processes in whose arguments a text stands. Ours (`sandboxctl …`) do not count.
pub fn processes_with(text: &str) -> Vec<u32> {
    let ours = std::process::id();
    let has = |pid: &u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        arguments.contains(text) && !comm(*pid).starts_with("sandboxctl") && *pid != ours
    };
    processes().into_iter().filter(has).collect()
}

/// The name of a program, as the kernel keeps it; empty when the process is gone.
pub fn comm(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// Processes named `sandbox-keeper` that hold something open below a folder, or were started by `daemon`.
pub fn keepers(folder: &Path, daemon: u32) -> Vec<u32> {
    let is_one = |pid: &u32| comm(*pid) == "sandbox-keeper" && (parent(*pid) == Some(daemon) || holds(*pid, folder));
    processes().into_iter().filter(is_one).collect()
}

fn holds(pid: u32, folder: &Path) -> bool {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| target.starts_with(folder))
}

/// The parent, from the fourth field of `stat`; the second one, the name, may contain anything.
pub fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A process and everything that descends from it.
pub fn family(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = processes().into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut family = vec![pid];
    let mut at = 0;
    while at < family.len() {
        let elder = family[at];
        family.extend(parents.iter().filter(|(_, parent)| *parent == elder).map(|(pid, _)| *pid));
        at += 1;
    }
    family
}

/// A line of `status` in KiB, such as `VmHWM` or `VmRSS`.
pub fn status_kib(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A line of `/proc/meminfo`.
pub fn meminfo_kib(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Memory that is this process's own share, in KiB.
pub fn pss_kib(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What a process's descriptors point at; none when we may not know.
pub fn descriptors(pid: u32) -> Option<Vec<PathBuf>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    Some(entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).collect())
}

/// Lines of the mount table.
pub fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table is readable");
    table.lines().map(str::to_owned).collect()
}

/// How many times longer than elsewhere things may take here: `SANDBOX_TESTS_PATIENCE`, 1 when not set. For
/// machines without hardware of their own.
pub fn patience() -> u32 {
    std::env::var("SANDBOX_TESTS_PATIENCE").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Tries until it is true; whether it became so in time.
pub fn eventually(within: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let give_up = Instant::now() + within;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() > give_up {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asserts that nothing with this marker lives, within the second that the kernel may need.
#[track_caller]
pub fn assert_gone(marker: &str) {
    let gone = eventually(Duration::from_secs(1), || processes_with(marker).is_empty());
    assert!(gone, "still alive: {:?}", processes_with(marker));
}

/// Asserts that something with this marker lives.
#[track_caller]
pub fn assert_alive(marker: &str) {
    let alive = eventually(Duration::from_secs(5), || !processes_with(marker).is_empty());
    assert!(alive, "nothing with {marker} is running");
}

/// Cgroups with one of these names in any mounted tree, and all below them.
pub fn cgroups(names: &[String]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect_cgroups(Path::new("/sys/fs/cgroup"), names, false, 0, &mut found);
    found
}

fn collect_cgroups(folder: &Path, names: &[String], below: bool, depth: u32, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) || depth > 8 {
            continue;
        }
        let below = below || names.contains(&entry.file_name().to_string_lossy().into_owned());
        if below {
            found.push(entry.path());
        }
        collect_cgroups(&entry.path(), names, below, depth + 1, found);
    }
}
