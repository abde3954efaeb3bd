//! Appending to a journal.
//!
//! One `writev` per record, no `fsync`: a journal survives the death of every process, and of the
//! host as far as the host's write-back has come. Errors are survivable: output that could not be
//! written is counted and shows as a hole, and a record that was written in part is completed
//! before anything else is appended, so the files are parseable at any time.

use super::MAX_CHUNK_BYTES;
use super::chunker::is_continuation;
use super::record::{HEADER_BYTES, Header, Kind, Position, StartRecord, encode_exit};
use super::segments::{KEPT_AT_EITHER_END, file_name};
use rustix::fs::{CWD, Mode, OFlags, mkdir, openat, unlink};
use rustix::io::{Errno, write};
use sandbox_wire::{Stream, event::RunOutcome};
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

const MIN_SEGMENT_BYTES: u64 = 64 * 1024;

/// The one writer of a journal.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    file: OwnedFd,
    /// Number of the open segment, and of the oldest kept one of those that may be unlinked.
    current: u32,
    oldest: u32,
    /// Output bytes that a segment holds, at least.
    segment_bytes: u64,
    /// Output bytes, and all bytes, in the open segment.
    output_bytes: u64,
    file_bytes: u64,
    /// Of the last record, whose write stopped half way.
    unwritten: Vec<u8>,
    at: Position,
    seq: u64,
    finished: bool,
}

impl Writer {
    /// Makes the folder (0700) and its first segment (0600) with the start record. `limit_bytes`
    /// of output are kept. Fails when the folder exists: a run has one journal, written once.
    pub fn create(dir: &Path, limit_bytes: u64, start: &StartRecord) -> io::Result<Self> {
        make_folder(dir)?;
        let created = open_new(dir, 0).and_then(|file| Self::begin(dir, file, limit_bytes, start));
        if created.is_err() {
            // The error that is returned says more than a second one would: the disk is full, mostly.
            let _ = std::fs::remove_dir_all(dir);
        }
        created
    }

    /// Writes the start record into the first segment of a folder.
    pub(super) fn begin(dir: &Path, file: OwnedFd, limit_bytes: u64, start: &StartRecord) -> io::Result<Self> {
        let payload = serde_json::to_vec(start)?;
        let mut writer = Self {
            dir: dir.to_owned(),
            file,
            current: 0,
            oldest: KEPT_AT_EITHER_END,
            segment_bytes: limit_bytes.div_ceil(u64::from(2 * KEPT_AT_EITHER_END)).max(MIN_SEGMENT_BYTES),
            output_bytes: 0,
            file_bytes: 0,
            unwritten: Vec::new(),
            at: Position::default(),
            seq: 0,
            finished: false,
        };
        writer.write(Kind::Start, &payload)?;
        Ok(writer)
    }

    /// Appends output. The bytes are counted whether they could be written or not: after an error
    /// the journal is as good as before, and readers see a gap where the bytes are missing.
    pub fn append(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = match self.make_room(rest.len()) {
                Ok(room) => room,
                Err(error) => {
                    // The hole has a number of its own, so that a reader can resume behind it.
                    self.seq += 1;
                    self.at.advance(stream, rest.len() as u64);
                    return Err(error);
                }
            };
            let (now, later) = rest.split_at(cut(rest, room.min(MAX_CHUNK_BYTES)));
            self.seq += 1;
            let result = self.write(Kind::Chunk(stream), now);
            self.output_bytes += now.len() as u64;
            self.at.advance(stream, now.len() as u64);
            if result.is_err() {
                // Begun, it will be completed, and only what follows is lost: a hole of its own.
                self.seq += u64::from(!self.unwritten.is_empty() && !later.is_empty());
                self.at.advance(stream, later.len() as u64);
                return result;
            }
            rest = later;
        }
        Ok(())
    }

    /// Writes how the run ended. When the disk is full, older output makes room for it. May be
    /// repeated after an error.
    pub fn finish(&mut self, outcome: &RunOutcome) -> io::Result<()> {
        let payload = encode_exit(outcome)?;
        loop {
            let result = self.complete().and_then(|()| self.write_exit(&payload));
            match result {
                Err(error) if is_full(&error) && self.oldest < self.current => self.unlink_oldest()?,
                result => return result,
            }
        }
    }

    fn write_exit(&mut self, payload: &[u8]) -> io::Result<()> {
        if self.finished {
            return Ok(());
        }
        self.seq += 1;
        let result = self.write(Kind::Exit, payload);
        // Written in part counts: the rest of it is completed, not repeated.
        self.finished = result.is_ok() || !self.unwritten.is_empty();
        result
    }

    /// Bytes of stdout and stderr that were appended, written or not.
    pub fn totals(&self) -> (u64, u64) {
        (self.at.stdout, self.at.stderr)
    }

    /// Number of the last record.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// How many bytes of output the open segment may still take; opens the next one when none.
    /// No record is unfinished afterwards.
    fn make_room(&mut self, wanted: usize) -> io::Result<usize> {
        self.complete()?;
        let full = self.output_bytes >= self.segment_bytes
            // Many tiny records weigh more than what they carry: the disk is bounded too.
            || self.file_bytes >= 2 * self.segment_bytes;
        if full {
            if (self.current + 1).saturating_sub(self.oldest) >= KEPT_AT_EITHER_END {
                self.unlink_oldest()?;
            }
            self.file = open_new(&self.dir, self.current + 1)?;
            self.current += 1;
            self.output_bytes = 0;
            self.file_bytes = 0;
        }
        let room = self.segment_bytes - self.output_bytes;
        Ok(usize::try_from(room).unwrap_or(wanted).min(wanted))
    }

    fn unlink_oldest(&mut self) -> io::Result<()> {
        match unlink(self.dir.join(file_name(self.oldest))) {
            Ok(()) | Err(Errno::NOENT) => {
                self.oldest += 1;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Appends one record with the current number and positions; none is unfinished.
    fn write(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let header = Header { kind, length, seq: self.seq, at: self.at }.encode();
        let mut done = 0;
        let total = HEADER_BYTES + payload.len();
        while done < total {
            let parts = [
                IoSlice::new(&header[done.min(HEADER_BYTES)..]),
                IoSlice::new(&payload[done.saturating_sub(HEADER_BYTES)..]),
            ];
            match rustix::io::writev(&self.file, &parts) {
                Err(Errno::INTR) => {}
                Ok(count @ 1..) => {
                    done += count;
                    self.file_bytes += count as u64;
                }
                failed => {
                    let error = failed.map_or_else(io::Error::from, |_| io::ErrorKind::WriteZero.into());
                    // What is in the file stays; a reader may have seen it.
                    if done > 0 {
                        self.unwritten =
                            [&header[done.min(HEADER_BYTES)..], &payload[done.saturating_sub(HEADER_BYTES)..]].concat();
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Writes what is missing of the last record.
    fn complete(&mut self) -> io::Result<()> {
        while !self.unwritten.is_empty() {
            match write(&self.file, &self.unwritten) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.unwritten.drain(..count);
                    self.file_bytes += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

pub(super) fn make_folder(dir: &Path) -> io::Result<()> {
    match (mkdir(dir, Mode::RWXU), dir.parent()) {
        (Err(Errno::NOENT), Some(parent)) => {
            mkdir(parent, Mode::RWXU)?;
            Ok(mkdir(dir, Mode::RWXU)?)
        }
        (result, _) => Ok(result?),
    }
}

pub(super) fn open_new(dir: &Path, index: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, dir.join(file_name(index)), flags, Mode::RUSR | Mode::WUSR)?)
}

/// Where to cut: at `room`, or up to three bytes later so that no character is split. A segment
/// therefore takes a little more than its share, never less, and a stream of the limit's length
/// is kept whole.
fn cut(bytes: &[u8], room: usize) -> usize {
    let over = bytes[room..].iter().take(3).take_while(|byte| is_continuation(**byte)).count();
    room + over
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Follower, append, ended, start_record};
    use super::super::{Item, Reader};
    use super::*;
    use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

    /// A pipe of two pages stands for a disk that is full: it takes a part, then nothing, and
    /// there is space again when it has been read.
    #[test]
    fn a_full_disk_leaves_a_journal_that_can_be_read() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("run");
        let mut writer = Writer::create(&dir, 8 << 20, &start_record()).unwrap();
        let (disk, input) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
        fcntl_setpipe_size(&input, 8192).unwrap();
        let file = std::mem::replace(&mut writer.file, input);
        let make_space = || {
            let mut page = [0; 8192];
            while let Ok(count @ 1..) = rustix::io::read(&disk, &mut page) {
                let mut rest = &page[..count];
                while !rest.is_empty() {
                    rest = &rest[write(&file, rest).unwrap()..];
                }
            }
        };

        let (mut failed, mut torn) = (0, 0);
        for round in 0..400 {
            let stream = if round % 3 == 0 { Stream::Stderr } else { Stream::Stdout };
            let result = append(&mut writer, stream, 1 + round * 37 % 7000);
            failed += u32::from(result.is_err());
            torn += u32::from(!writer.unwritten.is_empty());
            if round % 5 == 0 {
                make_space();
            }
        }
        assert!(failed > 50 && torn > 50, "{failed} {torn}");
        let (stdout, stderr) = writer.totals();
        let end = ended(stdout, stderr);
        while writer.finish(&end).is_err() {
            make_space();
        }
        make_space();

        let mut reader = Reader::open(&dir).unwrap();
        let mut follower = Follower::default();
        while !follower.ended {
            let item = reader.next().unwrap();
            assert_ne!(item, Item::Pending, "{follower:?}");
            follower.see(&item);
        }
        assert!(follower.missing > 100_000, "{follower:?}");
        assert_eq!(super::super::outcome(&dir).unwrap(), Some(end));
    }
}
