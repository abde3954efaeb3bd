//! Output while it is written: events, offsets, resuming, slow and absent readers.

use sandbox_tests::events::{NDJSON, SSE, joined};
use sandbox_tests::{Client, Daemon, EventReader, Options, Reply, host, project};
use sandbox_wire::{Event, Omitted, RunState};
use serde_json::{Value, json};
use std::io::Read;
use std::time::{Duration, Instant};

#[test]
fn events_come_in_the_documented_order() {
    let project = project();
    for accept in [NDJSON, SSE] {
        let command = "echo one; sleep 0.15; echo two >&2; sleep 0.15; printf three; exit 4";
        let events = project.stream_as(accept, &json!({ "command": command })).all();
        let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names, ["start", "stdout", "stderr", "stdout", "result"], "{accept}");
        let run_id = events[0].data["run_id"].as_str().expect("start names the run").to_owned();
        assert_eq!(events.iter().filter_map(|event| event.seq()).take(3).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(events[1..4].iter().map(|event| event.offset()).collect::<Vec<_>>(), [Some(0), Some(0), Some(4)]);
        assert_eq!((joined(&events, "stdout"), joined(&events, "stderr")), (b"one\nthree".into(), b"two\n".into()));
        let result = &events[4].data;
        for (name, value) in [
            ("exit_code", json!(4)),
            ("status", json!("exited")),
            ("run_id", json!(run_id)),
            ("stdout_bytes", json!(9)),
            ("stderr_bytes", json!(4)),
            ("stdout", Value::Null),
            ("stderr", Value::Null),
        ] {
            assert_eq!(result[name], value, "{name} of {result}");
        }
        if accept == SSE {
            let ids: Vec<Option<String>> = events[1..4].iter().map(|event| event.id.clone()).collect();
            assert_eq!(ids, [Some("1".to_owned()), Some("2".to_owned()), Some("3".to_owned())]);
        }
        for event in &events {
            event.event(); // each has the type that clients are told of
        }
    }
}

#[test]
fn a_run_that_was_said_to_have_ended_is_listed_with_its_result() {
    let project = project();
    for number in 0..20 {
        let events = project.stream(&json!({"command": format!("echo {number}; exit 3")})).all();
        let run = events[0].data["run_id"].as_str().expect("an id").to_owned();
        let summary = project.summary(&run);
        let found = (&summary["status"], &summary["exit_code"], &summary["result"]["stdout"]);
        assert_eq!(found, (&json!("exited"), &json!(3), &json!(format!("{number}\n"))), "{summary}");
    }
}

#[test]
fn output_comes_while_the_command_runs() {
    let project = project();
    let mut events = project.stream(&json!({"command": "echo early; sleep 2; echo late"}));
    let started = Instant::now();
    events.until("stdout");
    assert!(started.elapsed() < Duration::from_millis(1500), "the first line came after {:?}", started.elapsed());
    assert_eq!(events.until("stdout").bytes(), b"late\n");
    assert!(started.elapsed() > Duration::from_millis(1500));
}

#[test]
fn a_character_is_never_split_between_chunks() {
    let project = project();
    // One byte per write; and many writes whose ends fall inside of characters.
    let slow = r"for b in '\342' '\202' '\254' '\360' '\237' '\246' '\200' a; do printf $b; sleep 0.03; done";
    let fast = "i=0; while [ $i -lt 4000 ]; do printf 'äö€🦀'; i=$((i+1)); done";
    for (command, text) in [(slow, "€🦀a".to_owned()), (fast, "äö€🦀".repeat(4000))] {
        let events = project.stream(&json!({ "command": command })).all();
        for event in events.iter().filter(|event| event.is_output()) {
            assert_eq!(event.data["encoding"], Value::Null, "a chunk was cut inside of a character: {event:?}");
        }
        assert_eq!(String::from_utf8(joined(&events, "stdout")).as_deref(), Ok(text.as_str()));
    }
}

#[test]
fn chunks_that_are_no_text_come_as_base64() {
    let project = project();
    let events = project.stream(&json!({"command": r"printf 'a\377\376b'; sleep 0.1; printf 'ok'"})).all();
    assert_eq!(joined(&events, "stdout"), b"a\xff\xfebok");
    assert!(events.iter().any(|event| event.data["encoding"] == "base64"));
    assert_eq!(events.iter().filter(|event| event.data["data"] == "ok").count(), 1);
}

#[test]
fn mebibytes_of_binary_arrive_unchanged_in_both_forms() {
    let project = project();
    let sum = project.ok("head -c 5000000 /dev/urandom > random; sha256sum < random | cut -c1-64").trim().to_owned();
    for accept in [NDJSON, SSE] {
        let events = project.stream_as(accept, &json!({"command": "cat random"})).all();
        let bytes = joined(&events, "stdout");
        assert_eq!((bytes.len(), sha256(&project, &bytes)), (5_000_000, sum.clone()), "{accept}");
    }
    let raw = project.run("cat random").run_id;
    let reply = output(&project, raw.as_str(), "stream=stdout&follow=true");
    assert_eq!((reply.body.len(), sha256(&project, &reply.body)), (5_000_000, sum));
}

/// Computed inside, so that nothing here has to.
fn sha256(project: &sandbox_tests::Project, bytes: &[u8]) -> String {
    use base64::Engine;
    let stdin = base64::engine::general_purpose::STANDARD.encode(bytes);
    let body = json!({"command": "sha256sum | cut -c1-64", "stdin": stdin, "stdin_encoding": "base64"});
    project.ok_with(&body).trim().to_owned()
}

#[track_caller]
fn output(project: &sandbox_tests::Project, run: &str, query: &str) -> Reply {
    project.client.get(&project.path(&format!("/runs/{run}/output?{query}")))
}

#[test]
fn a_stream_can_be_resumed_after_any_event() {
    let project = project();
    let command = "i=0; while [ $i -lt 40 ]; do echo $i; echo e$i >&2; sleep 0.01; i=$((i+1)); done; exit 6";
    let all = project.stream(&json!({ "command": command })).all();
    let run = all[0].data["run_id"].as_str().expect("an id").to_owned();
    let chunks: Vec<_> = all.iter().filter(|event| event.is_output()).cloned().collect();
    assert!(chunks.len() > 10, "{} chunks", chunks.len());
    for after in [0, 1, chunks.len() / 2, chunks.len() - 1, chunks.len()] {
        let path = project.path(&format!("/runs/{run}/events"));
        let by_query = project.events(&run, NDJSON, after as u64).all();
        let headers = [("Accept", SSE), ("Last-Event-ID", &*after.to_string())];
        let by_header = EventReader::new(project.client.open("GET", &path, &headers, &[]).expect("answered")).all();
        for (how, events) in [("after", by_query), ("Last-Event-ID", by_header)] {
            let rest: Vec<_> = events.iter().filter(|event| event.is_output()).map(|e| (e.seq(), e.bytes())).collect();
            let expected: Vec<_> = chunks[after..].iter().map(|e| (e.seq(), e.bytes())).collect();
            assert_eq!(rest, expected, "{how} {after}");
            assert_eq!(events.iter().filter(|event| event.name == "result").count(), 1);
            assert_eq!(events.last().expect("a result").data["exit_code"], json!(6));
        }
    }
}

#[test]
fn a_reader_may_leave_and_come_back_while_the_run_goes_on() {
    let project = project();
    let run =
        project.start(&json!({"command": "i=0; while [ $i -lt 60 ]; do echo line $i; sleep 0.02; i=$((i+1)); done"}));
    let mut text = Vec::new();
    let mut after = 0;
    for _ in 0..5 {
        for event in project.events(&run, SSE, after).filter(|event| event.is_output()).take(5) {
            assert_eq!((event.offset(), event.seq()), (Some(text.len() as u64), Some(after + 1)));
            text.extend(event.bytes());
            after += 1;
        }
    }
    let rest = project.events(&run, SSE, after).all();
    rest.iter().filter(|event| event.is_output()).for_each(|event| text.extend(event.bytes()));
    let expected: String = (0..60).map(|n| format!("line {n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&text), expected);
}

#[test]
fn two_readers_see_the_same() {
    let project = project();
    let run = project.start(&json!({"command": "sleep 0.3; i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); done"}));
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| project.events(&run, SSE, 0).all());
        let second = scope.spawn(|| project.events(&run, NDJSON, 0).all());
        (first.join().expect("read"), second.join().expect("read"))
    });
    let expected: String = (0..300).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&joined(&first, "stdout")), expected);
    assert_eq!(joined(&first, "stdout"), joined(&second, "stdout"));
}

#[test]
fn output_is_read_from_any_offset() {
    let project = project();
    let run = project.run("printf 0123456789; printf abcde >&2").run_id.to_string();
    for (query, text) in [
        ("stream=stdout", "0123456789"),
        ("stream=stdout&after=0", "0123456789"),
        ("stream=stdout&after=4", "456789"),
        ("stream=stdout&after=4&max_bytes=3", "456"),
        ("stream=stdout&after=10", ""),
        ("stream=stderr&after=1", "bcde"),
    ] {
        let reply = output(&project, &run, query);
        assert_eq!((reply.status, reply.text().as_str()), (200, text), "{query}");
    }
    let both = output(&project, &run, "stream=all").text();
    assert!(both == "0123456789abcde" || both == "abcde0123456789", "{both}");
    for query in ["stream=none", "after=-1", "after=x", "max_bytes=x", "wait_ms=-5"] {
        assert_eq!(output(&project, &run, query).status, 400, "{query}");
    }
    output(&project, "run_01JD8Z5Q6W9J5Q0M3V7T2K4X8A", "").refused(404, "run_not_found");
}

#[test]
fn a_long_poll_waits_for_the_next_byte() {
    let project = project();
    let run = project.start(&json!({"command": "printf a; sleep 1; printf b; sleep 60"}));
    assert!(project.events(&run, NDJSON, 0).any(|event| event.name == "stdout"));
    let started = Instant::now();
    assert_eq!(output(&project, &run, "stream=stdout&after=1&wait_ms=10000").text(), "b");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    let started = Instant::now();
    assert_eq!(output(&project, &run, "stream=stdout&after=2&wait_ms=300").text(), "");
    assert!(started.elapsed() > Duration::from_millis(250) && started.elapsed() < Duration::from_secs(3));
    assert_eq!(output(&project, &run, "stream=stdout&after=2").text(), "");
    project.client.delete(&project.path(&format!("/runs/{run}")));
}

#[test]
fn following_ends_with_the_run() {
    let project = project();
    let run = project.start(&json!({"command": "for i in 1 2 3; do printf $i; sleep 0.2; done"}));
    assert_eq!(output(&project, &run, "stream=stdout&follow=true").text(), "123");
    assert_eq!(output(&project, &run, "stream=stdout&follow=true&after=1").text(), "23");
}

#[test]
fn output_that_is_not_kept_any_more_says_where_it_begins_again() {
    let daemon = Options::default()
        .policy("small-output", "name = 'small-output'\nextends = 'default'\n[limits]\noutput = '1MiB'\n")
        .start();
    let project = daemon.project_of("small-output");
    // 8,000,000 bytes: lines of eight.
    let result = project.run("seq -f %07.0f 0 999999");
    assert_eq!((result.status, result.stdout_bytes), (RunState::Exited, 8_000_000), "{result:?}");
    assert_eq!(result.truncated.stdout, Some(Omitted { omitted_from: 1 << 19, omitted_to: 8_000_000 - (1 << 19) }));
    assert!(result.stdout.starts_with("0000000\n") && result.stdout.ends_with("0999999\n"));
    let run = result.run_id.to_string();
    let expired = output(&project, &run, "stream=stdout&after=4000000");
    let problem = expired.refused(410, "output_expired");
    let oldest = problem["details"].as_object().expect("details").values().filter_map(Value::as_u64).max();
    let oldest = oldest.unwrap_or_else(|| panic!("no offset: {problem}"));
    assert!(oldest > 4_000_000 && oldest < 8_000_000, "{problem}");
    let kept = output(&project, &run, &format!("stream=stdout&after={oldest}&max_bytes=9000000"));
    assert_eq!((kept.status, kept.body.len() as u64), (200, 8_000_000 - oldest));
    assert!(kept.text().ends_with("0999999\n"));
    // The beginning is kept as well, and a reader of events is told of the hole.
    assert!(output(&project, &run, "stream=stdout&after=0&max_bytes=16").text() == "0000000\n0000001\n");
    let events = project.events(&run, NDJSON, 0).all();
    let missing: u64 = events
        .iter()
        .filter_map(|event| match event.event() {
            Event::Gap { stdout_bytes, .. } => Some(stdout_bytes),
            _ => None,
        })
        .sum();
    let got: u64 = events.iter().filter(|event| event.name == "stdout").map(|event| event.bytes().len() as u64).sum();
    assert_eq!(missing + got, 8_000_000);
    let journal = std::process::Command::new("du").arg("-sb").arg(daemon.state()).output().expect("du runs");
    let bytes: u64 = String::from_utf8_lossy(&journal.stdout)
        .split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    assert!(bytes < 4_000_000, "the journal keeps {bytes} bytes");
}

const GIBIBYTE: u64 = 1 << 30;
/// What a daemon or keeper may have used at most, whatever ran: a promise about memory that is flat.
const FLAT_KIB: u64 = 64 << 10;

#[track_caller]
fn assert_flat(daemon: &Daemon) {
    for (name, pid) in daemon.keepers().into_iter().map(|pid| ("keeper", pid)).chain([("daemon", daemon.pid)]) {
        let peak = host::status_kib(pid, "VmHWM").unwrap_or_else(|| panic!("the {name}'s memory is readable"));
        assert!(peak < FLAT_KIB, "the {name} used {peak} KiB");
    }
    assert!(!daemon.keepers().is_empty(), "no keeper was found to look at");
}

#[test]
fn a_gibibyte_without_a_newline_leaves_memory_flat() {
    let daemon = Daemon::start();
    let project = daemon.project();
    let result = project.run(&format!("printf begin; head -c {GIBIBYTE} /dev/zero; printf end"));
    let total = GIBIBYTE + 8;
    assert_eq!((result.status, result.exit_code, result.stdout_bytes), (RunState::Exited, Some(0), total));
    assert_eq!(result.truncated.stdout, Some(Omitted { omitted_from: 1 << 19, omitted_to: total - (1 << 19) }));
    assert_eq!(result.stdout.len(), 1 << 20);
    assert!(result.stdout.starts_with("begin\0") && result.stdout.ends_with("\0end"));
    assert_flat(&daemon);
}

#[test]
fn a_gibibyte_to_a_live_reader_leaves_memory_flat() {
    let daemon = Daemon::start();
    let project = daemon.project();
    let run = project.start(&json!({"command": format!("head -c {GIBIBYTE} /dev/zero")}));
    let path = project.path(&format!("/runs/{run}/output?stream=stdout&follow=true"));
    let mut answer = project.client.open("GET", &path, &[], &[]).expect("the daemon answers");
    let mut buffer = vec![0; 1 << 18];
    let mut read = 0;
    while let Ok(bytes @ 1..) = answer.read(&mut buffer) {
        read += bytes as u64;
    }
    let result = project.wait(&run, Duration::from_secs(30));
    assert_eq!(result.stdout_bytes, GIBIBYTE);
    // A reader that falls behind by more than the journal keeps is cut off, and can tell; it never gets more.
    assert!(read > 1 << 20 && read <= GIBIBYTE, "{read}");
    assert_flat(&daemon);
}

/// Opens a stream and reads nothing.
fn stalled(client: &Client, path: &str) -> sandbox_tests::Incoming {
    client.open("GET", path, &[("Accept", NDJSON)], &[]).expect("the daemon answers")
}

#[test]
fn a_reader_that_stalls_holds_nothing_up() {
    let daemon = Daemon::start();
    let project = daemon.project();
    let command = "head -c 300000000 /dev/zero | tr '\\0' x; echo done > done";
    let run = project.start(&json!({ "command": command }));
    let stalled: Vec<_> = ["events?after=0", "output?stream=stdout&follow=true", "events?after=0"]
        .iter()
        .map(|rest| stalled(&project.client, &project.path(&format!("/runs/{run}/{rest}"))))
        .collect();
    let other = project.ok("echo another run");
    assert_eq!(other, "another run\n");
    let result = project.wait(&run, Duration::from_secs(60));
    assert_eq!((result.exit_code, result.stdout_bytes), (Some(0), 300_000_000));
    assert_eq!(project.ok("cat done"), "done\n");
    assert_flat(&daemon);
    drop(stalled);
}

#[test]
fn a_caller_of_run_that_reads_slowly_does_not_stop_the_command() {
    let daemon = Daemon::start();
    let project = daemon.project();
    let mut events = project.stream(&json!({"command": "head -c 200000000 /dev/zero | tr '\\0' y; echo end > end"}));
    let start = events.until("start");
    let run = start.data["run_id"].as_str().expect("an id").to_owned();
    let ended = host::eventually(Duration::from_secs(60), || project.summary(&run)["status"] == "exited");
    assert!(ended, "the command waits for its reader: {}", project.summary(&run));
    assert_eq!(project.ok("cat end"), "end\n");
    // What the slow reader gets in the end is consistent, holes included.
    let mut bytes = 0;
    let mut result = None;
    for event in events {
        match event.event() {
            Event::Stdout(chunk) => {
                assert_eq!(chunk.offset, bytes);
                bytes += chunk.data.len() as u64;
            }
            Event::Gap { stdout_bytes, .. } => bytes += stdout_bytes,
            Event::Result(end) => result = Some(end.result),
            _ => {}
        }
    }
    assert_eq!((bytes, result.expect("a result").stdout_bytes), (200_000_000, 200_000_000));
    assert_flat(&daemon);
}
