//! `run_command` and what goes on with a run that it started.

use super::answer::{self, Answer, HALF_BYTES};
use super::live;
use super::tasks;
use super::tool::{Call, Effect, Tool};
use crate::kill_on_drop::KillOnDrop;
use crate::projects::Entry;
use crate::runs::Prepared;
use crate::service::{Error, ListRuns};
use crate::tail::{Tail, status_after};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sandbox_keeper::journal::Select;
use sandbox_wire::{Code, Command, OnDisconnect, Problem, RunId, RunRequest, RunResult, RunState};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// Many clients give up after a minute; until then there has to be an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(50);
/// For an answer to a command that waits for input sooner or later.
const INTERACTIVE_PATIENCE: Duration = Duration::from_secs(1);
const MAX_OUTPUT_BYTES: usize = 4 * HALF_BYTES;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct RunCommandInput {
    /// The project in whose folder and sandbox the command runs: its id or url_id.
    #[serde(default)]
    project_id: String,
    /// A line for /bin/sh, such as `npm test 2>&1 | tail -n 50`.
    command: String,
    /// Where it starts: a folder of the project, relative to /home/user/project or absolute. The project's own folder
    /// when absent.
    cwd: Option<String>,
    /// Milliseconds after which it is killed with everything it started: 1 to 300000, 120000 when absent.
    #[schemars(range(min = 1, max = 300_000))]
    timeout_ms: Option<i64>,
    /// Keep standard input open, so that run_input can write to it: for a command that asks questions, or a prompt such
    /// as `python3 -i`. Without it, input is empty. It answers after wait_ms at the latest.
    #[serde(default)]
    interactive: bool,
    /// Milliseconds after which it answers although the command goes on: 0 to 50000. When absent 50000, or 1000 when
    /// interactive.
    #[schemars(range(min = 0, max = 50_000))]
    wait_ms: Option<u64>,
}

pub(crate) struct RunCommand;

impl Tool for RunCommand {
    const NAME: &'static str = "run_command";
    const TITLE: &'static str = "Run a command";
    const DESCRIPTION: &'static str = "Runs a shell line in the project's sandbox and waits for its end: installing \
        packages, building, testing, git, scripts. Answers `Exit code: N`, then STDOUT: and STDERR: where something was \
        written; a command that fails is an answer, not an error. Files outside of the project cannot be changed, and the \
        project's policy says what network there is. Long output is shortened in the middle. Processes that it leaves in \
        the background are killed when it ends. A command that takes longer than 50 seconds answers `status: running` \
        with a run_id, unless the client listens to progress: go on with run_output and run_input, or end it with \
        run_kill. \
        Example: {\"project_id\": \"demo\", \"command\": \"npm ci && npm test\", \"timeout_ms\": 300000}";
    const EFFECT: Effect = Effect::Anything;
    type Input = RunCommandInput;

    fn output() -> Value {
        result_schema()
    }

    async fn call(call: Call, input: RunCommandInput) -> Result<Answer, Error> {
        let entry = call.project_to_run(&input.project_id)?;
        let RunCommandInput { command, cwd, timeout_ms, interactive, wait_ms, .. } = input;
        let request = RunRequest { interactive, ..request(Command::Shell(command), cwd, timeout_ms) };
        let prepared = call.service.prepare(&call.caller, &entry, request)?;
        let usual = if tasks::declared(&call.context) { tasks::PATIENCE } else { PATIENCE };
        let patience = match (wait_ms, interactive) {
            (Some(wait), _) => Patience::Exactly(Duration::from_millis(wait).min(PATIENCE)),
            (None, true) => Patience::Exactly(INTERACTIVE_PATIENCE),
            (None, false) => Patience::UnlessItListens(usual),
        };
        run(&call, &entry, prepared, patience).await
    }
}

pub(crate) fn request(command: Command, cwd: Option<String>, timeout_ms: Option<i64>) -> RunRequest {
    RunRequest { cwd, timeout_ms, on_disconnect: Some(OnDisconnect::Kill), ..RunRequest::new(command) }
}

/// Runs to the end, or for as long as the client waits. Whoever gives the call up ends the run.
async fn run(call: &Call, entry: &Arc<Entry>, prepared: Prepared, patience: Patience) -> Result<Answer, Error> {
    let row = prepared.row.clone();
    Ok(match call.unless_cancelled(finish(call, entry, prepared, patience)).await? {
        Some(result) => answer::of_run(&result),
        // Who wants an answer early wants this one.
        None if matches!(patience, Patience::Exactly(_)) => still_running(&row.id, RunState::Running),
        None => still_running(&row.id, RunState::Running).with_task(tasks::of_run(&row)),
    })
}

/// How long an answer is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    Exactly(Duration),
    /// A client that listens to progress waits for the end; any other would give up some time.
    UnlessItListens(Duration),
}

/// The result; none when the run goes on in the background.
pub(crate) async fn finish(
    call: &Call,
    entry: &Arc<Entry>,
    prepared: Prepared,
    patience: Patience,
) -> Result<Option<RunResult>, Error> {
    let service = &call.service;
    let (patience, listens) = match patience {
        Patience::Exactly(patience) => (patience, None),
        Patience::UnlessItListens(patience) => (patience, call.context.meta.get_progress_token()),
    };
    if let Some(token) = listens {
        let run = service.start_run(entry, prepared).await?.id;
        let mut given_up = KillOnDrop::new(service, entry, &run);
        live::follow(call, entry, &run, token).await?;
        let result = service.result_of_ended(entry, &run, HALF_BYTES).await?;
        given_up.disarm();
        return Ok(Some(result));
    }
    let mut task = {
        let (service, entry) = (Arc::clone(service), Arc::clone(entry));
        AbortOnDropHandle::new(tokio::spawn(async move { service.run_briefly(&entry, prepared, HALF_BYTES).await }))
    };
    match tokio::time::timeout(patience, &mut task).await {
        Ok(done) => done.map_err(Error::internal)?.map(Some),
        Err(_) => {
            drop(task.detach());
            Ok(None)
        }
    }
}

fn still_running(run: &RunId, status: RunState) -> Answer {
    let text = format!(
        "status: {}\nrun_id: {run}\n\nIt goes on in the background. run_output {{\"run_id\": \"{run}\", \"after\": 0, \
         \"wait_ms\": 45000}} reads what it writes; run_kill {{\"run_id\": \"{run}\"}} ends it; run_input writes to it, if \
         it was started as interactive.",
        status.name()
    );
    Answer::new(text, &json!({ "run_id": run, "status": status }))
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct RunOutputInput {
    /// The run, as run_command or run_list named it.
    run_id: String,
    /// The first byte wanted; `next` of the answer before. 0 when absent.
    #[serde(default)]
    #[schemars(range(min = 0))]
    after: u64,
    /// Wait so long for something when there is nothing yet; at most 50000, 0 when absent.
    #[serde(default)]
    #[schemars(range(min = 0, max = 50_000))]
    wait_ms: u64,
    /// Which output; `all` is both in the order in which they were written.
    #[serde(default)]
    stream: Stream,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Stream {
    #[default]
    All,
    Stdout,
    Stderr,
}

impl From<Stream> for Select {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::All => Self::All,
            Stream::Stdout => Self::Stdout,
            Stream::Stderr => Self::Stderr,
        }
    }
}

pub(crate) struct RunOutput;

impl Tool for RunOutput {
    const NAME: &'static str = "run_output";
    const TITLE: &'static str = "Read the output of a run";
    const DESCRIPTION: &'static str = "Reads what a run has written from an offset on, and waits for more when asked to: \
        for a command that run_command left running, and for the part of a long output that its answer left out. Answers \
        with at most 80 KiB as text, `next` (the `after` of the next call) and `status`; when the status is not `running` \
        and nothing is left to read, that was all. \
        Example: {\"run_id\": \"run_01J…\", \"after\": 0, \"wait_ms\": 45000}";
    const EFFECT: Effect = Effect::Reads;
    type Input = RunOutputInput;

    fn output() -> Value {
        json!({
            "type": "object",
            "properties": {
                "run_id": {"type": "string"},
                "status": status_schema(),
                "output": {"type": "string", "description": "bytes that are not UTF-8 are written as U+FFFD"},
                "after": {"type": "integer"},
                "next": {"type": "integer", "description": "`after` of the next call"},
                "exit_code": {"type": "integer", "description": "once the run has ended"}
            },
            "required": ["run_id", "status", "output", "after", "next"]
        })
    }

    async fn call(call: Call, input: RunOutputInput) -> Result<Answer, Error> {
        let (entry, run) = run_of(&call, &input.run_id).await?;
        let before = call.service.run_row(&entry, &run).await?;
        let mut tail = Tail::open(&call.service, &entry, &run)?;
        let wait = Duration::from_millis(input.wait_ms).min(PATIENCE);
        let first = tail.first(input.stream.into(), input.after, MAX_OUTPUT_BYTES, wait);
        let read = call.unless_cancelled(first).await?;
        let status = status_after(before.status, read.then, &entry, &run);
        let exit_code = call.service.run_row(&entry, &run).await?.exit_code.filter(|_| status.is_final());
        let output = String::from_utf8_lossy(&read.data.concat()).into_owned();
        let ended = exit_code.map_or(String::new(), |code| format!(", exit code {code}"));
        let text = format!("status: {}{ended}, next: {}\n\n{output}", status.name(), read.next);
        let data = json!({
            "run_id": run, "status": status, "output": output, "after": input.after, "next": read.next,
            "exit_code": exit_code
        });
        Ok(Answer::new(text, &data))
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct RunInputInput {
    /// The run, as run_command or run_list named it.
    run_id: String,
    /// What is written; a line ends with \n. Nothing when absent.
    #[serde(default)]
    text: String,
    /// `base64` for bytes that are no text.
    #[serde(default)]
    encoding: TextEncoding,
    /// Close the input after it: the command sees the end of its input.
    #[serde(default)]
    eof: bool,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[schemars(inline)]
enum TextEncoding {
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "base64")]
    Base64,
}

pub(crate) struct RunInput;

impl Tool for RunInput {
    const NAME: &'static str = "run_input";
    const TITLE: &'static str = "Write to a run";
    const DESCRIPTION: &'static str = "Writes to the standard input of a run that run_command started with \
        \"interactive\": true, or that was started in the background: answers to its questions, lines for a prompt. \
        Answers with `taken`, the bytes that the command's pipe has taken; less than were sent when it does not read for \
        ten seconds. Then read with run_output what it writes. \
        Example: {\"run_id\": \"run_01J…\", \"text\": \"yes\\n\"}";
    const EFFECT: Effect = Effect::Anything;
    type Input = RunInputInput;

    fn output() -> Value {
        json!({
            "type": "object",
            "properties": {"run_id": {"type": "string"}, "taken": {"type": "integer"}},
            "required": ["run_id", "taken"]
        })
    }

    async fn call(call: Call, input: RunInputInput) -> Result<Answer, Error> {
        let (entry, run) = run_of(&call, &input.run_id).await?;
        let bytes = match input.encoding {
            TextEncoding::Utf8 => input.text.into_bytes(),
            TextEncoding::Base64 => STANDARD.decode(&input.text).map_err(|error| {
                Problem::new(Code::InvalidRequest, format!("text is not base64: {error}")).with("field", "text")
            })?,
        };
        let sent = call.service.input(&entry, &run, &bytes, input.eof);
        let taken = call.unless_cancelled(sent).await?;
        let text = match usize::try_from(taken) {
            Ok(all) if all == bytes.len() => format!("{taken} bytes were taken."),
            _ => format!("Only {taken} of {} bytes were taken: the command does not read.", bytes.len()),
        };
        Ok(Answer::new(text, &json!({"run_id": run, "taken": taken})))
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct RunKillInput {
    /// The run, as run_command or run_list named it.
    run_id: String,
}

pub(crate) struct RunKill;

impl Tool for RunKill {
    const NAME: &'static str = "run_kill";
    const TITLE: &'static str = "Kill a run";
    const DESCRIPTION: &'static str = "Kills a run with everything that it started, whatever that does against it, and \
        answers with its status: `cancelled`, or how it had ended before. Killing a run that has ended changes nothing. \
        Example: {\"run_id\": \"run_01J…\"}";
    const EFFECT: Effect = Effect::Replaces;
    type Input = RunKillInput;

    fn output() -> Value {
        summary_schema()
    }

    async fn call(call: Call, input: RunKillInput) -> Result<Answer, Error> {
        let (entry, run) = run_of(&call, &input.run_id).await?;
        let summary = call.service.kill_run(&entry, &run).await?;
        Ok(Answer::new(format!("status: {}", summary.status.name()), &summary))
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct RunListInput {
    /// The project whose runs are listed: its id or url_id.
    #[serde(default)]
    project_id: String,
    /// At most this many, 20 when absent.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<u32>,
    /// Only those before this run: `next_cursor` of the answer before.
    cursor: Option<String>,
}

pub(crate) struct RunList;

impl Tool for RunList {
    const NAME: &'static str = "run_list";
    const TITLE: &'static str = "List runs";
    const DESCRIPTION: &'static str = "Lists the project's runs, newest first, with command, status, exit code and \
        duration: to find a run_id again, or to see what still runs. `next_cursor` leads to older ones. \
        Example: {\"project_id\": \"demo\", \"limit\": 5}";
    const EFFECT: Effect = Effect::Reads;
    type Input = RunListInput;

    fn output() -> Value {
        json!({
            "type": "object",
            "properties": {
                "runs": {"type": "array", "items": summary_schema()},
                "next_cursor": {"type": "string"}
            },
            "required": ["runs"]
        })
    }

    async fn call(call: Call, input: RunListInput) -> Result<Answer, Error> {
        let entry = call.project_to_run(&input.project_id)?;
        let cursor = input.cursor.as_deref().map(|text| run_id(text, "cursor")).transpose()?;
        let query = ListRuns { status: None, cursor, limit: Some(input.limit.unwrap_or(20)) };
        let list = call.service.list_runs(&entry, query).await?;
        let line = |run: &sandbox_wire::RunSummary| {
            let command = match &run.command {
                Command::Shell(line) => line.clone(),
                Command::Argv(words) => words.join(" "),
            };
            let command: String = command.chars().take(200).collect();
            let code = run.exit_code.map_or(String::new(), |code| format!(" {code}"));
            format!("{} {}{code} {}: {command}", run.run_id, run.status.name(), run.started_at)
        };
        let lines: Vec<String> = list.runs.iter().map(line).collect();
        let text = if lines.is_empty() { "no runs".to_owned() } else { lines.join("\n") };
        Ok(Answer::new(text, &list))
    }
}

/// A run, and the project that it is of, if that exists for this caller.
pub(crate) async fn run_of(call: &Call, text: &str) -> Result<(Arc<Entry>, RunId), Error> {
    let run = run_id(text, "run_id")?;
    let entry = call.service.project_of_run(&call.caller, &run).await?;
    Ok((entry, run))
}

fn run_id(text: &str, field: &str) -> Result<RunId, Problem> {
    text.parse().map_err(|_| {
        Problem::new(Code::InvalidRequest, "that is not the id of a run, which begins with `run_`")
            .with("field", field)
            .next("run_list names the runs of a project")
    })
}

fn status_schema() -> Value {
    json!({
        "type": "string",
        "enum": ["running", "exited", "signaled", "timed_out", "oom_killed", "cancelled", "lost"]
    })
}

fn hole_schema() -> Value {
    json!({
        "type": "object",
        "properties": {"omitted_from": {"type": "integer"}, "omitted_to": {"type": "integer"}},
        "required": ["omitted_from", "omitted_to"]
    })
}

/// Of a result, and of a run that has none yet.
pub(crate) fn result_schema() -> Value {
    let texts = json!({"type": "array", "items": {"type": "string"}});
    json!({
        "type": "object",
        "properties": {
            "run_id": {"type": "string"},
            "status": status_schema(),
            "exit_code": {"type": "integer", "description": "the command's own; 128+n for signal n, 124 on timeout"},
            "stdout": {"type": "string"},
            "stderr": {"type": "string"},
            "signal": {"type": "string"},
            "timed_out": {"type": "boolean"},
            "oom_killed": {"type": "boolean"},
            "killed_by": {"type": "string", "description": "the limit that ended it"},
            "duration_ms": {"type": "number"},
            "stdout_bytes": {"type": "integer", "description": "all that was written, kept or not"},
            "stderr_bytes": {"type": "integer"},
            "truncated": {
                "type": "object",
                "properties": {"stdout": hole_schema(), "stderr": hole_schema()}
            },
            "usage": {
                "type": "object",
                "properties": {
                    "cpu_ms": {"type": "number"},
                    "memory_peak_bytes": {"type": "integer"},
                    "read_bytes": {"type": "integer"},
                    "write_bytes": {"type": "integer"},
                    "pids_peak": {"type": "integer"}
                }
            },
            "lingering": {"type": "integer"},
            "denials": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "kind": {"type": "string"}, "subject": {"type": "string"},
                        "rule": {"type": "string"}, "count": {"type": "integer"}
                    }
                }
            },
            "enforced": {
                "type": "object",
                "description": "the layers of isolation that were in force",
                "properties": {
                    "policy": {"type": "string"}, "namespaces": texts, "landlock_abi": {"type": "integer"},
                    "seccomp": {"type": "string"}, "cgroup": {"type": "string"}, "network": {"type": "string"},
                    "ids": {"type": "string"}, "disk": {"type": "string"}, "missing": texts
                }
            }
        },
        "required": ["run_id", "status"]
    })
}

fn summary_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "run_id": {"type": "string"},
            "project_id": {"type": "string"},
            "command": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
            "cwd": {"type": "string"},
            "policy": {"type": "string"},
            "status": status_schema(),
            "exit_code": {"type": "integer"},
            "started_at": {"type": "string"},
            "duration_ms": {"type": "number"},
            "timeout_ms": {"type": "integer"}
        },
        "required": ["run_id", "project_id", "status", "command"]
    })
}
