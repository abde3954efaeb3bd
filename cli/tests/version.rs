//! What `sandboxctl` does without any daemon: versions, completions, help, wrong command lines.

use std::process::{Command, Output};

/// Runs the program with nothing of ours in its environment but a state directory that does not exist.
fn sandboxctl(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sandboxctl"))
        .args(words)
        .env_remove("SANDBOXD_URL")
        .env_remove("SANDBOXD_TOKEN")
        .env("SANDBOXD_STATE", "/nonexistent/sandboxd")
        .output()
        .expect("sandboxctl starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn the_client_knows_its_version_alone() {
    let output = sandboxctl(&["version", "--client"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), concat!("sandboxctl ", env!("CARGO_PKG_VERSION"), "\n"));
    let output = sandboxctl(&["version", "--json"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(document["client"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(document["daemon"], serde_json::Value::Null);
}

#[test]
fn completions_are_scripts_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = sandboxctl(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = text(&output.stdout);
        assert!(script.contains("sandboxctl") && script.contains("doctor"), "{shell}");
        assert!(!script.contains('\x1b'), "{shell}");
    }
}

#[test]
fn help_names_no_secret_and_no_internal_command() {
    let output = Command::new(env!("CARGO_BIN_EXE_sandboxctl"))
        .arg("--help")
        .env("SANDBOXD_TOKEN", "sbx_secret")
        .output()
        .expect("sandboxctl starts");
    let help = text(&output.stdout);
    assert!(help.contains("SANDBOXD_TOKEN") && !help.contains("sbx_secret"));
    assert!(!help.contains("__detach"));
}

#[test]
fn wrong_lines_of_run_are_125_and_others_2() {
    for (words, code) in [
        (&["run"][..], 125),
        (&["run", "--timeout", "soon", "true"], 125),
        (&["run", "--unknown", "true"], 125),
        (&["--json", "run", "--unknown", "true"], 125),
        (&["ps", "--unknown"], 2),
        (&["unknown"], 2),
    ] {
        let output = sandboxctl(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{words:?}");
    }
}

#[test]
fn a_daemon_that_is_not_there_is_one_sentence_and_125() {
    let words = ["--url", "http://127.0.0.1:1", "run", "true"];
    let output = sandboxctl(&words);
    assert_eq!(output.status.code(), Some(125));
    assert!(output.stdout.is_empty());
    assert!(text(&output.stderr).starts_with("sandboxctl: cannot reach the daemon at http://127.0.0.1:1: "));
    let output = sandboxctl(&["--json", "--url", "http://127.0.0.1:1", "run", "true"]);
    assert_eq!(output.status.code(), Some(125));
    let problem: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a problem");
    assert_eq!((&problem["code"], &problem["retryable"]), (&"unreachable".into(), &true.into()));
}
