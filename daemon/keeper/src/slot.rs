//! An armed init as the keeper holds it: ready for one run.

use crate::cgroup::Leaf;
use crate::spawn::Launcher;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use sandbox_launch::plan::RunPlan;
use sandbox_launch::protocol::{
    Enforcement, FromInit, REPORT_BYTES, ToInit, ToLauncher, receive_with, send, send_order, to_file,
};
use sandbox_launch::report::Report;
use sandbox_launch::selftest::{Breach, SelfTest};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;

/// How long an init may take to get ready.
const ARM_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no init got ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArmError {
    #[error("cannot make the pipes of a run: {0}")]
    Pipes(#[source] io::Error),
    #[error("the launcher is gone: {0}")]
    Launcher(#[source] io::Error),
    #[error("an init {0}")]
    Step(#[from] Report),
    #[error(transparent)]
    Leaf(#[from] crate::cgroup::CgroupError),
    #[error("an init did not get ready")]
    Silent,
}

/// The pidfd of a first process: by it everything inside is killed, and known to be dead.
#[derive(Debug)]
pub(crate) struct Pidfd(OwnedFd);

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Pidfd {
    pub(crate) fn new(pidfd: OwnedFd) -> Self {
        Self(pidfd)
    }

    /// Completes when the init is dead, and with it all that it contained.
    pub(crate) async fn dead(&self) {
        let watched = self.0.try_clone().and_then(watch);
        match watched {
            // An error means that the runtime is shutting down, which ends the wait as well.
            Ok(watched) => drop(watched.readable().await),
            Err(error) => tracing::error!(%error, "cannot wait for an init's end"),
        }
    }

    pub(crate) fn kill(&self) {
        match rustix::process::pidfd_send_signal(&self.0, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => tracing::error!(%errno, "cannot kill an init"),
        }
    }
}

/// The conversation with one init, and what it was given.
#[derive(Debug)]
pub(crate) struct Slot {
    report: AsyncFd<OwnedFd>,
    pub stdout: pipe::Receiver,
    pub stderr: pipe::Receiver,
    pub pidfd: Pidfd,
    pub leaf: Option<Leaf>,
    pub landlock: Enforcement,
    /// The kernel tells by the command's pidfd how it ended: that spares waking the init, which is
    /// otherwise the one to say so.
    watched: bool,
    command: OnceLock<AsyncFd<OwnedFd>>,
    refusal: OnceLock<Report>,
    /// The init was asked what is left.
    counting: OnceLock<()>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    /// As wait(2) tells it.
    pub status: i32,
    /// What it and the children it waited for used, where the init has counted.
    pub cpu_us: Option<u64>,
    /// Processes that were still there.
    pub stragglers: u32,
}

/// Makes an init through the launcher and waits until it is ready. `owner` is the host id that
/// commands have, when it is not the keeper's own: then the pipes must be theirs, or
/// `/dev/stdout` could not be opened again.
pub(crate) async fn arm(
    launcher: &Launcher,
    mut leaf: Option<Leaf>,
    owner: Option<u32>,
    urgent: bool,
) -> Result<Slot, ArmError> {
    let pipes = |errno: Errno| ArmError::Pipes(errno.into());
    // Who is left is counted by the leaf, then.
    let watched = launcher.exits_by_pidfd && leaf.as_ref().is_some_and(|leaf| leaf.others().is_some());
    let (report, their_report) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(pipes)?;
    let (stdout, their_stdout) = output_pipe(owner)?;
    let (stderr, their_stderr) = output_pipe(owner)?;
    {
        let mut fds: Vec<BorrowedFd<'_>> = vec![their_report.as_fd(), their_stdout.as_fd(), their_stderr.as_fd()];
        if let Some(leaf) = &leaf {
            fds.extend(leaf.join_fds().iter().map(AsFd::as_fd));
        }
        send(&launcher.control, &ToLauncher::Arm { urgent, watched }, &fds).map_err(ArmError::Launcher)?;
    }
    drop((their_report, their_stdout, their_stderr));

    rustix::io::ioctl_fionbio(&report, true).map_err(pipes)?;
    let report = watch(report).map_err(ArmError::Pipes)?;
    let ready = tokio::time::timeout(ARM_TIMEOUT, receive(&report)).await;
    let (landlock, mut fds) = match ready.map_err(|_| ArmError::Silent)? {
        Ok(Some((FromInit::Armed { landlock }, fds))) => (landlock, fds),
        Ok(Some((FromInit::Failed(report), _))) => return Err(report.into()),
        Ok(Some(_) | None) => return Err(ArmError::Silent),
        Err(error) => return Err(ArmError::Launcher(error)),
    };
    let pidfd = Pidfd(fds.pop().ok_or(ArmError::Silent)?);
    if let Some(leaf) = &mut leaf {
        leaf.begin()?;
    }
    Ok(Slot {
        report,
        stdout,
        stderr,
        pidfd,
        leaf,
        landlock,
        watched,
        command: OnceLock::new(),
        refusal: OnceLock::new(),
        counting: OnceLock::new(),
    })
}

fn output_pipe(owner: Option<u32>) -> Result<(pipe::Receiver, OwnedFd), ArmError> {
    let failed = |errno: Errno| ArmError::Pipes(errno.into());
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(failed)?;
    give(&theirs, owner).map_err(failed)?;
    Ok((pipe::Receiver::from_owned_fd_unchecked(ours).map_err(ArmError::Pipes)?, theirs))
}

/// A pipe for standard input: our writing end, their reading end.
pub(crate) fn input_pipe(owner: Option<u32>) -> io::Result<(pipe::Sender, OwnedFd)> {
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    give(&theirs, owner)?;
    Ok((pipe::Sender::from_owned_fd_unchecked(ours)?, theirs))
}

fn give(pipe: &OwnedFd, owner: Option<u32>) -> Result<(), Errno> {
    match owner {
        Some(id) => rustix::fs::fchown(pipe, Some(rustix::fs::Uid::from_raw(id)), Some(rustix::fs::Gid::from_raw(id))),
        None => Ok(()),
    }
}

impl Slot {
    /// Hands the command over.
    pub(crate) fn order(&self, order: RunPlan, stdin: Option<&OwnedFd>) -> io::Result<()> {
        send_order(self.report.get_ref(), order, stdin.map(AsFd::as_fd))
    }

    /// Why the command was not started, if it was refused.
    pub(crate) fn refusal(&self) -> Option<&Report> {
        self.refusal.get()
    }

    /// Completes when the command runs, or will not. May be dropped and called again.
    pub(crate) async fn started(&self) {
        while self.command.get().is_none() && self.refusal.get().is_none() {
            // Each is said once at most, so each place is still empty.
            let _ = match receive(&self.report).await {
                Ok(Some((FromInit::Started, mut fds))) => match fds.pop().map(watch) {
                    Some(Ok(command)) => self.command.set(command).is_ok(),
                    _ => return,
                },
                Ok(Some((FromInit::NotStarted(report), _))) => self.refusal.set(report).is_ok(),
                _ => return,
            };
        }
    }

    /// The command's end; `None` when the init died without telling, or refused. May be dropped and
    /// called again.
    pub(crate) async fn ended(&self) -> Option<End> {
        self.started().await;
        let command = self.command.get()?;
        if !self.watched {
            return match receive(&self.report).await {
                Ok(Some((FromInit::Ended { status, cpu_us, stragglers }, _))) => {
                    Some(End { status, cpu_us: Some(cpu_us), stragglers })
                }
                _ => None,
            };
        }
        loop {
            let mut ready = command.readable().await.ok()?;
            match sandbox_launch::sys::exit_status(command.get_ref()) {
                Ok(Some(status)) => {
                    return Some(End { status, cpu_us: None, stragglers: self.stragglers().await });
                }
                // Dead, but not yet reaped: the kernel says so once more.
                Ok(None) => ready.clear_ready(),
                Err(_) => return None,
            }
        }
    }

    /// The leaf counts cheaply, but an ended process a moment longer than it is there; so only
    /// when it counts any is the init asked. It is asked once, however often this is called.
    async fn stragglers(&self) -> u32 {
        if self.counting.get().is_none() {
            if self.leaf.as_ref().and_then(Leaf::others) == Some(0) {
                return 0;
            }
            if let Err(error) = send(self.report.get_ref(), &ToInit::Count, &[]) {
                tracing::warn!(%error, "an init cannot be asked what is left");
            }
            let _ = self.counting.set(()); // empty, as just seen
        }
        match receive(&self.report).await {
            Ok(Some((FromInit::Counted { others }, _))) => others,
            // The init is gone, and everything with it.
            _ => 0,
        }
    }

    /// In place of a command: what a self-test was able to do.
    pub(crate) async fn test(&mut self, test: &SelfTest) -> io::Result<Vec<Breach>> {
        let file = to_file(test)?;
        send(self.report.get_ref(), &ToInit::Test, &[file.as_fd()])?;
        let silent = || io::Error::other("the self-test gave no answer");
        match tokio::time::timeout(ARM_TIMEOUT, receive(&self.report)).await.map_err(|_| silent())?? {
            Some((FromInit::Tested { breaches }, _)) => Ok(breaches),
            _ => Err(silent()),
        }
    }

    /// Lets what the command left behind stay until it ends.
    pub(crate) fn linger(&self) {
        // An init that is gone has nothing left to keep.
        let _ = send(self.report.get_ref(), &ToInit::Linger, &[]);
    }

    /// Signals every process of the run but its init.
    pub(crate) fn signal(&self, signal: i32) {
        // An init that is gone has no process left to signal.
        let _ = send(self.report.get_ref(), &ToInit::Signal(signal), &[]);
    }
}

/// Lets the runtime wait for a descriptor to become readable.
#[allow(deprecated, reason = "the other constructor is unsafe; what it guards against cannot be done with an OwnedFd")]
fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<(FromInit, Vec<OwnedFd>)>> {
    socket
        .async_io(Interest::READABLE, |socket| {
            let mut buffer = [0; REPORT_BYTES];
            receive_with(socket, &mut buffer)
        })
        .await
}
