//! Projects against each other, against the host, and against the daemon's own secrets.

use sandbox_tests::daemon::{CANARY, canary};
use sandbox_tests::probe::{all_answered, probe};
use sandbox_tests::{Daemon, Options, features, host, project, require};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::time::Duration;

#[test]
fn projects_do_not_see_each_other() {
    let (first, second) = (project(), project());
    let secret = format!("secret-{}", host::unique());
    let body = json!({"command": "cat > file; cp file ~/file; cp file /tmp/file; chmod -R a+rwX . ~ /tmp/file", "stdin": secret});
    first.ok_with(&body);
    let search = "grep -rslF -f - / --exclude-dir=proc --exclude-dir=usr --exclude-dir=sys -D skip; true";
    assert_eq!(second.ok_with(&json!({"command": search, "stdin": secret})), "");
    assert_eq!(second.ok("ls -A ~/project /tmp; ls -A ~ | grep -v project || true").matches("file").count(), 0);
    // Not by their place on the host either.
    let state = Daemon::shared().state();
    for path in [state.join("projects").join(&first.id), state.join("projects"), state] {
        assert_ne!(second.run(&format!("ls {}", path.display())).exit_code, Some(0), "{}", path.display());
    }
    assert_eq!(first.ok("cat file ~/file /tmp/file"), secret.repeat(3));
}

#[test]
fn projects_of_root_have_ids_of_their_own() {
    require!("root");
    let (first, second) = (project(), project());
    let owner = |project: &sandbox_tests::Project| {
        project.ok("touch file");
        let file = Daemon::shared().state().join("projects").join(&project.id).join("workspace/file");
        fs::metadata(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).uid()
    };
    let (one, two) = (owner(&first), owner(&second));
    assert!(one > 65_536 && two > 65_536 && one.abs_diff(two) >= 65_536, "{one} and {two}");
    assert_eq!(first.run("true").enforced.ids, "range");
}

#[test]
fn only_own_processes_are_visible() {
    let project = project();
    let (marker, other) = (host::marker(), host::marker());
    let run = project.start(&json!({"command": format!("sleep {other}")}));
    host::assert_alive(&other);
    let output = project.ok(&format!("sleep {marker} & sleep 0.1; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; kill $!"));
    assert!(output.contains(&marker), "a command sees its own: {output}");
    assert!(!output.contains(&other), "a run sees another one: {output}");
    for name in ["sandboxd", "sandbox-keeper"] {
        assert!(!output.contains(name), "{name} is visible: {output}");
    }
    let numbers: Vec<u32> = project.ok("ls /proc").lines().filter_map(|name| name.parse().ok()).collect();
    assert!(numbers.len() < 8 && numbers.contains(&1) && numbers.iter().all(|pid| *pid < 1000), "{numbers:?}");
    // Process ids of the host name nobody inside.
    let ours = std::process::id();
    if ours > 1000 {
        assert_ne!(project.run(&format!("kill -0 {ours}")).exit_code, Some(0));
        assert_ne!(project.run(&format!("kill -0 {}", Daemon::shared().pid)).exit_code, Some(0));
    }
    project.client.delete(&project.path(&format!("/runs/{run}")));
}

#[test]
fn the_parent_of_orphans_reaps_them() {
    let project = project();
    let output = project.ok("i=0; while [ $i -lt 30 ]; do (sleep 0.01 &); i=$((i+1)); done; sleep 0.4; cat /proc/[0-9]*/stat | grep -c ' Z ' || true");
    assert_eq!(output.trim(), "0");
}

#[test]
fn ipc_is_private() {
    require!("python3");
    let (first, second) = (project(), project());
    let shm = format!("/dev/shm/sandbox-test-{}", host::unique());
    let on_host = fs::write(&shm, "host").is_ok();
    let program = r"
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
print(libc.shmget(0x5eed, 4096, 0o1666), libc.semget(0x5eed, 1, 0o1666), libc.msgget(0x5eed, 0o1666), flush=True)
open('/dev/shm/shared', 'w').write('secret')
time.sleep(30)";
    let run = first.start(&json!({"command": ["python3", "-c", program]}));
    let answer = first.events(&run, sandbox_tests::events::NDJSON, 0).find(|event| event.name == "stdout");
    let made = String::from_utf8(answer.expect("it prints").bytes()).expect("text");
    assert!(!made.contains("-1"), "IPC objects cannot be made: {made}");
    let look = r"
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.shmget(0x5eed, 0, 0), libc.semget(0x5eed, 0, 0), libc.msgget(0x5eed, 0))";
    for project in [&second, &first] {
        assert_eq!(project.python_ok(look), "-1 -1 -1\n", "IPC objects of another run are visible");
        assert_eq!(project.ok("tail -n +2 /proc/sysvipc/shm"), "");
    }
    // Files in memory belong to the project, as its other temporary files do.
    assert_eq!((first.ok("ls -A /dev/shm"), second.ok("ls -A /dev/shm")), ("shared\n".into(), String::new()));
    if on_host {
        assert_ne!(second.run(&format!("cat {shm}")).exit_code, Some(0));
        fs::remove_file(&shm).expect("it is ours");
    }
    first.client.delete(&first.path(&format!("/runs/{run}")));
}

#[test]
fn network_none_reaches_nobody() {
    require!("python3", "net");
    let (first, second) = (project(), project());
    assert_eq!(first.run("true").enforced.network, "none");
    let interfaces = first.ok("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '");
    assert_eq!(interfaces, "lo\n");
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let host_port = listener.local_addr().expect("bound").port();
    let serve = r"
import socket, time
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print(s.getsockname()[1], flush=True); time.sleep(30)";
    let run = first.start(&json!({"command": ["python3", "-c", serve]}));
    let line = first.events(&run, sandbox_tests::events::NDJSON, 0).find(|event| event.name == "stdout");
    let port: u16 = String::from_utf8_lossy(&line.expect("it prints").bytes()).trim().parse().expect("a port");
    let daemon_port: u16 = first.client.address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let program = |port: u16| {
        format!(
            r"
import socket
def to(address, family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(2); s.connect(address)
seen['loopback'] = attempt(lambda: to(('127.0.0.1', {port})))
seen['loopback 6'] = attempt(lambda: to(('::1', {port}), socket.AF_INET6))
seen['any'] = attempt(lambda: to(('0.0.0.0', {port})))
seen['elsewhere'] = attempt(lambda: to(('192.0.2.1', 80)))
seen['metadata'] = attempt(lambda: to(('169.254.169.254', 80)))
seen['datagram'] = attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53)))"
        )
    };
    for (project, port) in [(&second, port), (&second, host_port), (&second, daemon_port)] {
        all_answered(
            &probe(project, &program(port)),
            &["ECONNREFUSED", "ENETUNREACH", "EADDRNOTAVAIL", "EHOSTUNREACH", "EAFNOSUPPORT"],
        );
    }
    // The same project's next run shares its loopback; the host does not.
    let own = probe(
        &first,
        &format!("import socket\nseen['own'] = attempt(lambda: socket.create_connection(('127.0.0.1', {port}), 2))"),
    );
    all_answered(&own, &["ok"]);
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "a port of the sandbox is open on the host");
    first.client.delete(&first.path(&format!("/runs/{run}")));
}

#[test]
fn the_network_of_a_sandbox_cannot_be_changed() {
    require!("python3");
    let project = project();
    let seen = probe(
        &project,
        r"
import fcntl, socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
seen['take lo down'] = attempt(lambda: fcntl.ioctl(s, 0x8914, struct.pack('16sH14s', b'lo', 0, b'')))
seen['packet socket'] = attempt(lambda: socket.socket(17, socket.SOCK_RAW))
",
    );
    all_answered(&seen, &["EPERM", "EACCES"]);
}

#[test]
fn abstract_sockets_are_out_of_reach() {
    require!("python3", "landlock");
    let name = format!("sandbox-test-{}", host::unique());
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    let _listener = UnixListener::bind_addr(&address).expect("the name is free");
    let program = format!(
        "import socket\nseen['abstract'] = attempt(lambda: socket.socket(socket.AF_UNIX).connect('\\0{name}'))
a = socket.socket(socket.AF_UNIX); a.bind('\\0{name}-own'); a.listen()
seen['own'] = attempt(lambda: socket.socket(socket.AF_UNIX).connect('\\0{name}-own'))"
    );
    for policy in ["default", "node-build"] {
        let project = Daemon::shared().project_of(policy);
        let abi = project.run("true").enforced.landlock_abi.unwrap_or_default();
        let seen = probe(&project, &program);
        assert_eq!(seen["own"], json!("ok"), "{policy}: a command's own abstract sockets work");
        if policy == "default" || abi >= 6 {
            assert!(
                ["EPERM", "ECONNREFUSED"].contains(&seen["abstract"].as_str().unwrap_or_default()),
                "{policy}: {seen}"
            );
        }
    }
}

#[test]
fn sockets_of_the_host_are_not_in_the_view() {
    require!("python3");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("socket");
    let _listener = UnixListener::bind(&path).expect("the folder is ours");
    let project = Daemon::shared().project_of("node-build");
    let program = format!(
        "import socket\nseen['socket'] = attempt(lambda: socket.socket(socket.AF_UNIX).connect('{}'))",
        path.display()
    );
    all_answered(&probe(&project, &program), &["ENOENT", "EACCES"]);
}

#[test]
fn tokens_are_not_visible() {
    require!("python3");
    let daemon = Daemon::shared();
    let token = daemon.client.token.clone().expect("a token");
    let project = Daemon::shared().project_of("node-build");
    let program = r"
import os, sys
needles = [line.encode() for line in sys.stdin.read().split()]
found = []
def look(path):
    try:
        if os.path.islink(path) or not os.path.isfile(path): return
        with open(path, 'rb') as file:
            data = file.read(1 << 22)
    except OSError: return
    found.extend(path for needle in needles if needle in data)
for top in os.listdir('/'):
    if top in ('usr', 'proc', 'sys'): continue
    for folder, _, names in os.walk('/' + top):
        for name in names: look(os.path.join(folder, name))
for pid in filter(str.isdigit, os.listdir('/proc')):
    for name in ('environ', 'cmdline', 'maps'):
        look('/proc/%s/%s' % (pid, name))
print(found)";
    let body = json!({"command": ["python3", "-c", program], "stdin": format!("{token} {} {CANARY}", canary())});
    assert_eq!(project.ok_with(&body).trim(), "[]");
    assert_eq!(project.ok(&format!("echo \"[${CANARY}]\"; env | grep -ci sbx_ || true")), "[]\n0\n");
    // On the host: hashed or 0600, and never in an argument or a log.
    assert!(host::processes_with(&token).is_empty(), "the token is an argument of a process");
    assert!(!daemon.log().contains(&token), "the token is in the log");
    let file = fs::metadata(daemon.state().join("token")).expect("there");
    assert_eq!((file.mode() & 0o777, file.uid()), (0o600, nix::unistd::geteuid().as_raw()));
    assert_eq!(fs::metadata(daemon.state()).expect("there").mode() & 0o777, 0o700);
    let readable = files_with(&daemon.state(), token.as_bytes());
    assert_eq!(readable, BTreeSet::from(["token".to_owned()]), "the token is stored unhashed");
}

/// Names of the files below a folder in which bytes stand.
fn files_with(folder: &Path, needle: &[u8]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && entry.file_name() != "projects" {
            found.extend(files_with(&entry.path(), needle));
        } else if kind.is_file() {
            let content = fs::read(entry.path()).unwrap_or_default();
            if content.windows(needle.len()).any(|window| window == needle) {
                found.insert(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    found
}

#[test]
fn the_state_folder_is_closed_to_others() {
    let project = project();
    project.ok("echo x > file");
    let root = Daemon::shared().state();
    for path in [root.join("projects"), root.join("projects").join(&project.id)] {
        let mode = fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).mode();
        assert_eq!(mode & 0o077, 0, "{} is open to others: {mode:o}", path.display());
    }
}

#[test]
fn a_folder_of_a_policys_deny_list_cannot_be_opened() {
    let policy = "name = 'guarded'\nextends = 'default'\n[filesystem]\ndeny = ['~/project/.env', '~/project/keys']\n";
    let daemon = Options::default().policy("guarded", policy).start();
    let project = daemon.project();
    project.ok("echo secret > .env; mkdir keys; echo secret > keys/key; echo open > file");
    let guarded = |command: &str| project.run_with(&json!({"command": command, "policy": "guarded"}));
    for command in [
        "cat .env",
        "cat keys/key",
        "ls keys | grep .",
        "echo x > .env",
        "echo x > keys/new",
        "mv .env other",
        "cp -r keys other && cat other/key",
        "ln .env other && cat other",
    ] {
        let result = guarded(command);
        assert!(result.exit_code != Some(0) && !result.stdout.contains("secret"), "worked: {command}: {result:?}");
    }
    assert_eq!(guarded("cat file").stdout, "open\n");
    assert_eq!(project.ok("cat .env keys/key"), "secret\nsecret\n");
}

/// A copy of a shared mount is its peer: what is mounted on the one shows on the other.
#[test]
fn no_mount_of_a_view_shows_on_a_host_whose_mounts_are_shared() {
    require!("root");
    let policy = "name = 'guarded'\nextends = 'default'\n[filesystem]\ndeny = ['~/project/.env', '~/project/keys']\n";
    let daemon = Options::default().policy("guarded", policy).with_shared_mounts().start();
    let folder = tempfile::tempdir().expect("a temporary directory");
    fs::write(folder.path().join(".env"), "secret").expect("the folder is ours");
    fs::create_dir(folder.path().join("keys")).expect("the folder is ours");
    fs::write(folder.path().join("keys/key"), "secret").expect("the folder is ours");
    let host = Path::new("/proc").join(daemon.pid.to_string());
    let mounts = || fs::read_to_string(host.join("mountinfo")).expect("the daemon runs");
    let before = mounts();
    assert!(before.contains(" shared:"), "{before}");
    for body in [json!({"policy": "guarded", "dir": folder.path()}), json!({"policy": "guarded"})] {
        let project = daemon.project_with(&body);
        let result = project.run("cat .env keys/key; true");
        assert_eq!(result.stdout, "", "{result:?}");
        assert_eq!(mounts(), before);
        let seen = host.join("root").join(folder.path().strip_prefix("/").expect("absolute"));
        for file in [".env", "keys/key"] {
            assert_eq!(fs::read_to_string(seen.join(file)).expect("it is not covered"), "secret");
        }
    }
    assert_eq!(daemon.client.get("/doctor").ok()["default_policy_enforceable"], true);
    assert_eq!(mounts(), before);
}

#[test]
fn mounts_of_a_policy_are_there_and_read_only() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    fs::write(folder.path().join("tool"), "version 1\n").expect("the folder is ours");
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    let policy = format!(
        "name = 'tools'\nextends = 'default'\n[filesystem]\nmount = [{{ host = '{}', at = '/opt/tools', mode = 'ro' }}]\n",
        folder.path().display()
    );
    let daemon = Options::default().policy("tools", &policy).start();
    let project = daemon.project_of("tools");
    assert_eq!(project.ok("cat /opt/tools/tool"), "version 1\n");
    for command in
        ["echo x > /opt/tools/new", "echo x >> /opt/tools/tool", "rm /opt/tools/tool", "chmod 777 /opt/tools/tool"]
    {
        assert_ne!(project.run(command).exit_code, Some(0), "worked: {command}");
    }
    assert_eq!(fs::read_to_string(folder.path().join("tool")).expect("there"), "version 1\n");
}

/// What an ordinary user's own id alone cannot give: groups stay with whoever may not set them.
#[test]
fn subordinate_ids_take_the_users_groups_away() {
    // Root has all ids, and gives each project its own.
    if features::is_root() {
        return;
    }
    require!("subordinate");
    let project = project();
    let result = project.run("id -u; id -G; cat /proc/self/setgroups; wc -l </proc/self/uid_map; touch mine");
    assert_eq!(result.stdout, "1000\n1000\nallow\n3\n", "{result:?}");
    assert_eq!(result.enforced.ids, "subordinate");
    let mine = Daemon::shared().state().join("projects").join(&project.id).join("workspace/mine");
    let owner = std::fs::metadata(&mine).expect("the command made it");
    let user = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    assert_eq!((owner.uid(), owner.gid()), user, "files stay the user's");
}

#[test]
fn the_receipt_is_true() {
    for policy in ["default", "node-build"] {
        let project = Daemon::shared().project_of(policy);
        let enforced = project.run("true").enforced;
        assert_eq!(enforced.policy, policy);
        let links = project.ok("for n in user mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done");
        for line in links.lines() {
            let (name, _) = line.split_once(':').expect("a namespace");
            let own = fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace").display().to_string();
            assert_eq!(enforced.namespaces.iter().any(|other| other == name), own != line, "{name}: {enforced:?}");
        }
        let network = if policy == "default" { "none" } else { "host" };
        assert_eq!(enforced.network, network);
        assert_eq!(enforced.namespaces.iter().any(|name| name == "net"), network == "none");
        let ids = match (features::is_root(), features::has("subordinate")) {
            (true, _) => "range",
            (false, true) => "subordinate",
            (false, false) => "single",
        };
        assert_eq!(enforced.ids, ids);
        assert_eq!(enforced.seccomp, "default");
        if enforced.cgroup == "none" {
            assert!(enforced.missing.iter().any(|text| text.to_lowercase().contains("cgroup")), "{enforced:?}");
        }
        if enforced.landlock_abi.is_none() {
            assert!(enforced.missing.iter().any(|text| text.contains("Landlock")), "{enforced:?}");
        }
    }
}

#[test]
fn landlock_holds_by_itself() {
    require!("landlock", "python3");
    // What mounts allow and Landlock does not: connecting to abstract sockets is tested elsewhere; here,
    // that a domain is in force at all. A process in one can only restrict itself further, and a domain
    // with file rules forbids what changes the tree, which the filter forbids first. So: the receipt and
    // the doctor agree, and the kernel accepts one more layer on top.
    let project = project();
    let abi = project.run("true").enforced.landlock_abi;
    let seen =
        probe(&project, "seen['abi'] = libc.syscall(ctypes.c_long(444), None, ctypes.c_long(0), ctypes.c_long(1))");
    assert!(
        abi.is_some_and(|abi| seen["abi"].as_i64().is_some_and(|kernel| kernel >= i64::from(abi))),
        "{abi:?} {seen}"
    );
}

#[test]
fn a_required_layer_is_not_optional() {
    require!("second-user", "user");
    let policy = "name = 'demanding'\nextends = 'default'\n[require]\nlayers = ['limits', 'ids']\n";
    let daemon = Options::default().policy("demanding", policy).as_nobody().start();
    let project = daemon.project();
    let reply = project.call(&json!({"command": "touch ran", "policy": "demanding"}));
    let problem = reply.refused(403, "layer_unavailable");
    assert!(problem["next_actions"].as_array().is_some_and(|actions| !actions.is_empty()), "{problem}");
    assert_eq!(project.ok("ls"), "");
    let missing = project.run("true").enforced.missing;
    assert!(!missing.is_empty(), "nothing is missing, though there is no cgroup");
}

#[test]
fn a_policy_that_cannot_be_kept_is_refused() {
    let daemon = Daemon::shared();
    let project = daemon.project();
    let filtered = "name = 'f'\nextends = 'default'\n[network]\nmode = 'filtered'\nallow = ['@npm']\n";
    let reply = project.call(&json!({"command": "touch ran", "policy_toml": filtered}));
    assert!((400..500).contains(&reply.status), "{}", reply.text());
    assert!(reply.text().contains("filtered"), "{}", reply.text());
    for toml in [
        "name = 'x'\nunknown = 1\n",
        "name = ",
        "name = 'x'\n[limits]\nmemory = 'lots'\n",
        "name = 'x'\nextends = 'nothing'\n",
    ] {
        let reply = project.call(&json!({"command": "touch ran", "policy_toml": toml}));
        let code = reply.code();
        assert!((400..500).contains(&reply.status), "{toml}: {}", reply.text());
        assert!(["invalid_policy", "policy_not_found"].contains(&code.as_str()), "{toml}: {}", reply.text());
    }
    project.call(&json!({"command": "true", "policy": "no-such"})).refused(400, "policy_not_found");
    assert_eq!(project.runs(), Vec::<Value>::new());
    assert_eq!(project.ok("ls"), "");
}

#[test]
fn files_in_a_folder_keep_their_owner() {
    require!("root");
    let outer = tempfile::tempdir().expect("a temporary directory");
    let folder = outer.path().join("site");
    fs::create_dir_all(folder.join("sub")).expect("the folder is ours");
    fs::write(folder.join("sub/old"), "old\n").expect("the folder is ours");
    fs::write(outer.path().join("beside"), "beside\n").expect("the folder is ours");
    for path in ["", "sub", "sub/old"] {
        std::os::unix::fs::chown(folder.join(path), Some(12_345), Some(23_456)).expect("root may");
    }
    let project = Daemon::shared().project_with(&json!({"dir": folder}));
    assert_eq!(
        project.ok("stat -c '%U:%G %u:%g' . sub sub/old; cat sub/old"),
        "user:user 1000:1000\n".repeat(3) + "old\n"
    );
    project.ok(
        "echo new > new; mkdir -p deep/er; echo more >> sub/old; ln -s new link; touch deep/er/file; chmod 700 new",
    );
    for path in ["new", "deep", "deep/er", "deep/er/file", "sub/old", "link", ""] {
        let owner = fs::symlink_metadata(folder.join(path)).expect("there");
        assert_eq!((owner.uid(), owner.gid()), (12_345, 23_456), "{path}");
    }
    for command in ["cat ../beside", "ls ..", "cat /home/user/beside", "echo x > ../beside; cat ../../../*/beside"] {
        assert!(!project.run(command).stdout.contains("beside\n"), "{command}");
    }
    assert_eq!(fs::read_to_string(outer.path().join("beside")).expect("there"), "beside\n");
    assert_eq!(fs::read_dir(outer.path()).expect("there").count(), 2);
    drop(project);
    let gone = host::eventually(Duration::from_secs(5), || {
        !host::mounts().iter().any(|line| line.contains(&*folder.to_string_lossy()))
    });
    assert!(gone && folder.join("new").exists(), "removing a project removes nothing of a folder that was lent");
}
