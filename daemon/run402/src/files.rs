//! Files with secrets in them: written whole or not at all, for this user only, one writer at a time.
//!
//! The lock is a directory, as other clients of the same files make it, so that they keep out of each
//! other's way. Nothing that is written follows a link at the end of its path.

use rand::RngExt;
use rustix::fs::{CWD, OFlags, RenameFlags};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard};
use zeroize::Zeroizing;

/// A longer file of state was not written by any client.
pub(crate) const MAX_STATE_BYTES: u64 = 16 << 20;
const LOCK_ATTEMPTS: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What went wrong with a file of the client's state.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} is not a regular file of at most {max_bytes} bytes")]
    Kind { path: PathBuf, max_bytes: u64 },
    #[error("{path} is still there after 4 s: another client is at work, or one was killed; remove it in that case")]
    Locked { path: PathBuf },
}

impl FileError {
    pub(crate) fn write(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }

    fn read(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), source }
    }

    /// There is a file where a new one was to be made.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self, Self::Write { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    }
}

impl From<FileError> for crate::error::Error {
    fn from(error: FileError) -> Self {
        Self::local("LOCAL_STATE", error.to_string())
    }
}

fn flags(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).expect("flags of open are small")
}

/// A file for reading; `None` when there is none. A FIFO or a device is not waited for.
fn open_bounded(path: &Path, max_bytes: u64) -> Result<Option<File>, FileError> {
    let file = match OpenOptions::new().read(true).custom_flags(flags(OFlags::NONBLOCK)).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::read(path)(error)),
    };
    let metadata = file.metadata().map_err(FileError::read(path))?;
    if !metadata.is_file() || metadata.len() > max_bytes {
        return Err(FileError::Kind { path: path.to_owned(), max_bytes });
    }
    Ok(Some(file))
}

fn read_all(file: &File, path: &Path, max_bytes: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let length = file.metadata().map_err(FileError::read(path))?.len();
    // Large enough at once: a vector that grows leaves copies of its content behind.
    let capacity = usize::try_from(length).unwrap_or_default().saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(FileError::read(path))?;
    // It may have grown since it was looked at.
    if bytes.len() as u64 > max_bytes {
        return Err(FileError::Kind { path: path.to_owned(), max_bytes });
    }
    Ok(bytes)
}

/// A file's content; `None` when there is none. Refused when it is longer, or no regular file.
pub(crate) fn read_bounded(path: &Path, max_bytes: u64) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    open_bounded(path, max_bytes)?.map(|file| read_all(&file, path, max_bytes)).transpose()
}

/// Who could read a file with a secret.
#[derive(Debug)]
pub(crate) enum Exposure {
    /// Only this user.
    None,
    /// Others could until now.
    Ended,
    /// Others can, and it could not be changed.
    Lasting(io::Error),
}

/// A file that is for this user only, and was made so when it was not. Without `Debug`: it would show the
/// secret.
pub(crate) struct SecretFile {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    pub(crate) exposure: Exposure,
}

/// The content of such a file; `None` when there is none.
pub(crate) fn read_secret(path: &Path) -> Result<Option<SecretFile>, FileError> {
    let Some(file) = open_bounded(path, MAX_STATE_BYTES)? else { return Ok(None) };
    let mode = file.metadata().map_err(FileError::read(path))?.permissions().mode();
    let exposure = match mode & 0o077 {
        0 => Exposure::None,
        // By the open file: the name may be another's by now.
        _ => match file.set_permissions(Permissions::from_mode(0o600)) {
            Ok(()) => Exposure::Ended,
            Err(error) => Exposure::Lasting(error),
        },
    };
    Ok(Some(SecretFile { bytes: read_all(&file, path, MAX_STATE_BYTES)?, exposure }))
}

/// Makes a directory that only this user can enter, and those above it.
pub(crate) fn make_private_dir(path: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FileError::write(path))
}

/// Where a file is. A name alone is in the working directory.
fn parent(path: &Path) -> Result<&Path, FileError> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(parent) => Ok(parent),
        None => Err(FileError::write(path)(io::ErrorKind::InvalidInput.into())),
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Replaces a file, or makes it: under another name first, on the disk before it has its own. A link in
/// its place is replaced, not followed.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    place(path, bytes, RenameFlags::empty())
}

/// Makes a file in the same way; [`FileError::is_taken`] when there is one already.
pub(crate) fn create_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    place(path, bytes, RenameFlags::NOREPLACE)
}

fn place(path: &Path, bytes: &[u8], how: RenameFlags) -> Result<(), FileError> {
    let parent = parent(path)?;
    make_private_dir(parent)?;
    let beside = parent.join(format!(".tmp-{}", hex::encode(rand::rng().random::<[u8; 8]>())));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        // Whatever the umask took away.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        match how.is_empty() {
            true => fs::rename(&beside, path)?,
            false => rustix::fs::renameat_with(CWD, &beside, CWD, path, how)?,
        }
        sync_dir(parent)
    })();
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&beside);
    }
    written.map_err(FileError::write(path))
}

/// Gives a file another name that nothing has yet.
pub(crate) fn rename_new(path: &Path, to: &Path) -> Result<(), FileError> {
    rustix::fs::renameat_with(CWD, path, CWD, to, RenameFlags::NOREPLACE)
        .map_err(io::Error::from)
        .and_then(|()| sync_dir(parent(to).map_err(io::Error::other)?))
        .map_err(FileError::write(to))
}

/// Keeps the first bytes of a file, cuts off what is behind them, and adds to them; on the disk before it
/// returns. Refused for a link and for whatever is no regular file.
pub(crate) fn append_private(path: &Path, keep_bytes: u64, bytes: &[u8]) -> Result<(), FileError> {
    let parent = parent(path)?;
    make_private_dir(parent)?;
    (|| {
        let flags = flags(OFlags::NOFOLLOW | OFlags::NONBLOCK);
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        if metadata.len() > keep_bytes {
            file.set_len(keep_bytes)?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        sync_dir(parent)
    })()
    .map_err(FileError::write(path))
}

/// Held while a file is read, changed and written: the directory `<file>.lock`.
#[derive(Debug)]
pub(crate) struct Lock(PathBuf);

impl Lock {
    /// Tries for about 4 seconds. Cancelled, it leaves nothing behind.
    pub(crate) async fn acquire(file: &Path) -> Result<Self, FileError> {
        for _ in 0..LOCK_ATTEMPTS {
            if let Some(lock) = Self::try_acquire(file)? {
                return Ok(lock);
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
        Err(FileError::Locked { path: Self::path(file) })
    }

    /// Tries once; `None` when somebody else has it.
    pub(crate) fn try_acquire(file: &Path) -> Result<Option<Self>, FileError> {
        make_private_dir(parent(file)?)?;
        let path = Self::path(file);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Some(Self(path))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(FileError::write(&path)(error)),
        }
    }

    fn path(file: &Path) -> PathBuf {
        let mut name = file.as_os_str().to_owned();
        name.push(".lock");
        name.into()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a lock cannot be removed");
        }
    }
}

/// Where the tasks of this process line up for a lock: those who only try now and then could starve each
/// other. Clones are the same queue.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queue(Arc<Mutex<()>>);

/// One's turn in the queue, with the lock. The lock goes first.
#[derive(Debug)]
pub(crate) struct Turn {
    _lock: Lock,
    _place: OwnedMutexGuard<()>,
}

impl Queue {
    pub(crate) async fn enter(&self, file: &Path) -> Result<Turn, FileError> {
        let place = self.0.clone().lock_owned().await;
        Ok(Turn { _lock: Lock::acquire(file).await?, _place: place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn read(path: &Path) -> Option<Vec<u8>> {
        read_bounded(path, 100).expect("readable").map(|bytes| bytes.to_vec())
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a/b.json");
        write_private(&path, b"one").expect("written");
        write_private(&path, b"two").expect("replaced");
        assert_eq!(read(&path), Some(b"two".to_vec()));
        let parent = path.parent().expect("a parent");
        assert_eq!((mode(&path), mode(parent)), (0o600, 0o700));
        assert_eq!(fs::read_dir(parent).expect("a list").count(), 1);
        let taken = create_private(&path, b"three").expect_err("there is one");
        assert!(taken.is_taken(), "{taken}");
        assert_eq!(read(&path), Some(b"two".to_vec()));
        assert_eq!(fs::read_dir(parent).expect("a list").count(), 1);
    }

    #[test]
    fn a_link_in_its_place_is_replaced_and_not_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let (outside, path) = (directory.path().join("outside"), directory.path().join("link"));
        fs::write(&outside, "theirs").expect("a file");
        symlink(&outside, &path).expect("a link");
        append_private(&path, 0, b"ours").expect_err("a link");
        assert!(create_private(&path, b"ours").expect_err("a link").is_taken());
        write_private(&path, b"ours").expect("written");
        assert_eq!(fs::read(&outside).expect("read"), b"theirs");
        assert_eq!(read(&path), Some(b"ours".to_vec()));
        fs::remove_file(&path).expect("removed");
        symlink(directory.path().join("nowhere"), &path).expect("a link to nothing");
        assert!(create_private(&path, b"ours").expect_err("a link").is_taken());
        append_private(&path, 0, b"ours").expect_err("a link");
        assert!(!directory.path().join("nowhere").exists());
    }

    #[test]
    fn a_line_is_added_after_what_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a/journal");
        append_private(&path, 0, b"one\n").expect("made");
        append_private(&path, 4, b"two\n").expect("added");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("opened");
        append_private(&path, 4, b"three\n").expect("cut and added");
        assert_eq!(read(&path), Some(b"one\nthree\n".to_vec()));
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let directory = tempfile::tempdir().expect("a directory");
        let fifo = directory.path().join("fifo");
        rustix::fs::mkfifoat(CWD, &fifo, rustix::fs::Mode::RWXU).expect("a FIFO");
        let long = directory.path().join("long");
        fs::write(&long, [0; 101]).expect("a file");
        for path in [&fifo, directory.path(), &long] {
            let error = read_bounded(path, 100).expect_err("not a short file");
            assert!(matches!(error, FileError::Kind { max_bytes: 100, .. }), "{error}");
        }
        append_private(&fifo, 0, b"x").expect_err("nobody reads");
        append_private(directory.path(), 0, b"x").expect_err("a directory");
        write_private(&long.join("x"), b"x").expect_err("not in a directory");
        assert_eq!(read(&directory.path().join("none")), None);
    }

    #[test]
    fn a_secret_that_others_can_read_is_made_private() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        fs::write(&path, "s").expect("a file");
        for (before, is_ended) in [(0o644, true), (0o640, true), (0o600, false), (0o400, false)] {
            fs::set_permissions(&path, Permissions::from_mode(before)).expect("set");
            let SecretFile { bytes, exposure } = read_secret(&path).expect("readable").expect("there");
            assert_eq!(bytes.as_slice(), b"s");
            assert_eq!(matches!(exposure, Exposure::Ended), is_ended, "{before:o} {exposure:?}");
            assert_eq!(mode(&path) & 0o077, 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_is_held_by_one_and_a_forgotten_one_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("a/state.json");
        let held = Lock::acquire(&file).await.expect("free");
        let path = Lock::path(&file);
        assert_eq!(mode(&path), 0o700);
        assert!(Lock::try_acquire(&file).expect("no error").is_none());
        let error = Lock::acquire(&file).await.expect_err("held");
        assert!(matches!(&error, FileError::Locked { path: named } if *named == path), "{error}");
        drop(held);
        assert!(!path.exists());
        drop(Lock::acquire(&file).await.expect("free again"));
    }
}
