//! What the doctor says is what then happens, on whatever host this runs.
//!
//! `SANDBOX_EXPECT_MISSING` lists lines that are known to be missing where the tests run, such as `/proc` in a
//! container that was started without an option.

use sandbox_tests::cli::{Person, text};
use sandbox_tests::{Daemon, Options, host, require};
use serde_json::{Value, json};
use std::time::Duration;

fn lines(report: &Value) -> &[Value] {
    report["lines"].as_array().expect("a report has lines")
}

fn said<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_default()
}

/// Lines of this check that are not `ok`.
fn gaps<'a>(report: &'a Value, check: &str) -> Vec<&'a Value> {
    lines(report).iter().filter(|line| line["check"] == check && line["status"] != "ok").collect()
}

#[test]
fn what_the_doctor_predicts_is_what_happens() {
    let daemon = Daemon::shared();
    let report = daemon.client.get("/doctor").ok();
    let reply = daemon.project().call(&json!({ "command": "echo ran" }));
    for line in lines(&report).iter().filter(|line| line["status"] != "ok") {
        assert!(!said(line, "mend").is_empty() && !said(line, "meanwhile").is_empty(), "{line}");
    }
    if report["default_policy_enforceable"] == true {
        let result = reply.ok();
        assert_eq!(result["stdout"], "ran\n", "{result}");
        let enforced = &result["enforced"];
        let none =
            |check: &str| lines(&report).iter().any(|line| line["check"] == check && line["status"] == "missing");
        assert_eq!(enforced["landlock_abi"].is_null(), none("Landlock"), "{report:#}\n{enforced}");
        let limited = lines(&report).iter().any(|line| line["check"] == "cgroup limits" && line["status"] == "ok");
        assert_eq!(enforced["cgroup"] != "none", limited, "{report:#}\n{enforced}");
        // In the same words.
        let missing: Vec<&str> =
            enforced["missing"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for line in gaps(&report, "Landlock").into_iter().chain(gaps(&report, "cgroup limits")) {
            let told =
                |sentence: &&str| sentence.contains(said(line, "found")) && sentence.contains(said(line, "mend"));
            assert!(missing.iter().any(told), "{line}\n{missing:?}");
        }
    } else {
        assert_eq!((reply.status, reply.json()["code"].as_str()), (403, Some("layer_unavailable")), "{}", reply.text());
        let obstacle = lines(&report).iter().find(|line| line["status"] == "missing" && line["check"] != "Landlock");
        let obstacle = obstacle.unwrap_or_else(|| panic!("nothing is named: {report:#}"));
        let problem = reply.json();
        let told = said(&problem, "error");
        assert!(told.contains(said(obstacle, "found")), "{obstacle}\n{problem}");
        assert!(
            problem["next_actions"].to_string().contains(&json!(said(obstacle, "mend")).to_string()),
            "{obstacle}\n{problem}"
        );
    }
}

#[test]
fn what_is_known_to_be_missing_is_named() {
    let report = Daemon::shared().client.get("/doctor").ok();
    let expected = std::env::var("SANDBOX_EXPECT_MISSING").unwrap_or_default();
    for check in expected.split(',').filter(|check| !check.is_empty()) {
        let gaps = gaps(&report, check);
        assert!(gaps.iter().any(|line| line["status"] == "missing"), "{check}: {report:#}");
        assert_eq!(report["default_policy_enforceable"], false, "{check}");
    }
    if expected.is_empty() {
        assert_eq!(report["default_policy_enforceable"], true, "{report:#}");
    }
}

#[test]
fn the_exit_status_tells_whether_the_default_policy_can_be_enforced() {
    let daemon = Daemon::shared();
    let person = Person::of(daemon);
    let output = person.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let status = i32::from(report["default_policy_enforceable"] != true);
    assert_eq!(output.status.code(), Some(status), "{}", text(&output.stderr));
    // Looking twice finds the same, and leaves nothing.
    let again: Value = serde_json::from_slice(&person.run(&["doctor", "--json"]).stdout).expect("JSON");
    assert_eq!(report, again);
    let gone = host::eventually(Duration::from_secs(5), || !daemon.state().join("rehearsal").exists());
    assert!(gone, "a rehearsal has left its folder");
}

#[test]
fn a_required_layer_is_refused_with_the_doctors_sentence() {
    require!("second-user", "user");
    // Somebody else has no cgroup here, whatever this user has.
    let limits = "name = 'limited'\nextends = 'default'\n[require]\nlayers = [\"limits\"]\n";
    let daemon = Options::default().policy("limited", limits).as_nobody().start();
    let report = daemon.client.get("/doctor").ok();
    let gap = gaps(&report, "cgroup limits");
    let gap = gap.first().unwrap_or_else(|| panic!("nobody has cgroups: {report:#}"));
    let reply = daemon.project_of("limited").call(&json!({ "command": "true" }));
    let problem = reply.json();
    assert_eq!(problem["code"], "layer_unavailable", "{problem}");
    for field in ["found", "meanwhile", "mend"] {
        assert!(said(&problem, "error").contains(said(gap, field)), "{field}: {gap}\n{problem}");
    }
}
