//! One record of a journal: its header, and the JSON that the first and the last one carry.
//!
//! ```text
//!  0  magic   "SBJ1"; the digit is the version of this layout
//!  4  kind    u8: 1 start, 2 chunk, 3 exit
//!  5  stream  u8: 0 none, 1 stdout, 2 stderr
//!  6  zero    u16
//!  8  length  u32: bytes of payload that follow the header
//! 12  check   u32: FNV-1a of the other 36 bytes
//! 16  seq     u64: 0 for the start; chunks of both streams count from 1; the exit is the next
//! 24  stdout  u64: bytes of stdout before this record
//! 32  stderr  u64: bytes of stderr before this record
//! ```
//!
//! All numbers are little-endian. Both positions stand in every header, so that any record alone
//! tells how much of each stream came before it, whether that is still kept or not. The payload of
//! the exit ends with a trailer, `length of the whole record (u32)` and `"SBJX"`: the exit is the
//! last thing in its file and can be found from the end.

use sandbox_wire::{ProjectId, RunId, Stream, event::RunOutcome};
use serde::{Deserialize, Serialize};
use std::io;

pub(super) const HEADER_BYTES: usize = 40;
pub(super) const TRAILER_BYTES: usize = 8;
/// Nothing that is written is longer; a header that claims more is not one.
pub(super) const MAX_PAYLOAD_BYTES: u32 = 128 * 1024 * 1024;

const MAGIC: [u8; 4] = *b"SBJ1";
const TRAILER_MAGIC: [u8; 4] = *b"SBJX";

/// What a journal says first: what was run, where, and by which rules. Holds no value of the
/// environment, because those may be secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRecord {
    pub run: RunId,
    pub project: ProjectId,
    /// The words that are executed.
    pub command: Vec<String>,
    /// Absolute, as seen inside.
    pub cwd: String,
    /// Name of the policy.
    pub policy: String,
    pub timeout_ms: u64,
    /// Milliseconds since the epoch; for display only.
    pub started_at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Start,
    Chunk(Stream),
    Exit,
}

/// How far each stream has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) stdout: u64,
    pub(super) stderr: u64,
}

impl Position {
    pub(super) fn advance(&mut self, stream: Stream, bytes: u64) {
        match stream {
            Stream::Stdout => self.stdout += bytes,
            Stream::Stderr => self.stderr += bytes,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) length: u32,
    pub(super) seq: u64,
    /// Before this record.
    pub(super) at: Position,
}

impl Header {
    /// Where the streams stand after this record.
    pub(super) fn end(&self) -> Position {
        let mut end = self.at;
        if let Kind::Chunk(stream) = self.kind {
            end.advance(stream, u64::from(self.length));
        }
        end
    }

    /// Header and payload.
    pub(super) fn record_bytes(&self) -> usize {
        HEADER_BYTES + self.length as usize
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let (kind, stream) = match self.kind {
            Kind::Start => (1, 0),
            Kind::Chunk(Stream::Stdout) => (2, 1),
            Kind::Chunk(Stream::Stderr) => (2, 2),
            Kind::Exit => (3, 0),
        };
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = kind;
        bytes[5] = stream;
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.seq.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.at.stdout.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.at.stderr.to_le_bytes());
        let check = check(&bytes);
        bytes[12..16].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// None for what is not a header: zeros, a piece of something else, another version.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let half = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let whole = |at: usize| u64::from(half(at)) | u64::from(half(at + 4)) << 32;
        if bytes[..4] != MAGIC || bytes[6..8] != [0, 0] || half(12) != check(bytes) {
            return None;
        }
        let kind = match (bytes[4], bytes[5]) {
            (1, 0) => Kind::Start,
            (2, 1) => Kind::Chunk(Stream::Stdout),
            (2, 2) => Kind::Chunk(Stream::Stderr),
            (3, 0) => Kind::Exit,
            _ => return None,
        };
        let length = half(8);
        let at = Position { stdout: whole(24), stderr: whole(32) };
        (length <= MAX_PAYLOAD_BYTES).then_some(Self { kind, length, seq: whole(16), at })
    }
}

/// FNV-1a over the header without its check field: 36 bytes, some 30 ns.
fn check(bytes: &[u8; HEADER_BYTES]) -> u32 {
    let covered = bytes[..12].iter().chain(&bytes[16..]);
    covered.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The payload of the exit: JSON and the trailer.
pub(super) fn encode_exit(outcome: &RunOutcome) -> io::Result<Vec<u8>> {
    let mut payload = serde_json::to_vec(outcome)?;
    let record = u32::try_from(HEADER_BYTES + payload.len() + TRAILER_BYTES).map_err(io::Error::other)?;
    payload.extend_from_slice(&record.to_le_bytes());
    payload.extend_from_slice(&TRAILER_MAGIC);
    Ok(payload)
}

pub(super) fn decode_exit(payload: &[u8]) -> io::Result<RunOutcome> {
    let json = payload.len().saturating_sub(TRAILER_BYTES);
    Ok(serde_json::from_slice(&payload[..json])?)
}

/// The length of the record that a trailer ends.
pub(super) fn decode_trailer(bytes: &[u8; TRAILER_BYTES]) -> Option<u64> {
    let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let smallest = HEADER_BYTES + TRAILER_BYTES;
    (bytes[4..] == TRAILER_MAGIC && length as usize >= smallest).then_some(u64::from(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        let at = Position { stdout: 1 << 40, stderr: 7 };
        Header { kind: Kind::Chunk(Stream::Stderr), length: 0xabcd, seq: u64::MAX - 1, at }
    }

    #[test]
    fn header_survives_encoding() {
        assert_eq!(Header::decode(&sample().encode()), Some(sample()));
        assert_eq!(sample().end(), Position { stdout: 1 << 40, stderr: 7 + 0xabcd });
    }

    #[test]
    fn any_changed_bit_is_noticed() {
        let good = sample().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bad), None, "bit {bit}");
        }
        assert_eq!(Header::decode(&[0; HEADER_BYTES]), None);
    }
}
