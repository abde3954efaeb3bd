//! The Model Context Protocol: the tools that agents run commands with, over HTTP and over pipes.

use sandbox_tests::cli::Person;
use sandbox_tests::mcp::{Pipes, Session};
use sandbox_tests::{Daemon, Options, Project, host, project};
use serde_json::{Value, json};
use std::time::Duration;

/// The command is over soon: first the client's word has to come through, then what it started has to die.
fn assert_gone(marker: &str) {
    let gone = host::eventually(Duration::from_secs(10), || host::processes_with(marker).is_empty());
    assert!(gone, "still alive: {:?}", host::processes_with(marker));
}

/// Both revisions of the protocol, for tests that hold for both.
fn both(project: &Project) -> [Session; 2] {
    [Session::open(&project.client), Session::without(&project.client)]
}

#[test]
fn commands_answer_in_the_layout_that_agents_know() {
    let project = project();
    for session in both(&project) {
        let run = |command: &str| session.call("run_command", &json!({"project_id": project.id, "command": command}));
        assert_eq!(run("true").text(), "Exit code: 0");
        assert_eq!(run("echo out; echo err >&2; exit 3").text(), "Exit code: 3\n\nSTDOUT:\nout\n\n\nSTDERR:\nerr\n");
        assert_eq!(run("printf err >&2").text(), "Exit code: 0\n\nSTDERR:\nerr");
        let failed = run("exit 3");
        assert_eq!(failed.data()["exit_code"], 3, "a command that fails is an answer: {failed:?}");
    }
}

#[test]
fn data_is_the_result_that_http_has() {
    let project = project();
    let session = Session::open(&project.client);
    let arguments = json!({"project_id": project.id, "command": "pwd; echo $$ >&2", "cwd": "/tmp", "timeout_ms": 5000});
    let answered = session.call("run_command", &arguments);
    let data = answered.data();
    assert_eq!((&data["stdout"], &data["status"]), (&json!("/tmp\n"), &json!("exited")), "{data}");
    let run = data["run_id"].as_str().expect("an id");
    let summary = project.summary(run);
    assert_eq!(summary["timeout_ms"], 5000);
    for field in ["exit_code", "stdout", "stderr", "status", "stdout_bytes", "stderr_bytes", "lingering", "timed_out"] {
        assert_eq!(data[field], summary["result"][field], "{field}");
    }
    assert_eq!(data["enforced"]["namespaces"], summary["result"]["enforced"]["namespaces"]);
    assert!(!data.to_string().contains("null"), "{data}");
}

#[test]
fn a_run_that_ended_badly_says_how() {
    let project = project();
    let session = Session::without(&project.client);
    let run = |command: &str| {
        let arguments = json!({"project_id": project.id, "command": command, "timeout_ms": 400});
        session.call("run_command", &arguments)
    };
    let timed_out = run("echo begun; sleep 60");
    assert_eq!(timed_out.text(), "Exit code: 124\n\nSTDOUT:\nbegun\n");
    assert_eq!(timed_out.data()["status"], "timed_out");
    assert!(timed_out.result()["content"][1]["text"].as_str().is_some_and(|note| note.contains("timeout_ms")));
    let killed = run("kill -9 $$");
    assert_eq!((killed.text(), &killed.data()["signal"]), ("Exit code: 137", &json!("SIGKILL")));
}

#[test]
fn what_a_model_can_mend_is_a_result_and_says_so() {
    let project = project();
    for session in both(&project) {
        let refused = |arguments: &Value| session.call("run_command", arguments).refused().to_owned();
        let id = &project.id;
        assert!(refused(&json!({"command": "true"})).contains("project_id is missing"));
        assert!(refused(&json!({"project_id": "nobody", "command": "true"})).contains("there is no project"));
        assert!(refused(&json!({"project_id": id})).contains("command"));
        assert!(refused(&json!({"project_id": id, "command": "true", "colour": "red"})).contains("colour"));
        assert!(refused(&json!({"project_id": id, "command": 7})).contains("command"));
        assert!(refused(&json!({"project_id": id, "command": " "})).contains("empty"));
        assert!(refused(&json!({"project_id": id, "command": "a\0b"})).contains("NUL"));
        assert!(refused(&json!({"project_id": id, "command": "true", "timeout_ms": 300_001})).contains("timeout_ms"));
        assert!(refused(&json!({"project_id": id, "command": "true", "timeout_ms": 0})).contains("timeout_ms"));
        assert!(refused(&json!({"project_id": id, "command": "true", "cwd": "/nowhere"})).contains("/nowhere"));
        assert!(refused(&json!({"project_id": id, "command": "true", "cwd": "/usr"})).contains("/usr"));
        let unknown = session.call("rm_rf", &json!({}));
        assert_eq!(unknown.message["error"]["code"], -32602, "{unknown:?}");
    }
}

/// Values of every kind but the one that a field takes.
fn wrong_for(field: &Value) -> Vec<Value> {
    let all = [json!(null), json!(true), json!(-1), json!(1.5), json!("x"), json!(["x"]), json!({"x": 1})];
    let takes = |value: &Value| match field["type"].as_str() {
        Some("string") => value.is_string() || value.is_null(),
        Some("integer") => value.is_null(),
        Some("boolean") => value.is_boolean() || value.is_null(),
        Some("object") => value.is_object() || value.is_null(),
        _ => false,
    };
    all.into_iter().filter(|value| !takes(value)).collect()
}

#[test]
fn no_tool_takes_what_its_schema_does_not() {
    let project = project();
    let session = Session::without(&project.client);
    for tool in session.tools() {
        let name = tool["name"].as_str().expect("a name");
        let mut calls = vec![json!({"no_such_field": 1})];
        for (field, schema) in tool["inputSchema"]["properties"].as_object().expect("fields") {
            calls.extend(wrong_for(schema).into_iter().map(|wrong| json!({ field: wrong })));
        }
        for arguments in calls {
            let answered = session.call(name, &arguments);
            assert!(answered.refused().len() > 20, "{name} {arguments}: {answered:?}");
        }
    }
    assert_eq!(project.ok("echo alive"), "alive\n");
}

#[test]
fn progress_is_the_output_as_it_is_written() {
    let project = project();
    for session in both(&project) {
        let command = "for n in 1 2 3; do echo line $n; sleep 0.4; done; printf 'é'; exit 5";
        let arguments = json!({"project_id": project.id, "command": command});
        let answered = session.call_with_progress("run_command", &arguments);
        let said = answered.progress();
        assert_eq!(said.concat(), "line 1\nline 2\nline 3\né", "{answered:?}");
        assert!(said.len() >= 3, "it came in one piece: {said:?}");
        let counts: Vec<f64> =
            answered.notifications.iter().filter_map(|message| message["params"]["progress"].as_f64()).collect();
        assert!(counts.windows(2).all(|pair| pair[0] < pair[1]), "{counts:?}");
        assert_eq!(answered.text(), "Exit code: 5\n\nSTDOUT:\nline 1\nline 2\nline 3\né");
    }
}

#[test]
fn a_flood_stays_small_and_is_not_lost() {
    let project = project();
    let session = Session::open(&project.client);
    let command =
        "i=0; while [ $i -lt 20 ]; do head -c 1000000 /dev/zero | tr '\\0' '\\1'; i=$((i+1)); sleep 0.05; done";
    let arguments = json!({"project_id": project.id, "command": command});
    for answered in [session.call("run_command", &arguments), session.call_with_progress("run_command", &arguments)] {
        let largest = answered.notifications.iter().chain([&answered.message]).map(|message| message.to_string().len());
        let (largest, said) = (largest.max().unwrap_or_default(), answered.progress().concat().len());
        assert!(largest < 1 << 20, "{largest} bytes in one message");
        assert!(said < 8 << 20, "{said} bytes of progress");
        let data = answered.data();
        assert_eq!(data["stdout_bytes"], 20_000_000, "{}", data["truncated"]);
        let from = data["truncated"]["stdout"]["omitted_from"].as_u64().expect("it is shortened");
        // The call that the answer names reads on.
        let more = session.call("run_output", &json!({"run_id": data["run_id"], "stream": "stdout", "after": from}));
        let read = more.data()["output"].as_str().expect("a text").len() as u64;
        assert!(read > 10_000 && more.data()["next"] == from + read, "{read}");
        assert!(more.message.to_string().len() < 1 << 20);
    }
}

#[test]
fn a_run_that_takes_long_goes_on_behind_its_answer() {
    let project = project();
    let session = Session::without(&project.client);
    let marker = host::marker();
    let command = format!("echo begun; sleep {marker}; echo never");
    let arguments = json!({"project_id": project.id, "command": command, "timeout_ms": 300_000});
    let answered = session.call("run_command", &arguments);
    assert_eq!(answered.data()["status"], "running", "{answered:?}");
    let run = answered.data()["run_id"].as_str().expect("an id").to_owned();
    assert!(answered.text().contains("run_output") && answered.text().contains(&run), "{answered:?}");
    let read = session.call("run_output", &json!({"run_id": run}));
    assert_eq!((&read.data()["output"], &read.data()["status"]), (&json!("begun\n"), &json!("running")));
    let nothing = session.call("run_output", &json!({"run_id": run, "after": read.data()["next"], "wait_ms": 300}));
    assert_eq!((&nothing.data()["output"], &nothing.data()["next"]), (&json!(""), &read.data()["next"]));
    let listed = session.call("run_list", &json!({"project_id": project.id}));
    assert_eq!(
        (&listed.data()["runs"][0]["run_id"], &listed.data()["runs"][0]["status"]),
        (&json!(run), &json!("running"))
    );
    let killed = session.call("run_kill", &json!({"run_id": run}));
    assert_eq!(killed.data()["status"], "cancelled");
    assert_gone(&marker);
    let over = session.call("run_output", &json!({"run_id": run, "after": 6, "wait_ms": 5000}));
    assert_eq!((&over.data()["output"], &over.data()["status"]), (&json!(""), &json!("cancelled")));
}

#[test]
fn whoever_cancels_or_hangs_up_ends_the_command() {
    let project = project();
    project.ok("true");
    let sleeping =
        |marker: &str| host::eventually(Duration::from_secs(10), || !host::processes_with(marker).is_empty());
    for token in [None, Some("progress")] {
        for session in both(&project) {
            let marker = host::marker();
            let command = format!("trap '' TERM; (setsid sleep {marker} &); sleep {marker}");
            let mut params =
                json!({"name": "run_command", "arguments": {"project_id": project.id, "command": command}});
            if let Some(token) = token {
                params["_meta"] = json!({ "progressToken": token });
            }
            let (id, message) = session.request("tools/call", params);
            std::thread::scope(|scope| {
                let call = scope.spawn(|| session.begin(&message).finish());
                assert!(sleeping(&marker), "it does not run");
                let cancel = json!({
                    "jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id, "reason": "test"}
                });
                session.post(&cancel);
                // Without a session there is nothing to cancel by: only hanging up ends the call.
                if message["params"]["_meta"].get("io.modelcontextprotocol/protocolVersion").is_none() {
                    assert_gone(&marker);
                    let _ = call.join().expect("no panic");
                } else {
                    let run = session.call("run_list", &json!({"project_id": project.id, "limit": 1}));
                    session.call("run_kill", &json!({"run_id": run.data()["runs"][0]["run_id"]}));
                    let _ = call.join().expect("no panic");
                }
            });
            assert_gone(&marker);
        }
    }
    // Whoever closes its session gives up what it had asked for.
    let session = Session::open(&project.client);
    let marker = host::marker();
    let arguments = json!({"project_id": project.id, "command": format!("sleep {marker}")});
    let (_, message) = session.request("tools/call", json!({"name": "run_command", "arguments": arguments}));
    std::thread::scope(|scope| {
        let call = scope.spawn(|| session.begin(&message).finish());
        assert!(sleeping(&marker), "it does not run");
        session.close();
        let _ = call.join().expect("no panic");
    });
    assert_gone(&marker);
    // Gone without a word, before anything was answered.
    let session = Session::without(&project.client);
    let marker = host::marker();
    let params = json!({
        "name": "run_command", "_meta": {"progressToken": 1},
        "arguments": {"project_id": project.id, "command": format!("echo begun; sleep {marker}")}
    });
    let (_, message) = session.request("tools/call", params);
    let answer = session.begin(&message);
    assert!(sleeping(&marker), "it does not run");
    drop(answer);
    assert_gone(&marker);
}

#[test]
fn each_request_has_the_rights_of_its_own_token() {
    let daemon = Daemon::shared();
    let (mine, other) = (daemon.project(), daemon.project());
    let token = daemon.client.post("/tokens", &json!({"name": "one", "scopes": ["run"], "projects": [mine.id]})).ok();
    let token = token["token"].as_str().expect("a token");
    let admin = Session::open(&daemon.client);
    let run = admin.call("run_command", &json!({"project_id": other.id, "command": "echo secret"}));
    let run = run.data()["run_id"].clone();
    // The session was opened by somebody who may do everything; whoever uses it now may not.
    for session in [admin.with_token(Some(token)), Session::without(&daemon.client.with_token(Some(token)))] {
        assert_eq!(
            session.call("run_command", &json!({"project_id": mine.id, "command": "echo me"})).data()["stdout"],
            "me\n"
        );
        let projects = session.call("list_projects", &json!({}));
        assert_eq!(projects.data()["projects"].as_array().map(Vec::len), Some(1), "{projects:?}");
        for (tool, arguments) in [
            ("run_command", json!({"project_id": other.id, "command": "true"})),
            ("get_project", json!({"project_id": other.id})),
            ("run_output", json!({"run_id": run})),
            ("run_kill", json!({"run_id": run})),
            ("run_list", json!({"project_id": other.id})),
            ("create_project", json!({"name": "mine"})),
            ("deploy_project", json!({"project_id": mine.id})),
            ("build_and_deploy", json!({"project_id": mine.id, "command": "true", "dir": "dist"})),
        ] {
            assert!(!session.call(tool, &arguments).refused().contains("secret"), "{tool}");
        }
        let read =
            session.send("resources/read", json!({"uri": format!("sandbox://runs/{}", run.as_str().expect("an id"))}));
        assert!(read.message["error"]["code"].is_i64(), "{read:?}");
    }
    let nobody = admin.with_token(None);
    let (_, message) = nobody.request("tools/list", json!({}));
    assert_eq!(nobody.post(&message).status, 401);
    let page =
        daemon.client.send("POST", "/mcp", &[("Origin", "https://evil.example")], message.to_string().as_bytes());
    assert_eq!((page.status, page.code().as_str()), (403, "origin_not_allowed"));
    let rebound = daemon.client.send("POST", "/mcp", &[("Host", "evil.example")], message.to_string().as_bytes());
    assert_eq!((rebound.status, rebound.code().as_str()), (403, "host_not_allowed"));
}

#[test]
fn a_connection_may_have_a_project_of_its_own() {
    let project = project();
    let session = Session::open_at(&project.client, &format!("/mcp?project={}", project.id));
    let tools = session.tools();
    let run = tools.iter().find(|tool| tool["name"] == "run_command").expect("listed");
    assert_eq!(run["inputSchema"]["required"], json!(["command"]));
    assert_eq!(session.call("run_command", &json!({"command": "echo here"})).text(), "Exit code: 0\n\nSTDOUT:\nhere\n");
    let tools = Session::open(&project.client).tools();
    let run = tools.iter().find(|tool| tool["name"] == "run_command").expect("listed");
    assert_eq!(run["inputSchema"]["required"], json!(["project_id", "command"]));
}

#[test]
fn runs_policies_and_the_doctor_can_be_read() {
    let project = project();
    for session in both(&project) {
        let run = session.call("run_command", &json!({"project_id": project.id, "command": "echo out; echo err >&2"}));
        let run = run.data()["run_id"].as_str().expect("an id").to_owned();
        let read = |uri: &str| session.send("resources/read", json!({ "uri": uri }));
        let text = |uri: &str| read(uri).result()["contents"][0]["text"].as_str().expect("a text").to_owned();
        assert_eq!(text(&format!("sandbox://runs/{run}/stdout")), "out\n");
        assert_eq!(text(&format!("sandbox://runs/{run}/stderr")), "err\n");
        let whole: Value = serde_json::from_str(&text(&format!("sandbox://runs/{run}"))).expect("JSON");
        assert_eq!(whole["result"]["exit_code"], 0);
        let policy: Value = serde_json::from_str(&text("sandbox://policies/default")).expect("JSON");
        assert_eq!(policy["policy"]["network"]["mode"], "none", "{policy}");
        let doctor: Value = serde_json::from_str(&text("sandbox://doctor")).expect("JSON");
        assert!(doctor["lines"].as_array().is_some_and(|lines| lines.len() > 10));
        for uri in ["sandbox://nothing", "file:///etc/passwd", "sandbox://runs/x", "sandbox://policies/nobody", ""] {
            assert!(read(uri).message["error"]["code"].is_i64(), "{uri}");
        }
        let templates = session.send("resources/templates/list", json!({}));
        assert!(templates.result()["resourceTemplates"].as_array().is_some_and(|list| list.len() >= 4));
    }
}

#[test]
fn two_hundred_calls_at_once() {
    let project = project();
    project.ok("true");
    let session = Session::open(&project.client);
    std::thread::scope(|scope| {
        let call = |number: usize| {
            let session = &session;
            let id = &project.id;
            move || {
                let answered =
                    session.call("run_command", &json!({"project_id": id, "command": format!("echo {number}")}));
                assert_eq!(answered.text(), format!("Exit code: 0\n\nSTDOUT:\n{number}\n"));
            }
        };
        let calls: Vec<_> = (0..200).map(|number| scope.spawn(call(number))).collect();
        calls.into_iter().for_each(|call| call.join().expect("answered"));
    });
}

#[test]
fn a_site_is_built_and_deployed_in_one_call() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let daemon = Options::default().env("HOME", &home.path().to_string_lossy()).start();
    let project = daemon.project();
    let session = Session::open(&project.client);
    let id = &project.id;
    let failed = session
        .call("build_and_deploy", &json!({"project_id": id, "command": "echo broken >&2; exit 2", "dir": "out"}));
    assert_eq!(failed.result()["isError"], true, "{failed:?}");
    assert_eq!(failed.text(), "Exit code: 2\n\nSTDERR:\nbroken\n");
    let command = "mkdir -p out && echo '<h1>made by a model</h1>' > out/index.html";
    let built = session.call("build_and_deploy", &json!({"project_id": id, "command": command, "dir": "out"}));
    let url = built.data()["release"]["url"].as_str().expect("a URL").to_owned();
    assert_eq!(built.data()["build"]["exit_code"], 0);
    assert!(sandbox_tests::http::fetch(&url, "/").text().contains("made by a model"));
    project.ok("echo '<h1>again</h1>' > out/index.html");
    let again = session.call("deploy_project", &json!({"project_id": id, "dir": "out"}));
    assert_eq!(again.data()["url"], url.as_str(), "{again:?}");
    assert!(sandbox_tests::http::fetch(&url, "/").text().contains("again"));
    assert!(session.call("deploy_project", &json!({"project_id": id, "dir": "../.."})).refused().len() > 20);
    assert!(
        session.call("build_and_deploy", &json!({"project_id": id, "command": "true"})).refused().contains("nothing")
    );
}

#[test]
fn an_agent_that_starts_us_has_the_folder_that_it_is_in() {
    let person = Person::alone();
    let folder = person.folder("site");
    std::fs::write(folder.join("hello.txt"), "from the folder\n").expect("ours");
    let mut command = person.command(&["mcp"]);
    command.current_dir(&folder);
    let mut pipes = Pipes::start(command);
    pipes.shake_hands();
    let answered = pipes.call("run_command", &json!({"command": "cat hello.txt; pwd"}));
    assert_eq!(answered.text(), "Exit code: 0\n\nSTDOUT:\nfrom the folder\n/home/user/project\n");
    // A daemon that has ended meanwhile is started again, and nobody notices.
    let running = std::fs::read(person.state().join("daemon.json")).expect("a daemon");
    let running: Value = serde_json::from_slice(&running).expect("JSON");
    let pid = i32::try_from(running["pid"].as_i64().expect("a pid")).expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("ours");
    assert!(host::eventually(Duration::from_secs(10), || host::comm(pid.unsigned_abs()) != "sandboxd"));
    let answered = pipes.call("run_command", &json!({"command": "echo again"}));
    assert_eq!(answered.text(), "Exit code: 0\n\nSTDOUT:\nagain\n");
    // Nothing but messages on standard output, and an end with the end of standard input.
    pipes.write(&json!("not a message"));
    assert_eq!(pipes.close(), (String::new(), Some(0)));
}

#[test]
fn pipes_carry_messages_and_nothing_else() {
    let person = Person::of(Daemon::shared());
    let project = Daemon::shared().project();
    let mut pipes = Pipes::start(person.command(&["mcp", "--project", &project.id]));
    pipes.shake_hands();
    let mut raw = person.command(&["mcp", "--project", &project.id]);
    let silent = raw.output().expect("sandboxctl starts");
    assert_eq!((silent.stdout.len(), silent.status.code()), (0, Some(0)), "nobody has asked for anything");
    let params = json!({
        "name": "run_command", "arguments": {"command": "for n in 1 2 3; do echo $n; sleep 0.3; done"},
        "_meta": {"progressToken": 1}
    });
    let answered = pipes.send("tools/call", params);
    assert_eq!(answered.progress().concat(), "1\n2\n3\n");
    // The revision without sessions, through the same pipes.
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {}
    });
    let found = pipes.send("server/discover", json!({ "_meta": meta }));
    assert!(found.result()["supportedVersions"].to_string().contains("2026-07-28"), "{found:?}");
    let params = json!({"name": "run_command", "arguments": {"command": "echo modern"}, "_meta": meta});
    assert_eq!(pipes.send("tools/call", params).text(), "Exit code: 0\n\nSTDOUT:\nmodern\n");
    // Cancelled, and then left alone: both end the command.
    for leaves in [false, true] {
        let marker = host::marker();
        let params = json!({"name": "run_command", "arguments": {"command": format!("sleep {marker}")}});
        pipes.write(&json!({"jsonrpc": "2.0", "id": "long", "method": "tools/call", "params": params}));
        assert!(host::eventually(Duration::from_secs(10), || !host::processes_with(&marker).is_empty()));
        if leaves {
            assert_eq!(pipes.close().1, Some(0));
            assert_gone(&marker);
            break;
        }
        pipes.write(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "long"}}));
        assert_gone(&marker);
        assert_eq!(pipes.call("run_command", &json!({"command": "echo on"})).text(), "Exit code: 0\n\nSTDOUT:\non\n");
    }
}

#[test]
fn files_are_read_written_and_listed() {
    let project = project();
    for session in both(&project) {
        let id = &project.id;
        let write = |path: &str, content: &str, encoding: &str| {
            let arguments = json!({"project_id": id, "file_path": path, "content": content, "encoding": encoding});
            session.call("write_file", &arguments)
        };
        let read = |path: &str| session.call("read_file", &json!({"project_id": id, "file_path": path}));
        assert_eq!(project.ok("rm -rf src; id -u"), "1000\n");
        assert_eq!(write("src/a b/é.js", "console.log('hi')\n", "utf-8").data()["created"], true);
        assert_eq!(write("src/a b/é.js", "two\n", "utf-8").data()["created"], false);
        assert_eq!(read("src/a b/é.js").text(), "two\n");
        // The command sees what was written, as its own, and the other way round.
        let seen = project.ok("cat 'src/a b/é.js'; stat -c '%u %g %a' src 'src/a b/é.js'; echo more >> 'src/a b/é.js'");
        assert_eq!(seen, "two\n1000 1000 755\n1000 1000 644\n");
        assert_eq!(read("/home/user/project/src/a b/é.js").text(), "two\nmore\n");
        write("bin", "AAEC/w==", "base64");
        assert_eq!(project.ok("od -An -tx1 bin"), " 00 01 02 ff\n");
        assert!(read("bin").refused().contains("base64"));
        let bytes = session.call("read_file", &json!({"project_id": id, "file_path": "bin", "encoding": "base64"}));
        assert_eq!(bytes.data()["content"], "AAEC/w==");
        let listed = session.call("list_files", &json!({"project_id": id, "depth": 3}));
        let paths: Vec<&str> = listed.data()["files"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|file| file["path"].as_str())
            .filter(|path| path.starts_with("src"))
            .collect();
        assert_eq!(paths, ["src", "src/a b", "src/a b/é.js"], "{listed:?}");
        // A file that is longer than one answer, with characters where it is cut.
        project.ok("i=0; while [ $i -lt 30000 ]; do echo -n 'aé€'; i=$((i+1)); done > long");
        let (mut whole, mut next) = (String::new(), Some(0));
        while let Some(offset) = next {
            let piece = session.call("read_file", &json!({"project_id": id, "file_path": "long", "offset": offset}));
            whole.push_str(piece.data()["content"].as_str().expect("a text"));
            next = piece.data()["next"].as_u64();
        }
        assert!(whole == "aé€".repeat(30_000), "{}", whole.len());
    }
}

#[test]
fn no_file_outside_of_the_project_is_read_or_written() {
    let denies = "name = 'denies'\nextends = 'default'\n[filesystem]\ndeny = ['~/project/private']\n";
    let daemon = Options::default().policy("denies", denies).start();
    let project = daemon.project_of("denies");
    let id = project.id.clone();
    let secret = daemon.state().join("token");
    let up = "../../../../../../../../../../..";
    let session = Session::open(&project.client);
    project.ok(&format!(
        "ln -s {up}{0} up; ln -s {0} straight; ln -s / root; ln -s .. above; ln -s ../home/x home; mkfifo fifo; mkdir folder",
        secret.display()
    ));
    let workspace = daemon.state().join("projects").join(&id).join("workspace");
    std::fs::create_dir_all(workspace.join("private")).expect("the state is ours");
    std::fs::write(workspace.join("private/key"), "sealed").expect("the state is ours");
    std::os::unix::fs::symlink("private/key", workspace.join("to-private")).expect("the state is ours");
    let token = std::fs::read_to_string(&secret).expect("a token");
    for path in [
        "up",
        "straight",
        "root/etc/passwd",
        "above/project.json",
        "home",
        "../project.json",
        "folder/../../project.json",
        "/etc/passwd",
        &secret.to_string_lossy(),
        "/proc/self/environ",
        "private/key",
        "to-private",
        "folder",
        "fifo",
        "",
        "folder/../..",
        "/home/user/.bashrc",
        "/home/user/project/../x",
    ] {
        let read = session.call("read_file", &json!({"project_id": id, "file_path": path}));
        assert!(!read.refused().contains("sealed") && !read.refused().contains(token.trim()), "{path}");
        let arguments = json!({"project_id": id, "file_path": path, "content": "overwritten"});
        assert!(session.call("write_file", &arguments).refused().len() > 10, "{path}");
        if path != "folder" && !path.is_empty() {
            let listed = session.call("list_files", &json!({"project_id": id, "path": path}));
            assert!(listed.refused().len() > 10, "{path}: {listed:?}");
        }
    }
    assert_eq!(std::fs::read_to_string(&secret).expect("a token"), token);
    assert_eq!(std::fs::read_to_string(workspace.join("private/key")).expect("there"), "sealed");
    // While somebody changes folders into links and back, nothing of the outside comes through.
    let race = project.start(&json!({
        "command": "mkdir -p d real/sub; echo inside > real/sub/f; i=0; while [ $i -lt 3000 ]; do rm -rf d; \
            ln -s / d; rm -f d; cp -r real d; i=$((i+1)); done",
        "timeout_ms": 60_000
    }));
    for _ in 0..300 {
        let read = session.call("read_file", &json!({"project_id": id, "file_path": "d/sub/f"}));
        let read = read.result()["content"][0]["text"].as_str().unwrap_or_default().to_owned();
        assert!(read == "inside\n" || read.is_empty() || read.starts_with("Error: "), "{read}");
        let etc = session.call("read_file", &json!({"project_id": id, "file_path": "d/etc/passwd"}));
        assert!(etc.refused().len() > 10);
        session.call("write_file", &json!({"project_id": id, "file_path": "d/tmp/sandbox-test", "content": "x"}));
    }
    assert!(!std::path::Path::new("/tmp/sandbox-test").exists());
    daemon.client.delete(&format!("/projects/{id}/runs/{race}"));
    // Who may run commands may not therefore read files through the daemon.
    let token = daemon.client.post("/tokens", &json!({"name": "run", "scopes": ["run"]})).ok();
    let session = session.with_token(token["token"].as_str());
    assert!(session.call("read_file", &json!({"project_id": id, "file_path": "d"})).refused().contains("files"));
}
