//! The embedded gateway: where deploys go when no gateway is named.
//!
//! It is a `sandboxctl gateway` of this state directory, a process of its own, so that what it serves weighs
//! on no run. The first deploy starts it, and it ends with this daemon, however that ends: its standard input
//! is a pipe that only this daemon holds. One that is there already is used as it is.

use crate::activation;
use run402::environment::Base;
use sandbox_wire::{Code, Problem};
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

const LOG: &str = "gateway.log";
/// From its start to its first line.
const START_TIME: Duration = Duration::from_secs(15);
/// Longer than any address.
const MAX_LINE_BYTES: u64 = 200;

#[derive(Debug, Default)]
pub(crate) struct EmbeddedGateway(Mutex<Option<Serving>>);

/// One that this daemon has started.
#[derive(Debug)]
struct Serving {
    base: Base,
    /// Over when it has ended.
    process: JoinHandle<()>,
    /// It serves as long as this is open.
    _input: ChildStdin,
}

impl EmbeddedGateway {
    /// Where it listens; started when it is not there. `state` is the daemon's directory.
    pub(crate) async fn base(&self, state: &Path) -> Result<Base, Problem> {
        let mut serving = self.0.lock().await;
        if let Some(serving) = serving.as_ref().filter(|serving| !serving.process.is_finished()) {
            return Ok(serving.base.clone());
        }
        // A gateway is not worth a deploy that waits for ever.
        let started = tokio::time::timeout(START_TIME, start(state)).await;
        let failed = |reason: String| {
            let mut problem =
                Problem::new(Code::DeployFailed, format!("the embedded gateway does not start: {reason}"));
            problem.retryable = true;
            let log = state.join(LOG);
            problem.next(format!("see {}", log.display())).next("or name a gateway with RUN402_API_BASE")
        };
        let started = started.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let (base, own) = started.map_err(|error| failed(error.to_string()))?;
        *serving = own;
        Ok(base)
    }
}

/// Its address, and the process unless it is somebody else's.
async fn start(state: &Path) -> io::Result<(Base, Option<Serving>)> {
    let program = neighbour()?;
    let log = File::options().create(true).append(true).mode(0o600).open(state.join(LOG))?;
    let mut command = Command::new(&program);
    command.args(["gateway", "--embedded"]).env("SANDBOXD_STATE", state).current_dir("/");
    for name in ["SANDBOXD_URL", "SANDBOXD_TOKEN"].into_iter().chain(activation::VARIABLES) {
        command.env_remove(name);
    }
    // In a group of its own: what a terminal sends to this daemon is not meant for it.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    let started = command.spawn();
    let mut child = started.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let (Some(input), Some(output)) = (input, output) else { return Err(io::ErrorKind::BrokenPipe.into()) };
    let mut line = String::new();
    BufReader::new(output.take(MAX_LINE_BYTES)).read_line(&mut line).await?;
    let base = |text: &str| text.parse::<Base>().map_err(|error| io::Error::other(error.to_string()));
    match line.trim_end().split_once(" on ") {
        Some(("listening", address)) => {
            let process = tokio::spawn(async move {
                let ended = child.wait().await;
                tracing::info!(?ended, "the embedded gateway has ended");
            });
            let base = base(address)?;
            tracing::info!(gateway = %base, "the embedded gateway has started");
            Ok((base.clone(), Some(Serving { base, process, _input: input })))
        }
        Some(("found", address)) => {
            child.wait().await?;
            Ok((base(address)?, None))
        }
        _ => {
            let status = child.wait().await?;
            Err(io::Error::other(format!("it has ended with {status}")))
        }
    }
}

/// `sandboxctl` beside this program.
fn neighbour() -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("sandboxctl"))
}
