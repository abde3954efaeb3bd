//! `sandboxctl logs`: what a run wrote, bytes as they were, each stream to its own.

use super::runs;
use crate::args::LogsArgs;
use crate::client::{Client, ClientError, EventStream};
use crate::failure::Failure;
use crate::ndjson::{self, Line};
use crate::output::Output;
use crate::render;
use sandbox_wire::{Code, Event, RunState, RunSummary, Stream};
use std::io;
use std::time::Duration;

/// Without `--follow`, a running run's output ends where nothing more comes for this long.
const QUIET: Duration = Duration::from_millis(300);

pub(crate) async fn logs(client: &Client, args: &LogsArgs, json: bool) -> Result<u8, Failure> {
    let found = runs::find(client, &args.run).await?;
    let summary: RunSummary = client.get(&found.path()).await?;
    let until_quiet = !args.follow && summary.status == RunState::Running;
    let mut seq = 0;
    let output =
        Output::open().map_err(|error| Failure::new(Code::Internal, format!("cannot use standard output: {error}")))?;
    loop {
        let stream = client.get_stream(&format!("{}/events?after={seq}", found.path())).await;
        let read = match stream {
            Ok(stream) => read(stream, &output, &mut seq, until_quiet, json).await,
            Err(error) => Err(error),
        };
        match read {
            Ok(End::Complete) => break,
            // The reader went away: finish() says why.
            Ok(End::NoReader) => break,
            // The daemon went away and may come back; what was read is not read again.
            Ok(End::Broken(_)) if args.follow => tokio::time::sleep(Duration::from_millis(500)).await,
            Ok(End::Broken(Some(error))) => return Err(error.into()),
            Ok(End::Broken(None)) => break,
            Err(error) => return Err(error.into()),
        }
    }
    match output.finish().await {
        Ok(()) => Ok(0),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(render::EXIT_BROKEN_PIPE),
        Err(error) => Err(Failure::new(Code::DiskFull, format!("cannot write the output: {error}"))),
    }
}

enum End {
    Complete,
    /// The connection ended before the run's result.
    Broken(Option<ClientError>),
    NoReader,
}

/// Shows one connection's events.
async fn read(
    mut stream: EventStream,
    output: &Output,
    seq: &mut u64,
    until_quiet: bool,
    json: bool,
) -> Result<End, ClientError> {
    loop {
        let next = match until_quiet {
            true => match tokio::time::timeout(QUIET, stream.next()).await {
                Ok(next) => next,
                Err(_) => return Ok(End::Complete),
            },
            false => stream.next().await,
        };
        let (mut raw, event) = match next {
            Ok(Some((raw, Line::Event(event)))) => (raw, event),
            Ok(Some(_)) => continue,
            Ok(None) => return Ok(End::Broken(None)),
            Err(error) if error.is_broken() => return Ok(End::Broken(Some(error))),
            Err(error) => return Err(error),
        };
        let last = matches!(event, Event::Result(_));
        let (stream, chunk) = match event {
            Event::Ping {} => continue,
            Event::Stdout(chunk) => (Stream::Stdout, Some(chunk)),
            Event::Stderr(chunk) => (Stream::Stderr, Some(chunk)),
            Event::Gap { seq: at, .. } => {
                *seq = at;
                (Stream::Stdout, None)
            }
            Event::Start { .. } | Event::Result(_) => (Stream::Stdout, None),
        };
        if let Some(chunk) = &chunk {
            *seq = chunk.seq;
        }
        let piece = match (json, chunk) {
            (true, _) => {
                raw.push(b'\n');
                Some((Stream::Stdout, raw))
            }
            (false, Some(chunk)) => Some((stream, ndjson::bytes(chunk)?)),
            (false, None) => None,
        };
        if let Some(piece) = piece {
            match output.place().await {
                Some(place) => place.send(piece),
                None => return Ok(End::NoReader),
            }
        }
        if last {
            return Ok(End::Complete);
        }
    }
}
