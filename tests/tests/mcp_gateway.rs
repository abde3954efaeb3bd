//! The gateway's tools over MCP, at a gateway that only takes down what it is asked: `run402-calls.json` says what each
//! call has to be.

use sandbox_tests::mcp::Session;
use sandbox_tests::{Daemon, Options};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it came.
#[derive(Debug, Clone)]
struct Taken {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Taken {
    fn has(&self, name: &str, value: &str) -> bool {
        self.headers.get(name).is_some_and(|given| given == value)
    }
}

/// Answers everything, and remembers it.
struct Recorder {
    address: String,
    taken: Arc<Mutex<Vec<Taken>>>,
}

impl Recorder {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&taken);
        // Ends with the test program.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let into = Arc::clone(&into);
                std::thread::spawn(move || while serve(&stream, &into).is_some() {});
            }
        });
        Self { address, taken }
    }

    fn last(&self) -> Taken {
        self.taken.lock().expect("no panic").last().cloned().expect("a request")
    }

    fn since(&self, before: usize) -> Vec<Taken> {
        self.taken.lock().expect("no panic")[before..].to_vec()
    }

    fn count(&self) -> usize {
        self.taken.lock().expect("no panic").len()
    }
}

fn serve(stream: &TcpStream, into: &Mutex<Vec<Taken>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let (status, answer) = match path.split('?').next()? {
        "/projects/v1" | "/fork/v1" if method == "POST" => (
            201,
            json!({"project_id": "prj_1", "anon_key": "the-anon-key", "service_key": "the-service-key", "schema_slot": "p1"}),
        ),
        "/mailboxes/v1" if method == "GET" => (200, json!({"mailboxes": [{"mailbox_id": "mbx_1", "slug": "hello"}]})),
        "/orgs/v1/lookup" => (200, json!({"org_id": "org_1"})),
        "/apply/v1/plans" => (200, plan(&body)),
        "/content/v1/plans" => (200, content_plan(&body, headers.get("host")?)),
        "/content/v1/plans/cplan_1/commit" => (200, json!({"plan_id": "cplan_1", "status": "committed"})),
        "/apply/v1/plans/plan_1/commit" | "/apply/v1/operations/op_1/resume" => (200, ready()),
        "/apply/v1/operations/op_1/events" => (200, json!({"events": [{"type": "ready"}]})),
        "/storage/v1/blobs/diagnose" => (200, json!({"observed_sha256": HELLO_SHA256, "vantage": "here"})),
        "/tiers/v1/hobby" => {
            (402, json!({"error": "payment_required", "message": "5 dollars", "accepts": [{"amount": "5"}]}))
        }
        "/ai/v1/usage" => (503, json!({"error": "UPSTREAM", "message": "the model is away", "retryable": true})),
        _ => (200, json!({"echo": path})),
    };
    into.lock().expect("no panic").push(Taken { method, path, headers, body });
    let answer = answer.to_string();
    let head =
        format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", answer.len());
    (&mut &*stream).write_all((head + &answer).as_bytes()).ok()
}

/// Of `hello`.
const HELLO_SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

/// What a body says of contents, wherever it says so.
fn contents(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::Object(fields) => {
            if let Some(digest) = fields.get("sha256") {
                let size = fields.get("size").or_else(|| fields.get("size_bytes")).cloned().unwrap_or_default();
                found.push(json!({"sha256": digest, "size": size, "present": false}));
            }
            fields.values().for_each(|value| contents(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| contents(value, found)),
        _ => {}
    }
}

fn plan(body: &str) -> Value {
    let mut missing = Vec::new();
    contents(&serde_json::from_str(body).expect("a plan is JSON"), &mut missing);
    json!({
        "kind": "plan_response", "schema_version": "agent-deploy-observability.v1", "plan_id": "plan_1",
        "operation_id": "op_1", "base_release_id": null, "manifest_digest": "0", "is_noop": false, "summary": "changes",
        "expected_events": [], "missing_content": missing, "warnings": [], "payment_required": null,
        "asset_entries": [{"key": "notes/hello.txt", "asset_ref": {"key": "notes/hello.txt", "url": "https://a.example/x"}}]
    })
}

fn content_plan(body: &str, host: &str) -> Value {
    let body: Value = serde_json::from_str(body).expect("a plan is JSON");
    let missing = body["content"].as_array().expect("contents").iter().map(|content| {
        let size = content["size"].as_u64().expect("a size");
        json!({
            "sha256": content["sha256"], "mode": "single", "part_size_bytes": size, "part_count": 1, "upload_id": "u",
            "parts": [{"part_number": 1, "url": format!("http://{host}/upload"), "byte_start": 0, "byte_end": size - 1}],
            "staging_key": "s", "expires_at": "2036-01-01T01:00:00.000Z"
        })
    });
    json!({"plan_id": "cplan_1", "expires_at": "2036-01-01T01:00:00.000Z", "missing": missing.collect::<Vec<_>>(), "entries": []})
}

fn ready() -> Value {
    json!({
        "operation_id": "op_1", "status": "ready", "release_id": "rel_1",
        "urls": {"project": "https://shop.example", "site": "https://shop.example", "deployment_id": "dpl_1"}
    })
}

fn start() -> (tempfile::TempDir, Recorder, Daemon, Session) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let recorder = Recorder::start();
    let daemon = Options::default()
        .env("HOME", &home.path().to_string_lossy())
        .env("RUN402_API_BASE", &format!("http://{}", recorder.address))
        .env("RUN402_CONFIG_DIR", &home.path().join("keys").to_string_lossy())
        .start();
    let session = Session::without(&daemon.client);
    (home, recorder, daemon, session)
}

/// The example that stands in a tool's description.
fn example(tool: &Value) -> Value {
    let description = tool["description"].as_str().expect("words");
    let (_, example) = description.rsplit_once("Example: ").expect("an example");
    serde_json::from_str(example).unwrap_or_else(|error| panic!("{error}: {example}"))
}

/// Method, path and proof of one request.
fn check(name: &str, taken: &Taken, wanted: &Value, arguments: &Value) {
    assert_eq!(taken.method, wanted["method"].as_str().expect("a method"), "{name}");
    let path = taken.path.split('?').next().expect("a path");
    let mut expected = wanted["path"].as_str().expect("a path").to_owned();
    for part in expected.clone().split('{').skip(1) {
        let part = part.split('}').next().expect("a name");
        // What was looked up; the active project, where the example names none.
        let given = match part {
            "mailbox_id" => "mbx_1",
            "org_id" if arguments.get("org_id").is_none() => "org_1",
            _ => arguments[part].as_str().unwrap_or("prj_1"),
        };
        expected = expected.replace(&format!("{{{part}}}"), given);
    }
    assert_eq!(path, expected, "{name}");
    let service = taken.has("authorization", "Bearer the-service-key");
    let wallet = taken.headers.contains_key("sign-in-with-x");
    let keyed = |key: &str| taken.has("apikey", key);
    let (no_key, no_bearer) = (!taken.headers.contains_key("apikey"), !taken.headers.contains_key("authorization"));
    let proven = match wanted["auth"].as_str().expect("a kind") {
        "public" | "none" => no_bearer && !wallet && no_key,
        "wallet" => wallet && no_bearer && no_key,
        "service" => service && !wallet && no_key,
        "service-pair" => service && !wallet && keyed("the-service-key"),
        "anon" => wallet && no_bearer && keyed("the-anon-key"),
        "anon-pair" => taken.has("authorization", "Bearer the-anon-key") && !wallet && keyed("the-anon-key"),
        "invoke" => wallet && no_bearer && keyed("the-service-key"),
        "anon-service" => service && !wallet && keyed("the-anon-key"),
        "user" => taken.has("authorization", "Bearer session") && !wallet && keyed("the-anon-key"),
        other => panic!("{other}"),
    };
    assert!(proven, "{name}: {:?}", taken.headers.keys());
}

/// What a JSON body has, where it is said: no field is missing, none is one too many, and each is as it was given.
fn fields_are(name: &str, taken: &Taken, wanted: &Value, arguments: &Value) {
    let Some(allowed) = wanted["allowed"].as_array() else { return };
    let body: Value = serde_json::from_str(&taken.body).unwrap_or_else(|error| panic!("{name}: {error}"));
    let body = body.as_object().unwrap_or_else(|| panic!("{name}: {body}"));
    for field in wanted["required"].as_array().expect("names") {
        assert!(body.contains_key(field.as_str().expect("a name")), "{name}: {field} is not in {body:?}");
    }
    for (field, value) in body {
        assert!(allowed.contains(&json!(field)), "{name}: {field} does not belong into {body:?}");
        assert!(arguments[field].is_null() || arguments[field] == *value, "{name}: {field} is {value}");
    }
}

/// Several requests; contents may be sent in any number of pieces.
fn follows(name: &str, taken: &[Taken], steps: &[Value], any_order: bool, arguments: &Value) {
    let mut taken: Vec<&Taken> = taken.iter().collect();
    taken.dedup_by(|one, other| one.method == "PUT" && other.method == "PUT");
    if any_order {
        taken.sort_by(|one, other| one.path.cmp(&other.path));
    }
    let lines: Vec<String> = taken.iter().map(|taken| format!("{} {}", taken.method, taken.path)).collect();
    assert_eq!(taken.len(), steps.len(), "{name}: {lines:?}");
    for (taken, step) in taken.into_iter().zip(steps) {
        check(name, taken, step, arguments);
    }
}

#[test]
fn every_tool_makes_the_call_that_it_is_for() {
    let (_home, recorder, daemon, session) = start();
    let project = daemon.project();
    project.ok("mkdir dist; echo '<h1>hi</h1>' > dist/index.html");
    let calls: BTreeMap<String, Value> =
        serde_json::from_str(include_str!("../run402-calls.json")).expect("the file is JSON");
    // Keys of the project that the examples are about.
    let made = session.call("provision_postgres_project", &json!({"name": "shop"}));
    assert_eq!(made.data()["project_id"], "prj_1");
    assert!(!made.message.to_string().contains("the-service-key"), "keys stay here: {made:?}");
    let mut called = Vec::new();
    for tool in session.tools() {
        let name = tool["name"].as_str().expect("a name");
        let of_gateway = tool["description"].as_str().expect("words").contains("A tool of the run402 gateway.");
        let wanted = match (calls.get(name), of_gateway) {
            (Some(wanted), _) => wanted,
            (None, false) => continue,
            (None, true) => panic!("nobody says what {name} has to call"),
        };
        for (hint, fact) in [("destructiveHint", "destructive"), ("idempotentHint", "idempotent")] {
            let hint = &tool["annotations"][hint];
            assert!(wanted[fact].is_null() || *hint == wanted[fact], "{name}: {fact} is {hint}");
        }
        let mut arguments = example(&tool);
        if tool["inputSchema"]["properties"].get("sandbox_project").is_some() {
            arguments["sandbox_project"] = json!(project.id);
        }
        let before = recorder.count();
        let answered = session.call(name, &arguments);
        called.push(name.to_owned());
        if wanted["replaced"] == true {
            assert!(answered.data()["replaced_by"].as_str().is_some_and(|text| text.len() > 20), "{answered:?}");
        }
        if wanted["replaced"] == true || wanted["local"] == true {
            assert_eq!(recorder.count(), before, "{name}");
            continue;
        }
        let taken = recorder.since(before);
        if let Some(steps) = wanted["steps"].as_array() {
            assert!(answered.result()["isError"] != true, "{name}: {answered:?}");
            follows(name, &taken, steps, wanted["any_order"] == true, &arguments);
            continue;
        }
        let calls_made = wanted["calls"].as_u64().and_then(|calls| usize::try_from(calls).ok()).unwrap_or(1);
        assert_eq!(taken.len(), calls_made, "{name}: {answered:?}");
        let last = taken.last().expect("a request");
        check(name, last, wanted, &arguments);
        assert_eq!(!last.body.is_empty(), wanted["has_body"] == true, "{name}: {}", last.body);
        fields_are(name, last, &wanted["fields"], &arguments);
        if let Some((header, place)) = wanted["header"].as_str().and_then(|header| header.split_once(": ")) {
            let value = arguments[place.trim_matches(['{', '}'])].as_str().expect("a text");
            assert!(last.has(header, value), "{name}: {:?}", last.headers);
        }
    }
    assert!(project.ok("cat downloads/hello.txt").contains("echo"), "what was fetched is there");
    let missing: Vec<&String> = calls.keys().filter(|name| !called.contains(name)).collect();
    assert!(missing.is_empty(), "not there: {missing:?}");
}

#[test]
fn prices_are_information_and_failures_say_what_the_gateway_said() {
    let (_home, recorder, _daemon, session) = start();
    session.call("provision_postgres_project", &json!({}));
    let price = session.call("set_tier", &json!({"tier": "hobby"}));
    assert!(price.data()["payment_required"].is_object(), "{price:?}");
    assert!(price.text().contains("nothing was done"), "{price:?}");
    let away = session.call("ai_usage", &json!({"project_id": "prj_1"}));
    assert!(away.refused().contains("the model is away"), "{away:?}");
    let unknown = session.call("get_schema", &json!({"project_id": "prj_2"}));
    assert!(unknown.refused().contains("prj_2"), "{unknown:?}");
    let before = recorder.count();
    let unconfirmed = session.call("delete_project", &json!({"project_id": "prj_1"}));
    assert!(unconfirmed.refused().contains("confirm"), "{unconfirmed:?}");
    let wrong = session.call("assets_ls", &json!({"project_id": "prj_1", "limit": 1001}));
    assert!(wrong.refused().contains("limit"), "{wrong:?}");
    assert_eq!(recorder.count(), before, "what is wrong is not sent");
    // The active project is meant where a tool may leave it out.
    session.call("run_sql", &json!({"sql": "SELECT 1"}));
    let taken = recorder.last();
    assert_eq!((taken.path.as_str(), taken.body.as_str()), ("/projects/v1/admin/prj_1/sql", "SELECT 1"));
    assert!(taken.has("content-type", "text/plain"));
}

#[test]
fn the_daemons_wallet_is_not_for_everybody() {
    let (_home, recorder, daemon, session) = start();
    let project = daemon.project();
    for body in [
        json!({"name": "run", "scopes": ["run"]}),
        json!({"name": "one", "scopes": ["deploy"], "projects": [project.id]}),
    ] {
        let token = daemon.client.post("/tokens", &body).ok();
        let session = session.with_token(token["token"].as_str());
        assert!(session.call("tier_status", &json!({})).refused().len() > 20, "{body}");
    }
    assert_eq!(recorder.count(), 0);
}

#[test]
fn files_that_tools_name_are_the_projects() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let recorder = Recorder::start();
    let policy =
        "name = 'closed'\nextends = 'default'\n[filesystem]\ndeny = ['~/project/secret', '~/project/dist/key']\n";
    let daemon = Options::default()
        .policy("closed", policy)
        .env("HOME", &home.path().to_string_lossy())
        .env("RUN402_API_BASE", &format!("http://{}", recorder.address))
        .env("RUN402_CONFIG_DIR", &home.path().join("keys").to_string_lossy())
        .start();
    let session = Session::without(&daemon.client);
    session.call("provision_postgres_project", &json!({"name": "shop"}));
    let project = daemon.project_of("closed");
    let workspace = daemon.state().join("projects").join(&project.id).join("workspace");
    for (file, content) in [("secret/a", "sealed"), ("dist/key", "sealed"), ("dist/index.html", "<h1>hi</h1>")] {
        let file = workspace.join(file);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("the state is ours");
        std::fs::write(file, content).expect("the state is ours");
    }
    project.ok("mkdir -p dist; ln -s /etc out; ln -s /etc/passwd link; echo mine > mine; ln -s mine inner");
    let before = recorder.count();
    let put = |path: &str, project: Option<&str>| {
        let mut arguments = json!({"project_id": "prj_1", "key": "k", "local_path": path});
        arguments.as_object_mut().expect("fields").extend(project.map(|id| ("sandbox_project".to_owned(), json!(id))));
        session.call("assets_put", &arguments)
    };
    for path in ["../../../etc/passwd", "/etc/passwd", "out/passwd", "link", "inner", "secret", "secret/a", "", "dist"]
    {
        let refused = put(path, Some(&project.id));
        assert!(
            !refused.refused().contains("projects/"),
            "{path}: where it is on the host is nobody's business: {refused:?}"
        );
    }
    assert!(put("mine", None).refused().contains("sandbox_project"), "whose files?");
    assert!(put("mine", Some("nobody")).refused().contains("nobody"));
    for dir in ["out", "..", "/etc", "/home/user", "secret", "mine"] {
        let arguments = json!({"project": "prj_1", "dir": dir, "sandbox_project": project.id});
        let refused = session.call("deploy_site_dir", &arguments);
        assert!(!refused.refused().is_empty(), "{dir}: {refused:?}");
    }
    for path in ["secret/a", "dist/key", "../x", "out/passwd"] {
        let site = json!({"replace": {"index.html": {"path": path}}});
        let arguments = json!({"project_id": "prj_1", "site": site, "sandbox_project": project.id});
        let refused = session.call("deploy", &arguments);
        assert!(!refused.refused().is_empty(), "{path}: {refused:?}");
    }
    assert_eq!(recorder.count(), before, "nothing of it was sent");
    let arguments = json!({"project": "prj_1", "dir": "dist", "sandbox_project": project.id});
    assert_eq!(session.call("deploy_site_dir", &arguments).data()["url"], "https://shop.example");
    let sent = recorder.since(before);
    assert!(sent[0].body.contains("index.html") && !sent[0].body.contains("key"), "{}", sent[0].body);
    assert!(sent.iter().all(|sent| !sent.body.contains("sealed")), "{sent:?}");
    for path in ["../x", "/etc/x", "out/x", "secret/x", "dist/key"] {
        let arguments = json!({"project_id": "prj_1", "key": "k", "output_path": path, "sandbox_project": project.id});
        let refused = session.call("assets_get", &arguments);
        assert!(!refused.refused().is_empty(), "{path}: {refused:?}");
    }
    assert_eq!(put("/home/user/project/mine", Some(&project.id)).data()["key"], "k", "as commands name it");
    // Without the scope for files they stay where they are.
    let token = json!({"scopes": ["deploy"]});
    let token = daemon.client.post("/tokens", &token).json()["token"].as_str().expect("a token").to_owned();
    let arguments = json!({"project_id": "prj_1", "key": "k", "local_path": "mine", "sandbox_project": project.id});
    assert!(session.with_token(Some(&token)).call("assets_put", &arguments).refused().contains("files"));
}

#[test]
fn the_project_that_belongs_to_the_connections_is_meant_when_none_is_named() {
    let (_home, recorder, daemon, stranger) = start();
    let project = daemon.project();
    project.ok("mkdir dist; echo '<h1>hi</h1>' > dist/index.html");
    let session = Session::open_at(&daemon.client, &format!("/mcp?project={}", project.id));
    for tool in session.tools() {
        let required = tool["inputSchema"]["required"].as_array().cloned().unwrap_or_default();
        assert!(!required.iter().any(|name| name == "project" || name == "project_id"), "{tool}");
    }
    assert!(session.call("list_secrets", &json!({})).refused().contains("project_id"), "there is none yet");
    // The first deploy makes one, and keeps which it is.
    assert_eq!(session.call("deploy_project", &json!({})).data()["gateway_project"], "prj_1");
    session.call("list_secrets", &json!({})).data();
    assert_eq!(recorder.last().path, "/projects/v1/admin/prj_1/secrets");
    let before = recorder.count();
    session.call("deploy_site_dir", &json!({"dir": "dist"})).data();
    assert!(recorder.since(before)[0].body.contains("\"project_id\":\"prj_1\""), "{:?}", recorder.since(before)[0]);
    // Whoever has no project there is asked for one.
    assert!(stranger.call("list_secrets", &json!({})).refused().contains("project_id"));
}

#[test]
fn a_build_is_listened_to_and_then_deployed() {
    let (_home, _recorder, daemon, session) = start();
    let project = daemon.project();
    let command = "echo one; sleep 0.5; mkdir dist; echo hi > dist/index.html; echo two";
    let arguments = json!({"project_id": project.id, "command": command, "dir": "dist"});
    let answered = session.call_with_progress("build_and_deploy", &arguments);
    assert_eq!(answered.progress().concat(), "one\ntwo\n", "{answered:?}");
    assert!(answered.text().starts_with("Live at"), "{answered:?}");
}
