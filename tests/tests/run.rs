//! A run and its result: shape, exit, input, output, environment.

use sandbox_tests::{host, project, require};
use sandbox_wire::{Omitted, RunState};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn a_result_has_the_documented_fields() {
    let project = project();
    let result = project.call(&json!({"command": "echo out; echo err >&2; exit 3"})).ok();
    let documented = BTreeSet::from([
        "exit_code",
        "stdout",
        "stderr",
        "run_id",
        "status",
        "signal",
        "timed_out",
        "oom_killed",
        "duration_ms",
        "stdout_bytes",
        "stderr_bytes",
        "truncated",
        "usage",
        "lingering",
        "denials",
        "enforced",
    ]);
    let missing: Vec<_> = documented.difference(&keys(&result)).copied().collect();
    assert_eq!(missing, Vec::<&str>::new(), "{result}");
    for (name, value) in [
        ("exit_code", json!(3)),
        ("stdout", json!("out\n")),
        ("stderr", json!("err\n")),
        ("status", json!("exited")),
        ("signal", Value::Null),
        ("timed_out", json!(false)),
        ("oom_killed", json!(false)),
        ("stdout_bytes", json!(4)),
        ("stderr_bytes", json!(4)),
        ("truncated", json!({})),
        ("lingering", json!(0)),
        ("denials", json!([])),
    ] {
        assert_eq!(result[name], value, "{name} of {result}");
    }
    let usage = keys(&result["usage"]);
    for name in ["cpu_ms", "memory_peak_bytes", "read_bytes", "write_bytes", "pids_peak"] {
        assert!(usage.contains(name), "usage.{name} of {result}");
    }
    let enforced = keys(&result["enforced"]);
    for name in ["namespaces", "landlock_abi", "seccomp", "cgroup", "network"] {
        assert!(enforced.contains(name), "enforced.{name} of {result}");
    }
    let run_id = result["run_id"].as_str().expect("an id");
    assert!(run_id.len() == 30 && run_id.starts_with("run_"), "{run_id}");
    assert!(result["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0 && ms < 60_000.0), "{result}");
}

#[test]
fn exit_codes_are_the_commands_own() {
    let project = project();
    for code in [0, 1, 42, 124, 125, 126, 127, 128, 137, 255] {
        let result = project.run(&format!("exit {code}"));
        assert_eq!((result.status, result.exit_code), (RunState::Exited, Some(code)), "{result:?}");
        assert_eq!((result.signal, result.timed_out, result.oom_killed), (None, false, false));
    }
    assert_eq!(project.run("/no/such/program").exit_code, Some(127));
    assert_eq!(project.run("/etc/passwd").exit_code, Some(126));
}

#[test]
fn a_signal_is_not_an_exit_code() {
    let project = project();
    for (name, number) in [("KILL", 9), ("TERM", 15), ("SEGV", 11), ("ABRT", 6), ("HUP", 1), ("PIPE", 13)] {
        let result = project.run(&format!("kill -{name} $$"));
        assert_eq!((result.status, result.exit_code), (RunState::Signaled, Some(128 + number)), "{name}: {result:?}");
        assert_eq!(result.signal.as_deref(), Some(format!("SIG{name}").as_str()));
        assert!(!result.timed_out && !result.oom_killed);
    }
    // The same number by `exit` is an exit.
    let result = project.run("exit 137");
    assert_eq!((result.status, result.exit_code, result.signal), (RunState::Exited, Some(137), None));
    // A child's signal is the shell's business.
    let result = project.run("sh -c 'kill -KILL $$'; echo $?");
    assert_eq!((result.exit_code, result.stdout.as_str()), (Some(0), "137\n"));
}

#[test]
fn a_program_that_is_not_there_is_127_and_one_that_cannot_run_126() {
    let project = project();
    let result = project.run_with(&json!({"command": ["no-such-program"]}));
    assert_eq!((result.status, result.exit_code), (RunState::Exited, Some(127)), "{result:?}");
    let result = project.run_with(&json!({"command": ["/etc/passwd"]}));
    assert_eq!((result.status, result.exit_code), (RunState::Exited, Some(126)), "{result:?}");
}

#[test]
fn an_argv_is_seen_by_no_shell() {
    let project = project();
    let words = ["printf", "<%s>", "a b", "$HOME", "*", "", "quote'\"", "-n", "ä\n"];
    assert_eq!(project.ok_with(&json!({ "command": words })), "<a b><$HOME><*><><quote'\"><-n><ä\n>");
}

#[test]
fn a_command_gets_its_environment_and_nothing_else() {
    let project = project();
    let body = json!({"command": "env -0 | sort -z | tr '\\0' '\\n'", "env": {"GIVEN": "x=y z", "EMPTY": ""}});
    let output = project.ok_with(&body);
    let names: BTreeSet<&str> = output.lines().filter_map(|line| line.split('=').next()).collect();
    assert!(output.contains("GIVEN=x=y z\n") && output.contains("EMPTY=\n"), "{output}");
    for (name, value) in [("HOME", "/home/user"), ("USER", "user"), ("LANG", "C.UTF-8")] {
        assert!(output.lines().any(|line| line == format!("{name}={value}")), "{name} in {output}");
    }
    for name in ["PATH", "PWD"] {
        assert!(names.contains(name), "{name} in {output}");
    }
    for name in ["CARGO", "CARGO_MANIFEST_DIR", "SANDBOXD_STATE", "SUDO_USER", "SSH_AUTH_SOCK", "XDG_RUNTIME_DIR"] {
        assert!(!names.contains(name), "{name} in {output}");
    }
    // Of the request's own variables the last word is the caller's.
    assert_eq!(project.ok_with(&json!({"command": "echo $HOME", "env": {"HOME": "/tmp"}})), "/tmp\n");
}

#[test]
fn impossible_variables_are_refused() {
    let project = project();
    for env in [json!({"A=B": "x"}), json!({"": "x"}), json!({"A": "x\0y"}), json!({"A\0": "x"})] {
        let reply = project.call(&json!({"command": "true", "env": env}));
        assert_eq!(reply.status, 400, "{env}: {}", reply.text());
        assert!(["invalid_environment", "nul_byte"].contains(&reply.code().as_str()), "{env}: {}", reply.text());
    }
    let long = json!({"command": "true", "env": {"LONG": "x".repeat(140_000)}});
    project.call(&long).refused(413, "command_too_long");
    assert_eq!(project.runs(), Vec::<Value>::new());
}

#[test]
fn standard_input_is_what_was_given_or_empty() {
    let project = project();
    let started = Instant::now();
    assert_eq!(project.ok("cat; wc -c"), "0\n");
    assert!(started.elapsed() < Duration::from_secs(5), "a command waited for input that never comes");
    assert_eq!(project.ok_with(&json!({"command": "cat", "stdin": "one\ntwo ä"})), "one\ntwo ä");
    let body = json!({"command": "od -An -tx1", "stdin": "AP+A", "stdin_encoding": "base64"});
    assert_eq!(project.ok_with(&body).trim(), "00 ff 80");
    let body = json!({"command": "true", "stdin": "?", "stdin_encoding": "base64"});
    assert_eq!(project.call(&body).status, 400);
}

#[test]
fn large_input_arrives_whole_and_unread_input_is_no_error() {
    let project = project();
    let large = "0123456789abcde\n".repeat(200_000);
    let body = json!({"command": "wc -c; head -c0", "stdin": large});
    assert_eq!(project.ok_with(&body).trim(), "3200000");
    let started = Instant::now();
    assert_eq!(project.ok_with(&json!({"command": "head -n1", "stdin": large})), "0123456789abcde\n");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn bytes_that_are_no_text_become_replacement_characters_or_base64() {
    let project = project();
    let command = r"printf 'a\377b\0c\303\244\303'";
    let result = project.run(command);
    assert_eq!(result.stdout, "a\u{fffd}b\0cä\u{fffd}");
    assert_eq!(result.stdout_bytes, 8);
    assert_eq!(project.bytes(command), b"a\xffb\0c\xc3\xa4\xc3");
    let result = project.run_with(&json!({"command": "echo x >&2", "encoding": "base64"}));
    assert_eq!((result.stdout.as_str(), result.stderr.as_str()), ("", "eAo="));
}

#[test]
fn a_character_written_byte_by_byte_stays_whole() {
    let project = project();
    let command = r"for b in '\360' '\237' '\246' '\200'; do printf $b; sleep 0.05; done; printf '\303'; sleep 0.1";
    assert_eq!(project.ok(command), "🦀\u{fffd}");
}

#[test]
fn carriage_returns_escapes_and_missing_newlines_are_kept() {
    let project = project();
    assert_eq!(project.ok(r"printf '10%%\r20%%\r\033[31mred\033[0m\r\nend'"), "10%\r20%\r\x1b[31mred\x1b[0m\r\nend");
    let result = project.run("true");
    assert_eq!((result.stdout.as_str(), result.stderr.as_str(), result.stdout_bytes), ("", "", 0));
}

#[test]
fn binary_output_is_exact() {
    let project = project();
    let sum = project.ok("head -c 700000 /dev/urandom > random; sha256sum < random");
    let bytes = project.bytes("cat random");
    assert_eq!(bytes.len(), 700_000);
    let again = project.ok_with(&json!({
        "command": "base64 -d | sha256sum",
        "stdin": base64(&bytes),
    }));
    assert_eq!(again, sum);
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn long_output_keeps_its_ends_with_exact_offsets() {
    let project = project();
    // 3,000,000 bytes: lines of ten bytes, each its own number.
    let result = project.run("seq -f %09.0f 0 299999");
    assert_eq!(result.stdout_bytes, 3_000_000);
    let omitted = result.truncated.stdout.expect("a part is left out");
    assert_eq!(omitted, Omitted { omitted_from: 1 << 19, omitted_to: 3_000_000 - (1 << 19) });
    assert_eq!(result.stdout.len(), 1 << 20);
    assert!(result.stdout.starts_with("000000000\n000000001\n") && result.stdout.ends_with("000299999\n"));
    assert_eq!(result.truncated.stderr, None);
    // What the reply leaves out, the journal has.
    let middle = project
        .client
        .get(&project.path(&format!("/runs/{}/output?stream=stdout&after=1500000&max_bytes=20", result.run_id)));
    assert_eq!((middle.status, middle.text().as_str()), (200, "000150000\n000150001\n"));
}

#[test]
fn output_of_exactly_the_limit_is_whole() {
    let project = project();
    for (bytes, whole) in [(1 << 20, true), ((1 << 20) + 1, false)] {
        let result = project.run(&format!("head -c {bytes} /dev/zero | tr '\\0' x"));
        assert_eq!(result.stdout_bytes, bytes);
        assert_eq!(result.truncated.stdout.is_none(), whole, "{:?}", result.truncated);
        assert_eq!(result.stdout.len(), 1 << 20);
    }
}

#[test]
fn a_line_of_many_mebibytes_is_only_long() {
    let project = project();
    let result = project.run("head -c 20000000 /dev/zero | tr '\\0' x; echo end");
    assert_eq!(result.stdout_bytes, 20_000_004);
    assert!(result.stdout.ends_with("xend\n"));
}

#[test]
fn nothing_is_carried_from_one_command_to_the_next_but_files() {
    let project = project();
    project.ok("cd /tmp; export LEFT=1; umask 0; ulimit -n 50; echo kept > file; echo home > ~/file");
    assert_eq!(project.ok("pwd; echo [$LEFT]; umask; cat /tmp/file ~/file"), {
        "/home/user/project\n[]\n0022\nkept\nhome\n"
    });
}

#[test]
fn a_heredoc_and_every_other_shell_line_is_taken_as_it_is() {
    let project = project();
    assert_eq!(project.ok("cat <<'END'\n$HOME `x` \"'\nEND\ntrap 'echo bye' EXIT; exit 0"), "$HOME `x` \"'\nbye\n");
    assert_eq!(project.ok("exec echo replaced"), "replaced\n");
}

#[test]
fn a_command_is_not_the_first_process() {
    // The first process of a PID namespace ignores signals it does not handle.
    let project = project();
    assert_ne!(project.ok("echo $$").trim(), "1");
}

#[test]
fn an_idempotency_key_starts_one_run() {
    let project = project();
    let body = json!({"command": "echo once >> count; sleep 0.3", "idempotency_key": "k-1"});
    let first = project.start(&body);
    let second = project.client.post(&project.path("/runs"), &body);
    assert!((200..300).contains(&second.status), "{}", second.text());
    assert_eq!(second.json()["run_id"], json!(first));
    project.wait(&first, Duration::from_secs(20));
    let third = project.client.post(&project.path("/runs"), &body).ok();
    assert_eq!(third["run_id"], json!(first));
    assert_eq!(project.ok("cat count"), "once\n");
    let other = json!({"command": "echo other", "idempotency_key": "k-1"});
    project.client.post(&project.path("/runs"), &other).refused(409, "idempotency_conflict");
    // Another project has keys of its own.
    let elsewhere = sandbox_tests::project();
    assert_ne!(elsewhere.start(&body), first);
}

#[test]
fn runs_are_listed_newest_first_page_by_page() {
    let project = project();
    let ids: Vec<String> = (0..5).map(|n| project.run(&format!("exit {n}")).run_id.to_string()).collect();
    let newest_first: Vec<&str> = ids.iter().rev().map(String::as_str).collect();
    let mut listed = Vec::new();
    let mut cursor = String::new();
    for _ in 0..5 {
        let page = project.client.get(&project.path(&format!("/runs?limit=2{cursor}"))).ok();
        let runs = page["runs"].as_array().expect("a list").clone();
        assert!(runs.len() <= 2, "{page}");
        listed.extend(runs.iter().map(|run| run["run_id"].as_str().expect("an id").to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(listed, newest_first);
    let summary = project.summary(&ids[3]);
    assert_eq!((&summary["exit_code"], &summary["status"]), (&json!(3), &json!("exited")), "{summary}");
    assert_eq!(summary["result"]["exit_code"], json!(3));
    let running = project.client.get(&project.path("/runs?status=running")).ok();
    assert_eq!(running["runs"], json!([]));
}

#[test]
fn a_signal_reaches_a_running_command() {
    let project = project();
    let run =
        project.start(&json!({"command": "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done"}));
    assert!(project.events(&run, sandbox_tests::events::NDJSON, 0).any(|event| event.name == "stdout"));
    let path = project.path(&format!("/runs/{run}/signal"));
    project.client.post(&path, &json!({"signal": "SIGUSR1"})).ok();
    let result = project.wait(&run, Duration::from_secs(10));
    assert_eq!((result.exit_code, result.stdout.as_str()), (Some(5), "ready\ngot\n"));
    assert_eq!(project.client.post(&path, &json!({"signal": "SIGNONSENSE"})).status, 400);
    project.client.post(&path, &json!({"signal": 15})).refused(409, "run_ended");
}

#[test]
fn many_runs_at_once_keep_apart() {
    let project = project();
    let outputs: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|n| {
                let project = &project;
                scope
                    .spawn(move || project.ok(&format!("sleep 0.1; echo {n}; cat /proc/sys/kernel/random/boot_id >&2")))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("every run works")).collect()
    });
    assert_eq!(outputs, (0..16).map(|n| format!("{n}\n")).collect::<Vec<_>>());
}

#[test]
fn usage_is_measured() {
    require!("cgroup");
    let project = project();
    let result =
        project.run("x=$(head -c 60000000 /dev/zero | tr '\\0' x); i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done");
    assert!(result.usage.cpu_ms > 20.0, "{:?}", result.usage);
    let peak = result.usage.memory_peak_bytes.expect("the cgroup counts memory");
    assert!(peak > 60_000_000, "{peak}");
    let idle = project.run("true").usage;
    assert!(idle.cpu_ms < 1000.0, "{idle:?}");
    assert!(idle.memory_peak_bytes.expect("counted") < 50_000_000, "a run is charged for its predecessor: {idle:?}");
}

#[test]
fn a_project_of_an_ordinary_users_daemon_works_the_same() {
    require!("second-user", "user");
    let daemon = sandbox_tests::Options::default().as_nobody().start();
    let project = daemon.project();
    let marker = host::marker();
    let result = project.run(&format!("id -u; whoami; pwd; echo x > file; cat file; sleep {marker} & exit 3"));
    assert_eq!(result.exit_code, Some(3), "{result:?}");
    assert_eq!(result.stdout, "1000\nuser\n/home/user/project\nx\n");
    assert_eq!(result.enforced.ids, "single");
    host::assert_gone(&marker);
    let result = project.run_with(&json!({"command": "sleep 60", "timeout_ms": 300}));
    assert_eq!((result.status, result.exit_code), (RunState::TimedOut, Some(124)));
}
