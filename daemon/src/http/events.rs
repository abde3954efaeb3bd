//! A run as a stream of events, from its journal.
//!
//! Input: a run and the place to go on from; output: a body that reads the journal only as fast as the
//! caller takes it. A caller that stalls costs one buffer; the command, other callers and this daemon's
//! memory do not notice.

use super::Shared;
use super::accept::{Framing, framing};
use super::at::AtRun;
use super::frames::Frames;
use super::json::Params;
use super::openapi::Problems;
use super::problem::Failure;
use super::runs::accepted;
use crate::kill_on_drop::KillOnDrop;
use crate::output;
use crate::projects::Entry;
use crate::service::{Error, Service};
use crate::tail::{Ended, News, Tail};
use crate::tokens::Caller;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use futures::{Stream, StreamExt};
use sandbox_keeper::journal::{Item, Reader};
use sandbox_wire::event::RunOutcome;
use sandbox_wire::{Code, OnDisconnect, Problem, RunId};
use serde::Deserialize;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use utoipa::IntoParams;

const PING_EVERY: Duration = Duration::from_secs(15);
/// Small chunks are put together up to about this much.
const FRAME_BYTES: usize = 256 << 10;
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ResumeQuery {
    /// Go on after the event with this `seq`; from the start when absent. The header Last-Event-ID says the same
    after: Option<u64>,
}

/// Follow a run, from its start or from where a stream broke off
///
/// The events of `/run`, as server-sent events or, with `Accept: application/x-ndjson`, as lines. Leaving
/// does not end the run.
#[utoipa::path(get, path = "/projects/{id}/runs/{run}/events", tag = "runs", operation_id = "run_events",
    params(("id" = String, Path, description = "UUID or url_id"), ("run" = String, Path, description = "run_…"), ResumeQuery),
    responses((status = 200, description = "Events up to the result",
        content((String = "text/event-stream"), (String = "application/x-ndjson"))), Problems))]
pub(crate) async fn resume(
    State(service): State<Shared>,
    caller: Caller,
    at: AtRun,
    Params(query): Params<ResumeQuery>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let entry = service.project_to_run(&caller, &at.project)?;
    let framing = framing(accepted(&headers)?)?;
    let after = match headers.get(LAST_EVENT_ID) {
        // A browser's reconnect knows better than the address that it was first given.
        Some(id) => Some(event_id(id)?),
        None => query.after,
    };
    service.run_row(&entry, &at.run).await?;
    let mut tail = Tail::open(&service, &entry, &at.run)?;
    if let Some(seq) = after {
        tail.read(|reader| reader.seek_after_seq(seq)).map_err(unreadable)?;
    }
    Ok(answer(framing, Events::new(tail, &service, &entry, at.run, framing, None).frames()))
}

/// The events of a run that has just been started for this caller.
pub(crate) fn live(
    service: &Arc<Service>,
    entry: &Arc<Entry>,
    run: RunId,
    framing: Framing,
    on_disconnect: OnDisconnect,
) -> Result<Events, Failure> {
    let kill = (on_disconnect == OnDisconnect::Kill).then(|| KillOnDrop::new(service, entry, &run));
    let tail = Tail::open(service, entry, &run)?;
    Ok(Events::new(tail, service, entry, run, framing, kill))
}

fn unreadable(source: io::Error) -> Failure {
    Error::Disk { what: "cannot read a journal", source }.into()
}

fn event_id(id: &HeaderValue) -> Result<u64, Problem> {
    let seq = id.to_str().ok().and_then(|id| id.trim().parse().ok());
    seq.ok_or_else(|| Problem::new(Code::InvalidRequest, "Last-Event-ID must be the number of an event"))
}

/// An answer that is read as it comes to be.
pub(crate) fn answer(framing: Framing, frames: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let media_type = HeaderValue::from_static(framing.media_type());
    let mut response = Response::new(Body::from_stream(frames.map(Ok::<_, Infallible>)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, media_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies of the nginx kind would hold events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Why [`fill`] stopped.
enum Filled {
    /// The frame is large enough.
    More,
    Pending,
    Exit {
        seq: u64,
        outcome: Box<RunOutcome>,
    },
}

/// Writes what the journal has into the frame, up to about [`FRAME_BYTES`].
fn fill(reader: &mut Reader, frames: &mut Frames, last_seq: &mut u64) -> io::Result<Filled> {
    while frames.len() < FRAME_BYTES {
        match reader.next()? {
            Item::Start(start) => frames.start(&start.run),
            Item::Chunk { seq, stream, offset, data } => {
                *last_seq = seq;
                frames.chunk(seq, stream, offset, &data);
            }
            Item::Gap { seq, stdout_bytes, stderr_bytes } => {
                *last_seq = seq;
                frames.gap(seq, stdout_bytes, stderr_bytes);
            }
            Item::Exit { seq, outcome } => return Ok(Filled::Exit { seq, outcome }),
            Item::Pending => return Ok(Filled::Pending),
        }
    }
    Ok(Filled::More)
}

pub(crate) struct Events {
    tail: Tail,
    service: Arc<Service>,
    entry: Arc<Entry>,
    run: RunId,
    frames: Frames,
    next_ping: Instant,
    last_seq: u64,
    over: bool,
    /// What the last event is called.
    last: &'static str,
    outcome: Option<RunOutcome>,
    kill: Option<KillOnDrop>,
}

impl Events {
    fn new(
        tail: Tail,
        service: &Arc<Service>,
        entry: &Arc<Entry>,
        run: RunId,
        framing: Framing,
        kill: Option<KillOnDrop>,
    ) -> Self {
        Self {
            tail,
            service: Arc::clone(service),
            entry: Arc::clone(entry),
            run,
            frames: Frames::new(framing),
            next_ping: Instant::now() + PING_EVERY,
            last_seq: 0,
            over: false,
            last: "result",
            outcome: None,
            kill,
        }
    }

    /// With another name for the result, which is not the last event then.
    pub(crate) fn ending_in(mut self, last: &'static str) -> Self {
        self.last = last;
        self
    }

    /// How the run ended, once its result was told; none when the stream broke off before.
    pub(crate) fn into_outcome(self) -> Option<RunOutcome> {
        self.outcome
    }

    /// To the end.
    pub(crate) fn frames(self) -> impl Stream<Item = Bytes> + Send + 'static {
        futures::stream::unfold(self, |mut events| async move { Some((events.next_frame().await?, events)) })
    }

    /// Some events; none after the result.
    pub(crate) async fn next_frame(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        while self.frames.is_empty() {
            let (frames, last_seq) = (&mut self.frames, &mut self.last_seq);
            match self.tail.read(|reader| fill(reader, frames, last_seq)) {
                Ok(Filled::More) => {}
                Ok(Filled::Exit { seq, outcome }) => self.finish(seq, *outcome),
                Ok(Filled::Pending) if self.frames.is_empty() => self.wait().await,
                Ok(Filled::Pending) => {}
                Err(source) => self.give_up(unreadable(source)),
            }
        }
        self.next_ping = Instant::now() + PING_EVERY;
        Some(self.frames.take().into())
    }

    async fn wait(&mut self) {
        let patience = self.next_ping.saturating_duration_since(Instant::now());
        match self.tail.wait(patience).await {
            News::Grown => {}
            News::Nothing => self.frames.ping(),
            News::Ended(Ended::Outcome(outcome)) => self.finish(self.last_seq + 1, *outcome),
            News::Ended(Ended::Unknown) => match self.lost().await {
                Ok(outcome) => self.finish(self.last_seq + 1, outcome),
                Err(failure) => self.give_up(failure),
            },
        }
    }

    /// The result of a run whose journal has none.
    async fn lost(&self) -> Result<RunOutcome, Failure> {
        let row = self.service.run_row(&self.entry, &self.run).await?;
        output::lost(&row, &self.entry.run_dir(&self.run)).map_err(unreadable)
    }

    fn finish(&mut self, seq: u64, outcome: RunOutcome) {
        self.outcome = Some(outcome.clone());
        self.frames.ended(self.last, seq, outcome);
        self.over = true;
        if let Some(kill) = &mut self.kill {
            kill.disarm();
        }
    }

    fn give_up(&mut self, failure: Failure) {
        self.frames.problem(&failure.into_problem());
        self.over = true;
    }
}
