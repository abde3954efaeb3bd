//! Frames on a connection: `[head_len][tail_len][head][tail]`, as [`crate::api`] describes them.
//!
//! Input and output: serde types as heads, bytes as tails. A frame is written with one system call
//! and a small one is read with one. The runtime is woken when something can be read; that something
//! can be written is not asked for before a write finds the socket's buffer full. This module knows no request and no reply.

use bytes::{Buf, Bytes};
use rustix::buffer::spare_capacity;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, IoSlice, Write};
use std::os::unix::net::UnixStream;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

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
    stream: AsyncFd<UnixStream>,
    /// Received and not yet given out.
    received: Vec<u8>,
}

impl Connection {
    /// Fails when the runtime cannot watch the stream.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream: watch(stream, Interest::READABLE)?, received: Vec::new() })
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
        let mut full = None;
        while !left.is_empty() {
            match self.write(left, &mut full).await? {
                0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                written => IoSlice::advance_slices(&mut left, written),
            }
        }
        Ok(())
    }

    /// Writes some bytes. Waits, when it must, on a descriptor of its own, which is `full` from then on.
    async fn write(&self, parts: &[IoSlice<'_>], full: &mut Option<AsyncFd<UnixStream>>) -> io::Result<usize> {
        let write = |mut stream: &UnixStream| stream.write_vectored(parts);
        let full = match full {
            Some(full) => full,
            none => match write(self.stream.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    none.insert(watch(self.stream.get_ref().try_clone()?, Interest::WRITABLE)?)
                }
                done => return done,
            },
        };
        full.async_io(Interest::WRITABLE, write).await
    }

    /// Appends what has come to `received`, with `room` for it; 0 when the other end has closed. Cancel-safe.
    async fn read(&mut self, room: usize) -> io::Result<usize> {
        self.received.reserve(room);
        loop {
            let mut ready = self.stream.readable().await?;
            let space = self.received.capacity() - self.received.len();
            match rustix::io::read(self.stream.get_ref(), spare_capacity(&mut self.received)) {
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(length) => {
                    if (1..space).contains(&length) {
                        // That was all: what comes later wakes the runtime (epoll(7), edge-triggered).
                        ready.clear_ready();
                    }
                    return Ok(length);
                }
            }
        }
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
                        let rest = self.received.split_off(whole);
                        let mut frame = Bytes::from(std::mem::replace(&mut self.received, rest));
                        frame.advance(LENGTHS_BYTES);
                        let head = frame.split_to(head_len);
                        return Ok(Some(Frame { head: serde_json::from_slice(&head)?, tail: frame }));
                    }
                    whole
                }
            };
            if self.read((needed - self.received.len()).max(READ_BYTES)).await? == 0 {
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
        let read = |stream: &UnixStream| Ok(rustix::io::read(stream, &mut byte)?);
        let tried = self.stream.try_io(Interest::READABLE, read);
        self.received.is_empty() && tried.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Completes when the other end has closed (or fails, or sends more than a request meanwhile).
    /// What it sends is kept for [`Connection::receive`]. Cancel-safe.
    pub async fn closed(&mut self) {
        while self.received.len() < READ_BYTES {
            if !matches!(self.read(READ_BYTES).await, Ok(1..)) {
                return;
            }
        }
    }
}

#[allow(deprecated, reason = "the other constructor is unsafe; what it guards against cannot be done with a stream")]
fn watch(stream: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(stream, interest)
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
        (Connection::new(a).unwrap(), b)
    }

    #[tokio::test]
    async fn frames_follow_each_other() {
        let (mut a, b) = pair();
        let mut b = Connection::new(b).unwrap();
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
            b.write_all(&[*byte]).unwrap();
            let waited = tokio::time::timeout(std::time::Duration::from_millis(1), a.receive::<String>()).await;
            assert!(waited.is_err());
        }
        b.write_all(b"x").unwrap();
        let expected = Frame { head: "hi".to_owned(), tail: Bytes::from_static(b"x") };
        assert_eq!(a.receive().await.unwrap(), Some(expected));
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused() {
        let (mut a, mut b) = pair();
        b.write_all(&[0xff; 8]).unwrap();
        assert!(matches!(a.receive::<u32>().await, Err(FrameError::TooLong { part: "head", .. })));
        let (mut a, mut b) = pair();
        b.write_all(&[1, 0, 0, 0, 0, 0, 0, 0, b'{']).unwrap();
        assert!(matches!(a.receive::<u32>().await, Err(FrameError::Head(_))));
        let (mut a, mut b) = pair();
        b.write_all(&[1, 0, 0]).unwrap();
        drop(b);
        assert!(matches!(a.receive::<u32>().await, Err(FrameError::Io(_))));
    }

    #[tokio::test]
    async fn idle_and_closed_are_seen() {
        let (mut a, b) = pair();
        assert!(a.is_idle());
        let mut b = Connection::new(b).unwrap();
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
