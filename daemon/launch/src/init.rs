//! The armed init: pid 1 of one run. Isolates itself, starts the command, reaps, reports, dies.
//!
//! It takes ONE run. Its own death is the end of everything the run has started, because the kernel
//! kills a pid namespace with its pid 1 (pid_namespaces(7)). It is not traceable, has no capability,
//! and holds no descriptor but its report socket. Signals from inside do not reach it.

use crate::{attempts, capabilities, exec, fault, landlock, mounts};
use ::landlock::RulesetCreated;
use nix::sched::CloneFlags;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::AsFd;
use sandbox_launch::plan::{InitPlan, RunPlan};
use sandbox_launch::protocol::{Enforcement, FromInit, ORDER_BYTES, ToInit, from_file, open_order, receive_with, send};
use sandbox_launch::report::{Report, Step};
use sandbox_launch::selftest::SelfTest;
use sandbox_launch::sys::{self, Stdio};
use std::os::fd::{BorrowedFd, OwnedFd};

/// An init runs briefly and should get a processor at once …
const SHORT_SLICE_NS: u64 = 100_000;
/// … but not while they get ready and nobody waits for them: then commands go first.
const LONG_SLICE_NS: u64 = 100_000_000;

/// How often an init that lingers looks whether anything is left.
const LINGER_TICK: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// What came with an order to arm.
struct Fds {
    report: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    /// `tasks` or `cgroup.procs` files, opened by the keeper with its rights.
    leaf: Vec<OwnedFd>,
}

impl Fds {
    fn sort(fds: Vec<OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        Some(Self { report: fds.next()?, stdout: fds.next()?, stderr: fds.next()?, leaf: fds.collect() })
    }
}

/// Tells the keeper that no init could be made.
pub(crate) fn refuse(fds: &[OwnedFd], report: &Report) {
    if let Some(socket) = fds.first() {
        // A keeper that is gone needs no report.
        let _ = send(socket, &FromInit::Failed(report.clone()), &[]);
    }
}

/// The whole life of an init.
pub(crate) fn run(plan: &InitPlan, ruleset: RulesetCreated, urgent: bool, watched: bool, fds: Vec<OwnedFd>) -> ! {
    let Some(Fds { report, stdout, stderr, leaf }) = Fds::sort(fds) else { sys::exit(1) };
    // Kernels that do not know slices are only slower.
    let _ = sys::set_slice(if urgent { SHORT_SLICE_NS } else { LONG_SLICE_NS });
    let _ = rustix::thread::set_name(c"sandbox-init"); // for people who look at processes
    let armed = isolate(plan, ruleset, leaf).and_then(|landlock| Ok((landlock, reaper(watched)?)));
    let (landlock, children) = match armed {
        Ok(armed) => armed,
        Err(error) => {
            let _ = send(&report, &FromInit::Failed(error), &[]); // the exit below says it too
            sys::exit(1);
        }
    };
    let _ = sys::set_slice(SHORT_SLICE_NS);
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
    let Ok(own) = own else { sys::exit(1) };
    if send(&report, &FromInit::Armed { landlock }, &[own.as_fd()]).is_err() {
        sys::exit(1);
    }
    drop(own);
    Init { plan, report, output: Some((stdout, stderr)), children, command: None, lingers: false }.serve()
}

/// Everything that takes rights away, in the order in which the rights are needed.
fn isolate(plan: &InitPlan, ruleset: RulesetCreated, leaf: Vec<OwnedFd>) -> Result<Enforcement, Report> {
    for membership in leaf.iter().filter(|_| !fault::omits("limits")) {
        // "0" is the writer itself; the keeper's rights count, since the keeper opened the file.
        rustix::io::write(membership, b"0").map_err(|errno| Report::new(Step::JoinCgroup, errno, ""))?;
    }
    drop(leaf);
    // After joining, so that the leaf is the root of what the command can see.
    if !fault::omits("cgroup") {
        nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP)
            .map_err(|errno| Report::new(Step::EnterCgroupNamespace, errno, ""))?;
    }
    mounts::extend_view(&plan.view)?;
    if !fault::omits("capabilities") {
        capabilities::drop_all()?;
    }
    sys::close_on_exec_from(3).map_err(|errno| Report::new(Step::Stdio, errno, "closed descriptors"))?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|errno| Report::new(Step::Fork, errno, "death signal"))?;
    let landlock = match fault::omits("landlock") {
        true => Enforcement::Full,
        false => landlock::restrict(ruleset)?,
    };
    if !fault::omits("seccomp-of-init") {
        sys::load_seccomp(&plan.seccomp).map_err(|errno| Report::new(Step::Seccomp, errno, "an init"))?;
    }
    Ok(landlock)
}

/// Who reaps: the kernel, when the keeper sees the command's end itself; else this init, told by
/// descriptor.
fn reaper(watched: bool) -> Result<Option<SignalFd>, Report> {
    if watched {
        return Ok(None);
    }
    let failed = |errno| Report::new(Step::Fork, errno, "SIGCHLD");
    sys::await_children(); // the launcher lets the kernel reap
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None).map_err(failed)?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map(Some).map_err(failed)
}

/// Whether the kernel tells through a pidfd how a process ended that nobody waited for. Tried with
/// a child, in the launcher, which ignores its children as a watched init does.
pub(crate) fn exits_by_pidfd() -> bool {
    const STATUS: i32 = 7;
    let Ok((wait, go)) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) else { return false };
    let pid = match sys::fork(0) {
        Ok(sys::Forked::Child) => {
            drop(go);
            let _ = rustix::io::read(&wait, &mut [0; 1]); // ends when its pidfd is open
            sys::exit(STATUS)
        }
        Ok(sys::Forked::Parent(pid)) => pid,
        Err(_) => return false,
    };
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return false };
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    drop((go, wait));
    let Ok(pidfd) = pidfd else { return false };
    let patience = rustix::event::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    for _ in 0..1000 {
        let mut ended = [PollFd::new(&pidfd, PollFlags::HUP)];
        let _ = poll(&mut ended, Some(&patience)); // an interrupted wait is a short one
        match sys::exit_status(&pidfd) {
            Ok(Some(status)) => return status == STATUS << 8,
            Ok(None) => {}
            Err(_) => return false,
        }
    }
    false
}

/// An init that is armed.
struct Init<'plan> {
    plan: &'plan InitPlan,
    report: OwnedFd,
    /// Of the command: its standard output and error, until it has them.
    output: Option<(OwnedFd, OwnedFd)>,
    /// Tells of children that have ended; absent when the kernel reaps them.
    children: Option<SignalFd>,
    /// The command's pid, once it runs.
    command: Option<i32>,
    lingers: bool,
}

impl Init<'_> {
    /// Until nothing is left or the keeper is gone.
    fn serve(mut self) -> ! {
        loop {
            let report = PollFd::new(&self.report, PollFlags::IN);
            let mut ready = match &self.children {
                Some(children) => vec![report, PollFd::new(children, PollFlags::IN)],
                None => vec![report],
            };
            match poll(&mut ready, self.lingers.then_some(&LINGER_TICK)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => sys::exit(1),
            }
            let message = !ready[0].revents().is_empty();
            let child = ready.get(1).is_some_and(|child| !child.revents().is_empty());
            drop(ready);
            if child {
                self.reap();
            }
            if self.lingers && count_others() == 0 {
                sys::exit(0);
            }
            if message {
                self.obey();
            }
        }
    }

    fn obey(&mut self) {
        let (message, fds) = match receive_with::<ToInit>(&self.report, &mut [0; ORDER_BYTES]) {
            Ok(Some(message)) => message,
            // The keeper is gone, or speaks no sense: end everything.
            Ok(None) | Err(_) => sys::exit(1),
        };
        match message {
            ToInit::Order { plan, stdin } => self.start(plan, stdin, fds),
            // Fails when nobody is there to be signalled, which is as good.
            ToInit::Signal(signal) => drop(sys::signal_all(signal)),
            ToInit::Count => self.tell(&FromInit::Counted { others: count_others() }, &[]),
            ToInit::Linger => self.lingers = true,
            ToInit::Test => self.test(fds),
        }
    }

    /// Tries what no command may do, says what was possible, and ends.
    fn test(&self, fds: Vec<OwnedFd>) -> ! {
        let test = fds.into_iter().next().map(from_file::<SelfTest>);
        if let Some(Ok(test)) = test {
            self.tell(&FromInit::Tested { breaches: attempts::all(&test) }, &[]);
        }
        sys::exit(0)
    }

    fn start(&mut self, plan: Option<RunPlan>, stdin: bool, fds: Vec<OwnedFd>) {
        // An init has one order, and no second command.
        let Some((stdout, stderr)) = self.output.take() else { sys::exit(1) };
        let started = open_order(plan, stdin, fds)
            .map_err(|error| Report::new(Step::ReadPlan, error, "order"))
            .and_then(|(order, stdin)| exec::start(self.plan, &order, Stdio { stdin, stdout, stderr }));
        match started {
            Ok((command, pidfd)) => {
                self.command = Some(command);
                self.tell(&FromInit::Started, &[pidfd.as_fd()]);
            }
            Err(report) => self.tell(&FromInit::NotStarted(report), &[]),
        }
    }

    fn tell(&self, message: &FromInit, fds: &[BorrowedFd<'_>]) {
        if send(&self.report, message, fds).is_err() {
            sys::exit(1);
        }
    }

    /// Reaps all that is dead. Reports the command's end at once, before anything else is torn down.
    fn reap(&mut self) {
        if let Some(children) = &self.children {
            while matches!(children.read_signal(), Ok(Some(_))) {}
        }
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), code << 8),
                Ok(WaitStatus::Signaled(pid, signal, core)) => {
                    (pid.as_raw(), signal as i32 | if core { 0x80 } else { 0 })
                }
                Ok(WaitStatus::StillAlive) => return,
                // Nothing left at all: the run is over.
                Err(nix::errno::Errno::ECHILD) => sys::exit(0),
                Ok(_) | Err(_) => continue,
            };
            if Some(pid) == self.command {
                let usage = getrusage(UsageWho::RUSAGE_CHILDREN);
                let cpu_us = usage.map_or(0, |usage| {
                    let micros =
                        |time: nix::sys::time::TimeVal| time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64;
                    micros(usage.user_time()) + micros(usage.system_time())
                });
                self.tell(&FromInit::Ended { status, cpu_us, stragglers: count_others() }, &[]);
            }
        }
    }
}

/// Processes of this pid namespace but the init. Zombies that wait for the init do not count:
/// they are reaped first, and the count is 0 without looking when no child is left.
fn count_others() -> u32 {
    let mut left = 0;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => break,
            Err(nix::errno::Errno::ECHILD) => return 0,
            Err(nix::errno::Errno::EINTR) | Ok(_) => {}
            Err(_) => return 0,
        }
    }
    if let Ok(entries) = std::fs::read_dir("/proc") {
        for entry in entries.flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.parse::<u32>().ok());
            left += u32::from(pid.is_some_and(|pid| pid != 1));
        }
    }
    left
}
