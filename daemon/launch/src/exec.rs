//! Starts the command of an init's one order.
//!
//! The working directory comes from outside and is resolved here, by the kernel, in the view: whatever
//! links it went through, what counts is where it ends (getcwd(2)).

use crate::init::stdio_failed;
use crate::stdio;
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
    let started = spawn(order);
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
    let nul = |_| Report::new(Step::Exec, libc::EINVAL, "a word with a NUL byte");
    let strings = |list: &[String]| -> Result<Vec<CString>, Report> {
        list.iter().map(|text| CString::new(text.as_str()).map_err(nul)).collect()
    };
    let (argv, env) = (strings(&order.argv)?, strings(&order.env)?);
    let program = order.argv.first().ok_or_else(|| Report::new(Step::Exec, libc::EINVAL, "no command"))?;
    let mut result = Errno::NOENT;
    for candidate in candidates(program, &order.env) {
        match sys::spawn(&CString::new(candidate).map_err(nul)?, &argv, &env) {
            Ok(pid) => return Ok(Started::Running(pid)),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno @ Errno::TOOBIG) => return Err(Report::new(Step::Exec, errno, "")),
            Err(errno) => result = errno,
        }
    }
    let (status, text) = match result {
        Errno::NOENT => (127, "not found".to_owned()),
        errno => (126, nix::errno::Errno::from_raw(errno.raw_os_error()).desc().to_lowercase()),
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
