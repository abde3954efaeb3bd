//! Descriptors 0, 1 and 2 of launcher and inits: the control socket moves away, and `/dev/null`
//! takes their place.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sandbox_launch::report::{Report, Step};
use std::os::fd::OwnedFd;

/// Moves the control socket off descriptor 0, where a later `dup2` would hit it.
pub(crate) fn take_control() -> Result<OwnedFd, Errno> {
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = open_null(OFlags::RDWR)?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(control)
}

/// Cuts the launcher off from what it inherited, and its inits with it.
pub(crate) fn detach() -> Result<(), Report> {
    let null = open_null(OFlags::RDWR).map_err(failed)?;
    rustix::stdio::dup2_stdin(&null).map_err(failed)?;
    rustix::stdio::dup2_stdout(&null).map_err(failed)?;
    rustix::stdio::dup2_stderr(&null).map_err(failed)
}

fn open_null(flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open("/dev/null", flags | OFlags::CLOEXEC, Mode::empty())
}

fn failed(errno: Errno) -> Report {
    Report::new(Step::Stdio, errno, "/dev/null")
}
