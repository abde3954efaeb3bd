//! Starts the command of an init's one order.
//!
//! By posix_spawn(3), which shares the init's memory until execve(2): a fork would copy it. The
//! working directory comes from outside and is resolved here, by the kernel, in the view: whatever
//! links it went through, what counts is where it ends (getcwd(2)).

use crate::init::{SHORT_SLICE_NS, stdio_failed};
use crate::stdio;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use rustix::io::Errno;
use sandbox_launch::plan::{InitPlan, RunPlan};
use sandbox_launch::report::{Report, Step};
use sandbox_launch::sys;
use std::ffi::CString;
use std::os::fd::OwnedFd;

/// How a command started.
pub(crate) enum Started {
    /// Its pid, inside.
    Running(i32),
    /// There is nothing to execute, as a shell would say it: a wait(2) status.
    Ended(i32),
}

/// Starts the order's command. The init's own output is the command's until this returns.
pub(crate) fn start(plan: &InitPlan, order: &RunPlan, stdin: Option<&OwnedFd>) -> Result<Started, Report> {
    enter(&order.cwd, &plan.writable_roots)?;
    if let Some(pipe) = stdin {
        rustix::stdio::dup2_stdin(pipe).map_err(stdio_failed)?;
    }
    // The command gets the default slice; a kernel without slices has given it that already.
    let _ = sys::set_slice(0);
    let started = spawn(order);
    let _ = sys::set_slice(SHORT_SLICE_NS);
    // Its pipes are the command's alone from here on: their end is the end of its output.
    stdio::detach()?;
    let _ = rustix::process::chdir("/"); // holds no folder of the command's; nothing depends on it
    started
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

/// Looks the program up in `PATH` as a shell does. A command that cannot be executed ends with 127
/// (not found) or 126 (found, but not executable), and says so on its standard error.
fn spawn(order: &RunPlan) -> Result<Started, Report> {
    let failed = |errno: nix::errno::Errno| Report::new(Step::Exec, errno, "");
    let strings = |list: &[String]| -> Result<Vec<CString>, Report> {
        let nul = |_| Report::new(Step::Exec, libc::EINVAL, "a word with a NUL byte");
        list.iter().map(|text| CString::new(text.as_str()).map_err(nul)).collect()
    };
    let (argv, env) = (strings(&order.argv)?, strings(&order.env)?);
    let program = order.argv.first().ok_or_else(|| Report::new(Step::Exec, libc::EINVAL, "no command"))?;

    let mut attributes = PosixSpawnAttr::init().map_err(failed)?;
    // A session of its own: no terminal, and its own process group for job control.
    let session = PosixSpawnFlags::from_bits_retain(libc::c_int::from(libc::POSIX_SPAWN_SETSID));
    attributes.set_flags(session | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK).map_err(failed)?;
    attributes.set_sigmask(&SigSet::empty()).map_err(failed)?;
    let actions = PosixSpawnFileActions::init().map_err(failed)?;

    let mut result = nix::errno::Errno::ENOENT;
    for candidate in candidates(program, &order.env) {
        match posix_spawn(candidate.as_str(), &actions, &attributes, &argv, &env) {
            Ok(pid) => return Ok(Started::Running(pid.as_raw())),
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => {}
            Err(errno @ nix::errno::Errno::E2BIG) => return Err(failed(errno)),
            Err(errno) => result = errno,
        }
    }
    let (status, text) = match result {
        nix::errno::Errno::ENOENT => (127, "not found".to_owned()),
        errno => (126, errno.desc().to_lowercase()),
    };
    // A pipe that nobody reads any more needs no message.
    let _ = rustix::io::write(rustix::stdio::stderr(), format!("{program}: {text}\n").as_bytes());
    Ok(Started::Ended(status << 8))
}

fn candidates(program: &str, env: &[String]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or("/usr/local/bin:/usr/bin:/bin");
    path.split(':').map(|folder| format!("{}/{program}", if folder.is_empty() { "." } else { folder })).collect()
}
