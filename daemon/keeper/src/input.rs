//! Standard input of a run that goes on, for whoever sends it piece by piece.
//!
//! Input: bytes, and the end; output: how many of them the command's pipe has taken. A command that
//! does not read holds up whoever writes, for a while, and nobody else.

use std::io;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::Mutex;

/// A command that has not read for so long does not read.
const PATIENCE: Duration = Duration::from_secs(10);

/// The writing end; nothing in it once the end was sent. Pieces of several writers do not mix.
#[derive(Debug)]
pub struct Input(Mutex<Option<pipe::Sender>>);

impl Input {
    pub(crate) fn new(sender: Option<pipe::Sender>) -> Self {
        Self(Mutex::new(sender))
    }

    /// Writes, and then closes when `eof` is set and all was taken. Fails with `BrokenPipe` when there is nobody who
    /// could read it, and with `TimedOut` when the end alone could not be sent for another writer.
    pub(crate) async fn write(&self, bytes: &[u8], eof: bool) -> io::Result<usize> {
        let mut taken = 0;
        let written = tokio::time::timeout(PATIENCE, async {
            let mut pipe = self.0.lock().await;
            let sender = pipe.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            while taken < bytes.len() {
                taken += sender.write(&bytes[taken..]).await?;
            }
            if eof {
                *pipe = None;
            }
            Ok(())
        });
        match written.await {
            Ok(Err(error)) if taken == 0 => Err(error),
            Err(_) if bytes.is_empty() => Err(io::ErrorKind::TimedOut.into()),
            // What comes next is told what has become of it.
            Ok(_) | Err(_) => Ok(taken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (Input, pipe::Receiver) {
        let (sender, receiver) = tokio::net::unix::pipe::pipe().expect("a pipe");
        (Input::new(Some(sender)), receiver)
    }

    #[tokio::test]
    async fn pieces_arrive_in_order_and_then_the_end() {
        let (input, mut receiver) = pipe();
        assert_eq!(input.write(b"one ", false).await.expect("taken"), 4);
        assert_eq!(input.write(b"two", true).await.expect("taken"), 3);
        let mut text = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut receiver, &mut text).await.expect("read");
        assert_eq!(text, "one two");
        assert_eq!(input.write(b"", false).await.expect_err("closed").kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let (input, receiver) = pipe();
        let much = vec![b'x'; 1 << 20];
        let taken = input.write(&much, true).await.expect("some of it");
        assert!(taken > 0 && taken < much.len(), "{taken}");
        drop(receiver);
        assert_eq!(input.write(b"x", false).await.expect_err("gone").kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_was_not_sent_is_not_said_to_be() {
        let (input, _receiver) = pipe();
        let turn = input.0.lock().await;
        assert_eq!(input.write(b"", true).await.expect_err("another's turn").kind(), io::ErrorKind::TimedOut);
        assert!(turn.is_some());
        drop(turn);
        assert_eq!(input.write(b"", true).await.expect("its turn"), 0);
    }

    #[tokio::test]
    async fn a_run_without_an_open_input_takes_none() {
        assert!(Input::new(None).write(b"x", false).await.is_err());
    }
}
