//! Writer and readers together, on real files.

use super::*;
use crate::journal::segments::file_name;
use proptest::prelude::*;
use sandbox_wire::{Enforced, ProjectId, RunId, RunState, Stream, Usage, event::RunOutcome};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(super) fn start_record() -> StartRecord {
    StartRecord {
        run: "run_01JD8Z5Q6W9J5Q0M3V7T2K4X8A".parse().unwrap(),
        project: ProjectId::random(),
        command: vec!["/bin/sh".into(), "-c".into(), "echo hi".into()],
        cwd: "/home/user/project".into(),
        policy: "default".into(),
        timeout_ms: 120_000,
        started_at: 1_700_000_000_000,
    }
}

pub(super) fn ended(stdout_bytes: u64, stderr_bytes: u64) -> RunOutcome {
    RunOutcome {
        exit_code: Some(0),
        run_id: RunId::generate(),
        status: RunState::Exited,
        signal: None,
        timed_out: false,
        oom_killed: false,
        killed_by: None,
        duration_ms: 41.7,
        stdout_bytes,
        stderr_bytes,
        usage: Usage::default(),
        lingering: 0,
        denials: Vec::new(),
        enforced: Enforced::default(),
    }
}

/// What stands at this place of a stream in all tests here.
fn byte(stream: Stream, offset: u64) -> u8 {
    let salt = if stream == Stream::Stdout { 0 } else { 57 };
    ((offset.wrapping_mul(2_654_435_761) >> 13) as u8).wrapping_add(salt) & 0x7f
}

fn bytes(stream: Stream, from: u64, length: usize) -> Vec<u8> {
    (from..from + length as u64).map(|offset| byte(stream, offset)).collect()
}

/// Appends the next bytes of a stream.
pub(super) fn append(writer: &mut Writer, stream: Stream, length: usize) -> io::Result<()> {
    let (stdout, stderr) = writer.totals();
    let from = if stream == Stream::Stdout { stdout } else { stderr };
    writer.append(stream, &bytes(stream, from, length))
}

fn items(reader: &mut Reader) -> Vec<Item> {
    let mut items = Vec::new();
    loop {
        match reader.next().unwrap() {
            Item::Pending => return items,
            item => items.push(item),
        }
    }
}

fn all_items(dir: &Path) -> Vec<Item> {
    items(&mut Reader::open(dir).unwrap())
}

fn disk_bytes(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// Follows both streams through items; every byte and every hole must be where it belongs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Follower {
    seq: u64,
    stdout: u64,
    stderr: u64,
    pub(super) missing: u64,
    pub(super) ended: bool,
}

impl Follower {
    pub(super) fn see(&mut self, item: &Item) {
        match item {
            Item::Start(_) => assert_eq!(self, &Self::default()),
            Item::Chunk { seq, stream, offset, data } => {
                assert_eq!(*seq, self.seq + 1);
                self.seq = *seq;
                let at = if *stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr };
                assert_eq!(offset, at);
                *at += data.len() as u64;
                assert_eq!(data, &bytes(*stream, *offset, data.len()));
            }
            Item::Gap { seq, stdout_bytes, stderr_bytes } => {
                assert!(*seq > self.seq && stdout_bytes + stderr_bytes > 0);
                self.seq = *seq;
                self.stdout += stdout_bytes;
                self.stderr += stderr_bytes;
                self.missing += stdout_bytes + stderr_bytes;
            }
            Item::Exit { seq, outcome } => {
                assert_eq!(*seq, self.seq + 1);
                assert_eq!((outcome.stdout_bytes, outcome.stderr_bytes), (self.stdout, self.stderr));
                self.ended = true;
            }
            Item::Pending => {}
        }
    }
}

#[test]
fn a_journal_says_what_was_written() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("runs/run");
    let begun = start_record();
    let mut writer = Writer::create(&dir, 1 << 20, &begun).unwrap();
    assert!(Writer::create(&dir, 1 << 20, &begun).is_err(), "a journal is written once");
    writer.append(Stream::Stdout, b"hello\n").unwrap();
    writer.append(Stream::Stderr, b"oh").unwrap();
    writer.append(Stream::Stdout, b"").unwrap();
    writer.append(Stream::Stdout, b"there").unwrap();
    assert_eq!(outcome(&dir).unwrap(), None);
    let end = ended(11, 2);
    writer.finish(&end).unwrap();
    writer.finish(&end).unwrap();

    let chunk = |seq, stream, offset, data: &'static str| Item::Chunk { seq, stream, offset, data: data.into() };
    let expected = vec![
        Item::Start(begun.clone()),
        chunk(1, Stream::Stdout, 0, "hello\n"),
        chunk(2, Stream::Stderr, 0, "oh"),
        chunk(3, Stream::Stdout, 6, "there"),
        Item::Exit { seq: 4, outcome: Box::new(end.clone()) },
    ];
    assert_eq!(all_items(&dir), expected);
    assert_eq!(outcome(&dir).unwrap(), Some(end));
    assert_eq!(start(&dir).unwrap(), Some(begun));

    let mut reader = Reader::open(&dir).unwrap();
    for seq in 0..6 {
        reader.seek_after_seq(seq).unwrap();
        let from = (seq as usize + 1).min(4);
        assert_eq!(items(&mut reader), expected[from..], "after {seq}");
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join("000000"))), (0o700, 0o600));
}

#[test]
fn a_torn_journal_is_readable_at_every_length() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("whole");
    let mut writer = Writer::create(&dir, 1 << 20, &start_record()).unwrap();
    append(&mut writer, Stream::Stdout, 70).unwrap();
    append(&mut writer, Stream::Stderr, 33).unwrap();
    append(&mut writer, Stream::Stdout, 1).unwrap();
    writer.finish(&ended(71, 33)).unwrap();
    let expected = all_items(&dir);
    let file = fs::read(dir.join("000000")).unwrap();
    let torn = root.path().join("torn");
    fs::create_dir(&torn).unwrap();
    assert_eq!((all_items(&torn), start(&torn).unwrap(), outcome(&torn).unwrap()), (Vec::new(), None, None));
    let mut seen = 0;
    for length in 0..=file.len() {
        fs::write(torn.join("000000"), &file[..length]).unwrap();
        let items = all_items(&torn);
        assert_eq!(items, expected[..items.len()], "{length} bytes");
        assert_eq!(outcome(&torn).unwrap().is_some(), length == file.len());
        assert_eq!(start(&torn).unwrap().is_some(), !items.is_empty());
        if items.len() > seen {
            seen = items.len();
            // A host that stopped may leave zeros behind what was written.
            let mut content = file[..length].to_vec();
            content.resize(length + 300, 0);
            fs::write(torn.join("000000"), content).unwrap();
            assert_eq!(all_items(&torn), expected[..seen]);
        }
    }
    assert_eq!(seen, expected.len());
}

#[test]
fn output_up_to_the_limit_is_kept_whole() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    let mut writer = Writer::create(&dir, 1 << 20, &start_record()).unwrap();
    for _ in 0..10 {
        append(&mut writer, Stream::Stdout, 100 * 1024).unwrap();
    }
    append(&mut writer, Stream::Stderr, 24 * 1024).unwrap();
    writer.finish(&ended(1000 * 1024, 24 * 1024)).unwrap();
    let mut follower = Follower::default();
    all_items(&dir).iter().for_each(|item| follower.see(item));
    assert!(follower.ended);
    assert_eq!(follower.missing, 0);
}

#[test]
fn a_character_is_not_split_where_segments_meet() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    let mut writer = Writer::create(&dir, 1 << 20, &start_record()).unwrap();
    let text = "€".repeat(MAX_CHUNK_BYTES / 3);
    for _ in 0..8 {
        writer.append(Stream::Stdout, text.as_bytes()).unwrap();
    }
    let mut read = Vec::new();
    for item in all_items(&dir) {
        if let Item::Chunk { data, .. } = item {
            assert!(std::str::from_utf8(&data).is_ok());
            read.extend_from_slice(&data);
        }
    }
    assert_eq!(read, text.repeat(8).as_bytes());
}

#[test]
fn the_disk_stays_flat_and_the_gap_is_exact() {
    const LIMIT: u64 = 1 << 20;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    let mut writer = Writer::create(&dir, LIMIT, &start_record()).unwrap();
    let block = bytes(Stream::Stdout, 0, 60_000);
    let (mut total, mut peak) = (0, 0);
    for round in 0..1_100 {
        writer.append(Stream::Stdout, &block).unwrap();
        total += block.len() as u64;
        if round % 50 == 0 {
            peak = peak.max(disk_bytes(&dir));
        }
    }
    append(&mut writer, Stream::Stderr, 3).unwrap();
    writer.finish(&ended(total, 3)).unwrap();
    assert!(total > 64_000_000);
    assert!(peak < LIMIT + LIMIT / 8, "{peak} bytes on disk");
    assert!(fs::read_dir(&dir).unwrap().count() <= 8);

    let (mut kept, mut gaps, mut at) = (0, Vec::new(), 0);
    for item in all_items(&dir) {
        match item {
            Item::Chunk { stream: Stream::Stdout, offset, data, .. } => {
                assert_eq!(offset, at);
                at += data.len() as u64;
                kept += data.len() as u64;
                assert_eq!(data[0], block[(offset % 60_000) as usize]);
            }
            Item::Gap { stdout_bytes, stderr_bytes, .. } => {
                assert_eq!((at >= LIMIT / 2, stderr_bytes), (true, 0));
                at += stdout_bytes;
                gaps.push(stdout_bytes);
            }
            _ => {}
        }
    }
    assert_eq!((at, gaps.len()), (total, 1));
    assert_eq!(kept + gaps[0], total);
    assert!(kept > LIMIT * 7 / 8, "{kept} bytes kept");
    assert_eq!(outcome(&dir).unwrap(), outcome(&dir).unwrap());
    assert!(outcome(&dir).unwrap().is_some());

    let mut reader = Reader::open(&dir).unwrap();
    let oldest_kept = total - (kept - at_hole(&dir));
    assert_eq!(reader.seek_offset(Stream::Stdout, LIMIT).unwrap(), Seek::Expired { oldest_kept });
    assert_eq!(reader.seek_offset(Stream::Stdout, oldest_kept).unwrap(), Seek::Found);
    assert_eq!(reader.seek_offset(Stream::Stdout, total + 1).unwrap(), Seek::Beyond { end: total });
    let expired = reader.read_stream(Select::Stdout, LIMIT, 10).unwrap();
    assert_eq!(expired, Output { data: Vec::new(), next: LIMIT, then: Then::Expired { oldest_kept } });
}

/// Where the hole in stdout begins.
fn at_hole(dir: &Path) -> u64 {
    let mut reader = Reader::open(dir).unwrap();
    let mut at = 0;
    loop {
        let output = reader.read_stream(Select::Stdout, at, 50_000).unwrap();
        at = output.next;
        if matches!(output.then, Then::Expired { .. }) {
            return at;
        }
        assert_eq!(output.then, Then::More);
    }
}

#[test]
fn tiny_chunks_do_not_fill_the_disk() {
    const LIMIT: u64 = 512 * 1024;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    let mut writer = Writer::create(&dir, LIMIT, &start_record()).unwrap();
    for _ in 0..60_000 {
        append(&mut writer, Stream::Stderr, 1).unwrap();
    }
    let used = disk_bytes(&dir);
    assert!(used <= 2 * LIMIT + 8192, "{used} bytes on disk");
}

#[test]
fn a_reader_goes_on_in_a_segment_that_is_unlinked() {
    const LIMIT: u64 = 512 * 1024;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    let mut writer = Writer::create(&dir, LIMIT, &start_record()).unwrap();
    for _ in 0..45 {
        append(&mut writer, Stream::Stdout, 8192).unwrap();
    }
    // The reader is now in segment 5, which the next rounds unlink.
    let mut reader = Reader::open(&dir).unwrap();
    let mut follower = Follower::default();
    for _ in 0..42 {
        follower.see(&reader.next().unwrap());
    }
    for _ in 0..200 {
        append(&mut writer, Stream::Stdout, 8192).unwrap();
    }
    assert!(!dir.join(file_name(5)).exists());
    writer.finish(&ended(245 * 8192, 0)).unwrap();
    let rest = items(&mut reader);
    rest.iter().for_each(|item| follower.see(item));
    assert!(follower.ended && follower.missing > 0);
    // Segment 5 holds chunks 41 to 48: those came although its name is gone.
    assert!(matches!(rest[6], Item::Chunk { seq: 48, .. }), "{:?}", rest[6]);
    assert!(matches!(rest[7], Item::Gap { .. }), "{:?}", rest[7]);
}

#[test]
fn a_reader_keeps_up_with_a_writer_or_is_told_what_it_missed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    let mut writer = Writer::create(&dir, 2 << 20, &start_record()).unwrap();
    let done = AtomicBool::new(false);
    let deadline = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        let follow = |pause: Duration| {
            let mut reader = Reader::open(&dir).unwrap();
            let mut follower = Follower::default();
            while !follower.ended {
                assert!(Instant::now() < deadline);
                let last = done.load(Ordering::Acquire);
                match reader.next().unwrap() {
                    Item::Pending => {
                        assert!(!last, "the exit is there: {follower:?}");
                        std::thread::sleep(pause);
                    }
                    item => follower.see(&item),
                }
            }
            follower
        };
        let readers = [0, 200, 5000].map(|pause| scope.spawn(move || follow(Duration::from_micros(pause))));
        let lengths = [1, 700, 65_536, 13, 4096, 30_000];
        for round in 0..3000 {
            let stream = if round % 3 == 0 { Stream::Stderr } else { Stream::Stdout };
            append(&mut writer, stream, lengths[round % lengths.len()]).unwrap();
        }
        let (stdout, stderr) = writer.totals();
        writer.finish(&ended(stdout, stderr)).unwrap();
        done.store(true, Ordering::Release);
        for reader in readers {
            let follower = reader.join().unwrap();
            assert_eq!((follower.stdout, follower.stderr), (stdout, stderr));
        }
    });
}

#[test]
fn raw_reading_follows_a_live_stream_to_its_end() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    let mut writer = Writer::create(&dir, 1 << 20, &start_record()).unwrap();
    let mut reader = Reader::open(&dir).unwrap();
    let empty = |then| Output { data: Vec::new(), next: 0, then };
    assert_eq!(reader.read_stream(Select::Stdout, 0, 100).unwrap(), empty(Then::Pending));
    writer.append(Stream::Stderr, b"e1").unwrap();
    assert_eq!(reader.read_stream(Select::Stdout, 0, 100).unwrap(), empty(Then::Pending));
    writer.append(Stream::Stdout, b"out1").unwrap();
    let read = |text: &'static str, next, then| Output { data: vec![text.into()], next, then };
    assert_eq!(reader.read_stream(Select::Stdout, 0, 3).unwrap(), read("out", 3, Then::More));
    assert_eq!(reader.read_stream(Select::Stdout, 3, 3).unwrap(), read("1", 4, Then::Pending));
    writer.append(Stream::Stdout, b"out2").unwrap();
    assert_eq!(reader.read_stream(Select::Stdout, 4, 4).unwrap(), read("out2", 8, Then::More));
    assert_eq!(reader.read_stream(Select::Stdout, 9, 4).unwrap().then, Then::Pending);
    writer.finish(&ended(8, 2)).unwrap();
    assert_eq!(reader.read_stream(Select::Stdout, 6, 4).unwrap(), read("t2", 8, Then::End));
    assert_eq!(reader.read_stream(Select::Stdout, 8, 4).unwrap().then, Then::End);
    assert_eq!(reader.read_stream(Select::Stdout, 9, 4).unwrap().then, Then::End);
    let all = reader.read_stream(Select::All, 1, 100).unwrap();
    assert_eq!((all.data.concat(), all.next, all.then), (b"1out1out2".to_vec(), 10, Then::End));
    assert_eq!(reader.seek_offset(Stream::Stdout, 2).unwrap(), Seek::Found);
    let chunk = Item::Chunk { seq: 2, stream: Stream::Stdout, offset: 2, data: "t1".into() };
    assert_eq!(reader.next().unwrap(), chunk);
}

#[test]
fn a_link_is_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    Writer::create(&dir, 1 << 20, &start_record()).unwrap();
    std::os::unix::fs::symlink(&dir, root.path().join("link")).unwrap();
    assert!(Reader::open(&root.path().join("link")).is_err());
    fs::rename(dir.join("000000"), root.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(root.path().join("elsewhere"), dir.join("000000")).unwrap();
    assert!(Reader::open(&dir).unwrap().next().is_err());
}

/// How fast a journal is written and read; run with `--nocapture` in a release build for figures.
#[test]
fn reading_is_not_slowed_by_records() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    let mut writer = Writer::create(&dir, 1 << 30, &start_record()).unwrap();
    let block = vec![b'x'; 65_536];
    let begun = Instant::now();
    for _ in 0..1024 {
        writer.append(Stream::Stdout, &block).unwrap();
    }
    let written = begun.elapsed();
    let mut reader = Reader::open(&dir).unwrap();
    let (begun, mut at) = (Instant::now(), 0);
    while at < 64 << 20 {
        let output = reader.read_stream(Select::Stdout, at, 256 * 1024).unwrap();
        at = output.next;
    }
    let read = begun.elapsed();
    println!("64 MiB written in {written:?}, read in {read:?}");
    assert!(read < Duration::from_secs(1), "64 MiB took {read:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_cursor_alone_decides_what_is_read(
        appends in proptest::collection::vec((any::<bool>(), 1usize..60_000), 1..60),
        cursors in proptest::collection::vec((0u8..3, 0.0f64..1.1), 12),
    ) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("run");
        let mut writer = Writer::create(&dir, 512 * 1024, &start_record()).unwrap();
        for (is_stdout, length) in appends {
            append(&mut writer, if is_stdout { Stream::Stdout } else { Stream::Stderr }, length).unwrap();
        }
        let (stdout, stderr) = writer.totals();
        writer.finish(&ended(stdout, stderr)).unwrap();
        let all = all_items(&dir);
        let mut follower = Follower::default();
        all.iter().for_each(|item| follower.see(item));
        prop_assert!(follower.ended);

        let mut used = Reader::open(&dir).unwrap();
        for (select, part) in cursors {
            // By number: the tail of all items, from the hole on when the cursor is inside it.
            let seq = (follower.seq as f64 * part) as u64;
            used.seek_after_seq(seq).unwrap();
            let expected: Vec<Item> = all.iter().filter(|item| match item {
                Item::Chunk { seq: at, .. } | Item::Gap { seq: at, .. } => *at > seq,
                Item::Exit { .. } => true,
                _ => false,
            }).cloned().collect();
            prop_assert!(items(&mut used) == expected, "after {seq}");

            // By offset: each byte is the one that was written there, up to a hole or the end.
            let (select, total) = match select {
                0 => (Select::Stdout, stdout),
                1 => (Select::Stderr, stderr),
                _ => (Select::All, stdout + stderr),
            };
            let mut at = (total as f64 * part) as u64;
            let first = used.read_stream(select, at, 10_000).unwrap();
            prop_assert!(Reader::open(&dir).unwrap().read_stream(select, at, 10_000).unwrap() == first);
            for _ in 0..10_000 {
                let output = used.read_stream(select, at, 10_000).unwrap();
                let data = output.data.concat();
                if let Some(stream) = match select {
                    Select::Stdout => Some(Stream::Stdout),
                    Select::Stderr => Some(Stream::Stderr),
                    Select::All => None,
                } {
                    prop_assert!(data == bytes(stream, at, data.len()), "at {at}");
                }
                prop_assert_eq!(output.next, at + data.len() as u64);
                at = output.next;
                match output.then {
                    Then::More => prop_assert_eq!(data.len(), 10_000),
                    Then::Expired { oldest_kept } => {
                        prop_assert!(oldest_kept > at && follower.missing > 0);
                        at = oldest_kept;
                    }
                    Then::End => break,
                    Then::Pending => prop_assert!(false, "the run has ended"),
                }
            }
            prop_assert!(at >= total);
        }
    }
}
