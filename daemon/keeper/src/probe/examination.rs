//! What a host allows, tried.

use super::Host;
use crate::spawn::{Program, SpawnError, try_on_host};
use sandbox_launch::report::{Report, Step};
use sandbox_launch::selftest::Layer;
use sandbox_launch::trial::{Outcome, Trial};
use std::path::Path;

/// The host as it looks, and what happened when things were tried on it.
#[derive(Debug)]
pub struct Examination {
    pub host: Host,
    /// Or why no launcher could be asked.
    outcomes: Result<Vec<Outcome>, SpawnError>,
    /// The file system of the daemon's state keeps project quotas.
    pub(super) project_quotas: bool,
}

/// What became of one trial.
#[derive(Debug)]
pub(super) enum Tried<'a> {
    Done,
    Refused(&'a Report),
    /// It failed before it began, for want of a user namespace or of a launcher.
    Impossible,
}

impl Examination {
    /// Looks and tries; blocks for some twenty milliseconds. `folder` is where files of projects are.
    pub fn new(folder: &Path) -> Self {
        Self::with(Program::beside_this().and_then(|program| try_on_host(&program, &Trial::ALL)), folder)
    }

    pub(crate) fn by(program: &Program, folder: &Path) -> Self {
        Self::with(try_on_host(program, &Trial::ALL), folder)
    }

    fn with(outcomes: Result<Vec<Outcome>, SpawnError>, folder: &Path) -> Self {
        let file = std::fs::File::open(folder);
        let project_quotas = file.is_ok_and(|file| sandbox_launch::sys::keeps_project_quotas(&file).is_ok());
        Self { host: Host::probe(), outcomes, project_quotas }
    }

    /// Why there is no launcher.
    pub(super) fn unlaunched(&self) -> Option<&SpawnError> {
        self.outcomes.as_ref().err()
    }

    pub(super) fn tried(&self, trial: Trial) -> Tried<'_> {
        let Ok(outcomes) = &self.outcomes else { return Tried::Impossible };
        let refused = outcomes.iter().find(|outcome| outcome.trial == trial).map(|outcome| outcome.refused.as_ref());
        match refused {
            Some(None) => Tried::Done,
            Some(Some(report)) if is_before(trial, report.step) => Tried::Impossible,
            Some(Some(report)) => Tried::Refused(report),
            None => Tried::Impossible,
        }
    }

    #[cfg(test)]
    pub(super) fn all_done(host: Host) -> Self {
        let done = |trial| Outcome { trial, refused: None };
        Self { host, outcomes: Ok(Trial::ALL.map(done).into()), project_quotas: false }
    }

    #[cfg(test)]
    pub(super) fn refuse(&mut self, trial: Trial, step: Step, errno: i32) {
        let outcomes = self.outcomes.as_mut().expect("made by all_done");
        for outcome in outcomes.iter_mut().filter(|outcome| outcome.trial == trial) {
            outcome.refused = Some(Report::new(step, errno, ""));
        }
    }
}

/// What trials begin with is a trial of its own, and its failure that one's.
fn is_before(trial: Trial, step: Step) -> bool {
    match trial {
        Trial::Namespace(Layer::User) => false,
        Trial::Namespace(_) => matches!(step, Step::EnterUserNamespace | Step::MapIds),
        _ => matches!(step, Step::EnterUserNamespace | Step::MapIds | Step::EnterNamespaces),
    }
}
