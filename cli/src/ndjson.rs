//! Newline-delimited JSON: bytes that arrive in any pieces become whole lines, lines become events.
//!
//! Follows the stream format of `docs/api.md`: one JSON object per line, its name in `event`. Events
//! whose name we do not know are skipped, so that an older client can read a newer daemon.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sandbox_wire::event::Chunk;
use sandbox_wire::{Encoding, Event, Problem};

/// The longest line that is believed; a daemon's chunks are far smaller.
const LINE_LIMIT_BYTES: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("a line of the stream is longer than {LINE_LIMIT_BYTES} bytes")]
    LineTooLong,
    #[error("a line of the stream is not an event: {0}")]
    NotAnEvent(#[source] serde_json::Error),
    #[error("a chunk of the stream is not base64: {0}")]
    NotBase64(#[source] base64::DecodeError),
}

/// One line of the stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Line {
    Event(Event),
    /// The daemon gave up in the middle.
    Problem(Box<Problem>),
    /// A kind of event that this client does not know, or an empty line.
    Unknown,
}

/// Collects bytes, gives lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
    /// Start of what has not been given out.
    start: usize,
    /// Up to here no newline was found.
    searched: usize,
}

impl Lines {
    /// Adds what arrived.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.buffer.len() + bytes.len() > LINE_LIMIT_BYTES {
            return Err(DecodeError::LineTooLong);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole line, without its newline.
    pub(crate) fn next_line(&mut self) -> Option<&[u8]> {
        match self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                let (from, to) = (self.start, self.searched + at);
                self.start = to + 1;
                self.searched = to + 1;
                Some(&self.buffer[from..to])
            }
            None => {
                self.searched = self.buffer.len();
                None
            }
        }
    }
}

/// Reads one line.
pub(crate) fn decode(line: &[u8]) -> Result<Line, DecodeError> {
    if line.trim_ascii().is_empty() {
        return Ok(Line::Unknown);
    }
    match serde_json::from_slice::<Event>(line) {
        Ok(event) => Ok(Line::Event(event)),
        Err(error) => other(line).ok_or(DecodeError::NotAnEvent(error)),
    }
}

/// What a line may be besides an event that we know.
fn other(line: &[u8]) -> Option<Line> {
    const KNOWN: [&str; 6] = ["start", "stdout", "stderr", "gap", "ping", "result"];
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    let name = value.get("event").and_then(serde_json::Value::as_str).map(str::to_owned);
    if name.as_deref().is_some_and(|name| KNOWN.contains(&name)) {
        return None;
    }
    if let Ok(problem) = serde_json::from_value::<Problem>(value) {
        return Some(Line::Problem(Box::new(problem)));
    }
    name.map(|_| Line::Unknown)
}

/// The exact bytes of a chunk.
pub(crate) fn bytes(chunk: Chunk) -> Result<Vec<u8>, DecodeError> {
    match chunk.encoding {
        Encoding::Utf8 => Ok(chunk.data.into_bytes()),
        Encoding::Base64 => STANDARD.decode(chunk.data).map_err(DecodeError::NotBase64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        r#"{"event":"start","run_id":"run_01JD8Z5Q6W9J5Q0M3V7T2K4X8A"}"#,
        "\n",
        r#"{"event":"stdout","seq":1,"offset":0,"data":"h\u00e9 ✓\n"}"#,
        "\n\n",
        r#"{"event":"stderr","seq":2,"offset":0,"data":"/wA=","encoding":"base64"}"#,
        "\n",
        r#"{"event":"ping"}"#,
        "\n",
        r#"{"event":"weather","sky":"blue"}"#,
        "\n",
    );

    fn read(pieces: &[&[u8]]) -> Vec<Line> {
        let mut lines = Lines::default();
        let mut read = Vec::new();
        for piece in pieces {
            lines.feed(piece).expect("short");
            while let Some(line) = lines.next_line() {
                read.push(decode(line).expect("well-formed"));
            }
        }
        read
    }

    #[test]
    fn pieces_may_be_cut_anywhere() {
        let whole = read(&[STREAM.as_bytes()]);
        assert_eq!(whole.len(), 6);
        for at in 0..=STREAM.len() {
            let (left, right) = STREAM.as_bytes().split_at(at);
            assert_eq!(read(&[left, right]), whole, "cut at {at}");
        }
        let single: Vec<&[u8]> = STREAM.as_bytes().chunks(1).collect();
        assert_eq!(read(&single), whole);
    }

    #[test]
    fn chunks_give_their_exact_bytes() {
        let chunks: Vec<Vec<u8>> = read(&[STREAM.as_bytes()])
            .into_iter()
            .filter_map(|line| match line {
                Line::Event(Event::Stdout(chunk) | Event::Stderr(chunk)) => Some(bytes(chunk).expect("decodes")),
                _ => None,
            })
            .collect();
        assert_eq!(chunks, [b"h\xc3\xa9 \xe2\x9c\x93\n".to_vec(), vec![0xff, 0]]);
    }

    #[test]
    fn unknown_events_are_skipped_and_broken_ones_are_not() {
        assert_eq!(decode(br#"{"event":"weather"}"#).expect("skipped"), Line::Unknown);
        assert_eq!(decode(b"\r").expect("skipped"), Line::Unknown);
        for bad in ["{", "[]", "7", r#"{"event":"stdout","seq":"x"}"#, r#"{"no":"name"}"#] {
            assert!(decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_problem_in_the_middle_is_one() {
        let line = br#"{"event":"error","error":"disk full","code":"disk_full","retryable":false}"#;
        match decode(line).expect("reads") {
            Line::Problem(problem) => assert_eq!(problem.error, "disk full"),
            other => panic!("{other:?}"),
        }
    }
}
