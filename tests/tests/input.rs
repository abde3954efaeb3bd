//! Standard input that comes while a command runs: over HTTP and by an agent's tools.

use sandbox_tests::mcp::Session;
use sandbox_tests::{Project, project};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::time::Duration;

const TIME: Duration = Duration::from_secs(20);

fn send(project: &Project, run: &str, bytes: &[u8]) -> sandbox_tests::http::Reply {
    let headers = [("content-type", "application/octet-stream")];
    project.client.send("POST", &project.path(&format!("/runs/{run}/input")), &headers, bytes)
}

fn eof(project: &Project, run: &str) -> sandbox_tests::http::Reply {
    project.client.post(&project.path(&format!("/runs/{run}/eof")), &json!({}))
}

#[test]
fn bytes_arrive_as_they_were_sent_and_then_the_end() {
    let project = project();
    let run = project.start(&json!({"command": "od -An -v -tx1"}));
    assert_eq!(send(&project, &run, b"one\n").ok()["taken"], 4);
    assert_eq!(send(&project, &run, b"\0\xff\x80").ok()["taken"], 3);
    assert_eq!(eof(&project, &run).ok()["taken"], 0);
    let result = project.wait(&run, TIME);
    assert_eq!((result.stdout.as_str(), result.exit_code), (" 6f 6e 65 0a 00 ff 80\n", Some(0)));
    send(&project, &run, b"late").refused(409, "run_ended");
    eof(&project, &run).refused(409, "run_ended");
}

#[test]
fn a_conversation_goes_to_and_fro() {
    let project = project();
    let run = project.start(&json!({"command": "while read -r line; do echo \"got $line\"; done; echo bye"}));
    let mut events = project.events(&run, sandbox_tests::events::NDJSON, 0);
    for word in ["one", "two"] {
        send(&project, &run, format!("{word}\n").as_bytes()).ok();
        let said = events.find(|event| event.name == "stdout").expect("an answer");
        assert_eq!(said.data["data"], format!("got {word}\n"));
    }
    eof(&project, &run).ok();
    assert_eq!(project.wait(&run, TIME).stdout, "got one\ngot two\nbye\n");
}

#[test]
fn more_than_a_pipe_holds_is_taken_whole() {
    let project = project();
    let run = project.start(&json!({"command": "sleep 0.3; sha256sum; wc -c"}));
    let much: Vec<u8> = (0..3_500_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    assert_eq!(send(&project, &run, &much).ok()["taken"], much.len());
    eof(&project, &run).ok();
    let digest: String = Sha256::digest(&much).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(project.wait(&run, TIME).stdout, format!("{digest}  -\n0\n"));
}

#[test]
fn who_does_not_read_holds_up_nobody_and_dies_in_time() {
    let project = project();
    let run = project.start(&json!({"command": "sleep 60", "timeout_ms": 1500}));
    let much = vec![b'x'; 1 << 20];
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| send(&project, &run, &much));
        assert_eq!(project.ok("echo alive"), "alive\n");
        let sent = sent.join().expect("no panic");
        // Its end has cut the input short.
        assert!(sent.status == 409 || sent.ok()["taken"].as_u64().is_some_and(|taken| taken < 1 << 20), "{sent:?}");
    });
    assert!(project.wait(&run, TIME).timed_out);
}

#[test]
fn input_is_closed_unless_it_was_left_open() {
    let project = project();
    // Whatever is waited for has its input from the start.
    assert_eq!(project.ok("cat; echo done"), "done\n");
    let run = project.start(&json!({"command": "cat; sleep 5", "stdin": "all of it"}));
    let refused = send(&project, &run, b"more").refused(409, "input_closed");
    assert!(refused["next_actions"][0].as_str().is_some_and(|next| next.contains("without stdin")), "{refused}");
    project.client.delete(&project.path(&format!("/runs/{run}"))).ok();
    let run = project.start(&json!({"command": "exec <&-; echo closed; sleep 5"}));
    assert!(project.events(&run, sandbox_tests::events::NDJSON, 0).any(|event| event.name == "stdout"));
    send(&project, &run, b"x").refused(409, "input_closed");
    let unknown = "run_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    send(&project, unknown, b"x").refused(404, "run_not_found");
    let much = vec![b'x'; 9 << 20];
    send(&project, &run, &much).refused(413, "body_too_large");
}

#[test]
fn another_projects_run_takes_nothing() {
    let daemon = sandbox_tests::Options::default().start();
    let (ours, theirs) = (daemon.project(), daemon.project());
    let run = theirs.start(&json!({"command": "cat"}));
    send(&ours, &run, b"x").refused(404, "run_not_found");
    eof(&theirs, &run).ok();
    assert_eq!(theirs.wait(&run, TIME).stdout, "");
}

#[test]
fn an_agent_answers_a_commands_questions() {
    let project = project();
    for session in [Session::open(&project.client), Session::without(&project.client)] {
        let command =
            "printf 'name? '; read -r name; printf 'age? '; read -r age; echo \"$name is $age\"; cat | od -An -tx1";
        let arguments = json!({"project_id": project.id, "command": command, "interactive": true, "wait_ms": 200});
        let begun = session.call("run_command", &arguments);
        let run = begun.data()["run_id"].clone();
        assert!(begun.text().contains("run_input"), "{begun:?}");
        let input = |arguments: Value| {
            let mut arguments = arguments;
            arguments["run_id"] = run.clone();
            session.call("run_input", &arguments)
        };
        assert_eq!(input(json!({"text": "Ada\n"})).data()["taken"], 4);
        assert_eq!(input(json!({"text": "36\n"})).data()["taken"], 3);
        assert_eq!(input(json!({"text": "/wA=", "encoding": "base64", "eof": true})).data()["taken"], 2);
        let result = project.wait(run.as_str().expect("an id"), TIME);
        assert_eq!(result.stdout, "name? age? Ada is 36\n ff 00\n");
        assert!(input(json!({"text": "late"})).refused().contains("has ended"));
        assert!(input(json!({"text": "???", "encoding": "base64"})).refused().contains("base64"));
    }
}

#[test]
fn a_run_that_is_just_being_started_can_be_written_to_and_killed() {
    let daemon = sandbox_tests::Options::default().start();
    let session = Session::without(&daemon.client);
    for _ in 0..5 {
        // A project's first command takes longest to start.
        let project = daemon.project();
        let begin = |command: &str| {
            let arguments = json!({"project_id": project.id, "command": command, "interactive": true, "wait_ms": 0});
            session.call("run_command", &arguments).data()["run_id"].clone()
        };
        let run = begin("read -r line; echo \"got $line\"");
        assert_eq!(session.call("run_input", &json!({"run_id": run, "text": "it\n"})).data()["taken"], 3);
        assert_eq!(project.wait(run.as_str().expect("an id"), TIME).stdout, "got it\n");
        let project = daemon.project();
        let arguments = json!({"project_id": project.id, "command": "sleep 60", "wait_ms": 0});
        let run = session.call("run_command", &arguments).data()["run_id"].clone();
        assert_eq!(session.call("run_kill", &json!({"run_id": run})).data()["status"], "cancelled");
    }
}

#[test]
fn without_interactive_input_is_empty_and_the_answer_is_waited_for() {
    let project = project();
    let session = Session::without(&project.client);
    let call = |arguments: Value| {
        let mut arguments = arguments;
        arguments["project_id"] = json!(project.id);
        session.call("run_command", &arguments)
    };
    assert_eq!(call(json!({"command": "cat; echo over"})).text(), "Exit code: 0\n\nSTDOUT:\nover\n");
    // One that ends at once is an answer like any other.
    assert_eq!(call(json!({"command": "echo hi", "interactive": true})).text(), "Exit code: 0\n\nSTDOUT:\nhi\n");
    let left = call(json!({"command": "sleep 30", "wait_ms": 0}));
    assert!(left.text().starts_with("status: running"), "{left:?}");
    let run = left.data()["run_id"].clone();
    assert!(session.call("run_input", &json!({"run_id": run, "text": "x"})).refused().contains("closed"));
    assert_eq!(session.call("run_kill", &json!({"run_id": run})).data()["status"], "cancelled");
}

#[test]
fn a_stream_may_leave_its_input_open() {
    let project = project();
    let mut events = project.stream(&json!({"command": "read -r line; echo \"got $line\"", "interactive": true}));
    let start = events.next().expect("it starts");
    let run = start.data["run_id"].as_str().expect("an id").to_owned();
    send(&project, &run, b"it\n").ok();
    assert_eq!(events.find(|event| event.name == "stdout").expect("an answer").data["data"], "got it\n");
    assert_eq!(events.last().expect("an end").data["exit_code"], 0);
    let both = project.call(&json!({"command": "cat", "interactive": true, "stdin": "x"}));
    assert_eq!(both.refused(400, "invalid_request")["details"]["field"], "stdin");
}
