//! The Landlock domain of one init and its command (landlock(7)).
//!
//! Made after the last mount, because a domain with filesystem rights forbids mounting, and opened
//! inside the view, because rules bind to what a path is at that moment.

use ::landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::io::Errno;
use sandbox_launch::plan::{Grant, LandlockPlan};
use sandbox_launch::protocol::Enforcement;
use sandbox_launch::report::{Report, Step};

/// The newest ABI whose rights are asked for; an older kernel enforces what it knows of them.
const NEWEST: ABI = ABI::V7;

pub(crate) fn restrict(plan: &LandlockPlan) -> Result<Enforcement, Report> {
    let failed = |error: RulesetError| Report::new(Step::Landlock, errno_of(&error), error.to_string());
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
    let status: RestrictionStatus = ruleset.restrict_self().map_err(failed)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Enforcement::Full,
        RulesetStatus::PartiallyEnforced => Enforcement::Partial,
        RulesetStatus::NotEnforced => Enforcement::None,
    })
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
