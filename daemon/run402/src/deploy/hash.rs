//! Hashing files that may change meanwhile.
//!
//! Input: open files, or a root to walk. Output: SHA-256, size and [`Identity`] of each. A file that is
//! written to while it is read is an error that names it. A bounded number of threads does the work, each
//! with one buffer, whatever the size of the files.

use super::cache::Cache;
use super::digest::Digest;
use super::walk::{Batch, Filter, Root, regular, walk};
use crate::error::Error;
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};

/// One per thread.
const BUFFER_BYTES: usize = 256 << 10;
/// Batches that wait for a thread; each may hold a directory open.
const QUEUE: usize = 64;
/// More threads than this wait for the disk, not for each other.
const MAX_THREADS: usize = 8;

/// What tells a state of a file from every other: where it is, and when it was last changed. The change
/// time cannot be set by whoever owns the file, other than its modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) modified_ns: i128,
    pub(crate) changed_ns: i128,
}

impl Identity {
    pub(crate) fn of(file: &impl AsFd) -> Result<Self, std::io::Error> {
        Ok(Self::from_stat(&rustix::fs::fstat(file)?))
    }

    // The width of these fields depends on the architecture.
    #[allow(clippy::unnecessary_cast, reason = "the width of the fields depends on the architecture")]
    fn from_stat(stat: &Stat) -> Self {
        let ns = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            size: stat.st_size as u64,
            modified_ns: ns(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed_ns: ns(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }
}

/// A file and what it hashed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hashed {
    pub(crate) path: String,
    pub(crate) digest: Digest,
    pub(crate) identity: Identity,
}

/// How far a deploy's hashing is; may be read from another thread at any time.
#[derive(Debug, Default)]
pub struct Progress {
    files: AtomicU64,
    bytes: AtomicU64,
    cancelled: AtomicBool,
}

impl Progress {
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Hashing ends with an error soon.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => Err(Error::local("CANCELLED", "the deploy was cancelled")),
            false => Ok(()),
        }
    }

    pub(crate) fn one_file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }
}

/// The file that was hashed is not the file that is there now.
pub(crate) fn changed(shown: &Path) -> Error {
    let message =
        format!("{} changed while it was deployed; wait for what writes to it, then deploy again", shown.display());
    Error::local("FILE_CHANGED", message)
}

fn unreadable(shown: &Path, error: &std::io::Error) -> Error {
    Error::local("LOCAL_ERROR", format!("{} cannot be read: {error}", shown.display()))
}

/// Reads an open file to its end.
pub(crate) fn hash_file(
    file: &mut File,
    shown: &Path,
    buffer: &mut [u8],
    progress: &Progress,
) -> Result<(Digest, Identity), Error> {
    let before = Identity::of(file).map_err(|error| unreadable(shown, &error))?;
    hash_state(file, before, &|| shown.to_owned(), buffer, progress)
}

/// Reads the file as it was `before`, or says that it no longer is.
fn hash_state(
    file: &mut File,
    before: Identity,
    shown: &dyn Fn() -> PathBuf,
    buffer: &mut [u8],
    progress: &Progress,
) -> Result<(Digest, Identity), Error> {
    let failed = |error: std::io::Error| unreadable(&shown(), &error);
    let mut hasher = Sha256::new();
    let mut left = before.size;
    while left > 0 {
        progress.check()?;
        let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        match file.read(&mut buffer[..wanted]) {
            Ok(0) => return Err(changed(&shown())),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                left -= count as u64;
                progress.bytes.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    // Whoever wrote meanwhile changed one of these, a file that has grown too.
    match Identity::of(file).map_err(failed)? == before {
        true => Ok((Digest::new(hasher.finalize().into()), before)),
        false => Err(changed(&shown())),
    }
}

/// One file beneath a root.
pub(crate) fn hash_one(root: &Root, path: &Path, progress: &Progress) -> Result<(Digest, Identity), Error> {
    let mut file = root.file(path)?;
    let shown = root.path().join(path);
    let hashed = hash_file(&mut file, &shown, &mut vec![0; BUFFER_BYTES], progress)?;
    progress.one_file();
    Ok(hashed)
}

/// Every file beneath a root, in the order of the walk. Files that the cache knows are not opened.
pub(crate) fn hash_tree(
    root: &Root,
    filter: &Filter,
    cache: &Cache,
    progress: &Progress,
) -> Result<Vec<Hashed>, Error> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, MAX_THREADS);
    let (sender, receiver) = sync_channel::<Batch>(QUEUE);
    let pool = Pool { root, cache, progress, queue: Mutex::new(receiver), failed: AtomicBool::new(false) };
    let (walked, parts) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| pool.work())).collect();
        let walked = walk(root, filter, &mut |batch| {
            let going = !pool.failed.load(Ordering::Relaxed) && progress.check().is_ok();
            going && sender.send(batch).is_ok()
        });
        drop(sender);
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| worker.join().expect("hashing does not panic");
        (walked, workers.into_iter().map(join).collect::<Vec<Part>>())
    });
    // The first error in the order of the walk, so that the same tree always says the same.
    let failure = parts.iter().filter_map(|part| part.failure.as_ref().map(|(at, _)| *at)).min();
    if let Some(first) = failure {
        let mut failures = parts.into_iter().filter_map(|part| part.failure);
        let (_, error) = failures.find(|(at, _)| *at == first).expect("it was just found");
        return Err(error.context("collecting files for deploy"));
    }
    let count = walked?;
    progress.check()?;
    let mut files: Vec<(usize, Hashed)> = parts.into_iter().flat_map(|part| part.files).collect();
    files.sort_unstable_by_key(|(at, _)| *at);
    debug_assert_eq!(files.len(), count, "every file that was found was hashed");
    Ok(files.into_iter().map(|(_, file)| file).collect())
}

/// What one thread did.
#[derive(Debug, Default)]
struct Part {
    files: Vec<(usize, Hashed)>,
    failure: Option<(usize, Error)>,
}

struct Pool<'a> {
    root: &'a Root,
    cache: &'a Cache,
    progress: &'a Progress,
    queue: Mutex<Receiver<Batch>>,
    failed: AtomicBool,
}

impl Pool<'_> {
    fn work(&self) -> Part {
        let mut part = Part::default();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            // The lock is held while waiting: the others wait for the same.
            let received = self.queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(batch) = received else { return part };
            if self.failed.load(Ordering::Relaxed) {
                // Takes the rest out, so that the walk is not held up.
                continue;
            }
            for (offset, (name, path)) in batch.files.into_iter().enumerate() {
                let at = batch.first + offset;
                match self.one(&batch.directory, &name, &path, &mut buffer) {
                    Ok((digest, identity)) => part.files.push((at, Hashed { path, digest, identity })),
                    Err(error) => {
                        self.failed.store(true, Ordering::Relaxed);
                        part.failure = Some((at, error));
                        break;
                    }
                }
            }
        }
    }

    fn one(
        &self,
        directory: &impl AsFd,
        name: &std::ffi::CStr,
        path: &str,
        buffer: &mut [u8],
    ) -> Result<(Digest, Identity), Error> {
        self.progress.check()?;
        if !self.cache.is_empty() {
            let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
            if let Some(found) = stat.ok().and_then(|stat| self.cache.find(&Identity::from_stat(&stat))) {
                self.progress.one_file();
                return Ok(found);
            }
        }
        let shown = || self.root.path().join(path);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(directory, name, flags, Mode::empty())
            // It was a regular file when it was listed.
            .map_err(|errno| unreadable(&shown(), &errno.into()))?;
        let (mut file, stat) = regular(fd, &shown)?;
        let hashed = hash_state(&mut file, Identity::from_stat(&stat), &shown, buffer, self.progress)?;
        self.progress.one_file();
        Ok(hashed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn hash(root: &Path) -> Result<Vec<Hashed>, Error> {
        hash_tree(&Root::open(root)?, &Filter::default(), &Cache::default(), &Progress::default())
    }

    #[test]
    fn every_file_has_its_own_hash_in_the_order_of_the_walk() {
        let root = tempfile::tempdir().expect("a directory");
        for index in 0..500 {
            let directory = root.path().join(format!("d{}", index % 7));
            fs::create_dir_all(&directory).expect("a directory");
            fs::write(directory.join(format!("f{index}")), format!("content {index}")).expect("a file");
        }
        fs::write(root.path().join("large"), vec![7; BUFFER_BYTES * 3 + 5]).expect("a file");
        fs::write(root.path().join("empty"), "").expect("a file");
        let hashed = hash(root.path()).expect("hashes");
        assert_eq!(hashed.len(), 502);
        for file in &hashed {
            let bytes = fs::read(root.path().join(&file.path)).expect("the file");
            assert_eq!((file.digest, file.identity.size), (Digest::of(&bytes), bytes.len() as u64));
        }
        let mut paths: Vec<_> = hashed.iter().map(|file| file.path.clone()).collect();
        let walked = paths.clone();
        paths.sort_by_key(|path| path.split('/').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(paths, walked);
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        for after in ["first and more", "fir", "FIRST"] {
            fs::write(&path, "first").expect("a file");
            let mut file = File::open(&path).expect("the file");
            let mut before = Identity::of(&file).expect("its state");
            // As if it had been measured earlier: two writes may fall within one tick of the clock.
            before.changed_ns -= 1;
            fs::write(&path, after).expect("other bytes");
            let read = hash_state(&mut file, before, &|| path.clone(), &mut [0; 16], &Progress::default());
            let error = read.expect_err("it has changed");
            assert_eq!(error.code, "FILE_CHANGED");
            assert!(error.to_string().contains("log changed while it was deployed"), "{error}");
        }
    }

    #[test]
    fn a_cancelled_walk_ends_and_nothing_hangs() {
        let root = tempfile::tempdir().expect("a directory");
        for index in 0..2000 {
            fs::write(root.path().join(format!("f{index:04}")), "x").expect("a file");
        }
        let progress = Progress::default();
        progress.cancel();
        let opened = Root::open(root.path()).expect("a root");
        let error = hash_tree(&opened, &Filter::default(), &Cache::default(), &progress).expect_err("cancelled");
        assert_eq!(error.code, "CANCELLED");
    }
}
