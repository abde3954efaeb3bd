//! The HTTP interface: bad input, tokens, projects, operations.

use sandbox_tests::http::Connection;
use sandbox_tests::{Client, Daemon, Options, Project, Reply, project};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// Sends a body as it is.
#[track_caller]
fn post(project: &Project, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    project.client.send("POST", &project.path("/run"), headers, body)
}

#[test]
fn bad_input_starts_nothing() {
    let project = project();
    for (body, status, codes) in [
        ("", 400, &["invalid_request"][..]),
        ("{", 400, &["invalid_request"]),
        ("not json", 400, &["invalid_request"]),
        ("[]", 400, &["invalid_request"]),
        ("null", 400, &["invalid_request"]),
        ("\"touch ran\"", 400, &["invalid_request"]),
        ("{}", 400, &["invalid_request"]),
        (r#"{"command": "touch ran"} trailing"#, 400, &["invalid_request"]),
        (r#"{"command": 7}"#, 400, &["invalid_request"]),
        (r#"{"command": null}"#, 400, &["invalid_request"]),
        (r#"{"command": {"a": 1}}"#, 400, &["invalid_request"]),
        (r#"{"command": ["touch", 7]}"#, 400, &["invalid_request"]),
        (r#"{"command": ""}"#, 400, &["empty_command"]),
        (r#"{"command": " \n\t "}"#, 400, &["empty_command"]),
        (r#"{"command": []}"#, 400, &["empty_command"]),
        (r#"{"command": [""]}"#, 400, &["empty_command"]),
        ("{\"command\": \"touch ran\\u0000\"}", 400, &["nul_byte"]),
        ("{\"command\": [\"touch\", \"ran\\u0000x\"]}", 400, &["nul_byte"]),
        (r#"{"command": "touch ran", "comand": 1}"#, 400, &["unknown_field"]),
        (r#"{"command": "touch ran", "user": "root"}"#, 400, &["unknown_field"]),
        (r#"{"command": "touch ran", "env": []}"#, 400, &["invalid_request"]),
        (r#"{"command": "touch ran", "env": {"A": 1}}"#, 400, &["invalid_request"]),
        (r#"{"command": "touch ran", "stdin": 5}"#, 400, &["invalid_request"]),
        (r#"{"command": "touch ran", "encoding": "latin1"}"#, 400, &["invalid_request"]),
        (r#"{"command": "touch ran", "on_disconnect": "maybe"}"#, 400, &["invalid_request"]),
        (r#"{"command": "touch ran", "keep_background": "yes"}"#, 400, &["invalid_request"]),
        (r#"{"command": "touch ran", "command": "touch ran"}"#, 400, &["invalid_request"]),
        (r#"{"command": "touch ran", "policy": "no-such-policy"}"#, 400, &["policy_not_found"]),
    ] {
        let reply = post(&project, &[], body.as_bytes());
        assert_eq!(reply.status, status, "{body}: {}", reply.text());
        let code = reply.code();
        assert!(codes.contains(&code.as_str()), "{body}: {}", reply.text());
        reply.refused(status, &code);
    }
    let broken_utf8 = b"{\"command\": \"touch ran \xff\"}";
    post(&project, &[], broken_utf8).refused(400, "invalid_request");
    let nested = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    post(&project, &[], nested.as_bytes()).refused(400, "invalid_request");
    assert_eq!(project.runs(), Vec::<Value>::new());
    assert_eq!(project.ok("ls"), "", "a refused command ran");
}

#[test]
fn commands_and_bodies_that_are_too_long_are_refused() {
    let project = project();
    let long = json!({"command": format!("touch ran; : {}", "x".repeat(200_000))}).to_string();
    post(&project, &[], long.as_bytes()).refused(413, "command_too_long");
    let huge = json!({"command": format!("touch ran; : {}", "x".repeat(10 << 20))}).to_string();
    post(&project, &[], huge.as_bytes()).refused(413, "body_too_large");
    // A body that only claims to be long is refused before it is sent.
    let claim = project.client.request("POST", &project.path("/run"), &[("Content-Length", "99999999999")], b"{");
    let reply = project.client.raw(&claim).and_then(sandbox_tests::Incoming::finish).expect("an answer");
    reply.refused(413, "body_too_large");
    // Chunked, without a length.
    let mut chunked = project.client.request(
        "POST",
        &project.path("/run"),
        &[("Content-Length", ""), ("Transfer-Encoding", "chunked")],
        b"",
    );
    for _ in 0..10 {
        chunked.extend_from_slice(format!("{:x}\r\n", 1 << 20).as_bytes());
        chunked.extend(std::iter::repeat_n(b' ', 1 << 20));
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    if let Ok(reply) = project.client.raw(&chunked).and_then(sandbox_tests::Incoming::finish) {
        reply.refused(413, "body_too_large");
    }
    assert_eq!(project.runs(), Vec::<Value>::new());
    assert_eq!(project.ok(&format!("printf %s {} | wc -c", "x".repeat(100_000))), "100000\n");
}

#[test]
fn other_media_types_are_refused() {
    let project = project();
    let body = br#"{"command": "touch ran"}"#;
    for kind in [
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "json",
    ] {
        post(&project, &[("Content-Type", kind)], body).refused(415, "unsupported_media_type");
    }
    post(&project, &[("Content-Type", "")], body).refused(415, "unsupported_media_type");
    assert_eq!(project.runs(), Vec::<Value>::new());
    for kind in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
        assert_eq!(post(&project, &[("Content-Type", kind)], br#"{"command": "true"}"#).status, 200, "{kind}");
    }
    post(&project, &[("Accept", "image/png")], body).refused(406, "not_acceptable");
    assert_eq!(post(&project, &[("Accept", "*/*")], br#"{"command": "true"}"#).ok()["exit_code"], json!(0));
}

#[test]
fn too_many_headers_are_refused() {
    let project = project();
    let names: Vec<String> = (0..300).map(|n| format!("X-Header-{n}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    let long = "x".repeat(200_000);
    for headers in [many, vec![("X-Long", long.as_str())]] {
        let reply = post(&project, &headers, br#"{"command": "touch ran"}"#);
        assert_eq!((reply.status, reply.code().as_str()), (431, "headers_too_large"), "{}", reply.text());
    }
    assert_eq!(project.runs(), Vec::<Value>::new());
}

#[test]
fn nonsense_on_the_connection_hurts_nobody() {
    let project = project();
    let address = &project.client.address;
    for bytes in [
        &b"\r\n\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /projects HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrubbish",
    ] {
        let mut connection = Connection::open(address).expect("the daemon listens");
        connection.send(bytes).expect("sent");
        drop(connection);
    }
    let slow: Vec<Connection> = (0..20)
        .map(|_| {
            let mut connection = Connection::open(address).expect("the daemon listens");
            connection.send(b"POST /projects HTTP/1.1\r\nHo").expect("sent");
            connection
        })
        .collect();
    assert_eq!(project.ok("echo fine"), "fine\n");
    drop(slow);
}

#[test]
fn wrong_methods_say_which_are_right() {
    let project = project();
    for (method, path, allowed) in [
        ("GET", project.path("/run"), "POST"),
        ("PUT", project.path("/run"), "POST"),
        ("DELETE", "/projects".to_owned(), "GET"),
        ("POST", project.path(""), "GET"),
        ("POST", "/healthz".to_owned(), "GET"),
    ] {
        let reply = project.client.send(method, &path, &[], b"{}");
        reply.refused(405, "method_not_allowed");
        let allow = reply.header("allow").unwrap_or_default();
        assert!(allow.split(',').any(|name| name.trim() == allowed), "{method} {path}: Allow: {allow}");
    }
    project.client.get("/no/such/path").refused(404, "not_found");
}

#[test]
fn unknown_projects_and_runs_are_not_found() {
    let project = project();
    let client = &project.client;
    let body = json!({"command": "true"});
    for id in ["no-such-project", "00000000-0000-4000-8000-000000000000", "..%2f..", "%00", "UPPER", "-x"] {
        let reply = client.post(&format!("/projects/{id}/run"), &body);
        assert!([400, 404].contains(&reply.status), "{id}: {}", reply.text());
        assert!(
            ["project_not_found", "invalid_name", "not_found"].contains(&reply.code().as_str()),
            "{id}: {}",
            reply.text()
        );
    }
    for run in ["run_01JD8Z5Q6W9J5Q0M3V7T2K4X8A", "run_x", "..%2f..%2fproject.json", "x"] {
        for rest in ["", "/output", "/events"] {
            let reply = client.get(&project.path(&format!("/runs/{run}{rest}")));
            assert!([400, 404].contains(&reply.status), "{run}{rest}: {}", reply.text());
            assert!(!reply.code().is_empty(), "{run}{rest}: {}", reply.text());
        }
    }
    // A run belongs to one project.
    let other = sandbox_tests::project();
    let run = other.run("true").run_id;
    client.get(&project.path(&format!("/runs/{run}"))).refused(404, "run_not_found");
    assert_eq!(client.delete(&project.path(&format!("/runs/{run}"))).status, 404);
}

#[test]
fn calls_without_a_token_are_refused() {
    let project = project();
    let paths = ["/projects", "/doctor", "/metrics", "/policies", "/tokens"];
    let open = ["/healthz", "/readyz"];
    for token in [None, Some(""), Some("sbx_wrong"), Some("x"), Some("sbx_0000000000000000000000000000000000000000000")]
    {
        let client = project.client.with_token(token);
        for path in paths.iter().map(|path| (*path).to_owned()).chain([project.path(""), project.path("/runs")]) {
            let reply = client.get(&path);
            reply.refused(401, "unauthorized");
            assert!(reply.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")), "{path}");
        }
        client.post(&project.path("/run"), &json!({"command": "touch ran"})).refused(401, "unauthorized");
        for path in open {
            assert_eq!(client.get(path).status, 200, "{path}");
        }
    }
    let token = project.client.token.clone().expect("a token");
    let other = project.client.with_token(None);
    for value in [format!("Basic {token}"), token.clone(), format!("Bearer  {token}x"), "Bearer".to_owned()] {
        let reply = other.send("GET", "/projects", &[("Authorization", &value)], b"");
        assert_eq!(reply.status, 401, "{value}: {}", reply.text());
    }
    // A token in the address would end in logs.
    assert_eq!(other.get(&format!("/projects?token={token}")).status, 401);
    assert_eq!(project.runs(), Vec::<Value>::new());
}

#[test]
fn tokens_keep_to_their_scope() {
    let daemon = Daemon::shared();
    let (project, other) = (daemon.project(), daemon.project());
    let admin = &daemon.client;
    let made = admin.post("/tokens", &json!({"name": "ci", "scopes": ["run"], "projects": [project.id]}));
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    let secret = made["token"].as_str().expect("a new token is shown once").to_owned();
    assert!(secret.starts_with("sbx_") && secret.len() > 30, "{secret}");
    let narrow = admin.with_token(Some(&secret));
    let body = json!({"command": "echo allowed"});
    assert_eq!(narrow.post(&project.path("/run"), &body).ok()["stdout"], json!("allowed\n"));
    let elsewhere = narrow.post(&other.path("/run"), &json!({"command": "touch ran"}));
    assert!([403, 404].contains(&elsewhere.status), "{}", elsewhere.text());
    for (reply, what) in [
        (narrow.post("/projects", &json!({})), "create a project"),
        (narrow.delete(&project.path("")), "remove a project"),
        (narrow.post("/tokens", &json!({"scopes": ["admin"]})), "make a token"),
        (narrow.get("/tokens"), "list tokens"),
        (narrow.post("/projects", &json!({"dir": "/etc"})), "lend a folder of the host"),
        (
            narrow.post(
                &project.path("/run"),
                &json!({"command": "true", "policy_toml": "name = 'x'\nextends = 'default'\n"}),
            ),
            "bring a policy",
        ),
    ] {
        assert_eq!((reply.status, reply.code().as_str()), (403, "forbidden"), "{what}: {}", reply.text());
    }
    let listed = narrow.get("/projects").ok();
    let ids: Vec<&Value> =
        listed["projects"].as_array().expect("a list").iter().map(|project| &project["id"]).collect();
    assert_eq!(ids, [&json!(project.id)]);
    let files =
        admin.post("/tokens", &json!({"scopes": ["files"]})).ok()["token"].as_str().expect("a token").to_owned();
    admin.with_token(Some(&files)).post(&project.path("/run"), &body).refused(403, "forbidden");
    // Lists never show a secret; a revoked token is none.
    let list = admin.get("/tokens").ok();
    assert!(!list.to_string().contains(&secret), "{list}");
    let id = made["id"].as_str().expect("an id");
    assert!((200..300).contains(&admin.delete(&format!("/tokens/{id}")).status));
    narrow.get("/projects").refused(401, "unauthorized");
    assert_eq!(other.runs(), Vec::<Value>::new());
}

#[test]
fn foreign_hosts_and_origins_are_refused() {
    let project = project();
    let port = project.client.address.rsplit(':').next().expect("a port").to_owned();
    let body = br#"{"command": "touch ran"}"#;
    for host in [
        "evil.example",
        "evil.example:80",
        &format!("evil.example:{port}"),
        "127.0.0.1.evil.example",
        "169.254.169.254",
        "localhost.evil.example",
    ] {
        let reply = post(&project, &[("Host", host)], body);
        assert!(reply.status == 403 || reply.status == 421, "{host}: {}", reply.text());
        assert_eq!(reply.code(), "host_not_allowed", "{host}");
        // Also before the token, and where none is asked for.
        assert_eq!(
            project.client.with_token(None).send("GET", "/healthz", &[("Host", host)], b"").code(),
            "host_not_allowed"
        );
    }
    for origin in ["https://evil.example", "null", "http://localhost.evil.example", "http://127.0.0.1:1", "file://"] {
        let reply = post(&project, &[("Origin", origin)], body);
        reply.refused(403, "origin_not_allowed");
        assert_eq!(reply.header("access-control-allow-origin"), None);
    }
    let preflight = [("Origin", "https://evil.example"), ("Access-Control-Request-Method", "POST")];
    let reply = project.client.with_token(None).send("OPTIONS", &project.path("/run"), &preflight, b"");
    assert!(reply.status >= 400 && reply.header("access-control-allow-origin").is_none(), "{}", reply.status);
    assert_eq!(project.runs(), Vec::<Value>::new());
    for host in
        [format!("127.0.0.1:{port}"), format!("localhost:{port}"), "localhost".to_owned(), format!("LOCALHOST:{port}")]
    {
        assert_eq!(post(&project, &[("Host", &host)], br#"{"command": "true"}"#).status, 200, "{host}");
    }
}

#[test]
fn configured_origins_may_call() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "origins = ['https://ide.example']\nhosts = ['sandbox.example']\n").expect("written");
    let daemon = Options::default().arg("--config").arg(&config.to_string_lossy()).start();
    let headers = [
        ("Origin", "https://ide.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization"),
    ];
    let preflight = daemon.client.with_token(None).send("OPTIONS", "/projects", &headers, b"");
    assert!((200..300).contains(&preflight.status), "{}", preflight.text());
    assert_eq!(preflight.header("access-control-allow-origin"), Some("https://ide.example"));
    let reply =
        daemon.client.send("GET", "/projects", &[("Origin", "https://ide.example"), ("Host", "sandbox.example")], b"");
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, Some("https://ide.example")));
    daemon
        .client
        .send("GET", "/projects", &[("Origin", "https://other.example")], b"")
        .refused(403, "origin_not_allowed");
}

#[test]
fn every_answer_has_a_request_id() {
    let client = &Daemon::shared().client;
    let ids: Vec<String> = ["/projects", "/healthz", "/no/such"]
        .iter()
        .map(|path| client.get(path).header("x-request-id").unwrap_or_else(|| panic!("{path} has no id")).to_owned())
        .collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2]);
    let refused = client.get("/no/such");
    assert_eq!(refused.json()["request_id"].as_str(), refused.header("x-request-id"));
}

#[test]
fn projects_are_made_found_changed_and_removed() {
    let client = &Daemon::shared().client;
    let made = client.post("/projects", &json!({"name": "My Site!", "access_type": "public", "policy": "strict"}));
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    let keys: Vec<&str> = made.as_object().expect("an object").keys().map(String::as_str).collect();
    for name in ["id", "url_id", "name", "created_at", "preview_url", "access_type"] {
        assert!(keys.contains(&name), "{name} in {made}");
    }
    let (id, url_id) = (made["id"].as_str().expect("a uuid"), made["url_id"].as_str().expect("a name"));
    assert!(id.len() == 36 && url_id.starts_with("my-site"), "{made}");
    assert_eq!(
        (&made["name"], &made["access_type"], &made["policy"]),
        (&json!("My Site!"), &json!("public"), &json!("strict"))
    );
    for place in [format!("/projects/{id}"), format!("/projects/{url_id}"), format!("/api/v1/projects/{id}")] {
        assert_eq!(client.get(&place).ok(), made, "{place}");
    }
    let list = client.get("/projects").ok();
    assert!(list["projects"].as_array().expect("a list").contains(&made));
    let changed = client.patch(&format!("/projects/{id}"), &json!({"name": "Other", "policy": "default"})).ok();
    assert_eq!(
        (&changed["name"], &changed["policy"], &changed["id"]),
        (&json!("Other"), &json!("default"), &json!(id))
    );
    assert_eq!(client.get(&format!("/projects/{id}")).ok(), changed);
    // Another project of the same name gets another address.
    let twin = client.post("/projects", &json!({"name": "My Site!"})).ok();
    assert_ne!(twin["url_id"], json!(url_id));
    for id in [id, twin["id"].as_str().expect("a uuid")] {
        let removed = client.delete(&format!("/projects/{id}"));
        assert!((200..300).contains(&removed.status), "{}", removed.text());
        client.get(&format!("/projects/{id}")).refused(404, "project_not_found");
        client.delete(&format!("/projects/{id}")).refused(404, "project_not_found");
    }
    for (body, codes) in [
        (json!({"name": 7}), ["invalid_request", ""]),
        (json!({"nam": "x"}), ["unknown_field", ""]),
        (json!({"name": "x".repeat(10_000)}), ["invalid_name", "invalid_request"]),
        (json!({"name": "a\0b"}), ["invalid_name", "nul_byte"]),
        (json!({"policy": "no-such"}), ["policy_not_found", ""]),
        (json!({"access_type": "everybody"}), ["invalid_request", ""]),
        (json!({"dir": "relative"}), ["invalid_directory", ""]),
        (json!({"dir": "/no/such/folder"}), ["invalid_directory", ""]),
        (json!({"dir": "/etc/passwd"}), ["invalid_directory", ""]),
    ] {
        let reply = client.post("/projects", &body);
        assert!(
            (400..500).contains(&reply.status) && codes.contains(&reply.code().as_str()),
            "{body}: {}",
            reply.text()
        );
    }
}

#[test]
fn a_folder_has_one_project() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let daemon = Daemon::shared();
    let first = daemon.project_with(&json!({"dir": folder.path()}));
    let again = daemon.client.post("/projects", &json!({"dir": folder.path()}));
    assert_eq!((again.status, again.json()["id"].as_str()), (200, Some(first.id.as_str())), "{}", again.text());
    first.ok("echo x > file");
    assert_eq!(std::fs::read_to_string(folder.path().join("file")).expect("written there"), "x\n");
}

#[test]
fn the_interface_is_the_same_below_api_v1() {
    let project = project();
    let reply =
        project.client.post(&format!("/api/v1/projects/{}/run", project.url_id), &json!({"command": "echo hi"}));
    assert_eq!(reply.ok()["stdout"], json!("hi\n"));
    for path in ["/healthz", "/readyz", "/openapi.json", "/projects"] {
        assert_eq!(project.client.get(&format!("/api/v1{path}")).status, 200, "{path}");
    }
}

#[test]
fn the_interface_describes_itself() {
    let client = &Daemon::shared().client;
    let document = client.get("/openapi.json").ok();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")), "{}", document["openapi"]);
    assert!(document["info"]["title"].as_str().is_some_and(|title| !title.is_empty()));
    let paths = document["paths"].as_object().expect("paths");
    let has = |path: &str, method: &str| {
        let suffix = |found: &&String| found.as_str() == path || found.replace("{project}", "{id}") == path;
        let operation = paths.keys().find(suffix).map(|found| &paths[found][method]);
        assert!(operation.is_some_and(Value::is_object), "{method} {path}: {:?}", paths.keys().collect::<Vec<_>>());
    };
    for (path, method) in [
        ("/projects", "get"),
        ("/projects", "post"),
        ("/projects/{id}", "get"),
        ("/projects/{id}", "patch"),
        ("/projects/{id}", "delete"),
        ("/projects/{id}/run", "post"),
        ("/projects/{id}/runs", "post"),
        ("/projects/{id}/runs", "get"),
        ("/projects/{id}/runs/{run}", "get"),
        ("/projects/{id}/runs/{run}", "delete"),
        ("/projects/{id}/runs/{run}/output", "get"),
        ("/healthz", "get"),
        ("/readyz", "get"),
        ("/doctor", "get"),
    ] {
        has(path, method);
    }
    // Every reference leads somewhere.
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads out of the document"));
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|field| collect_references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        _ => {}
    }
}

#[test]
fn operations_answer() {
    let client = &Daemon::shared().client;
    let health = client.get("/healthz").ok();
    assert_eq!((&health["status"], &health["service"]), (&json!("ok"), &json!("sandboxd")));
    assert_eq!(client.get("/readyz").ok()["ready"], json!(true));
    let doctor = client.get("/doctor").ok();
    assert!(doctor["lines"].as_array().is_some_and(|lines| lines.len() > 3), "{doctor}");
    assert_eq!(doctor["default_policy_enforceable"], json!(true), "{doctor}");
    let metrics = client.get("/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.text().contains("# TYPE sandboxd_"), "{}", metrics.text());
    let policies = client.get("/policies").ok();
    let names: Vec<&str> =
        policies["policies"].as_array().expect("a list").iter().filter_map(|policy| policy["name"].as_str()).collect();
    for name in ["default", "offline", "node-build", "python", "function", "strict"] {
        assert!(names.contains(&name), "{names:?}");
    }
}

#[test]
fn a_connection_serves_one_call_after_another() {
    let project = project();
    let request = project.client.request("POST", &project.path("/run"), &[], br#"{"command": "echo hi"}"#);
    let mut connection = Connection::open(&project.client.address).expect("the daemon listens");
    for _ in 0..20 {
        let (status, body) = connection.exchange(&request).expect("an answer with a length");
        let result: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((status, &result["stdout"]), (200, &json!("hi\n")));
    }
}

#[test]
fn a_unix_socket_serves_the_same() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("sandboxd.sock");
    let daemon = Options::default().arg("--listen").arg(&format!("unix:{}", path.display())).start();
    let token = daemon.client.token.clone().expect("a token");
    let mut socket = UnixStream::connect(&path).expect("the daemon listens there too");
    let request = format!(
        "GET /projects HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("text");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"projects\""), "{answer}");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).expect("there"));
    assert_eq!(mode & 0o007, 0, "everybody may connect: {mode:o}");
}

#[test]
fn no_auth_needs_local_listeners() {
    let daemon = Options::default().arg("--no-auth").start();
    let anybody: Client = daemon.client.with_token(None);
    assert_eq!(anybody.get("/projects").status, 200);
    // Browsers of this host are still kept out.
    anybody.send("GET", "/projects", &[("Host", "evil.example")], b"");
    assert_eq!(anybody.send("GET", "/projects", &[("Host", "evil.example")], b"").code(), "host_not_allowed");
    let refused = std::process::Command::new(sandbox_tests::programs::path("sandboxd"))
        .args(["serve", "--no-auth", "--listen", "0.0.0.0:0", "--state"])
        .arg(daemon.root().join("other"))
        .output()
        .expect("it starts");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--no-auth"));
}
