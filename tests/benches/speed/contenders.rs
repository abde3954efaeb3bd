//! The three ways to run `sh -c 'echo hi'` with its output captured.

use sandbox_tests::http::Connection;
use sandbox_tests::{Daemon, Project};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// What everybody runs.
const COMMAND: &str = "echo hi";

/// All namespaces, read-only system folders, own `/tmp`, `/proc` and `/dev`: what ours has, without its
/// limits, filter, Landlock domain and journal.
const BWRAP: [&str; 24] = [
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    "--ro-bind",
    "/usr",
    "/usr",
    "--ro-bind-try",
    "/bin",
    "/bin",
    "--ro-bind-try",
    "/lib",
    "/lib",
    "--ro-bind-try",
    "/lib64",
    "/lib64",
    "--tmpfs",
    "/tmp",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "sh",
    "-c",
    COMMAND,
];

#[derive(Debug)]
pub(crate) struct Contenders<'daemon> {
    pub(crate) daemon: &'daemon Daemon,
    pub(crate) runtime: Runtime,
    pub(crate) has_bwrap: bool,
}

impl<'daemon> Contenders<'daemon> {
    pub(crate) fn new(daemon: &'daemon Daemon) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let mut contenders = Self { daemon, runtime: runtime.expect("threads can be started"), has_bwrap: true };
        contenders.has_bwrap = contenders.runtime.block_on(run("bwrap", &BWRAP)).is_ok();
        if !contenders.has_bwrap {
            eprintln!("bwrap is not installed or does not work: its column stays empty");
        }
        contenders
    }

    pub(crate) fn bare(&self) -> Duration {
        let started = Instant::now();
        self.runtime.block_on(bare()).expect("sh runs");
        started.elapsed()
    }

    pub(crate) fn bwrap(&self) -> Duration {
        let started = Instant::now();
        self.runtime.block_on(bwrap()).expect("bwrap has run before");
        started.elapsed()
    }
}

pub(crate) async fn bare() -> std::io::Result<()> {
    run("sh", &["-c", COMMAND]).await
}

pub(crate) async fn bwrap() -> std::io::Result<()> {
    run("bwrap", &BWRAP).await
}

async fn run(program: &str, arguments: &[&str]) -> std::io::Result<()> {
    let output = tokio::process::Command::new(program).args(arguments).output().await?;
    if output.status.success() && output.stdout == b"hi\n" {
        return Ok(());
    }
    Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// One client of ours: a kept connection and a request that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Ours {
    connection: Connection,
    request: Vec<u8>,
}

impl Ours {
    pub(crate) fn new(project: &Project) -> Self {
        let body = serde_json::json!({ "command": COMMAND }).to_string();
        let request = project.client.request("POST", &project.path("/run"), &[], body.as_bytes());
        let connection = Connection::open(&project.client.address).expect("the daemon listens");
        Self { connection, request }
    }

    /// The same as a tool of the Model Context Protocol, without a session.
    pub(crate) fn over_mcp(project: &Project) -> Self {
        let session = sandbox_tests::mcp::Session::without(&project.client);
        let arguments = serde_json::json!({ "project_id": project.id, "command": COMMAND });
        let (_, message) =
            session.request("tools/call", serde_json::json!({ "name": "run_command", "arguments": arguments }));
        let connection = Connection::open(&project.client.address).expect("the daemon listens");
        Self { connection, request: session.bytes(&message) }
    }

    pub(crate) fn run(&mut self) -> Duration {
        let started = Instant::now();
        let (status, body) = self.connection.exchange(&self.request).expect("the daemon answers");
        let elapsed = started.elapsed();
        let text = std::str::from_utf8(&body).unwrap_or_default();
        assert!(status == 200 && text.contains(r#""stdout":"hi\n""#), "{status}: {text}");
        elapsed
    }
}
