//! Policy files: what extends what, and what a person reads when a file is wrong.

use sandbox_policy::{Expectation, Layer, PolicyError, PolicySet};
use std::fs;

/// A complete policy; the tests append to it.
const BASE: &str = "name = \"a\"\n[filesystem]\nread = [\"/usr\"]\nwrite = [\"~\", \"/tmp\"]\n";

fn error(text: &str) -> String {
    let result = PolicySet::shipped().load_text("a.toml", text);
    result.expect_err(text).to_string()
}

fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        fs::write(dir.path().join(name), text).expect("a file");
    }
    dir
}

#[test]
fn mistakes_name_file_line_and_fix() {
    let fs_only = |lines: &str| format!("name = \"a\"\n[filesystem]\nwrite = [\"~\"]\n{lines}");
    let more = |lines: &str| format!("{BASE}{lines}");
    let cases = [
        // Shape.
        (
            "name = ",
            "a.toml:1:8: string values must be quoted, expected literal string; see docs/policies.md for the format",
        ),
        ("extends = \"default\"", "a.toml:1:1: missing field `name`; add `name`"),
        (
            "name = \"a\"\n[limits]\nmemry = 1",
            "a.toml:3:1: unknown field `memry`, expected one of `memory`, `cpu`, `pids`, `disk`, `disk_rate`, `tmp`, `open_files`, \
             `output`, `timeout`, `max_timeout`; did you mean `memory`?",
        ),
        (
            "name = \"a\"\n[network]\nmode = \"open\"",
            "a.toml:3:8: unknown variant `open`, expected one of `none`, `filtered`, `host`; use one of: none, filtered, host",
        ),
        (
            "name = \"a\"\n[environment.set]\nCI = 1",
            "a.toml:3:6: invalid type: integer `1`, expected a string; write the value in quotes",
        ),
        (
            "name = \"A\"",
            "a.toml:1:8: `A` is not a policy name; use 1 to 63 of a-z, 0-9 and `-`, starting with a letter or digit",
        ),
        (
            "name = \"default\"",
            "a.toml:1:8: `default` is a shipped policy and cannot be replaced; choose another name and write `extends` \
             with the shipped one",
        ),
        (
            "name = \"a\"\nextends = \"nodebuild\"",
            "a.toml:2:11: extends `nodebuild`, which is not a known policy; did you mean `node-build`?",
        ),
        ("name = \"a\"\nextends = \"a\"", "a.toml:2:11: extends itself: a -> a; remove one `extends` of the circle"),
        // Paths.
        (
            &fs_only("read = [\"usr\"]"),
            "a.toml:4:9: the path \"usr\" is relative; start the path with `/`, or with `~/` for the home folder inside",
        ),
        (
            &fs_only("read = [\n  \"/usr/../etc\",\n]"),
            "a.toml:5:3: the path \"/usr/../etc\" contains `..`; write the folder that is meant, without `..`",
        ),
        (
            &fs_only("read = [\"/etc\"]"),
            "a.toml:4:9: `read` cannot name /etc: it holds password hashes and keys beside what tools need; remove the \
             path, or name the files below it that are needed",
        ),
        (
            &fs_only("read = [\"/etc/passwd\"]"),
            "a.toml:4:9: `read` cannot name /etc/passwd: the sandbox writes this file itself; remove the path, or name \
             the files below it that are needed",
        ),
        (
            "name = \"a\"\n[filesystem]\nwrite = [\"~\", \"/srv\"]",
            "a.toml:3:15: `write` names /srv, outside /home/user and /tmp; write below `~` or `/tmp`; to work on a host \
             folder, make it the project's folder",
        ),
        (
            "name = \"a\"\n[filesystem]\nwrite = [\"/tmp\"]",
            "a.toml:1:8: nothing could run: /home/user/project, where commands start, is not writable; add \"~/project\" \
             to `write`, or remove the `deny` that covers it",
        ),
        (
            &fs_only("deny = [\"/srv\"]"),
            "a.toml:4:9: `deny` names /srv, which nothing grants; remove it: what no rule grants is refused anyway",
        ),
        (
            "name = \"a\"\n[filesystem]\nwrite = [\"~/project\", \"~/x\"]\ndeny = [\"~/x\"]",
            "a.toml:3:23: /home/user/x is both granted and denied; remove the path from one of the two lists",
        ),
        (
            "name = \"a\"\n[filesystem]\nwrite = [\"~\", \"~/x/y\"]\ndeny = [\"~/x\"]",
            "a.toml:3:15: `write` names /home/user/x/y, but /home/user/x is denied at a.toml:4; remove this path, which \
             stays refused, or extend a policy that does not deny it",
        ),
        // Mounts.
        (
            &fs_only("mount = [{ host = \"/opt/x\", at = \"/opt/x\", mode = \"rw\" }]"),
            "a.toml:4:51: the mount at /opt/x has mode `rw`; write mode = \"ro\"; to work on a host folder, make it the \
             project's folder",
        ),
        (
            &fs_only("mount = [{ host = \"/run/docker.sock\", at = \"/opt/x\" }]"),
            "a.toml:4:19: `mount.host` cannot name /run/docker.sock: it holds the sockets of the host's services; remove \
             the path, or name the files below it that are needed",
        ),
        (
            &fs_only("mount = [{ host = \"/opt/x\", at = \"~/project/x\" }]"),
            "a.toml:4:34: `mount.at` cannot name /home/user/project/x: the home folder is the project's own; `write` says \
             which parts of it are writable; mount the folder at a place of its own, such as /opt/toolchains",
        ),
        (
            &more("mount = [{ host = \"/opt/x\", at = \"/usr/x\" }]"),
            "a.toml:5:10: the mount at /usr/x overlaps `read` /usr; give the mount a place of its own, such as \
             /opt/toolchains",
        ),
        (
            &more("mount = [{ host = \"/a\", at = \"/opt\" }, { host = \"/b\", at = \"/opt\" }]"),
            "a.toml:5:40: the mount at /opt overlaps the mount at /opt; give the mount a place of its own, such as \
             /opt/toolchains",
        ),
        // Network.
        (
            &more("[network]\nmode = \"filtered\"\nallow = [\"@npm\", \"*.example.com:443\"]"),
            "a.toml:6:8: network mode `filtered` is not available yet; use `none` or `host`",
        ),
        (
            &more("[network]\nmode = \"host\"\nallow = [\"@npm\"]"),
            "a.toml:7:10: `allow` has no effect with network mode `host`; remove `allow`",
        ),
        (
            &more("[network]\nmode = \"host\"\n[require]\nlayers = [\"pid\", \"net\"]"),
            "a.toml:8:18: the layer `net` is required, but network mode `host` shares the host's network; remove `net` \
             from `layers`, or write mode = \"none\"",
        ),
        // Limits.
        (
            &more("[limits]\nmemory = \"2GB\""),
            "a.toml:6:10: `memory` is `2GB`, which has an unknown unit; write a whole number with KiB, MiB, GiB or TiB, \
             such as \"512MiB\"",
        ),
        (
            &more("[limits]\nmemory = \"1MiB\""),
            "a.toml:6:10: `memory` is 1MiB, outside 16MiB to 64TiB; write memory as a value from 16MiB to 64TiB",
        ),
        (
            &more("[limits]\ntimeout = 120"),
            "a.toml:6:11: `timeout` is `120`, which has no unit; write a whole number with ms, s or m, such as \"120s\"",
        ),
        (
            &more("[limits]\nmax_timeout = \"301s\""),
            "a.toml:6:15: `max_timeout` is 301s, outside 1ms to 300s; write max_timeout as a value from 1ms to 300s",
        ),
        (
            &more("[limits]\nmax_timeout = \"60s\""),
            "a.toml:6:15: timeout (120s) is longer than max_timeout (60s); write both, `timeout` not longer than \
             `max_timeout`",
        ),
        (
            &more("[limits]\nmemory = \"512MiB\"\ntmp = \"1GiB\""),
            "a.toml:7:7: tmp (1GiB) is larger than memory (512MiB), which holds what is in /tmp; write both, `tmp` not \
             larger than `memory`",
        ),
        (
            &more("[limits]\ncpu = 0.0"),
            "a.toml:6:7: `cpu` is 0, outside 0.01 to 1024; write cpu as a value from 0.01 to 1024",
        ),
        (
            &more("[limits]\ncpu = nan"),
            "a.toml:6:7: `cpu` is NaN, outside 0.01 to 1024; write cpu as a value from 0.01 to 1024",
        ),
        (
            &more("[limits]\npids = 1"),
            "a.toml:6:8: `pids` is 1, outside 2 to 4194304; write pids as a value from 2 to 4194304",
        ),
        (
            &more("[limits]\npids = -1"),
            "a.toml:6:8: `pids` is `-1`, which is negative; write a whole number, such as 512",
        ),
        // Environment.
        (
            &more("[environment]\npass = [\"RUN402_CONFIG_DIR\"]"),
            "a.toml:6:9: RUN402_CONFIG_DIR looks like a secret of the host and is not passed on; give it to the runs that \
             need it, in the request's `env`",
        ),
        (
            &more("[environment]\nset = { \"A-B\" = \"x\" }"),
            "a.toml:6:9: \"A-B\" is not a name of an environment variable; use letters, digits and `_`, not starting with \
             a digit",
        ),
        (&more("[environment]\nset = { HOME = \"/x\" }"), "a.toml:6:9: the sandbox sets HOME itself; remove it"),
        (
            &more("[environment]\nset = { A = \"x\" }\npass = [\"A\"]"),
            "a.toml:7:9: A is both set and passed on; keep it in `set` or in `pass`",
        ),
        (
            &more("[[test]]\ncommand = \" \"\nexpect = \"denied\""),
            "a.toml:6:11: the command of this test is empty or contains a NUL byte; write the shell line to try",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(error(text), expected, "\n{text}");
    }
}

#[test]
fn all_mistakes_of_a_file_come_together() {
    let text = format!("{BASE}[limits]\nmemory = \"1\"\npids = 0\n[environment]\npass = [\"npm_token\"]\n");
    let error = PolicySet::shipped().load_text("a.toml", &text).expect_err("three mistakes");
    assert_eq!(error.mistakes().iter().map(|m| m.place().line()).collect::<Vec<_>>(), [6, 7, 9]);
}

#[test]
fn a_report_shows_the_line_and_the_fix() {
    let error = PolicySet::shipped().load_text("a.toml", &format!("{BASE}[network]\nmode = \"filtered\"\n"));
    let report = error.expect_err("filtered is refused").report(false);
    for part in
        ["a.toml:6:8", "mode = \"filtered\"", "network mode `filtered` is not available yet", "help: use `none`"]
    {
        assert!(report.contains(part), "{part}\n{report}");
    }
}

#[test]
fn bytes_that_are_not_text_are_refused_with_their_line() {
    let dir = dir(&[]);
    let path = dir.path().join("a.toml");
    fs::write(&path, b"name = \"a\"\n\xff\xfe").expect("a file");
    let error = PolicySet::shipped().load_file(&path).expect_err("not text").to_string();
    assert_eq!(error, format!("{}:2:1: the file is not UTF-8 text; save the file as UTF-8", path.display()));
}

#[test]
fn children_add_to_lists_and_replace_values() {
    let dir = dir(&[
        (
            "parent.toml",
            "name = \"parent\"\ndescription = \"p\"\n[filesystem]\nread = [\"/usr\"]\nwrite = [\"~\"]\n[limits]\n\
             memory = \"1GiB\"\ncpu = 1\n[environment]\nset = { A = \"1\", B = \"1\" }\npass = [\"TZ\"]\n[require]\n\
             layers = [\"pid\"]\n[[test]]\ncommand = \"true\"\nexpect = \"allowed\"\n",
        ),
        (
            "child.toml",
            "name = \"child\"\nextends = \"parent\"\n[filesystem]\nread = [\"/opt\", \"/usr\"]\nwrite = [\"/tmp\"]\n\
             deny = [\"~/secret\"]\nmount = [{ host = \"/srv/x\", at = \"/srv/y\" }]\n[limits]\nmemory = \"3GiB\"\n\
             [environment]\nset = { B = \"2\", TZ = \"UTC\" }\npass = [\"A\"]\n[require]\nlayers = [\"ipc\"]\n[[test]]\n\
             command = \"false\"\nexpect = \"denied\"\n",
        ),
    ]);
    let set = PolicySet::shipped().with_dir(dir.path()).expect("two files");
    let child = set.get("child").expect("valid");
    assert_eq!(child.description(), "");
    assert_eq!(child.filesystem().read, ["/usr", "/opt"]);
    assert_eq!(child.filesystem().write, ["/home/user", "/tmp"]);
    assert_eq!(child.filesystem().deny, ["/home/user/secret"]);
    assert_eq!(child.filesystem().mount[0].at, "/srv/y");
    assert_eq!((child.limits().memory_bytes, child.limits().cpu), (3 << 30, 1.0));
    assert_eq!(
        child.environment().set.iter().collect::<Vec<_>>(),
        [(&"B".to_owned(), &"2".to_owned()), (&"TZ".to_owned(), &"UTC".to_owned())]
    );
    assert_eq!(child.environment().pass, ["A"]);
    assert_eq!(child.require(), [Layer::Pid, Layer::Net, Layer::Ipc]);
    assert_eq!(child.tests().iter().map(|t| t.expect).collect::<Vec<_>>(), [Expectation::Denied]);
    let origin = child.provenance().of("filesystem.read", "/usr").expect("known").short();
    assert_eq!(origin, format!("{}:4", dir.path().join("parent.toml").display()));
}

#[test]
fn a_denial_takes_back_what_the_parent_grants() {
    let text = "name = \"a\"\nextends = \"default\"\n[filesystem]\ndeny = [\"/etc/fonts\", \"/usr/share/doc\", \"/etc/ssl\", \
                \"/tmp\"]\n";
    let policy = PolicySet::shipped().load_text("a.toml", text).expect("valid");
    let files = policy.filesystem();
    assert!(!files.read.iter().any(|path| path == "/etc/fonts" || path == "/etc/ssl"));
    assert_eq!(files.write, ["/home/user"]);
    assert_eq!(files.deny, ["/usr/share/doc"], "a denial outside all grants says nothing");
}

#[test]
fn a_mode_without_filter_forgets_what_the_parent_allowed() {
    let dir = dir(&[(
        "p.toml",
        &format!("{}[network]\nmode = \"filtered\"\nallow = [\"@npm\"]\n", BASE.replace("\"a\"", "\"p\"")),
    )]);
    let set = PolicySet::shipped().with_dir(dir.path()).expect("filtered parses");
    assert!(set.get("p").is_err() && set.check().is_err());
    let child = set.load_text("a.toml", "name = \"a\"\nextends = \"p\"\n[network]\nmode = \"none\"\n").expect("valid");
    assert!(child.network().allow.is_empty());
}

#[test]
fn circles_and_taken_names_are_refused() {
    let circle = dir(&[("a.toml", "name = \"a\"\nextends = \"b\"\n"), ("b.toml", "name = \"b\"\nextends = \"a\"\n")]);
    let set = PolicySet::shipped().with_dir(circle.path()).expect("each file parses");
    let error = set.get("a").expect_err("a circle").to_string();
    assert_eq!(
        error,
        format!(
            "{}:2:11: extends itself: a -> b -> a; remove one `extends` of the circle",
            circle.path().join("b.toml").display()
        )
    );

    let shipped = dir(&[("x.toml", "name = \"strict\"\n")]);
    let error = PolicySet::shipped().with_dir(shipped.path()).expect_err("a shipped name").to_string();
    assert!(error.contains("x.toml:1:8: `strict` is a shipped policy and cannot be replaced"), "{error}");

    let twice = dir(&[("x.toml", BASE), ("y.toml", BASE)]);
    let error = PolicySet::shipped().with_dir(twice.path()).expect_err("one name twice").to_string();
    assert!(error.contains("y.toml:1:8: the name `a` is already taken by "), "{error}");
}

#[test]
fn folders_are_read_without_surprises() {
    let with = dir(&[("a.toml", BASE), (".b.toml", "broken"), ("c.toml~", "broken"), ("README", "text")]);
    let set = PolicySet::shipped().with_dir(with.path()).expect("one policy");
    assert_eq!(set.list().len(), 7);
    assert!(set.get("a").is_ok());

    let missing = PolicySet::shipped().with_dir(with.path().join("nowhere"));
    assert!(matches!(missing, Err(PolicyError::Unreadable { .. })));

    let large = dir(&[("a.toml", &format!("# {}", "x".repeat(2 << 20)))]);
    assert!(matches!(PolicySet::shipped().with_dir(large.path()), Err(PolicyError::TooLarge { .. })));
}

#[test]
fn unknown_names_are_answered_with_known_ones() {
    let set = PolicySet::shipped();
    let error = |name: &str| set.get(name).expect_err(name).to_string();
    assert_eq!(error("pyton"), "there is no policy `pyton`; did you mean `python`?");
    assert_eq!(
        error("gpu-farm"),
        "there is no policy `gpu-farm`; use one of: default, function, node-build, offline, python, strict"
    );
    assert!(error(&"x".repeat(1 << 20)).len() < 300);
}

#[test]
fn the_shipped_text_itself_may_be_checked() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("node-build.toml");
    let policy = PolicySet::shipped().load_file(file).expect("the shipped file");
    assert_eq!(policy.name(), "node-build");
}

#[test]
fn a_project_that_nobody_can_write_runs_nothing() {
    let text = "name = \"a\"\nextends = \"default\"\n[filesystem]\ndeny = [\"~/project\"]\n";
    assert!(error(text).starts_with("a.toml:4:9: nothing could run"), "{}", error(text));
}
