//! Reading a journal from any place on, while it is written or afterwards.
//!
//! A [`Reader`] blocks only for the disk: what is not there yet is [`Item::Pending`]. Where it
//! stands depends on the cursor it was given alone, so two readers with the same cursor see the
//! same items. It keeps the segment it reads open, so that one that is unlinked meanwhile is still
//! read to its end.

use super::record::{Header, Kind, Position, StartRecord, decode_exit};
use super::segments::{Folder, Record, Segment};
use bytes::{Buf, Bytes};
use sandbox_wire::{Stream, event::RunOutcome};
use std::io;
use std::path::Path;

/// What a journal says, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    Start(StartRecord),
    /// Bytes of one stream, never empty; a character is never split between chunks.
    Chunk {
        /// Counts the chunks of both streams, from 1.
        seq: u64,
        stream: Stream,
        /// Position of the first byte in its stream.
        offset: u64,
        data: Bytes,
    },
    /// Output that is not kept, exactly here. Resuming after `seq` continues behind the hole. A
    /// reader that resumed after a chunk that is itself in the hole is told the size of all of it.
    Gap {
        seq: u64,
        stdout_bytes: u64,
        stderr_bytes: u64,
    },
    Exit {
        seq: u64,
        outcome: Box<RunOutcome>,
    },
    /// Nothing more yet (for ever, once the exit has been read or the writer is dead).
    Pending,
}

/// Which stream a byte offset counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    Stdout,
    Stderr,
    /// Both, as one stream in the order in which they were read.
    All,
}

impl From<Stream> for Select {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Stdout => Self::Stdout,
            Stream::Stderr => Self::Stderr,
        }
    }
}

impl Select {
    pub(super) fn of(self, position: Position) -> u64 {
        match self {
            Self::Stdout => position.stdout,
            Self::Stderr => position.stderr,
            Self::All => position.stdout + position.stderr,
        }
    }

    pub(super) fn takes(self, stream: Stream) -> bool {
        self == Self::All || self == Self::from(stream)
    }
}

/// Where a seek by offset ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The next byte of the stream is the one asked for, or will be.
    Found,
    /// That byte is not kept any more; the first one after it that is.
    Expired { oldest_kept: u64 },
    /// The stream has only reached `end`, and the reader stands there.
    Beyond { end: u64 },
}

/// A place in a journal.
#[derive(Debug)]
pub struct Reader {
    folder: Folder,
    segment: Option<Segment>,
    /// Read, but not given out yet.
    kept_back: Option<Record>,
    /// Where both streams stand behind what was given out.
    at: Position,
    /// Chunks up to this one are passed over.
    after_seq: Option<u64>,
    /// Where the last [`Reader::read_stream`] ended.
    pub(super) raw: Option<(Select, u64)>,
}

impl Reader {
    /// Opens the journal in this folder, at its start. Fails when there is no such folder.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let folder = Folder::open(dir)?;
        Ok(Self { folder, segment: None, kept_back: None, at: Position::default(), after_seq: None, raw: None })
    }

    /// The next item.
    #[expect(clippy::should_implement_trait, reason = "it does not end: Pending may be followed by more")]
    pub fn next(&mut self) -> io::Result<Item> {
        self.raw = None;
        loop {
            let Some(record) = self.take()? else { return Ok(Item::Pending) };
            let Record { header, data } = &record;
            if header.kind != Kind::Exit && self.after_seq.is_some_and(|seq| header.seq <= seq) {
                self.at = header.end();
                continue;
            }
            if self.after_seq.take().is_some_and(|seq| header.seq.checked_sub(1) == Some(seq)) {
                // The caller knows all that came before, whether it is still kept or not.
                self.at = header.at;
            }
            let stdout_bytes = header.at.stdout.saturating_sub(self.at.stdout);
            let stderr_bytes = header.at.stderr.saturating_sub(self.at.stderr);
            if stdout_bytes > 0 || stderr_bytes > 0 {
                self.at = header.at;
                let seq = header.seq.saturating_sub(1);
                self.keep_back(record);
                return Ok(Item::Gap { seq, stdout_bytes, stderr_bytes });
            }
            self.at = header.end();
            return match header.kind {
                Kind::Start => Ok(Item::Start(serde_json::from_slice(data)?)),
                Kind::Exit => Ok(Item::Exit { seq: header.seq, outcome: Box::new(decode_exit(data)?) }),
                Kind::Chunk(stream) => {
                    let offset = Select::from(stream).of(header.at);
                    Ok(Item::Chunk { seq: header.seq, stream, offset, data: record.data })
                }
            };
        }
    }

    /// Goes to the first item after the chunk with this number, which need not exist (yet). The
    /// exit is given out in any case.
    pub fn seek_after_seq(&mut self, seq: u64) -> io::Result<()> {
        self.go_to(|header| header.seq <= seq)?;
        self.after_seq = Some(seq);
        Ok(())
    }

    /// Goes to the first record at which the stream has reached this byte. When the byte is inside
    /// a chunk, that chunk is given out without what precedes the byte.
    pub fn seek_offset(&mut self, select: impl Into<Select>, offset: u64) -> io::Result<Seek> {
        let select = select.into();
        self.go_to(|header| select.of(header.at) < offset)?;
        loop {
            let Some(mut record) = self.take()? else {
                let end = select.of(self.at);
                return Ok(if end == offset { Seek::Found } else { Seek::Beyond { end } });
            };
            let from = select.of(record.header.at);
            let to = select.of(record.header.end());
            self.at = record.header.at;
            if record.header.kind == Kind::Start {
                continue;
            }
            if from > offset {
                self.keep_back(record);
                return Ok(Seek::Expired { oldest_kept: from });
            }
            if from == offset || to > offset {
                if to > offset && from < offset {
                    cut_front(&mut record, offset - from);
                    self.at = record.header.at;
                }
                self.keep_back(record);
                return Ok(Seek::Found);
            }
            if record.header.kind == Kind::Exit {
                self.keep_back(record);
                return Ok(Seek::Beyond { end: to });
            }
            self.at = record.header.end();
        }
    }

    /// Stands before the last segment whose first record is `early` enough, or at the start.
    fn go_to(&mut self, early: impl Fn(&Header) -> bool) -> io::Result<()> {
        self.segment = None;
        self.kept_back = None;
        self.at = Position::default();
        self.after_seq = None;
        self.raw = None;
        for index in self.folder.list()?.into_iter().rev() {
            let Some(mut segment) = self.folder.segment(index)? else { continue };
            match segment.header()? {
                Some(header) if early(&header) => {
                    self.at = header.at;
                    self.segment = Some(segment);
                    return Ok(());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The next record that is wholly there.
    pub(super) fn take(&mut self) -> io::Result<Option<Record>> {
        if let Some(record) = self.kept_back.take() {
            return Ok(Some(record));
        }
        loop {
            let segment = match &mut self.segment {
                Some(segment) => segment,
                none => match self.folder.segment(0)? {
                    Some(first) => none.insert(first),
                    None => return Ok(None),
                },
            };
            if let Some(record) = segment.record()? {
                return Ok(Some(record));
            }
            let Some(following) = self.folder.following(segment)? else { return Ok(None) };
            // Now that a later segment exists this one is complete; what came in between counts.
            if let Some(record) = segment.record()? {
                return Ok(Some(record));
            }
            self.segment = Some(following);
        }
    }

    /// The next [`Reader::take`] gives this record out.
    pub(super) fn keep_back(&mut self, record: Record) {
        self.kept_back = Some(record);
    }

    /// The record has been given out.
    pub(super) fn passed(&mut self, record: &Record) {
        self.at = record.header.end();
    }
}

/// Takes bytes off the front of a chunk.
pub(super) fn cut_front(record: &mut Record, bytes: u64) {
    if let Kind::Chunk(stream) = record.header.kind {
        let count = usize::try_from(bytes).unwrap_or(usize::MAX).min(record.data.len());
        record.data.advance(count);
        record.header.at.advance(stream, count as u64);
        record.header.length = record.header.length.saturating_sub(count as u32);
    }
}
