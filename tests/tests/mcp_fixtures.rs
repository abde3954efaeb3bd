//! All that the public conformance suite of the Model Context Protocol has for servers, in two versions: the daemon's
//! own router, sessions and limits around the tools, prompts and resources that the suite calls.

use sandbox_tests::mcp::{NEXT_SUITE, SUITE};
use sandbox_tests::npm::{Packages, done};
use sandbox_tests::{Options, programs, require};
use serde_json::Value;

/// The suite itself leaves this out, until it listens where the protocol has these notifications by now.
const LEFT_OUT: &str = "tasks-status-notifications";

#[test]
fn every_scenario_passes() {
    require!("node", "npm", "network", "x86_64");
    assert_eq!(run(&Packages::install(&[SUITE]), &[]), Vec::<String>::new());
}

#[test]
fn every_scenario_of_the_next_suite_passes() {
    require!("node", "npm", "network", "x86_64");
    let suite = Packages::install(&[NEXT_SUITE]);
    // Each once, in the revision that the suite chooses, and extensions; then all that the newest revision has, in it.
    assert_eq!(run(&suite, &[]), [format!("SKIPPED {LEFT_OUT}")]);
    assert_eq!(run(&suite, &["--spec-version", "2026-07-28"]), Vec::<String>::new());
}

/// Runs all scenarios; what is not as it should be, warnings too.
fn run(suite: &Packages, arguments: &[&str]) -> Vec<String> {
    let daemon = Options::default().program(programs::mcp_fixtures()).arg("--no-auth").start();
    let url = format!("http://{}/mcp", daemon.client.address);
    let results = tempfile::tempdir().expect("a temporary directory");
    let mut conformance = suite.program("conformance");
    conformance.args(["server", "--suite", "all", "--url", &url]).args(arguments);
    let output = done(conformance.arg("--output-dir").arg(results.path()));
    let text = String::from_utf8_lossy(&output.stdout);
    let mut found = Vec::new();
    let mut scenarios = 0;
    for folder in std::fs::read_dir(results.path()).expect("the suite keeps its results").flatten() {
        let checks = std::fs::read(folder.path().join("checks.json")).expect("each scenario has checks");
        let checks: Vec<Value> = serde_json::from_slice(&checks).expect("JSON");
        assert!(!checks.is_empty(), "{folder:?}");
        scenarios += 1;
        let word = |check: &Value, name: &str| check[name].as_str().unwrap_or_default().to_owned();
        let bad = checks.iter().filter(|check| !["SUCCESS", "INFO"].contains(&word(check, "status").as_str()));
        found.extend(bad.map(|check| format!("{} {}", word(check, "status"), word(check, "id"))));
    }
    assert_eq!(scenarios, text.matches("=== Running scenario: ").count(), "{text}");
    assert!(scenarios > 30, "{text}");
    found
}
