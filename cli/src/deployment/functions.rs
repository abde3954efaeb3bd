//! Functions of the local gateway, each call as a run in a sandbox of its own.
//!
//! Input: an [`Invocation`]; output: what the run printed and how it ended. The sandbox has the policy
//! `function`: the function's own files, node, no network, and the gateway's socket.

use crate::args::Globals;
use crate::client::{Client, ClientError};
use crate::connect;
use crate::ndjson::Line;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use run402_gateway::{
    CODE_FOLDER, Ended, FunctionRunner, Installation, Invocation, PACKAGES_FOLDER, REPLY_LIMIT_BYTES, RunnerError,
    SOCKET_FOLDER,
};
use sandbox_wire::event::Chunk;
use sandbox_wire::{Command, CreateProject, Encoding, Event, Project, RunRequest, RunState};
use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use tokio::sync::Mutex;

/// What node needs beside a function's own memory, in MiB.
const NODE_MEMORY_MB: u32 = 96;
/// Packages come from the network, and their scripts run.
const INSTALL_POLICY: &str = "node-build";
/// The function's log of one call.
const LOG_LIMIT_BYTES: usize = 1 << 20;

/// Runs functions by this user's daemon.
#[derive(Debug)]
pub(crate) struct SandboxedFunctions {
    globals: Globals,
    /// Folder to the daemon's project for it.
    projects: Mutex<HashMap<PathBuf, String>>,
}

fn failed(what: impl ToString) -> RunnerError {
    RunnerError(format!("the function could not be run: {}", what.to_string()))
}

impl SandboxedFunctions {
    pub(crate) fn new(globals: Globals) -> Self {
        Self { globals, projects: Mutex::default() }
    }

    async fn client(&self) -> Result<Client, RunnerError> {
        // A daemon that had nothing to do has ended: whoever is there now is asked.
        connect::client(&self.globals).await.map_err(|failure| failed(failure.text().trim()))
    }

    async fn project(&self, client: &Client, folder: &Path) -> Result<String, RunnerError> {
        let mut projects = self.projects.lock().await;
        if let Some(project) = projects.get(folder) {
            return Ok(project.clone());
        }
        let dir = folder.to_str().ok_or_else(|| failed("the path of the gateway's state is not UTF-8"))?;
        let body = CreateProject { dir: Some(dir.to_owned()), ..CreateProject::default() };
        let project: Project = client.post("/projects", &body).await.map_err(failed_client)?;
        let id = project.id.to_string();
        projects.insert(folder.to_owned(), id.clone());
        Ok(id)
    }

    async fn call(&self, invocation: Invocation) -> Result<Ended, RunnerError> {
        let request = request(&invocation)?;
        for attempt in 0.. {
            let client = self.client().await?;
            let project = self.project(&client, &invocation.scratch).await?;
            let stream = match client.post_stream(&format!("/projects/{project}/run"), &request).await {
                Ok(stream) => stream,
                // The project was removed, or its daemon ended, since the last call: nothing has run.
                Err(ClientError::Problem(problem))
                    if attempt == 0 && problem.code == sandbox_wire::Code::ProjectNotFound =>
                {
                    self.projects.lock().await.remove(&invocation.scratch);
                    continue;
                }
                Err(ClientError::Unreachable { .. }) if attempt == 0 => continue,
                Err(error) => return Err(failed_client(error)),
            };
            return follow(stream).await;
        }
        Err(failed("the daemon is not there"))
    }

    /// In a project that is there for this run only.
    async fn install_in_sandbox(&self, installation: Installation) -> Result<Ended, RunnerError> {
        let client = self.client().await?;
        let dir = installation.folder.to_str().ok_or_else(|| failed("the path of the gateway's state is not UTF-8"))?;
        let body = CreateProject {
            dir: Some(dir.to_owned()),
            policy: Some(INSTALL_POLICY.to_owned()),
            ..CreateProject::default()
        };
        let project: Project = client.post("/projects", &body).await.map_err(failed_client)?;
        let timeout_ms = i64::try_from(installation.timeout.as_millis()).ok();
        let request = run_of(installation.command, timeout_ms);
        let path = format!("/projects/{}", project.id);
        let ended = match client.post_stream(&format!("{path}/run"), &request).await {
            Ok(stream) => follow(stream).await,
            Err(error) => Err(failed_client(error)),
        };
        // One that stays costs nothing but a line in the list of projects.
        let _ = client.delete(&path).await;
        ended
    }
}

fn failed_client(error: ClientError) -> RunnerError {
    failed(error.into_problem().error)
}

async fn follow(mut stream: crate::client::EventStream) -> Result<Ended, RunnerError> {
    let mut ended = Ended::default();
    while let Some((_, line)) = stream.next().await.map_err(failed_client)? {
        match line {
            Line::Event(Event::Stdout(chunk)) => keep(&mut ended.stdout, &chunk, REPLY_LIMIT_BYTES),
            Line::Event(Event::Stderr(chunk)) => keep(&mut ended.stderr, &chunk, LOG_LIMIT_BYTES),
            Line::Event(Event::Result(result)) => {
                ended.timed_out = result.result.status == RunState::TimedOut;
                // V8 gives up before the kernel does when the heap alone is full.
                let heap_is_full =
                    result.result.exit_code == Some(128 + 6) && says(&ended.stderr, b"heap out of memory");
                ended.out_of_memory = result.result.oom_killed || heap_is_full;
                ended.exit_code = result.result.exit_code;
                return Ok(ended);
            }
            _ => {}
        }
    }
    Err(failed("the connection to the daemon broke off"))
}

fn says(log: &[u8], words: &[u8]) -> bool {
    log.windows(words.len()).any(|window| window == words)
}

/// Up to the limit; what is longer is no answer, or more log than anybody reads.
fn keep(kept: &mut Vec<u8>, chunk: &Chunk, limit: usize) {
    let room = limit.saturating_sub(kept.len());
    match chunk.encoding {
        Encoding::Utf8 => kept.extend(chunk.data.bytes().take(room)),
        Encoding::Base64 => kept.extend(STANDARD.decode(&chunk.data).unwrap_or_default().into_iter().take(room)),
    }
}

fn request(invocation: &Invocation) -> Result<RunRequest, RunnerError> {
    let code = invocation.folder.to_str().ok_or_else(|| failed("the path of the gateway's state is not UTF-8"))?;
    let socket =
        invocation.socket_folder.to_str().ok_or_else(|| failed("the path of the gateway's state is not UTF-8"))?;
    // JSON's strings are strings of TOML, too.
    let quoted = |text: &str| serde_json::Value::String(text.to_owned()).to_string();
    let mut policy = String::from("name = \"function-call\"\nextends = \"function\"\n");
    // Writing to a String cannot fail.
    let mut mounts = vec![(code, CODE_FOLDER), (socket, SOCKET_FOLDER)];
    let packages = invocation
        .packages
        .as_ref()
        .map(|packages| packages.to_str().ok_or_else(|| failed("the path of the gateway's state is not UTF-8")));
    mounts.extend(packages.transpose()?.map(|packages| (packages, PACKAGES_FOLDER)));
    let mounts: Vec<String> =
        mounts.iter().map(|(host, at)| format!("{{ host = {}, at = {} }}", quoted(host), quoted(at))).collect();
    let _ = write!(
        policy,
        "[filesystem]\nmount = [{}]\n[limits]\nmemory = \"{}MiB\"\n",
        mounts.join(", "),
        invocation.memory_mb.saturating_add(NODE_MEMORY_MB),
    );
    let mut command = invocation.command.clone();
    // node would take its share of the host for its own.
    command.insert(1, format!("--max-old-space-size={}", invocation.memory_mb));
    Ok(RunRequest {
        env: invocation.environment.clone(),
        stdin: Some(invocation.stdin.clone()),
        policy_toml: Some(policy),
        ..run_of(command, i64::try_from(invocation.timeout.as_millis()).ok())
    })
}

/// With nothing said beside the command and its time.
fn run_of(command: Vec<String>, timeout_ms: Option<i64>) -> RunRequest {
    RunRequest { timeout_ms, ..RunRequest::new(Command::Argv(command)) }
}

impl FunctionRunner for SandboxedFunctions {
    fn run(&self, invocation: Invocation) -> BoxFuture<'_, Result<Ended, RunnerError>> {
        Box::pin(self.call(invocation))
    }

    fn install(&self, installation: Installation) -> BoxFuture<'_, Result<Ended, RunnerError>> {
        Box::pin(self.install_in_sandbox(installation))
    }
}
