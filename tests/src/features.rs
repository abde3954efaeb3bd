//! What this host has, and what of it a test needs.
//!
//! `SANDBOX_REQUIRE=all`, or a list such as `cgroup,landlock`, turns skipping into failing.

use crate::Daemon;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// Folders of programs that are in a sandbox's view as well.
const PROGRAM_FOLDERS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// Whether the calling test has to be skipped; says what is missing, where capturing does not hide it.
///
/// # Panics
/// When something is missing that `SANDBOX_REQUIRE` lists.
#[track_caller]
pub fn skip(features: &[&str]) -> bool {
    let Some((feature, reason)) = features.iter().find_map(|name| Some((*name, missing(name)?))) else {
        return false;
    };
    let required = std::env::var("SANDBOX_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|item| item.trim() == "all" || item.trim() == feature);
    assert!(!required, "needs {feature}, which SANDBOX_REQUIRE asks for: {reason}");
    let thread = std::thread::current();
    // Not eprintln!, which the test runner would hold back for tests that pass.
    let _ = writeln!(std::io::stderr(), "skipped: {} needs {feature}: {reason}", thread.name().unwrap_or("a test"));
    true
}

/// Whether this host has a feature.
pub fn has(feature: &str) -> bool {
    missing(feature).is_none()
}

/// Whether this process is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Why a feature is not there; `None` when it is.
fn missing(feature: &str) -> Option<String> {
    static KNOWN: OnceLock<Mutex<BTreeMap<String, Option<String>>>> = OnceLock::new();
    let known = KNOWN.get_or_init(Mutex::default);
    if let Some(known) = known.lock().expect("no probe panics").get(feature) {
        return known.clone();
    }
    let found = probe(feature);
    known.lock().expect("no probe panics").insert(feature.to_owned(), found.clone());
    found
}

fn probe(feature: &str) -> Option<String> {
    let unless = |there: bool, reason: &str| if there { None } else { Some(reason.to_owned()) };
    match feature {
        "root" => unless(is_root(), "not root"),
        "cgroup" => unless(cgroup(), "no cgroup with a memory controller can be made by this user"),
        "io" => unless(
            cgroup() && io_controller() && temporary_files_are_on_a_disk(),
            "no io controller of cgroup v2 for this user, or temporary files on no disk",
        ),
        "landlock" => unless(landlock(), "the receipt of a run names no Landlock ABI"),
        "seccomp" => unless(
            fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("Seccomp:")),
            "this kernel has no seccomp",
        ),
        "user" | "pid" | "mnt" | "net" | "ipc" | "uts" => unless(
            succeeds(
                "unshare",
                &["--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "true"],
            ) || (is_root() && succeeds("unshare", &["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "true"])),
            "unshare(1) cannot make namespaces",
        ),
        "bwrap" => unless(
            succeeds("bwrap", &["--ro-bind", "/", "/", "--unshare-all", "true"]),
            "bwrap is not installed or does not work",
        ),
        "second-user" => unless(
            is_root() && succeeds("setpriv", &["--reuid=65534", "--regid=65534", "--clear-groups", "true"]),
            "only root can become somebody else",
        ),
        "postgres" => unless(crate::postgres::can_start(), "PostgreSQL's server is not installed"),
        "pip" => unless(succeeds("python3", &["-m", "pip", "--version"]), "Python's package manager is not installed"),
        "network" => npm_reaches_its_registry(),
        "subordinate" => subordinate(),
        "x86_64" => unless(cfg!(target_arch = "x86_64"), "another processor"),
        "node" | "npm" | "git" | "python3" | "gcc" | "make" | "chromium" | "script" | "setsid" | "ps" | "free" => {
            let there = PROGRAM_FOLDERS.iter().any(|folder| Path::new(folder).join(feature).exists());
            unless(there, "not installed below /usr")
        }
        other => panic!("there is no feature named {other}"),
    }
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Makes a cgroup below our own in the hierarchy with the memory controller, and removes it.
fn cgroup() -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = crate::host::mounts();
    let name = format!("sandbox-tests-probe-{}", crate::host::unique());
    let probes = mounts.iter().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, at) = (place.next()?, place.next()?);
        let fields: Vec<&str> = kind.split(' ').collect();
        let controllers = match *fields.first()? {
            "cgroup" if fields.last()?.split(',').any(|option| option == "memory") => "memory",
            "cgroup2" => "",
            _ => return None,
        };
        let path = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let mine = parts.next()?.split(',').any(|controller| controller == controllers);
            if mine { parts.next() } else { None }
        })?;
        // A container may be shown a part of the tree, at any place.
        let folder = Path::new(at).join(Path::new(path).strip_prefix(root).ok()?);
        let limits = controllers == "memory"
            || fs::read_to_string(folder.join("cgroup.controllers")).is_ok_and(|list| list.contains("memory"));
        Some(limits && fs::create_dir(folder.join(&name)).is_ok() && fs::remove_dir(folder.join(&name)).is_ok())
    });
    // All of them are tried: every one removes what it made.
    probes.filter(|works| *works).count() > 0
}

/// In our own cgroup of version 2, as mounted where everybody mounts it.
fn io_controller() -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let controllers = Path::new("/sys/fs/cgroup").join(path).join("cgroup.controllers");
    fs::read_to_string(controllers).is_ok_and(|list| list.split_whitespace().any(|name| name == "io"))
}

/// On one whose file system tells the kernel who writes.
fn temporary_files_are_on_a_disk() -> bool {
    use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, statfs};
    let kind = statfs(&std::env::temp_dir()).map(|found| found.filesystem_type());
    kind.is_ok_and(|kind| [BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC].contains(&kind))
}

fn landlock() -> bool {
    Daemon::shared().project().run("true").enforced.landlock_abi.is_some()
}

/// Root has set ids aside for this ordinary user, and the two programs that map them are there.
fn subordinate() -> Option<String> {
    if is_root() {
        return Some("root has all ids".to_owned());
    }
    if !["newuidmap", "newgidmap"].iter().all(|name| Path::new("/usr/bin").join(name).exists()) {
        return Some("newuidmap and newgidmap are not installed".to_owned());
    }
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten()?.name;
    let listed = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| line.split(':').next() == Some(user.as_str()))
    };
    let both = listed("/etc/subuid") && listed("/etc/subgid");
    if both { None } else { Some(format!("/etc/subuid and /etc/subgid do not name {user}")) }
}

/// As a sandbox would: without this user's own settings.
fn npm_reaches_its_registry() -> Option<String> {
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut npm = Command::new("npm");
    npm.args(["view", "is-number", "version", "--userconfig", "/dev/null", "--cache"]).arg(home.path());
    npm.args(["--fetch-retries=0", "--fetch-timeout=15000"]);
    npm.current_dir(home.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = npm.spawn() else { return Some("npm is not installed".to_owned()) };
    let mut status = None;
    let ended = crate::host::eventually(Duration::from_secs(30), || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    });
    if !ended {
        // It has had its time; being gone already is as good.
        let _ = child.kill();
        let _ = child.wait();
    }
    match status {
        Some(status) if status.success() => None,
        _ => Some("'npm view is-number' gets no answer".to_owned()),
    }
}
