//! What there is: projects, tokens and runs, in one SQLite database.
//!
//! Input and output are rows. The database is an index, not the truth about runs: output and results are
//! in the journals, and [`crate::reconcile`] mends rows after a crash. One thread writes ([`writer`]);
//! readers have connections of their own and never wait for it, except to see what was queued before.
//! Write-ahead log with `synchronous = NORMAL`: a crash of the process loses nothing, a crash of the
//! host may lose the last moments, which the journals bring back.

pub(crate) mod projects;
pub(crate) mod runs;
pub(crate) mod tokens;
mod writer;

use rusqlite::{Connection, OpenFlags};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use writer::{Item, Writer};

/// Raised with every change of the tables; `migrate` brings older files up to it.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    url_id TEXT NOT NULL UNIQUE,
    id_slot INTEGER UNIQUE,
    deleting INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    projects TEXT,
    created_at INTEGER NOT NULL
) STRICT;
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    command TEXT NOT NULL,
    cwd TEXT NOT NULL,
    policy TEXT NOT NULL,
    status TEXT NOT NULL,
    exit_code INTEGER,
    started_at INTEGER NOT NULL,
    duration_ms REAL,
    timeout_ms INTEGER NOT NULL,
    idempotency_key TEXT,
    body_hash BLOB
) STRICT;
CREATE INDEX runs_of_project ON runs (project, id);
CREATE INDEX runs_unfinished ON runs (status) WHERE status = 'running';
CREATE UNIQUE INDEX runs_by_key ON runs (project, idempotency_key) WHERE idempotency_key IS NOT NULL;
";

#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    #[error("cannot open the index {path}")]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("cannot create the index {path}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("the index {path} was written by a newer version ({found}; this one knows {SCHEMA_VERSION})")]
    Newer { path: PathBuf, found: i64 },
    #[error("cannot read the index")]
    Read(#[source] rusqlite::Error),
    #[error("cannot write the index: {0}")]
    Write(String),
    #[error("the index has been closed")]
    Closed,
}

/// The database of one state directory.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    writer: Writer,
    /// Read connections that nobody uses right now.
    readers: Mutex<Vec<Connection>>,
}

impl Index {
    /// Opens or creates `<state>/index.db` and starts the writer thread.
    pub(crate) fn open(state: &Path) -> Result<Self, IndexError> {
        let path = state.join("index.db");
        let failed = |source| IndexError::Open { path: path.clone(), source };
        // SQLite gives its other files the mode of this one.
        let private = std::fs::File::options().create(true).append(true).mode(0o600).open(&path);
        private.map_err(|source| IndexError::File { path: path.clone(), source })?;
        let connection = Connection::open(&path).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "normal").map_err(failed)?;
        connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(failed)?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        match found {
            0 => {
                let script = format!("BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;");
                connection.execute_batch(&script).map_err(failed)?;
            }
            SCHEMA_VERSION => {}
            found => return Err(IndexError::Newer { path, found }),
        }
        Ok(Self { writer: Writer::start(connection), path, readers: Mutex::new(Vec::new()) })
    }

    /// Does `work` in the writer thread; returns after the commit. Cancellation does not undo it.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, IndexError> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(move |connection: &Connection| -> writer::AfterCommit {
            let result = work(connection);
            Box::new(move |committed: Result<(), String>| {
                let result = committed.and_then(|()| result.map_err(|error| error.to_string()));
                // The caller may have gone away; the work is done all the same.
                let _ = reply.send(result);
            })
        });
        self.writer.push(Item::Job(job)).await?;
        answer.await.map_err(|_| IndexError::Closed)?.map_err(IndexError::Write)
    }

    /// Does `work` on a read connection, after everything queued so far has been written.
    pub(crate) async fn read<T: Send + 'static>(
        self: &std::sync::Arc<Self>,
        work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, IndexError> {
        self.writer.flush().await?;
        let index = std::sync::Arc::clone(self);
        tokio::task::spawn_blocking(move || index.read_now(work)).await.map_err(|_| IndexError::Closed)?
    }

    /// Like [`Self::read`], for callers that may block and do not mind queued writes.
    pub(crate) fn read_now<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, IndexError> {
        let pooled = self.pool().pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                Connection::open_with_flags(&self.path, flags).map_err(IndexError::Read)?
            }
        };
        let result = work(&connection).map_err(IndexError::Read);
        let mut pool = self.pool();
        if pool.len() < 4 {
            pool.push(connection);
        }
        result
    }

    fn pool(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is queued and ends the writer thread; the last connection to close folds the log into
    /// the database.
    pub(crate) fn close(&self) {
        self.pool().clear();
        self.writer.close();
    }
}

/// A text column that holds JSON, or the name of an enum.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(column: usize, text: &str) -> Result<T, rusqlite::Error> {
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// A text column with a type of its own.
pub(crate) fn parse<T: std::str::FromStr>(column: usize, text: &str) -> Result<T, rusqlite::Error>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_written_is_read_and_survives() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let count = |connection: &Connection| {
            connection.query_row("SELECT count(*) FROM tokens", [], |row| row.get::<_, i64>(0))
        };
        let index = std::sync::Arc::new(Index::open(dir.path()).expect("opened"));
        let insert = "INSERT INTO tokens VALUES ('a', x'00', '', '[]', NULL, 0)";
        index.write(move |connection| connection.execute(insert, [])).await.expect("written");
        assert_eq!(index.read(count).await.expect("read"), 1_i64);
        assert!(index.write(move |connection| connection.execute(insert, [])).await.is_err(), "the id is taken");
        index.close();
        assert!(matches!(index.read(count).await, Err(IndexError::Closed)));
        let again = std::sync::Arc::new(Index::open(dir.path()).expect("opened"));
        assert_eq!(again.read(count).await.expect("read"), 1_i64);
    }
}
