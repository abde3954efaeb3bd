//! A run's bytes on our standard output and standard error: unmodified, unbuffered, in order.
//!
//! A thread of its own writes, because a reader that stalls must not keep us from seeing Ctrl-C. Its
//! queue holds sixteen chunks; when it is full the caller waits, and the daemon's journal with it.

use sandbox_wire::Stream;
use std::fs::File;
use std::io::{self, Write};
use tokio::sync::{mpsc, oneshot};

const QUEUED_CHUNKS: usize = 16;

/// Bytes for one of the two streams.
pub(crate) type Piece = (Stream, Vec<u8>);

/// The way to the writing thread.
#[derive(Debug)]
pub(crate) struct Output {
    queue: mpsc::Sender<Piece>,
    done: oneshot::Receiver<io::Result<()>>,
}

impl Output {
    /// Starts the thread.
    pub(crate) fn open() -> io::Result<Self> {
        let stdout = File::from(rustix::io::dup(rustix::stdio::stdout())?);
        let stderr = File::from(rustix::io::dup(rustix::stdio::stderr())?);
        Ok(Self::to(stdout, stderr))
    }

    /// Everything on standard error: what is printed at the end has standard output for itself.
    pub(crate) fn on_stderr() -> io::Result<Self> {
        let stderr = || Ok::<_, io::Error>(File::from(rustix::io::dup(rustix::stdio::stderr())?));
        Ok(Self::to(stderr()?, stderr()?))
    }

    fn to(mut stdout: File, mut stderr: File) -> Self {
        let (queue, mut pieces) = mpsc::channel::<Piece>(QUEUED_CHUNKS);
        let (report, done) = oneshot::channel();
        std::thread::spawn(move || {
            let mut written = Ok(());
            while written.is_ok() {
                let Some((stream, bytes)) = pieces.blocking_recv() else { break };
                written = match stream {
                    Stream::Stdout => write_all(&mut stdout, &bytes),
                    Stream::Stderr => write_all(&mut stderr, &bytes),
                };
            }
            // Closed first: whoever hears of the error must find the queue closed.
            drop(pieces);
            // Nobody listens any more when we were told to quit at once.
            let _ = report.send(written);
        });
        Self { queue, done }
    }

    /// Waits for a place in the queue; `None` when the thread has ended, see [`Output::finish`].
    /// Cancel-safe.
    pub(crate) async fn place(&self) -> Option<mpsc::Permit<'_, Piece>> {
        self.queue.reserve().await.ok()
    }

    /// Puts a piece into the queue unless it is full: after the end was asked for, output may be lost.
    pub(crate) fn offer(&self, piece: Piece) {
        // Full or closed: both mean that nobody reads.
        let _ = self.queue.try_send(piece);
    }

    /// Waits until everything is written. Cancelling it loses nothing that is in the queue.
    pub(crate) async fn finish(self) -> io::Result<()> {
        drop(self.queue);
        self.done.await.unwrap_or_else(|_| Err(io::Error::other("the writing thread ended early")))
    }
}

/// As `Write::write_all`, also to a descriptor that somebody made non-blocking.
fn write_all(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut wait = [rustix::event::PollFd::new(file, rustix::event::PollFlags::OUT)];
                rustix::event::poll(&mut wait, None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn pair() -> (File, File) {
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        (File::from(read), File::from(write))
    }

    #[tokio::test]
    async fn bytes_arrive_unmodified_and_in_order() {
        let (mut out, stdout) = pair();
        let (mut err, stderr) = pair();
        let output = Output::to(stdout, stderr);
        for piece in [(Stream::Stdout, vec![0, 0xff]), (Stream::Stderr, b"e".to_vec()), (Stream::Stdout, vec![b'\n'])] {
            output.place().await.expect("open").send(piece);
        }
        output.finish().await.expect("written");
        let (mut o, mut e) = (Vec::new(), Vec::new());
        out.read_to_end(&mut o).expect("read");
        err.read_to_end(&mut e).expect("read");
        assert_eq!((o, e), (vec![0, 0xff, b'\n'], b"e".to_vec()));
    }

    #[tokio::test]
    async fn a_reader_that_went_away_is_a_broken_pipe() {
        let (out, stdout) = pair();
        let (_err, stderr) = pair();
        drop(out);
        let output = Output::to(stdout, stderr);
        output.place().await.expect("open").send((Stream::Stdout, vec![1]));
        while output.place().await.is_some() {
            tokio::task::yield_now().await;
        }
        let error = output.finish().await.expect_err("broken");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_full_queue_drops_what_is_offered() {
        let (_out, stdout) = pair();
        let (_err, stderr) = pair();
        let output = Output::to(stdout, stderr);
        // More than pipe and queue hold: must not block.
        for _ in 0..QUEUED_CHUNKS * 4 {
            output.offer((Stream::Stdout, vec![0; 1 << 20]));
        }
    }
}
