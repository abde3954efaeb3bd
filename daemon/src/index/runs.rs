//! Rows of runs.

use super::writer::Item;
use super::{Index, IndexError, from_json, parse};
use rusqlite::{Connection, OptionalExtension, Row, params};
use sandbox_wire::{Command, ProjectId, RunId, RunState, RunSummary};
use std::sync::Arc;

/// What the index knows of a run; everything else is in its journal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RunRow {
    pub(crate) id: RunId,
    pub(crate) project: ProjectId,
    pub(crate) command: Command,
    pub(crate) cwd: String,
    pub(crate) policy: String,
    pub(crate) status: RunState,
    pub(crate) exit_code: Option<i32>,
    pub(crate) started_at_ms: i64,
    pub(crate) duration_ms: Option<f64>,
    pub(crate) timeout_ms: u64,
}

impl RunRow {
    pub(crate) fn summary(&self) -> RunSummary {
        RunSummary {
            run_id: self.id.clone(),
            project_id: self.project,
            command: self.command.clone(),
            cwd: self.cwd.clone(),
            policy: self.policy.clone(),
            status: self.status,
            exit_code: self.exit_code,
            started_at: crate::clock::rfc3339(self.started_at_ms),
            duration_ms: self.duration_ms,
            timeout_ms: self.timeout_ms,
            result: None,
        }
    }
}

/// Which runs a list shows.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) project: ProjectId,
    pub(crate) status: Option<RunState>,
    /// Only runs older than this one.
    pub(crate) before: Option<RunId>,
    pub(crate) limit: u32,
}

/// Answer to a claim of an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The key is this run's now.
    New,
    /// The same request had the key before: its run.
    Same(RunId),
    /// Another request has the key.
    Conflict(RunId),
}

const COLUMNS: &str =
    "id, project, command, cwd, policy, status, exit_code, started_at, duration_ms, timeout_ms FROM runs";

pub(super) fn put_run(connection: &Connection, row: &RunRow) -> Result<(), rusqlite::Error> {
    // An upsert and not a replacement: the row may have an idempotency key.
    let sql =
        "INSERT INTO runs (id, project, command, cwd, policy, status, exit_code, started_at, duration_ms, timeout_ms)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
        ON CONFLICT (id) DO UPDATE SET status = ?6, exit_code = ?7, duration_ms = ?9";
    connection.prepare_cached(sql)?.execute(params![
        row.id.as_str(),
        row.project.to_string(),
        command_json(&row.command),
        row.cwd,
        row.policy,
        state_name(row.status),
        row.exit_code,
        row.started_at_ms,
        row.duration_ms,
        i64::try_from(row.timeout_ms).unwrap_or(i64::MAX),
    ])?;
    Ok(())
}

fn command_json(command: &Command) -> String {
    serde_json::to_string(command).expect("texts are JSON")
}

/// The name that JSON has for it, too.
fn state_name(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Exited => "exited",
        RunState::Signaled => "signaled",
        RunState::TimedOut => "timed_out",
        RunState::OomKilled => "oom_killed",
        RunState::Cancelled => "cancelled",
        RunState::Lost => "lost",
    }
}

fn read_row(row: &Row<'_>) -> Result<RunRow, rusqlite::Error> {
    let text = |column| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
    Ok(RunRow {
        id: parse(0, text(0)?)?,
        project: parse(1, text(1)?)?,
        command: from_json(2, text(2)?)?,
        cwd: row.get(3)?,
        policy: row.get(4)?,
        status: from_json(5, &format!("\"{}\"", text(5)?))?,
        exit_code: row.get(6)?,
        started_at_ms: row.get(7)?,
        duration_ms: row.get(8)?,
        timeout_ms: row.get::<_, i64>(9)?.unsigned_abs(),
    })
}

impl Index {
    /// Queues a run's row; it is written soon, and before anything that is read later.
    pub(crate) async fn put_run(&self, row: RunRow) -> Result<(), IndexError> {
        self.writer.push(Item::Run(Box::new(row))).await
    }

    pub(crate) async fn run(self: &Arc<Self>, id: RunId) -> Result<Option<RunRow>, IndexError> {
        self.read(move |connection| {
            let sql = format!("SELECT {COLUMNS} WHERE id = ?1");
            connection.prepare_cached(&sql)?.query_row([id.as_str()], read_row).optional()
        })
        .await
    }

    /// Newest first.
    pub(crate) async fn runs(self: &Arc<Self>, page: Page) -> Result<Vec<RunRow>, IndexError> {
        self.read(move |connection| {
            let sql = format!(
                "SELECT {COLUMNS} WHERE project = ?1 AND (?2 IS NULL OR id < ?2) AND (?3 IS NULL OR status = ?3)
                 ORDER BY id DESC LIMIT ?4"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let before = page.before.as_ref().map(RunId::as_str);
            let status = page.status.map(state_name);
            let rows = statement.query_map(params![page.project.to_string(), before, status, page.limit], read_row)?;
            rows.collect()
        })
        .await
    }

    /// Takes the key for a run that is about to start, and stores the run; committed on return.
    pub(crate) async fn claim(&self, row: RunRow, key: String, hash: [u8; 32]) -> Result<Claim, IndexError> {
        self.write(move |connection| {
            let sql = "SELECT id, body_hash FROM runs WHERE project = ?1 AND idempotency_key = ?2";
            let holder = connection
                .prepare_cached(sql)?
                .query_row(params![row.project.to_string(), key], |row| {
                    let id: RunId = parse(0, row.get_ref(0)?.as_str()?)?;
                    Ok((id, row.get::<_, Vec<u8>>(1)?))
                })
                .optional()?;
            if let Some((id, held)) = holder {
                return Ok(if held == hash { Claim::Same(id) } else { Claim::Conflict(id) });
            }
            put_run(connection, &row)?;
            let sql = "UPDATE runs SET idempotency_key = ?2, body_hash = ?3 WHERE id = ?1";
            connection.prepare_cached(sql)?.execute(params![row.id.as_str(), key, hash])?;
            Ok(Claim::New)
        })
        .await
    }

    /// Forgets a run that did not start after all, and with it the claim of its key.
    pub(crate) async fn forget_run(&self, id: RunId) -> Result<(), IndexError> {
        self.write(move |connection| {
            connection.prepare_cached("DELETE FROM runs WHERE id = ?1")?.execute([id.as_str()]).map(|_| ())
        })
        .await
    }

    /// Rows that say `running`, of all projects.
    pub(crate) async fn unfinished(self: &Arc<Self>) -> Result<Vec<RunRow>, IndexError> {
        self.read(|connection| {
            let sql = format!("SELECT {COLUMNS} WHERE status = 'running'");
            let mut statement = connection.prepare(&sql)?;
            statement.query_map([], read_row)?.collect()
        })
        .await
    }

    /// Ids of a project's runs, newest first.
    pub(crate) async fn run_ids(self: &Arc<Self>, project: ProjectId) -> Result<Vec<RunId>, IndexError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached("SELECT id FROM runs WHERE project = ?1 ORDER BY id DESC")?;
            let rows = statement.query_map([project.to_string()], |row| parse(0, row.get_ref(0)?.as_str()?))?;
            rows.collect()
        })
        .await
    }

    /// The ended runs of a project beyond the newest `keep`.
    pub(crate) async fn surplus(self: &Arc<Self>, project: ProjectId, keep: u32) -> Result<Vec<RunId>, IndexError> {
        self.read(move |connection| {
            let sql =
                "SELECT id FROM (SELECT id, status FROM runs WHERE project = ?1 ORDER BY id DESC LIMIT -1 OFFSET ?2)
                WHERE status <> 'running'";
            let mut statement = connection.prepare_cached(sql)?;
            let rows =
                statement.query_map(params![project.to_string(), keep], |row| parse(0, row.get_ref(0)?.as_str()?))?;
            rows.collect()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(project: ProjectId, status: RunState) -> RunRow {
        RunRow {
            id: RunId::generate(),
            project,
            command: Command::Argv(vec!["true".to_owned()]),
            cwd: "/home/user/project".to_owned(),
            policy: "default".to_owned(),
            status,
            exit_code: None,
            started_at_ms: 1,
            duration_ms: None,
            timeout_ms: 1000,
        }
    }

    fn index() -> (tempfile::TempDir, Arc<Index>) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let index = Arc::new(Index::open(dir.path()).expect("opened"));
        (dir, index)
    }

    #[tokio::test]
    async fn a_key_starts_one_run() {
        let (_dir, index) = index();
        let project = ProjectId::random();
        let (first, second) = (row(project, RunState::Running), row(project, RunState::Running));
        let claim = |row: &RunRow, hash: u8| index.claim(row.clone(), "k".to_owned(), [hash; 32]);
        assert_eq!(claim(&first, 1).await.expect("written"), Claim::New);
        assert_eq!(claim(&second, 1).await.expect("written"), Claim::Same(first.id.clone()));
        assert_eq!(claim(&second, 2).await.expect("written"), Claim::Conflict(first.id.clone()));
        let ended = RunRow { status: RunState::Exited, exit_code: Some(0), duration_ms: Some(1.5), ..first.clone() };
        index.put_run(ended.clone()).await.expect("queued");
        assert_eq!(index.run(first.id.clone()).await.expect("read"), Some(ended));
        assert_eq!(claim(&second, 1).await.expect("written"), Claim::Same(first.id.clone()), "the key stays");
        index.forget_run(first.id).await.expect("written");
        assert_eq!(claim(&second, 2).await.expect("written"), Claim::New);
    }

    #[tokio::test]
    async fn pages_are_newest_first_and_filtered() {
        let (_dir, index) = index();
        let project = ProjectId::random();
        let mut ids = Vec::new();
        for state in [RunState::Exited, RunState::Running, RunState::Lost, RunState::Exited] {
            let row = row(project, state);
            ids.push(row.id.clone());
            index.put_run(row).await.expect("queued");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        index.put_run(row(ProjectId::random(), RunState::Running)).await.expect("queued");
        let page = |status, before, limit| {
            let page = Page { project, status, before, limit };
            async { index.runs(page).await.expect("read").into_iter().map(|row| row.id).collect::<Vec<_>>() }
        };
        assert_eq!(page(None, None, 2).await, [ids[3].clone(), ids[2].clone()]);
        assert_eq!(page(None, Some(ids[2].clone()), 9).await, [ids[1].clone(), ids[0].clone()]);
        assert_eq!(page(Some(RunState::Exited), None, 9).await, [ids[3].clone(), ids[0].clone()]);
        assert_eq!(index.surplus(project, 2).await.expect("read"), [ids[0].clone()]);
        assert_eq!(index.unfinished().await.expect("read").len(), 2);
    }

    #[test]
    fn names_of_states_are_those_of_json() {
        for state in [
            RunState::Running,
            RunState::Exited,
            RunState::Signaled,
            RunState::TimedOut,
            RunState::OomKilled,
            RunState::Cancelled,
            RunState::Lost,
        ] {
            assert_eq!(serde_json::to_value(state).expect("JSON"), state_name(state));
        }
    }
}
