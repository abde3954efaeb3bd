//! Ours, bare `tokio::process` and bwrap, measured in one run.
//!
//! `cargo bench -p sandbox-tests --bench speed [-- --short] [--check] [NAME…]`. Starts a daemon of its own, from
//! the release build. Prints a Markdown table of the cases named, or of all, and, with `--check`, exits
//! with 1 when a target is missed.

mod cases;
mod contenders;
mod deploys;
mod neighbours;
mod table;

use contenders::Contenders;
use sandbox_tests::Options;
use std::process::ExitCode;

/// How often things are repeated.
#[derive(Debug, Clone, Copy)]
struct Effort {
    /// Rounds of the three contenders in turns.
    rounds: usize,
    /// Commands in each of them.
    commands: usize,
    /// Seconds of each throughput measurement.
    seconds: u64,
    projects: usize,
    stream_bytes: u64,
    kills: usize,
    deploys: usize,
    /// Seconds beside hostile neighbours.
    neighbour_seconds: u64,
}

const FULL: Effort = Effort {
    rounds: 12,
    commands: 50,
    seconds: 4,
    projects: 25,
    stream_bytes: 2 << 30,
    kills: 7,
    deploys: 15,
    neighbour_seconds: 60,
};
const SHORT: Effort = Effort {
    rounds: 5,
    commands: 40,
    seconds: 2,
    projects: 8,
    stream_bytes: 1 << 29,
    kills: 3,
    deploys: 7,
    neighbour_seconds: 60,
};

/// For the two cases that need more than the default policy allows.
const LARGE: &str = "name = 'large'\nextends = 'default'\n[limits]\npids = 4096\noutput = '6GiB'\nmemory = '6GiB'\n";

type Case = fn(&Contenders<'_>, Effort) -> Vec<table::Row>;

const CASES: [(&str, Case); 12] = [
    ("back-to-back", cases::back_to_back),
    ("mcp", cases::over_mcp),
    ("gaps", cases::with_gaps),
    ("hogs", cases::with_hogs),
    ("clients", cases::sixteen_clients),
    ("first", cases::first_command),
    ("stream", cases::stream),
    ("kill", cases::kill),
    ("idle", cases::idle),
    ("neighbours", neighbours::hostile),
    ("deploy", deploys::many_files),
    ("upload", deploys::large_site),
];

fn main() -> ExitCode {
    let flag = |name: &str| std::env::args().any(|argument| argument == name);
    if !flag("--bench") {
        // Tests of all targets build it and run it; measuring is only for `cargo bench`.
        return ExitCode::SUCCESS;
    }
    let effort = if flag("--short") { SHORT } else { FULL };
    let daemon = Options::default().policy("large", LARGE).arg("--idle").arg("3s").start();
    let contenders = Contenders::new(&daemon);
    println!("{}", table::host());
    let mut results = Vec::new();
    let mut done = |rows: Vec<table::Row>| {
        for row in rows {
            eprintln!("measured: {}", row.case);
            results.push(row);
        }
    };
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for (name, case) in CASES {
        if named.is_empty() || named.iter().any(|wanted| wanted == name) {
            done(case(&contenders, effort));
        }
    }
    println!("\n{}", table::markdown(&results));
    let missed = results.iter().filter(|row| row.verdict() == Some(false)).count();
    println!("{missed} of {} targets missed.", results.iter().filter(|row| row.verdict().is_some()).count());
    if missed > 0 && flag("--check") { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
