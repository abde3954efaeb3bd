//! Answers over a connection that broke: whoever comes back in the same session gets them, and nobody else.

use sandbox_tests::mcp::Session;
use sandbox_tests::{Incoming, Project, project};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::time::Duration;

/// The id of the next event.
fn next_id(stream: &mut BufReader<Incoming>) -> String {
    let lines = stream.lines().map_while(Result::ok);
    let mut ids = lines.filter_map(|line| Some(line.strip_prefix("id:")?.trim().to_owned()));
    ids.next().expect("an event with an id")
}

/// A command whose caller hangs up after the first event; the event's id.
fn broken_off(session: &Session, project: &Project, command: &str) -> String {
    let arguments = json!({"project_id": project.id, "command": command});
    let params = json!({"name": "run_command", "arguments": arguments, "_meta": {"progressToken": command}});
    let (_, message) = session.request("tools/call", params);
    next_id(&mut BufReader::new(session.begin(&message)))
}

fn rest(stream: Incoming) -> String {
    BufReader::new(stream).lines().map_while(Result::ok).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_answer_waits_for_whoever_comes_back() {
    let project = project();
    let session = Session::open(&project.client);
    let last = broken_off(&session, &project, "echo begun; sleep 1; echo over");
    let run = project.runs()[0]["run_id"].as_str().expect("an id").to_owned();
    project.wait(&run, Duration::from_secs(20));
    // Long over, and as often as it is asked for.
    for _ in 0..2 {
        let told = rest(session.listen_after(Some(&last)));
        assert!(told.contains("notifications/progress") && told.contains("begun\\nover\\n"), "{told}");
        assert_eq!(told.matches("\"result\"").count(), 1, "{told}");
    }
    // Before the end: it is waited for.
    let last = broken_off(&session, &project, "sleep 2; echo waited");
    assert!(rest(session.listen_after(Some(&last))).contains("waited\\n"));
    assert_eq!(project.runs().len(), 2, "nothing was run again");
}

#[test]
fn nobody_else_gets_it() {
    let project = project();
    let session = Session::open(&project.client);
    let last = broken_off(&session, &project, "echo mine");
    let other = Session::open(&project.client);
    assert!(!rest(other.listen_after(Some(&last))).contains("mine"));
    // No event of a stream that is there, so nothing comes.
    for unknown in ["9/99", "0/x", "x/1", "../.."] {
        assert_eq!(rest(session.listen_after(Some(unknown))), "", "{unknown}");
    }
    session.close();
    let headers = [("Accept", "text/event-stream"), ("Mcp-Session-Id", "gone"), ("Last-Event-ID", &last)];
    assert_eq!(project.client.send("GET", "/mcp", &headers, &[]).status, 404);
}
