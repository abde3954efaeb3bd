//! Files with secrets in them: written whole or not at all, for this user only, one writer at a time.
//!
//! The lock is a directory, as other clients of the same files make it, so that they keep out of each
//! other's way.

use rand::RngExt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A longer file was not written by any client.
const MAX_BYTES: u64 = 16 << 20;
const LOCK_ATTEMPTS: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What went wrong with a file of the client's state.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} is not a regular file of at most {MAX_BYTES} bytes")]
    Kind { path: PathBuf },
    #[error("{path} is still there after 4 s: another client is at work, or one was killed; remove it in that case")]
    Locked { path: PathBuf },
}

impl FileError {
    fn write(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }
}

impl From<FileError> for crate::error::Error {
    fn from(error: FileError) -> Self {
        Self::local("LOCAL_STATE", error.to_string())
    }
}

/// A file's content; `None` when there is none. A FIFO or a device is not waited for.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    let file = match OpenOptions::new().read(true).custom_flags(i32::try_from(flags).unwrap_or_default()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(FileError::Kind { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

/// Makes a directory that only this user can enter.
pub(crate) fn make_private_dir(path: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FileError::write(path))
}

/// Replaces a file: under another name first, on the disk before it has its own. A link in its place is
/// replaced, not followed.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let failed = FileError::write(path);
    let parent = path.parent().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    make_private_dir(parent)?;
    let beside = parent.join(format!(".tmp-{}", hex::encode(rand::rng().random::<[u8; 8]>())));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(parent)?.sync_all()
    })();
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&beside);
    }
    written.map_err(failed)
}

/// Takes access away from everybody else. Whether anybody had any.
pub(crate) fn restrict(path: &Path) -> Result<bool, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(false);
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(FileError::write(path))?;
    Ok(true)
}

/// Held while a file is read, changed and written.
#[derive(Debug)]
pub(crate) struct Lock(PathBuf);

impl Lock {
    /// Waits up to 4 seconds; blocking.
    pub(crate) fn acquire(file: &Path) -> Result<Self, FileError> {
        if let Some(parent) = file.parent() {
            make_private_dir(parent)?;
        }
        let mut name = file.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        for _ in 0..LOCK_ATTEMPTS {
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => std::thread::sleep(LOCK_PAUSE),
                Err(source) => return Err(FileError::Write { path, source }),
            }
        }
        Err(FileError::Locked { path })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a lock cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a/b.json");
        write_private(&path, b"one").expect("written");
        write_private(&path, b"two").expect("replaced");
        assert_eq!(read(&path).expect("read"), Some(b"two".to_vec()));
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().expect("a parent")).expect("a list").count(), 1);
    }

    #[test]
    fn a_link_in_its_place_is_replaced_and_not_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let (outside, path) = (directory.path().join("outside"), directory.path().join("link"));
        fs::write(&outside, "theirs").expect("a file");
        symlink(&outside, &path).expect("a link");
        write_private(&path, b"ours").expect("written");
        assert_eq!(fs::read(&outside).expect("read"), b"theirs");
        assert_eq!(fs::read(&path).expect("read"), b"ours");
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let directory = tempfile::tempdir().expect("a directory");
        let fifo = directory.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).expect("a FIFO");
        assert!(matches!(read(&fifo), Err(FileError::Kind { .. })));
        assert!(matches!(read(directory.path()), Err(FileError::Kind { .. })));
        let huge = File::create(directory.path().join("huge")).expect("a file");
        huge.set_len(MAX_BYTES + 1).expect("a sparse file");
        assert!(matches!(read(&directory.path().join("huge")), Err(FileError::Kind { .. })));
        assert_eq!(read(&directory.path().join("none")).expect("no error"), None);
    }
}
