//! The doctor's lines: each with what was found, what is used meanwhile, and the command that mends it.
//!
//! Input: [`Host`]; output: [`DoctorLine`]s in the order in which the layers are set up.

use super::{Host, Privilege, UserNamespaces};
use crate::cgroup::Kind;
use sandbox_wire::{DoctorLine, DoctorStatus};
use std::path::PathBuf;

/// Id-mapped mounts and mount_setattr(2), which everything rests on.
const OLDEST_KERNEL: (u32, u32) = (5, 12);
/// Landlock 4 also rules over TCP ports, 6 over signals and abstract sockets.
const GOOD_LANDLOCK_ABI: u32 = 6;
/// The host ids that one project has to itself.
const IDS_PER_PROJECT: u64 = 65_536;

fn ok(check: &str, found: impl Into<String>) -> DoctorLine {
    DoctorLine {
        check: check.to_owned(),
        status: DoctorStatus::Ok,
        found: found.into(),
        meanwhile: String::new(),
        mend: String::new(),
    }
}

fn degraded(check: &str, found: impl Into<String>, meanwhile: &str, mend: impl Into<String>) -> DoctorLine {
    DoctorLine {
        status: DoctorStatus::Degraded,
        meanwhile: meanwhile.to_owned(),
        mend: mend.into(),
        ..ok(check, found)
    }
}

fn missing(check: &str, found: impl Into<String>, meanwhile: &str, mend: impl Into<String>) -> DoctorLine {
    DoctorLine { status: DoctorStatus::Missing, ..degraded(check, found, meanwhile, mend) }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl Host {
    /// What this host can enforce, judged by what was looked up; whoever tries things appends.
    pub fn doctor(&self) -> Vec<DoctorLine> {
        let mut lines = vec![self.kernel_line(), self.user_line(), self.user_namespace_line()];
        lines.extend(self.container_line());
        lines.extend([self.proc_line(), self.landlock_line(), self.seccomp_line(), self.memfd_line()]);
        lines.extend(self.cgroup_lines());
        lines.extend([self.disk_line(), self.pressure_line(), self.overlay_line()]);
        lines.extend(self.program_lines());
        lines
    }

    fn kernel_line(&self) -> DoctorLine {
        if self.kernel_version() >= OLDEST_KERNEL {
            ok("kernel", &self.kernel)
        } else {
            missing(
                "kernel",
                &self.kernel,
                "nothing can run",
                "install a kernel of at least 5.12; 6.1 or newer is advised",
            )
        }
    }

    fn user_line(&self) -> DoctorLine {
        match self.privilege {
            Privilege::Host => ok("user", format!("uid {}, with CAP_SYS_ADMIN on this host", self.uid)),
            Privilege::Namespace if self.mapped_ids >= 2 * IDS_PER_PROJECT => ok(
                "user",
                format!("uid {}, with CAP_SYS_ADMIN in a user namespace of {} ids", self.uid, self.mapped_ids),
            ),
            Privilege::Namespace | Privilege::None => degraded(
                "user",
                format!("uid {}, without ids to give to projects", self.uid),
                "all projects run as this user's single id, kept apart by namespaces and not by ids",
                "sudo sandboxd serve",
            ),
        }
    }

    fn user_namespace_line(&self) -> DoctorLine {
        const CHECK: &str = "user namespaces";
        let (found, mend) = match &self.user_namespaces {
            UserNamespaces::Allowed => return ok(CHECK, "allowed"),
            UserNamespaces::Forbidden { sysctl, allow } => {
                (format!("forbidden by {sysctl}"), format!("sudo sysctl -w {sysctl}={allow}"))
            }
            UserNamespaces::Absent => {
                ("not in this kernel".to_owned(), "use a kernel with CONFIG_USER_NS=y".to_owned())
            }
        };
        match (self.privilege, &self.user_namespaces) {
            // AppArmor's rule and Debian's switch are for ordinary users only.
            (Privilege::Host, UserNamespaces::Forbidden { sysctl, .. }) if sysctl.starts_with("kernel.") => {
                ok(CHECK, format!("{found} for ordinary users; this daemon is root"))
            }
            _ => missing(CHECK, found, "nothing can be isolated", mend),
        }
    }

    fn container_line(&self) -> Option<DoctorLine> {
        let container = self.container.as_ref()?;
        Some(ok("container", format!("inside {}", container.engine)))
    }

    fn proc_line(&self) -> DoctorLine {
        const CHECK: &str = "/proc";
        if self.proc_masks.is_empty() {
            ok(CHECK, "fully visible")
        } else if self.privilege == Privilege::Host {
            ok(CHECK, format!("partly hidden ({}), which does not matter to root", list(&self.proc_masks)))
        } else {
            missing(
                CHECK,
                format!("partly hidden: {}", list(&self.proc_masks)),
                "a run cannot have a /proc of its own",
                "start the container with --security-opt systempaths=unconfined (podman: unmask=ALL)",
            )
        }
    }

    fn landlock_line(&self) -> DoctorLine {
        const CHECK: &str = "landlock";
        match self.landlock_abi {
            Some(abi) if abi >= GOOD_LANDLOCK_ABI => ok(CHECK, format!("ABI {abi}")),
            Some(abi) => degraded(
                CHECK,
                format!("ABI {abi}"),
                "file rules are enforced; signals and abstract sockets are kept in by namespaces alone",
                "use a kernel of at least 6.12",
            ),
            None => missing(
                CHECK,
                "not in this kernel, or not switched on",
                "file rules rest on the mounts of the view alone",
                "boot with lsm=landlock,$(cat /sys/kernel/security/lsm), on a kernel of at least 5.13",
            ),
        }
    }

    fn seccomp_line(&self) -> DoctorLine {
        if self.seccomp_actions.iter().any(|action| action == "errno") {
            ok("seccomp", self.seccomp_actions.join(" "))
        } else {
            missing(
                "seccomp",
                "no filters",
                "system calls are not filtered",
                "use a kernel with CONFIG_SECCOMP_FILTER=y",
            )
        }
    }

    fn memfd_line(&self) -> DoctorLine {
        if self.memfd_noexec < 2 {
            ok("memfd", format!("vm.memfd_noexec = {}", self.memfd_noexec))
        } else {
            missing(
                "memfd",
                "vm.memfd_noexec = 2 forbids programs in memory",
                "the launcher cannot start",
                "sudo sysctl -w vm.memfd_noexec=1",
            )
        }
    }

    fn cgroup_lines(&self) -> Vec<DoctorLine> {
        const CHECK: &str = "cgroup limits";
        let mut lines = Vec::new();
        if self.cgroups.kind() != Kind::None {
            lines.push(ok(CHECK, self.cgroups.kind().as_str()));
        }
        for reason in self.cgroups.missing() {
            let names = reason.controllers.iter().map(|controller| controller.name()).collect::<Vec<_>>().join(", ");
            lines.push(degraded(
                CHECK,
                format!("none by {names}: {}", reason.why),
                "rlimits, which count per process and per user, take their place",
                &reason.mend,
            ));
        }
        lines
    }

    fn disk_line(&self) -> DoctorLine {
        let measured = "limits are measured by walking, and enforced within a second";
        if self.project_quotas.is_empty() {
            ok("disk", measured)
        } else {
            ok("disk", format!("project quota on {}; {measured}", list(&self.project_quotas)))
        }
    }

    fn pressure_line(&self) -> DoctorLine {
        if self.pressure {
            ok("pressure", "/proc/pressure")
        } else {
            degraded("pressure", "no /proc/pressure", "metrics lack it", "boot with psi=1")
        }
    }

    fn overlay_line(&self) -> DoctorLine {
        if self.overlay {
            ok("overlay", "in this kernel")
        } else {
            degraded("overlay", "not loaded", "nothing uses it yet", "sudo modprobe overlay")
        }
    }

    fn program_lines(&self) -> Vec<DoctorLine> {
        let package = |name: &str| if name == "node" { "nodejs" } else { name }.to_owned();
        let line = |program: &super::Program| {
            let check = format!("program {}", program.name);
            match &program.path {
                Some(path) => ok(&check, path.display().to_string()),
                None if program.name == "sh" => {
                    missing(&check, "not found", "shell lines cannot run", "sudo apt-get install dash")
                }
                None => degraded(
                    &check,
                    "not found",
                    "commands that need it fail",
                    format!("sudo apt-get install {}", package(program.name)),
                ),
            }
        };
        let mut lines: Vec<_> = self.programs.iter().map(line).collect();
        if self.privilege == Privilege::None {
            lines.push(match &self.newuidmap {
                Some(path) => ok("program newuidmap", path.display().to_string()),
                None => ok("program newuidmap", "not found; not needed for a single id"),
            });
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(lines: &[DoctorLine], check: &str) -> DoctorStatus {
        lines.iter().find(|line| line.check == check).unwrap().status
    }

    #[test]
    fn every_line_that_is_not_well_says_what_is_used_and_how_to_mend_it() {
        let mut host = Host::probe();
        host.kernel = "4.19.0".to_owned();
        host.privilege = Privilege::None;
        host.landlock_abi = None;
        host.user_namespaces = UserNamespaces::Forbidden { sysctl: "user.max_user_namespaces", allow: "15000" };
        host.seccomp_actions.clear();
        host.memfd_noexec = 2;
        host.proc_masks = vec!["/proc/kcore".into()];
        host.overlay = false;
        host.pressure = false;
        host.programs.iter_mut().for_each(|program| program.path = None);
        let lines = host.doctor();
        for line in &lines {
            let well = line.status == DoctorStatus::Ok;
            assert_eq!(well, line.mend.is_empty() && line.meanwhile.is_empty(), "{line:?}");
        }
        for check in ["kernel", "landlock", "user namespaces", "seccomp", "memfd", "/proc", "program sh"] {
            assert_eq!(status(&lines, check), DoctorStatus::Missing, "{check}");
        }
        assert_eq!(status(&lines, "user"), DoctorStatus::Degraded);
    }

    #[test]
    fn rules_for_ordinary_users_do_not_bind_root() {
        let mut host = Host::probe();
        host.user_namespaces =
            UserNamespaces::Forbidden { sysctl: "kernel.apparmor_restrict_unprivileged_userns", allow: "0" };
        host.proc_masks = vec!["/proc/kcore".into()];
        host.privilege = Privilege::Host;
        assert_eq!(status(&host.doctor(), "user namespaces"), DoctorStatus::Ok);
        assert_eq!(status(&host.doctor(), "/proc"), DoctorStatus::Ok);
        host.privilege = Privilege::None;
        let lines = host.doctor();
        let line = lines.iter().find(|line| line.check == "user namespaces").unwrap();
        assert_eq!(line.mend, "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0");
    }
}
