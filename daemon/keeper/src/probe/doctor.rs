//! The doctor's lines: each with what was found, what is used meanwhile, and the command that mends it.
//!
//! Input: [`Examination`], and how a rehearsal of a whole sandbox went; output: [`DoctorLine`]s in the order in
//! which the layers are set up. Receipts and refusals take their sentences from here, so that they say the same.

use super::examination::Tried;
use super::{Examination, Privilege, Program, UserNamespaces, mend};
use crate::cgroup::{CgroupError, Hierarchy, Kind};
use crate::rehearsal::Rehearsal;
use crate::subordinate::Lack;
use sandbox_launch::report::Report;
use sandbox_launch::selftest::Layer;
use sandbox_launch::trial::Trial;
use sandbox_wire::{DoctorLine, DoctorStatus, Enforced, Problem};
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

/// A line as one sentence of a receipt or a refusal.
pub(crate) fn sentence(line: &DoctorLine) -> String {
    let mut text = format!("{}: {}", line.check, line.found);
    if !line.meanwhile.is_empty() {
        text.push_str(&format!("; meanwhile {}", line.meanwhile));
    }
    if !line.mend.is_empty() {
        text.push_str(&format!("; to mend it: {}", line.mend));
    }
    text
}

/// What a receipt calls missing: lines of layers that a sandbox can do without.
pub(crate) fn gaps(landlock_abi: Option<u32>, cgroups: &Hierarchy) -> Vec<DoctorLine> {
    let mut lines = vec![landlock(landlock_abi)];
    lines.extend(cgroup_gaps(cgroups));
    lines.retain(|line| line.status != DoctorStatus::Ok);
    lines
}

fn landlock(abi: Option<u32>) -> DoctorLine {
    const CHECK: &str = "Landlock";
    match abi {
        Some(abi) if abi >= GOOD_LANDLOCK_ABI => ok(CHECK, format!("ABI {abi}")),
        Some(abi) => degraded(
            CHECK,
            format!("ABI {abi}: without {}", landlock_lacks(abi)),
            "file rules are enforced; what is lacking is kept in by namespaces and mounts alone",
            "use a kernel of at least 6.12",
        ),
        None => missing(
            CHECK,
            "not in this kernel, or not switched on",
            "files are protected by the mounts of the view alone",
            "boot with lsm=landlock,$(cat /sys/kernel/security/lsm), on a kernel of at least 5.13",
        ),
    }
}

/// landlock(7), "Landlock ABI versions".
fn landlock_lacks(abi: u32) -> String {
    let rights = [
        (2, "moving files between folders"),
        (3, "truncation"),
        (4, "TCP ports"),
        (5, "ioctl on devices"),
        (6, "signals and abstract sockets"),
    ];
    rights.iter().filter(|(since, _)| abi < *since).map(|(_, right)| *right).collect::<Vec<_>>().join(", ")
}

fn cgroup_gaps(cgroups: &Hierarchy) -> Vec<DoctorLine> {
    let line = |lack: &crate::cgroup::Missing| {
        let names = lack.controllers.iter().map(|controller| controller.name()).collect::<Vec<_>>().join(", ");
        degraded(
            "cgroup limits",
            format!("none by {names}: {}", lack.why),
            "rlimits, which count per process and per user, take their place",
            &lack.mend,
        )
    };
    cgroups.missing().iter().map(line).collect()
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl Examination {
    /// What this host can enforce. `rehearsal` is how making a sandbox of the policy `default` went.
    pub fn doctor(&self, rehearsal: &Rehearsal) -> Vec<DoctorLine> {
        let mut lines = self.layers();
        lines.extend(self.cgroup_lines(&rehearsal.receipt));
        lines.extend([
            self.disk_line(),
            self.disk_rate_line(&rehearsal.disk_rate),
            self.pressure_line(),
            self.overlay_line(),
            self.nf_tables_line(),
            self.sys_line(),
        ]);
        lines.extend(self.program_lines());
        lines.push(rehearsal_line(&rehearsal.receipt));
        lines
    }

    /// The first thing without which nothing runs, if there is one.
    pub fn obstacle(&self) -> Option<DoctorLine> {
        self.layers().into_iter().find(|line| line.status == DoctorStatus::Missing && line.check != "Landlock")
    }

    /// What has no substitute, but for Landlock.
    fn layers(&self) -> Vec<DoctorLine> {
        let mut lines = vec![self.kernel_line(), self.user_line(), self.launcher_line(), self.user_namespace_line()];
        lines.extend(self.container_line());
        lines.extend([
            self.namespaces_line(),
            self.view_line(),
            self.proc_line(),
            self.loopback_line(),
            self.landlock_line(),
            self.seccomp_line(),
        ]);
        lines
    }

    fn kernel_line(&self) -> DoctorLine {
        let kernel = &self.host.kernel;
        if self.host.kernel_version() >= OLDEST_KERNEL {
            ok("kernel", kernel)
        } else {
            missing("kernel", kernel, "nothing can run", "install a kernel of at least 5.12; 6.1 or newer is advised")
        }
    }

    fn user_line(&self) -> DoctorLine {
        let host = &self.host;
        match host.privilege {
            Privilege::Host => ok("user", format!("uid {}, with CAP_SYS_ADMIN on this host", host.uid)),
            Privilege::Namespace if host.mapped_ids >= 2 * IDS_PER_PROJECT => ok(
                "user",
                format!("uid {}, with CAP_SYS_ADMIN in a user namespace of {} ids", host.uid, host.mapped_ids),
            ),
            Privilege::Namespace | Privilege::None => degraded(
                "user",
                format!("uid {}, without ids to give to projects", host.uid),
                "all projects run as this user's single id, kept apart by namespaces and not by ids",
                "sudo sandboxd serve",
            ),
        }
    }

    fn launcher_line(&self) -> DoctorLine {
        let mode = format!("vm.memfd_noexec = {}", self.host.memfd_noexec);
        match self.unlaunched() {
            None => ok("launcher", format!("started from memory; {mode}")),
            Some(error) if self.host.memfd_noexec >= 2 => {
                missing("launcher", format!("{error}; {mode}"), "nothing can run", "sudo sysctl -w vm.memfd_noexec=1")
            }
            Some(error) => missing(
                "launcher",
                error.to_string(),
                "nothing can run",
                "install the four programs of one release in one folder",
            ),
        }
    }

    /// What became of a trial; `refused` is the line when the kernel said no.
    fn line(&self, check: &str, trial: Trial, done: &str, refused: impl FnOnce(&Report) -> DoctorLine) -> DoctorLine {
        match self.tried(trial) {
            Tried::Done => ok(check, done),
            Tried::Impossible => untried(check),
            Tried::Refused(report) => refused(report),
        }
    }

    fn user_namespace_line(&self) -> DoctorLine {
        const CHECK: &str = "user namespaces";
        let host = &self.host;
        self.line(CHECK, Trial::Namespace(Layer::User), "made one and mapped an id", |report| {
            let found = match &host.user_namespaces {
                UserNamespaces::Forbidden { sysctl, .. } => format!("{report}: forbidden by {sysctl}"),
                UserNamespaces::Absent => "not in this kernel".to_owned(),
                UserNamespaces::Allowed => report.to_string(),
            };
            let mend = mend::user_namespace(host, report);
            missing(CHECK, found, "nothing can be isolated, so nothing runs", mend)
        })
    }

    fn container_line(&self) -> Option<DoctorLine> {
        let container = self.host.container.as_ref()?;
        let mut found = format!("inside {}", container.engine);
        if self.host.filtered {
            found.push_str(", under a seccomp filter");
        }
        if let Some(profile) = &self.host.apparmor {
            found.push_str(&format!(", confined by AppArmor's {profile}"));
        }
        Some(ok("container", found))
    }

    fn namespaces_line(&self) -> DoctorLine {
        const CHECK: &str = "namespaces";
        let mut made = Vec::new();
        for layer in Layer::NAMESPACES.into_iter().filter(|layer| *layer != Layer::User) {
            match self.tried(Trial::Namespace(layer)) {
                Tried::Done => made.push(layer.name()),
                Tried::Impossible => return untried(CHECK),
                Tried::Refused(report) => {
                    let mend = mend::namespace(&self.host, layer, report);
                    return missing(CHECK, report.to_string(), "nothing can be isolated, so nothing runs", mend);
                }
            }
        }
        ok(CHECK, format!("made {}", made.join(", ")))
    }

    fn view_line(&self) -> DoctorLine {
        self.line("view", Trial::Mount, "mounted a file system and a part of the host's", |report| {
            missing("view", report.to_string(), "nothing can run", mend::mount(&self.host))
        })
    }

    fn proc_line(&self) -> DoctorLine {
        const CHECK: &str = "/proc";
        let masks = &self.host.proc_masks;
        self.line(CHECK, Trial::Proc, "mounted one for a new pid namespace", |report| match masks.as_slice() {
            [] => missing(CHECK, report.to_string(), "nothing can run", mend::mount(&self.host)),
            masks => missing(
                CHECK,
                format!("{report}: this process's own is partly hidden ({})", list(masks)),
                "nothing can run, for want of a /proc of its own",
                mend::unmask(&self.host),
            ),
        })
    }

    fn loopback_line(&self) -> DoctorLine {
        const CHECK: &str = "loopback";
        self.line(CHECK, Trial::Loopback, "brought up in a new network namespace", |report| {
            missing(
                CHECK,
                report.to_string(),
                "only policies with the network mode `host` can be enforced",
                mend::mount(&self.host),
            )
        })
    }

    fn landlock_line(&self) -> DoctorLine {
        let mut line = landlock(self.host.landlock_abi);
        if let Tried::Refused(report) = self.tried(Trial::Landlock) {
            let mend = if self.host.filtered { mend::profile(&self.host) } else { line.mend };
            line = missing("Landlock", report.to_string(), "files are protected by the mounts of the view alone", mend);
        }
        line
    }

    fn seccomp_line(&self) -> DoctorLine {
        self.line("seccomp", Trial::Seccomp, "loaded a filter, which refused a call", |report| {
            missing(
                "seccomp",
                report.to_string(),
                "nothing can run: system calls would not be filtered",
                "use a kernel with CONFIG_SECCOMP_FILTER=y",
            )
        })
    }

    fn cgroup_lines(&self, receipt: &Result<Enforced, Box<Problem>>) -> Vec<DoctorLine> {
        const CHECK: &str = "cgroup limits";
        let kind = self.host.cgroups.kind();
        let mut lines = Vec::new();
        match receipt {
            _ if kind == Kind::None => {}
            Ok(receipt) if receipt.cgroup == "none" => lines.push(degraded(
                CHECK,
                format!("version {kind}, but none could be made"),
                "rlimits, which count per process and per user, take their place",
                "read the daemon's log: it names the file that was refused",
            )),
            Ok(_) => lines.push(ok(CHECK, format!("{kind}: made, set and read back"))),
            Err(_) => lines.push(ok(CHECK, format!("{kind}: writable"))),
        }
        lines.extend(cgroup_gaps(&self.host.cgroups));
        lines
    }

    fn disk_line(&self) -> DoctorLine {
        let quota = if self.project_quotas { "kept" } else { "not kept" };
        let measured = "limits are measured by walking, and enforced within a second";
        ok("disk", format!("project quotas are {quota} by the state's file system, and not used; {measured}"))
    }

    fn disk_rate_line(&self, tried: &Result<(), CgroupError>) -> DoctorLine {
        const CHECK: &str = "disk rate";
        match tried {
            Ok(()) => ok(CHECK, "io.max was set and read back"),
            Err(error) => degraded(
                CHECK,
                error.to_string(),
                "policies that limit `disk_rate` are refused",
                mend::disk_rate(&self.host, error),
            ),
        }
    }

    fn pressure_line(&self) -> DoctorLine {
        if self.host.pressure {
            ok("pressure", "/proc/pressure was read")
        } else {
            degraded("pressure", "/proc/pressure cannot be read", "metrics lack it", "boot with psi=1")
        }
    }

    fn overlay_line(&self) -> DoctorLine {
        self.line("overlay", Trial::Overlay, "mounted one", |report| {
            degraded("overlay", report.to_string(), "nothing uses it yet", "sudo modprobe overlay")
        })
    }

    fn nf_tables_line(&self) -> DoctorLine {
        let meanwhile = "nothing uses it yet: the network modes are `none` and `host`";
        self.line("nf_tables", Trial::NfTables, "answered in a new network namespace", |report| {
            degraded("nf_tables", report.to_string(), meanwhile, "sudo modprobe nf_tables")
        })
    }

    /// Of interest for cgroups only: a view has no `/sys`.
    fn sys_line(&self) -> DoctorLine {
        match self.host.sys_masks.as_slice() {
            [] => ok("/sys", "fully visible; no sandbox shows it"),
            masks => ok("/sys", format!("partly hidden or read-only ({}); no sandbox shows it", list(masks))),
        }
    }

    fn subordinate_line(&self) -> DoctorLine {
        const CHECK: &str = "subordinate ids";
        const MEANWHILE: &str = "commands keep the groups of the daemon's user";
        match &self.host.subordinate {
            Ok(_) => ok(CHECK, "a range is set aside for this user"),
            Err(lack @ Lack::Programs) => degraded(CHECK, lack.to_string(), MEANWHILE, "sudo apt-get install uidmap"),
            Err(lack @ Lack::Range { user, .. }) => degraded(
                CHECK,
                lack.to_string(),
                MEANWHILE,
                format!("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"),
            ),
        }
    }

    fn program_lines(&self) -> Vec<DoctorLine> {
        let package = |name: &str| if name == "node" { "nodejs" } else { name }.to_owned();
        let line = |program: &Program| {
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
        let mut lines: Vec<_> = self.host.programs.iter().map(line).collect();
        if self.host.privilege == Privilege::None {
            lines.push(self.subordinate_line());
        }
        lines
    }
}

/// What could not be tried because something before it failed.
fn untried(check: &str) -> DoctorLine {
    missing(check, "not tried: what it needs is missing", "nothing can run", "mend the line above first")
}

fn rehearsal_line(receipt: &Result<Enforced, Box<Problem>>) -> DoctorLine {
    const CHECK: &str = "sandbox";
    match receipt {
        Ok(receipt) => ok(
            CHECK,
            format!(
                "one of the policy {} was made and held: ids {}, cgroup {}, network {}",
                receipt.policy, receipt.ids, receipt.cgroup, receipt.network
            ),
        ),
        Err(problem) => {
            let next = problem.next_actions.first().map_or("mend the lines above", String::as_str);
            missing(CHECK, &problem.error, "commands are refused with this sentence", next)
        }
    }
}

#[cfg(test)]
#[path = "doctor_tests.rs"]
mod tests;
