//! Starts the launcher and talks it through its set-up.
//!
//! The program is read once into a sealed memory file and executed from there: what runs is what
//! was read, whatever happens to the installed file, and nothing inside a sandbox can reach a file
//! of the host through `/proc/<pid>/exe`. Blocking; made for a blocking thread.

use crate::subordinate::Subordinate;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sandbox_launch::plan::LaunchPlan;
use sandbox_launch::protocol::{FromLauncher, ToLauncher, receive, send, to_file};
use sandbox_launch::report::Report;
use sandbox_launch::trial::{Outcome, Trial};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a launcher may take for one step of its set-up before it is given up.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("cannot read the launcher {path}: {source}")]
    Program { path: PathBuf, source: io::Error },
    #[error("cannot start the launcher: {0}")]
    Start(#[source] io::Error),
    #[error("cannot map ids into the sandbox: {0}")]
    MapIds(#[source] io::Error),
    #[error("the launcher did not answer: {0}")]
    Silent(#[source] io::Error),
    #[error("the launcher {0}")]
    Step(#[from] Report),
}

/// The launcher program in memory.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// Reads the launcher that is installed beside this program.
    pub fn beside_this() -> Result<Self, SpawnError> {
        let path = std::env::current_exe().unwrap_or_default().with_file_name("sandbox-launch");
        Self::read(&path).map_err(|source| SpawnError::Program { path, source })
    }

    fn read(path: &Path) -> io::Result<Self> {
        let mut program = File::open(path)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let name = "sandbox-launch";
        let memory = match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
            // Before Linux 6.3 every memory file was executable and nobody asked.
            Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
            other => other?,
        };
        let mut file = File::from(memory);
        io::copy(&mut program, &mut file)?; // the kernel's own copy, without a buffer of ours
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        Ok(Self(file.into()))
    }
}

/// A launcher whose view stands.
#[derive(Debug)]
pub struct Launcher {
    /// Orders to arm go in; closing it ends the launcher and everything inside.
    pub control: OwnedFd,
    /// Of the process from which everything inside descends.
    pub pidfd: OwnedFd,
    /// The kernel tells how a process ended through its pidfd.
    pub exits_by_pidfd: bool,
}

/// Ids inside and outside of a sandbox.
#[derive(Debug, Clone)]
pub enum Ids {
    /// `0..65536` inside is `base..base+65536` on the host.
    Range { base: u32 },
    /// One id inside is the keeper's own on the host.
    Single { uid: u32, gid: u32 },
    /// That one, and all others from a range that root has set aside for the keeper's user.
    Subordinate(Subordinate),
}

/// Starts a launcher and waits until its view stands.
pub fn launch(program: &Program, plan: &LaunchPlan, ids: &Ids) -> Result<Launcher, SpawnError> {
    let (control, mut child) = start(program)?;
    let launched = converse(&control, plan, ids, child.id());
    if launched.is_err() {
        let _ = child.kill(); // gone already, most likely
    }
    // The first process ends by itself once the sandbox has its pid 1.
    child.wait().map_err(SpawnError::Start)?;
    let (pidfd, exits_by_pidfd) = launched?;
    rustix::net::sockopt::set_socket_timeout(&control, Timeout::Recv, None)
        .map_err(|errno| SpawnError::Silent(errno.into()))?;
    Ok(Launcher { control, pidfd, exits_by_pidfd })
}

/// Has a launcher try things, each in a process of its own; answers come in the same order.
pub fn try_on_host(program: &Program, trials: &[Trial]) -> Result<Vec<Outcome>, SpawnError> {
    let (control, mut child) = start(program)?;
    let answer = send(&control, &ToLauncher::Try(trials.to_vec()), &[]).and_then(|()| receive(&control));
    let _ = child.kill(); // has ended by itself, unless something hangs
    child.wait().map_err(SpawnError::Start)?;
    match answer.map_err(SpawnError::Silent)? {
        Some((FromLauncher::Tried(outcomes), _)) => Ok(outcomes),
        Some((FromLauncher::Failed(report), _)) => Err(report.into()),
        _ => Err(SpawnError::Silent(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// A launcher that waits for what it is to do, and our end of its socket.
fn start(program: &Program) -> Result<(OwnedFd, Child), SpawnError> {
    let (control, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|errno| SpawnError::Start(errno.into()))?;
    rustix::net::sockopt::set_socket_timeout(&control, Timeout::Recv, Some(STEP_TIMEOUT))
        .map_err(|errno| SpawnError::Silent(errno.into()))?;
    let child = Command::new(format!("/proc/self/fd/{}", program.0.as_raw_fd()))
        .arg0("sandbox-launch")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .map_err(SpawnError::Start)?;
    Ok((control, child))
}

fn converse(control: &OwnedFd, plan: &LaunchPlan, ids: &Ids, pid: u32) -> Result<(OwnedFd, bool), SpawnError> {
    let file = to_file(plan).map_err(SpawnError::Start)?;
    send(control, &ToLauncher::Plan, &[file.as_fd()]).map_err(SpawnError::Start)?;
    drop(file);
    loop {
        match receive(control).map_err(SpawnError::Silent)? {
            Some((FromLauncher::WantsIds, _)) => {
                write_maps(pid, ids).map_err(SpawnError::MapIds)?;
                send(control, &ToLauncher::IdsMapped, &[]).map_err(SpawnError::Silent)?;
            }
            Some((FromLauncher::Ready { exits_by_pidfd }, mut fds)) => {
                let pidfd = fds.pop().ok_or_else(|| SpawnError::Silent(io::ErrorKind::InvalidData.into()))?;
                return Ok((pidfd, exits_by_pidfd));
            }
            Some((FromLauncher::Failed(report), _)) => return Err(report.into()),
            Some((FromLauncher::Tried(_), _)) => return Err(SpawnError::Silent(io::ErrorKind::InvalidData.into())),
            None => return Err(SpawnError::Silent(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// user_namespaces(7): an ordinary user may map its own ids only, and only without setgroups(2).
fn write_maps(pid: u32, ids: &Ids) -> io::Result<()> {
    let write = |file: &str, text: String| std::fs::write(format!("/proc/{pid}/{file}"), text);
    match ids {
        Ids::Subordinate(ids) => ids.map(pid),
        Ids::Range { base } => {
            write("uid_map", format!("0 {base} 65536\n"))?;
            write("gid_map", format!("0 {base} 65536\n"))
        }
        Ids::Single { uid, gid } => {
            write("setgroups", "deny\n".to_owned())?;
            write("uid_map", format!("{} {uid} 1\n", crate::plan::UID))?;
            write("gid_map", format!("{} {gid} 1\n", crate::plan::GID))
        }
    }
}
