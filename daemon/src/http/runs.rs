//! `/projects/{id}/run` and `/projects/{id}/runs`.

use super::Shared;
use super::accept::{Form, form};
use super::at::{AtProject, AtRun};
use super::events;
use super::json::{Json, Params, Raw, with_status};
use super::openapi::Problems;
use super::problem::Failure;
use crate::service::{Key, ListRuns, Started};
use crate::tokens::Caller;
use axum::extract::State;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use sandbox_wire::run::{InputTaken, RunList};
use sandbox_wire::{
    Code, Encoding, OnDisconnect, Problem, RunId, RunRequest, RunResult, RunState, RunSummary, Signal, SignalRequest,
};
use serde::Deserialize;
use std::str::FromStr;
use utoipa::IntoParams;

/// Run a command to its end
///
/// A run that ends badly is a good answer: see `status`. With `Accept: text/event-stream` or
/// `application/x-ndjson` the answer is a stream of events. A caller who goes away kills the run, unless
/// `on_disconnect` is `keep`.
#[utoipa::path(post, path = "/projects/{id}/run", tag = "runs", operation_id = "run",
    params(("id" = String, Path, description = "UUID or url_id")), request_body = RunRequest,
    responses((status = 200, description = "How it ended, or its events", content(
        (RunResult = "application/json"), (String = "text/event-stream"), (String = "application/x-ndjson"))), Problems))]
pub(crate) async fn run(
    State(service): State<Shared>,
    caller: Caller,
    AtProject(name): AtProject,
    headers: HeaderMap,
    Json(request): Json<RunRequest>,
) -> Result<Response, Failure> {
    let entry = service.project_to_run(&caller, &name)?;
    if request.idempotency_key.is_some() {
        let problem = Problem::new(Code::InvalidRequest, "idempotency_key is a field of …/runs only");
        return Err(problem.with("field", "idempotency_key").into());
    }
    let form = form(accepted(&headers)?)?;
    let prepared = service.prepare(&caller, &entry, request)?;
    match form {
        Form::Json => Ok(Json(service.run(&entry, prepared).await?).into_response()),
        Form::Stream(framing) => {
            let on_disconnect = prepared.on_disconnect;
            let run = service.start_run(&entry, prepared).await?.id;
            // From here on the stream is what the caller holds on to.
            let events = events::live(&service, &entry, run, framing, on_disconnect)?;
            Ok(events::answer(framing, events.frames()))
        }
    }
}

/// Start a command in the background
#[utoipa::path(post, path = "/projects/{id}/runs", tag = "runs", operation_id = "start_run",
    params(("id" = String, Path, description = "UUID or url_id")), request_body = RunRequest,
    responses((status = 202, description = "It runs", body = RunSummary),
        (status = 200, description = "The run that the same idempotency_key started before", body = RunSummary), Problems))]
pub(crate) async fn start(
    State(service): State<Shared>,
    caller: Caller,
    AtProject(name): AtProject,
    Json(request): Json<RunRequest>,
) -> Result<Response, Failure> {
    let entry = service.project_to_run(&caller, &name)?;
    let key = Key::of(&request)?;
    let mut prepared = service.prepare(&caller, &entry, request)?.with_open_input();
    prepared.on_disconnect = OnDisconnect::Keep;
    Ok(match service.start(&entry, key, prepared).await? {
        Started::Now(summary) => with_status(StatusCode::ACCEPTED, summary),
        Started::Before(summary) => with_status(StatusCode::OK, summary),
    })
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only runs in this state
    status: Option<RunState>,
    /// `next_cursor` of the page before
    #[param(value_type = Option<String>, pattern = "^run_[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
    cursor: Option<RunId>,
    /// At most this many; 50 when absent
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

/// List runs, newest first
#[utoipa::path(get, path = "/projects/{id}/runs", tag = "runs", operation_id = "list_runs",
    params(("id" = String, Path, description = "UUID or url_id"), ListQuery),
    responses((status = 200, description = "A page", body = RunList), Problems))]
pub(crate) async fn list(
    State(service): State<Shared>,
    caller: Caller,
    AtProject(name): AtProject,
    Params(query): Params<ListQuery>,
) -> Result<Json<RunList>, Failure> {
    let entry = service.project_to_run(&caller, &name)?;
    let query = ListRuns { status: query.status, cursor: query.cursor, limit: query.limit };
    Ok(Json(service.list_runs(&entry, query).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ShowQuery {
    /// How the result's texts are written
    #[serde(default)]
    #[param(value_type = Option<Encoding>)]
    encoding: Encoding,
}

/// Show a run, with its result once it has ended
#[utoipa::path(get, path = "/projects/{id}/runs/{run}", tag = "runs", operation_id = "show_run",
    params(("id" = String, Path, description = "UUID or url_id"), ("run" = String, Path, description = "run_…"), ShowQuery),
    responses((status = 200, description = "The run", body = RunSummary), Problems))]
pub(crate) async fn show(
    State(service): State<Shared>,
    caller: Caller,
    at: AtRun,
    Params(query): Params<ShowQuery>,
) -> Result<Json<RunSummary>, Failure> {
    let entry = service.project_to_run(&caller, &at.project)?;
    Ok(Json(service.show_run(&entry, &at.run, query.encoding).await?))
}

/// Kill a run and everything it started
///
/// Nothing happens to a run that has ended, except to what it left in the background.
#[utoipa::path(delete, path = "/projects/{id}/runs/{run}", tag = "runs", operation_id = "kill_run",
    params(("id" = String, Path, description = "UUID or url_id"), ("run" = String, Path, description = "run_…")),
    responses((status = 200, description = "The run as it is now", body = RunSummary), Problems))]
pub(crate) async fn kill(
    State(service): State<Shared>,
    caller: Caller,
    at: AtRun,
) -> Result<Json<RunSummary>, Failure> {
    let entry = service.project_to_run(&caller, &at.project)?;
    Ok(Json(service.kill_run(&entry, &at.run).await?))
}

/// Send a signal to a run and everything it started
#[utoipa::path(post, path = "/projects/{id}/runs/{run}/signal", tag = "runs", operation_id = "signal_run",
    params(("id" = String, Path, description = "UUID or url_id"), ("run" = String, Path, description = "run_…")),
    request_body = SignalRequest,
    responses((status = 200, description = "The run", body = RunSummary), Problems))]
pub(crate) async fn signal(
    State(service): State<Shared>,
    caller: Caller,
    at: AtRun,
    Json(request): Json<SignalRequest>,
) -> Result<Json<RunSummary>, Failure> {
    let entry = service.project_to_run(&caller, &at.project)?;
    let number = number_of(&request.signal).ok_or_else(|| {
        Problem::new(Code::InvalidRequest, "signal must be a name such as SIGTERM or a number from 1 to 64")
            .with("field", "signal")
    })?;
    Ok(Json(service.signal_run(&entry, &at.run, number).await?))
}

/// Send bytes to a run's standard input
///
/// For a run that was started by `…/runs` without `stdin`. Waits until the command has read enough of what was sent
/// before; `taken` is less than was sent when it does not read for ten seconds.
#[utoipa::path(post, path = "/projects/{id}/runs/{run}/input", tag = "runs", operation_id = "send_input",
    params(("id" = String, Path, description = "UUID or url_id"), ("run" = String, Path, description = "run_…")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "How much of it was taken", body = InputTaken), Problems))]
pub(crate) async fn input(
    State(service): State<Shared>,
    caller: Caller,
    at: AtRun,
    Raw(bytes): Raw,
) -> Result<Json<InputTaken>, Failure> {
    let entry = service.project_to_run(&caller, &at.project)?;
    let taken = service.input(&entry, &at.run, &bytes, false).await?;
    Ok(Json(InputTaken { taken }))
}

/// Close a run's standard input
#[utoipa::path(post, path = "/projects/{id}/runs/{run}/eof", tag = "runs", operation_id = "end_input",
    params(("id" = String, Path, description = "UUID or url_id"), ("run" = String, Path, description = "run_…")),
    responses((status = 200, description = "It has ended", body = InputTaken), Problems))]
pub(crate) async fn eof(State(service): State<Shared>, caller: Caller, at: AtRun) -> Result<Json<InputTaken>, Failure> {
    let entry = service.project_to_run(&caller, &at.project)?;
    let taken = service.input(&entry, &at.run, &[], true).await?;
    Ok(Json(InputTaken { taken }))
}

fn number_of(signal: &Signal) -> Option<i32> {
    match signal {
        Signal::Number(number) => (1..=64).contains(number).then_some(*number),
        Signal::Name(name) => {
            let name = name.to_ascii_uppercase();
            let full = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
            nix::sys::signal::Signal::from_str(&full).ok().map(|signal| signal as i32)
        }
    }
}

/// The header Accept; several of them are one list.
pub(crate) fn accepted(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let text = headers.get(ACCEPT).map(|accept| accept.to_str()).transpose();
    text.map_err(|_| Problem::new(Code::InvalidRequest, "the header Accept is not ASCII"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        let name = |name: &str| number_of(&Signal::Name(name.to_owned()));
        assert_eq!([name("SIGTERM"), name("term"), name("KILL")], [Some(15), Some(15), Some(9)]);
        assert_eq!([name(""), name("SIG"), name("SIGNONE")], [None, None, None]);
        let number = |number| number_of(&Signal::Number(number));
        assert_eq!([number(9), number(64), number(0), number(65), number(-9)], [Some(9), Some(64), None, None, None]);
    }
}
