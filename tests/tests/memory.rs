//! Memory at its limit, where the kernel finds pages of files to give back for ever.

use sandbox_tests::{Daemon, Options, Project, require};
use sandbox_wire::RunState;
use serde_json::json;

const FULL: &str = "name = 'full'\nextends = 'default'\n[limits]\nmemory = '96MiB'\ntmp = '16MiB'\ndisk = '256MiB'\n";

fn full() -> (Daemon, Project) {
    let daemon = Options::default().policy("full", FULL).start();
    let project = daemon.project_of("full");
    (daemon, project)
}

/// Holds most of the memory, and needs more pages of a mapped file, again and again, than are left: as a program does
/// whose own code does not fit any more.
const STANDS_STILL: &str = "
import mmap, os
with open('code', 'wb') as file:
    for _ in range(64): file.write(os.urandom(1 << 20))
    os.fsync(file.fileno())
code = mmap.mmap(os.open('code', os.O_RDONLY), 64 << 20, prot=mmap.PROT_READ)
code.madvise(mmap.MADV_RANDOM)
held = bytearray(os.urandom(1 << 20)) * 76
print('full', flush=True)
while True:
    for at in range(0, 64 << 20, 4096): code[at]
";

#[test]
fn who_gets_nowhere_for_lack_of_memory_is_killed_and_named() {
    require!("cgroup", "python3");
    let (_daemon, project) = full();
    let result = project.run_with(&json!({"command": ["python3", "-c", STANDS_STILL], "timeout_ms": 120_000}));
    assert_eq!(result.stdout, "full\n", "{result:?}");
    assert_eq!((result.status, result.exit_code), (RunState::OomKilled, Some(137)), "{result:?}");
    assert!(result.oom_killed && !result.timed_out, "{result:?}");
    let named = result.denials.iter().any(|denial| denial.subject == "memory");
    assert!(named, "{:?}", result.denials);
    // Who started it lives, as when the kernel kills.
    let command = json!({"command": format!("python3 -c \"{STANDS_STILL}\"; echo went on"), "timeout_ms": 120_000});
    let result = project.run_with(&command);
    assert_eq!((result.status, result.exit_code, result.oom_killed), (RunState::Exited, Some(0), true), "{result:?}");
    assert!(result.stdout.ends_with("went on\n"), "{result:?}");
}

#[test]
fn who_reads_more_than_fits_is_let_be() {
    require!("cgroup", "python3");
    let (_daemon, project) = full();
    // As full as the other, but it gets somewhere: it reads files, and its code stays.
    let reads = "
import os, time
held = bytearray(os.urandom(1 << 20)) * 70
with open('data', 'wb') as file:
    for _ in range(64): file.write(os.urandom(1 << 20))
    os.fsync(file.fileno())
began = time.monotonic()
while time.monotonic() - began < 9:
    with open('data', 'rb', buffering=0) as file:
        while file.read(1 << 16): pass
print('done', len(held) >> 20)
";
    let result = project.run_with(&json!({"command": ["python3", "-c", reads], "timeout_ms": 120_000}));
    assert_eq!((result.status, result.stdout.as_str()), (RunState::Exited, "done 70\n"), "{result:?}");
    assert!(!result.oom_killed, "{result:?}");
}
