//! The steps that make a project's view, and an init's part of it.
//!
//! What a command sees: the host's programs and libraries read-only, a few composed files in `/etc`,
//! the project's home and workspace, a private `/tmp`, a minimal `/dev`, its own `/proc`. A path
//! of the host that is a symbolic link stays one where its target is in the view, and is resolved
//! once, here, where it is not. Nothing below the workspace or home is ever resolved on the host.

use crate::api::KeeperSpec;
use crate::plan::{Facts, GID, HOME, PlanError, UID, WORKSPACE};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use sandbox_launch::plan::{Access, IdMap, ViewStep};
use sandbox_policy::{Limits, MountMode, NetworkMode, Policy};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files of our own that inits show at other places; on the view's read-only root.
const OWN: &str = "/run/sandbox";

/// Devices that are safe for everybody.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Kernel keys: shown to whoever has the host id of their owner, which is the keeper's own where a
/// project has none to itself.
const MASKED: [&str; 2] = ["/proc/keys", "/proc/key-users"];

pub(crate) fn of_project(
    policy: &Policy,
    spec: &KeeperSpec,
    facts: &Facts,
    cpus: &[u32],
) -> Result<Vec<ViewStep>, PlanError> {
    let mut steps = host_parts(&policy.filesystem().read);
    steps.extend(etc(policy, spec));
    steps.extend(devices(policy.limits()));
    steps.extend(system(policy.limits(), facts, cpus));
    steps.push(ViewStep::Tmpfs {
        at: "/tmp".into(),
        size_bytes: policy.limits().tmp_bytes,
        inodes: inodes_for(policy.limits().tmp_bytes),
        mode: 0o1777,
    });
    steps.push(link("/var/tmp", "../tmp"));
    for mount in &policy.filesystem().mount {
        steps.push(ViewStep::Bind {
            source: mount.host.clone(),
            at: mount.at.clone(),
            access: if mount.mode == MountMode::Rw { Access::ReadWrite } else { Access::ReadOnly },
            devices: false,
            ids: None,
        });
    }
    steps.extend(project(spec, facts)?);
    steps.extend(denied(&policy.filesystem().deny, spec));
    Ok(steps)
}

/// Mounts of each init's own: its `/proc`.
pub(crate) fn of_init(privileged: bool) -> Vec<ViewStep> {
    let mut steps = vec![ViewStep::Proc { at: "/proc".into() }, again(&format!("{OWN}/meminfo"), "/proc/meminfo")];
    if !privileged {
        steps.extend(MASKED.iter().filter(|path| Path::new(path).exists()).map(|path| again("/dev/null", path)));
    }
    steps
}

/// One inode for each 4 KiB: so many empty files cannot hold more kernel memory than full ones.
fn inodes_for(bytes: u64) -> u64 {
    (bytes / 4096).max(1024)
}

/// The host's read-only parts that exist here.
fn host_parts(read: &[String]) -> Vec<ViewStep> {
    let mut steps = Vec::new();
    let mut bound: Vec<PathBuf> = Vec::new();
    let mut paths: Vec<&String> = read.iter().collect();
    // Parents first, so that what a parent already shows is not mounted twice.
    paths.sort();
    for at in paths {
        let path = Path::new(at);
        if bound.iter().any(|parent| path.starts_with(parent)) {
            continue;
        }
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let mut source = path.to_owned();
        if metadata.is_symlink() {
            let Ok(target) = std::fs::read_link(path) else { continue };
            if read.iter().any(|root| root != at && absolute(path, &target).starts_with(root)) {
                steps.push(link(at, &target.to_string_lossy()));
                continue;
            }
            let Ok(real) = path.canonicalize() else { continue };
            source = real;
        }
        let mut copy = Copy::default();
        if copy.take(&source, at) {
            steps.extend(copy.steps);
            bound.push(path.to_owned());
            continue;
        }
        let Some(source) = source.to_str() else { continue };
        steps.push(ViewStep::Bind {
            source: source.to_owned(),
            at: at.clone(),
            access: Access::ReadOnly,
            devices: false,
            ids: None,
        });
        bound.push(path.to_owned());
    }
    steps
}

/// Small parts of `/etc` are copied: every mount of the view costs each init two microseconds to be
/// born with and to die with.
#[derive(Default)]
struct Copy {
    steps: Vec<ViewStep>,
    bytes: u64,
}

const COPIED_BYTES: u64 = 128 * 1024;
const COPIED_STEPS: usize = 100;

impl Copy {
    /// Takes a file, link or folder with all below it. `false` when it is too large, or holds
    /// something that is not for everybody to read; then it is mounted.
    fn take(&mut self, source: &Path, at: &str) -> bool {
        let Ok(metadata) = source.symlink_metadata() else { return false };
        if self.steps.len() >= COPIED_STEPS || !at.starts_with("/etc/") {
            return false;
        }
        if metadata.is_symlink() {
            let target = std::fs::read_link(source).ok().and_then(|target| target.into_os_string().into_string().ok());
            let Some(target) = target else { return false };
            self.steps.push(link(at, &target));
            return true;
        }
        let everybody = if metadata.is_dir() { 0o005 } else { 0o004 };
        if metadata.mode() & everybody != everybody {
            return false;
        }
        if metadata.is_dir() {
            self.steps.push(directory(at));
            let Ok(entries) = std::fs::read_dir(source) else { return false };
            // Counted before any of them is looked at: some folders of links are long.
            let entries: Vec<_> = entries.take(COPIED_STEPS).collect();
            return self.steps.len() + entries.len() <= COPIED_STEPS
                && entries.into_iter().all(|entry| {
                    let Ok(entry) = entry else { return false };
                    let name = entry.file_name();
                    name.to_str().is_some_and(|name| self.take(&entry.path(), &format!("{at}/{name}")))
                });
        }
        self.bytes += metadata.len();
        if !metadata.is_file() || self.bytes > COPIED_BYTES {
            return false;
        }
        let Ok(content) = std::fs::read(source) else { return false };
        let mode = 0o444 | metadata.mode() & 0o111;
        self.steps.push(ViewStep::File { at: at.to_owned(), content, mode });
        true
    }
}

/// Where a link points, without looking at the filesystem.
fn absolute(link: &Path, target: &Path) -> PathBuf {
    let mut result = PathBuf::from("/");
    for part in link.parent().unwrap_or(Path::new("/")).join(target).components() {
        match part {
            std::path::Component::Normal(name) => result.push(name),
            std::path::Component::ParentDir => {
                result.pop();
            }
            _ => {}
        }
    }
    result
}

/// Users, groups, names: composed, so that the host's accounts do not show.
fn etc(policy: &Policy, spec: &KeeperSpec) -> Vec<ViewStep> {
    let passwd = format!(
        "root:x:0:0:root:/root:/usr/sbin/nologin\nuser:x:{UID}:{GID}:user:{HOME}:/bin/sh\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    );
    let group = format!("root:x:0:\ntty:x:5:\nuser:x:{GID}:\nnogroup:x:65534:\n");
    let mut hosts = format!("127.0.0.1 localhost {}\n::1 localhost ip6-localhost ip6-loopback\n", spec.hostname);
    let mut resolver = String::new();
    if policy.network().mode == NetworkMode::Host {
        // With the host's network come the host's names.
        hosts.push_str(&std::fs::read_to_string("/etc/hosts").unwrap_or_default());
        resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    }
    let mut steps = vec![
        file("/etc/passwd", &passwd),
        file("/etc/group", &group),
        file("/etc/hosts", &hosts),
        file("/etc/hostname", &format!("{}\n", spec.hostname)),
        file("/etc/resolv.conf", &resolver),
        link("/etc/mtab", "../proc/self/mounts"),
    ];
    if !policy.filesystem().read.iter().any(|path| path == "/etc/nsswitch.conf") {
        steps.push(file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"));
    }
    steps
}

fn devices(limits: &Limits) -> Vec<ViewStep> {
    let mut steps = vec![
        ViewStep::Devpts { at: "/dev/pts".into() },
        ViewStep::Tmpfs {
            at: "/dev/shm".into(),
            size_bytes: limits.tmp_bytes,
            inodes: inodes_for(limits.tmp_bytes),
            mode: 0o1777,
        },
    ];
    for name in DEVICES {
        let path = format!("/dev/{name}");
        if Path::new(&path).exists() {
            let access = Access::ReadWrite;
            steps.push(ViewStep::Bind { source: path.clone(), at: path, access, devices: true, ids: None });
        }
    }
    for (at, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ] {
        steps.push(link(at, target));
    }
    steps
}

/// `/proc`, the little of `/sys` that programs count processors with, and our own files.
fn system(limits: &Limits, facts: &Facts, cpus: &[u32]) -> Vec<ViewStep> {
    let cpus = if cpus.is_empty() { &facts.cpus } else { cpus };
    let list = format!("{}\n", cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(","));
    let mut steps = vec![ViewStep::Proc { at: "/proc".into() }, directory("/run"), directory("/var")];
    for name in ["online", "possible", "present"] {
        steps.push(file(&format!("/sys/devices/system/cpu/{name}"), &list));
    }
    let memory_kib = limits.memory_bytes.min(facts.memory_total_bytes) / 1024;
    steps.push(file(&format!("{OWN}/meminfo"), &meminfo(memory_kib)));
    steps.push(ViewStep::File { at: format!("{OWN}/denied-file"), content: Vec::new(), mode: 0 });
    steps.push(ViewStep::Directory { at: format!("{OWN}/denied-folder"), mode: 0 });
    steps
}

/// What `free` and run-time systems size themselves by: the limit, of which all is free at the start.
fn meminfo(total_kib: u64) -> String {
    let mut text = String::new();
    for (name, kib) in [
        ("MemTotal", total_kib),
        ("MemFree", total_kib),
        ("MemAvailable", total_kib),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", 0),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Shmem", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("CommitLimit", total_kib),
        ("Committed_AS", 0),
    ] {
        text.push_str(&format!("{:<15} {kib:>8} kB\n", format!("{name}:")));
    }
    text
}

/// Home and workspace, writable.
fn project(spec: &KeeperSpec, facts: &Facts) -> Result<Vec<ViewStep>, PlanError> {
    let (home, workspace) = (spec.home(), spec.workspace());
    let failed = |source| PlanError::Workspace { path: workspace.clone(), source };
    let owner = workspace.metadata().map_err(failed)?;
    if !owner.is_dir() {
        return Err(failed(std::io::ErrorKind::NotADirectory.into()));
    }
    // The folder's owner, whoever it is, is the user inside, and files stay the owner's.
    let ids = match (spec.id_base, &spec.dir) {
        (Some(base), Some(_)) if facts.privileged => Some(IdMap {
            on_disk_uid: owner.uid(),
            on_disk_gid: owner.gid(),
            on_host_uid: base + UID,
            on_host_gid: base + GID,
        }),
        _ => None,
    };
    let bind = |source: &Path, at: &str, ids| {
        let source = source.to_str().map(str::to_owned);
        source.map(|source| ViewStep::Bind {
            source,
            at: at.to_owned(),
            access: Access::ReadWrite,
            devices: false,
            ids,
        })
    };
    let not_utf8 = || failed(std::io::Error::new(std::io::ErrorKind::InvalidFilename, "its name is not UTF-8"));
    Ok(vec![bind(&home, HOME, None).ok_or_else(not_utf8)?, bind(&workspace, WORKSPACE, ids).ok_or_else(not_utf8)?])
}

/// Covers what is there and denied with something that nobody may open.
fn denied(deny: &[String], spec: &KeeperSpec) -> Vec<ViewStep> {
    let present = deny.iter().filter_map(|at| {
        let cover = if denied_kind(at, spec)? { "denied-folder" } else { "denied-file" };
        Some(again(&format!("{OWN}/{cover}"), at))
    });
    present.collect()
}

/// Which of the denied paths that commands could make exist now: when this changes, the sandbox has
/// to be made again. Those of the host are looked at once.
pub(crate) fn denied_now(policy: &Policy, spec: &KeeperSpec) -> Vec<Option<bool>> {
    let own = |at: &&String| Path::new(at.as_str()).starts_with(HOME);
    policy.filesystem().deny.iter().filter(own).map(|at| denied_kind(at, spec)).collect()
}

/// Whether a denied path is a folder; `None` when it is not there. No link is followed.
fn denied_kind(at: &str, spec: &KeeperSpec) -> Option<bool> {
    let path = Path::new(at);
    let (root, rest) = if let Ok(rest) = path.strip_prefix(WORKSPACE) {
        (spec.workspace(), rest)
    } else if let Ok(rest) = path.strip_prefix(HOME) {
        (spec.home(), rest)
    } else {
        (PathBuf::from("/"), path.strip_prefix("/").ok()?)
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(&root, flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let found = rustix::fs::openat2(&root, rest, flags | OFlags::NOFOLLOW, Mode::empty(), resolve).ok()?;
    let stat = rustix::fs::fstat(&found).ok()?;
    Some(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}

fn directory(at: &str) -> ViewStep {
    ViewStep::Directory { at: at.to_owned(), mode: 0o755 }
}

fn file(at: &str, content: &str) -> ViewStep {
    ViewStep::File { at: at.to_owned(), content: content.as_bytes().to_vec(), mode: 0o444 }
}

fn link(at: &str, target: &str) -> ViewStep {
    ViewStep::Symlink { at: at.to_owned(), target: target.to_owned() }
}

fn again(from: &str, at: &str) -> ViewStep {
    ViewStep::Again { from: from.to_owned(), at: at.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_resolved_by_name_only() {
        let at = |link: &str, target: &str| absolute(Path::new(link), Path::new(target));
        assert_eq!(at("/bin", "usr/bin"), Path::new("/usr/bin"));
        assert_eq!(at("/etc/localtime", "../usr/share/zoneinfo/UTC"), Path::new("/usr/share/zoneinfo/UTC"));
        assert_eq!(at("/etc/x", "/run/x"), Path::new("/run/x"));
        assert_eq!(at("/a", "../../../b"), Path::new("/b"));
    }

    #[test]
    fn meminfo_has_the_kernels_shape() {
        assert_eq!(meminfo(2048).lines().next(), Some("MemTotal:           2048 kB"));
    }
}
