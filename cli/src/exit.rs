//! How a run ended, as an exit status and as one sentence.
//!
//! Statuses follow the shell and timeout(1): the command's own, 124 at the deadline, 125 when the
//! sandbox could not say, 128+n for signal n.

use crate::duration::spoken;
use nix::sys::signal::Signal;
use sandbox_wire::event::RunOutcome;
use sandbox_wire::{RunResult, RunState};

/// The part of a result that decides status and sentence.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ending {
    pub(crate) status: RunState,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<String>,
    pub(crate) oom_killed: bool,
    pub(crate) killed_by: Option<String>,
    pub(crate) duration_ms: f64,
}

impl From<&RunOutcome> for Ending {
    fn from(outcome: &RunOutcome) -> Self {
        Self {
            status: outcome.status,
            exit_code: outcome.exit_code,
            signal: outcome.signal.clone(),
            oom_killed: outcome.oom_killed,
            killed_by: outcome.killed_by.clone(),
            duration_ms: outcome.duration_ms,
        }
    }
}

impl From<&RunResult> for Ending {
    fn from(result: &RunResult) -> Self {
        Self {
            status: result.status,
            exit_code: result.exit_code,
            signal: result.signal.clone(),
            oom_killed: result.oom_killed,
            killed_by: result.killed_by.clone(),
            duration_ms: result.duration_ms,
        }
    }
}

/// The exit status of `sandboxctl run`.
pub(crate) fn status(ending: &Ending) -> u8 {
    if let Some(code) = ending.exit_code {
        // The kernel keeps eight bits of a status; so do we.
        return (code & 0xff) as u8;
    }
    let signal = ending.signal.as_deref().and_then(|name| name.parse::<Signal>().ok());
    match (ending.status, signal) {
        (RunState::TimedOut, _) => 124,
        (RunState::OomKilled, _) => 137,
        (RunState::Signaled | RunState::Cancelled, Some(signal)) => 128 + signal as u8,
        (RunState::Cancelled, None) => 137,
        _ => 125,
    }
}

/// What ended the run when it was not the command itself, and what to do about it.
pub(crate) fn sentence(ending: &Ending, timeout_ms: Option<i64>) -> Option<String> {
    let ran = spoken(ending.duration_ms);
    match (ending.status, ending.killed_by.as_deref()) {
        (RunState::TimedOut, _) => {
            let after = timeout_ms.map_or(ran, |ms| spoken(ms as f64));
            Some(format!("timed out after {after} (raise it with --timeout, at most 300s)"))
        }
        (RunState::OomKilled, _) => Some(
            "killed: out of memory (raise 'memory' under [limits] in a policy file and pass it with --policy)"
                .to_owned(),
        ),
        (_, Some("disk")) => Some(
            "killed: the project is over its disk limit (remove files, or raise 'disk' under [limits] of the policy)"
                .to_owned(),
        ),
        (_, Some("output")) => Some(
            "killed: more output than the policy keeps (print less, or raise 'output' under [limits] of the policy)"
                .to_owned(),
        ),
        (_, Some("shutdown")) => Some(format!("killed after {ran}: the daemon was stopped (run it again)")),
        (RunState::Lost, _) => Some("the run's keeper died with it, so its end is not known (run it again)".to_owned()),
        (RunState::Cancelled, _) => Some(format!("killed after {ran}: it was cancelled")),
        (_, Some("caller")) => Some(format!("killed after {ran}: it was cancelled")),
        (_, Some(limit)) => Some(format!("killed after {ran} by the limit '{limit}' of the policy")),
        _ if ending.oom_killed => Some(
            "the kernel killed a process of this run for memory (raise 'memory' under [limits] of the policy)"
                .to_owned(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(status: RunState, exit_code: Option<i32>, signal: Option<&str>) -> Ending {
        Ending {
            status,
            exit_code,
            signal: signal.map(str::to_owned),
            oom_killed: false,
            killed_by: None,
            duration_ms: 1500.0,
        }
    }

    #[test]
    fn statuses_follow_the_shell() {
        for (end, code) in [
            (ending(RunState::Exited, Some(0), None), 0),
            (ending(RunState::Exited, Some(7), None), 7),
            (ending(RunState::Exited, Some(255), None), 255),
            (ending(RunState::Exited, Some(127), None), 127),
            (ending(RunState::Signaled, Some(139), Some("SIGSEGV")), 139),
            (ending(RunState::Signaled, None, Some("SIGTERM")), 143),
            (ending(RunState::TimedOut, Some(124), Some("SIGKILL")), 124),
            (ending(RunState::TimedOut, None, Some("SIGKILL")), 124),
            (ending(RunState::OomKilled, Some(137), Some("SIGKILL")), 137),
            (ending(RunState::OomKilled, None, None), 137),
            (ending(RunState::Cancelled, None, None), 137),
            (ending(RunState::Lost, None, None), 125),
        ] {
            assert_eq!(status(&end), code, "{end:?}");
        }
    }

    #[test]
    fn a_command_that_ended_by_itself_needs_no_sentence() {
        assert_eq!(sentence(&ending(RunState::Exited, Some(3), None), None), None);
        assert_eq!(sentence(&ending(RunState::Signaled, Some(139), Some("SIGSEGV")), None), None);
    }

    #[test]
    fn a_deadline_says_how_to_raise_it() {
        assert_eq!(
            sentence(&ending(RunState::TimedOut, Some(124), None), Some(90_000)).as_deref(),
            Some("timed out after 90 s (raise it with --timeout, at most 300s)")
        );
        assert!(sentence(&ending(RunState::TimedOut, Some(124), None), None).is_some_and(|s| s.contains("1.5 s")));
    }

    #[test]
    fn limits_are_named() {
        let disk = Ending { killed_by: Some("disk".to_owned()), ..ending(RunState::Signaled, Some(137), None) };
        assert!(sentence(&disk, None).is_some_and(|text| text.contains("disk limit")));
        let child = Ending { oom_killed: true, ..ending(RunState::Exited, Some(1), None) };
        assert!(sentence(&child, None).is_some_and(|text| text.contains("memory")));
    }
}
