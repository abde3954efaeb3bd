//! One sandbox and its armed inits.
//!
//! A few inits are armed ahead of time; whoever takes one lets the next be armed, and whoever finds
//! none waits for one that is made for him. An init is used once.

use crate::cgroup::{Leaf, LeafPool};
use crate::slot::{ArmError, Pidfd, Slot, arm};
use crate::spawn::Launcher;
use rustix::process::{WaitId, WaitIdOptions};
use sandbox_launch::plan::Rlimit;
use sandbox_policy::Policy;
use sandbox_wire::Enforced;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// Inits that wait while nobody asks.
const READY: usize = 2;
/// Most inits that are being armed at the same time.
const ARMING: usize = 8;

/// A sandbox that stands: its launcher, its inits, its cgroup leaves.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub policy: Arc<Policy>,
    /// What every command's environment starts from.
    pub environment: BTreeMap<String, String>,
    pub receipt: Enforced,
    /// Denied paths as they were when the view was made.
    pub denied: Vec<Option<bool>>,
    launcher: Launcher,
    leaves: Option<LeafPool>,
    owner: Option<u32>,
    pub rlimits: Vec<Rlimit>,
    state: Mutex<State>,
    changed: Notify,
    killed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Slot>,
    arming: usize,
    waiting: usize,
    /// The last attempt to arm that failed, told to all who wait.
    failed: Option<Arc<ArmError>>,
    failures: u64,
}

impl Sandbox {
    #[expect(clippy::too_many_arguments, reason = "made in one place, from what was made one after the other")]
    pub(crate) fn new(
        policy: Arc<Policy>,
        environment: BTreeMap<String, String>,
        receipt: Enforced,
        denied: Vec<Option<bool>>,
        launcher: Launcher,
        leaves: Option<LeafPool>,
        owner: Option<u32>,
        rlimits: Vec<Rlimit>,
    ) -> Arc<Self> {
        let sandbox = Self {
            policy,
            environment,
            receipt,
            denied,
            launcher,
            leaves,
            owner,
            rlimits,
            state: Mutex::default(),
            changed: Notify::new(),
            killed: AtomicBool::new(false),
        };
        Arc::new(sandbox)
    }

    /// The host id of commands, when it is not the keeper's own.
    pub(crate) fn owner(&self) -> Option<u32> {
        self.owner
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the state of a pool")
    }

    /// An armed init for one run. Cancel-safe.
    pub(crate) async fn take(self: &Arc<Self>) -> Result<Slot, Arc<ArmError>> {
        if let Some(slot) = self.state().ready.pop_front() {
            return Ok(slot);
        }
        let _waiting = Waiting::enter(self);
        let failures = self.state().failures;
        loop {
            let changed = self.changed.notified();
            self.refill();
            {
                let mut state = self.state();
                if let Some(slot) = state.ready.pop_front() {
                    return Ok(slot);
                }
                if state.failures > failures
                    && let Some(error) = &state.failed
                {
                    return Err(Arc::clone(error));
                }
            }
            changed.await;
        }
    }

    /// Arms as many inits as are missing. Called when a run has ended, so that arming does not
    /// compete with a command for the processor, and when somebody waits.
    pub(crate) fn refill(self: &Arc<Self>) {
        let missing = {
            let mut state = self.state();
            let want = READY + state.waiting;
            let missing = want.saturating_sub(state.ready.len() + state.arming).min(ARMING - state.arming.min(ARMING));
            state.arming += missing;
            missing
        };
        for _ in 0..missing {
            let sandbox = Arc::clone(self);
            tokio::spawn(async move { sandbox.arm_one().await });
        }
    }

    /// Lets all but one waiting init go: a project at rest holds little memory.
    pub(crate) fn rest(&self) {
        let spare: Vec<Slot> = {
            let mut state = self.state();
            let keep = state.ready.len().min(1);
            state.ready.drain(keep..).collect()
        };
        for slot in spare {
            slot.pidfd.kill();
            self.recycle(slot);
        }
    }

    async fn arm_one(self: Arc<Self>) {
        let armed = match self.leaf() {
            Ok(leaf) => {
                let urgent = self.state().waiting > 0;
                arm(&self.launcher, leaf, self.owner, urgent).await
            }
            Err(error) => Err(error),
        };
        let mut state = self.state();
        state.arming -= 1;
        match armed {
            Ok(slot) => state.ready.push_back(slot),
            Err(error) => {
                if !self.killed.load(Ordering::Relaxed) {
                    tracing::warn!(%error, "no init could be armed");
                }
                state.failures += 1;
                state.failed = Some(Arc::new(error));
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn leaf(&self) -> Result<Option<Leaf>, ArmError> {
        match &self.leaves {
            None => Ok(None),
            Some(leaves) => Ok(Some(leaves.take()?)),
        }
    }

    /// Takes back what a run had. Its init is dead or dying: the leaf is used again when it is empty.
    pub(crate) fn recycle(&self, slot: Slot) {
        if let (Some(leaves), Some(leaf)) = (&self.leaves, slot.leaf) {
            leaves.give_back(leaf);
        }
    }

    /// Kills everything inside.
    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
        match rustix::process::pidfd_send_signal(&self.launcher.pidfd, rustix::process::Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => tracing::error!(%errno, "cannot kill the launcher"),
        }
    }

    /// Blocks until all processes inside are dead.
    pub(crate) fn wait_dead(&self, timeout: std::time::Duration) -> bool {
        let mut fds = [rustix::event::PollFd::new(&self.launcher.pidfd, rustix::event::PollFlags::IN)];
        let timeout = rustix::event::Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: 0 };
        let dead = matches!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1..));
        if dead {
            bury(self.launcher.pidfd.as_fd());
        }
        dead
    }

    /// Reaps the sandbox's first process whenever it ends; does not keep the sandbox.
    pub(crate) fn bury_when_dead(&self) {
        match self.launcher.pidfd.try_clone().map(Pidfd::new) {
            Ok(pidfd) => {
                tokio::spawn(async move {
                    pidfd.dead().await;
                    bury(pidfd.as_fd());
                });
            }
            Err(error) => tracing::warn!(%error, "a dead sandbox will stay in the table of processes"),
        }
    }
}

/// Takes the exit status of the launcher, which nobody wants to know.
fn bury(pidfd: BorrowedFd<'_>) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    // Somebody else's child, or buried already: as good.
    let _ = rustix::process::waitid(WaitId::PidFd(pidfd), options);
}

/// Counts somebody who waits for as long as it lives.
struct Waiting<'pool>(&'pool Sandbox);

impl<'pool> Waiting<'pool> {
    fn enter(sandbox: &'pool Sandbox) -> Self {
        sandbox.state().waiting += 1;
        Self(sandbox)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}
