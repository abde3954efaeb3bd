//! What functions print: the newest lines of each, in memory.

use crate::ids;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use time::OffsetDateTime;

/// Of one function.
const MAX_LINES: usize = 1000;
const MAX_LINE_BYTES: usize = 4096;

/// A line of a function's log.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LogLine {
    pub(crate) timestamp: String,
    pub(crate) message: String,
    pub(crate) request_id: String,
    #[serde(skip)]
    at_ms: i64,
}

/// Which lines are asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) tail: usize,
    pub(crate) since_ms: Option<i64>,
    pub(crate) request_id: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Logs(Mutex<HashMap<(String, String), VecDeque<LogLine>>>);

impl Logs {
    /// What a call wrote; the beginning of longer lines, the end of longer logs.
    pub(super) fn add(&self, project: &str, name: &str, request_id: &str, text: &[u8]) {
        let now = OffsetDateTime::now_utc();
        let at_ms = i64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        let newest = lines.len().saturating_sub(MAX_LINES);
        let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let log = logs.entry((project.to_owned(), name.to_owned())).or_default();
        for line in &lines[newest..] {
            let message = String::from_utf8_lossy(&line[..line.len().min(MAX_LINE_BYTES)]).into_owned();
            log.push_back(LogLine { timestamp: ids::iso(now), message, request_id: request_id.to_owned(), at_ms });
            if log.len() > MAX_LINES {
                log.pop_front();
            }
        }
    }

    pub(crate) fn read(&self, project: &str, name: &str, wanted: &Wanted) -> Vec<LogLine> {
        let logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(log) = logs.get(&(project.to_owned(), name.to_owned())) else { return Vec::new() };
        let fits = |line: &&LogLine| {
            wanted.since_ms.is_none_or(|since| line.at_ms >= since)
                && wanted.request_id.as_ref().is_none_or(|id| *id == line.request_id)
        };
        let mut lines: Vec<LogLine> = log.iter().rev().filter(fits).take(wanted.tail).cloned().collect();
        lines.reverse();
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept() {
        let logs = Logs::default();
        let text: String = (0..MAX_LINES + 50).map(|line| format!("line {line}\n")).collect();
        logs.add("p", "f", "req_1", text.as_bytes());
        logs.add("p", "f", "req_2", b"last\xff\n\n");
        let read = |tail, request_id: Option<&str>| {
            logs.read("p", "f", &Wanted { tail, since_ms: None, request_id: request_id.map(str::to_owned) })
        };
        assert_eq!(read(2000, None).len(), MAX_LINES);
        let last = read(2, None);
        assert_eq!((last[0].message.as_str(), last[1].message.as_str()), ("line 1049", "last\u{fffd}"));
        assert_eq!(read(10, Some("req_2")).len(), 1);
        assert!(logs.read("p", "other", &Wanted { tail: 5, ..Wanted::default() }).is_empty());
    }
}
