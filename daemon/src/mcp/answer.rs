//! What a tool answers: text for the model, and the same as data for its client.

use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock, CreateTaskResult, Task};
use sandbox_wire::{Problem, RunResult, RunState};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;

/// Of each end of a stream, in a result. Text and data both have it, and JSON may write a byte as six: all of it has to
/// stay below the mebibyte that some clients take in one event.
pub(crate) const HALF_BYTES: usize = 20 << 10;

/// A tool's answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    text: String,
    /// Each a text of its own behind the first.
    notes: Vec<String>,
    data: Value,
    is_error: bool,
    /// What was asked for goes on as this, for a client that takes tasks.
    task: Option<Box<Task>>,
}

impl Answer {
    pub(crate) fn new(text: impl Into<String>, data: &impl Serialize) -> Self {
        let mut data = serde_json::to_value(data).expect("texts, numbers and maps of texts are JSON");
        without_null(&mut data);
        Self { text: text.into(), notes: Vec::new(), data, is_error: false, task: None }
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// The data as one field of it.
    pub(crate) fn within(mut self, name: &str) -> Self {
        self.data = serde_json::json!({ name: self.data });
        self
    }

    /// What was asked for has not been done, and the answer says why.
    pub(crate) fn failing(mut self) -> Self {
        self.is_error = true;
        self
    }

    /// What was asked for goes on.
    pub(crate) fn with_task(mut self, task: Task) -> Self {
        self.task = Some(Box::new(task));
        self
    }

    /// `tasks`: whether the client takes them.
    pub(crate) fn into_response(mut self, tasks: bool) -> CallToolResponse {
        match self.task.take().filter(|_| tasks) {
            Some(task) => CreateTaskResult::new(*task).into(),
            None => self.into_result().into(),
        }
    }

    pub(crate) fn into_result(self) -> CallToolResult {
        let texts = std::iter::once(self.text).chain(self.notes);
        let mut result = CallToolResult::success(texts.map(ContentBlock::text).collect());
        result.structured_content = Some(self.data);
        result.is_error = Some(self.is_error);
        result
    }
}

/// A figure that this host cannot give is left out, as everywhere: `null` beside a type is what some clients refuse.
fn without_null(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

/// A call that failed: what happened, and what to do about it.
pub(crate) fn failed(problem: &Problem) -> CallToolResult {
    let mut text = format!("Error: {}", problem.error);
    if let Some(field) = problem.details.get("field").and_then(Value::as_str) {
        let _ = write!(text, " (in {field})");
    }
    for action in &problem.next_actions {
        let _ = write!(text, "\nNext: {action}");
    }
    if problem.retryable {
        text.push_str("\nThe same call may succeed later.");
    }
    CallToolResult::error(vec![ContentBlock::text(text)])
}

/// How a run ended, in the layout that agents know; what else there is to say stands in notes.
pub(crate) fn of_run(result: &RunResult) -> Answer {
    let mut text = match result.exit_code {
        Some(code) => format!("Exit code: {code}"),
        None => "Exit code: unknown".to_owned(),
    };
    let mut notes: Vec<String> = why_ended(result).into_iter().collect();
    let truncated = [result.truncated.stdout, result.truncated.stderr];
    for (name, kept, omitted) in [("STDOUT", &result.stdout, truncated[0]), ("STDERR", &result.stderr, truncated[1])] {
        if kept.is_empty() {
            continue;
        }
        let _ = write!(text, "\n\n{name}:\n{kept}");
        if let Some(hole) = omitted {
            let bytes = hole.omitted_to - hole.omitted_from;
            notes.push(format!(
                "{name} is shortened: {bytes} bytes are left out after the first {}. They are read by run_output \
                 {{\"run_id\": \"{}\", \"stream\": \"{}\", \"after\": {}}}.",
                hole.omitted_from,
                result.run_id,
                name.to_ascii_lowercase(),
                hole.omitted_from
            ));
        }
    }
    notes.into_iter().fold(Answer::new(text, result), Answer::note)
}

/// For what the exit code does not say.
fn why_ended(result: &RunResult) -> Option<String> {
    Some(match result.status {
        RunState::Exited | RunState::Running => return None,
        RunState::TimedOut => {
            "It timed out; nothing of it runs any more. A larger timeout_ms gives it longer.".to_owned()
        }
        RunState::OomKilled => "It was killed: out of memory.".to_owned(),
        RunState::Cancelled => "It was cancelled.".to_owned(),
        RunState::Lost => "It is lost: its supervisor died with it. What it wrote until then is kept.".to_owned(),
        RunState::Signaled => match (&result.killed_by, &result.signal) {
            (Some(limit), _) => format!("It was killed: over the limit `{limit}`."),
            (None, Some(signal)) => format!("It was killed by {signal}."),
            (None, None) => "It was killed by a signal.".to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox_wire::{Code, Omitted, RunId, Truncated};
    use serde_json::json;

    fn result() -> RunResult {
        let run = RunId::generate();
        serde_json::from_value(json!({
            "exit_code": 3, "stdout": "", "stderr": "", "run_id": run, "status": "exited", "signal": null,
            "timed_out": false, "oom_killed": false, "duration_ms": 1.5, "stdout_bytes": 0, "stderr_bytes": 0,
            "usage": {"cpu_ms": 1.0, "memory_peak_bytes": null, "read_bytes": null, "write_bytes": null, "pids_peak": 1},
            "lingering": 0,
            "enforced": {"policy": "default", "namespaces": ["user"], "landlock_abi": null, "seccomp": "default",
                "cgroup": "none", "network": "none", "ids": "single", "disk": "measured"}
        }))
        .expect("a result")
    }

    fn text(answer: &Answer) -> &str {
        &answer.text
    }

    #[test]
    fn sections_are_there_only_when_something_was_written() {
        assert_eq!(text(&of_run(&result())), "Exit code: 3");
        let both = RunResult { stdout: "out\n".to_owned(), stderr: "err".to_owned(), ..result() };
        assert_eq!(text(&of_run(&both)), "Exit code: 3\n\nSTDOUT:\nout\n\n\nSTDERR:\nerr");
        let one = RunResult { stderr: "err".to_owned(), exit_code: Some(0), ..result() };
        assert_eq!(text(&of_run(&one)), "Exit code: 0\n\nSTDERR:\nerr");
    }

    #[test]
    fn what_the_exit_code_does_not_say_stands_beside_it() {
        let timed_out = RunResult { status: RunState::TimedOut, exit_code: Some(124), ..result() };
        let answer = of_run(&timed_out);
        assert_eq!(text(&answer), "Exit code: 124");
        assert!(answer.notes[0].contains("timed out"), "{answer:?}");
        let full = RunResult {
            status: RunState::Signaled,
            exit_code: Some(137),
            killed_by: Some("disk".to_owned()),
            ..result()
        };
        assert_eq!(of_run(&full).notes, ["It was killed: over the limit `disk`."]);
        let lost = RunResult { status: RunState::Lost, exit_code: None, ..result() };
        assert_eq!(text(&of_run(&lost)), "Exit code: unknown");
    }

    #[test]
    fn a_hole_in_the_output_is_named_with_the_call_that_reads_it() {
        let hole = Omitted { omitted_from: 4, omitted_to: 100 };
        let long = RunResult {
            stdout: "headtail".to_owned(),
            truncated: Truncated { stdout: Some(hole), stderr: None },
            ..result()
        };
        let answer = of_run(&long);
        assert_eq!(text(&answer), "Exit code: 3\n\nSTDOUT:\nheadtail");
        assert!(answer.notes[0].contains("96 bytes are left out after the first 4. They are read by run_output"));
        assert_eq!(answer.data["truncated"]["stdout"]["omitted_to"], 100);
    }

    #[test]
    fn data_has_no_null() {
        let answer = of_run(&result());
        assert!(!answer.data.to_string().contains("null"), "{answer:?}");
        assert!(answer.data["enforced"].get("landlock_abi").is_none());
    }

    #[test]
    fn a_failure_says_what_to_do() {
        let problem = Problem::new(Code::InvalidRequest, "no").with("field", "cwd").next("do that");
        let result = failed(&problem);
        let text = &result.content[0].as_text().expect("a text").text;
        assert_eq!((result.is_error, text.as_str()), (Some(true), "Error: no (in cwd)\nNext: do that"));
    }
}
