//! The Model Context Protocol, as other people's programs speak it: the public conformance suite in two versions, the
//! inspector, the TypeScript and the Python SDK. Their packages are fetched by their own package managers.

use sandbox_tests::mcp::{NEXT_SUITE, SUITE, TYPESCRIPT, TYPESCRIPT_SDK};
use sandbox_tests::npm::{Packages, done};
use sandbox_tests::{Daemon, Options, host, require};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::Duration;

const INSPECTOR: &str = "@modelcontextprotocol/inspector@2.12.0";
const PYTHON_SDK: &str = "mcp==2.3.0";

/// What of the suite asks for no tools, prompts or resources of its own.
const SCENARIOS: [&str; 9] = [
    "server-initialize",
    "ping",
    "tools-list",
    "resources-list",
    "prompts-list",
    "completion-complete",
    "server-sse-multiple-streams",
    "server-sse-polling",
    "dns-rebinding-protection",
];
/// Further ones of the next suite.
const NEXT_SCENARIOS: [&str; 3] = ["server-session-lifecycle", "caching", "http-header-validation"];
/// Of `server-stateless`, those that call tools of the suite's own.
const NEED_FIXTURES: [&str; 4] = [
    "sep-2575-server-rejects-undeclared-capability",
    "sep-2575-missing-capability-http-400",
    "sep-2575-http-server-no-independent-requests-on-stream",
    "sep-2575-server-no-log-without-loglevel",
];

/// Without tokens, which the suites cannot send.
fn open_daemon() -> (Daemon, String) {
    let daemon = Options::default().arg("--no-auth").start();
    let url = format!("http://{}/mcp", daemon.client.address);
    (daemon, url)
}

#[test]
fn the_conformance_suite_passes() {
    require!("node", "npm", "network", "x86_64");
    let (_daemon, url) = open_daemon();
    let suite = Packages::install(&[SUITE]);
    for scenario in SCENARIOS {
        done(suite.program("conformance").args(["server", "--url", &url, "--scenario", scenario]));
    }
}

#[test]
fn the_next_conformance_suite_passes() {
    require!("node", "npm", "network", "x86_64");
    let (_daemon, url) = open_daemon();
    let packages = Packages::install(&[NEXT_SUITE]);
    let suite = |scenario: &str| {
        let mut command = packages.program("conformance");
        command.args(["server", "--url", &url, "--spec-version", "2026-07-28", "--scenario", scenario]);
        command
    };
    for scenario in SCENARIOS.into_iter().chain(NEXT_SCENARIOS) {
        done(&mut suite(scenario));
    }
    // One scenario has both; it fails for want of the suite's own tools, and for nothing else.
    let output = suite("server-stateless").output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("FAILURE"))
        .filter_map(|line| line.split(['[', ']']).find(|word| word.starts_with("sep-")))
        .map(str::trim)
        .collect();
    assert!(text.contains("Passed: 24/28"), "{text}");
    assert!(failed.iter().all(|check| NEED_FIXTURES.contains(check)), "{failed:?}\n{text}");
}

#[test]
fn the_inspector_finds_no_fault() {
    require!("node", "npm", "network", "x86_64");
    let (daemon, url) = open_daemon();
    let project = daemon.project();
    let packages = Packages::install(&[INSPECTOR]);
    let inspect = |arguments: &[&str]| {
        let mut command = packages.program("mcp-inspector");
        let output = done(command.args(["--cli", &url, "--transport", "http"]).args(arguments));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let json = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|error| panic!("{error}: {text}"));
        (json, text)
    };
    let (tools, lint) = inspect(&["--method", "tools/list", "--strict"]);
    assert!(tools["tools"].as_array().is_some_and(|tools| tools.len() >= 12), "{tools}");
    assert!(!lint.contains("Warning") && !lint.contains("Error"), "{lint}");
    for era in ["legacy", "modern", "auto"] {
        let arguments = json!({"project_id": project.id, "command": "echo hi"}).to_string();
        let call = ["--method", "tools/call", "--tool-name", "run_command", "--tool-args-json", &arguments];
        let (result, _) = inspect(&[&["--protocol-era", era][..], &call].concat());
        assert_eq!(result["content"][0]["text"], "Exit code: 0\n\nSTDOUT:\nhi\n", "{era}");
    }
    // Over pipes.
    let sandboxctl = sandbox_tests::programs::path("sandboxctl").to_string_lossy().into_owned();
    let address = format!("http://{}", daemon.client.address);
    let output = done(
        packages
            .program("mcp-inspector")
            .args([
                "--cli",
                "--method",
                "tools/call",
                "--tool-name",
                "run_command",
                "--tool-arg",
                "command=echo piped",
                "--",
            ])
            .args([&sandboxctl, "--url", &address, "mcp", "--project", &project.id]),
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("piped"), "{output:?}");
}

/// Our program for the Python SDK.
const PYTHON: &str = include_str!("../clients/python.py");

#[test]
fn the_python_client_runs_sees_and_cancels() {
    require!("python3", "pip", "network");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let packages = folder.path().join("packages");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]).arg(&packages);
    done(pip.arg(PYTHON_SDK).env("HOME", folder.path()).env("PIP_ROOT_USER_ACTION", "ignore"));
    let (daemon, url) = open_daemon();
    let project = daemon.project();
    for mode in ["legacy", "auto", "2026-07-28"] {
        let marker = host::marker();
        let mut python = Command::new("python3");
        python.args(["-c", PYTHON, &url, &project.id, &marker, mode]).env("PYTHONPATH", &packages);
        let output = done(python.stdin(Stdio::null()));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("cancelled"), "{mode}: {output:?}");
        // Without sessions there is nothing to resume.
        assert_eq!(said.contains("resumed"), mode == "legacy", "{mode}: {output:?}");
        // Whoever leaves without having cancelled is waited for a few seconds by its session.
        let gone = host::eventually(Duration::from_secs(20), || host::processes_with(&marker).is_empty());
        assert!(gone, "{mode}: the command goes on");
    }
    assert!(host::eventually(Duration::from_secs(5), || project.runs().iter().all(|run| run["status"] != "running")));
    let resumed = project.runs().iter().filter(|run| run["command"] == "echo begun; sleep 2; echo ended").count();
    assert_eq!(resumed, 1, "what is resumed is not run again");
}

#[test]
fn the_typescript_client_runs_sees_resumes_and_cancels() {
    require!("node", "npm", "network", "x86_64");
    let (daemon, url) = open_daemon();
    let project = daemon.project();
    let marker = host::marker();
    let packages = Packages::install(&[TYPESCRIPT_SDK]);
    done(packages.module(TYPESCRIPT).args(["basics", &url, &project.id, &marker]));
    let gone = host::eventually(Duration::from_secs(20), || host::processes_with(&marker).is_empty());
    assert!(gone, "the command goes on");
    assert_eq!(project.runs().len(), 3, "what is resumed is not run again");
}
