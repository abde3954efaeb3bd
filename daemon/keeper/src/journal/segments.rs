//! The files of a journal as a reader sees them, and the records in one of them.
//!
//! Reads are large (one `pread` per quarter mebibyte) and records are slices of the block that was
//! read. Everything is opened without following links and relative to the journal's folder.

use super::record::{HEADER_BYTES, Header, Kind, StartRecord, TRAILER_BYTES, decode_exit, decode_trailer};
use bytes::{Buf, Bytes};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, fstat, openat};
use rustix::io::{Errno, pread};
use sandbox_wire::event::RunOutcome;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Segments that are never unlinked; as many more are kept at the end.
pub(super) const KEPT_AT_EITHER_END: u32 = 4;
/// Two of the longest records, or many small ones.
const BLOCK_BYTES: u64 = 260 * 1024;

pub(super) fn file_name(index: u32) -> String {
    format!("{index:06}")
}

/// The folder of one journal.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
}

impl Folder {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { fd: openat(CWD, dir, flags, Mode::empty())? })
    }

    /// None when there is no such segment: not yet, or not any more.
    pub(super) fn segment(&self, index: u32) -> io::Result<Option<Segment>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.fd, file_name(index), flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Segment { fd, index, at: 0, block: Bytes::new() })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Numbers of the segments that exist, ascending.
    pub(super) fn list(&self) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_str().unwrap_or_default();
            if let Ok(index) = name.parse::<u32>()
                && file_name(index) == name
            {
                found.push(index);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The segment that follows, once there is one. Then `segment` does not grow any more.
    pub(super) fn following(&self, segment: &Segment) -> io::Result<Option<Segment>> {
        let next = segment.index + 1;
        if let Some(found) = self.segment(next)? {
            return Ok(Some(found));
        }
        // The writer unlinks the oldest first and never its own: as long as this one has a name,
        // or the next one is of those that always stay, the next one does not exist yet.
        let unlinked = segment.index >= KEPT_AT_EITHER_END && fstat(&segment.fd)?.st_nlink == 0;
        if !unlinked && next != KEPT_AT_EITHER_END {
            return Ok(None);
        }
        // The one that is listed may be gone before it is opened; then a later one is there.
        loop {
            let Some(index) = self.list()?.into_iter().find(|index| *index >= next) else { return Ok(None) };
            if let Some(found) = self.segment(index)? {
                return Ok(Some(found));
            }
        }
    }

    /// The segment that is written, or was written last.
    fn last(&self) -> io::Result<Option<Segment>> {
        let only = self.segment(0)?;
        if only.is_some() && rustix::fs::statat(&self.fd, file_name(1), AtFlags::SYMLINK_NOFOLLOW).is_err() {
            return Ok(only);
        }
        loop {
            let Some(index) = self.list()?.pop() else { return Ok(None) };
            if let Some(found) = self.segment(index)? {
                return Ok(Some(found));
            }
        }
    }
}

/// One record: a slice of the block it was read with.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) header: Header,
    pub(super) data: Bytes,
}

/// An open segment and a place in it, always between two records.
#[derive(Debug)]
pub(super) struct Segment {
    fd: OwnedFd,
    index: u32,
    at: u64,
    /// What has been read and begins at `at`.
    block: Bytes,
}

impl Segment {
    /// The record at this place; none when it is not (yet) wholly there.
    pub(super) fn record(&mut self) -> io::Result<Option<Record>> {
        loop {
            let header = match self.block.first_chunk::<HEADER_BYTES>() {
                None => None,
                Some(bytes) => match Header::decode(bytes) {
                    None => return Ok(None),
                    some => some,
                },
            };
            let needed = header.map_or(HEADER_BYTES, |header| header.record_bytes());
            match header {
                Some(header) if self.block.len() >= needed => {
                    let mut data = self.block.split_to(needed);
                    data.advance(HEADER_BYTES);
                    self.at += needed as u64;
                    return Ok(Some(Record { header, data }));
                }
                _ if !self.fill(needed as u64)? => return Ok(None),
                _ => {}
            }
        }
    }

    /// The header at this place.
    pub(super) fn header(&mut self) -> io::Result<Option<Header>> {
        if self.block.len() < HEADER_BYTES && !self.fill(HEADER_BYTES as u64)? {
            return Ok(None);
        }
        Ok(self.block.first_chunk().and_then(Header::decode))
    }

    /// Reads a block that begins at this place; false when fewer than `needed` bytes are there.
    /// Bytes of an incomplete record are read again rather than copied: both cost the same.
    fn fill(&mut self, needed: u64) -> io::Result<bool> {
        let size = u64::try_from(fstat(&self.fd)?.st_size).unwrap_or(0);
        let there = size.saturating_sub(self.at);
        if there < needed {
            return Ok(false);
        }
        let block = self.read(self.at, there.min(needed.max(BLOCK_BYTES)))?;
        self.block = Bytes::from(block);
        Ok(self.block.len() as u64 >= needed)
    }

    fn read(&self, at: u64, length: u64) -> io::Result<Vec<u8>> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let from = at + bytes.len() as u64;
            match pread(&self.fd, rustix::buffer::spare_capacity(&mut bytes), from) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(bytes)
    }
}

/// How the run of this journal ended; none while it has not, or when its keeper died with it.
/// One open, one `fstat` and one or two reads, however long the output.
pub fn outcome(dir: &Path) -> io::Result<Option<RunOutcome>> {
    let Some(last) = Folder::open(dir)?.last()? else { return Ok(None) };
    let size = u64::try_from(fstat(&last.fd)?.st_size).unwrap_or(0);
    // An exit is a few kilobytes at most, unless it names very many denials.
    let mut from = size.saturating_sub(4096);
    let mut end = last.read(from, size - from)?;
    let Some(record) = end.last_chunk::<TRAILER_BYTES>().and_then(decode_trailer) else { return Ok(None) };
    if record > size {
        return Ok(None);
    }
    if record > end.len() as u64 {
        from = size - record;
        end = last.read(from, record)?;
    }
    let start = usize::try_from(size - record - from).map_err(io::Error::other)?;
    let bytes = end.get(start..).unwrap_or_default();
    match bytes.first_chunk().and_then(Header::decode) {
        Some(header) if header.kind == Kind::Exit && header.record_bytes() == bytes.len() => {
            decode_exit(&bytes[HEADER_BYTES..]).map(Some)
        }
        _ => Ok(None),
    }
}

/// What this journal says first; none when its writer died before it had said it.
pub fn start(dir: &Path) -> io::Result<Option<StartRecord>> {
    let Some(mut first) = Folder::open(dir)?.segment(0)? else { return Ok(None) };
    match first.record()? {
        Some(record) if record.header.kind == Kind::Start => Ok(Some(serde_json::from_slice(&record.data)?)),
        _ => Ok(None),
    }
}
