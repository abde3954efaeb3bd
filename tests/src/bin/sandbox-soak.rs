//! `sandbox-soak [RUNS]`: so many runs on a daemon of its own, a third of them hostile; then says what has
//! grown, of the daemon and of the kernel below it. Exits with 1 when anything has. For a host that is quiet otherwise.
//!
//! The programs under test are those of `SANDBOX_BIN_DIR`, or built now.

use sandbox_tests::soak::{Holdings, family, runs};
use sandbox_tests::{Options, Project, host};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const DEFAULT_RUNS: usize = 10_000;
/// Bounded, whatever is asked for.
const MOST_RUNS: usize = 1_000_000;
const PROJECTS: usize = 3;
/// Pools, caches and allocators have their size after these.
const WARM: usize = 300;

fn main() -> ExitCode {
    let count = match std::env::args().nth(1).map(|text| text.parse::<usize>()) {
        None => DEFAULT_RUNS,
        Some(Ok(count)) if (1..=MOST_RUNS).contains(&count) => count,
        Some(_) => {
            eprintln!("sandbox-soak: how many runs? 1 to {MOST_RUNS}");
            return ExitCode::from(2);
        }
    };
    let daemon = Options::default().arg("--idle").arg("4s").start();
    let projects: Vec<Project> = (0..PROJECTS).map(|_| daemon.project()).collect();
    let marker = host::marker();
    runs(&projects, WARM, &marker);
    let before = Holdings::of(&daemon);
    println!("before: {before}");
    let started = Instant::now();
    runs(&projects, count, &marker);
    host::assert_gone(&marker);
    let after = Holdings::of(&daemon);
    println!("after {count} runs in {:.0} s: {after}", started.elapsed().as_secs_f64());
    let mut grown = after.grown_since(&before);
    grown.extend(after.host_grown_since(&before));
    // Idle keepers go, and take everything with them.
    let gone = || daemon.keepers().is_empty() && daemon.cgroups().is_empty() && family(&daemon).len() == 1;
    let is_idle = host::eventually(Duration::from_secs(30), gone);
    println!("idle: {}", Holdings::of(&daemon));
    if !is_idle {
        grown.push("what is left when idle");
    }
    match grown.is_empty() {
        true => {
            println!("nothing was left behind");
            ExitCode::SUCCESS
        }
        false => {
            println!("grown: {}", grown.join(", "));
            ExitCode::FAILURE
        }
    }
}
