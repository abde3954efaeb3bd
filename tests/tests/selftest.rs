//! Nothing is run in a sandbox that does not hold: each layer in turn is left out of the launcher, and the
//! self-test before the first command says which.

use sandbox_tests::cli::{Person, text};
use sandbox_tests::{features, programs, require};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

/// The programs, with a launcher that leaves this out.
fn programs_without(layer: &str, folder: &Path) {
    for name in programs::NAMES {
        let source = if name == "sandbox-launch" { programs::FAULTY_LAUNCHER } else { name };
        fs::copy(programs::path(source), folder.join(name)).expect("programs can be copied");
    }
    let mut launcher = fs::OpenOptions::new().append(true).open(folder.join("sandbox-launch")).expect("it is ours");
    launcher.write_all(format!("omit={layer}").as_bytes()).expect("the disk has room");
}

static ALONE: Mutex<()> = Mutex::new(());

fn run_without(layer: &str) -> Output {
    let person = Person::alone();
    let folder = person.folder("programs");
    // A program that another thread's new process still holds open for writing cannot be started.
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    programs_without(layer, &folder);
    let usual = person.command(&["run", "--", "echo ran"]);
    let mut command = Command::new(folder.join("sandboxctl"));
    command.args(usual.get_args()).current_dir(person.folder("project"));
    for (name, value) in usual.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sandboxctl starts");
    drop(alone);
    child.wait_with_output().expect("it is our child")
}

#[track_caller]
fn nothing_runs_without(layer: &str) -> String {
    let output = run_without(layer);
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(125), &b""[..]), "{layer}: {said}");
    said
}

/// `omitted` is what the launcher leaves out, `named` the layer that the self-test names.
#[track_caller]
fn is_noticed(omitted: &str, named: &str) {
    let said = nothing_runs_without(omitted);
    assert!(said.contains(&format!("the layer {named} let a command")), "{omitted}: {said}");
    assert!(said.contains("nothing is run in it"), "{omitted}: {said}");
}

#[test]
fn a_launcher_that_leaves_nothing_out_passes() {
    let output = run_without("nothing");
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "ran\n"), "{}", text(&output.stderr));
}

#[test]
fn a_missing_namespace_is_noticed() {
    for layer in ["pid", "net", "ipc", "uts", "cgroup"] {
        is_noticed(layer, layer);
    }
}

#[test]
fn what_cannot_be_left_out_without_a_failure_fails_closed() {
    for layer in ["user", "pivot"] {
        nothing_runs_without(layer);
    }
    // Whoever has one id only cannot be somebody else.
    if features::is_root() {
        nothing_runs_without("ids");
    }
}

#[test]
fn rights_that_are_left_are_noticed() {
    is_noticed("capabilities", "capabilities");
    is_noticed("capability-locks", "capabilities");
    is_noticed("rlimits", "rlimits");
    is_noticed("seccomp", "seccomp");
    is_noticed("seccomp-of-init", "seccomp");
}

#[test]
fn a_missing_landlock_domain_is_noticed() {
    require!("landlock");
    is_noticed("landlock", "landlock");
}

#[test]
fn commands_outside_of_their_limits_are_noticed() {
    require!("cgroup");
    is_noticed("limits", "limits");
}
