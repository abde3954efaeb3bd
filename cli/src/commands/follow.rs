//! A live run: its events become our output, our signals become its end.
//!
//! The first signal (or a reader that went away) kills the run and waits for its end, the second one
//! ends us. A connection that breaks is made anew and goes on where it was: runs outlive their daemon.

use super::feed::feed;
use crate::args::Globals;
use crate::client::{Client, ClientError, EventStream};
use crate::connect;
use crate::failure::Failure;
use crate::interrupt::{Interrupt, Interrupts};
use crate::ndjson::{self, Line};
use crate::output::{Output, Piece};
use sandbox_wire::event::RunOutcome;
use sandbox_wire::{Code, Event, RunId, Stream};
use std::io;
use std::time::Duration;
use tokio::sync::mpsc::Permit;
use tokio::time::{Instant, sleep, sleep_until};

/// How long the end of a killed run is waited for.
const END_TIME: Duration = Duration::from_secs(10);
/// How long the last output may take to be written after we were told to stop.
const FLUSH_TIME: Duration = Duration::from_secs(1);
/// A broken connection is tried again this often, with this pause.
const RESUME_TRIES: u32 = 20;
const RESUME_PAUSE: Duration = Duration::from_millis(500);

/// Why we ended the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Signal(Interrupt),
    /// Nobody reads our output any more.
    ReaderGone,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Ended {
    /// None when we stopped without hearing of the end.
    pub(crate) outcome: Option<RunOutcome>,
    pub(crate) stop: Option<Stop>,
}

impl Ended {
    fn unheard(stop: Stop) -> Self {
        Self { outcome: None, stop: Some(stop) }
    }
}

#[derive(Debug)]
pub(crate) struct Follower<'a> {
    globals: &'a Globals,
    client: Client,
    project: String,
    run: Option<RunId>,
    /// The last chunk that we have: where a new connection goes on.
    seq: u64,
    /// None: output is not shown.
    output: Option<Output>,
    /// Our standard input is to become the run's.
    feeds: bool,
}

impl<'a> Follower<'a> {
    pub(crate) fn new(globals: &'a Globals, client: Client, project: String, output: Option<Output>) -> Self {
        Self { globals, client, project, run: None, seq: 0, output, feeds: false }
    }

    /// Our standard input becomes the run's as soon as it is known which it is.
    pub(crate) fn feeding(self, feeds: bool) -> Self {
        Self { feeds, ..self }
    }

    /// Follows the run to its end.
    pub(crate) async fn follow(
        &mut self,
        mut stream: EventStream,
        interrupts: &mut Interrupts,
    ) -> Result<Ended, Failure> {
        let output = self.output.take();
        let mut piece: Option<Piece> = None;
        let mut stopping: Option<(Stop, Instant)> = None;
        let outcome = loop {
            if stopping.is_some()
                && let (Some(piece), Some(output)) = (piece.take(), &output)
            {
                output.offer(piece);
            }
            let give_up = stopping.map_or_else(Instant::now, |(_, until)| until);
            let step = tokio::select! {
                signal = interrupts.next() => Step::Signal(signal),
                () = sleep_until(give_up), if stopping.is_some() => Step::GiveUp,
                place = place(output.as_ref()), if piece.is_some() => Step::Place(place),
                // Nothing is read while a piece waits: so a slow reader slows the stream down.
                next = stream.next(), if piece.is_none() => Step::Next(next),
            };
            let reason = match step {
                Step::GiveUp => break None,
                Step::Signal(signal) if stopping.is_some() => return Ok(Ended::unheard(Stop::Signal(signal))),
                Step::Signal(signal) => Stop::Signal(signal),
                Step::Place(None) => Stop::ReaderGone,
                Step::Place(Some(place)) => {
                    if let Some(piece) = piece.take() {
                        place.send(piece);
                    }
                    continue;
                }
                Step::Next(Ok(Some((_, Line::Event(Event::Result(result)))))) => break Some(result.result),
                Step::Next(Ok(Some((_, Line::Event(event))))) => {
                    piece = self.take(event, output.is_some())?;
                    continue;
                }
                Step::Next(Ok(Some(_))) => continue,
                Step::Next(Err(error)) if !error.is_broken() => return Err(error.into()),
                Step::Next(_) if stopping.is_some() => break None,
                Step::Next(broken) => tokio::select! {
                    signal = interrupts.next() => return Ok(Ended::unheard(Stop::Signal(signal))),
                    resumed = self.resume(broken.err()) => {
                        stream = resumed?;
                        continue;
                    }
                },
            };
            stopping = Some((reason, Instant::now() + END_TIME));
            if !self.kill() {
                break None;
            }
        };
        let stop = match output {
            Some(output) => flush(output, stopping.map(|(stop, _)| stop), interrupts).await?,
            None => stopping.map(|(stop, _)| stop),
        };
        Ok(Ended { outcome, stop })
    }

    /// Notes what an event says; the bytes that it carries, when they are to be shown.
    fn take(&mut self, event: Event, shown: bool) -> Result<Option<Piece>, Failure> {
        let (stream, chunk) = match event {
            Event::Start { run_id } => {
                if std::mem::take(&mut self.feeds) {
                    feed(self.client.clone(), format!("/projects/{}/runs/{run_id}", self.project));
                }
                self.run = Some(run_id);
                return Ok(None);
            }
            Event::Gap { seq, stdout_bytes, stderr_bytes } => {
                self.seq = seq;
                eprintln!(
                    "sandboxctl: {stdout_bytes} bytes of stdout and {stderr_bytes} of stderr are missing here: \
                     more output than the policy keeps, faster than it was read"
                );
                return Ok(None);
            }
            Event::Stdout(chunk) => (Stream::Stdout, chunk),
            Event::Stderr(chunk) => (Stream::Stderr, chunk),
            Event::Ping {} | Event::Result(_) => return Ok(None),
        };
        self.seq = chunk.seq;
        if !shown {
            return Ok(None);
        }
        Ok(Some((stream, ndjson::bytes(chunk).map_err(ClientError::from)?)))
    }

    /// Asks the daemon to end the run; false when it has not told us which run it is: then it ends
    /// the run when we go away.
    fn kill(&self) -> bool {
        let Some(run) = &self.run else { return false };
        let path = format!("/projects/{}/runs/{run}", self.project);
        let client = self.client.clone();
        tokio::spawn(async move {
            match client.delete(&path).await {
                Ok(()) => {}
                // It ended in the meantime.
                Err(error) if matches!(error.code(), Some(Code::RunEnded | Code::RunNotFound | Code::NotFound)) => {}
                Err(error) => eprintln!("sandboxctl: cannot kill the run: {error}"),
            }
        });
        true
    }

    /// A new connection that goes on after the last chunk.
    async fn resume(&mut self, broken: Option<ClientError>) -> Result<EventStream, Failure> {
        let broken = broken.unwrap_or_else(|| ClientError::Broken {
            endpoint: self.client.endpoint().to_string(),
            reason: "it ended before the run did".to_owned(),
        });
        let Some(run) = self.run.clone() else { return Err(broken.into()) };
        let path = format!("/projects/{}/runs/{run}/events?after={}", self.project, self.seq);
        for _ in 0..RESUME_TRIES {
            sleep(RESUME_PAUSE).await;
            // Finds the daemon again, or starts the next one.
            let Ok(client) = connect::client(self.globals).await else { continue };
            match client.get_stream(&path).await {
                Ok(stream) => {
                    self.client = client;
                    return Ok(stream);
                }
                Err(error) if error.is_broken() || error.code().is_some_and(Code::retryable) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(broken.into())
    }
}

/// What happened next.
enum Step<'a> {
    Signal(Interrupt),
    /// The end of a killed run did not come.
    GiveUp,
    Place(Option<Permit<'a, Piece>>),
    Next(Result<Option<(Vec<u8>, Line)>, ClientError>),
}

/// Waits until the output is written; a reader that went away or a signal is a reason to stop.
async fn flush(output: Output, stop: Option<Stop>, interrupts: &mut Interrupts) -> Result<Option<Stop>, Failure> {
    let written = tokio::select! {
        written = output.finish() => written,
        signal = interrupts.next() => return Ok(stop.or(Some(Stop::Signal(signal)))),
        () = sleep(FLUSH_TIME), if stop.is_some() => return Ok(stop),
    };
    match written {
        Ok(()) => Ok(stop),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(stop.or(Some(Stop::ReaderGone))),
        Err(error) => Err(Failure::new(Code::DiskFull, format!("cannot write the output: {error}"))),
    }
}

/// A place in the output's queue; None when nothing can be written any more.
async fn place(output: Option<&Output>) -> Option<Permit<'_, Piece>> {
    match output {
        Some(output) => output.place().await,
        None => None,
    }
}
