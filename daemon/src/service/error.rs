//! Why a call failed, and what of that the caller is told.

use crate::index::IndexError;
use crate::keepers::KeepersError;
use crate::projects::ProjectError;
use crate::state::StateError;
use sandbox_wire::{Code, Problem};
use std::error::Error as _;
use std::io;

/// Why a call failed. A [`Problem`] is the caller's to read; the rest is for the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Problem(Box<Problem>),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Keeper(#[from] KeepersError),
    #[error(transparent)]
    Project(#[from] ProjectError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{what}")]
    Disk { what: &'static str, source: io::Error },
    #[error("{0}")]
    Internal(String),
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl Error {
    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        Self::Internal(error.to_string())
    }

    /// What the caller is told; what is not for the caller goes to the log.
    pub(crate) fn into_problem(self) -> Problem {
        let error = match self {
            Self::Problem(problem) | Self::Keeper(KeepersError::Refused(problem)) => return *problem,
            error => error,
        };
        let chain = chain_of(&error);
        if is_disk_full(&error) {
            tracing::error!(error = chain, "the disk is full");
            let sentence = "the disk that holds the daemon's state is full";
            return Problem::new(Code::DiskFull, sentence).next("free space, or delete projects that are not needed");
        }
        match error {
            Self::Keeper(KeepersError::Deleting) => Problem::new(Code::ProjectBusy, "the project is being deleted"),
            Self::Keeper(_) => {
                tracing::error!(error = chain, "a keeper failed");
                let sentence =
                    "the project's keeper could not be started or does not answer; the daemon's log says why";
                Problem::new(Code::Unavailable, sentence).next("sandboxctl doctor tells what this host lacks")
            }
            _ => {
                tracing::error!(error = chain, "a call failed");
                internal()
            }
        }
    }
}

pub(crate) fn internal() -> Problem {
    Problem::new(Code::Internal, "something went wrong in the daemon; its log has the details under the request_id")
}

fn chain_of(error: &Error) -> String {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        chain.push_str(": ");
        chain.push_str(&cause.to_string());
        source = cause.source();
    }
    chain
}

fn is_disk_full(error: &Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        let full = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(full, Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)) {
            return true;
        }
        source = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_for_the_caller_stays_inside() {
        let error = Error::Disk { what: "cannot read /secret", source: std::io::Error::other("inside") };
        let problem = error.into_problem();
        assert_eq!(problem.code, Code::Internal);
        assert!(!problem.error.contains("secret") && !problem.error.contains("inside"));
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let problem = Error::Disk { what: "x", source }.into_problem();
        assert_eq!(problem.code, Code::DiskFull);
    }

    #[test]
    fn refusals_of_a_keeper_reach_the_caller() {
        let refused = KeepersError::Refused(Box::new(Problem::new(Code::CwdNotFound, "no such folder")));
        assert_eq!(Error::from(refused).into_problem().code, Code::CwdNotFound);
    }
}
