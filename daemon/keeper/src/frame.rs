//! Frames on a connection: `[head_len][tail_len][head][tail]`, as [`crate::api`] describes them.
//!
//! Input and output: serde types as heads, bytes as tails. A frame is written with one system call
//! and a small one is read with one. This module knows no request and no reply.

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, IoSlice};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// The longest head: an order with standard input of the longest request body, as JSON.
pub const MAX_HEAD_BYTES: usize = 64 * 1024 * 1024;
/// The longest tail: what a reply keeps of both streams, and room.
pub const MAX_TAIL_BYTES: usize = 4 * 1024 * 1024;

const LENGTHS_BYTES: usize = 8;
/// Holds all frames but those with much output.
const READ_BYTES: usize = 8 * 1024;

/// Why a frame could not be sent or received. The connection is of no use after any of these but
/// `TooLong` when sending.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("a frame's {part} has {length} bytes, {limit} are allowed")]
    TooLong { part: &'static str, length: usize, limit: usize },
    #[error("a frame's head is not what it should be")]
    Head(#[from] serde_json::Error),
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// What was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame<H> {
    pub head: H,
    pub tail: Bytes,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// Received and not yet given out.
    received: BytesMut,
}

impl Connection {
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, received: BytesMut::new() }
    }

    /// Sends one frame; the parts of the tail follow each other. Not cancel-safe: when the future
    /// is dropped the connection must be too.
    pub async fn send<H: Serialize>(&mut self, head: &H, tail: &[&[u8]]) -> Result<(), FrameError> {
        let mut start = Vec::with_capacity(1024);
        start.resize(LENGTHS_BYTES, 0);
        serde_json::to_writer(&mut start, head)?;
        let tail_bytes = tail.iter().map(|part| part.len()).sum();
        let head_len = checked("head", start.len() - LENGTHS_BYTES, MAX_HEAD_BYTES)?;
        let tail_len = checked("tail", tail_bytes, MAX_TAIL_BYTES)?;
        start[..4].copy_from_slice(&head_len.to_le_bytes());
        start[4..LENGTHS_BYTES].copy_from_slice(&tail_len.to_le_bytes());

        let mut parts = Vec::with_capacity(1 + tail.len());
        parts.push(IoSlice::new(&start));
        parts.extend(tail.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)));
        let mut left = parts.as_mut_slice();
        while !left.is_empty() {
            match self.stream.write_vectored(left).await? {
                0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                written => IoSlice::advance_slices(&mut left, written),
            }
        }
        Ok(())
    }

    /// Receives one frame; none when the other end has closed between two frames. Cancel-safe.
    pub async fn receive<H: DeserializeOwned>(&mut self) -> Result<Option<Frame<H>>, FrameError> {
        loop {
            let needed = match self.received.first_chunk::<LENGTHS_BYTES>() {
                None => LENGTHS_BYTES,
                Some(&[a, b, c, d, e, f, g, h]) => {
                    let head_len = u32::from_le_bytes([a, b, c, d]) as usize;
                    let tail_len = u32::from_le_bytes([e, f, g, h]) as usize;
                    checked("head", head_len, MAX_HEAD_BYTES)?;
                    checked("tail", tail_len, MAX_TAIL_BYTES)?;
                    let whole = LENGTHS_BYTES + head_len + tail_len;
                    if self.received.len() >= whole {
                        let mut frame = self.received.split_to(whole).freeze();
                        frame.advance(LENGTHS_BYTES);
                        let head = frame.split_to(head_len);
                        return Ok(Some(Frame { head: serde_json::from_slice(&head)?, tail: frame }));
                    }
                    whole
                }
            };
            self.received.reserve((needed - self.received.len()).max(READ_BYTES));
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return match self.received.len() {
                    0 => Ok(None),
                    _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                };
            }
        }
    }

    /// The beginning of a frame has been received.
    pub fn has_received(&self) -> bool {
        !self.received.is_empty()
    }

    /// Nothing has come that was not asked for, and the other end has not closed. One system call
    /// at most.
    pub fn is_idle(&self) -> bool {
        let mut byte = [0];
        let nothing = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.received.is_empty() && self.stream.try_read(&mut byte).is_err_and(|error| nothing(&error))
    }

    /// Completes when the other end has closed (or fails, or sends more than a request meanwhile).
    /// What it sends is kept for [`Connection::receive`]. Cancel-safe.
    pub async fn closed(&mut self) {
        while self.received.len() < READ_BYTES {
            self.received.reserve(READ_BYTES);
            if !matches!(self.stream.read_buf(&mut self.received).await, Ok(1..)) {
                return;
            }
        }
    }
}

fn checked(part: &'static str, length: usize, limit: usize) -> Result<u32, FrameError> {
    let too_long = FrameError::TooLong { part, length, limit };
    if length > limit { Err(too_long) } else { u32::try_from(length).map_err(|_| too_long) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Connection, UnixStream) {
        let (a, b) = UnixStream::pair().unwrap();
        (Connection::new(a), b)
    }

    #[tokio::test]
    async fn frames_follow_each_other() {
        let (mut a, b) = pair();
        let mut b = Connection::new(b);
        let big = vec![7; 3 * 1024 * 1024];
        let sender = async {
            a.send(&"one", &[]).await.unwrap();
            a.send(&["two"], &[b"out", b"", b"err"]).await.unwrap();
            a.send(&3, &[&big]).await.unwrap();
            drop(a);
        };
        let receiver = async {
            assert_eq!(b.receive().await.unwrap(), Some(Frame { head: "one".to_owned(), tail: Bytes::new() }));
            let tail = Bytes::from_static(b"outerr");
            assert_eq!(b.receive().await.unwrap(), Some(Frame { head: vec!["two".to_owned()], tail }));
            let third = b.receive::<u32>().await.unwrap().unwrap();
            assert!(third.head == 3 && third.tail == big);
            assert_eq!(b.receive::<u32>().await.unwrap(), None);
        };
        tokio::join!(sender, receiver);
    }

    #[tokio::test]
    async fn a_frame_may_come_byte_by_byte_and_the_wait_may_be_given_up() {
        let (mut a, mut b) = pair();
        let bytes = [&4u32.to_le_bytes()[..], &1u32.to_le_bytes(), b"\"hi\"", b"x"].concat();
        for byte in &bytes[..bytes.len() - 1] {
            b.write_all(&[*byte]).await.unwrap();
            let waited = tokio::time::timeout(std::time::Duration::from_millis(1), a.receive::<String>()).await;
            assert!(waited.is_err());
        }
        b.write_all(b"x").await.unwrap();
        let expected = Frame { head: "hi".to_owned(), tail: Bytes::from_static(b"x") };
        assert_eq!(a.receive().await.unwrap(), Some(expected));
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused() {
        let (mut a, mut b) = pair();
        b.write_all(&[0xff; 8]).await.unwrap();
        assert!(matches!(a.receive::<u32>().await, Err(FrameError::TooLong { part: "head", .. })));
        let (mut a, mut b) = pair();
        b.write_all(&[1, 0, 0, 0, 0, 0, 0, 0, b'{']).await.unwrap();
        assert!(matches!(a.receive::<u32>().await, Err(FrameError::Head(_))));
        let (mut a, mut b) = pair();
        b.write_all(&[1, 0, 0]).await.unwrap();
        drop(b);
        assert!(matches!(a.receive::<u32>().await, Err(FrameError::Io(_))));
    }

    #[tokio::test]
    async fn idle_and_closed_are_seen() {
        let (mut a, b) = pair();
        assert!(a.is_idle());
        let mut b = Connection::new(b);
        b.send(&1, &[]).await.unwrap();
        let waited = tokio::time::timeout(std::time::Duration::from_millis(1), a.closed()).await;
        assert!(waited.is_err());
        assert!(!a.is_idle());
        assert_eq!(a.receive::<u32>().await.unwrap().map(|frame| frame.head), Some(1));
        assert!(a.is_idle());
        drop(b);
        a.closed().await;
        assert!(!a.is_idle());
    }
}
