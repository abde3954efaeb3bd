//! The Landlock domain of an init and its command (landlock(7)).
//!
//! The ruleset is made once, in the launcher, inside the view, because rules bind to what a path is
//! at that moment. Each init restricts itself by it after its last mount, because a domain with
//! filesystem rights forbids mounting. What an init mounts itself, its `/proc`, is below none of the
//! paths of a rule but `/`: it can be read, and not written.

use ::landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::io::Errno;
use sandbox_launch::plan::{Grant, LandlockPlan};
use sandbox_launch::protocol::Enforcement;
use sandbox_launch::report::{Report, Step};

/// The newest ABI whose rights are asked for; an older kernel enforces what it knows of them.
const NEWEST: ABI = ABI::V7;

/// A ruleset that inits can restrict themselves by.
pub(crate) fn prepare(plan: &LandlockPlan) -> Result<RulesetCreated, Report> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    for rule in &plan.rules {
        // What the host does not have is not in the view.
        let Ok(path) = PathFd::new(&rule.at) else { continue };
        let directory = rustix::fs::fstat(&path)
            .map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
            .map_err(|errno: Errno| Report::new(Step::Landlock, errno, rule.at.clone()))?;
        let mut rights = rights(rule.grant);
        if !directory {
            rights &= AccessFs::from_file(NEWEST);
        }
        ruleset = ruleset
            .add_rule(PathBeneath::new(path, rights))
            .map_err(|error| Report::new(Step::Landlock, errno_of(&error), rule.at.clone()))?;
    }
    Ok(ruleset)
}

/// For good, and for everything the calling process starts.
pub(crate) fn restrict(ruleset: RulesetCreated) -> Result<Enforcement, Report> {
    let status = ruleset.restrict_self().map_err(failed)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Enforcement::Full,
        RulesetStatus::PartiallyEnforced => Enforcement::Partial,
        RulesetStatus::NotEnforced => Enforcement::None,
    })
}

fn failed(error: RulesetError) -> Report {
    Report::new(Step::Landlock, errno_of(&error), error.to_string())
}

fn rights(grant: Grant) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute;
    match grant {
        Grant::Read => read,
        Grant::Use => read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev,
        Grant::Write => AccessFs::from_all(NEWEST) & !(AccessFs::MakeChar | AccessFs::MakeBlock),
    }
}

fn errno_of(error: &RulesetError) -> i32 {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error().unwrap_or(0);
        }
        source = error.source();
    }
    0
}
