//! `sandboxctl` as people use it: live output, exit statuses, Ctrl-C, folders, the daemon it starts itself.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandbox_tests::cli::{Person, assert_status, text};
use sandbox_tests::{Daemon, host, require};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

fn person() -> Person {
    Person::of(Daemon::shared())
}

fn interrupt(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).expect("it is our child");
}

#[track_caller]
fn ends(child: &mut Child, within: Duration) -> i32 {
    let mut status = None;
    let ended = host::eventually(within, || {
        status = child.try_wait().expect("it is our child");
        status.is_some()
    });
    if !ended {
        child.kill().expect("it is our child");
        panic!("sandboxctl did not end within {within:?}");
    }
    status.and_then(|status| status.code()).expect("it exits, whatever the command did")
}

#[test]
fn the_exit_status_is_the_commands() {
    let person = person();
    for (command, status) in [
        (&["true"][..], 0),
        (&["exit 3"], 3),
        (&["exit 255"], 255),
        (&["--", "sh", "-c", "exit 4"], 4),
        (&["kill -TERM $$"], 143),
        (&["kill -KILL $$"], 137),
        (&["no-such-program"], 127),
        (&["--", "no-such-program", "x"], 127),
        (&["/etc/passwd"], 126),
        (&["--timeout", "300ms", "--", "sleep 60"], 124),
        (&["--cwd", "/etc", "--", "true"], 125),
        (&["--cwd", "no/such", "--", "true"], 125),
        (&["--policy", "no-such", "--", "true"], 125),
        (&["--project", "no-such-project", "--", "true"], 125),
    ] {
        let mut args = vec!["run"];
        args.extend(command);
        let output = person.run(&args);
        assert_status(&output, status);
        if status == 125 || status == 124 {
            assert!(text(&output.stderr).contains("sandboxctl: "), "{command:?} says nothing: {output:?}");
        }
    }
    let mut unreachable = person.command(&["run", "--", "true"]);
    unreachable.env("SANDBOXD_URL", "http://127.0.0.1:1");
    assert_status(&unreachable.output().expect("it starts"), 125);
}

#[test]
fn out_of_memory_is_137_and_said() {
    require!("cgroup", "python3");
    let person = person();
    let policy = person.home().join("small.toml");
    fs::write(&policy, "name = 'small'\nextends = 'default'\n[limits]\nmemory = '96MiB'\ntmp = '16MiB'\n")
        .expect("the home is ours");
    let output =
        person.run(&["run", "--policy", &policy.to_string_lossy(), "--", "python3", "-c", "x = bytearray(1 << 30)"]);
    assert_status(&output, 137);
    assert!(text(&output.stderr).contains("memory"), "{output:?}");
}

#[test]
fn output_is_live_and_unmodified() {
    let person = person();
    let output = person.run(&["run", "--", r"printf 'a\377\0\033[1mb\r\n'; printf 'err\376' >&2; exit 0"]);
    assert_eq!((output.stdout, output.stderr), (b"a\xff\0\x1b[1mb\r\n".to_vec(), b"err\xfe".to_vec()));
    let mut child = person.spawn(&["run", "--", "echo first; sleep 2; echo second"]);
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "first");
    let first = Instant::now();
    assert_eq!(lines.next().expect("a line").expect("text"), "second");
    assert!(first.elapsed() > Duration::from_secs(1), "both lines came at the end");
    assert_eq!(ends(&mut child, Duration::from_secs(5)), 0);
}

#[test]
fn much_output_arrives_whole() {
    let person = person();
    let output = person.run(&["run", "--", "seq 1 2000000"]);
    assert_status(&output, 0);
    let expected: usize = (1..=2_000_000_u32).map(|n| n.ilog10() as usize + 2).sum();
    assert_eq!(output.stdout.len(), expected);
    assert!(output.stdout.ends_with(b"1999999\n2000000\n"));
}

#[test]
fn words_environment_and_input_are_passed_on() {
    let person = person();
    let say = |args: &[&str]| {
        let output = person.run(args);
        assert_status(&output, 0);
        text(&output.stdout)
    };
    assert_eq!(say(&["run", "--", "printf", "<%s>", "a b", "$HOME", "--json"]), "<a b><$HOME><--json>");
    assert_eq!(say(&["run", "echo $((1+1)) | cat"]), "2\n");
    assert_eq!(say(&["run", "--env", "A=x=y", "-e", "B=", "--", "echo \"$A|$B|\""]), "x=y||\n");
    fs::create_dir(person.home().join("sub")).expect("the home is ours");
    assert_eq!(say(&["run", "--cwd", "sub", "--", "pwd"]), "/home/user/project/sub\n");
    let mut child = person
        .command(&["run", "-i", "--", "wc -c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    child.stdin.take().expect("a pipe").write_all(&vec![0xff; 100_000]).expect("written");
    assert_eq!(text(&child.wait_with_output().expect("it ends").stdout).trim(), "100000");
    // Without -i nothing waits for our input.
    let mut child = person
        .command(&["run", "--", "cat; echo end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    assert_eq!(ends(&mut child, Duration::from_secs(10)), 0);
}

#[test]
fn input_is_passed_on_as_it_comes() {
    let person = person();
    let start = |command: &str| {
        let mut command = person.command(&["run", "-i", "--", command]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts")
    };
    let mut child = start("while read -r line; do echo \"got $line\"; done; echo bye");
    let (mut input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    let mut lines = BufReader::new(output).lines().map(|line| line.expect("a line"));
    for word in ["one", "two"] {
        writeln!(input, "{word}").expect("written");
        assert_eq!(lines.next().as_deref(), Some(format!("got {word}").as_str()));
    }
    drop(input);
    assert_eq!(lines.collect::<Vec<_>>(), ["bye"]);
    assert_eq!(ends(&mut child, Duration::from_secs(10)), 0);
    // More than any request may hold.
    let mut child = start("wc -c");
    let mut input = child.stdin.take().expect("a pipe");
    let piece = vec![b'x'; 1 << 20];
    (0..20).for_each(|_| input.write_all(&piece).expect("written"));
    drop(input);
    assert_eq!(text(&child.wait_with_output().expect("it ends").stdout).trim(), "20971520");
    // A command that does not want it does not wait for its end.
    let mut child = start("echo enough");
    let _held = child.stdin.take();
    assert_eq!(ends(&mut child, Duration::from_secs(10)), 0);
}

#[test]
fn json_is_the_result_and_nothing_else() {
    let person = person();
    let output = person.run(&["run", "--json", "--", "echo out; echo err >&2; exit 3"]);
    assert_status(&output, 3);
    let result: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(
        (&result["exit_code"], &result["stdout"], &result["stderr"]),
        (&json!(3), &json!("out\n"), &json!("err\n"))
    );
    assert!(result["enforced"]["namespaces"].is_array());
    let output = person.run(&["run", "--json", "--cwd", "/etc", "--", "true"]);
    assert_status(&output, 125);
    let printed = if output.stdout.is_empty() { &output.stderr } else { &output.stdout };
    let problem: Value = serde_json::from_slice(printed).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(problem["code"], json!("cwd_outside_project"));
}

#[test]
fn ctrl_c_kills_the_run() {
    let person = person();
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let marker = host::marker();
        let mut child = person.spawn(&["run", "--", &format!("echo begun; sleep {marker}; echo not reached")]);
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        assert_eq!(lines.next().expect("a line").expect("text"), "begun");
        interrupt(&child, signal);
        assert_eq!(ends(&mut child, Duration::from_secs(5)), status, "{signal}");
        host::assert_gone(&marker);
    }
}

#[test]
fn ctrl_c_twice_quits_at_once() {
    let person = person();
    let marker = host::marker();
    let command = format!("trap '' INT TERM; echo begun; sleep {marker}; sleep {marker}");
    let mut child = person.spawn(&["run", "--", &command]);
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "begun");
    interrupt(&child, Signal::SIGINT);
    std::thread::sleep(Duration::from_millis(100));
    interrupt(&child, Signal::SIGINT);
    assert_eq!(ends(&mut child, Duration::from_secs(2)), 130);
    let gone = host::eventually(Duration::from_secs(4), || host::processes_with(&marker).is_empty());
    assert!(gone, "the run goes on without its caller");
}

#[test]
fn a_reader_that_goes_away_ends_the_run() {
    let person = person();
    let marker = host::marker();
    let mut child = person.spawn(&["run", "--", &format!("while :; do echo line; done; : {marker}")]);
    let mut some = [0; 100];
    child.stdout.take().expect("a pipe").read_exact(&mut some).expect("output");
    ends(&mut child, Duration::from_secs(10));
    host::assert_gone(&marker);
}

#[test]
fn a_killed_sandboxctl_leaves_no_run() {
    let person = person();
    let marker = host::marker();
    let mut child = person.spawn(&["run", "--", &format!("sleep {marker}")]);
    host::assert_alive(&marker);
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
    let gone = host::eventually(Duration::from_secs(4), || host::processes_with(&marker).is_empty());
    assert!(gone, "the run goes on without its caller");
}

#[test]
fn the_current_folder_is_the_project() {
    let person = person();
    let (one, two) = (person.folder("one"), person.folder("two"));
    fs::write(one.join("file"), "of one\n").expect("ours");
    assert_eq!(
        text(&person.run_in(&one, &["run", "--", "cat file; pwd; echo new > made"]).stdout),
        "of one\n/home/user/project\n"
    );
    assert_eq!(fs::read_to_string(one.join("made")).expect("written through"), "new\n");
    assert_eq!(text(&person.run_in(&two, &["run", "--", "ls -A"]).stdout), "");
    let output = person.run(&["run", "--dir", &one.to_string_lossy(), "--", "ls"]);
    assert_eq!(text(&output.stdout), "file\nmade\n");
}

#[test]
fn nothing_outside_of_the_folder_can_be_written() {
    let person = person();
    let folder = person.folder("site");
    fs::write(person.home().join("beside"), "beside\n").expect("ours");
    std::os::unix::fs::symlink("../beside", folder.join("link")).expect("ours");
    let home = person.home().display().to_string();
    for command in [
        "echo x > ../new".to_owned(),
        format!("echo x > {home}/new"),
        format!("cat {home}/beside"),
        "echo x > /etc/new".to_owned(),
        "echo x > /new".to_owned(),
    ] {
        let output = person.run_in(&folder, &["run", "--", &command]);
        let harmless = command == "echo x > ../new"; // the sandbox's own home folder
        assert!(harmless || output.status.code() != Some(0), "worked: {command}");
    }
    person.run_in(&folder, &["run", "--", "echo x > ~/new; echo x > /tmp/new; echo x >> link; rm -f ../beside"]);
    assert_eq!(fs::read_to_string(person.home().join("beside")).expect("there"), "beside\n");
    let mut beside: Vec<_> =
        fs::read_dir(person.home()).expect("there").flatten().map(|entry| entry.file_name()).collect();
    beside.retain(|name| name != "xdg" && name != "run");
    beside.sort();
    assert_eq!(beside, ["beside", "site"]);
}

#[test]
fn a_folder_of_somebody_else_stays_theirs() {
    require!("root");
    let person = person();
    let folder = person.folder("theirs");
    fs::write(folder.join("old"), "old\n").expect("ours");
    for path in [folder.clone(), folder.join("old")] {
        std::os::unix::fs::chown(path, Some(12_345), Some(23_456)).expect("root may");
    }
    let command = "set -e; whoami; cat old; echo more >> old; mkdir -p a/b; echo new > a/b/new; ln -s new a/link; chmod 600 a/b/new; rm -f gone";
    let output = person.run(&["run", "--dir", &folder.to_string_lossy(), "--", command]);
    assert_status(&output, 0);
    assert_eq!(text(&output.stdout), "user\nold\n");
    for path in ["", "old", "a", "a/b", "a/b/new", "a/link"] {
        let file = fs::symlink_metadata(folder.join(path)).expect("there");
        assert_eq!((file.uid(), file.gid()), (12_345, 23_456), "{path}");
    }
}

#[test]
fn nothing_has_to_be_set_up() {
    let person = Person::alone();
    let output = person.run_in(&person.folder("work"), &["run", "--", "whoami; echo made > file"]);
    assert_status(&output, 0);
    assert_eq!(text(&output.stdout), "user\n");
    assert_eq!(fs::read_to_string(person.home().join("work/file")).expect("made"), "made\n");
    // The daemon stays for the next one.
    let daemon = |person: &Person| -> Value {
        let text = fs::read(person.state().join("daemon.json")).expect("the daemon says where it is");
        serde_json::from_slice(&text).expect("JSON")
    };
    let first = daemon(&person);
    let output = person.run_in(&person.folder("work"), &["run", "--", "cat file"]);
    assert_eq!(text(&output.stdout), "made\n");
    assert_eq!(daemon(&person)["pid"], first["pid"]);
    assert_eq!(fs::metadata(person.state()).expect("there").mode() & 0o077, 0);
    assert_eq!(fs::metadata(person.state().join("token")).expect("there").mode() & 0o077, 0);
}

#[test]
fn a_daemon_that_can_be_reached_has_its_token() {
    let person = Person::alone();
    let folder = person.folder("work").display().to_string();
    let child = person.spawn(&["run", "--dir", &folder, "--", "true"]);
    let socket = person.state().join("sandboxd.sock");
    let deadline = Instant::now() + Duration::from_secs(10);
    while UnixStream::connect(&socket).is_err() {
        assert!(Instant::now() < deadline, "no daemon is started");
    }
    let token = fs::read_to_string(person.state().join("token"));
    assert!(token.is_ok_and(|token| token.starts_with("sbx_")));
    let output = child.wait_with_output().expect("it is our child");
    assert_status(&output, 0);
}

#[test]
fn two_at_once_share_the_daemon_that_is_started() {
    let person = Person::alone();
    let folders: Vec<_> = (0..4).map(|n| person.folder(&format!("work{n}"))).collect();
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let person = &person;
        let threads: Vec<_> = folders
            .iter()
            .enumerate()
            .map(|(n, folder)| {
                scope.spawn(move || person.run_in(folder, &["run", "--", &format!("sleep 0.2; echo {n}")]))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("it runs")).collect()
    });
    for (n, output) in outputs.iter().enumerate() {
        assert_status(output, 0);
        assert_eq!(text(&output.stdout), format!("{n}\n"));
    }
    let state = person.state().display().to_string();
    let daemons = host::processes_with(&state).into_iter().filter(|pid| host::comm(*pid) == "sandboxd").count();
    assert_eq!(daemons, 1);
}

#[test]
fn runs_are_listed_read_and_killed() {
    let daemon = Daemon::start();
    let person = Person::of(&daemon);
    let marker = host::marker();
    let mut child = person.spawn(&["run", "--", &format!("echo begun; sleep {marker}")]);
    host::assert_alive(&marker);
    let listed = person.run(&["ps"]);
    assert_status(&listed, 0);
    assert!(text(&listed.stdout).contains("running") && text(&listed.stdout).contains("echo begun"), "{listed:?}");
    let listed: Value = serde_json::from_slice(&person.run(&["ps", "--json"]).stdout).expect("JSON");
    assert_eq!(listed["runs"].as_array().map(Vec::len), Some(1), "{listed}");
    let run = listed["runs"][0]["run_id"].as_str().expect("an id").to_owned();
    assert_eq!(text(&person.run(&["logs", &run]).stdout), "begun\n");
    assert_status(&person.run(&["kill", &run]), 0);
    assert_ne!(ends(&mut child, Duration::from_secs(5)), 0);
    host::assert_gone(&marker);
    assert!(!text(&person.run(&["ps"]).stdout).contains(&run));
    assert!(text(&person.run(&["ps", "--all"]).stdout).contains(&run));
    // The end of an id is enough.
    assert_eq!(text(&person.run(&["logs", &run[run.len() - 8..]]).stdout), "begun\n");
    assert_ne!(person.run(&["logs", "run_none"]).status.code(), Some(0));
    assert_ne!(person.run(&["kill", "run_none"]).status.code(), Some(0));
    let follow = person.spawn(&["run", "--", "for i in 1 2 3; do echo $i; sleep 0.3; done"]);
    let found = host::eventually(Duration::from_secs(5), || text(&person.run(&["ps"]).stdout).contains("running"));
    assert!(found, "the run is not listed");
    let listed: Value = serde_json::from_slice(&person.run(&["ps", "--json"]).stdout).expect("JSON");
    let run = listed["runs"][0]["run_id"].as_str().expect("an id").to_owned();
    assert_eq!(text(&person.run(&["logs", "-f", &run]).stdout), "1\n2\n3\n");
    assert_eq!(text(&follow.wait_with_output().expect("it ends").stdout), "1\n2\n3\n");
}

#[test]
fn projects_are_made_and_removed() {
    let daemon = Daemon::start();
    let person = Person::of(&daemon);
    let made: Value =
        serde_json::from_slice(&person.run(&["project", "create", "My Site", "--json"]).stdout).expect("JSON");
    let url_id = made["url_id"].as_str().expect("a name").to_owned();
    assert_status(&person.run(&["run", "--project", &url_id, "--", "echo x > file"]), 0);
    assert_eq!(text(&person.run(&["run", "-p", &url_id, "--", "cat file"]).stdout), "x\n");
    assert!(text(&person.run(&["project", "list"]).stdout).contains(&url_id));
    assert!(text(&person.run(&["project", "show", &url_id]).stdout).contains("My Site"));
    assert_status(&person.run(&["project", "rm", &url_id]), 0);
    assert_ne!(person.run(&["project", "show", &url_id]).status.code(), Some(0));
}

#[test]
fn policies_are_listed_shown_checked_and_explained() {
    let person = Person::alone();
    let say = |args: &[&str]| {
        let output = person.run(args);
        assert_status(&output, 0);
        text(&output.stdout)
    };
    let list = say(&["policy", "list"]);
    for name in ["default", "offline", "node-build", "python", "function", "strict"] {
        assert!(list.contains(name), "{list}");
        assert!(!say(&["policy", "explain", name]).is_empty());
        assert!(say(&["policy", "show", name]).contains("[limits]"));
    }
    say(&["policy", "check"]);
    let broken = person.home().join("broken.toml");
    fs::write(&broken, "name = 'broken'\nextends = 'default'\n[limits]\nmemroy = '1GiB'\n").expect("ours");
    let output = person.run(&["policy", "check", &broken.to_string_lossy()]);
    assert_status(&output, 1);
    let said = text(&output.stderr) + &text(&output.stdout);
    assert!(said.contains("broken.toml") && said.contains("memroy") && said.contains("memory"), "{said}");
    assert!(said.contains('4'), "the line is named: {said}");
    assert!(!person.state().exists(), "a daemon was started for that");
}

#[test]
fn policy_claims_are_tried_in_a_sandbox() {
    let person = person();
    let good = person.home().join("good.toml");
    let text_of = |claim: &str| {
        format!("name = 'claims'\nextends = 'default'\n[[test]]\ncommand = '{claim}'\nexpect = 'denied'\n")
    };
    fs::write(&good, text_of("cat /etc/shadow")).expect("ours");
    assert_status(&person.run(&["policy", "check", "--run", &good.to_string_lossy()]), 0);
    fs::write(&good, text_of("true")).expect("ours");
    assert_status(&person.run(&["policy", "check", "--run", &good.to_string_lossy()]), 1);
}

#[test]
fn doctor_version_and_completions_answer() {
    let person = person();
    let doctor = person.run(&["doctor"]);
    assert!(text(&doctor.stdout).to_lowercase().contains("landlock"), "{doctor:?}");
    let report: Value = serde_json::from_slice(&person.run(&["doctor", "--json"]).stdout).expect("JSON");
    assert!(report["lines"].as_array().is_some_and(|lines| !lines.is_empty()));
    assert!(text(&person.run(&["version"]).stdout).contains(env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&person.run(&["completions", shell]).stdout).contains("sandboxctl"), "{shell}");
    }
    let help = person.run(&["--help"]);
    assert_status(&help, 0);
    for word in ["run", "ps", "logs", "kill", "project", "policy", "doctor"] {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
    assert_status(&person.run(&["no-such-command"]), 2);
}

#[test]
fn the_receipt_is_shown_when_asked_for() {
    let person = person();
    let output = person.run(&["run", "--verbose", "--", "echo hi"]);
    assert_eq!(text(&output.stdout), "hi\n");
    assert!(text(&output.stderr).contains("namespaces") && text(&output.stderr).contains("seccomp"), "{output:?}");
    let quiet = person.run(&["run", "--", "echo hi"]);
    assert_eq!(text(&quiet.stderr), "");
}
