//! A daemon's state directory as a client sees it: where it is, its socket, its token, who listens.
//!
//! Input: flags and environment; output: paths that were checked to belong to this user. The contents
//! besides `token` and `daemon.json` are the daemon's business.

use serde::Deserialize;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Room for a path in `sockaddr_un`, its final NUL included: unix(7).
const SOCKET_PATH_BYTES: usize = 108;

#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("cannot create the state directory {path}: {source}")]
    Create { path: PathBuf, source: io::Error },
    #[error("the directory {path} belongs to another user; name another with --state")]
    NotOurs { path: PathBuf },
    #[error("{path} is not a directory; name another with --state")]
    NotADirectory { path: PathBuf },
    #[error("cannot take access to {path} away from others: {source}")]
    Chmod { path: PathBuf, source: io::Error },
}

/// A directory of this user's that nobody else can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateDir {
    path: PathBuf,
}

/// `<state>/daemon.json`: the daemon that has the directory now.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Running {
    pub(crate) pid: i32,
    #[serde(default)]
    pub(crate) listeners: Vec<String>,
}

impl StateDir {
    /// The directory that `--state` names, or the default one; created when it is missing.
    ///
    /// Without a writable home it is `/tmp/sandboxd-<uid>`, which must be this user's own.
    pub(crate) fn open(flag: Option<&Path>) -> Result<Self, StateError> {
        if let Some(path) = flag {
            return Self::private(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        }
        if let Some(path) = Self::default_path()
            && let Ok(state) = Self::private(path)
        {
            return Ok(state);
        }
        Self::private(fallback())
    }

    /// Without creating anything: for commands that only look.
    pub(crate) fn existing(flag: Option<&Path>) -> Option<Self> {
        let given = flag.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        let candidates = match given {
            Some(path) => vec![path],
            None => Self::default_path().into_iter().chain([fallback()]).collect(),
        };
        candidates.into_iter().find(|path| check_owner(path).is_ok()).map(|path| Self { path })
    }

    /// The directory of the host's own daemon. Only root can put anything there.
    pub(crate) fn system() -> Self {
        Self { path: PathBuf::from("/var/lib/sandboxd") }
    }

    fn default_path() -> Option<PathBuf> {
        default_path(
            rustix::process::geteuid().is_root(),
            std::env::var_os("XDG_STATE_HOME").as_deref(),
            std::env::var_os("HOME").as_deref(),
        )
    }

    /// Creates the directory for this user alone, or checks the one that is there.
    fn private(path: PathBuf) -> Result<Self, StateError> {
        let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        created.map_err(|source| StateError::Create { path: path.clone(), source })?;
        let metadata = check_owner(&path)?;
        if metadata.mode() & 0o077 != 0 {
            let closed = fs::set_permissions(&path, fs::Permissions::from_mode(0o700));
            closed.map_err(|source| StateError::Chmod { path: path.clone(), source })?;
        }
        // A directory that cannot be written to (read-only filesystem, full quota) is of no use.
        let lock = path.join("start.lock");
        let opened = fs::File::options().create(true).append(true).open(lock);
        opened.map_err(|source| StateError::Create { path: path.clone(), source })?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a daemon of ours listens: in the state directory, or, where that path is too long for a
    /// socket, under a name made from it in a short directory of this user's.
    pub(crate) fn socket(&self) -> Result<PathBuf, StateError> {
        let usual = self.path.join("sandboxd.sock");
        if usual.as_os_str().len() < SOCKET_PATH_BYTES {
            return Ok(usual);
        }
        let name = format!("sandboxd-{:016x}.sock", fnv1a(self.path.as_os_str().as_bytes()));
        if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
            let short = runtime.join(&name);
            if runtime.is_absolute() && check_owner(&runtime).is_ok() && short.as_os_str().len() < SOCKET_PATH_BYTES {
                return Ok(short);
            }
        }
        Ok(Self::private(fallback())?.path.join(name))
    }

    /// The admin token, when this user may read it.
    pub(crate) fn token(&self) -> Option<String> {
        let text = fs::read_to_string(self.path.join("token")).ok()?;
        Some(text.trim().to_owned()).filter(|token| !token.is_empty())
    }

    /// The daemon that has this directory, when it is alive.
    pub(crate) fn running(&self) -> Option<Running> {
        let text = fs::read(self.path.join("daemon.json")).ok()?;
        let running: Running = serde_json::from_slice(&text).ok()?;
        let pid = Some(running.pid).filter(|pid| *pid > 0).and_then(rustix::process::Pid::from_raw)?;
        match rustix::process::test_kill_process(pid) {
            Ok(()) | Err(rustix::io::Errno::PERM) => Some(running),
            Err(_) => None,
        }
    }
}

/// Whether somebody accepts connections there.
pub(crate) fn listens(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

fn default_path(root: bool, xdg: Option<&OsStr>, home: Option<&OsStr>) -> Option<PathBuf> {
    if root {
        return Some(PathBuf::from("/var/lib/sandboxd"));
    }
    // The base directory specification: a relative path is to be ignored.
    let absolute = |path: &OsStr| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let base = xdg.and_then(absolute).or_else(|| home.and_then(absolute).map(|home| home.join(".local/state")));
    base.map(|base| base.join("sandboxd"))
}

fn fallback() -> PathBuf {
    PathBuf::from(format!("/tmp/sandboxd-{}", rustix::process::geteuid().as_raw()))
}

/// A real directory (not a link: in /tmp anybody could have made one) of this user's.
fn check_owner(path: &Path) -> Result<fs::Metadata, StateError> {
    let metadata = fs::symlink_metadata(path)
        .and_then(|metadata| if metadata.is_symlink() && !below_tmp(path) { fs::metadata(path) } else { Ok(metadata) })
        .map_err(|source| StateError::Create { path: path.to_owned(), source })?;
    if !metadata.is_dir() {
        return Err(StateError::NotADirectory { path: path.to_owned() });
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(StateError::NotOurs { path: path.to_owned() });
    }
    Ok(metadata)
}

/// Where others can put links in our way.
fn below_tmp(path: &Path) -> bool {
    path.starts_with("/tmp") || path.starts_with("/var/tmp")
}

/// Short, stable and without meaning: a name for a path.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_follows_the_base_directory_specification() {
        let path =
            |root, xdg: Option<&str>, home: Option<&str>| default_path(root, xdg.map(OsStr::new), home.map(OsStr::new));
        assert_eq!(path(true, Some("/x"), Some("/h")), Some(PathBuf::from("/var/lib/sandboxd")));
        assert_eq!(path(false, Some("/x"), Some("/h")), Some(PathBuf::from("/x/sandboxd")));
        assert_eq!(path(false, Some("x"), Some("/h")), Some(PathBuf::from("/h/.local/state/sandboxd")));
        assert_eq!(path(false, Some(""), None), None);
    }

    #[test]
    fn a_state_directory_is_private_and_a_link_in_tmp_is_refused() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let path = temporary.path().join("state");
        let state = StateDir::open(Some(&path)).expect("created");
        assert_eq!(fs::metadata(state.path()).expect("there").mode() & 0o777, 0o700);
        let link = temporary.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        if below_tmp(&link) {
            assert!(matches!(StateDir::open(Some(&link)), Err(StateError::NotADirectory { .. })));
        }
    }

    #[test]
    fn a_long_path_gets_a_short_socket() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let short = StateDir::open(Some(&temporary.path().join("s"))).expect("created");
        assert_eq!(short.socket().expect("fits"), short.path().join("sandboxd.sock"));
        let long = StateDir { path: temporary.path().join("x".repeat(120)) };
        let socket = long.socket().expect("fits");
        assert!(socket.as_os_str().len() < SOCKET_PATH_BYTES, "{socket:?}");
        assert_eq!(socket, long.socket().expect("the same again"));
    }

    #[test]
    fn a_dead_daemon_is_not_running() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let state = StateDir { path: temporary.path().to_owned() };
        assert_eq!(state.running(), None);
        let write = |pid: i64| {
            let text = format!(r#"{{"pid":{pid},"listeners":["http://127.0.0.1:7402"],"more":1}}"#);
            fs::write(state.path().join("daemon.json"), text).expect("written");
        };
        write(i64::from(std::process::id()));
        assert_eq!(state.running().map(|running| running.listeners.len()), Some(1));
        write(i64::from(i32::MAX));
        assert_eq!(state.running(), None);
        write(-1);
        assert_eq!(state.running(), None);
    }
}
