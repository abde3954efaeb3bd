//! `…/output`: the bytes of a run, from an offset on.
//!
//! What was read from the journal goes to the socket as it is; nothing is copied or looked at.

use super::Shared;
use super::at::AtRun;
use super::json::Params;
use super::openapi::Problems;
use super::problem::Failure;
use crate::tail::{News, Tail, status_after};
use crate::tokens::Caller;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use sandbox_keeper::journal::{Select, Then};
use sandbox_wire::{Code, Problem};
use serde::Deserialize;
use std::collections::VecDeque;
use std::io;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

const DEFAULT_BYTES: usize = 1 << 20;
const MAX_BYTES: usize = 16 << 20;
/// Read at a time while following.
const FOLLOW_BYTES: usize = 1 << 20;
/// Smaller pieces are put together before they are sent.
const SMALL_BYTES: usize = 16 << 10;
const MAX_WAIT_MS: u64 = 60_000;
const X_NEXT_OFFSET: HeaderName = HeaderName::from_static("x-next-offset");
const X_RUN_STATUS: HeaderName = HeaderName::from_static("x-run-status");

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OutputQuery {
    /// `all` counts offsets over both streams in the order in which they were read
    #[serde(default)]
    #[param(inline, value_type = Option<Which>)]
    stream: Which,
    /// Offset of the first byte wanted; 0 when absent
    #[serde(default)]
    #[param(value_type = Option<u64>)]
    after: u64,
    /// When there is nothing yet, wait so long for something; at most 60000
    #[serde(default)]
    #[param(value_type = Option<u64>, maximum = 60_000)]
    wait_ms: u64,
    /// At most this much; 1 MiB when absent, 16 MiB at most
    #[param(minimum = 1)]
    max_bytes: Option<usize>,
    /// Go on until the run ends
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    follow: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Which {
    Stdout,
    Stderr,
    #[default]
    All,
}

impl From<Which> for Select {
    fn from(which: Which) -> Self {
        match which {
            Which::Stdout => Self::Stdout,
            Which::Stderr => Self::Stderr,
            Which::All => Self::All,
        }
    }
}

/// Read output from an offset
///
/// `x-next-offset` is what to ask for next, `x-run-status` where the run is; a final status and no bytes
/// mean that this was all. With `follow` the answer goes on until the run ends, and has no `x-next-offset`.
#[utoipa::path(get, path = "/projects/{id}/runs/{run}/output", tag = "runs", operation_id = "run_output",
    params(("id" = String, Path, description = "UUID or url_id"), ("run" = String, Path, description = "run_…"), OutputQuery),
    responses((status = 200, description = "Bytes, as the command wrote them", body = Vec<u8>,
        content_type = "application/octet-stream",
        headers(("x-next-offset" = u64), ("x-run-status" = String))), Problems))]
pub(crate) async fn read(
    State(service): State<Shared>,
    caller: Caller,
    at: AtRun,
    Params(query): Params<OutputQuery>,
) -> Result<Response, Failure> {
    let entry = service.project_to_run(&caller, &at.project)?;
    let max = match query.max_bytes {
        None => DEFAULT_BYTES,
        Some(0) => return Err(Problem::new(Code::InvalidRequest, "max_bytes must be at least 1").into()),
        Some(bytes) => bytes.min(MAX_BYTES),
    };
    let before = service.run_row(&entry, &at.run).await?.status;
    let mut tail = Tail::open(&service, &entry, &at.run)?;
    let (select, after) = (query.stream.into(), query.after);
    let wait = Duration::from_millis(if query.follow { 0 } else { query.wait_ms.min(MAX_WAIT_MS) });
    let first = tail.first(select, after, max, wait).await?;
    let status = HeaderValue::from_static(status_after(before, first.then, &entry, &at.run).name());
    let next = first.next;
    let mut response = if query.follow {
        let follow = Follow { tail, select, next, queue: first.data.into(), then: first.then, over: false };
        Response::new(Body::from_stream(futures::stream::unfold(follow, |mut follow| async move {
            let piece = follow.next_piece().await?;
            Some((piece, follow))
        })))
    } else {
        Response::new(body_of(first.data))
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_RUN_STATUS, status);
    if !query.follow {
        headers.insert(X_NEXT_OFFSET, HeaderValue::from(next));
    }
    Ok(response)
}

fn body_of(pieces: Vec<Bytes>) -> Body {
    match pieces.len() {
        0 => Body::empty(),
        1 => Body::from(pieces.into_iter().next().unwrap_or_default()),
        _ => Body::from(pieces.concat()),
    }
}

/// A body that goes on until the run ends.
struct Follow {
    tail: Tail,
    select: Select,
    next: u64,
    queue: VecDeque<Bytes>,
    /// What follows the queue.
    then: Then,
    over: bool,
}

impl Follow {
    /// The next bytes. An error breaks the connection off: the caller resumes and is told why.
    async fn next_piece(&mut self) -> Option<io::Result<Bytes>> {
        while !self.over {
            if let Some(piece) = take_piece(&mut self.queue) {
                return Some(Ok(piece));
            }
            match self.then {
                Then::More => {}
                Then::Pending => {
                    if let News::Ended(_) = self.tail.wait(Duration::from_secs(3600)).await {
                        break;
                    }
                }
                Then::End => break,
                Then::Expired { oldest_kept } => {
                    self.over = true;
                    let text = format!("output is not kept any more up to {oldest_kept}");
                    return Some(Err(io::Error::other(text)));
                }
            }
            let (select, next) = (self.select, self.next);
            match self.tail.read(|reader| reader.read_stream(select, next, FOLLOW_BYTES)) {
                Ok(output) => {
                    self.next = output.next;
                    self.then = output.then;
                    self.queue.extend(output.data);
                }
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
        self.over = true;
        None
    }
}

/// One large piece as it is, or several small ones put together.
fn take_piece(queue: &mut VecDeque<Bytes>) -> Option<Bytes> {
    let first = queue.pop_front()?;
    let small = |piece: Option<&Bytes>| piece.is_some_and(|piece| piece.len() < SMALL_BYTES);
    if !small(Some(&first)) || !small(queue.front()) {
        return Some(first);
    }
    let mut joined = first.to_vec();
    while joined.len() < 4 * SMALL_BYTES && small(queue.front()) {
        joined.extend_from_slice(&queue.pop_front()?);
    }
    Some(joined.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_joined_and_large_ones_left_alone() {
        let large = Bytes::from(vec![1; SMALL_BYTES]);
        let mut queue: VecDeque<_> =
            [Bytes::from_static(b"a"), Bytes::from_static(b"b"), large.clone(), Bytes::from_static(b"c")].into();
        assert_eq!(take_piece(&mut queue), Some(Bytes::from_static(b"ab")));
        assert_eq!(take_piece(&mut queue), Some(large));
        assert_eq!(take_piece(&mut queue), Some(Bytes::from_static(b"c")));
        assert_eq!(take_piece(&mut queue), None);
    }
}
