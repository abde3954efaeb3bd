//! Contents by the hash of their bytes.
//!
//! `content/ab/abcdef…` holds exactly the bytes that hash to its name; what is received is in `staging/`
//! until then, and is hashed while it comes in. Promotion is a second name, given after all that was received
//! is on the disk, and synced itself: a power cut leaves either nothing or the whole. Whose a content is, is the store's to know.

use crate::sparse::SparseFile;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use run402::deploy::Digest;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const COPY_BYTES: usize = 1 << 20;
/// More files than that are synced together.
const MAX_SINGLE_SYNCS: usize = 32;
/// Chunks that wait for the disk.
const QUEUE: usize = 8;
/// A longer part is on the disk before it is acknowledged, beside the next ones on their way: promotion would
/// wait for all of them.
const SYNC_AT_ONCE_BYTES: u64 = 4 << 20;

/// The directories of the store.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    content: PathBuf,
    staging: PathBuf,
    /// Uploads of one part that this process has seen come in, and hashed. What was there before may have
    /// been torn by a power cut after its name was given.
    hashed: Arc<Mutex<HashSet<String>>>,
}

/// Why bytes were not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("the upload has {got} bytes or more; {expected} were announced")]
    TooLong { got: u64, expected: u64 },
    #[error("the upload ended after {got} of {expected} bytes")]
    TooShort { got: u64, expected: u64 },
    #[error("the upload broke off")]
    Broken,
    #[error("the bytes hash to {got}, not to {expected}")]
    Digest { got: Digest, expected: Digest },
    #[error(transparent)]
    Disk(#[from] io::Error),
}

impl Contents {
    /// Whatever was being received when the gateway ended is thrown away: its upload is simply made again.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let (content, staging) = (state.join("content"), state.join("staging"));
        let contents = Self { content, staging, hashed: Arc::default() };
        let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        make(&contents.content)?;
        make(&contents.staging)?;
        Ok(contents)
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.content.join(&name[..2]).join(name)
    }

    fn hashed(&self) -> MutexGuard<'_, HashSet<String>> {
        self.hashed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part(&self, upload: &str, number: u32) -> PathBuf {
        self.staging.join(format!("{upload}.{number}"))
    }

    /// Writes a part as it comes in. `digest` is what the sender says that it hashes to.
    pub(crate) async fn receive<S, E>(
        &self,
        upload: &str,
        number: u32,
        size: u64,
        digest: Digest,
        mut body: S,
    ) -> Result<(), ReceiveError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        let path = self.part(upload, number);
        let beside = path.with_extension(format!("{number}.{}", crate::ids::random()));
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(QUEUE);
        let target = beside.clone();
        let writer = tokio::task::spawn_blocking(move || -> io::Result<Digest> {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?;
            let (mut file, mut hasher) = (SparseFile::new(file), Sha256::new());
            while let Some(chunk) = receiver.blocking_recv() {
                hasher.update(&chunk);
                file.write_all(&chunk)?;
            }
            let file = file.finish()?;
            if size >= SYNC_AT_ONCE_BYTES {
                file.sync_data()?;
            }
            Ok(Digest::new(hasher.finalize().into()))
        });
        let mut got = 0;
        let mut outcome = Ok(());
        while let Some(chunk) = body.next().await {
            let Ok(chunk) = chunk else {
                outcome = Err(ReceiveError::Broken);
                break;
            };
            got += chunk.len() as u64;
            if got > size {
                outcome = Err(ReceiveError::TooLong { got, expected: size });
                break;
            }
            if sender.send(chunk).await.is_err() {
                // The writer has ended: its error says why.
                break;
            }
        }
        drop(sender);
        let written = writer.await.expect("writing does not panic").map_err(ReceiveError::from);
        let outcome = outcome.and(written).and_then(|hashed| match (got, hashed) {
            (got, _) if got < size => Err(ReceiveError::TooShort { got, expected: size }),
            (_, hashed) if hashed != digest => Err(ReceiveError::Digest { got: hashed, expected: digest }),
            _ => Ok(fs::rename(&beside, &path)?),
        });
        match &outcome {
            Ok(()) => {
                self.hashed().insert(upload.to_owned());
            }
            // Nobody knows its name; the next start clears it too.
            Err(_) => drop(fs::remove_file(&beside)),
        }
        outcome
    }

    /// Puts the parts of an upload together under the name that was promised, when they hash to it.
    /// Blocking. [`Contents::sync`] puts the bytes on the disk.
    pub(crate) fn assemble(&self, upload: &str, parts: u32, digest: &Digest) -> Result<PathBuf, ReceiveError> {
        let whole = self.staging.join(format!("{upload}.whole"));
        if parts == 1 {
            match fs::rename(self.part(upload, 1), &whole) {
                // Its hash was checked while it came in, against the same name.
                Ok(()) if self.hashed().contains(upload) => return Ok(whole),
                // A commit that is made again may have done this already.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            let got = copy(&mut File::open(&whole)?, &mut io::sink())?;
            return match got == *digest {
                true => Ok(whole),
                false => Err(ReceiveError::Digest { got, expected: *digest }),
            };
        }
        let output = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&whole)?;
        let mut output = SparseFile::new(output);
        let mut input: Box<dyn Read> = Box::new(io::empty());
        for number in 1..=parts {
            input = Box::new(input.chain(File::open(self.part(upload, number))?));
        }
        let got = copy(&mut input, &mut output)?;
        drop(output.finish()?);
        match got == *digest {
            true => Ok(whole),
            false => Err(ReceiveError::Digest { got, expected: *digest }),
        }
    }

    /// Forgets what is left of an upload.
    pub(crate) fn discard(&self, upload: &str, parts: u32) {
        self.hashed().remove(upload);
        for number in 1..=parts {
            // What is left behind is cleared at the next start.
            let _ = fs::remove_file(self.part(upload, number));
        }
        let _ = fs::remove_file(self.staging.join(format!("{upload}.whole")));
    }

    /// These are on the disk.
    pub(crate) fn sync(&self, wholes: &[PathBuf]) -> io::Result<()> {
        if wholes.len() > MAX_SINGLE_SYNCS {
            return self.sync_everything();
        }
        wholes.iter().try_for_each(|whole| File::open(whole)?.sync_all())
    }

    /// The names of these are on the disk.
    pub(crate) fn sync_names(&self, digests: &[Digest]) -> io::Result<()> {
        if digests.len() > MAX_SINGLE_SYNCS {
            return self.sync_everything();
        }
        let folders: BTreeSet<PathBuf> =
            digests.iter().filter_map(|digest| self.path(digest).parent().map(Path::to_owned)).collect();
        folders.iter().chain([&self.content]).try_for_each(|folder| File::open(folder)?.sync_all())
    }

    /// For many at once: one wait, but for whatever else is being written to this file system too.
    fn sync_everything(&self) -> io::Result<()> {
        rustix::fs::syncfs(File::open(&self.content)?)?;
        Ok(())
    }

    /// Gives assembled and synced bytes their name. They keep the old one until they are discarded, so that
    /// a promotion that is made again finds them.
    pub(crate) fn promote(&self, whole: &Path, digest: &Digest) -> io::Result<()> {
        let path = self.path(digest);
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        match fs::hard_link(whole, path) {
            // The same bytes, from another project or an earlier try.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    }

    pub(crate) fn open_content(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.path(digest))
    }

    /// A content of at most `limit` bytes, its hash checked.
    pub(crate) fn read(&self, digest: &Digest, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_content(digest)?.take(limit + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 <= limit && Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => {
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("content {digest} is too long or damaged")))
            }
        }
    }

    /// Removes what was received and never promoted, except for uploads that may still be completed.
    pub(crate) fn clear_staging(&self, keep: &dyn Fn(&str) -> bool, receiving: Receiving) -> io::Result<()> {
        for entry in fs::read_dir(&self.staging)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let (upload, rest) = name.split_once('.').unwrap_or((&name, ""));
            // A whole may be renamed by a commit that is made again.
            let complete = rest == "whole" || !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
            let wanted = keep(upload);
            if !wanted {
                self.hashed().remove(upload);
            }
            if !wanted || !complete && receiving == Receiving::Nothing {
                match fs::remove_file(entry.path()) {
                    // Its upload was completed just now.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => removed?,
                }
            }
        }
        Ok(())
    }

    /// Removes contents without an owner; how many. Nothing may be promoted meanwhile.
    pub(crate) fn collect(&self, owned: &dyn Fn(&Digest) -> bool) -> io::Result<usize> {
        let mut freed = 0;
        for folder in fs::read_dir(&self.content)? {
            for entry in fs::read_dir(folder?.path())? {
                let entry = entry?;
                // Whatever else is there was not put there by us.
                let Ok(digest) = entry.file_name().to_string_lossy().parse::<Digest>() else { continue };
                if !owned(&digest) {
                    fs::remove_file(entry.path())?;
                    freed += 1;
                }
            }
        }
        Ok(freed)
    }
}

/// Whether parts may be coming in while they are cleared away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receiving {
    Nothing,
    Perhaps,
}

/// Copies to the end; the hash of what was copied.
fn copy(input: &mut dyn Read, output: &mut dyn Write) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(Digest::new(hasher.finalize().into())),
            count => {
                hasher.update(&buffer[..count]);
                output.write_all(&buffer[..count])?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn chunks(parts: &[&[u8]]) -> impl Stream<Item = Result<Bytes, ()>> + Unpin {
        stream::iter(parts.iter().map(|part| Ok(Bytes::copy_from_slice(part))).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn only_the_promised_bytes_get_a_name() {
        let state = tempfile::tempdir().expect("a directory");
        let contents = Contents::open(state.path()).expect("a store");
        let digest = Digest::of(b"hello");
        contents.receive("u", 1, 5, digest, chunks(&[b"hel", b"lo"])).await.expect("taken");
        let whole = contents.assemble("u", 1, &digest).expect("put together");
        contents.sync(std::slice::from_ref(&whole)).expect("synced");
        contents.promote(&whole, &digest).expect("promoted");
        contents.sync_names(&[digest]).expect("synced");
        assert_eq!(contents.read(&digest, 10).expect("read"), b"hello");
        let wrong = contents.receive("v", 1, 5, digest, chunks(&[b"world"])).await;
        assert!(matches!(wrong, Err(ReceiveError::Digest { .. })));
        let long = contents.receive("v", 1, 5, digest, chunks(&[b"hello", b"!"])).await;
        assert!(matches!(long, Err(ReceiveError::TooLong { .. })));
        let short = contents.receive("v", 1, 5, digest, chunks(&[b"hell"])).await;
        assert!(matches!(short, Err(ReceiveError::TooShort { .. })));
        let broken =
            contents.receive("v", 1, 5, digest, stream::iter([Ok(Bytes::from_static(b"hello")), Err(())])).await;
        assert!(matches!(broken, Err(ReceiveError::Broken)));
        contents.discard("u", 1);
        assert_eq!(fs::read_dir(state.path().join("staging")).expect("a list").count(), 0);
    }

    #[tokio::test]
    async fn parts_that_are_right_one_by_one_must_be_right_together() {
        let state = tempfile::tempdir().expect("a directory");
        let contents = Contents::open(state.path()).expect("a store");
        for (number, part) in [(1, b"ab"), (2, b"cd")] {
            contents.receive("u", number, 2, Digest::of(part), chunks(&[part])).await.expect("taken");
        }
        let wrong = contents.assemble("u", 2, &Digest::of(b"cdab"));
        assert!(matches!(wrong, Err(ReceiveError::Digest { .. })));
        let whole = contents.assemble("u", 2, &Digest::of(b"abcd")).expect("put together");
        contents.promote(&whole, &Digest::of(b"abcd")).expect("promoted");
        assert_eq!(contents.read(&Digest::of(b"abcd"), 4).expect("read"), b"abcd");
        assert!(contents.read(&Digest::of(b"abcd"), 3).is_err());
    }
}
