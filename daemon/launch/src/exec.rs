//! The runner: waits for one order and becomes the command.
//!
//! Forked by its init ahead of time, inside every layer. The working directory comes from outside
//! and is resolved here, by the kernel, in the view: whatever links it went through, what counts is
//! where it ends (getcwd(2)).

use crate::stdio;
use nix::unistd::execve;
use rustix::fs::Mode;
use rustix::io::Errno;
use sandbox_launch::plan::{InitPlan, RunPlan};
use sandbox_launch::protocol::{receive_order, send};
use sandbox_launch::report::{Report, Step};
use sandbox_launch::sys;
use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Exit status of a runner that did not become its command; the report says why.
const NOT_STARTED: i32 = 125;

/// The whole life of a runner. All that does not depend on the order is done before it comes.
pub(crate) fn run(plan: &InitPlan, orders: &OwnedFd, stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> ! {
    if let Err(error) = prepare(stdout, stderr) {
        report(orders, &error);
    }
    let (order, fds) = match receive_order(orders) {
        Ok(Some(order)) => order,
        // The keeper let this init go unused.
        Ok(None) => sys::exit(0),
        Err(error) => report(orders, &Report::new(Step::ReadPlan, error, "order")),
    };
    match enter(&order.cwd, &plan.writable_roots).and_then(|()| take_input(&order, &fds)) {
        Ok(()) => become_command(&order, orders),
        Err(error) => report(orders, &error),
    }
}

fn report(orders: &OwnedFd, report: &Report) -> ! {
    let _ = send(orders, report, &[]); // a keeper that is gone needs no report
    sys::exit(NOT_STARTED)
}

fn prepare(stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> Result<(), Report> {
    let failed = |subject: &'static str| move |errno: Errno| Report::new(Step::Exec, errno, subject);
    stdio::attach(stdout, stderr)?;
    // A session of its own: no terminal, and its own process group for job control.
    rustix::process::setsid().map_err(failed("a new session"))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // The other actions are the default ones already, as the launcher has set them.
    sys::await_children();
    sys::unblock_signals().map_err(failed("the signal mask"))?;
    sys::close_on_exec_from(3).map_err(failed("closed descriptors"))
}

/// Standard input is `/dev/null` unless a descriptor came for it.
fn take_input(order: &RunPlan, fds: &[OwnedFd]) -> Result<(), Report> {
    if order.stdin {
        let pipe = fds.first().ok_or_else(|| Report::new(Step::Stdio, libc::EBADF, "standard input"))?;
        rustix::stdio::dup2_stdin(pipe).map_err(|errno| Report::new(Step::Stdio, errno, "standard input"))?;
    }
    let _ = sys::set_slice(0); // the command gets the default; a kernel without slices has it already
    Ok(())
}

/// Changes to the folder and checks where it really is.
fn enter(cwd: &str, roots: &[String]) -> Result<(), Report> {
    let outside = || Report::new(Step::CwdOutside, 0, cwd);
    match rustix::process::chdir(cwd) {
        Ok(()) => {}
        Err(errno @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG)) => {
            return Err(Report::new(Step::CwdNotFound, errno, cwd));
        }
        Err(errno) => return Err(Report::new(Step::CwdOutside, errno, cwd)),
    }
    let real = rustix::process::getcwd(Vec::new()).map_err(|_| outside())?;
    let below = |root: &String| {
        real.as_bytes().strip_prefix(root.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    };
    if roots.iter().any(below) { Ok(()) } else { Err(outside()) }
}

/// execve(2), looking the program up in `PATH` as a shell does. A command that cannot be executed
/// ends with 127 (not found) or 126 (found, but not executable), and says so on its standard error.
fn become_command(order: &RunPlan, orders: &OwnedFd) -> ! {
    let words: Option<Vec<CString>> = order.argv.iter().map(|word| CString::new(word.as_str()).ok()).collect();
    let env: Option<Vec<CString>> = order.env.iter().map(|pair| CString::new(pair.as_str()).ok()).collect();
    let (Some(words), Some(env), Some(program)) = (words, env, order.argv.first()) else {
        report(orders, &Report::new(Step::Exec, libc::EINVAL, "a word with a NUL byte"));
    };
    let mut result = nix::errno::Errno::ENOENT;
    for candidate in candidates(program, &order.env) {
        let Ok(path) = CString::new(candidate) else { continue };
        let Err(errno) = execve(&path, &words, &env);
        match errno {
            nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR => {}
            errno => result = errno,
        }
        if errno == nix::errno::Errno::E2BIG {
            report(orders, &Report::new(Step::Exec, errno, program.as_str()));
        }
    }
    let (status, text) = match result {
        nix::errno::Errno::ENOENT => (127, "not found".to_owned()),
        errno => (126, errno.desc().to_lowercase()),
    };
    let _ = rustix::io::write(rustix::stdio::stderr(), format!("{program}: {text}\n").as_bytes());
    sys::exit(status)
}

fn candidates(program: &str, env: &[String]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or("/usr/local/bin:/usr/bin:/bin");
    path.split(':').map(|folder| format!("{}/{program}", if folder.is_empty() { "." } else { folder })).collect()
}
