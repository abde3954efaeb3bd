//! Deploys over HTTP: what a workspace holds goes live through the daemon.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandbox_tests::cli::Person;
use sandbox_tests::events::{EventReader, NDJSON, SSE, Seen, joined};
use sandbox_tests::gateway::{FREE_PORT, Gateway};
use sandbox_tests::http::fetch;
use sandbox_tests::{Daemon, Project, host, require};
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

fn url(released: &Value) -> &str {
    released["url"].as_str().expect("a URL")
}

fn deploy(project: &Project, body: &Value) -> Value {
    let reply = project.client.post(&project.path("/deploys"), body);
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()
}

fn stream(project: &Project, accept: &str, body: &Value) -> EventReader {
    let headers = [("Accept", accept)];
    let answer = project.client.open("POST", &project.path("/deploys"), &headers, body.to_string().as_bytes());
    EventReader::new(answer.expect("the daemon answers"))
}

fn names(events: &[Seen]) -> Vec<&str> {
    let mut names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    names.dedup();
    names
}

#[test]
fn a_workspace_is_built_and_deployed_over_http() {
    let person = Person::alone();
    let state = person.folder("gateway");
    let gateway = Gateway::start(&person, &state);
    let config = person.folder("config").to_string_lossy().into_owned();
    let daemon = Daemon::options().env("RUN402_API_BASE", &gateway.base).env("RUN402_CONFIG_DIR", &config).start();
    let project = daemon.project();
    assert_eq!(daemon.client.get(&project.path("/deploys")).ok(), json!({"deploys": []}));
    let build = "mkdir -p dist && echo '<h1>built</h1>' > dist/index.html && echo done";
    let body = json!({"build": {"command": build}, "site": {"dir": "dist"}});
    let reply = daemon.client.post(&project.path("/deploys"), &body);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let deployed = reply.json();
    assert_eq!((&deployed["files_uploaded"], &deployed["files_total"]), (&json!(1), &json!(1)));
    assert_eq!(deployed["build"]["stdout"], "done\n");
    assert_eq!(fetch(url(&deployed), "/").text(), "<h1>built</h1>\n");
    // The same again sends nothing; a build that fails and output that leads out change nothing.
    assert_eq!(daemon.client.post(&project.path("/deploys"), &body).ok()["files_uploaded"], 0);
    let failed = json!({"build": {"command": "echo broken; exit 9"}, "site": {"dir": "dist"}});
    let problem = daemon.client.post(&project.path("/deploys"), &failed).refused(422, "build_failed");
    assert_eq!(
        (&problem["details"]["run"]["stdout"], &problem["details"]["run"]["exit_code"]),
        (&json!("broken\n"), &json!(9))
    );
    project.ok("ln -s /etc out; ln -s /etc/passwd dist/link");
    for dir in ["out", "dist", "../..", "/etc"] {
        let reply = daemon.client.post(&project.path("/deploys"), &json!({"site": {"dir": dir}}));
        let problem = reply.refused(502, "deploy_failed");
        assert_eq!(problem["details"]["gateway"]["kind"], "local_error", "{dir}: {problem}");
    }
    assert_eq!(fetch(url(&deployed), "/").text(), "<h1>built</h1>\n");
    let listed = daemon.client.get(&project.path("/deploys")).ok();
    assert_eq!(listed["deploys"].as_array().map(Vec::len), Some(2));
    // Files that come with the request.
    let files = json!({"files": {"index.html": "sent", "a/b.bin": "__b64__AP8="}});
    let sent = daemon.client.post(&project.path("/deploy"), &files).ok();
    assert_eq!(
        (&sent["status"], &sent["files_total"], &sent["url"]),
        (&json!("ready"), &json!(2), &sent["netlify_url"])
    );
    assert_eq!((fetch(url(&sent), "/").text(), fetch(url(&sent), "/a/b.bin").body), ("sent".to_owned(), vec![0, 255]));
    let wrong = json!({"files": {"index.html": "__b64__?"}});
    daemon.client.post(&project.path("/deploy"), &wrong).refused(400, "invalid_request");
    // A caller needs the scope; a gateway that is gone is said to be.
    let token = daemon.client.post("/tokens", &json!({"name": "runner", "scopes": ["run"]})).ok();
    let runner = daemon.client.with_token(token["token"].as_str());
    runner.post(&project.path("/deploys"), &body).refused(403, "forbidden");
    drop(gateway);
    let problem = daemon.client.post(&project.path("/deploy"), &files).refused(502, "deploy_failed");
    assert!(problem["next_actions"].to_string().contains("sandboxctl gateway"), "{problem}");
    assert_eq!(problem["retryable"], true);
}

#[test]
fn with_nothing_named_the_daemon_has_a_gateway_of_its_own() {
    require!("node");
    let daemon = Daemon::start();
    let mut project = daemon.project();
    project.write("dist/index.html", "<h1>embedded</h1>");
    project.write("hello.mjs", "export default async () => new Response('hello from the sandbox')");
    let body = json!({"site": {"dir": "dist"}, "functions": {"hello": "hello.mjs"},
        "release": {"routes": {"replace": [{"pattern": "/hello", "target": {"type": "function", "name": "hello"}}]}}});
    let deployed = deploy(&project, &body);
    assert_eq!(fetch(url(&deployed), "/").text(), "<h1>embedded</h1>");
    assert_eq!(fetch(url(&deployed), "/hello").text(), "hello from the sandbox");
    let process = gateway_process(&daemon);
    // It is gone with its daemon, however that ends, and there again with the next deploy.
    daemon.kill();
    assert!(host::eventually(Duration::from_secs(20), || host::comm(process) != "sandboxctl"), "it is left behind");
    let daemon = daemon.restart();
    project.client = daemon.client.clone();
    let again = deploy(&project, &json!({"site": {"dir": "dist"}}));
    assert_eq!(
        (&again["gateway_project"], &again["files_uploaded"], &again["files_total"]),
        (&deployed["gateway_project"], &json!(0), &json!(1))
    );
    assert_eq!(fetch(url(&again), "/").text(), "<h1>embedded</h1>");
    assert_eq!(fetch(url(&again), "/hello").text(), "hello from the sandbox");
    let process = gateway_process(&daemon);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.ended(Duration::from_secs(30)).is_some_and(|status| status.success()), "{}", daemon.log());
    assert!(host::eventually(Duration::from_secs(20), || host::comm(process) != "sandboxctl"), "it is left behind");
}

/// The process of a daemon's gateway.
fn gateway_process(daemon: &Daemon) -> u32 {
    let running = fs::read(daemon.root().join("state-gateway/gateway.json")).expect("it says where it listens");
    let running: Value = serde_json::from_slice(&running).expect("JSON");
    let pid = u32::try_from(running["pid"].as_u64().expect("a process")).expect("a process id");
    assert_eq!(host::comm(pid), "sandboxctl");
    pid
}

#[test]
fn a_deploy_tells_of_its_build_and_of_its_release() {
    let daemon = Daemon::start();
    let project = daemon.project();
    let build = "mkdir -p dist; echo page > dist/index.html; echo one; echo two >&2; sleep 0.3; echo three";
    let body = json!({"build": {"command": build}, "site": {"dir": "dist"}});
    for accept in [NDJSON, SSE] {
        let events = stream(&project, accept, &body).all();
        let seen = names(&events);
        assert_eq!((seen[0], *seen.last().expect("events")), ("start", "deployed"), "{seen:?}");
        assert_eq!(joined(&events, "stdout"), b"one\nthree\n");
        assert_eq!(joined(&events, "stderr"), b"two\n");
        let built = events.iter().position(|event| event.name == "built").expect("the build's result");
        assert_eq!((&events[built].data["exit_code"], &events[built].data["status"]), (&json!(0), &json!("exited")));
        assert!(
            events[built + 1..].iter().all(|event| matches!(event.name.as_str(), "progress" | "deployed")),
            "{seen:?}"
        );
        let deployed = &events.last().expect("the last").data;
        assert_eq!(fetch(url(deployed), "/").text(), "page\n");
        assert_eq!(deployed["files_total"], 1);
    }
    // Nothing follows a build that fails, and nothing is deployed.
    let failing = json!({"build": {"command": "echo other > dist/index.html; exit 3"}, "site": {"dir": "dist"}});
    let events = stream(&project, NDJSON, &failing).all();
    assert_eq!(names(&events), ["start", "built", "problem"]);
    assert_eq!(events.last().expect("the last").data["code"], "build_failed");
    let deploys = || daemon.client.get(&project.path("/deploys")).ok()["deploys"].as_array().map(Vec::len);
    assert_eq!(deploys(), Some(2));
    // A refusal of the gateway's is the last event too; what is wrong with the request is said before.
    let events = stream(&project, NDJSON, &json!({"site": {"dir": "none"}})).all();
    assert_eq!(events.last().map(|event| event.data["code"].clone()), Some(json!("deploy_failed")));
    let twice = json!({"site": {"dir": "dist"}, "release": {"site": {"replace": {}}}});
    let headers = [("Accept", NDJSON)];
    let reply = project.client.send("POST", &project.path("/deploys"), &headers, twice.to_string().as_bytes());
    reply.refused(400, "invalid_manifest");
    // Whoever leaves during the build ends it.
    let marker = host::marker();
    let slow = json!({"build": {"command": format!("echo begun; sleep {marker}")}, "site": {"dir": "dist"}});
    let mut left = stream(&project, NDJSON, &slow);
    left.until("stdout");
    host::assert_alive(&marker);
    drop(left);
    host::assert_gone(&marker);
    assert_eq!(deploys(), Some(2));
}

/// At each step the gateway stands still, the daemon is killed, and the gateway goes on.
#[test]
fn a_daemon_that_dies_at_any_step_leaves_the_old_or_the_new_release() {
    let person = Person::alone();
    let (state, config) = (person.folder("gateway"), person.folder("config").to_string_lossy().into_owned());
    let first = Gateway::start_at(&person, &state, FREE_PORT, None);
    let address = first.address().to_owned();
    let mut daemon = Daemon::options().env("RUN402_API_BASE", &first.base).env("RUN402_CONFIG_DIR", &config).start();
    let mut project = daemon.project();
    project.write("dist/index.html", "old");
    project.write("dist/same.txt", "same");
    let body = json!({"site": {"dir": "dist"}});
    let deployed = deploy(&project, &body);
    drop(first);
    let points =
        ["plan-stored", "part-written", "content-assembled", "content-promoted", "commit-recorded", "activated"];
    for (index, point) in points.iter().enumerate() {
        let (old, new) = (project.ok("cat dist/index.html"), format!("version {index}"));
        project.write("dist/index.html", &new);
        let gateway = Gateway::start_at(&person, &state, &address, Some(&format!("hold:{point}")));
        let pid = gateway.child.id();
        let headers = project.client.request("POST", &project.path("/deploys"), &[], body.to_string().as_bytes());
        let mut connection = sandbox_tests::http::Connection::open(&daemon.client.address).expect("the daemon listens");
        connection.send(&headers).expect("it is sent");
        assert!(host::eventually(Duration::from_secs(30), || is_stopped(pid)), "{point} is not reached");
        daemon.kill();
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGCONT).expect("it is our child");
        daemon = daemon.restart();
        project.client = daemon.client.clone();
        // It holds at each upload anew.
        drop(gateway);
        let gateway = Gateway::start_at(&person, &state, &address, None);
        assert!(host::eventually(Duration::from_secs(10), || fetch(&gateway.base, "/health").status == 200));
        let path = format!("/sites/{}/", deployed["gateway_project"].as_str().expect("an id"));
        let live = fetch(&gateway.base, &path).text();
        assert!(live == old || live == new, "{point}: {live}");
        let again = deploy(&project, &body);
        assert_eq!(again["gateway_project"], deployed["gateway_project"], "{point}");
        assert_eq!(fetch(&gateway.base, &path).text(), new, "{point}");
        assert_eq!(fetch(&gateway.base, &format!("{path}same.txt")).text(), "same", "{point}");
    }
}

fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}
