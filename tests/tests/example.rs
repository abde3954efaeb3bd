//! The main job on real input: the example site is installed, built and tested inside the sandbox.

use sandbox_tests::cli::{Person, assert_status, text};
use sandbox_tests::{Daemon, programs, require};
use serde_json::json;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

#[track_caller]
fn assert_built(folder: &Path) {
    let page = fs::read_to_string(folder.join("dist/index.html")).expect("the build made a page");
    assert!(page.contains("<script") && page.contains("assets/"), "{page}");
    let scripts = fs::read_dir(folder.join("dist/assets")).expect("the build made assets").flatten();
    assert!(scripts.filter(|entry| entry.path().extension().is_some_and(|name| name == "js")).count() >= 1);
}

#[test]
fn the_example_is_built_by_sandboxctl() {
    require!("node", "npm", "network");
    let person = Person::alone();
    let folder = person.folder("site");
    programs::copy_example("vite-site", &folder);
    let command = "npm ci && npm run build && npm test";
    let output = person.run(&[
        "run",
        "--dir",
        &folder.to_string_lossy(),
        "--policy",
        "node-build",
        "--timeout",
        "300s",
        "--",
        command,
    ]);
    assert_status(&output, 0);
    assert_built(&folder);
    let owner = fs::metadata(&folder).expect("there").uid();
    assert_eq!(first_of_somebody_else(&folder, owner), None, "files changed hands");
    assert!(text(&output.stdout).contains("built in"), "{output:?}");
}

/// A file below a folder that does not belong to `owner`.
fn first_of_somebody_else(folder: &Path, owner: u32) -> Option<std::path::PathBuf> {
    fs::read_dir(folder).expect("readable").flatten().find_map(|entry| {
        let file = entry.metadata().expect("there");
        if file.uid() != owner {
            return Some(entry.path());
        }
        if file.is_dir() { first_of_somebody_else(&entry.path(), owner) } else { None }
    })
}

#[test]
fn the_example_is_built_over_http() {
    require!("node", "npm", "network");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let site = folder.path().join("site");
    programs::copy_example("vite-site", &site);
    let project = Daemon::shared().project_with(&json!({"dir": site, "policy": "node-build"}));
    let events = project.stream(&json!({"command": "npm ci && npm run build", "timeout_ms": 300_000})).all();
    let result = &events.last().expect("a result").data;
    let output = String::from_utf8_lossy(&sandbox_tests::events::joined(&events, "stdout")).into_owned();
    assert_eq!(result["exit_code"], json!(0), "{result} {output}");
    assert_eq!(result["enforced"]["network"], json!("host"));
    assert_built(&site);
    // What was built needs no network to be tested.
    let tested = project.run_with(&json!({"command": "npm test", "policy": "offline", "timeout_ms": 120_000}));
    assert_eq!((tested.exit_code, tested.enforced.network.as_str()), (Some(0), "none"), "{tested:?}");
}
