//! The state directory: who owns it now, the admin token, and what local clients may read.
//!
//! ```text
//! <state>/lock            flock(2): one daemon at a time
//! <state>/token           the admin token, 0600
//! <state>/daemon.json     pid and listeners of the daemon that runs, 0600
//! <state>/index.db        SQLite
//! <state>/projects/<id>/  one folder per project
//! ```

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("cannot use the state directory {path}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("another sandboxd has the state directory {path}; stop it, or name another directory with --state")]
    Taken { path: PathBuf },
    #[error("cannot lock {path}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} holds no token; remove the file to get a new one")]
    NotAToken { path: PathBuf },
}

/// A state directory that is this process's alone; given back on drop and by the kernel on any end.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

#[derive(Debug, Serialize)]
struct Daemon<'a> {
    version: u32,
    pid: u32,
    listeners: &'a [String],
}

impl StateDir {
    /// Creates what is missing and takes the lock. Refused when another daemon has it.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::Directory { path: path.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let path = fs::canonicalize(path).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let lock_path = path.join("lock");
        let locking = |source| StateError::Lock { path: lock_path.clone(), source };
        let file = File::options().create(true).append(true).mode(0o600).open(&lock_path).map_err(locking)?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Err(StateError::Taken { path }),
            Err((_, errno)) => return Err(locking(errno.into())),
        };
        let projects = path.join("projects");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&projects).map_err(failed)?;
        spread_below(&projects);
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn projects(&self) -> PathBuf {
        self.path.join("projects")
    }

    /// The admin token; made with `fresh` on the first start.
    pub(crate) fn token(&self, fresh: impl FnOnce() -> String) -> Result<String, StateError> {
        let path = self.path.join("token");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let token = text.trim();
                if token.starts_with("sbx_") && token.len() >= 36 {
                    Ok(token.to_owned())
                } else {
                    Err(StateError::NotAToken { path })
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let token = fresh();
                write_atomically(&path, format!("{token}\n").as_bytes())?;
                Ok(token)
            }
            Err(source) => Err(StateError::Read { path, source }),
        }
    }

    /// Tells local clients where this daemon listens.
    pub(crate) fn announce(&self, listeners: &[String]) -> Result<(), StateError> {
        let daemon = Daemon { version: 1, pid: std::process::id(), listeners };
        let text = serde_json::to_vec(&daemon).expect("a struct of texts and numbers is JSON");
        write_atomically(&self.path.join("daemon.json"), &text)
    }

    /// Takes back what [`Self::announce`] said.
    pub(crate) fn retract(&self) {
        let path = self.path.join("daemon.json");
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove the announcement");
        }
    }
}

/// Asks an ext2/3/4 filesystem to put the folders that will be made in this one far from each other
/// (`FS_TOPDIR_FL`, chattr(1) `T`). Projects then do not share groups of inodes, and a project's
/// journals not those of its workspace: where many files were deleted lately, as by a build, ext4
/// passes over each of them whenever it makes a file. Making a journal takes 0.03 instead of
/// 0.07 ms on a quiet filesystem, and not a millisecond and more after a build.
pub(crate) fn spread_below(folder: &Path) {
    let flagged = File::open(folder).and_then(|folder| {
        let flags = rustix::fs::ioctl_getflags(&folder)?;
        Ok(rustix::fs::ioctl_setflags(&folder, flags | rustix::fs::IFlags::TOPDIR)?)
    });
    if let Err(error) = flagged {
        // Others have no such flag: it only makes things faster.
        tracing::debug!(folder = %folder.display(), %error, "the filesystem takes no hint");
    }
}

/// Writes a file of mode 0600 so that a reader, or a crash at any moment, sees the old or the new one.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<(), StateError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(content)?;
        file.sync_data()?;
        fs::rename(&fresh, path)
    };
    write().map_err(|source| StateError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let first = StateDir::open(dir.path()).expect("free");
        assert!(matches!(StateDir::open(dir.path()), Err(StateError::Taken { .. })));
        drop(first);
        assert!(StateDir::open(dir.path()).is_ok());
    }

    #[test]
    fn the_token_is_made_once_and_private() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let state = StateDir::open(dir.path()).expect("free");
        let token = state.token(|| format!("sbx_{}", "0".repeat(64))).expect("written");
        assert_eq!(state.token(|| unreachable!("there is one")).expect("read"), token);
        let mode = fs::metadata(dir.path().join("token")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(dir.path().join("token"), "nonsense").expect("written");
        assert!(matches!(state.token(String::new), Err(StateError::NotAToken { .. })));
    }
}
