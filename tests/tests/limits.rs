//! Hostile amounts: processes, memory, files, descriptors, output, time; and the neighbours meanwhile.

use sandbox_tests::{Daemon, Options, Project, features, host, project, require};
use sandbox_wire::{RunResult, RunState};
use serde_json::json;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// Small limits, so that they are reached soon.
const SMALL: &str = "name = 'small'\nextends = 'default'\n[limits]\nmemory = '192MiB'\npids = 64\ndisk = '48MiB'\n\
                     tmp = '24MiB'\nopen_files = 100\noutput = '2MiB'\ncpu = 1.0\n";

fn small() -> (Daemon, Project) {
    let daemon = Options::default().policy("small", SMALL).start();
    let project = daemon.project_of("small");
    (daemon, project)
}

#[test]
fn fork_bomb_is_contained() {
    require!("cgroup");
    let (_daemon, project) = small();
    let marker = host::marker();
    for bomb in [
        "bomb() { bomb | bomb & }; bomb; sleep MARKER",
        "while :; do sleep MARKER & done",
        "i=0; while [ $i -lt 1000 ]; do (sleep MARKER &) ; i=$((i+1)); done; wait",
    ] {
        let started = Instant::now();
        let command = bomb.replace("MARKER", &marker);
        let result = project.run_with(&json!({"command": command, "timeout_ms": 1500 * host::patience()}));
        assert!(started.elapsed() < Duration::from_secs(6) * host::patience(), "{bomb}: {:?}", started.elapsed());
        assert!(result.usage.pids_peak.is_some_and(|peak| peak <= 64), "{bomb}: {:?}", result.usage);
        let named = result.denials.iter().any(|denial| denial.subject.contains("pids"));
        assert!(named, "{bomb}: nothing says why it failed: {result:?}");
        host::assert_gone(&marker);
        assert_eq!(project.ok("echo next"), "next\n");
    }
}

/// Without a cgroup the kernel counts processes per user: weaker, but a bomb ends with its run.
#[test]
fn a_fork_bomb_of_an_ordinary_user_ends_with_its_run() {
    require!("second-user", "user");
    let daemon = Options::default().policy("small", SMALL).as_nobody().start();
    let project = daemon.project_of("small");
    let marker = host::marker();
    let command = format!("i=0; while [ $i -lt 300 ]; do sleep {marker} & i=$((i+1)); done; wait");
    let result = project.run_with(&json!({"command": command, "timeout_ms": 2000}));
    assert_ne!(result.exit_code, Some(0), "{result:?}");
    host::assert_gone(&marker);
    assert_eq!(project.ok("echo next"), "next\n");
}

#[test]
fn memory_hog_is_killed_and_named() {
    require!("cgroup", "python3");
    let (_daemon, project) = small();
    let result = project.python("x = []\nwhile True: x.append(bytearray(1 << 20))");
    assert_eq!((result.status, result.exit_code), (RunState::OomKilled, Some(137)), "{result:?}");
    assert!(result.oom_killed && !result.timed_out, "{result:?}");
    assert!(result.usage.memory_peak_bytes.is_some_and(|peak| peak <= 200 * MIB), "{:?}", result.usage);
    // A child's death is the command's business, and still told.
    let result = project.run("python3 -c 'x = bytearray(1 << 30)'; echo went on; exit 0");
    assert_eq!((result.status, result.exit_code), (RunState::Exited, Some(0)), "{result:?}");
    assert!(result.stdout.contains("went on"), "{result:?}");
    // Allowed: below the limit.
    assert_eq!(project.python_ok("x = bytearray(100 << 20); print(len(x))"), "104857600\n");
    let result = project.run("exit 137");
    assert_eq!((result.status, result.oom_killed), (RunState::Exited, false), "the kill before it is not its own");
}

#[test]
fn memory_without_a_cgroup_is_limited_for_each_process() {
    require!("second-user", "user", "python3");
    let daemon = Options::default().policy("small", SMALL).as_nobody().start();
    let project = daemon.project_of("small");
    let result = project.python("x = bytearray(400 << 20); print(len(x))");
    assert_ne!(result.exit_code, Some(0), "{result:?}");
    assert_eq!(result.enforced.cgroup, "none");
}

#[test]
fn tmp_is_limited() {
    let (_daemon, project) = small();
    for place in ["/tmp", "/dev/shm"] {
        let result = project.run(&format!(
            "head -c 60000000 /dev/zero > {place}/big; e=$?; stat -c %s {place}/big; rm -f {place}/big; exit $e"
        ));
        let size: u64 = result.stdout.trim().parse().unwrap_or_default();
        let stopped = result.exit_code != Some(0) || result.oom_killed;
        assert!(stopped && size <= 25 * MIB, "{place}: {result:?}");
    }
    let files = project.run(
        "i=0; while [ $i -lt 20000 ] && : > /tmp/$i; do i=$((i+1)); done 2>/dev/null; ls /tmp | wc -l; rm -rf /tmp/*",
    );
    let count: u64 = files.stdout.trim().parse().unwrap_or_default();
    assert!(count < 20_000, "empty files are not limited: {count}");
}

/// Bytes that a folder's files take on disk.
fn disk_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => disk_bytes(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(size).sum()
}

#[test]
fn disk_is_limited() {
    let (daemon, project) = small();
    for (name, command) in [
        ("one file", "cat /dev/zero > big"),
        ("many files", "i=0; while :; do head -c 1000000 /dev/zero > $i || exit 1; i=$((i+1)); done"),
        ("the home folder", "cat /dev/zero > ~/big"),
        ("a file without a name", "exec 3> gone; rm gone; cat /dev/zero >&3"),
    ] {
        let started = Instant::now();
        let result = project.run_with(&json!({"command": command, "timeout_ms": 20_000}));
        let elapsed = started.elapsed();
        let used = disk_bytes(&daemon.state().join("projects").join(&project.id));
        assert!(!result.timed_out, "{name}: nobody stopped it: {result:?}");
        assert!(elapsed < Duration::from_secs(10) * host::patience(), "{name}: stopped only after {elapsed:?}");
        let named = result.denials.iter().any(|denial| denial.subject.contains("disk"));
        let quota = result.enforced.disk == "quota" && result.stderr.to_lowercase().contains("quota");
        // A single file cannot be larger than the project: RLIMIT_FSIZE stops it at once.
        let one_file = ["File size limit exceeded", "File too large"].iter().any(|text| result.stderr.contains(text));
        assert!(named || quota || result.stderr.contains("No space left") || one_file, "{name}: {result:?}");
        // What is measured may overshoot by what a second can write.
        assert!(used < 6 << 30, "{name}: {used} bytes");
        let cleared = project.run("rm -rf ~/project/* ~/big; ls -A");
        assert_eq!(cleared.stdout, "", "{name}: {cleared:?}");
    }
    assert_eq!(project.ok("head -c 1000000 /dev/zero > fine; stat -c %s fine"), "1000000\n");
}

#[test]
fn descriptors_are_limited() {
    let (_daemon, project) = small();
    assert_eq!(project.ok("ulimit -n; ulimit -Hn"), "100\n100\n");
    assert_ne!(project.run("ulimit -n 200").exit_code, Some(0));
    require!("python3");
    let program = "import os, errno
n = 0
try:
    while True: os.open('/dev/null', os.O_RDONLY); n += 1
except OSError as error: print(n < 100, errno.errorcode[error.errno])";
    assert_eq!(project.python_ok(program), "True EMFILE\n");
}

#[test]
fn core_files_and_locked_memory_are_limited() {
    let project = project();
    assert_eq!(project.ok("ulimit -c; ulimit -Hc"), "0\n0\n");
    let result = project.run("kill -SEGV $$");
    assert_eq!(result.status, RunState::Signaled);
    assert_eq!(project.ok("ls -A"), "");
}

#[test]
fn output_flood_leaves_memory_flat() {
    let (daemon, project) = small();
    let result = project.run_with(&json!({"command": "yes & yes >&2", "timeout_ms": 1500 * host::patience()}));
    assert!(result.timed_out || result.killed_by.is_some(), "{result:?}");
    assert!(
        result.stdout_bytes > 2 * MIB && result.stderr_bytes > 2 * MIB,
        "{} {}",
        result.stdout_bytes,
        result.stderr_bytes
    );
    assert!(result.stdout.len() as u64 <= MIB + 16 && result.stderr.len() as u64 <= MIB + 16);
    for pid in daemon.keepers().into_iter().chain([daemon.pid]) {
        let peak = host::status_kib(pid, "VmHWM").expect("readable");
        assert!(peak < 64 << 10, "{} used {peak} KiB", host::comm(pid));
    }
    let journal = disk_bytes(&daemon.state().join("projects").join(&project.id).join("runs"));
    assert!(journal < 8 * MIB, "the journal keeps {journal} bytes of a limit of 2 MiB");
}

#[test]
fn processor_time_is_limited() {
    require!("cgroup");
    let policy = "name = 'slow'\nextends = 'default'\n[limits]\ncpu = 0.5\n";
    let daemon = Options::default().policy("slow", policy).start();
    let project = daemon.project_of("slow");
    let command = "for n in 1 2 3 4; do (while :; do :; done) & done; wait";
    let result = project.run_with(&json!({"command": command, "timeout_ms": 3000}));
    let share = result.usage.cpu_ms / result.duration_ms;
    assert!(share > 0.1 && share < 0.75, "{share} processors: {:?}", result.usage);
}

#[test]
fn a_disk_rate_is_kept_or_refused_in_the_doctors_words() {
    let slow = "name = 'slow'\nextends = 'default'\n[limits]\ndisk_rate = '1MiB'\n";
    let lifted = "name = 'lifted'\nextends = 'slow'\n[limits]\ndisk_rate = '1TiB'\n";
    let daemon = Options::default().policy("slow", slow).policy("lifted", lifted).start();
    let report = daemon.client.get("/doctor").ok();
    let line = report["lines"].as_array().into_iter().flatten().find(|line| line["check"] == "disk rate");
    let line = line.unwrap_or_else(|| panic!("the doctor says nothing of it: {report:#}"));
    assert_eq!(line["status"] == "ok", features::has("io"), "{line}");
    let project = daemon.project_of("slow");
    if line["status"] != "ok" {
        let problem = project.call(&json!({ "command": "true" })).json();
        assert_eq!(problem["code"], "layer_unavailable", "{problem}");
        let told = problem["error"].as_str().unwrap_or_default();
        assert!(told.contains(line["found"].as_str().expect("a text")), "{line}\n{problem}");
        assert_eq!(daemon.project_of("lifted").ok("echo ran"), "ran\n");
        return;
    }
    // The first second's worth may be had at once.
    for (how, command) in [
        ("written past the cache", "dd if=/dev/zero of=a bs=256k count=16 oflag=direct"),
        ("written back", "dd if=/dev/zero of=b bs=256k count=16 conv=fsync"),
        ("read past the cache", "dd if=a of=/dev/null bs=256k iflag=direct"),
    ] {
        let result = project.run(command);
        assert_eq!(result.exit_code, Some(0), "{how}: {result:?}");
        assert!(result.duration_ms > 2500.0, "4 MiB {how} in {} ms", result.duration_ms);
    }
    let limits = group_says(&project, "io.max");
    assert!(limits.len() == 1 && limits[0].contains("rbps=1048576 wbps=1048576"), "{limits:?}");
    // The project as a whole has the highest limit of its policies, or none.
    assert_eq!(project.ok_with(&json!({ "command": "echo ran", "policy": "lifted" })), "ran\n");
    assert_eq!(group_says(&project, "io.max"), [""]);
}

/// What the kernel says of the project's group, for each tree that has the file.
fn group_says(project: &Project, file: &str) -> Vec<String> {
    let groups = host::cgroups(std::slice::from_ref(&project.id)).into_iter();
    let own = groups.filter(|dir| dir.ends_with(&project.id));
    own.filter_map(|dir| Some(std::fs::read_to_string(dir.join(file)).ok()?.trim().to_owned())).collect()
}

#[test]
fn who_computes_for_long_lets_others_go_first() {
    require!("cgroup");
    let daemon = Daemon::shared();
    let (busy, brief) = (daemon.project(), daemon.project());
    brief.ok("true");
    let run = busy.start(&json!({"command": "while :; do :; done", "timeout_ms": 60_000}));
    let says = |value: &str| host::eventually(Duration::from_secs(20), || group_says(&busy, "cpu.idle") == [value]);
    if group_says(&busy, "cpu.idle").is_empty() {
        println!("skipped, this kernel has no idle groups");
        return;
    }
    assert!(says("1"), "a busy loop stays in front: {:?}", group_says(&busy, "cpu.idle"));
    brief.ok("true");
    assert_eq!(group_says(&brief, "cpu.idle"), ["0"]);
    // Its own next command is not to pay for it.
    busy.client.delete(&busy.path(&format!("/runs/{run}")));
    assert!(says("0"), "it never comes back: {:?}", group_says(&busy, "cpu.idle"));
}

/// Commands that take all they can get, until they are told to stop.
fn hostile(project: &Project, command: &str, stop: &AtomicBool) -> Vec<RunResult> {
    let mut results = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        results.push(project.run_with(&json!({"command": command, "timeout_ms": 4000})));
    }
    results
}

/// The time that at least 99 of 100 calls of `true` take.
fn p99_of_true(project: &Project, calls: usize) -> Duration {
    let mut times: Vec<Duration> = (0..calls)
        .map(|_| {
            let started = Instant::now();
            project.ok("true");
            let elapsed = started.elapsed();
            std::thread::sleep(Duration::from_millis(5));
            elapsed
        })
        .collect();
    times.sort_unstable();
    times[(calls * 99).div_ceil(100) - 1]
}

#[test]
fn neighbours_stay_responsive() {
    require!("cgroup");
    let daemon = Options::default().policy("small", SMALL).start();
    let quiet = daemon.project();
    quiet.ok("true");
    for (name, attack) in [
        ("fork bomb", "bomb() { bomb | bomb & }; bomb; wait; sleep 10"),
        ("processor", "for n in 1 2 3 4; do (while :; do :; done) & done; wait"),
        ("memory", "while :; do head -c 500000000 /dev/zero | tail | wc -c; done"),
        ("output", "yes & yes >&2"),
        ("files", "while :; do for i in 1 2 3 4 5 6 7 8 9; do head -c 2000000 /dev/zero > $i; done; rm -f [0-9]; done"),
    ] {
        let stop = AtomicBool::new(false);
        let attackers: Vec<Project> = (0..2).map(|_| daemon.project_of("small")).collect();
        let mut best = Duration::MAX;
        std::thread::scope(|scope| {
            for attacker in &attackers {
                scope.spawn(|| hostile(attacker, attack, &stop));
            }
            std::thread::sleep(Duration::from_millis(500));
            // The promise is about a host of its own; other tests share this one, so it has three chances.
            for _ in 0..3 {
                best = best.min(p99_of_true(&quiet, 100));
                if best <= Duration::from_millis(100) {
                    break;
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(best <= Duration::from_millis(100), "while another project attacks ({name}): p99 {best:?}");
    }
}

#[test]
fn commands_go_first_when_memory_runs_out() {
    let daemon = Daemon::start();
    let project = daemon.project();
    let lower = "import os
seen = [int(open('/proc/self/oom_score_adj').read())]
try: open('/proc/self/oom_score_adj', 'w').write('0')
except OSError as error: seen.append(error.errno)
print(seen)";
    let read = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("it is alive");
        text.trim().parse::<i32>().expect("a number")
    };
    let inside = project.ok("cat /proc/self/oom_score_adj").trim().parse::<i32>().expect("a number");
    let ours: Vec<u32> = daemon.keepers().into_iter().chain([daemon.pid]).collect();
    assert!(ours.len() >= 2, "{ours:?}");
    for pid in ours {
        assert!(
            read(pid) + 500 <= inside,
            "{}: {} is killed before a command with {inside}",
            host::comm(pid),
            read(pid)
        );
    }
    require!("python3");
    assert_eq!(project.python_ok(lower).trim(), format!("[{inside}, {}]", nix::libc::EACCES));
}

#[test]
fn a_thousand_processes_are_killed_at_once() {
    require!("cgroup");
    let project = Daemon::shared().project_of("node-build");
    let marker = host::marker();
    let command = format!("i=0; while [ $i -lt 900 ]; do sleep {marker} & i=$((i+1)); done; echo ready; wait");
    let run = project.start(&json!({ "command": command }));
    assert!(project.events(&run, sandbox_tests::events::NDJSON, 0).any(|event| event.name == "stdout"));
    let started = Instant::now();
    project.client.delete(&project.path(&format!("/runs/{run}")));
    let result = project.wait(&run, Duration::from_secs(5) * host::patience());
    // A deadline's grace is part of it: first SIGTERM, then SIGKILL.
    assert!(started.elapsed() < Duration::from_secs(3) * host::patience(), "{:?}", started.elapsed());
    assert_eq!(result.status, RunState::Cancelled);
    host::assert_gone(&marker);
}
