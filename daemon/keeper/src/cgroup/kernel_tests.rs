//! Limits and counters tried on the running kernel, in a sub-tree of the test's own.

use super::super::{Controller, Hierarchy, read};
use super::*;
use rustix::fd::AsRawFd;
use sandbox_wire::ProjectId;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 1024 * 1024;

fn limits() -> Limits {
    Limits {
        memory_bytes: 64 * MIB,
        cpu: 1.5,
        pids: 20,
        disk_bytes: 0,
        disk_rate: None,
        tmp_bytes: 0,
        open_files: 0,
        output_bytes: 0,
        timeout_ms: 0,
        max_timeout_ms: 0,
    }
}

struct Bench {
    hierarchy: Hierarchy,
    name: String,
    project: ProjectId,
    group: Arc<ProjectGroup>,
}

impl Bench {
    /// `None`, with the reason printed, where cgroups cannot be used; a failure where
    /// `SANDBOX_REQUIRE` names them.
    fn set_up() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let hierarchy = Hierarchy::detect();
        if !hierarchy.is_complete() {
            let required = std::env::var("SANDBOX_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|name| name == "cgroup"), "cgroup is required: {:?}", hierarchy.missing());
            println!("skipped, cgroup limits are not available here: {:?}", hierarchy.missing());
            return None;
        }
        let name = format!("sandbox-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let project = ProjectId::random();
        let group = match ProjectGroup::create(&hierarchy, &name, &project, &limits(), Vec::new()) {
            Ok(group) => Arc::new(group),
            Err(error) => panic!("the hierarchy is said to be usable: {error}"),
        };
        Some(Self { hierarchy, name, project, group })
    }

    fn bases(&self) -> Vec<PathBuf> {
        self.hierarchy.sites().iter().map(|site| site.parent.join(&self.name)).collect()
    }
}

/// Runs a shell line in the leaf as an init would start it: the shell is the init.
fn run_in(leaf: &Leaf, line: &str) -> ExitStatus {
    start_in(leaf, line).wait().unwrap()
}

/// Returns once the shell is in the leaf.
fn start_in(leaf: &Leaf, line: &str) -> Child {
    // The shell writes "0" itself; it finds the files through this process's descriptors.
    let own = std::process::id();
    let files = leaf.join_fds().iter().map(|fd| format!("/proc/{own}/fd/{}", fd.as_raw_fd()));
    let mut child = Command::new("/bin/sh")
        .args(["-c", "for file; do echo 0 > $file || exit 99; done; echo; exec > /dev/null; eval \"$LINE\"", "sh"])
        .args(files)
        .env("LINE", line)
        .stderr(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    child
}

fn wait_until_empty(leaf: &Leaf) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !leaf.is_empty().unwrap() {
        assert!(Instant::now() < deadline, "still there: {:?}", leaf.pids());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn all_that_was_made_is_removed() {
    let Some(bench) = Bench::set_up() else { return };
    let pool = LeafPool::new(bench.group.clone(), &limits()).unwrap();
    pool.prepare(3).unwrap();
    let leaf = pool.take().unwrap();
    assert!(run_in(&leaf, "true").success());
    for base in bench.bases() {
        assert!(base.join(bench.project.to_string()).join("run-0").exists());
    }
    let bases = bench.bases();
    drop((leaf, pool, bench));
    for base in bases {
        assert!(!base.exists(), "{} is left", base.display());
    }
}

#[test]
fn what_a_dead_keeper_left_is_swept_and_live_leaves_are_not_touched() {
    let Some(bench) = Bench::set_up() else { return };
    let leftovers: Vec<_> =
        bench.bases().iter().map(|base| base.join(bench.project.to_string()).join("run-7")).collect();
    for dir in &leftovers {
        std::fs::create_dir(dir).unwrap();
    }
    let busy = LeafPool::new(bench.group.clone(), &limits()).unwrap().take().unwrap();
    let mut running = start_in(&busy, "sleep 1");
    let second = ProjectGroup::create(&bench.hierarchy, &bench.name, &bench.project, &limits(), Vec::new()).unwrap();
    assert!(leftovers.iter().all(|dir| !dir.exists()));
    let leaf = second.new_leaf(&limits()).unwrap();
    assert_ne!(leaf.name(), busy.name());
    assert!(busy.pids().unwrap().contains(&running.id()));
    assert!(running.wait().unwrap().success());
    wait_until_empty(&busy);
    drop((leaf, second));
    drop(busy);
    bench.group.remove().unwrap();
}

#[test]
fn a_memory_hog_is_killed_and_told_apart() {
    let Some(bench) = Bench::set_up() else { return };
    let pool = LeafPool::new(bench.group.clone(), &limits()).unwrap();
    let mut leaf = pool.take().unwrap();
    leaf.begin().unwrap();
    // tail keeps the whole of a line that never ends.
    let status = run_in(&leaf, "head -c 300000000 /dev/zero | tail -n 1; true");
    assert!(status.success(), "{status}: only the hog is killed");
    let usage = leaf.usage().unwrap();
    assert!(usage.oom_kills >= 1, "{usage:?}");
    let peak = usage.memory_peak_bytes.unwrap();
    assert!((60 * MIB..=64 * MIB).contains(&peak), "{usage:?}");

    // The next run on the same leaf sees nothing of it.
    wait_until_empty(&leaf);
    pool.give_back(leaf);
    let mut leaf = pool.take().unwrap();
    leaf.begin().unwrap();
    assert!(run_in(&leaf, "true").success());
    let usage = leaf.usage().unwrap();
    assert_eq!(usage.oom_kills, 0);
    assert!(usage.memory_peak_bytes.is_none_or(|peak| peak < 8 * MIB), "{usage:?}");
}

#[test]
fn page_cache_of_an_earlier_run_is_not_the_next_ones() {
    let Some(bench) = Bench::set_up() else { return };
    let pool = LeafPool::new(bench.group.clone(), &limits()).unwrap();
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut leaf = pool.take().unwrap();
    leaf.begin().unwrap();
    let line = format!("head -c 30000000 /dev/zero > {}/file", dir.path().display());
    assert!(run_in(&leaf, &line).success());
    assert!(leaf.usage().unwrap().memory_peak_bytes.is_none_or(|peak| peak > 25 * MIB));
    wait_until_empty(&leaf);
    pool.give_back(leaf);
    let mut leaf = pool.take().unwrap();
    leaf.begin().unwrap();
    assert!(run_in(&leaf, "true").success());
    assert!(leaf.usage().unwrap().memory_peak_bytes.is_none_or(|peak| peak < 8 * MIB), "{:?}", leaf.usage());
}

#[test]
fn processes_are_limited_and_counted_for_each_run() {
    let Some(bench) = Bench::set_up() else { return };
    let pool = LeafPool::new(bench.group.clone(), &limits()).unwrap();
    let mut leaf = pool.take().unwrap();
    leaf.begin().unwrap();
    run_in(&leaf, "i=0; while [ $i -lt 40 ]; do sleep 0.3 & i=$((i+1)); done; wait");
    let usage = leaf.usage().unwrap();
    assert!(usage.pids_limit_hits >= 1, "{usage:?}");
    assert!(usage.pids_peak.is_none_or(|peak| peak == 20), "the init has a place of its own: {usage:?}");

    wait_until_empty(&leaf);
    let first = leaf.name().to_owned();
    pool.give_back(leaf);
    let mut leaf = pool.take().unwrap();
    assert_eq!(leaf.name(), first, "leaves are used again");
    leaf.begin().unwrap();
    assert!(run_in(&leaf, "sleep 0.01 & sleep 0.01 & wait").success());
    let usage = leaf.usage().unwrap();
    assert_eq!((usage.pids_limit_hits, usage.pids_peak.unwrap_or(2)), (0, 2));
}

#[test]
fn cpu_time_is_counted_and_the_quota_holds() {
    let Some(bench) = Bench::set_up() else { return };
    let slow = Limits { cpu: 0.2, ..limits() };
    let pool = LeafPool::new(bench.group.clone(), &slow).unwrap();
    let mut leaf = pool.take().unwrap();
    leaf.begin().unwrap();
    let began = Instant::now();
    run_in(&leaf, "timeout 1 sh -c 'while :; do :; done'");
    let used = Duration::from_micros(leaf.usage().unwrap().cpu_usec.unwrap());
    // A fifth of a processor, and some slack for periods that have begun.
    assert!(
        used > Duration::from_millis(50) && used < began.elapsed().mul_f64(0.2) + Duration::from_millis(100),
        "{used:?}"
    );
}

#[test]
fn a_policy_with_higher_limits_raises_the_projects() {
    let Some(bench) = Bench::set_up() else { return };
    let high = Limits { memory_bytes: 128 * MIB, cpu: 3.0, pids: 100, ..limits() };
    let pool = LeafPool::new(bench.group.clone(), &high).unwrap();
    pool.take().unwrap();
    LeafPool::new(bench.group.clone(), &limits()).unwrap().take().unwrap();
    let site = bench.hierarchy.sites().iter().find(|site| site.controllers.contains(&Controller::Pids)).unwrap();
    let dir = site.parent.join(&bench.name).join(bench.project.to_string());
    assert_eq!(super::super::read(&dir.join("pids.max")).unwrap(), "164");
}

#[test]
fn a_leaf_that_is_still_busy_is_not_handed_out() {
    let Some(bench) = Bench::set_up() else { return };
    let pool = LeafPool::new(bench.group.clone(), &limits()).unwrap();
    let leaf = pool.take().unwrap();
    let mut running = start_in(&leaf, "exec sleep 0.5");
    assert_eq!(leaf.pids().unwrap(), [running.id()]);
    assert_eq!(bench.group.pids().len(), 1);
    let busy = leaf.name().to_owned();
    pool.give_back(leaf);
    assert_eq!(pool.draining(), 1);
    let other = pool.take().unwrap();
    assert_ne!(other.name(), busy);
    assert!(running.wait().unwrap().success());
    pool.prepare(1).unwrap();
    assert_eq!((pool.draining(), pool.take().unwrap().name() == busy), (0, true));
}

/// The hot path: what one run pays on its way. Generous, because other tests use the processors.
#[test]
fn begin_and_usage_cost_microseconds() {
    let Some(bench) = Bench::set_up() else { return };
    let pool = LeafPool::new(bench.group.clone(), &limits()).unwrap();
    let mut leaf = pool.take().unwrap();
    let began = Instant::now();
    for _ in 0..200 {
        leaf.begin().unwrap();
        leaf.usage().unwrap();
    }
    let each = began.elapsed() / 200;
    println!("begin and usage: {each:?}");
    assert!(each < Duration::from_millis(1), "{each:?}");
    let began = Instant::now();
    for _ in 0..200 {
        let leaf = pool.take().unwrap();
        pool.give_back(leaf);
    }
    println!("take and give back: {:?}", began.elapsed() / 200);
}

#[test]
fn names_that_are_no_names_are_refused() {
    for name in ["", "..", "a/b", "A"] {
        let error =
            ProjectGroup::create(&Hierarchy::detect(), name, &ProjectId::random(), &limits(), Vec::new()).unwrap_err();
        assert!(matches!(error, CgroupError::Name(_)), "{error}");
    }
}

#[test]
fn a_project_that_computes_for_long_steps_behind_and_comes_back_with_its_weight() {
    let Some(bench) = Bench::set_up() else { return };
    let Some(mut precedence) = bench.group.precedence().unwrap() else {
        println!("skipped, this kernel has no idle groups");
        return;
    };
    let pool = LeafPool::new(bench.group.clone(), &limits()).unwrap();
    let leaf = pool.take().unwrap();
    let places: Vec<_> = bench.bases().iter().map(|base| base.join(bench.project.to_string())).collect();
    let now = |file: &str| places.iter().find_map(|dir| read(&dir.join(file)).ok());
    let weight = || now("cpu.shares").or_else(|| now("cpu.weight"));
    let before = weight();

    let mut busy = start_in(&leaf, "while :; do :; done");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !precedence.is_behind() {
        assert!(Instant::now() < deadline, "a busy loop never uses its allowance up");
        std::thread::sleep(Duration::from_millis(50));
        precedence.settle().unwrap();
    }
    assert_eq!(now("cpu.idle").as_deref(), Some("1"));

    busy.kill().unwrap();
    busy.wait().unwrap();
    while precedence.is_behind() {
        assert!(Instant::now() < deadline, "a project at rest never comes back");
        std::thread::sleep(Duration::from_millis(50));
        precedence.settle().unwrap();
    }
    assert_eq!(now("cpu.idle").as_deref(), Some("0"));
    assert_eq!(weight(), before);
}
