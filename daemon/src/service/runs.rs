//! Starting, showing, listing and ending runs.

use super::{Error, Service};
use crate::index::runs::{Claim, Page, RunRow};
use crate::keepers::KeepersError;
use crate::output;
use crate::projects::Entry;
use crate::runs::{ActiveRun, Prepared, Ran, prepare, true_row};
use crate::tokens::Caller;
use sandbox_keeper::api::KillCause;
use sandbox_keeper::client::KeeperError;
use sandbox_keeper::journal::HALF_BYTES;
use sandbox_wire::run::RunList;
use sandbox_wire::{Code, Encoding, Problem, RunId, RunRequest, RunResult, RunState, RunSummary, Scope};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;

/// How long a kill is waited for before the answer says that the run is still running.
const KILL_TIME: Duration = Duration::from_secs(3);
/// Between questions about a run that its keeper does not know yet.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// Of a run's input, in one message to the keeper.
const INPUT_BYTES: usize = 1 << 20;
const MAX_PAGE: u32 = 200;
const MAX_KEY_BYTES: usize = 200;

/// Which runs a list shows.
#[derive(Debug, Default)]
pub(crate) struct ListRuns {
    pub(crate) status: Option<RunState>,
    /// Only runs older than this one.
    pub(crate) cursor: Option<RunId>,
    pub(crate) limit: Option<u32>,
}

/// Answer to a request for a run in the background.
#[derive(Debug)]
pub(crate) enum Started {
    Now(RunSummary),
    /// The run that the same request started before.
    Before(RunSummary),
}

/// An idempotency key and what it stands for: the hash of the whole request.
#[derive(Debug)]
pub(crate) struct Key {
    text: String,
    hash: [u8; 32],
}

impl Key {
    /// None when the request has no key. Refused when the key is empty, long, or not printable.
    pub(crate) fn of(request: &RunRequest) -> Result<Option<Self>, Problem> {
        let Some(text) = &request.idempotency_key else { return Ok(None) };
        if text.is_empty() || text.len() > MAX_KEY_BYTES || text.chars().any(char::is_control) {
            let sentence = format!("idempotency_key must be 1 to {MAX_KEY_BYTES} bytes without control characters");
            return Err(Problem::new(Code::InvalidRequest, sentence).with("field", "idempotency_key"));
        }
        // The request as it was understood: order of fields and white space make no difference.
        let body = serde_json::to_vec(request).expect("texts, numbers and maps of texts are JSON");
        Ok(Some(Self { text: text.clone(), hash: Sha256::digest(body).into() }))
    }
}

impl Service {
    /// Checks a request of this caller's against the policy that it asks for, or the project's.
    pub(crate) fn prepare(&self, caller: &Caller, entry: &Entry, request: RunRequest) -> Result<Prepared, Problem> {
        let record = entry.record();
        let own = &record.file.policy;
        let policy = match (&request.policy, &request.policy_toml) {
            (Some(_), Some(_)) => {
                let sentence = "policy and policy_toml exclude each other; send one of them";
                return Err(Problem::new(Code::InvalidRequest, sentence).with("field", "policy_toml"));
            }
            (None, Some(text)) => {
                caller.require(Scope::Admin)?;
                self.policies.parse(text)?
            }
            (Some(name), None) if name != own => {
                // Whoever may choose the policy is not bound by it.
                let policy = self.policies.require(name)?;
                caller.require(Scope::Admin)?;
                policy
            }
            _ => match &record.policy {
                Some(policy) => Arc::clone(policy),
                None => self.policies.require(own)?,
            },
        };
        prepare(entry, policy, request).inspect_err(|_| {
            self.metrics.refused.fetch_add(1, Relaxed);
        })
    }

    /// Runs to the end and answers with the result.
    pub(crate) async fn run(self: &Arc<Self>, entry: &Arc<Entry>, prepared: Prepared) -> Result<RunResult, Error> {
        self.run_briefly(entry, prepared, HALF_BYTES).await
    }

    /// The same, with at most `half` of each end of both streams.
    pub(crate) async fn run_briefly(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        prepared: Prepared,
        half: usize,
    ) -> Result<RunResult, Error> {
        let encoding = prepared.encoding;
        match self.run_to_end(entry, prepared).await? {
            Ran::Finished(mut finished) => {
                output::shorten(&mut finished, half);
                Ok(output::result_of(*finished, encoding))
            }
            Ran::Ended(row) => self.ended_result(entry, row, encoding, half).await,
        }
    }

    async fn ended_result(
        &self,
        entry: &Entry,
        row: RunRow,
        encoding: Encoding,
        half: usize,
    ) -> Result<RunResult, Error> {
        let dir = entry.run_dir(&row.id);
        let read = move || output::result_from_journal(&dir, &row, encoding, half);
        let result = tokio::task::spawn_blocking(read).await.map_err(Error::internal)?;
        result.map_err(|source| Error::Disk { what: "cannot read a journal", source })
    }

    /// Starts in the background. The same key and body start one run.
    pub(crate) async fn start(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        key: Option<Key>,
        prepared: Prepared,
    ) -> Result<Started, Error> {
        if let Some(Key { text, hash }) = key {
            match self.index.claim(prepared.row.clone(), text, hash).await? {
                Claim::New => {}
                Claim::Same(run) => return Ok(Started::Before(self.run_row(entry, &run).await?.summary())),
                Claim::Conflict(run) => {
                    let sentence = "this idempotency_key was used for another request; use a new key for a new run";
                    let problem = Problem::new(Code::IdempotencyConflict, sentence).with("run_id", run.as_str());
                    return Err(problem.into());
                }
            }
        }
        Ok(Started::Now(self.start_run(entry, prepared).await?.summary()))
    }

    /// The row of a run of this project, active or not. A run that anybody was told has ended has ended here.
    pub(crate) async fn run_row(&self, entry: &Entry, run: &RunId) -> Result<RunRow, Error> {
        if let Some(active) = self.active.get(run)
            && active.row.project == entry.id
        {
            return Ok(active.row_now(entry));
        }
        match self.index.run(run.clone()).await? {
            Some(row) if row.project == entry.id => Ok(true_row(entry, row)),
            _ => Err(run_not_found(run.as_str()).into()),
        }
    }

    /// One run, with its result once it has ended.
    pub(crate) async fn show_run(&self, entry: &Entry, run: &RunId, encoding: Encoding) -> Result<RunSummary, Error> {
        self.show_run_briefly(entry, run, encoding, HALF_BYTES).await
    }

    /// The same, with at most `half` of each end of both streams.
    pub(crate) async fn show_run_briefly(
        &self,
        entry: &Entry,
        run: &RunId,
        encoding: Encoding,
        half: usize,
    ) -> Result<RunSummary, Error> {
        let row = self.run_row(entry, run).await?;
        let mut summary = row.summary();
        if row.status.is_final() {
            summary.result = Some(self.ended_result(entry, row, encoding, half).await?);
        }
        Ok(summary)
    }

    /// The result of a run whose end has been seen; its taking down is waited for.
    pub(crate) async fn result_of_ended(&self, entry: &Entry, run: &RunId, half: usize) -> Result<RunResult, Error> {
        if let Some(active) = self.active.get(run) {
            active.ended.cancelled().await;
        }
        let row = self.run_row(entry, run).await?;
        self.ended_result(entry, row, Encoding::Utf8, half).await
    }

    /// The project of a run, for a caller who may run commands in it.
    pub(crate) async fn project_of_run(&self, caller: &Caller, run: &RunId) -> Result<Arc<Entry>, Error> {
        let project = match self.active.get(run) {
            Some(active) => Some(active.row.project),
            None => self.index.run(run.clone()).await?.map(|row| row.project),
        };
        let entry = project.and_then(|project| self.registry.find(&project.to_string()));
        let entry = entry.filter(|entry| caller.may_see(entry.id)).ok_or_else(|| run_not_found(run.as_str()))?;
        caller.require(Scope::Run)?;
        Ok(entry)
    }

    /// Newest first; active runs come from memory, the others from the index.
    pub(crate) async fn list_runs(&self, entry: &Entry, query: ListRuns) -> Result<RunList, Error> {
        let limit = query.limit.unwrap_or(50);
        if !(1..=MAX_PAGE).contains(&limit) {
            let problem = Problem::new(Code::InvalidRequest, format!("limit must be 1 to {MAX_PAGE}"));
            return Err(problem.with("field", "limit").into());
        }
        let before = query.cursor;
        let mut active = self.active.all();
        active.retain(|run| run.row.project == entry.id && before.as_ref().is_none_or(|before| run.row.id < *before));
        active.sort_by(|a, b| b.row.id.cmp(&a.row.id));
        let page = Page { project: entry.id, status: query.status, before, limit: limit + 1 };
        let indexed = self.index.runs(page).await?;
        let limit = limit as usize;
        // Below the last row of a full page the index has not been asked.
        let unasked_below = (indexed.len() > limit).then(|| indexed[limit].id.clone());
        let merge = || merged(entry, &active, indexed, query.status, limit);
        let mut rows = tokio::task::block_in_place(merge);
        rows.retain(|row| unasked_below.as_ref().is_none_or(|last| row.id >= *last));
        // A full page of the index may shrink, where its rows have another status by now.
        let next_cursor = if rows.len() > limit { Some(rows[limit - 1].id.clone()) } else { unasked_below };
        rows.truncate(limit);
        Ok(RunList { runs: rows.iter().map(RunRow::summary).collect(), next_cursor })
    }

    /// Kills a run and what it left in the background; waits a moment for its end.
    pub(crate) async fn kill_run(&self, entry: &Entry, run: &RunId) -> Result<RunSummary, Error> {
        let row = self.run_row(entry, run).await?;
        match self.of_keeper(run, || entry.keeper.kill(run, KillCause::Caller)).await {
            // Gone or unknown: there is nothing left to kill.
            Ok(()) | Err(KeeperError::Absent(_) | KeeperError::Refused(_)) => {}
            Err(KeeperError::Broken(source)) => return Err(KeepersError::Broken(source).into()),
        }
        if row.status.is_final() {
            return Ok(row.summary());
        }
        if let Some(active) = self.active.get(run) {
            // Not over in time is an answer, too: the status says so.
            let _ = tokio::time::timeout(KILL_TIME, active.ended.cancelled()).await;
        }
        Ok(self.run_row(entry, run).await?.summary())
    }

    pub(crate) async fn signal_run(&self, entry: &Entry, run: &RunId, signal: i32) -> Result<RunSummary, Error> {
        let row = self.running_row(entry, run).await?;
        match self.of_keeper(run, || entry.keeper.signal(run, signal)).await {
            Ok(()) => Ok(row.summary()),
            Err(error) => Err(no_answer(run, error)),
        }
    }

    /// Sends bytes to the standard input of a run that was started with an open one; then, if `eof` is set and all of
    /// them were taken, the end. How many were taken: less than there are when the command does not read.
    pub(crate) async fn input(&self, entry: &Entry, run: &RunId, bytes: &[u8], eof: bool) -> Result<u64, Error> {
        self.running_row(entry, run).await?;
        let mut pieces = bytes.chunks(INPUT_BYTES).peekable();
        let mut taken = 0;
        loop {
            let piece = pieces.next().unwrap_or_default();
            let last = pieces.peek().is_none();
            let sent = self.of_keeper(run, || entry.keeper.input(run, piece, eof && last)).await;
            let sent = sent.map_err(|error| no_answer(run, error))?;
            taken += sent;
            if last || sent < piece.len() as u64 {
                return Ok(taken);
            }
        }
    }

    /// Asks something about a run. One that its keeper does not know may just be on its way there.
    async fn of_keeper<T, F: Future<Output = Result<T, KeeperError>>>(
        &self,
        run: &RunId,
        ask: impl Fn() -> F,
    ) -> Result<T, KeeperError> {
        let patience = Instant::now() + KILL_TIME;
        loop {
            let answer = ask().await;
            let unknown = match &answer {
                Err(KeeperError::Absent(_)) => true,
                Err(KeeperError::Refused(problem)) => problem.code == Code::RunNotFound,
                _ => false,
            };
            let Some(active) = self.active.get(run).filter(|_| unknown && Instant::now() < patience) else {
                return answer;
            };
            if tokio::time::timeout(ASK_AGAIN, active.ended.cancelled()).await.is_ok() {
                return answer;
            }
        }
    }

    async fn running_row(&self, entry: &Entry, run: &RunId) -> Result<RunRow, Error> {
        match self.run_row(entry, run).await? {
            row if row.status.is_final() => Err(run_ended(run).into()),
            row => Ok(row),
        }
    }
}

fn run_ended(run: &RunId) -> Problem {
    Problem::new(Code::RunEnded, format!("the run {run} has ended")).with("run_id", run.as_str())
}

/// Why the keeper did not do something to a run that was going on a moment ago.
fn no_answer(run: &RunId, error: KeeperError) -> Error {
    match error {
        KeeperError::Refused(problem) if problem.code == Code::InputClosed => (*problem)
            .next("start the run with an open input: in the background and without stdin, or interactive")
            .into(),
        KeeperError::Refused(problem) if problem.code != Code::RunNotFound => (*problem).into(),
        KeeperError::Absent(_) | KeeperError::Refused(_) => run_ended(run).into(),
        KeeperError::Broken(source) => KeepersError::Broken(source).into(),
    }
}

/// Active runs, newest first, and rows of the index, as they are now; newest first and without repetition.
/// More than `limit` of the active ones are not looked at. Reads a journal for each run that may be running.
fn merged(
    entry: &Entry,
    active: &[Arc<ActiveRun>],
    indexed: Vec<RunRow>,
    status: Option<RunState>,
    limit: usize,
) -> Vec<RunRow> {
    let wanted = |row: &RunRow| status.is_none_or(|status| row.status == status);
    let now = active.iter().map(|run| run.row_now(entry));
    let mut rows: Vec<RunRow> = now.filter(wanted).take(limit + 1).collect();
    for row in indexed {
        if rows.iter().any(|known| known.id == row.id) {
            continue;
        }
        let row = match active.iter().find(|run| run.row.id == row.id) {
            Some(run) if row.status == RunState::Running => run.row_now(entry),
            _ => true_row(entry, row),
        };
        if wanted(&row) {
            rows.push(row);
        }
    }
    rows.sort_by(|a, b| b.id.cmp(&a.id));
    rows
}

fn run_not_found(run: &str) -> Problem {
    Problem::new(Code::RunNotFound, format!("there is no run {run} here")).with("run_id", run)
}
