//! Makes a sandbox: plan, cgroups, launcher, receipt. Blocking.

use crate::api::KeeperSpec;
use crate::cgroup::{CgroupError, Controller, Hierarchy, Kind, LeafPool, Precedence, ProjectGroup};
use crate::plan::{self, Facts, UID};
use crate::pool::Sandbox;
use crate::probe::{Examination, Privilege, find_program, gaps, sentence};
use crate::project::internal;
use crate::spawn::{Ids, Launcher, Program, SpawnError, launch};
use crate::subordinate::Subordinate;
use crate::view;
use sandbox_launch::plan::LaunchPlan;
use sandbox_launch::report::Step;
use sandbox_policy::{Layer, Limits, NetworkMode, Policy, SyscallProfile};
use sandbox_wire::{Code, Enforced, Problem};
use std::sync::{Arc, OnceLock};

/// Any will do: nothing runs under it.
const TRIAL_DISK_RATE: u64 = 1 << 20;

/// What a keeper finds out once and all its sandboxes share.
#[derive(Debug)]
pub(crate) struct Ground {
    facts: Facts,
    hierarchy: Hierarchy,
    group: OnceLock<Option<Arc<ProjectGroup>>>,
}

impl Ground {
    pub(crate) fn survey() -> Self {
        let hierarchy = Hierarchy::detect();
        let facts = Facts {
            privileged: Privilege::of_this_process().is_some(),
            cgroups: hierarchy.has(Controller::Memory) && hierarchy.has(Controller::Pids),
            cpus: usable_cpus(),
            memory_total_bytes: total_memory(),
        };
        Self { facts, hierarchy, group: OnceLock::new() }
    }

    /// Removes the cgroups, once nothing is left in them.
    pub(crate) fn clear(&self) {
        if let Some(Some(group)) = self.group.get()
            && let Err(error) = group.remove()
        {
            tracing::warn!(%error, "a cgroup stays behind");
        }
    }

    /// What lets other projects go first while this one computes for long, where that can be had.
    pub(crate) fn precedence(&self) -> Option<Precedence> {
        let precedence = self.group.get()?.as_ref()?.precedence();
        precedence.inspect_err(|error| tracing::warn!(%error, "projects are not weighed against each other")).ok()?
    }

    /// Host pids of everything that runs inside; none can be named without cgroups.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.group.get().and_then(Option::as_ref).map_or_else(Vec::new, |group| group.pids())
    }

    /// The cgroups of a policy's runs, where they can be had; refused when its `disk_rate` cannot be kept.
    fn leaves(&self, policy: &Policy, spec: &KeeperSpec) -> Result<Option<LeafPool>, Box<Problem>> {
        let group = self.group(policy, spec);
        let made = match &group {
            Some(group) => leaves_of(Arc::clone(group), policy.limits()).map(Some),
            None if policy.limits().disk_rate.is_some() => Err(CgroupError::NoIo),
            None => Ok(None),
        };
        match made {
            Err(error) if policy.limits().disk_rate.is_some() => Err(unthrottled(policy, &error)),
            Err(error) => {
                tracing::warn!(%error, "no cgroup leaves: limits fall back to rlimits");
                Ok(None)
            }
            Ok(pool) => Ok(pool),
        }
    }

    /// Whether a policy could limit `disk_rate`, tried on the cgroup that a sandbox has been made with.
    pub(crate) fn try_disk_rate(&self, policy: &Policy) -> Result<(), CgroupError> {
        let group = self.group.get().cloned().flatten().ok_or(CgroupError::NoIo)?;
        let limits = Limits { disk_rate: Some(TRIAL_DISK_RATE), ..policy.limits().clone() };
        leaves_of(group, &limits).map(drop)
    }

    fn group(&self, policy: &Policy, spec: &KeeperSpec) -> Option<Arc<ProjectGroup>> {
        let group = self.group.get_or_init(|| {
            if self.hierarchy.kind() == Kind::None {
                return None;
            }
            let folders = vec![spec.workspace(), spec.home()];
            match ProjectGroup::create(&self.hierarchy, &spec.cgroup_name, &spec.project, policy.limits(), folders) {
                Ok(group) => Some(Arc::new(group)),
                Err(error) => {
                    tracing::warn!(%error, "no cgroups: limits fall back to rlimits");
                    None
                }
            }
        });
        group.clone()
    }
}

/// With one leaf made, so that a limit that cannot be kept is known before a command is there.
fn leaves_of(group: Arc<ProjectGroup>, limits: &Limits) -> Result<LeafPool, CgroupError> {
    let pool = LeafPool::new(group, limits)?;
    pool.prepare(1)?;
    Ok(pool)
}

/// A rate that nobody keeps is refused, not ignored.
fn unthrottled(policy: &Policy, error: &CgroupError) -> Box<Problem> {
    let text = format!("the policy {} limits `disk_rate`, which this host cannot keep: {error}", policy.name());
    Box::new(
        Problem::new(Code::LayerUnavailable, text)
            .with("layer", "limits")
            .with("policy", policy.name())
            .next("run `sandboxctl doctor` and do what it says, or use a policy without `disk_rate`"),
    )
}

/// Makes the sandbox of one policy, or says what the host lacks for it.
pub(crate) fn make(
    ground: &Ground,
    program: &Program,
    policy: Arc<Policy>,
    spec: &KeeperSpec,
) -> Result<Arc<Sandbox>, Box<Problem>> {
    let leaves = ground.leaves(&policy, spec)?;
    let facts = Facts { cgroups: ground.facts.cgroups && leaves.is_some(), ..ground.facts.clone() };
    let mut receipt = receipt(&policy, ground, &facts, spec);
    check_required(&policy, &receipt, &facts)?;
    let denied = view::denied_now(&policy, spec);
    let plan = plan::plan(&policy, spec, &facts).map_err(|error| match error {
        plan::PlanError::Filtered => Box::new(
            Problem::new(Code::PolicyRefused, error.to_string())
                .with("rule", "network.mode")
                .with("policy", policy.name()),
        ),
        plan::PlanError::Workspace { .. } => Box::new(Problem::new(Code::InvalidDirectory, error.to_string())),
    })?;
    let owner = spec.id_base.filter(|_| facts.privileged).map(|base| base + UID);
    let rlimits = plan.rlimits.clone();
    let (launcher, ids) = launch_as(&facts, spec, program, &plan).map_err(|error| unlaunched(&error, program, spec))?;
    receipt.ids = ids.to_owned();
    let environment = plan::environment(&policy);
    Ok(Sandbox::new(policy, environment, receipt, denied, launcher, leaves, owner, rlimits))
}

/// Launches with as many ids as there are, and says which.
fn launch_as(
    facts: &Facts,
    spec: &KeeperSpec,
    program: &Program,
    plan: &LaunchPlan,
) -> Result<(Launcher, &'static str), SpawnError> {
    if let Some(base) = spec.id_base.filter(|_| facts.privileged) {
        return Ok((launch(program, plan, &Ids::Range { base })?, "range"));
    }
    if !facts.privileged
        && let Ok(subordinate) = Subordinate::find(find_program)
    {
        match launch(program, plan, &Ids::Subordinate(subordinate)) {
            // Their programs may have lost the right to map, as in a container with no_new_privs.
            Err(SpawnError::MapIds(error)) => tracing::info!(%error, "no subordinate ids: the user's own must do"),
            other => return Ok((other?, "subordinate")),
        }
    }
    let single = Ids::Single { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    Ok((launch(program, plan, &single)?, "single"))
}

/// What is in force. Everything listed was set up by the launcher, which fails as a whole when one
/// step fails.
fn receipt(policy: &Policy, ground: &Ground, facts: &Facts, spec: &KeeperSpec) -> Enforced {
    let own_network = policy.network().mode == NetworkMode::None;
    let mut namespaces = vec!["user", "mnt", "pid"];
    if own_network {
        namespaces.push("net");
    }
    namespaces.extend(["ipc", "uts", "cgroup"]);
    let landlock_abi = sandbox_launch::sys::landlock_abi();
    let missing = gaps(landlock_abi, &ground.hierarchy).iter().map(sentence).collect();
    Enforced {
        policy: policy.name().to_owned(),
        namespaces: namespaces.into_iter().map(str::to_owned).collect(),
        landlock_abi,
        seccomp: match policy.syscalls() {
            SyscallProfile::Default => "default".to_owned(),
            SyscallProfile::Strict => "strict".to_owned(),
        },
        cgroup: if facts.cgroups { ground.hierarchy.kind().as_str() } else { "none" }.to_owned(),
        network: if own_network { "none" } else { "host" }.to_owned(),
        ids: if facts.privileged && spec.id_base.is_some() { "range" } else { "single" }.to_owned(),
        disk: "measured".to_owned(),
        missing,
    }
}

/// `[require]` fails closed.
fn check_required(policy: &Policy, receipt: &Enforced, facts: &Facts) -> Result<(), Box<Problem>> {
    let has = |layer: &Layer| match layer {
        Layer::User => receipt.namespaces.iter().any(|ns| ns == "user"),
        Layer::Pid => receipt.namespaces.iter().any(|ns| ns == "pid"),
        Layer::Mnt => receipt.namespaces.iter().any(|ns| ns == "mnt"),
        Layer::Net => receipt.namespaces.iter().any(|ns| ns == "net"),
        Layer::Ipc => receipt.namespaces.iter().any(|ns| ns == "ipc"),
        Layer::Uts => receipt.namespaces.iter().any(|ns| ns == "uts"),
        Layer::Cgroup => receipt.namespaces.iter().any(|ns| ns == "cgroup"),
        Layer::Landlock => receipt.landlock_abi.is_some(),
        Layer::Seccomp => true, // without it no init gets ready
        Layer::Limits => facts.cgroups,
        Layer::Ids => receipt.ids == "range",
    };
    let Some(lacking) = policy.require().iter().find(|layer| !has(layer)) else { return Ok(()) };
    let name = format!("{lacking:?}").to_lowercase();
    let said = |check: &str| receipt.missing.iter().find(|sentence| sentence.starts_with(check)).cloned();
    let why = match lacking {
        Layer::Ids => Some("own host ids need a daemon that runs as root".to_owned()),
        Layer::Net => Some("network mode `host` shares the host's network".to_owned()),
        Layer::Landlock => said("Landlock"),
        Layer::Limits => said("cgroup limits"),
        _ => None,
    };
    let why = why.unwrap_or_else(|| "run `sandboxctl doctor` for the cause".to_owned());
    let text =
        format!("the policy {} requires the layer `{name}`, which this host does not give: {why}", policy.name());
    Err(Box::new(
        Problem::new(Code::LayerUnavailable, text)
            .with("layer", name)
            .with("policy", policy.name())
            .next("run `sandboxctl doctor` and do what it says, or use a policy that does not require the layer"),
    ))
}

/// The launcher's failures that the owner of the host can mend, with the doctor's word for the cause.
fn unlaunched(error: &SpawnError, program: &Program, spec: &KeeperSpec) -> Box<Problem> {
    let layer = match error {
        SpawnError::Step(report) => match report.step {
            Step::EnterUserNamespace | Step::SetIds => Some("user"),
            Step::MapIds if !report.subject.is_empty() && report.subject.starts_with('/') => {
                let text = format!(
                    "the filesystem of {} cannot map ids ({}), so its files could not keep their owner",
                    report.subject,
                    std::io::Error::from_raw_os_error(report.errno)
                );
                let problem = Problem::new(Code::InvalidDirectory, text);
                return Box::new(
                    problem.next("use a folder on ext4, xfs, btrfs or tmpfs, or run the daemon as the folder's owner"),
                );
            }
            Step::EnterNamespaces => Some("namespaces"),
            Step::Hostname => Some("uts"),
            Step::Mount | Step::PivotRoot => Some("mnt"),
            Step::Loopback => Some("net"),
            _ => None,
        },
        SpawnError::MapIds(_) => Some("user"),
        _ => None,
    };
    match layer {
        None => internal(error),
        Some(layer) => {
            tracing::error!(%error, "no sandbox");
            let text = format!("this host does not let the sandbox be made: {error}");
            let problem = |text| Problem::new(Code::LayerUnavailable, text).with("layer", layer);
            Box::new(match Examination::by(program, &spec.project_dir).obstacle() {
                Some(line) => problem(format!("{text} ({}: {})", line.check, line.found)).next(line.mend),
                None => problem(text).next("run `sandboxctl doctor`"),
            })
        }
    }
}

fn usable_cpus() -> Vec<u32> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU as u32).filter(|cpu| set.is_set(*cpu as usize)).collect(),
        Err(_) => vec![0],
    }
}

fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit)
}
