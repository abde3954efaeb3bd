//! From a policy to a launch plan: every decision about a project's sandbox is taken here.
//!
//! Input: [`Policy`], [`Host`], [`KeeperSpec`]; output: [`LaunchPlan`], what the launcher carries
//! out. Reads facts of the host's files (what exists, what is a link, who owns the folder), changes
//! nothing.

use crate::api::KeeperSpec;
use crate::view;
use sandbox_launch::plan::{Grant, InitPlan, LandlockPlan, LandlockRule, LaunchPlan, Resource, Rlimit};
use sandbox_launch::seccomp::{self, Profile};
use sandbox_policy::{Limits, MountMode, NetworkMode, Policy, SyscallProfile};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Who commands are inside: the first ordinary user of most systems.
pub const UID: u32 = 1000;
pub const GID: u32 = 1000;
pub use sandbox_policy::{HOME, PROJECT as WORKSPACE};

/// What the keeper found out about itself and the host before planning.
#[derive(Debug, Clone)]
pub struct Facts {
    /// With CAP_SYS_ADMIN: sources are opened with the host's rights, ids can be a range.
    pub privileged: bool,
    /// Limits of memory and processes come from cgroups.
    pub cgroups: bool,
    /// Processors that this keeper may use.
    pub cpus: Vec<u32>,
    pub memory_total_bytes: u64,
}

/// Why no plan could be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("cannot use {path} as the workspace: {source}")]
    Workspace { path: PathBuf, source: std::io::Error },
    #[error("network mode `filtered` cannot be enforced by this version; use `none` or `host`")]
    Filtered,
}

/// The complete plan of a sandbox.
pub fn plan(policy: &Policy, spec: &KeeperSpec, facts: &Facts) -> Result<LaunchPlan, PlanError> {
    let own_network = match policy.network().mode {
        NetworkMode::None => true,
        NetworkMode::Host => false,
        NetworkMode::Filtered => return Err(PlanError::Filtered),
    };
    let seccomp = seccomp::compile(match policy.syscalls() {
        SyscallProfile::Default => Profile::Default,
        SyscallProfile::Strict => Profile::Strict,
    });
    let cpus = processors(policy.limits().cpu, spec, &facts.cpus);
    Ok(LaunchPlan {
        privileged: facts.privileged,
        own_network,
        hostname: spec.hostname.clone(),
        uid: UID,
        gid: GID,
        view: view::of_project(policy, spec, facts, &cpus)?,
        cpus,
        rlimits: rlimits(policy.limits(), facts),
        landlock: landlock(policy),
        seccomp: seccomp.launcher,
        init: InitPlan {
            view: view::of_init(facts.privileged),
            seccomp: seccomp.init,
            writable_roots: writable_roots(policy),
        },
    })
}

/// The environment of every command of this sandbox, before the request's own.
pub fn environment(policy: &Policy) -> BTreeMap<String, String> {
    sandbox_policy::environment(policy, |name| std::env::var(name).ok())
}

/// As many processors as the quota pays for, so that thread pools fit; different ones for
/// different projects. Empty when that is all there are.
fn processors(cpu: f64, spec: &KeeperSpec, available: &[u32]) -> Vec<u32> {
    let want = (cpu.ceil() as usize).max(1);
    if want >= available.len() {
        return Vec::new();
    }
    let first = spec.project.0.as_bytes()[0] as usize;
    let mut cpus: Vec<u32> = (0..want).map(|n| available[(first + n) % available.len()]).collect();
    cpus.sort_unstable();
    cpus
}

fn rlimits(limits: &Limits, facts: &Facts) -> Vec<Rlimit> {
    let mut rlimits = vec![
        Rlimit { resource: Resource::Core, limit: 0 },
        Rlimit { resource: Resource::OpenFiles, limit: u64::from(limits.open_files) },
        Rlimit { resource: Resource::FileSize, limit: limits.disk_bytes },
        Rlimit { resource: Resource::MemoryLock, limit: 64 << 20 },
    ];
    if !facts.cgroups {
        // The best there is without cgroups: per process, and per user for the count.
        rlimits.push(Rlimit { resource: Resource::Data, limit: limits.memory_bytes });
        rlimits.push(Rlimit { resource: Resource::Processes, limit: u64::from(limits.pids) });
    }
    rlimits
}

/// Reading is what the view holds; writing is what the policy lists.
fn landlock(policy: &Policy) -> LandlockPlan {
    let mut rules = vec![
        LandlockRule { at: "/".into(), grant: Grant::Read },
        LandlockRule { at: "/dev".into(), grant: Grant::Use },
        LandlockRule { at: "/dev/shm".into(), grant: Grant::Write },
    ];
    rules.extend(writable_roots(policy).into_iter().map(|at| LandlockRule { at, grant: Grant::Write }));
    LandlockPlan { rules }
}

fn writable_roots(policy: &Policy) -> Vec<String> {
    let mounts = policy.filesystem().mount.iter().filter(|mount| mount.mode == MountMode::Rw);
    policy.filesystem().write.iter().cloned().chain(mounts.map(|mount| mount.at.clone())).collect()
}
