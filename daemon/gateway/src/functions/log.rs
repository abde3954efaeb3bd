//! What functions print: the newest lines of each, in a database of their own.
//!
//! A line outlives the gateway's process, not the machine's power: nobody waits for a disk while a function
//! answers.

use crate::error::Result;
use crate::ids;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use time::OffsetDateTime;

/// Of one function.
const MAX_LINES: usize = 1000;
const MAX_LINE_BYTES: usize = 4096;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS lines (
    id INTEGER PRIMARY KEY AUTOINCREMENT, project TEXT NOT NULL, name TEXT NOT NULL, at_ms INTEGER NOT NULL,
    timestamp TEXT NOT NULL, request_id TEXT NOT NULL, message TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS lines_of ON lines (project, name, id);
";

/// A line of a function's log.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LogLine {
    pub(crate) timestamp: String,
    pub(crate) message: String,
    pub(crate) request_id: String,
}

/// Which lines are asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) tail: usize,
    pub(crate) since_ms: Option<i64>,
    pub(crate) request_id: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Logs(Mutex<Connection>);

impl Logs {
    /// In a private directory that one gateway holds.
    pub(crate) fn open(state: &Path) -> std::result::Result<Self, rusqlite::Error> {
        let connection = Connection::open(state.join("logs.db"))?;
        // Before anything is written, or not at all: what was deleted is given back as it goes.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self(Mutex::new(connection)))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a call wrote; the beginning of longer lines, the end of longer logs.
    pub(super) fn add(&self, project: &str, name: &str, request_id: &str, text: &[u8]) -> Result<()> {
        let now = OffsetDateTime::now_utc();
        let at_ms = i64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        let timestamp = ids::iso(now);
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        let newest = lines.len().saturating_sub(MAX_LINES);
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO lines (project, name, at_ms, timestamp, request_id, message) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            for line in &lines[newest..] {
                let message = String::from_utf8_lossy(&line[..line.len().min(MAX_LINE_BYTES)]);
                insert.execute(params![project, name, at_ms, timestamp, request_id, message])?;
            }
            let oldest = transaction
                .prepare_cached(
                    "SELECT id FROM lines WHERE project = ?1 AND name = ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3",
                )?
                .query_row(params![project, name, MAX_LINES], |row| row.get::<_, i64>(0))
                .optional()?;
            if let Some(oldest) = oldest {
                transaction
                    .prepare_cached("DELETE FROM lines WHERE project = ?1 AND name = ?2 AND id <= ?3")?
                    .execute(params![project, name, oldest])?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    pub(crate) fn read(&self, project: &str, name: &str, wanted: &Wanted) -> Result<Vec<LogLine>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT timestamp, message, request_id FROM lines WHERE project = ?1 AND name = ?2
             AND at_ms >= ?3 AND (?4 IS NULL OR request_id = ?4) ORDER BY id DESC LIMIT ?5",
        )?;
        let line = |row: &rusqlite::Row<'_>| {
            Ok(LogLine { timestamp: row.get(0)?, message: row.get(1)?, request_id: row.get(2)? })
        };
        let since = wanted.since_ms.unwrap_or(i64::MIN);
        let found = statement.query_map(params![project, name, since, wanted.request_id, wanted.tail], line)?;
        let mut lines = found.collect::<std::result::Result<Vec<_>, _>>()?;
        lines.reverse();
        Ok(lines)
    }

    /// A project that is gone leaves nothing of what its functions said.
    pub(crate) fn forget(&self, project: &str) -> Result<()> {
        let connection = self.lock();
        connection.execute("DELETE FROM lines WHERE project = ?1", [project])?;
        // A row for each page that is given back.
        let mut vacuum = connection.prepare("PRAGMA incremental_vacuum")?;
        let mut pages = vacuum.query([])?;
        while pages.next()?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept() {
        let state = tempfile::tempdir().expect("a directory");
        let logs = Logs::open(state.path()).expect("a database");
        let text: String = (0..MAX_LINES + 50).map(|line| format!("line {line}\n")).collect();
        logs.add("p", "f", "req_1", text.as_bytes()).expect("added");
        logs.add("p", "f", "req_2", b"last\xff\n\n").expect("added");
        logs.add("q", "f", "req_3", &[b'x'; 2 * MAX_LINE_BYTES]).expect("added");
        let read = |logs: &Logs, project, tail, request_id: Option<&str>| {
            let wanted = Wanted { tail, since_ms: None, request_id: request_id.map(str::to_owned) };
            logs.read(project, "f", &wanted).expect("lines")
        };
        let check = |logs: &Logs| {
            assert_eq!(read(logs, "p", 2000, None).len(), MAX_LINES);
            let last = read(logs, "p", 2, None);
            assert_eq!((last[0].message.as_str(), last[1].message.as_str()), ("line 1049", "last\u{fffd}"));
            assert_eq!(read(logs, "p", 10, Some("req_2")).len(), 1);
            assert_eq!(read(logs, "q", 1, None)[0].message.len(), MAX_LINE_BYTES);
            let later = Wanted { tail: 5, since_ms: Some(i64::MAX), ..Wanted::default() };
            assert!(logs.read("p", "f", &later).expect("lines").is_empty());
            assert!(logs.read("p", "other", &Wanted { tail: 5, ..Wanted::default() }).expect("lines").is_empty());
        };
        check(&logs);
        drop(logs);
        let logs = Logs::open(state.path()).expect("the same database");
        check(&logs);
        let pages = |logs: &Logs| {
            let count = logs.lock().query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0));
            count.expect("a number")
        };
        let before = pages(&logs);
        logs.forget("p").expect("forgotten");
        assert!(pages(&logs) < before / 2, "{before} pages");
        assert_eq!((read(&logs, "p", 5, None).len(), read(&logs, "q", 5, None).len()), (0, 1));
    }
}
