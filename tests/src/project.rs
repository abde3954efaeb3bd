//! A project of a daemon under test: runs, streams, files.

use crate::events::{EventReader, NDJSON};
use crate::http::{Client, Reply};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sandbox_wire::{RunResult, RunState};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// Where commands start.
pub const WORKSPACE: &str = "/home/user/project";

/// Removed, with all that runs in it, when it is dropped.
#[derive(Debug)]
pub struct Project {
    pub client: Client,
    pub id: String,
    pub url_id: String,
    /// The daemon's log: shown when a test fails.
    pub(crate) log: PathBuf,
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the daemon's log ends:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"));
        }
        // The daemon may be gone, on purpose.
        let _ = self
            .client
            .open("DELETE", &format!("/projects/{}", self.id), &[], &[])
            .and_then(crate::http::Incoming::finish);
    }
}

impl Project {
    /// `/projects/{id}` and what follows it.
    pub fn path(&self, rest: &str) -> String {
        format!("/projects/{}{rest}", self.id)
    }

    /// `POST …/run`, whatever comes of it.
    #[track_caller]
    pub fn call(&self, body: &Value) -> Reply {
        self.client.post(&self.path("/run"), body)
    }

    /// Runs to the end; the call has to work, the command need not.
    #[track_caller]
    pub fn run_with(&self, body: &Value) -> RunResult {
        let answer = self.call(body).ok();
        serde_json::from_value(answer.clone()).unwrap_or_else(|error| panic!("not a result ({error}): {answer}"))
    }

    /// Runs a shell line.
    #[track_caller]
    pub fn run(&self, command: &str) -> RunResult {
        self.run_with(&json!({ "command": command }))
    }

    /// Runs a shell line that has to succeed; what it printed.
    #[track_caller]
    pub fn ok(&self, command: &str) -> String {
        succeeded(self.run(command))
    }

    /// As [`Project::ok`], with further fields of the request.
    #[track_caller]
    pub fn ok_with(&self, body: &Value) -> String {
        succeeded(self.run_with(body))
    }

    /// Runs a Python program.
    #[track_caller]
    pub fn python(&self, program: &str) -> RunResult {
        self.run_with(&json!({ "command": ["python3", "-c", program] }))
    }

    /// Runs a Python program that has to succeed; what it printed.
    #[track_caller]
    pub fn python_ok(&self, program: &str) -> String {
        succeeded(self.python(program))
    }

    /// Starts in the background; the run's id.
    #[track_caller]
    pub fn start(&self, body: &Value) -> String {
        let reply = self.client.post(&self.path("/runs"), body);
        assert_eq!(reply.status, 202, "{}", reply.text());
        reply.json()["run_id"].as_str().expect("a started run has an id").to_owned()
    }

    /// The run as the daemon lists it.
    #[track_caller]
    pub fn summary(&self, run: &str) -> Value {
        self.client.get(&self.path(&format!("/runs/{run}"))).ok()
    }

    /// Waits for the end of a run.
    #[track_caller]
    pub fn wait(&self, run: &str, within: Duration) -> RunResult {
        let mut last = Value::Null;
        let ended = crate::host::eventually(within, || {
            last = self.summary(run);
            last["status"] != "running" && !last["result"].is_null()
        });
        assert!(ended, "still running: {last}");
        serde_json::from_value(last["result"].clone()).unwrap_or_else(|error| panic!("not a result ({error}): {last}"))
    }

    /// Runs and follows, as NDJSON.
    #[track_caller]
    pub fn stream(&self, body: &Value) -> EventReader {
        self.stream_as(NDJSON, body)
    }

    /// Runs and follows, in the given media type.
    #[track_caller]
    pub fn stream_as(&self, accept: &str, body: &Value) -> EventReader {
        let answer = self.client.open("POST", &self.path("/run"), &[("Accept", accept)], body.to_string().as_bytes());
        EventReader::new(answer.expect("the daemon answers"))
    }

    /// Follows a run, from after an event.
    #[track_caller]
    pub fn events(&self, run: &str, accept: &str, after: u64) -> EventReader {
        let path = self.path(&format!("/runs/{run}/events?after={after}"));
        EventReader::new(self.client.open("GET", &path, &[("Accept", accept)], &[]).expect("the daemon answers"))
    }

    /// All runs that the daemon knows.
    #[track_caller]
    pub fn runs(&self) -> Vec<Value> {
        let list = self.client.get(&self.path("/runs?limit=200")).ok();
        list["runs"].as_array().expect("a list of runs").clone()
    }

    /// Writes a file of the workspace, as the sandbox's user.
    #[track_caller]
    pub fn write(&self, path: &str, content: &str) {
        let script = "mkdir -p \"$(dirname \"$F\")\" && cat > \"$F\"";
        self.ok_with(&json!({ "command": script, "env": { "F": path }, "stdin": content }));
    }

    /// The exact bytes that a shell line prints.
    #[track_caller]
    pub fn bytes(&self, command: &str) -> Vec<u8> {
        let result = self.run_with(&json!({ "command": command, "encoding": "base64" }));
        STANDARD.decode(&result.stdout).expect("base64")
    }
}

/// Asserts exit code 0; what was printed.
#[track_caller]
pub fn succeeded(result: RunResult) -> String {
    assert_eq!((result.status, result.exit_code), (RunState::Exited, Some(0)), "{result:#?}");
    result.stdout
}
