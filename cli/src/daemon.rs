//! The embedded default: starts a daemon for this user when none is there.
//!
//! The daemon gets a session of its own, so that neither Ctrl-C nor a closed terminal reaches it, and
//! ends by itself when it has been idle. Clients that start at the same time agree by a lock on
//! `<state>/start.lock` (flock(2)), so that one daemon is started and the others wait for it.

use crate::state::{StateDir, StateError, listens};
use rustix::fs::FlockOperation;
use sandbox_wire::{Code, Problem};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a daemon may take to listen.
const START_TIME: Duration = Duration::from_secs(10);
/// How long to wait for another client that is starting one.
const LOCK_TIME: Duration = Duration::from_secs(15);
/// Without work for this long, a daemon that we started ends.
const IDLE_EXIT: &str = "10m";
/// A log larger than this is moved aside before a start.
const LOG_LIMIT_BYTES: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot find the program sandboxd beside {0} or in PATH")]
    NoProgram(PathBuf),
    #[error("cannot lock {path}: {source}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("another sandboxctl has been starting the daemon for {} s without success", LOCK_TIME.as_secs())]
    LockHeld,
    #[error("cannot open the daemon's log {path}: {source}")]
    Log { path: PathBuf, source: io::Error },
    #[error("cannot start {program}: {source}")]
    Spawn { program: PathBuf, source: io::Error },
    #[error("the daemon ended while it started{}", said(.tail))]
    Ended { log: PathBuf, tail: String },
    #[error("the daemon did not listen within {} s{}", START_TIME.as_secs(), said(.tail))]
    TooSlow { log: PathBuf, tail: String },
}

fn said(tail: &str) -> String {
    if tail.is_empty() { String::new() } else { format!("; its log says:\n{tail}") }
}

impl StartError {
    pub(crate) fn into_problem(self) -> Problem {
        let problem = Problem::new(Code::Unreachable, self.to_string());
        match self {
            Self::NoProgram(_) => {
                problem.next("install sandboxd beside sandboxctl, or name a daemon with SANDBOXD_URL")
            }
            Self::Ended { log, .. } | Self::TooSlow { log, .. } => {
                problem.next(format!("read the whole log: {}", log.display()))
            }
            Self::State(_) => problem.next("name a directory of your own with --state DIR or SANDBOXD_STATE"),
            _ => problem,
        }
    }
}

/// Returns the socket of a daemon that listens; starts one when there is none.
pub(crate) fn ensure(state: &StateDir) -> Result<PathBuf, StartError> {
    let socket = state.socket()?;
    if listens(&socket) {
        return Ok(socket);
    }
    let _lock = lock(&state.path().join("start.lock"))?;
    // Another client may have started it while we waited for the lock; one that is about to end keeps
    // the directory until it has ended.
    let give_up = Instant::now() + START_TIME;
    while !listens(&socket) && state.running().is_some() && Instant::now() < give_up {
        std::thread::sleep(Duration::from_millis(20));
    }
    if listens(&socket) {
        return Ok(socket);
    }
    match start(state, &socket) {
        // The directory may have been given back in between.
        Err(StartError::Ended { .. }) => {
            std::thread::sleep(Duration::from_millis(300));
            start(state, &socket).map(|()| socket)
        }
        started => started.map(|()| socket),
    }
}

/// Held until the file is dropped.
pub(crate) fn lock(path: &Path) -> Result<File, StartError> {
    let failed = |source| StartError::Lock { path: path.to_owned(), source };
    let file = File::options().create(true).append(true).mode(0o600).open(path).map_err(failed)?;
    let give_up = Instant::now() + LOCK_TIME;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StartError::LockHeld),
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

fn start(state: &StateDir, socket: &Path) -> Result<(), StartError> {
    let mut listen = OsString::from("unix:");
    listen.push(socket);
    let words = ["serve".into(), "--listen".into(), listen, "--state".into(), state.path().into()];
    let words = words.into_iter().chain(["--idle-exit".into(), IDLE_EXIT.into()]).collect::<Vec<_>>();
    spawn(state, &program()?, &words, "sandboxd.log")
}

/// Starts a program in a session of its own, with its log in a file, and waits until it says that it
/// listens.
pub(crate) fn spawn(state: &StateDir, program: &Path, words: &[OsString], log_name: &str) -> Result<(), StartError> {
    let log_path = &state.path().join(log_name);
    let (log, log_start) = open_log(log_path)?;
    // Through ourselves, see `detach`: setsid(2) has to be called between fork and exec.
    let mut child = Command::new("/proc/self/exe")
        .arg("__detach")
        .arg(program)
        .args(words)
        .env_remove("SANDBOXD_TOKEN")
        .env_remove("SANDBOXD_URL")
        // A program of ours that needs a daemon finds the one of this directory.
        .env("SANDBOXD_STATE", state.path())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|source| StartError::Spawn { program: program.to_owned(), source })?;
    let (log, tail) = (log_path.to_owned(), || tail(log_path, log_start));
    match wait_until_ready(&mut child) {
        Ready::Yes => {
            // We may be here longer than it is, and nobody else can bury it.
            std::thread::spawn(move || child.wait());
            Ok(())
        }
        Ready::Ended => {
            // It closed its output, so it ends soon; a zombie would be left otherwise.
            let _ = child.wait();
            Err(StartError::Ended { tail: tail(), log })
        }
        Ready::TooSlow => {
            // Already gone is as good as killed.
            let _ = child.kill();
            let _ = child.wait();
            Err(StartError::TooSlow { tail: tail(), log })
        }
    }
}

enum Ready {
    Yes,
    Ended,
    TooSlow,
}

/// Waits for the line `listening on …` on the daemon's standard output.
fn wait_until_ready(child: &mut Child) -> Ready {
    let Some(stdout) = child.stdout.take() else { return Ready::Ended };
    let (send, receive) = mpsc::channel();
    // A thread, because a pipe's read has no timeout; it ends with the line or with the daemon.
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.starts_with("listening on")));
        // The receiver is gone when it was too slow.
        let _ = send.send(ready);
    });
    match receive.recv_timeout(START_TIME) {
        Ok(true) => Ready::Yes,
        Ok(false) => Ready::Ended,
        Err(_) => Ready::TooSlow,
    }
}

/// `sandboxd` beside this program, else in PATH.
fn program() -> Result<PathBuf, StartError> {
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("sandboxctl"));
    let beside = own.parent().map(|folder| folder.join("sandboxd"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path =
        std::env::split_paths(&path).filter(|folder| folder.is_absolute()).map(|folder| folder.join("sandboxd"));
    let found = beside.into_iter().chain(in_path).find(|candidate| candidate.is_file());
    found.ok_or(StartError::NoProgram(own))
}

/// The log, for appending, and where this start's part begins.
fn open_log(path: &Path) -> Result<(File, u64), StartError> {
    let failed = |source| StartError::Log { path: path.to_owned(), source };
    if fs::metadata(path).is_ok_and(|log| log.len() > LOG_LIMIT_BYTES) {
        fs::rename(path, path.with_extension("log.1")).map_err(failed)?;
    }
    let file = File::options().create(true).append(true).mode(0o600).open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    Ok((file, length))
}

/// The last lines that the daemon logged in this start.
fn tail(path: &Path, start: u64) -> String {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let end = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(start.max(end.saturating_sub(8192))))?;
        file.take(8192).read_to_end(&mut text)
    });
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(6)..].join("\n")
}

/// Becomes `program` in a new session, without any descriptor but the first three.
///
/// A step of its own because only a process that is no group leader may call setsid(2), and because
/// a daemon must not hold what our caller left open: a pipe's reader would never see its end.
pub(crate) fn detach(program: &[OsString]) -> ExitCode {
    if let Err(errno) = rustix::process::setsid() {
        eprintln!("cannot make a session for the daemon: {errno}");
        return ExitCode::from(125);
    }
    let numbers = |entry: fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
    let open: Vec<i32> = match fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries.flatten().filter_map(numbers).filter(|fd| *fd > 2).collect(),
        Err(_) => Vec::new(),
    };
    for fd in open {
        // The listing's own descriptor is closed by now: that error is expected.
        let _ = nix::unistd::close(fd);
    }
    let Some((program, words)) = program.split_first() else { return ExitCode::from(125) };
    let error = Command::new(program).args(words).exec();
    eprintln!("cannot start {}: {error}", Path::new(program).display());
    ExitCode::from(127)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_of_this_start_only() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("sandboxd.log");
        fs::write(&path, "old\n").expect("written");
        let (mut log, start) = open_log(&path).expect("opened");
        io::Write::write_all(&mut log, b"one\n\ntwo\n").expect("appended");
        assert_eq!(tail(&path, start), "one\ntwo");
        assert_eq!(tail(&folder.path().join("none"), 0), "");
    }

    #[test]
    fn the_lock_has_one_holder() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("start.lock");
        let first = lock(&path).expect("free");
        let second = File::options().append(true).open(&path).expect("there");
        assert!(rustix::fs::flock(&second, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(first);
        assert!(rustix::fs::flock(&second, FlockOperation::NonBlockingLockExclusive).is_ok());
    }
}
