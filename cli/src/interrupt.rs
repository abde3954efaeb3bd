//! Signals that ask us to end: the first one ends the run, the second one ends us.
//!
//! Follows signal(7). A signal that our caller told us to ignore (nohup, a background job of a
//! script) stays ignored.

use std::fs;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// Ctrl-C.
    Keyboard,
    Terminate,
    Hangup,
}

impl Interrupt {
    /// 128+n, as a shell shows it.
    pub(crate) fn exit_code(self) -> u8 {
        128 + self.number()
    }

    fn number(self) -> u8 {
        match self {
            Self::Keyboard => 2,
            Self::Terminate => 15,
            Self::Hangup => 1,
        }
    }
}

/// Listens from the moment it is made: what comes later waits in it.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
}

impl Interrupts {
    pub(crate) fn listen() -> Self {
        let ignored = ignored();
        let listen = |which: Interrupt, kind| match ignored & (1 << (which.number() - 1)) {
            // Without a handler the signal still ends us, only less politely.
            0 => signal(kind).ok(),
            _ => None,
        };
        Self {
            interrupt: listen(Interrupt::Keyboard, SignalKind::interrupt()),
            terminate: listen(Interrupt::Terminate, SignalKind::terminate()),
            hangup: listen(Interrupt::Hangup, SignalKind::hangup()),
        }
    }

    /// The next one. Cancel-safe: a signal is not lost when the future is dropped before it is ready.
    pub(crate) async fn next(&mut self) -> Interrupt {
        tokio::select! {
            () = received(&mut self.interrupt) => Interrupt::Keyboard,
            () = received(&mut self.terminate) => Interrupt::Terminate,
            () = received(&mut self.hangup) => Interrupt::Hangup,
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// `SigIgn` of proc_pid_status(5): a bit for each ignored signal.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_shell() {
        assert_eq!(Interrupt::Keyboard.exit_code(), 130);
        assert_eq!(Interrupt::Terminate.exit_code(), 143);
        assert_eq!(Interrupt::Hangup.exit_code(), 129);
    }

    #[test]
    fn a_program_that_rust_started_ignores_sigpipe_and_not_sigint() {
        assert_eq!(ignored() & (1 << 1), 0);
        assert_ne!(ignored() & (1 << 12), 0);
    }
}
