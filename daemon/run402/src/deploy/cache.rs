//! Hashes that are known from the deploy before.
//!
//! Input and output: a file of fixed-width records, state of a file to its hash. A file whose state is in
//! it is not read again. A state is only kept when the file had been at rest for [`REST`] before it was
//! read: a write within the same tick of the clock as the reading leaves the state as it was, and would
//! never be noticed. What cannot be noticed at all is a program that goes on writing through a shared
//! mapping; deploys are made after a build has ended.

use super::digest::Digest;
use super::hash::Identity;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longer than a tick of any clock that stamps files; FAT has two seconds.
const REST: Duration = Duration::from_secs(2);
const MAGIC: [u8; 8] = *b"r402hash";
const RECORD_BYTES: usize = 8 * 3 + 16 * 2 + 32;
/// A million files.
const MAX_BYTES: u64 = 100 << 20;

/// States of files and their hashes.
#[derive(Debug, Default)]
pub struct Cache {
    path: Option<PathBuf>,
    known: HashMap<Identity, Digest>,
    /// When this deploy began to read files.
    began_ns: i128,
}

fn now_ns() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
}

impl Cache {
    /// Whatever is not exactly what `save` wrote counts as empty: it only costs reading the files.
    pub fn load(path: &Path) -> Self {
        let known = read(path).unwrap_or_default();
        Self { path: Some(path.to_owned()), known, began_ns: now_ns() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(crate) fn find(&self, identity: &Identity) -> Option<(Digest, Identity)> {
        self.known.get(identity).map(|digest| (*digest, *identity))
    }

    /// Replaces what was known by these files, and writes it when that is different.
    pub(crate) fn save(&mut self, files: &[(Identity, Digest)]) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let rest = i128::try_from(REST.as_nanos()).unwrap_or(i128::MAX);
        let at_rest =
            |(identity, _): &&(Identity, Digest)| identity.changed_ns.max(identity.modified_ns) + rest < self.began_ns;
        let known: HashMap<_, _> = files.iter().filter(at_rest).copied().collect();
        if known == self.known {
            return Ok(());
        }
        write(path, &known)?;
        self.known = known;
        Ok(())
    }
}

fn read(path: &Path) -> Option<HashMap<Identity, Digest>> {
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok().filter(|metadata| metadata.is_file() && metadata.len() <= MAX_BYTES)?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).ok()?);
    file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
    let body = body.strip_prefix(&MAGIC)?;
    if Sha256::digest(body).as_slice() != sum || body.len() % RECORD_BYTES != 0 {
        return None;
    }
    body.chunks_exact(RECORD_BYTES).map(parse).collect()
}

fn parse(record: &[u8]) -> Option<(Identity, Digest)> {
    let (numbers, rest) = record.split_at_checked(24)?;
    let (times, digest) = rest.split_at_checked(32)?;
    let number = |at: usize| numbers.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let time = |at: usize| times.get(at..at + 16)?.try_into().ok().map(i128::from_le_bytes);
    let identity = Identity {
        device: number(0)?,
        inode: number(8)?,
        size: number(16)?,
        modified_ns: time(0)?,
        changed_ns: time(16)?,
    };
    Some((identity, Digest::new(digest.try_into().ok()?)))
}

/// Beside it first, so that it is never half written.
fn write(path: &Path, known: &HashMap<Identity, Digest>) -> io::Result<()> {
    let mut body = Vec::with_capacity(known.len() * RECORD_BYTES);
    for (identity, digest) in known {
        for number in [identity.device, identity.inode, identity.size] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        for time in [identity.modified_ns, identity.changed_ns] {
            body.extend_from_slice(&time.to_le_bytes());
        }
        body.extend_from_slice(digest.as_bytes());
    }
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(parent)?;
    let beside = parent.join(format!(".hashes-{}", hex::encode(rand::random::<[u8; 8]>())));
    let written = (|| {
        let mut file = File::options().write(true).create_new(true).open(&beside)?;
        file.write_all(&MAGIC)?;
        file.write_all(&body)?;
        file.write_all(&Sha256::digest(&body))?;
        std::fs::rename(&beside, path)
    })();
    if written.is_err() {
        // Nothing is lost with it; the error that is reported is the first.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(inode: u64, changed_ns: i128) -> (Identity, Digest) {
        let identity = Identity { device: 1, inode, size: 3, modified_ns: changed_ns, changed_ns };
        (identity, Digest::of(&inode.to_le_bytes()))
    }

    const SECOND: i128 = 1_000_000_000;

    #[test]
    fn what_was_saved_is_found_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("deep/cache");
        let files: Vec<_> = (0..1000).map(|inode| hashed(inode, SECOND)).collect();
        let mut cache = Cache::load(&path);
        assert!(cache.is_empty());
        cache.save(&files).expect("saved");
        let cache = Cache::load(&path);
        for (identity, digest) in &files {
            assert_eq!(cache.find(identity), Some((*digest, *identity)));
        }
        assert_eq!(cache.find(&hashed(1, 2 * SECOND).0), None);
        assert_eq!(std::fs::read_dir(path.parent().expect("a parent")).expect("a list").count(), 1);
    }

    #[test]
    fn a_file_that_was_just_written_is_not_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("cache");
        let mut cache = Cache::load(&path);
        let (old, new, future) =
            (hashed(1, now_ns() - 10 * SECOND), hashed(2, now_ns() - SECOND), hashed(3, now_ns() + SECOND));
        cache.save(&[old, new, future]).expect("saved");
        let cache = Cache::load(&path);
        assert!(cache.find(&old.0).is_some());
        assert!(cache.find(&new.0).is_none() && cache.find(&future.0).is_none());
    }

    #[test]
    fn damage_counts_as_empty() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("cache");
        Cache::load(&path).save(&[hashed(1, SECOND), hashed(2, SECOND)]).expect("saved");
        let whole = std::fs::read(&path).expect("the file");
        for damaged in [&whole[..whole.len() - 1], &whole[..40], &[], &[whole.as_slice(), b"x"].concat()] {
            std::fs::write(&path, damaged).expect("damaged");
            assert!(Cache::load(&path).is_empty());
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, flipped).expect("damaged");
            assert!(Cache::load(&path).is_empty(), "byte {at}");
        }
        std::fs::remove_file(&path).expect("removed");
        std::fs::create_dir(&path).expect("a directory in its place");
        assert!(Cache::load(&path).is_empty());
    }
}
