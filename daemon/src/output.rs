//! What a run wrote and how it ended, from its journal, as a result.
//!
//! Input: a journal's folder and what the index knows of the run; output: the run result of the interface.
//! Reads files and blocks; callers do it where blocking is allowed.

use crate::index::runs::RunRow;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sandbox_keeper::client::Finished;
use sandbox_keeper::journal::{self, Reader, Seek, Select, Then};
use sandbox_wire::event::RunOutcome;
use sandbox_wire::{Encoding, Enforced, Omitted, RunResult, RunState, Truncated, Usage};
use std::io;
use std::path::Path;

/// The result of a run that its keeper has just reported.
pub(crate) fn result_of(finished: Finished, encoding: Encoding) -> RunResult {
    let Finished { outcome, stdout, stderr, truncated } = finished;
    outcome.with_texts(text(stdout, encoding), text(stderr, encoding), truncated, encoding)
}

/// The result of a run that has ended some time ago, with so much of each end of its output. What the journal does
/// not have is empty.
pub(crate) fn result_from_journal(dir: &Path, row: &RunRow, encoding: Encoding, half: usize) -> io::Result<RunResult> {
    let outcome = match journal::outcome(dir) {
        Ok(Some(outcome)) => outcome,
        Ok(None) => lost(row, dir)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(without_journal(row).with_texts(String::new(), String::new(), Truncated::default(), encoding));
        }
        Err(error) => return Err(error),
    };
    let mut reader = Reader::open(dir)?;
    let (stdout, omitted_stdout) = ends(&mut reader, Select::Stdout, outcome.stdout_bytes, half)?;
    let (stderr, omitted_stderr) = ends(&mut reader, Select::Stderr, outcome.stderr_bytes, half)?;
    let truncated = Truncated { stdout: omitted_stdout, stderr: omitted_stderr };
    Ok(outcome.with_texts(text(stdout, encoding), text(stderr, encoding), truncated, encoding))
}

/// The outcome of a run that ended with its keeper.
pub(crate) fn lost(row: &RunRow, dir: &Path) -> io::Result<RunOutcome> {
    let mut outcome = without_journal(row);
    let mut reader = Reader::open(dir)?;
    outcome.stdout_bytes = length(&mut reader, Select::Stdout)?;
    outcome.stderr_bytes = length(&mut reader, Select::Stderr)?;
    Ok(outcome)
}

fn without_journal(row: &RunRow) -> RunOutcome {
    RunOutcome {
        exit_code: row.exit_code,
        run_id: row.id.clone(),
        status: if row.status.is_final() { row.status } else { RunState::Lost },
        signal: None,
        timed_out: row.status == RunState::TimedOut,
        oom_killed: row.status == RunState::OomKilled,
        killed_by: None,
        duration_ms: row.duration_ms.unwrap_or(0.0),
        stdout_bytes: 0,
        stderr_bytes: 0,
        usage: Usage::default(),
        lingering: 0,
        denials: Vec::new(),
        enforced: Enforced { policy: row.policy.clone(), ..Enforced::default() },
    }
}

/// How far a stream has come.
pub(crate) fn length(reader: &mut Reader, select: Select) -> io::Result<u64> {
    Ok(match reader.seek_offset(select, u64::MAX)? {
        Seek::Beyond { end } => end,
        Seek::Found => u64::MAX,
        Seek::Expired { oldest_kept } => oldest_kept,
    })
}

/// Both ends of a stream of `total` bytes, and what lies between them.
fn ends(reader: &mut Reader, select: Select, total: u64, half: usize) -> io::Result<(Vec<u8>, Option<Omitted>)> {
    let (mut head, _) = read(reader, select, 0, half)?;
    let head_end = head.len() as u64;
    if head_end >= total {
        return Ok((head, None));
    }
    let from = total.saturating_sub(half as u64).max(head_end);
    let (tail, tail_start) = read(reader, select, from, half)?;
    if tail_start == head_end {
        head.extend_from_slice(&tail);
        return Ok((head, None));
    }
    head.truncate(head.len() - begun_character(&head));
    let rest = continued_character(&tail);
    let omitted = Omitted { omitted_from: head.len() as u64, omitted_to: tail_start + rest as u64 };
    head.extend_from_slice(&tail[rest..]);
    Ok((head, Some(omitted)))
}

/// Leaves at most so much of each end of the output.
pub(crate) fn shorten(finished: &mut Finished, half: usize) {
    let (stdout, stderr) = (finished.outcome.stdout_bytes, finished.outcome.stderr_bytes);
    shorten_stream(&mut finished.stdout, &mut finished.truncated.stdout, stdout, half);
    shorten_stream(&mut finished.stderr, &mut finished.truncated.stderr, stderr, half);
}

fn shorten_stream(kept: &mut Vec<u8>, omitted: &mut Option<Omitted>, total: u64, half: usize) {
    let (head, tail) = match omitted {
        // Both ends are there already, longer.
        Some(omitted) => kept.split_at(usize::try_from(omitted.omitted_from).unwrap_or(usize::MAX).min(kept.len())),
        None if kept.len() <= 2 * half => return,
        None => kept.split_at(half),
    };
    if head.len() <= half && tail.len() <= half {
        return;
    }
    let head = &head[..head.len().min(half)];
    let head = &head[..head.len() - begun_character(head)];
    let tail = &tail[tail.len().saturating_sub(half)..];
    let tail = &tail[continued_character(tail)..];
    *omitted = Some(Omitted { omitted_from: head.len() as u64, omitted_to: total - tail.len() as u64 });
    *kept = [head, tail].concat();
}

/// Bytes that go on with a character whose first byte is not there.
fn continued_character(bytes: &[u8]) -> usize {
    bytes.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count()
}

/// At most `max` consecutive bytes from `from`, or from the first byte after it that is kept; and where
/// they start.
fn read(reader: &mut Reader, select: Select, from: u64, max: usize) -> io::Result<(Vec<u8>, u64)> {
    let mut output = reader.read_stream(select, from, max)?;
    let mut start = from;
    if let Then::Expired { oldest_kept } = output.then
        && output.data.is_empty()
        && from > 0
    {
        start = oldest_kept;
        output = reader.read_stream(select, start, max)?;
    }
    Ok((output.data.concat(), start))
}

/// Bytes at the end that begin a UTF-8 character without completing it.
pub(crate) fn begun_character(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let length = match byte {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if length > back { back } else { 0 };
    }
    0
}

/// Bytes as JSON text.
fn text(bytes: Vec<u8>, encoding: Encoding) -> String {
    match encoding {
        Encoding::Base64 => STANDARD.encode(bytes),
        Encoding::Utf8 => match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox_keeper::journal::{HALF_BYTES, StartRecord, Writer};
    use sandbox_wire::{Command, ProjectId, RunId, Stream};

    fn row() -> RunRow {
        RunRow {
            id: RunId::generate(),
            project: ProjectId::random(),
            command: Command::Shell("x".to_owned()),
            cwd: "/".to_owned(),
            policy: "default".to_owned(),
            status: RunState::Lost,
            exit_code: None,
            started_at_ms: 0,
            duration_ms: None,
            timeout_ms: 1,
        }
    }

    fn journal(dir: &Path, row: &RunRow, chunks: &[(Stream, &[u8])]) -> Writer {
        let start = StartRecord {
            run: row.id.clone(),
            project: row.project,
            command: vec!["x".to_owned()],
            cwd: row.cwd.clone(),
            policy: row.policy.clone(),
            timeout_ms: 1,
            started_at: 0,
        };
        let mut writer = Writer::create(dir, 64 << 20, &start).expect("created");
        for (stream, bytes) in chunks {
            writer.append(*stream, bytes).expect("written");
        }
        writer
    }

    #[test]
    fn a_lost_run_keeps_what_it_wrote() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (dir, row) = (dir.path().join("run"), row());
        journal(&dir, &row, &[(Stream::Stdout, b"a\xffb"), (Stream::Stderr, b"e")]);
        let result = result_from_journal(&dir, &row, Encoding::Utf8, HALF_BYTES).expect("read");
        assert_eq!(
            (result.status, result.stdout.as_str(), result.stderr.as_str()),
            (RunState::Lost, "a\u{fffd}b", "e")
        );
        assert_eq!((result.stdout_bytes, result.stderr_bytes), (3, 1));
        let result = result_from_journal(&dir, &row, Encoding::Base64, HALF_BYTES).expect("read");
        assert_eq!(result.stdout, "Yf9i");
        let result = result_from_journal(&dir.join("missing"), &row, Encoding::Utf8, HALF_BYTES).expect("empty");
        assert_eq!((result.status, result.stdout.as_str()), (RunState::Lost, ""));
    }

    #[test]
    fn long_output_keeps_both_ends_and_names_the_hole() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (dir, row) = (dir.path().join("run"), row());
        let line = "0123456789€\n".repeat(200_000);
        let mut writer = journal(&dir, &row, &[(Stream::Stdout, line.as_bytes())]);
        let outcome = RunOutcome { stdout_bytes: line.len() as u64, status: RunState::Exited, ..without_journal(&row) };
        writer.finish(&outcome).expect("written");
        let result = result_from_journal(&dir, &row, Encoding::Utf8, HALF_BYTES).expect("read");
        let omitted = result.truncated.stdout.expect("more than a mebibyte");
        let (from, to) = (omitted.omitted_from as usize, omitted.omitted_to as usize);
        assert_eq!(result.stdout, [&line[..from], &line[to..]].concat());
        assert!(result.stdout.len() > 2 * HALF_BYTES - 6 && result.stdout.len() <= 2 * HALF_BYTES);
        assert_eq!(result.truncated.stderr, None);
    }

    #[test]
    fn what_is_shortened_names_the_hole_in_the_bytes_that_there_were() {
        let text = "0123456789€\n".repeat(200);
        let mut kept = text.clone().into_bytes();
        let mut omitted = None;
        shorten_stream(&mut kept, &mut omitted, text.len() as u64, 20);
        let hole = omitted.expect("it was too long");
        let (from, to) = (hole.omitted_from as usize, hole.omitted_to as usize);
        assert_eq!(kept, [&text.as_bytes()[..from], &text.as_bytes()[to..]].concat());
        assert!(std::str::from_utf8(&kept).is_ok() && kept.len() <= 40);
        // Again, shorter.
        shorten_stream(&mut kept, &mut omitted, text.len() as u64, 10);
        let hole = omitted.expect("it was too long");
        let (from, to) = (hole.omitted_from as usize, hole.omitted_to as usize);
        assert_eq!(kept, [&text.as_bytes()[..from], &text.as_bytes()[to..]].concat());
        assert!((from, to) == (10, text.len() - 10), "{hole:?}");
        let mut short = b"abc".to_vec();
        let mut none = None;
        shorten_stream(&mut short, &mut none, 3, 2);
        assert_eq!((short.as_slice(), none), (&b"abc"[..], None));
    }

    #[test]
    fn begun_characters_are_found() {
        let euro = "€".as_bytes();
        assert_eq!([begun_character(euro), begun_character(&euro[..2]), begun_character(&euro[..1])], [0, 2, 1]);
        assert_eq!([begun_character(b"a"), begun_character(b""), begun_character(&[0x80; 5])], [0, 0, 0]);
    }
}
