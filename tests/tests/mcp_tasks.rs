//! Commands as tasks, for clients of the protocol that declare that they take them.

use sandbox_tests::mcp::Session;
use sandbox_tests::{Project, host, project};
use serde_json::{Value, json};
use std::time::Duration;

const TIME: Duration = Duration::from_secs(30);

fn capabilities() -> Value {
    json!({"extensions": {"io.modelcontextprotocol/tasks": {}}})
}

fn both(project: &Project) -> [Session; 2] {
    let client = &project.client;
    [Session::open_as(client, "/mcp", capabilities()), Session::without_as(client, capabilities())]
}

/// `tasks/get`, until the task has ended.
fn ended(session: &Session, task: &str) -> Value {
    let mut last = Value::Null;
    let over = host::eventually(TIME, || {
        last = session.send("tasks/get", json!({"taskId": task})).result().clone();
        last["status"] != "working"
    });
    assert!(over, "{last}");
    last
}

#[test]
fn a_command_that_goes_on_is_a_task_with_its_runs_id() {
    let project = project();
    for session in both(&project) {
        let run = |command: &str| session.call("run_command", &json!({"project_id": project.id, "command": command}));
        assert_eq!(run("echo short").text(), "Exit code: 0\n\nSTDOUT:\nshort\n");
        let begun = run("echo begun; sleep 7; echo over; exit 4");
        let task = begun.result();
        assert_eq!((&task["resultType"], &task["status"]), (&json!("task"), &json!("working")), "{begun:?}");
        let id = task["taskId"].as_str().expect("an id");
        assert!(id.starts_with("run_") && task["pollIntervalMs"].is_u64() && task["ttlMs"].is_null(), "{task}");
        assert_eq!(project.summary(id)["status"], "running");
        let task = ended(&session, id);
        assert_eq!(task["status"], "completed", "{task}");
        assert_eq!(task["result"]["content"][0]["text"], "Exit code: 4\n\nSTDOUT:\nbegun\nover\n");
        assert_eq!(task["result"]["structuredContent"]["exit_code"], 4);
        // It is a run like any other, for whoever asks later and elsewhere.
        assert_eq!(ended(&Session::without_as(&project.client, capabilities()), id)["status"], "completed");
    }
}

#[test]
fn a_task_that_is_cancelled_leaves_nothing() {
    let project = project();
    for session in both(&project) {
        let marker = host::marker();
        let arguments = json!({"project_id": project.id, "command": format!("setsid sleep {marker} & sleep {marker}")});
        let begun = session.call("run_command", &arguments);
        let id = begun.result()["taskId"].as_str().expect("a task").to_owned();
        host::assert_alive(&marker);
        session.send("tasks/update", json!({"taskId": id, "inputResponses": {}})).result();
        session.send("tasks/cancel", json!({"taskId": id})).result();
        host::assert_gone(&marker);
        assert_eq!(ended(&session, &id)["status"], "cancelled");
        // Once more changes nothing.
        session.send("tasks/cancel", json!({"taskId": id})).result();
    }
}

#[test]
fn tasks_are_for_those_who_declare_them_and_may_see_the_run() {
    let project = project();
    let [_, session] = both(&project);
    let error = |session: &Session, method: &str, task: &str| {
        session.send(method, json!({"taskId": task})).message["error"]["code"].as_i64().expect("an error")
    };
    for method in ["tasks/get", "tasks/cancel"] {
        assert_eq!(error(&session, method, "run_01ARZ3NDEKTSV4RRFFQ69G5FAV"), -32602);
        assert_eq!(error(&session, method, "../../etc/passwd"), -32602);
        let undeclared = Session::without(&project.client);
        assert_eq!(error(&undeclared, method, "run_01ARZ3NDEKTSV4RRFFQ69G5FAV"), -32021);
    }
    // An answer that was asked for early is an answer, in which the model finds the run's id.
    let arguments = json!({"project_id": project.id, "command": "sleep 20", "wait_ms": 10});
    let early = session.call("run_command", &arguments);
    assert!(early.text().starts_with("status: running"), "{early:?}");
    let run = early.data()["run_id"].as_str().expect("an id").to_owned();
    assert_eq!(session.send("tasks/get", json!({"taskId": run})).result()["status"], "working");
    // Another project's token sees no such task.
    let other = sandbox_tests::project();
    let token = json!({"scopes": ["run"], "projects": [other.id]});
    let token = project.client.post("/tokens", &token).json()["token"].as_str().expect("a token").to_owned();
    let stranger = session.with_token(Some(&token));
    assert_eq!(error(&stranger, "tasks/get", &run), -32602);
    assert_eq!(error(&stranger, "tasks/cancel", &run), -32602);
    assert_eq!(session.call("run_kill", &json!({"run_id": run})).data()["status"], "cancelled");
}
