//! Points at which a test can have the gateway die, as if its power were cut, or stand still.
//!
//! `RUN402_GATEWAY_FAULT=<point>` aborts the process there, `hold:<point>` stops it until SIGCONT comes. Only in
//! builds with debug assertions.

/// Steps of a deploy whose effects a crash must not tear apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    PlanStored,
    PartWritten,
    ContentAssembled,
    ContentPromoted,
    CommitRecorded,
    Migrated,
    ReleaseWritten,
    Activated,
}

impl Point {
    #[cfg(debug_assertions)]
    const fn name(self) -> &'static str {
        match self {
            Self::PlanStored => "plan-stored",
            Self::PartWritten => "part-written",
            Self::ContentAssembled => "content-assembled",
            Self::ContentPromoted => "content-promoted",
            Self::CommitRecorded => "commit-recorded",
            Self::Migrated => "migrated",
            Self::ReleaseWritten => "release-written",
            Self::Activated => "activated",
        }
    }

    /// Goes on, unless the environment names this point.
    #[cfg(debug_assertions)]
    pub(crate) fn pass(self) {
        let wanted = std::env::var("RUN402_GATEWAY_FAULT").unwrap_or_default();
        match wanted.strip_prefix("hold:") {
            None if wanted == self.name() => std::process::abort(),
            Some(point) if point == self.name() => {
                use rustix::process::{Signal, getpid, kill_process};
                kill_process(getpid(), Signal::STOP).expect("we may signal ourselves");
            }
            _ => {}
        }
    }

    #[cfg(not(debug_assertions))]
    pub(crate) const fn pass(self) {}
}
