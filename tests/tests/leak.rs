//! After hundreds of runs, many of them hostile, nothing is left.

use sandbox_tests::soak::{Holdings, family, runs};
use sandbox_tests::{Daemon, Options, host, require};
use std::path::Path;
use std::time::Duration;

const RUNS: usize = 500;

#[test]
fn five_hundred_runs_leave_nothing() {
    let daemon = Options::default().arg("--idle").arg("4s").start();
    let marker = host::marker();
    let projects = [daemon.project(), daemon.project(), daemon.project()];
    // Warm first, in the same way: pools, caches and allocators have their size after that.
    runs(&projects, 90, &marker);
    let before = Holdings::of(&daemon);
    assert!(before.processes > 3, "{before:?}");
    runs(&projects, RUNS, &marker);
    projects.iter().for_each(|project| assert_eq!(project.ok("echo alive"), "alive\n"));
    host::assert_gone(&marker);
    std::thread::sleep(Duration::from_millis(500));
    let after = Holdings::of(&daemon);
    assert!(after.grown_since(&before).is_empty(), "{:?}: {before:?} {after:?}", after.grown_since(&before));

    // Idle keepers go, and take everything with them.
    let idle = host::eventually(Duration::from_secs(20), || daemon.keepers().is_empty() && daemon.cgroups().is_empty());
    assert!(idle, "keepers {:?}, cgroups {:?}", daemon.keepers(), daemon.cgroups());
    host::eventually(Duration::from_secs(2), || family(&daemon).len() == 1);
    let idle = Holdings::of(&daemon);
    assert_eq!((idle.processes, idle.mounts, idle.cgroups), (1, 0, 0), "{idle:?}");
    assert_eq!(projects[0].ok("echo again"), "again\n");
}

#[test]
fn a_removed_project_leaves_nothing() {
    let daemon = Daemon::start();
    let descriptors = || host::descriptors(daemon.pid).map(|fds| fds.len()).unwrap_or_default();
    daemon.project().ok("true");
    std::thread::sleep(Duration::from_millis(500));
    let before = descriptors();
    for _ in 0..15 {
        let project = daemon.project();
        project.ok("echo x > file; echo y > ~/file; echo z > /tmp/file");
        let folder = daemon.state().join("projects").join(&project.id);
        assert!(folder.exists());
        let removed = project.client.delete(&project.path(""));
        assert!((200..300).contains(&removed.status), "{}", removed.text());
        project.client.get(&project.path("")).refused(404, "project_not_found");
        let gone = host::eventually(Duration::from_secs(5), || !folder.exists());
        assert!(gone, "the folder of a removed project is still there");
    }
    let settled =
        host::eventually(Duration::from_secs(5), || daemon.keepers().is_empty() && daemon.cgroups().is_empty());
    assert!(settled, "{:?} {:?}", daemon.keepers(), daemon.cgroups());
    let settled = host::eventually(Duration::from_secs(5), || descriptors() <= before + 4);
    assert!(settled, "{before} descriptors became {}", descriptors());
}

#[test]
fn an_idle_project_costs_little_and_then_nothing() {
    require!("root");
    let daemon = Options::default().arg("--idle").arg("2s").start();
    let project = daemon.project();
    project.ok("true");
    std::thread::sleep(Duration::from_millis(700));
    let keepers = daemon.keepers();
    assert_eq!(keepers.len(), 1);
    let mut family = host::family(keepers[0]);
    family.extend(daemon.inside());
    family.sort_unstable();
    family.dedup();
    let kib: u64 = family.iter().filter_map(|pid| host::pss_kib(*pid)).sum();
    // The promise is for programs that are built for use; others carry their tests' weight.
    let limit = if cfg!(debug_assertions) { 40 << 10 } else { 4 << 10 };
    assert!(kib > 0 && kib <= limit, "{kib} KiB in {} processes", family.len());
    let gone = host::eventually(Duration::from_secs(10), || daemon.keepers().is_empty());
    assert!(gone, "the keeper stays after its idle time");
    let gone = host::eventually(Duration::from_secs(2), || {
        family.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    });
    assert!(gone, "something of it stays");
    assert_eq!(project.ok("echo back"), "back\n");
}
