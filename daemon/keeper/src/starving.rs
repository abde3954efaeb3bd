//! Ends the largest process of a run that stands still for lack of memory, in the kernel's place.
//!
//! Input: the [`Leaf`] of a run and the passing of time; output: how many processes were ended. As when the kernel does
//! it, what the command makes of the loss is its own business.

use crate::cgroup::{Leaf, Standstill};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sandbox_wire::RunId;
use std::cmp::Reverse;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks, and before the first: a shorter run costs nothing.
const LOOK: Duration = Duration::from_secs(1);

/// Looks after one run.
#[derive(Debug)]
pub(crate) struct Starving {
    /// `None`: nothing can be told here.
    next: Option<Instant>,
    standstill: Option<Standstill>,
    pub ended: u64,
}

impl Starving {
    pub(crate) fn watch(started: Instant) -> Self {
        Self { next: Some(started + LOOK), standstill: None, ended: 0 }
    }

    /// Completes when it is time to look. May be dropped and called again.
    pub(crate) async fn due(&self) {
        match self.next {
            Some(next) => tokio::time::sleep_until(next).await,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn look(&mut self, leaf: Option<&Leaf>, run: &RunId) {
        self.next = None;
        let Some(leaf) = leaf else { return };
        let Some(standstill) = self.standstill.take().or_else(|| leaf.standstill()) else { return };
        let standstill = self.standstill.insert(standstill);
        match standstill.look() {
            Ok(true) => self.ended += u64::from(end_largest(leaf)),
            Ok(false) => {}
            Err(error) => return tracing::warn!(%run, %error, "whether a run stands still cannot be told"),
        }
        self.next = Some(Instant::now() + LOOK);
    }
}

/// `false` when there is nothing to end any more.
fn end_largest(leaf: &Leaf) -> bool {
    let mut pids = leaf.pids().unwrap_or_default();
    pids.sort_by_cached_key(|pid| Reverse(resident_pages(*pid)));
    pids.into_iter().any(|pid| end(leaf, pid))
}

/// Through a descriptor, and only if the process is in the leaf afterwards: numbers are used again.
fn end(leaf: &Leaf, number: u32) -> bool {
    let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
    let Some(Ok(pidfd)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { return false };
    let is_there = leaf.pids().is_ok_and(|pids| pids.contains(&number));
    is_there && pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
}

fn resident_pages(pid: u32) -> u64 {
    // The second number of proc_pid_statm(5).
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default()
}
