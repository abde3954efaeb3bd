//! Daemons and keepers that die, stop, or have nothing to do.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandbox_tests::events::{NDJSON, SSE, joined};
use sandbox_tests::{Daemon, Options, Project, host};
use sandbox_wire::RunState;
use serde_json::json;
use std::time::{Duration, Instant};

/// Forgets a project without removing it: its daemon is gone.
fn leave(project: Project) {
    std::mem::forget(project);
}

#[test]
fn runs_survive_a_killed_daemon() {
    let daemon = Daemon::start();
    let project = daemon.project();
    let command = "i=0; while [ $i -lt 300 ]; do echo line $i; echo err $i >&2; sleep 0.01; i=$((i+1)); done; exit 7";
    let run = project.start(&json!({ "command": command }));
    let before: Vec<_> = project.events(&run, SSE, 0).filter(|event| event.is_output()).take(20).collect();
    let after_seq = before.last().and_then(|event| event.seq()).expect("twenty chunks");
    let token = daemon.client.token.clone();
    daemon.kill();
    std::thread::sleep(Duration::from_millis(600));
    let next = daemon.restart();
    assert_eq!(next.client.token, token, "the token stays");
    let adopted = next.adopt(&project);
    leave(project);
    // The stream goes on behind the last event that was seen, without a gap.
    let mut events = before;
    events.extend(adopted.events(&run, SSE, after_seq).all());
    let lines = |word: &str| (0..300).map(|n| format!("{word} {n}\n")).collect::<String>();
    assert_eq!(String::from_utf8_lossy(&joined(&events, "stdout")), lines("line"));
    assert_eq!(String::from_utf8_lossy(&joined(&events, "stderr")), lines("err"));
    let seqs: Vec<u64> = events.iter().filter(|event| event.is_output()).filter_map(|event| event.seq()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    let result = adopted.wait(&run, Duration::from_secs(10));
    assert_eq!((result.status, result.exit_code), (RunState::Exited, Some(7)), "{result:?}");
    assert_eq!((result.stdout, result.stderr), (lines("line"), lines("err")));
    // The same keeper serves what comes next.
    assert_eq!(adopted.ok("echo next"), "next\n");
    assert_eq!(next.keepers().len(), 1);
}

#[test]
fn a_daemon_that_hands_over_leaves_runs_to_the_next_one() {
    let daemon = Daemon::start();
    let project = daemon.project();
    let lines = (0..40).map(|n| format!("{n}\n")).collect::<String>();
    let command = "i=0; while [ $i -lt 40 ]; do echo $i; sleep 0.2; i=$((i+1)); done; exit 3";
    project.start(&json!({ "command": command }));
    // The run of a caller who waits is not killed because the daemon hangs up.
    let waiting = project.stream_as(NDJSON, &json!({ "command": command }));
    std::thread::sleep(Duration::from_millis(500));
    daemon.signal(Signal::SIGUSR2);
    let status = daemon.ended(Duration::from_secs(8)).expect("it does not wait for runs");
    assert!(status.success(), "{status}");
    drop(waiting);
    let next = daemon.restart();
    let adopted = next.adopt(&project);
    leave(project);
    let runs = adopted.runs();
    assert_eq!(runs.len(), 2);
    for id in runs.iter().map(|run| run["run_id"].as_str().expect("an id").to_owned()) {
        let result = adopted.wait(&id, Duration::from_secs(10));
        assert_eq!((result.status, result.exit_code), (RunState::Exited, Some(3)), "{result:?}");
        assert_eq!(result.stdout, lines);
    }
    assert_eq!(adopted.ok("echo next"), "next\n");
}

#[test]
fn a_run_that_ends_while_no_daemon_is_there_is_not_lost() {
    let daemon = Daemon::start();
    let project = daemon.project();
    let run = project.start(&json!({"command": "echo one; sleep 0.7; echo two; exit 5"}));
    assert!(project.events(&run, NDJSON, 0).any(|event| event.name == "stdout"));
    daemon.kill();
    // Longer than the run, shorter than the keeper's idle time.
    std::thread::sleep(Duration::from_millis(1800));
    let next = daemon.restart();
    let adopted = next.adopt(&project);
    leave(project);
    let result = adopted.wait(&run, Duration::from_secs(5));
    assert_eq!((result.status, result.exit_code, result.stdout.as_str()), (RunState::Exited, Some(5), "one\ntwo\n"));
    assert_eq!(adopted.summary(&run)["exit_code"], json!(5));
}

#[test]
fn a_run_that_ended_and_whose_keeper_has_gone_is_not_lost() {
    let daemon = Options::default().arg("--idle").arg("1s").start();
    let project = daemon.project();
    let run = project.start(&json!({"command": "sleep 0.5; echo done; exit 9"}));
    host::eventually(Duration::from_secs(2), || !daemon.keepers().is_empty());
    let keepers = daemon.keepers();
    daemon.kill();
    let gone =
        host::eventually(Duration::from_secs(10), || keepers.iter().all(|pid| host::comm(*pid) != "sandbox-keeper"));
    assert!(gone, "the keeper does not end when it is idle and alone");
    let next = daemon.restart();
    let adopted = next.adopt(&project);
    leave(project);
    let result = adopted.wait(&run, Duration::from_secs(5));
    assert_eq!((result.status, result.exit_code, result.stdout.as_str()), (RunState::Exited, Some(9), "done\n"));
}

#[test]
fn deadlines_hold_without_a_daemon() {
    let daemon = Daemon::start();
    let project = daemon.project();
    let marker = host::marker();
    let run =
        project.start(&json!({"command": format!("trap '' TERM; sleep {marker}; sleep {marker}"), "timeout_ms": 1500}));
    host::assert_alive(&marker);
    let started = Instant::now();
    daemon.kill();
    let gone = host::eventually(Duration::from_secs(5), || host::processes_with(&marker).is_empty());
    assert!(gone && started.elapsed() < Duration::from_millis(1500 + 1000 + 1500), "{:?}", started.elapsed());
    let next = daemon.restart();
    let adopted = next.adopt(&project);
    leave(project);
    assert_eq!(adopted.wait(&run, Duration::from_secs(5)).status, RunState::TimedOut);
}

#[test]
fn a_daemon_can_be_killed_at_any_moment() {
    let mut daemon = Daemon::start();
    let mut project = daemon.project();
    let mut runs = Vec::new();
    for round in 0..4 {
        for n in 0..5 {
            runs.push(project.start(&json!({"command": format!("echo {round}{n}; sleep 0.05; exit {n}")})));
        }
        std::thread::sleep(Duration::from_millis(20 * round));
        daemon.kill();
        let next = daemon.restart();
        let adopted = next.adopt(&project);
        leave(project);
        (daemon, project) = (next, adopted);
    }
    for (number, run) in runs.iter().enumerate() {
        let result = project.wait(run, Duration::from_secs(10));
        let (round, n) = (number / 5, number % 5);
        assert_eq!((result.status, result.exit_code), (RunState::Exited, i32::try_from(n).ok()), "{result:?}");
        assert_eq!(result.stdout, format!("{round}{n}\n"));
    }
    assert_eq!(project.runs().len(), runs.len());
}

#[test]
fn a_killed_keeper_loses_its_runs_and_nothing_else() {
    let daemon = Daemon::start();
    let (project, other) = (daemon.project(), daemon.project());
    let before = project.run("echo kept").run_id.to_string();
    let keeper = daemon.keepers();
    assert_eq!(keeper.len(), 1);
    let elsewhere = other.start(&json!({"command": "sleep 1.5; echo unhurt"}));
    let marker = host::marker();
    let run = project.start(&json!({"command": format!("echo begun; sleep {marker}")}));
    assert!(project.events(&run, NDJSON, 0).any(|event| event.name == "stdout"));
    kill(Pid::from_raw(keeper[0].cast_signed()), Signal::SIGKILL).expect("it is ours");
    host::eventually(Duration::from_secs(3), || host::processes_with(&marker).is_empty());
    host::assert_gone(&marker);
    let mut summary = json!(null);
    let lost = host::eventually(Duration::from_secs(10), || {
        summary = project.summary(&run);
        summary["status"] == "lost"
    });
    assert!(lost, "{summary}");
    assert_eq!(summary["exit_code"], json!(null), "{summary}");
    let output = project.client.get(&project.path(&format!("/runs/{run}/output?stream=stdout")));
    assert_eq!((output.status, output.text().as_str()), (200, "begun\n"), "what it had said is kept");
    assert_eq!(project.ok("echo next"), "next\n");
    assert_eq!(project.summary(&before)["status"], json!("exited"));
    assert_eq!(other.wait(&elsewhere, Duration::from_secs(10)).stdout, "unhurt\n");
}

#[test]
fn a_caller_whose_keeper_dies_gets_an_answer() {
    let daemon = Daemon::start();
    let project = daemon.project();
    project.ok("true");
    let keeper = daemon.keepers()[0];
    let marker = host::marker();
    let reply = std::thread::scope(|scope| {
        let call = scope.spawn(|| project.call(&json!({"command": format!("echo begun; sleep {marker}")})));
        host::assert_alive(&marker);
        kill(Pid::from_raw(keeper.cast_signed()), Signal::SIGKILL).expect("it is ours");
        call.join().expect("the call returns")
    });
    // Either a result that says so, or a problem; never silence.
    if reply.status == 200 {
        assert_eq!(reply.json()["status"], json!("lost"), "{}", reply.text());
    } else {
        assert!(reply.status >= 500 && !reply.code().is_empty(), "{}", reply.text());
    }
}

#[test]
fn a_stopped_daemon_lets_runs_finish_and_takes_no_new_ones() {
    let daemon = Options::default().arg("--drain").arg("5s").start();
    let project = daemon.project();
    let (marker, started) = (host::marker(), Instant::now());
    let reply = std::thread::scope(|scope| {
        let call = scope.spawn(|| project.call(&json!({"command": format!(": {marker}; sleep 1.5; echo finished")})));
        host::assert_alive(&marker);
        daemon.signal(Signal::SIGTERM);
        std::thread::sleep(Duration::from_millis(300));
        let refused = project.client.open("POST", &project.path("/run"), &[], br#"{"command": "touch new"}"#);
        if let Ok(refused) = refused.and_then(sandbox_tests::Incoming::finish) {
            assert_eq!((refused.status, refused.code().as_str()), (503, "draining"), "{}", refused.text());
            assert!(refused.header("retry-after").is_some());
        }
        call.join().expect("the call returns")
    });
    assert_eq!(reply.ok()["stdout"], json!("finished\n"));
    let status = daemon.ended(Duration::from_secs(5)).expect("the daemon ends after its last run");
    assert!(status.success() && started.elapsed() < Duration::from_secs(6), "{status} {:?}", started.elapsed());
    let next = daemon.restart();
    let adopted = next.adopt(&project);
    leave(project);
    assert_eq!(adopted.ok("ls"), "");
}

#[test]
fn what_does_not_finish_in_time_is_killed_and_recorded() {
    let daemon = Options::default().arg("--drain").arg("1s").start();
    let project = daemon.project();
    let marker = host::marker();
    let run = project.start(&json!({"command": format!("echo begun; sleep {marker}")}));
    host::assert_alive(&marker);
    let started = Instant::now();
    daemon.signal(Signal::SIGTERM);
    daemon.ended(Duration::from_secs(8)).expect("the daemon ends");
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    host::assert_gone(&marker);
    let next = daemon.restart();
    let adopted = next.adopt(&project);
    leave(project);
    let result = adopted.wait(&run, Duration::from_secs(5));
    assert_eq!((result.status, result.killed_by.as_deref()), (RunState::Cancelled, Some("shutdown")), "{result:?}");
    assert_eq!(result.stdout, "begun\n");
}

#[test]
fn an_idle_project_has_no_process_and_works_again() {
    let daemon = Options::default().arg("--idle").arg("1s").start();
    let project = daemon.project();
    project.ok("echo x > file; echo y > /tmp/file");
    let mut family: Vec<u32> = daemon.keepers().into_iter().flat_map(host::family).collect();
    family.extend(daemon.inside());
    family.sort_unstable();
    family.dedup();
    assert!(!family.is_empty());
    let gone = host::eventually(Duration::from_secs(8), || {
        family.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
    });
    assert!(gone, "alive: {:?}", family.iter().map(|pid| host::comm(*pid)).collect::<Vec<_>>());
    assert_eq!(project.ok("cat file"), "x\n");
}

#[test]
fn a_daemon_without_work_ends_when_asked_to() {
    let daemon = Options::default().arg("--idle-exit").arg("1s").start();
    let project = daemon.project();
    project.ok("sleep 1.5");
    let status = daemon.ended(Duration::from_secs(10)).expect("it ends");
    assert!(status.success(), "{status}");
    leave(project);
}

#[test]
fn one_state_folder_has_one_daemon() {
    let daemon = Daemon::start();
    let mut second = std::process::Command::new(sandbox_tests::programs::path("sandboxd"));
    second.args(["serve", "--listen", "127.0.0.1:0", "--state"]).arg(daemon.state());
    second.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut second = second.spawn().expect("it starts");
    let mut status = None;
    let ended = host::eventually(Duration::from_secs(10), || {
        status = second.try_wait().expect("it is our child");
        status.is_some()
    });
    if !ended {
        second.kill().expect("it is our child");
        second.wait().expect("it is our child");
    }
    assert!(status.is_some_and(|status| !status.success()), "a second daemon took the same state folder");
    assert_eq!(daemon.project().ok("echo first"), "first\n");
}
