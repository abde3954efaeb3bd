//! Starts the command of an init's one order.
//!
//! The working directory comes from outside and is resolved here, by the kernel, in the view: whatever
//! links it went through, what counts is where it ends (getcwd(2)).

use rustix::io::Errno;
use sandbox_launch::plan::{InitPlan, RunPlan};
use sandbox_launch::report::{Report, Step};
use sandbox_launch::sys::{self, Command, Stdio};
use std::ffi::CString;
use std::os::fd::OwnedFd;

/// Starts the order's command. Returns its pid, inside, and its pidfd.
pub(crate) fn start(plan: &InitPlan, order: &RunPlan, stdio: Stdio) -> Result<(i32, OwnedFd), Report> {
    enter(&order.cwd, &plan.writable_roots)?;
    sys::spawn(command(order)?, stdio).map_err(|errno| Report::new(Step::Fork, errno, "the command"))
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

/// The words as execve(2) takes them. The program is looked up in `PATH` as a shell does.
fn command(order: &RunPlan) -> Result<Command, Report> {
    let words = || order.argv.iter().chain(&order.env);
    // Each word has its NUL and its place in an array.
    let bytes: usize = words().map(|word| word.len() + 1 + size_of::<usize>()).sum();
    if bytes > ARGUMENT_BYTES && bytes > argument_limit() {
        return Err(Report::new(Step::Exec, Errno::TOOBIG, ""));
    }
    let nul = |_| Report::new(Step::Exec, libc::EINVAL, "a word with a NUL byte");
    let string = |text: &String| CString::new(text.as_str()).map_err(nul);
    let program = order.argv.first().ok_or_else(|| Report::new(Step::Exec, libc::EINVAL, "no command"))?;
    Ok(Command {
        candidates: candidates(program, &order.env).iter().map(string).collect::<Result<_, _>>()?,
        argv: order.argv.iter().map(string).collect::<Result<_, _>>()?,
        env: order.env.iter().map(string).collect::<Result<_, _>>()?,
        name: program.as_bytes().to_owned(),
    })
}

/// What the kernel takes in words whatever the limit on the stack, less what it adds itself: a path,
/// and the ends of the arrays (execve(2), `ARG_MAX`).
const ARGUMENT_BYTES: usize = 128 * 1024 - ADDED_BYTES;
const ADDED_BYTES: usize = 8 * 1024;

/// A quarter of the limit on the stack, and no more than 6 MiB: execve(2).
fn argument_limit() -> usize {
    const MOST: u64 = 6 << 20;
    let stack = rustix::process::getrlimit(rustix::process::Resource::Stack).current;
    let limit = stack.map_or(MOST, |stack| (stack / 4).min(MOST)) as usize;
    limit.saturating_sub(ADDED_BYTES).max(ARGUMENT_BYTES)
}

fn candidates(program: &str, env: &[String]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or("/usr/local/bin:/usr/bin:/bin");
    path.split(':').map(|folder| format!("{}/{program}", if folder.is_empty() { "." } else { folder })).collect()
}
