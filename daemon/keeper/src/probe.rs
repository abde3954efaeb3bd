//! What this kernel and this user may do.
//!
//! Input: `/proc`, `/sys`, the environment; output: [`Host`], what was looked up, and [`Examination`], what was
//! tried as well: each kernel feature by a launcher in a process of its own. The doctor's lines come from both, and
//! so do the sentences of receipts and refusals. Looking takes a few milliseconds, trying some twenty.

mod doctor;
mod examination;
mod mend;

pub(crate) use doctor::{gaps, sentence};
pub use examination::Examination;

use crate::cgroup::Hierarchy;
use crate::mounts::{self, Mount};
use crate::subordinate::{Lack, Subordinate};
use std::path::{Path, PathBuf};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Such as `6.1.0-18-amd64`.
    pub kernel: String,
    pub uid: u32,
    pub privilege: Privilege,
    /// Ids that this process's user namespace maps: 2³² − 1 on a plain host, fewer in a rootless container.
    pub mapped_ids: u64,
    /// `None` without Landlock.
    pub landlock_abi: Option<u32>,
    pub user_namespaces: UserNamespaces,
    pub container: Option<Container>,
    pub cgroups: Hierarchy,
    /// Pressure stall information can be read from `/proc/pressure`; with `psi=0` the file is there and cannot.
    pub pressure: bool,
    /// This process runs under a seccomp filter already, as in a container.
    pub filtered: bool,
    /// The AppArmor profile that confines this process.
    pub apparmor: Option<String>,
    /// What hides or write-protects parts of `/proc`: with any of it, a process without privilege
    /// cannot mount a `/proc` of its own.
    pub proc_masks: Vec<PathBuf>,
    /// What hides or write-protects parts of `/sys`.
    pub sys_masks: Vec<PathBuf>,
    /// `vm.memfd_noexec`: 2 forbids to execute from memory.
    pub memfd_noexec: u8,
    /// Ids that root has set aside for this user.
    pub subordinate: Result<Subordinate, Lack>,
    pub programs: Vec<Program>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Root with CAP_SYS_ADMIN over the host's own user namespace.
    Host,
    /// CAP_SYS_ADMIN over a user namespace only, as in a rootless container.
    Namespace,
    /// An ordinary user, or root without the capability, as in a usual container.
    None,
}

impl Privilege {
    pub fn of_this_process() -> Self {
        privilege(&text("/proc/self/status"), &text("/proc/self/uid_map"))
    }

    /// May mount, and open what is mounted, without a user namespace first.
    pub fn is_some(self) -> bool {
        self != Self::None
    }
}

/// Whether an ordinary user may make user namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserNamespaces {
    Allowed,
    /// The sysctl that forbids it, and the value that would allow it.
    Forbidden {
        sysctl: &'static str,
        allow: &'static str,
    },
    /// The kernel has none.
    Absent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// `docker`, `podman`, `kubernetes`, `lxc`, …; `unknown` when only the namespaces tell.
    pub engine: String,
}

/// A program that commands may need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub name: &'static str,
    pub path: Option<PathBuf>,
}

/// What the shipped policies are for.
const PROGRAMS: [&str; 5] = ["sh", "node", "npm", "git", "python3"];

impl Host {
    /// Looks at the running system.
    pub fn probe() -> Self {
        let mounts = mounts::own_mounts();
        let status = text("/proc/self/status");
        let uid_map = text("/proc/self/uid_map");
        Self {
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            uid: rustix::process::geteuid().as_raw(),
            privilege: privilege(&status, &uid_map),
            mapped_ids: mapped_ids(&uid_map),
            landlock_abi: sandbox_launch::sys::landlock_abi(),
            user_namespaces: user_namespaces(Path::new("/proc")),
            container: container(),
            cgroups: Hierarchy::detect(),
            pressure: !text("/proc/pressure/memory").is_empty(),
            filtered: status_field(&status, "Seccomp:") == Some("2"),
            apparmor: confined(&text("/proc/self/attr/current")),
            proc_masks: proc_masks(&mounts),
            sys_masks: points(&mounts, |mount| mount.point.starts_with("/sys") && hides_sys(mount)),
            memfd_noexec: text("/proc/sys/vm/memfd_noexec").trim().parse().unwrap_or_default(),
            subordinate: Subordinate::find(find_program),
            programs: PROGRAMS.map(|name| Program { name, path: find_program(name) }).into(),
        }
    }

    /// Major and minor number of the kernel.
    pub fn kernel_version(&self) -> (u32, u32) {
        let mut numbers = self.kernel.split(|byte: char| !byte.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

/// A file's text; empty when it cannot be read, which for everything here means the same as absent.
fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn privilege(status: &str, uid_map: &str) -> Privilege {
    const CAP_SYS_ADMIN: u32 = 21;
    let effective =
        status_field(status, "CapEff:").and_then(|set| u64::from_str_radix(set, 16).ok()).unwrap_or_default();
    if effective >> CAP_SYS_ADMIN & 1 == 0 {
        return Privilege::None;
    }
    // Only the host's own user namespace maps every id to itself.
    match words(uid_map).as_slice() {
        [inside, outside, count] if inside == "0" && outside == "0" && count == "4294967295" => Privilege::Host,
        _ => Privilege::Namespace,
    }
}

/// A line of `/proc/<pid>/status`.
fn status_field<'text>(status: &'text str, name: &str) -> Option<&'text str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// `name (enforce)`; other security modules and unconfined processes say something else.
fn confined(attribute: &str) -> Option<String> {
    Some(attribute.trim_end_matches(['\0', '\n']).strip_suffix(" (enforce)")?.to_owned())
}

fn mapped_ids(uid_map: &str) -> u64 {
    uid_map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum()
}

/// `proc` is `/proc`, or a test's.
fn user_namespaces(proc: &Path) -> UserNamespaces {
    if !proc.join("self/ns/user").exists() {
        return UserNamespaces::Absent;
    }
    let value = |name: &str| text(proc.join("sys").join(name.replace('.', "/"))).trim().to_owned();
    // Absent means allowed: the last two exist only where a distribution added them.
    for (sysctl, forbidding, allow) in [
        ("user.max_user_namespaces", "0", "15000"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ] {
        if value(sysctl) == forbidding {
            return UserNamespaces::Forbidden { sysctl, allow };
        }
    }
    UserNamespaces::Allowed
}

/// A container has namespaces of its own; marker files alone are not enough, because they stay when
/// an image is turned into a machine's disk.
fn container() -> Option<Container> {
    // include/linux/proc_ns.h: the numbers of the first namespaces are fixed.
    const FIRST: [(&str, &str); 3] = [("pid", "4026531836"), ("uts", "4026531838"), ("cgroup", "4026531835")];
    let own = FIRST.iter().any(|(name, first)| {
        std::fs::read_link(format!("/proc/self/ns/{name}"))
            .is_ok_and(|link| link.to_string_lossy() != format!("{name}:[{first}]"))
    });
    own.then(|| Container { engine: engine(&|path| Path::new(path).exists(), &text("/run/systemd/container")) })
}

fn engine(exists: &dyn Fn(&str) -> bool, said: &str) -> String {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if !variable("KUBERNETES_SERVICE_HOST").is_empty() {
        "kubernetes".to_owned()
    } else if exists("/run/.containerenv") {
        "podman".to_owned()
    } else if exists("/.dockerenv") {
        "docker".to_owned()
    } else if !said.trim().is_empty() {
        said.trim().to_owned()
    } else if !variable("container").is_empty() {
        variable("container")
    } else {
        "unknown".to_owned()
    }
}

/// The kernel lets an unprivileged process mount `/proc` only if it sees all of one already: nothing
/// mounted over parts of it, save on directories that are there to be mounted on, and not read-only.
fn proc_masks(mounts: &[Mount]) -> Vec<PathBuf> {
    const MOUNT_POINTS: [&str; 3] = ["/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd", "/proc/openprom"];
    let hides = |mount: &Mount| {
        let below = mount.point.starts_with("/proc") && mount.point != Path::new("/proc");
        let read_only = mount.point == Path::new("/proc") && mount.is_read_only();
        below && !MOUNT_POINTS.iter().any(|point| mount.point == Path::new(point)) || read_only
    };
    points(mounts, hides)
}

/// Other file systems than those that belong there, or a read-only one.
fn hides_sys(mount: &Mount) -> bool {
    const BELONG: [&str; 11] = [
        "sysfs",
        "cgroup",
        "cgroup2",
        "securityfs",
        "debugfs",
        "tracefs",
        "configfs",
        "pstore",
        "bpf",
        "efivarfs",
        "fusectl",
    ];
    let cgroup_folder = mount.point == Path::new("/sys/fs/cgroup") && mount.filesystem == "tmpfs";
    mount.is_read_only() || !(cgroup_folder || BELONG.contains(&mount.filesystem.as_str()))
}

fn points(mounts: &[Mount], wanted: impl Fn(&Mount) -> bool) -> Vec<PathBuf> {
    let mut points: Vec<_> = mounts.iter().filter(|mount| wanted(mount)).map(|mount| mount.point.clone()).collect();
    points.sort();
    points.dedup();
    points
}

/// The first executable file of that name on the path, or where every system has its programs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|file| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privilege_is_a_capability_and_where_it_counts() {
        let status = |set: &str| format!("Uid:\t0\t0\t0\t0\nCapInh:\t0\nCapEff:\t{set}\nCapBnd:\tff\n");
        let whole = "         0          0 4294967295\n";
        assert_eq!(privilege(&status("000001ffffffffff"), whole), Privilege::Host);
        assert_eq!(privilege(&status("000001ffffffffff"), "0 1000 1\n1 100000 65536\n"), Privilege::Namespace);
        // What a container's root has.
        assert_eq!(privilege(&status("00000000a80425fb"), whole), Privilege::None);
        assert_eq!(privilege("", ""), Privilege::None);
        assert_eq!((mapped_ids(whole), mapped_ids("0 1000 1\n1 100000 65536\n")), (4_294_967_295, 65_537));
    }

    #[test]
    fn any_of_three_sysctls_forbids_user_namespaces() {
        let proc = tempfile::tempdir().unwrap();
        assert_eq!(user_namespaces(proc.path()), UserNamespaces::Absent);
        let set = |name: &str, value: &str| {
            let path = proc.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, value).unwrap();
        };
        set("self/ns/user", "");
        assert_eq!(user_namespaces(proc.path()), UserNamespaces::Allowed);
        set("sys/user/max_user_namespaces", "96365\n");
        set("sys/kernel/apparmor_restrict_unprivileged_userns", "0\n");
        assert_eq!(user_namespaces(proc.path()), UserNamespaces::Allowed);
        set("sys/kernel/apparmor_restrict_unprivileged_userns", "1\n");
        assert_eq!(
            user_namespaces(proc.path()),
            UserNamespaces::Forbidden { sysctl: "kernel.apparmor_restrict_unprivileged_userns", allow: "0" }
        );
        set("sys/user/max_user_namespaces", "0\n");
        assert_eq!(
            user_namespaces(proc.path()),
            UserNamespaces::Forbidden { sysctl: "user.max_user_namespaces", allow: "15000" }
        );
    }

    #[test]
    fn masks_of_proc_are_what_hides_something() {
        let mounts = mounts::parse(
            b"23 1 0:5 / /proc rw,nosuid - proc proc rw\n\
              24 23 0:6 / /proc/sys/fs/binfmt_misc rw - binfmt_misc binfmt_misc rw\n\
              25 23 0:7 / /proc/kcore rw - tmpfs tmpfs rw\n\
              26 23 0:5 /bus /proc/bus ro - proc proc rw\n\
              27 1 0:8 / /process rw - ext4 /dev/sda rw,prjquota\n",
        );
        assert_eq!(proc_masks(&mounts), [PathBuf::from("/proc/bus"), PathBuf::from("/proc/kcore")]);
    }

    #[test]
    fn only_an_enforced_profile_confines() {
        assert_eq!(confined("docker-default (enforce)\n"), Some("docker-default".to_owned()));
        assert_eq!((confined("unconfined\n"), confined("a (complain)\n"), confined("")), (None, None, None));
    }

    #[test]
    fn engines_are_told_by_their_marks() {
        assert_eq!(engine(&|path| path == "/.dockerenv", ""), "docker");
        assert_eq!(engine(&|path| path == "/run/.containerenv", "oci\n"), "podman");
        assert_eq!(engine(&|_| false, "lxc\n"), "lxc");
    }

    #[test]
    fn this_host_is_probed() {
        let host = Host::probe();
        assert!(host.kernel_version() >= (3, 0), "{}", host.kernel);
        assert!(host.programs.iter().any(|program| program.name == "sh" && program.path.is_some()));
        assert_eq!(host, Host::probe(), "looking changes nothing");
    }
}
