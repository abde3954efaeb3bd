//! Where a command starts: resolved inside the sandbox, and nowhere but in writable folders.

use sandbox_tests::project;
use serde_json::{Value, json};

#[test]
fn the_default_is_the_workspace_and_relative_paths_start_there() {
    let project = project();
    project.ok("mkdir -p a/b; ln -s a link");
    for (cwd, place) in [
        (None, "/home/user/project"),
        (Some("."), "/home/user/project"),
        (Some(""), "/home/user/project"),
        (Some("a/b"), "/home/user/project/a/b"),
        (Some("a/../a/./b/"), "/home/user/project/a/b"),
        (Some("link/b"), "/home/user/project/a/b"),
        (Some("/home/user/project/a"), "/home/user/project/a"),
        (Some("/home/user"), "/home/user"),
        (Some(".."), "/home/user"),
        (Some("/tmp"), "/tmp"),
    ] {
        let body = match cwd {
            Some(cwd) => json!({"command": ["/bin/pwd", "-P"], "cwd": cwd}),
            None => json!({"command": ["/bin/pwd", "-P"]}),
        };
        let reply = project.call(&body);
        if cwd == Some("") && reply.status == 400 {
            continue; // an empty path may as well be called an error
        }
        assert_eq!(reply.ok()["stdout"], json!(format!("{place}\n")), "{cwd:?}");
    }
}

#[test]
fn the_shells_own_variable_agrees() {
    let project = project();
    project.ok("mkdir sub");
    assert_eq!(project.ok_with(&json!({"command": "echo $PWD", "cwd": "sub"})), "/home/user/project/sub\n");
}

/// Refused with this code, and nothing ran.
#[track_caller]
fn refused(project: &sandbox_tests::Project, cwd: &str, codes: &[&str]) {
    let reply = project.call(&json!({"command": "touch /tmp/ran ~/ran; pwd", "cwd": cwd}));
    let status = reply.status;
    let cwd: String = cwd.chars().take(60).collect();
    assert!((400..500).contains(&status), "{cwd}: status {status}: {}", reply.text());
    assert!(codes.contains(&reply.code().as_str()), "{cwd}: {}", reply.text());
    assert!(reply.json()["error"].as_str().is_some_and(|error| !error.is_empty()));
    assert_eq!(project.ok("ls /tmp ~ | grep ran || true"), "", "{cwd}: the command ran");
}

#[test]
fn a_working_folder_outside_is_refused() {
    let project = project();
    for cwd in ["/", "/usr", "/etc", "/proc", "/dev", "../..", "../../../usr", "/home"] {
        refused(&project, cwd, &["cwd_outside_project"]);
    }
}

#[test]
fn cwd_through_a_link_is_refused() {
    let project = project();
    project.ok("ln -s /usr usr; ln -s /proc/self/root root; ln -s ../../../.. up; mkdir d; ln -s ../usr d/usr");
    for cwd in ["usr", "usr/bin", "root/usr", "up", "up/etc", "d/usr", "/home/user/project/usr"] {
        refused(&project, cwd, &["cwd_outside_project"]);
    }
}

#[test]
fn cwd_through_proc_leads_nowhere_else() {
    let project = project();
    let outside = ["cwd_outside_project", "cwd_not_found"];
    for cwd in ["/proc/1/cwd", "/proc/1/root", "/proc/self/root", "/proc/self/root/usr", "/proc/self/fd", "/dev/fd"] {
        refused(&project, cwd, &outside);
    }
    // Whatever this is while the command is being prepared, it is no way out.
    for cwd in ["/proc/self/cwd", "/proc/thread-self/cwd", "/proc/self/cwd/../.."] {
        let reply = project.call(&json!({"command": ["/bin/pwd", "-P"], "cwd": cwd}));
        if reply.status == 200 {
            let place = reply.json()["stdout"].as_str().unwrap_or_default().to_owned();
            assert!(place.starts_with("/home/user") || place.starts_with("/tmp"), "{cwd}: {place}");
        } else {
            assert!(outside.contains(&reply.code().as_str()), "{cwd}: {}", reply.text());
        }
    }
}

#[test]
fn a_working_folder_that_is_none_is_not_found() {
    let project = project();
    project.ok("echo x > file; ln -s nowhere dangling; ln -s loop loop; mkdir closed; chmod 0 closed");
    for cwd in ["no/such", "file", "file/x", "dangling", "loop", "/home/user/none", "/tmp/none"] {
        refused(&project, cwd, &["cwd_not_found"]);
    }
    refused(&project, "closed", &["cwd_not_found", "cwd_outside_project"]);
    let long = "x/".repeat(3000);
    refused(&project, &long, &["command_too_long", "cwd_not_found"]);
}

#[test]
fn a_working_folder_with_a_nul_byte_is_refused() {
    let project = project();
    project.call(&json!({"command": "true", "cwd": "a\0b"})).refused(400, "nul_byte");
    for cwd in [json!(7), json!([]), json!({})] {
        project.call(&json!({"command": "true", "cwd": cwd})).refused(400, "invalid_request");
    }
    assert_eq!(project.runs(), Vec::<Value>::new());
}

#[test]
fn a_link_that_is_changed_all_the_time_never_lets_a_command_out() {
    let project = project();
    let swap = "while :; do ln -sfn /usr swap; ln -sfn /home/user/project/in swap; done";
    project.ok("mkdir in");
    let run = project.start(&json!({"command": swap, "timeout_ms": 20_000}));
    for _ in 0..60 {
        let reply = project.call(&json!({"command": ["/bin/pwd", "-P"], "cwd": "swap"}));
        if reply.status == 200 {
            assert_eq!(reply.json()["stdout"], json!("/home/user/project/in\n"));
        } else {
            assert!(reply.code().starts_with("cwd_"), "{}", reply.text());
        }
    }
    project.client.delete(&project.path(&format!("/runs/{run}")));
}
