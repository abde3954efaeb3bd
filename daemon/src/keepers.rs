//! Keepers: finding the one of a project, or starting it.
//!
//! Input: a project; output: answers of its keeper. A keeper that is gone (it was idle) shows as
//! [`KeeperError::Absent`]; then one is started and the call repeated. A keeper outlives this process; its
//! lock keeps it single, so that starting one too many does no harm. What a keeper logs becomes ours.

use crate::activation;
use crate::metrics::Metrics;
use crate::projects::Entry;
use futures::StreamExt;
use sandbox_keeper::api::{KeeperSpec, KillCause};
use sandbox_keeper::client::KeeperError;
use sandbox_wire::Problem;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio_process_stream::{Item, ProcessChunkStream};
use tokio_util::task::TaskTracker;

const READY_LINE: &[u8] = b"ready";
/// How long a keeper may take until it listens.
const START_TIME: Duration = Duration::from_secs(10);
/// A keeper may become idle between its start and our call; more often than this is a fault.
const ATTEMPTS: u32 = 3;
/// Longest log line that is passed on in one piece.
const LINE_BYTES: usize = 8192;

#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepersError {
    #[error("cannot start the keeper {program}")]
    Spawn { program: PathBuf, source: io::Error },
    #[error("the keeper ended before it was ready ({status}): {said}")]
    Ended { status: String, said: String },
    #[error("the keeper was not ready within {} s", START_TIME.as_secs())]
    TooSlow,
    #[error("the keeper was gone after each of {ATTEMPTS} starts")]
    AlwaysAbsent,
    #[error("the keeper's connection broke")]
    Broken(#[source] io::Error),
    #[error("the project is being deleted")]
    Deleting,
    #[error(transparent)]
    Refused(Box<Problem>),
}

/// What all keepers of this daemon have in common.
#[derive(Debug)]
pub(crate) struct Keepers {
    program: PathBuf,
    cgroup_name: String,
    idle: Duration,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
}

impl Keepers {
    /// `cgroup_name` names this daemon's cgroup sub-tree; the same for each start on the same state.
    pub(crate) fn new(
        cgroup_name: String,
        idle: Duration,
        tasks: TaskTracker,
        metrics: Arc<Metrics>,
    ) -> Result<Self, KeepersError> {
        let this = std::env::current_exe()
            .map_err(|source| KeepersError::Spawn { program: PathBuf::from("sandbox-keeper"), source })?;
        Ok(Self { program: this.with_file_name("sandbox-keeper"), cgroup_name, idle, tasks, metrics })
    }

    pub(crate) fn cgroup_name(&self) -> &str {
        &self.cgroup_name
    }

    /// Does `request`; starts the project's keeper first when there is none.
    ///
    /// Cancellation leaves a keeper that is being started to itself; it exits when it stays idle.
    pub(crate) async fn call<T, F: Future<Output = Result<T, KeeperError>>>(
        &self,
        entry: &Entry,
        request: impl Fn() -> F,
    ) -> Result<T, KeepersError> {
        for _ in 0..ATTEMPTS {
            let generation = entry.generation.load(Relaxed);
            match request().await {
                Ok(answer) => return Ok(answer),
                Err(KeeperError::Absent(_)) => self.ensure(entry, generation).await?,
                Err(KeeperError::Broken(source)) => return Err(KeepersError::Broken(source)),
                Err(KeeperError::Refused(problem)) => return Err(KeepersError::Refused(problem)),
            }
        }
        Err(KeepersError::AlwaysAbsent)
    }

    /// Starts a keeper, unless somebody else has since the caller saw `generation`.
    async fn ensure(&self, entry: &Entry, generation: u64) -> Result<(), KeepersError> {
        let _starting = entry.starting.lock().await;
        if entry.deleting.load(Relaxed) {
            return Err(KeepersError::Deleting);
        }
        if entry.generation.load(Relaxed) != generation {
            return Ok(());
        }
        let started = self.start(entry).await;
        match &started {
            Ok(()) => {
                entry.generation.fetch_add(1, Relaxed);
                self.metrics.keepers_started.fetch_add(1, Relaxed);
            }
            Err(_) => {
                self.metrics.keepers_failed.fetch_add(1, Relaxed);
            }
        }
        started
    }

    async fn start(&self, entry: &Entry) -> Result<(), KeepersError> {
        let failed = |source| KeepersError::Spawn { program: self.program.clone(), source };
        let spec = serde_json::to_vec(&self.spec(entry)).map_err(|error| failed(error.into()))?;
        let mut command = Command::new(&self.program);
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, _) in std::env::vars_os() {
            if is_secret(name.as_encoded_bytes()) {
                command.env_remove(name);
            }
        }
        for name in activation::VARIABLES {
            command.env_remove(name);
        }
        command.envs(SMALL_HEAP);
        let mut child = command.spawn().map_err(failed)?;
        let mut stdin = child.stdin.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        let (ready, is_ready) = oneshot::channel();
        self.tasks.spawn(pass_on(child.into(), entry.id.to_string(), ready));
        let start = async {
            // A keeper that ends without reading says why on its standard error, which is better to know.
            if let Err(error) = stdin.write_all(&spec).await {
                tracing::debug!(%error, "the keeper does not read its specification");
            }
            drop(stdin);
            is_ready.await
        };
        match tokio::time::timeout(START_TIME, start).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(ended))) => Err(ended),
            Ok(Err(_)) => Err(KeepersError::Ended { status: "unknown".to_owned(), said: String::new() }),
            Err(_) => Err(KeepersError::TooSlow),
        }
    }

    fn spec(&self, entry: &Entry) -> KeeperSpec {
        let record = entry.record();
        KeeperSpec {
            project: entry.id,
            hostname: record.file.url_id.as_str().to_owned(),
            project_dir: entry.folder.clone(),
            dir: record.file.dir.clone(),
            id_base: record.file.id_base,
            cgroup_name: self.cgroup_name.clone(),
            idle_ms: u64::try_from(self.idle.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Ends the keepers of these projects, and with them what they run.
    pub(crate) async fn stop_all(&self, entries: Vec<Arc<Entry>>, at_most: Duration) {
        let stops = entries.into_iter().filter(|entry| has_socket(&entry.folder)).map(|entry| async move {
            match entry.keeper.stop(KillCause::Shutdown).await {
                Ok(()) | Err(KeeperError::Absent(_)) => {}
                Err(error) => tracing::warn!(project = %entry.id, %error, "cannot stop the keeper"),
            }
        });
        let all = futures::stream::iter(stops).buffer_unordered(32).collect::<()>();
        if tokio::time::timeout(at_most, all).await.is_err() {
            tracing::warn!("some keepers have not stopped in time");
        }
    }
}

/// A keeper that listens, or one that died, has left its socket here.
pub(crate) fn has_socket(folder: &Path) -> bool {
    folder.join("keeper.sock").exists()
}

/// A keeper works on one thread, and its helpers for moments: one heap is enough for all of them, and
/// what is free at the heap's end goes back to the kernel. Spares half a megabyte per project at rest.
/// See mallopt(3); other C libraries do not read them.
const SMALL_HEAP: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_TRIM_THRESHOLD_", "32768"), ("MALLOC_TOP_PAD_", "8192")];

/// Not for a process that is next to other people's commands.
fn is_secret(name: &[u8]) -> bool {
    name == b"SANDBOXD_TOKEN" || name.starts_with(b"RUN402_")
}

/// Passes the keeper's log on until it ends; tells when it is ready, or how it ended before that.
async fn pass_on(mut child: ProcessChunkStream, project: String, ready: oneshot::Sender<Result<(), KeepersError>>) {
    let mut ready = Some(ready);
    let (mut out, mut err) = (Lines::default(), Lines::default());
    let mut said = String::new();
    while let Some(item) = child.next().await {
        match item {
            Item::Stdout(bytes) => out.feed(&bytes, |line| {
                if line == READY_LINE
                    && let Some(ready) = ready.take()
                {
                    // The caller may have given up; the keeper then ends by being idle.
                    let _ = ready.send(Ok(()));
                } else {
                    tracing::info!(project, "keeper: {}", String::from_utf8_lossy(line));
                }
            }),
            Item::Stderr(bytes) => err.feed(&bytes, |line| {
                let line = String::from_utf8_lossy(line);
                tracing::info!(project, "keeper: {line}");
                if ready.is_some() {
                    said.clear();
                    said.push_str(&line);
                }
            }),
            Item::Done(status) => {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                tracing::debug!(project, status, "the keeper has ended");
                if let Some(ready) = ready.take() {
                    // As above.
                    let _ = ready.send(Err(KeepersError::Ended { status, said: std::mem::take(&mut said) }));
                }
            }
        }
    }
}

/// Cuts chunks into lines; a line that is too long comes in pieces.
#[derive(Debug, Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece.strip_suffix(b"\n").unwrap_or(piece));
            if piece.ends_with(b"\n") || self.partial.len() >= LINE_BYTES {
                line(&self.partial);
                self.partial.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_over_any_cuts() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for piece in [&b"re"[..], b"ady\nse", b"cond\n\nthird"] {
            lines.feed(piece, |line| seen.push(line.to_vec()));
        }
        assert_eq!(seen, [&b"ready"[..], b"second", b""]);
        lines.feed(&[b'x'; 3 * LINE_BYTES], |line| assert!(line.len() > LINE_BYTES));
    }

    #[test]
    fn secrets_do_not_reach_a_keeper() {
        assert!(is_secret(b"SANDBOXD_TOKEN") && is_secret(b"RUN402_PRIVATE_KEY"));
        assert!(!is_secret(b"PATH") && !is_secret(b"SSL_CERT_FILE"));
    }
}
