//! Runs that this daemon has taken on, and how each comes to its end in the index.
//!
//! A request becomes [`Prepared`] (admitted by its policy), then [`Ongoing`] (it has a place and is on the
//! list of active runs), then a row. An `Ongoing` that is dropped before its end, because its caller went
//! away, goes on as a task that kills the run when that was asked for and waits for its end. So each run
//! is recorded exactly once, whoever is gone.

use crate::index::IndexError;
use crate::index::runs::RunRow;
use crate::keepers::KeepersError;
use crate::policies::{NamedPolicy, refusal};
use crate::projects::Entry;
use crate::service::{Error, Service};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sandbox_keeper::api::{KillCause, RunOrder};
use sandbox_keeper::client::{Finished, KeeperError};
use sandbox_keeper::journal;
use sandbox_policy::{RunSpec, admit};
use sandbox_wire::event::RunOutcome;
use sandbox_wire::{Code, Command, Encoding, OnDisconnect, Problem, RunId, RunRequest, RunState};
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

/// Between questions about a run that its keeper does not know, or that no keeper answers.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// So often before a run without a keeper counts as lost: its end may just be on its way to the disk.
const LOST_AFTER: u32 = 5;
/// So often before an order counts as never taken: its sandbox may just be in the making.
const NEVER_STARTED_AFTER: u32 = 100;

/// A request that its policy admits.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) order: RunOrder,
    pub(crate) policy: Arc<NamedPolicy>,
    pub(crate) row: RunRow,
    pub(crate) encoding: Encoding,
    pub(crate) on_disconnect: OnDisconnect,
}

/// Checks a request against its policy and gives it an id.
pub(crate) fn prepare(entry: &Entry, policy: Arc<NamedPolicy>, request: RunRequest) -> Result<Prepared, Problem> {
    if request.interactive && request.stdin.is_some() {
        let sentence = "stdin and interactive exclude each other; send one of them";
        return Err(Problem::new(Code::InvalidRequest, sentence).with("field", "stdin"));
    }
    let stdin = match (request.stdin, request.stdin_encoding) {
        (None, _) => None,
        (Some(text), Encoding::Utf8) => Some(text.into_bytes()),
        (Some(text), Encoding::Base64) => Some(STANDARD.decode(text).map_err(|error| {
            Problem::new(Code::InvalidRequest, format!("stdin is not base64: {error}")).with("field", "stdin")
        })?),
    };
    let argv = match &request.command {
        Command::Shell(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()],
        Command::Argv(argv) => argv.clone(),
    };
    let env = request.env.into_iter().collect();
    let spec = RunSpec { argv, cwd: request.cwd, timeout_ms: request.timeout_ms, env, stdin };
    let name = policy.policy.name();
    let admitted = admit(&policy.policy, spec).map_err(|error| refusal(&error, name))?;
    let run = RunId::generate();
    let row = RunRow {
        id: run.clone(),
        project: entry.id,
        command: request.command,
        cwd: admitted.cwd().to_owned(),
        policy: name.to_owned(),
        status: RunState::Running,
        exit_code: None,
        started_at_ms: crate::clock::now_ms(),
        duration_ms: None,
        timeout_ms: admitted.timeout_ms(),
    };
    let order = RunOrder {
        run,
        policy_digest: policy.digest.clone(),
        admitted,
        keep_background: request.keep_background,
        open_input: request.interactive,
    };
    let on_disconnect = request.on_disconnect.unwrap_or(OnDisconnect::Kill);
    Ok(Prepared { order, policy, row, encoding: request.encoding, on_disconnect })
}

impl Prepared {
    /// Standard input stays open although nobody has asked for it, unless the request has said all of it.
    pub(crate) fn with_open_input(mut self) -> Self {
        self.order.open_input = self.order.admitted.stdin().is_none();
        self
    }
}

/// A run that has not ended, as far as this daemon knows.
#[derive(Debug)]
pub(crate) struct ActiveRun {
    pub(crate) row: RunRow,
    /// Cancelled when the run is off the list.
    pub(crate) ended: CancellationToken,
    /// Set by whoever hears of the end first, before anybody is told.
    end: OnceLock<End>,
}

impl ActiveRun {
    /// Takes down how the run ended; what was taken down first stays.
    pub(crate) fn ends(&self, end: End) {
        // Everybody who hears of the end hears the same.
        let _ = self.end.set(end);
    }

    /// The row as it is now. An end that is on its way to the index shows: it is known here, or in the
    /// journal, before a caller can have seen it.
    pub(crate) fn row_now(&self, entry: &Entry) -> RunRow {
        let mut row = self.row.clone();
        if let Some(end) = self.end.get() {
            set_end(&mut row, *end);
            return row;
        }
        true_row(entry, row)
    }
}

/// A row that says `running`, mended when the journal has the end. Reads a file then (11 µs).
pub(crate) fn true_row(entry: &Entry, mut row: RunRow) -> RunRow {
    if row.status == RunState::Running
        && let Some(end) = recorded_end(&row.id, &entry.run_dir(&row.id))
    {
        set_end(&mut row, end);
    }
    row
}

/// The end in a journal, if it is there and can be read.
fn recorded_end(run: &RunId, dir: &Path) -> Option<End> {
    match journal::outcome(dir) {
        Ok(outcome) => outcome.as_ref().map(End::from),
        // No folder is the answer for a run that has not begun.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(%run, %error, "cannot read the end of a journal");
            None
        }
    }
}

/// The runs that have not ended.
#[derive(Debug)]
pub(crate) struct ActiveRuns {
    map: Mutex<HashMap<RunId, Arc<ActiveRun>>>,
    count: watch::Sender<usize>,
}

impl Default for ActiveRuns {
    fn default() -> Self {
        Self { map: Mutex::default(), count: watch::Sender::new(0) }
    }
}

impl ActiveRuns {
    fn map(&self) -> MutexGuard<'_, HashMap<RunId, Arc<ActiveRun>>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, row: RunRow) -> Arc<ActiveRun> {
        let run = Arc::new(ActiveRun { row, ended: CancellationToken::new(), end: OnceLock::new() });
        let mut map = self.map();
        map.insert(run.row.id.clone(), Arc::clone(&run));
        self.count.send_replace(map.len());
        run
    }

    fn remove(&self, run: &ActiveRun) {
        let mut map = self.map();
        map.remove(&run.row.id);
        self.count.send_replace(map.len());
        drop(map);
        run.ended.cancel();
    }

    pub(crate) fn get(&self, run: &RunId) -> Option<Arc<ActiveRun>> {
        self.map().get(run).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<ActiveRun>> {
        self.map().values().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.map().len()
    }

    /// Changes with the number of active runs.
    pub(crate) fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Known {
        status: RunState,
        exit_code: Option<i32>,
        duration_ms: f64,
    },
    /// Its keeper died with it.
    Lost,
    /// No keeper has ever taken it.
    NeverStarted,
}

impl From<&RunOutcome> for End {
    fn from(outcome: &RunOutcome) -> Self {
        Self::Known { status: outcome.status, exit_code: outcome.exit_code, duration_ms: outcome.duration_ms }
    }
}

/// What [`Service::run_to_end`] came to.
#[derive(Debug)]
pub(crate) enum Ran {
    /// With what the reply keeps of the output.
    Finished(Box<Finished>),
    /// The keeper's answer was lost; the journal has it, as far as anybody has.
    Ended(RunRow),
}

/// A run with a place among the active ones.
#[derive(Debug)]
pub(crate) struct Ongoing {
    service: Arc<Service>,
    entry: Arc<Entry>,
    run: Arc<ActiveRun>,
    permit: Option<OwnedSemaphorePermit>,
    on_drop: OnDisconnect,
    over: bool,
}

impl Ongoing {
    /// Takes a place. Refused when the daemon is draining, the project is being deleted, or there is no
    /// place left.
    pub(crate) fn begin(
        service: &Arc<Service>,
        entry: &Arc<Entry>,
        row: RunRow,
        on_drop: OnDisconnect,
    ) -> Result<Self, Problem> {
        let permit = service.take_place(entry)?;
        let mut ongoing = Self::adopt(service, entry, row, on_drop);
        ongoing.permit = Some(permit);
        service.metrics.run_started();
        Ok(ongoing)
    }

    /// A run that was started before this daemon; it has a place whether there is one or not.
    pub(crate) fn adopt(service: &Arc<Service>, entry: &Arc<Entry>, row: RunRow, on_drop: OnDisconnect) -> Self {
        Self {
            service: Arc::clone(service),
            entry: Arc::clone(entry),
            run: service.active.insert(row),
            permit: None,
            on_drop,
            over: false,
        }
    }

    pub(crate) fn row(&self) -> &RunRow {
        &self.run.row
    }

    /// Records the end.
    pub(crate) async fn finish(mut self, end: End) {
        self.record(end).await;
    }

    /// The run did not start; nothing is recorded.
    pub(crate) fn refused(mut self) {
        self.over = true;
        self.service.active.remove(&self.run);
    }

    /// Waits for the end and records it, as a task of the service. Nobody is waited for any more.
    pub(crate) fn watch_in_background(mut self) {
        self.on_drop = OnDisconnect::Keep;
        drop(self);
    }

    async fn record(&mut self, end: End) {
        let mut row = self.run.row.clone();
        let recorded = match end {
            End::NeverStarted => self.service.index.forget_run(row.id.clone()).await,
            End::Known { .. } | End::Lost => {
                self.run.ends(end);
                set_end(&mut row, end);
                self.service.metrics.run_finished(row.status, row.duration_ms.unwrap_or(0.0));
                self.service.index.put_run(row).await
            }
        };
        match recorded {
            // Closed while stopping: the next start finds the run in its journal.
            Ok(()) | Err(IndexError::Closed) => {}
            Err(error) => tracing::error!(run = %self.run.row.id, %error, "cannot record the end of a run"),
        }
        // Only now: whoever does not find it here finds it in the index.
        self.over = true;
        self.service.active.remove(&self.run);
    }
}

fn set_end(row: &mut RunRow, end: End) {
    match end {
        End::Known { status, exit_code, duration_ms } => {
            row.status = status;
            row.exit_code = exit_code;
            row.duration_ms = Some(duration_ms);
        }
        End::Lost | End::NeverStarted => row.status = RunState::Lost,
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        // When the process ends, the keeper and the journal know the run.
        if self.over || self.service.leaving() {
            return;
        }
        // The rest of it moves into a task; what is left here is over.
        self.over = true;
        let mut rest = Self {
            service: Arc::clone(&self.service),
            entry: Arc::clone(&self.entry),
            run: Arc::clone(&self.run),
            permit: self.permit.take(),
            on_drop: self.on_drop,
            over: false,
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // The process ends; the keeper and the journal know the run.
            rest.over = true;
            return;
        };
        let tasks = self.service.tasks.clone();
        tasks.spawn_on(
            async move {
                if rest.on_drop == OnDisconnect::Kill {
                    kill(&rest.entry, &rest.run.row.id).await;
                }
                let end = end_of(&rest.entry, &rest.run.row.id).await;
                rest.record(end).await;
            },
            &runtime,
        );
    }
}

/// Kills a run whose caller has gone away, also one that its keeper is only about to take.
async fn kill(entry: &Entry, run: &RunId) {
    for _ in 0..NEVER_STARTED_AFTER {
        match entry.keeper.kill(run, KillCause::Caller).await {
            Ok(()) | Err(KeeperError::Absent(_)) => return,
            Err(KeeperError::Refused(_)) => {
                // Not known: ended already, or not there yet.
                if matches!(journal::outcome(&entry.run_dir(run)), Ok(Some(_))) {
                    return;
                }
            }
            Err(KeeperError::Broken(error)) => tracing::debug!(%run, %error, "cannot ask the keeper to kill"),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Waits for the end of a run, whatever happens to the connections to its keeper and to the keeper.
pub(crate) async fn end_of(entry: &Entry, run: &RunId) -> End {
    let dir = entry.run_dir(run);
    let mut unknown = 0;
    loop {
        // The journal is read after the keeper was asked: an end that came in between is there.
        let asked = entry.keeper.wait(run).await;
        if let Some(end) = recorded_end(run, &dir) {
            return end;
        }
        let patience = match asked {
            Ok(finished) => return End::from(&finished.outcome),
            Err(KeeperError::Refused(_)) if !dir.exists() => NEVER_STARTED_AFTER,
            Err(KeeperError::Refused(_) | KeeperError::Absent(_)) => LOST_AFTER,
            Err(KeeperError::Broken(error)) => {
                tracing::debug!(%run, %error, "the connection on which the end of a run is awaited broke");
                NEVER_STARTED_AFTER
            }
        };
        unknown += 1;
        if unknown >= patience {
            return if dir.exists() { End::Lost } else { End::NeverStarted };
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

impl Service {
    /// A place for one more run.
    fn take_place(&self, entry: &Entry) -> Result<OwnedSemaphorePermit, Problem> {
        let refused = |problem| {
            self.metrics.refused.fetch_add(1, Relaxed);
            Err(problem)
        };
        if self.draining() {
            return refused(Problem::new(Code::Draining, "the daemon is stopping and starts no more runs"));
        }
        if entry.deleting.load(Relaxed) {
            return refused(Problem::new(Code::ProjectBusy, "the project is being deleted"));
        }
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(permit) => Ok(permit),
            Err(_) => {
                let limit = self.config.max_runs;
                let sentence = format!("{limit} runs are active, which is all this daemon takes; try again");
                refused(Problem::new(Code::NoCapacity, sentence).with("max_runs", limit))
            }
        }
    }

    /// Runs to the end. When the returned future is dropped the run is killed, or goes on where the
    /// request says so.
    pub(crate) async fn run_to_end(self: &Arc<Self>, entry: &Arc<Entry>, prepared: Prepared) -> Result<Ran, Error> {
        let Prepared { order, policy, row, on_disconnect, .. } = prepared;
        let ongoing = Ongoing::begin(self, entry, row, on_disconnect)?;
        let answer = self.keepers.call(entry, || entry.keeper.run(order.clone(), &policy.policy)).await;
        match answer {
            Ok(finished) => {
                ongoing.finish(End::from(&finished.outcome)).await;
                Ok(Ran::Finished(Box::new(finished)))
            }
            Err(KeepersError::Broken(error)) => {
                tracing::warn!(run = %order.run, %error, "the keeper's connection broke during a run");
                let end = end_of(entry, &order.run).await;
                if let End::NeverStarted = end {
                    ongoing.refused();
                    return Err(KeepersError::Broken(error).into());
                }
                let mut row = ongoing.row().clone();
                set_end(&mut row, end);
                ongoing.finish(end).await;
                Ok(Ran::Ended(row))
            }
            Err(error) => {
                ongoing.refused();
                Err(error.into())
            }
        }
    }

    /// Starts and returns when the command runs. Its end is awaited and recorded in the background.
    pub(crate) async fn start_run(self: &Arc<Self>, entry: &Arc<Entry>, prepared: Prepared) -> Result<RunRow, Error> {
        let Prepared { order, policy, row, on_disconnect, .. } = prepared;
        let ongoing = Ongoing::begin(self, entry, row, on_disconnect)?;
        let row = ongoing.row().clone();
        self.index.put_run(row.clone()).await?;
        let answer = self.keepers.call(entry, || entry.keeper.start(order.clone(), &policy.policy)).await;
        match answer {
            Ok(()) | Err(KeepersError::Broken(_)) => {
                // A broken connection leaves open whether the run began; the background finds out.
                ongoing.watch_in_background();
                Ok(row)
            }
            Err(error) => {
                self.index.forget_run(row.id.clone()).await?;
                ongoing.refused();
                Err(error.into())
            }
        }
    }
}
