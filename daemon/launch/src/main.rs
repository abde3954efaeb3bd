//! The launcher: carries a plan out, from top to bottom, then makes armed inits until told to stop.
//!
//! Input: a control socket on descriptor 0 (see `protocol.rs`). Output: reports on it. No arguments,
//! no environment, no threads, no decision. The order below is the order of isolation: whatever
//! needs the host comes first, whatever takes rights away comes last.

mod attempts;
mod capabilities;
mod exec;
mod fault;
mod init;
mod landlock;
mod mounts;
mod namespaces;
mod network;
mod rlimits;
mod stdio;
mod tries;

use ::landlock::RulesetCreated;
use rustix::fd::AsFd;
use sandbox_launch::plan::LaunchPlan;
use sandbox_launch::protocol::{ARM_BYTES, FromLauncher, ToLauncher, receive, receive_with, send};
use sandbox_launch::report::{Report, Step};
use sandbox_launch::sys;
use std::os::fd::OwnedFd;

fn main() {
    let control = match stdio::take_control() {
        Ok(control) => control,
        Err(_) => sys::exit(1), // nobody to report to
    };
    match launch(&control) {
        Ok((plan, ruleset)) => arm_until_closed(control, &plan, ruleset),
        Err(report) => {
            // When the keeper is gone too there is nobody left who could be told.
            let _ = send(&control, &FromLauncher::Failed(report), &[]);
            sys::exit(1);
        }
    }
}

/// Makes the sandbox; returns in its pid 1.
fn launch(control: &OwnedFd) -> Result<(LaunchPlan, RulesetCreated), Report> {
    let plan = read_plan(control)?;
    rustix::thread::set_name(c"sandbox-launch").map_err(|e| Report::new(Step::ReadPlan, e, "name"))?;
    go_first_when_memory_runs_out()?;
    let mut sources = mounts::Sources::default();
    if plan.privileged {
        sources.open(&plan.view)?;
    }
    namespaces::enter_user(control, plan.uid, plan.gid)?;
    match namespaces::fork_into_others(plan.own_network)? {
        // The first process has done its part; its child is pid 1 of the sandbox.
        sys::Forked::Parent(_) => sys::exit(0),
        sys::Forked::Child => {}
    }
    // In the host's own namespace it would be the host's name.
    if !fault::omits("uts") {
        namespaces::set_hostname(&plan.hostname)?;
    }
    if plan.own_network && !fault::omits("net") {
        network::bring_up_loopback()?;
    }
    if !plan.privileged {
        sources.open(&plan.view)?;
    }
    mounts::make_view(&plan.view, sources)?;
    let ruleset = landlock::prepare(&plan.landlock)?;
    rlimits::set_processors(&plan.cpus)?;
    if !fault::omits("rlimits") {
        rlimits::set(&plan.rlimits)?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if !fault::omits("capability-locks") {
        capabilities::lock()?;
    }
    if !fault::omits("seccomp") {
        sys::load_seccomp(&plan.seccomp).map_err(|errno| Report::new(Step::Seccomp, errno, "the launcher"))?;
    }

    // For all that follows: inits and commands start with the default actions.
    sys::reset_signals();
    sys::ignore_children();
    let own_pid = rustix::process::getpid();
    let pidfd = rustix::process::pidfd_open(own_pid, rustix::process::PidfdFlags::empty())
        .map_err(|errno| Report::new(Step::Fork, errno, "the launcher's own pidfd"))?;
    let exits_by_pidfd = init::exits_by_pidfd();
    send(control, &FromLauncher::Ready { exits_by_pidfd }, &[pidfd.as_fd()])
        .map_err(|e| Report::new(Step::ReadPlan, e, "ready"))?;
    // From here on failures are reported, not written.
    stdio::detach()?;
    Ok((plan, ruleset))
}

/// Whatever runs inside is less dear to the host than whatever does not, the daemon first of all; proc_pid_oom_score_adj(5).
/// Inherited. Where the daemon may lower the value, this one cannot be lowered any more.
fn go_first_when_memory_runs_out() -> Result<(), Report> {
    const HALF_OF_THE_MEMORY: &str = "500";
    std::fs::write("/proc/self/oom_score_adj", HALF_OF_THE_MEMORY)
        .map_err(|error| Report::new(Step::OfferMemory, error, "oom_score_adj"))
}

fn read_plan(control: &OwnedFd) -> Result<LaunchPlan, Report> {
    let failed = |error| Report::new(Step::ReadPlan, error, "");
    match receive(control).map_err(failed)? {
        Some((ToLauncher::Try(trials), _)) => {
            send(control, &FromLauncher::Tried(tries::all(&trials)), &[]).map_err(failed)?;
            sys::exit(0)
        }
        Some((ToLauncher::Plan, mut fds)) => {
            let file = fds.pop().ok_or_else(|| failed(std::io::ErrorKind::InvalidData.into()))?;
            sandbox_launch::protocol::from_file(file).map_err(failed)
        }
        _ => Err(Report::new(Step::ReadPlan, libc::EPROTO, "none came")),
    }
}

/// One init per request. Ends when the keeper closes the socket, or when it speaks no sense; the
/// launcher's end is the end of the pid namespace and of everything inside.
fn arm_until_closed(control: OwnedFd, plan: &LaunchPlan, ruleset: RulesetCreated) -> ! {
    while let Ok(Some((ToLauncher::Arm { urgent, watched }, fds))) = receive_with(&control, &mut [0; ARM_BYTES]) {
        match sys::fork(namespaces::of_init()) {
            Ok(sys::Forked::Child) => {
                drop(control);
                init::run(&plan.init, ruleset, urgent, watched, fds)
            }
            Ok(sys::Forked::Parent(_)) => {}
            Err(errno) => init::refuse(&fds, &Report::new(Step::Fork, errno, "an init")),
        }
    }
    sys::exit(0)
}
