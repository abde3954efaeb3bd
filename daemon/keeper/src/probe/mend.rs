//! Who forbids something, and how to make it allow it: the mends of the doctor's lines.
//!
//! A refusal has one errno and many causes: a sysctl, a container's filter of system calls, AppArmor, a unit's
//! hardening. What was looked up on the host tells them apart.

use super::{Host, UserNamespaces};
use crate::cgroup::{CgroupError, Kind, delegate};
use sandbox_launch::report::Report;
use sandbox_launch::selftest::Layer;

/// Of a user namespace that could not be made.
pub(super) fn user_namespace(host: &Host, report: &Report) -> String {
    match &host.user_namespaces {
        UserNamespaces::Forbidden { sysctl, allow } => format!("sudo sysctl -w {sysctl}={allow}"),
        UserNamespaces::Absent => "use a kernel with CONFIG_USER_NS=y".to_owned(),
        UserNamespaces::Allowed => namespace(host, Layer::User, report),
    }
}

/// Of a namespace that could not be made. The kernel says `ENOSPC` (before 4.9 `EUSERS`) when there are too many.
pub(super) fn namespace(host: &Host, layer: Layer, report: &Report) -> String {
    if matches!(report.errno, libc::ENOSPC | libc::EUSERS) {
        return format!("sudo sysctl -w user.max_{}_namespaces=15000", layer.name());
    }
    if host.filtered {
        return profile(host);
    }
    match &host.apparmor {
        Some(name) => apparmor(host, name),
        None => "leave the chroot(2) that this process is in, or allow user namespaces to ordinary users".to_owned(),
    }
}

/// Of a mount or an interface that was refused inside a user namespace that could be made.
pub(super) fn mount(host: &Host) -> String {
    match (&host.user_namespaces, &host.apparmor) {
        (UserNamespaces::Forbidden { sysctl, allow }, _) => format!("sudo sysctl -w {sysctl}={allow}"),
        (_, Some(name)) => apparmor(host, name),
        _ if host.filtered => profile(host),
        _ => "use a kernel of at least 5.12".to_owned(),
    }
}

/// Of a `/proc` that is hidden in parts.
pub(super) fn unmask(host: &Host) -> String {
    match host.container {
        Some(_) => {
            "start the container with --security-opt systempaths=unconfined \
            (podman: --security-opt 'unmask=/proc/*')"
        }
        None => "take ProtectKernelTunables= and ProtectKernelLogs= out of the unit that starts this",
    }
    .to_owned()
}

/// Of the `io` controller of cgroup v2, or of a disk that it cannot limit.
pub(super) fn disk_rate(host: &Host, error: &CgroupError) -> String {
    match (error, host.cgroups.kind()) {
        (CgroupError::NoDisk(_), _) => "sandboxd serve --state FOLDER, on ext4, xfs, btrfs or f2fs".to_owned(),
        (_, Kind::None) => "mend the lines of cgroup limits above first".to_owned(),
        (_, Kind::V1 | Kind::Hybrid) => "boot with systemd.unified_cgroup_hierarchy=1".to_owned(),
        (_, Kind::V2) => delegate("cpu io memory pids"),
    }
}

/// Of a filter of system calls that this process is under.
pub(super) fn profile(host: &Host) -> String {
    match host.container {
        Some(_) => "start the container with --security-opt seccomp=contrib/seccomp.json, the profile that comes \
            with this program (or seccomp=unconfined)"
            .to_owned(),
        None => "take RestrictNamespaces= and SystemCallFilter= out of the unit that starts this".to_owned(),
    }
}

fn apparmor(host: &Host, profile: &str) -> String {
    match host.container {
        Some(_) => "start the container with --security-opt apparmor=unconfined".to_owned(),
        None => format!("allow `userns,` and mounts in AppArmor's profile {profile}, or start this unconfined"),
    }
}
