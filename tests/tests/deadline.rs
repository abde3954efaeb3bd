//! Ends of runs: deadlines, kills, callers that go away, and what stays in the background.

use sandbox_tests::events::NDJSON;
use sandbox_tests::{host, project, require};
use sandbox_wire::RunState;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A deadline, the second in which everything has to be gone, and the time a busy host may need besides.
const DEADLINE_MS: u64 = 700;
const ANSWERED_WITHIN: Duration = Duration::from_millis(DEADLINE_MS + 1000 + 1500);

#[test]
fn timeouts_out_of_range_are_refused() {
    let project = project();
    for timeout in [json!(0), json!(-1), json!(300_001), json!(9_000_000_000_000_000_000_i64)] {
        let problem =
            project.call(&json!({"command": "true", "timeout_ms": timeout})).refused(400, "timeout_out_of_range");
        assert_eq!(problem["retryable"], json!(false));
    }
    for timeout in [json!("x"), json!("100"), json!(1.5), json!([]), json!(true), json!(1e30)] {
        let reply = project.call(&json!({"command": "true", "timeout_ms": timeout}));
        let code = reply.code();
        assert!(
            reply.status == 400 && ["invalid_request", "timeout_out_of_range"].contains(&code.as_str()),
            "{timeout}"
        );
    }
    assert_eq!(project.runs(), Vec::<Value>::new());
    for timeout in [1000, 300_000] {
        assert_eq!(project.run_with(&json!({"command": "true", "timeout_ms": timeout})).exit_code, Some(0));
    }
}

#[test]
fn a_timeout_of_a_millisecond_is_one() {
    let project = project();
    let result = project.run_with(&json!({"command": "sleep 30", "timeout_ms": 1}));
    assert_eq!((result.status, result.exit_code, result.timed_out), (RunState::TimedOut, Some(124), true));
}

#[test]
fn at_the_deadline_a_run_is_asked_to_stop_and_may_clean_up() {
    let project = project();
    let command = "trap 'echo cleaning; exit 0' TERM; echo begun; while :; do sleep 0.05; done";
    let result = project.run_with(&json!({"command": command, "timeout_ms": 400}));
    assert_eq!(
        (result.status, result.exit_code, result.timed_out),
        (RunState::TimedOut, Some(124), true),
        "{result:?}"
    );
    assert_eq!(result.stdout, "begun\ncleaning\n");
    assert!(result.duration_ms >= 400.0 && result.duration_ms < 1400.0, "{}", result.duration_ms);
}

/// Runs a command that does what it can to stay, past its deadline.
#[track_caller]
fn must_end(name: &str, command: Value, marker: &str) {
    let project = project();
    let started = Instant::now();
    let reply = project.call(&json!({"command": command, "timeout_ms": DEADLINE_MS}));
    let elapsed = started.elapsed();
    let left = host::processes_with(marker);
    let result = reply.ok();
    assert_eq!((&result["status"], &result["exit_code"]), (&json!("timed_out"), &json!(124)), "{name}: {result}");
    assert!(elapsed < ANSWERED_WITHIN * host::patience(), "{name}: answered after {elapsed:?}");
    assert_eq!(left, Vec::<u32>::new(), "{name}: alive after the answer");
}

#[test]
fn stubborn_commands_end_at_their_deadline() {
    let shell = |name: &str, script: &str| {
        let marker = host::marker();
        must_end(name, json!(script.replace("SLEEP", &format!("sleep {marker}"))), &marker);
    };
    shell("ignores SIGTERM", "trap '' TERM INT HUP; SLEEP; SLEEP");
    shell("double fork into the background", "(SLEEP & SLEEP &) & SLEEP");
    shell("stops itself", "SLEEP & kill -STOP $$; SLEEP");
    shell("stops its group", "SLEEP & kill -STOP 0; SLEEP");
    shell("closes its stdio", "exec <&- >&- 2>&-; SLEEP");
    shell("starts anew when asked to stop", "trap 'SLEEP & SLEEP' TERM; while :; do SLEEP & wait; done");
    shell("many of them", "i=0; while [ $i -lt 60 ]; do SLEEP & i=$((i+1)); done; trap '' TERM; wait; SLEEP");
}

#[test]
fn a_session_of_its_own_does_not_survive_the_deadline() {
    require!("setsid");
    let marker = host::marker();
    let script = format!(
        "setsid sh -c 'trap \"\" TERM; setsid sleep {marker} & sleep {marker}' & setsid -f sleep {marker}; sleep {marker}"
    );
    must_end("setsid", json!(script), &marker);
}

#[test]
fn blocked_signals_do_not_help_past_the_deadline() {
    require!("python3");
    let programs = [
        (
            "blocks all signals",
            "import os, signal
if os.fork() == 0: os.execvp('sh', ['sh', '-c', 'sleep MARKER; :'])
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
os.execvp('sleep', ['sleep', 'MARKER'])",
        ),
        (
            "ignores all signals",
            "import os, signal
for n in range(1, 32):
    if n not in (9, 19): signal.signal(n, signal.SIG_IGN)
if os.fork() == 0: os.execvp('sleep', ['sleep', 'MARKER'])
os.execvp('sleep', ['sleep', 'MARKER'])",
        ),
        (
            "forks twice into a session of its own, without stdio",
            "import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for n in (0, 1, 2): os.close(n)
        os.execvp('sleep', ['sleep', 'MARKER'])
    os._exit(0)
os.execvp('sh', ['sh', '-c', 'trap \"\" TERM; while :; do sleep MARKER; done'])",
        ),
        (
            "forks faster than it is killed",
            "import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for n in range(20):
    if os.fork() == 0:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                if os.fork(): os._exit(0)
            except OSError: pass
        'MARKER'
os.execvp('sleep', ['sleep', 'MARKER'])",
        ),
    ];
    for (name, program) in programs {
        let marker = host::marker();
        must_end(name, json!(["python3", "-c", program.replace("MARKER", &marker)]), &marker);
    }
}

#[test]
fn output_from_before_the_deadline_is_kept() {
    let project = project();
    let result = project.run_with(&json!({"command": "echo early; echo late >&2; sleep 60", "timeout_ms": 300}));
    assert_eq!((result.stdout.as_str(), result.stderr.as_str()), ("early\n", "late\n"));
}

#[test]
fn background_processes_end_with_their_run() {
    let project = project();
    for command in [
        "sleep MARKER & echo hi",
        "(sleep MARKER &) ; echo hi",
        "nohup sleep MARKER >/dev/null 2>&1 & echo hi",
        "sh -c 'trap \"\" HUP TERM; sleep MARKER & sleep MARKER' & sleep 0.1; echo hi",
    ] {
        let marker = host::marker();
        let started = Instant::now();
        let result = project.run(&command.replace("MARKER", &marker));
        let elapsed = started.elapsed();
        let left = host::processes_with(&marker);
        assert_eq!((result.exit_code, result.stdout.as_str()), (Some(0), "hi\n"), "{command}: {result:?}");
        assert!(
            elapsed < Duration::from_secs(2) * host::patience(),
            "{command}: the reply waited {elapsed:?} for a grandchild"
        );
        assert!(result.lingering >= 1, "{command}: {}", result.lingering);
        assert_eq!(left, Vec::<u32>::new(), "{command}: alive after the answer");
    }
}

#[test]
fn output_of_a_grandchild_is_drained_until_it_is_quiet() {
    let project = project();
    // Written after the main process has ended, without a pause as long as the quiet period.
    let result = project.run("(for i in 1 2 3 4; do echo $i; sleep 0.02; done) & exit 0");
    assert_eq!(result.stdout, "1\n2\n3\n4\n");
    // One that never falls quiet is cut off.
    let started = Instant::now();
    let result = project.run("(while :; do echo x; done) & exit 0");
    assert!(started.elapsed() < Duration::from_secs(3) * host::patience(), "{:?}", started.elapsed());
    assert_eq!((result.status, result.lingering >= 1), (RunState::Exited, true));
}

#[test]
fn background_processes_are_kept_when_asked_for_and_end_with_the_project() {
    let project = project();
    let marker = host::marker();
    let started = Instant::now();
    let command = format!("sleep {marker} & echo up");
    let run = project.start(&json!({"command": command, "keep_background": true}));
    let result = project.wait(&run, Duration::from_secs(5));
    assert!(started.elapsed() < Duration::from_secs(3) * host::patience(), "{:?}", started.elapsed());
    assert_eq!((result.exit_code, result.stdout.as_str(), result.lingering), (Some(0), "up\n", 1), "{result:?}");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(host::processes_with(&marker).len(), 1, "the background process did not stay");
    assert_eq!(project.ok("echo still works"), "still works\n");
    drop(project);
    let gone = host::eventually(Duration::from_secs(5), || host::processes_with(&marker).is_empty());
    assert!(gone, "a background process outlived its project");
}

#[test]
fn a_run_can_be_killed() {
    let project = project();
    let marker = host::marker();
    let run = project.start(
        &json!({"command": format!("trap '' TERM; echo begun; sleep {marker} & sleep {marker}; sleep {marker}")}),
    );
    host::assert_alive(&marker);
    // The shell's own words have the marker before it has said anything.
    assert!(project.events(&run, NDJSON, 0).any(|event| event.name == "stdout"));
    let reply = project.client.delete(&project.path(&format!("/runs/{run}")));
    assert!((200..300).contains(&reply.status), "{}", reply.text());
    let result = project.wait(&run, Duration::from_secs(3));
    assert_eq!(result.status, RunState::Cancelled, "{result:?}");
    assert_eq!((result.stdout.as_str(), result.timed_out), ("begun\n", false));
    assert_eq!(result.killed_by.as_deref(), Some("caller"));
    host::assert_gone(&marker);
    // A second time there is nothing to kill, and that is no failure of ours.
    let again = project.client.delete(&project.path(&format!("/runs/{run}")));
    assert!([200, 202, 204, 409].contains(&again.status), "{}", again.text());
}

#[test]
fn a_caller_that_goes_away_ends_its_run() {
    let project = project();
    for accept in ["application/json", "text/event-stream", "application/x-ndjson"] {
        let marker = host::marker();
        let body = json!({"command": format!("echo begun; sleep {marker}")}).to_string();
        let request = project.client.request("POST", &project.path("/run"), &[("Accept", accept)], body.as_bytes());
        let mut connection =
            sandbox_tests::http::Connection::open(&project.client.address).expect("the daemon listens");
        connection.send(&request).expect("the request is sent");
        host::assert_alive(&marker);
        drop(connection);
        let gone = host::eventually(Duration::from_secs(4), || host::processes_with(&marker).is_empty());
        assert!(gone, "{accept}: the run goes on without its caller");
        let ended = host::eventually(Duration::from_secs(3), || project.runs()[0]["status"] != "running");
        assert!(ended && project.runs()[0]["status"] == "cancelled", "{accept}: {}", project.runs()[0]);
    }
}

#[test]
fn a_run_is_kept_when_its_caller_asked_for_that() {
    let project = project();
    let marker = host::marker();
    let body =
        json!({"command": format!("echo begun; sleep 1; echo done; : {marker}"), "on_disconnect": "keep"}).to_string();
    let request = project.client.request("POST", &project.path("/run"), &[], body.as_bytes());
    let mut connection = sandbox_tests::http::Connection::open(&project.client.address).expect("the daemon listens");
    connection.send(&request).expect("the request is sent");
    host::assert_alive(&marker);
    drop(connection);
    let run = project.runs()[0]["run_id"].as_str().expect("an id").to_owned();
    let result = project.wait(&run, Duration::from_secs(10));
    assert_eq!((result.status, result.stdout.as_str()), (RunState::Exited, "begun\ndone\n"), "{result:?}");
}

#[test]
fn a_background_run_does_not_end_with_the_connection_that_started_it() {
    let project = project();
    let run = project.start(&json!({"command": "sleep 0.7; echo done"}));
    let result = project.wait(&run, Duration::from_secs(10));
    assert_eq!((result.status, result.stdout.as_str()), (RunState::Exited, "done\n"));
}

#[test]
fn reading_again_does_not_restart_the_clock() {
    let project = project();
    let started = Instant::now();
    let run = project.start(&json!({"command": "sleep 60", "timeout_ms": 1200}));
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(200));
        drop(project.events(&run, sandbox_tests::events::SSE, 0));
    }
    let result = project.wait(&run, Duration::from_secs(5));
    assert_eq!(result.status, RunState::TimedOut);
    assert!(
        started.elapsed() < Duration::from_millis(1200 + 1000 + 1500) * host::patience(),
        "{:?}",
        started.elapsed()
    );
}
