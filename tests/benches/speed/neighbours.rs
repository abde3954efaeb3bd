//! One project's short commands, and the daemon's own answers, while five others take all that they can get.

use crate::Effort;
use crate::contenders::Contenders;
use crate::table::{Row, Target, Times, spread};
use sandbox_tests::{Options, Project};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Ten of the victim's commands a second.
const PACE: Duration = Duration::from_millis(100);
/// Between two questions whether the daemon is well.
const HEALTH_PACE: Duration = Duration::from_millis(50);

/// Small limits: what is tested is who suffers, not how much there is.
const HOSTILE: &str =
    "name = 'hostile'\nextends = 'default'\n[limits]\nmemory = '256MiB'\npids = 256\ndisk = '64MiB'\ntmp = '64MiB'\n";

/// A fork bomb, a memory hog, a disk filler, two that compute; each in a project of its own.
const ATTACKS: [&str; 5] = [
    "bomb() { bomb | bomb & }; bomb; wait; sleep 10",
    "while :; do head -c 500000000 /dev/zero | tail | wc -c; done",
    "while :; do for i in 1 2 3 4 5 6 7 8 9; do head -c 20000000 /dev/zero > $i; done; rm -f [0-9]; done",
    "while :; do :; done & while :; do :; done",
    "while :; do :; done & while :; do :; done",
];

pub(crate) fn hostile(_: &Contenders<'_>, effort: Effort) -> Vec<Row> {
    let daemon = Options::default().policy("hostile", HOSTILE).start();
    let victim = daemon.project();
    victim.ok("true");
    let attackers: Vec<Project> = ATTACKS.iter().map(|_| daemon.project_of("hostile")).collect();
    let stop = AtomicBool::new(false);
    let (mut errors, mut times, mut health) = (0, Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        for (attacker, attack) in attackers.iter().zip(ATTACKS) {
            scope.spawn(|| until_stopped(attacker, attack, &stop));
        }
        std::thread::sleep(Duration::from_millis(500));
        let asking = scope.spawn(|| {
            let ask = || assert_eq!(daemon.client.get("/healthz").status, 200);
            every(HEALTH_PACE, Duration::from_secs(effort.neighbour_seconds), ask)
        });
        times = every(PACE, Duration::from_secs(effort.neighbour_seconds), || {
            let reply = victim.call(&json!({ "command": "true" }));
            if reply.status != 200 || reply.json()["exit_code"] != 0 {
                eprintln!("an error beside the neighbours: {} {}", reply.status, reply.text());
                errors += 1;
            }
        });
        health = asking.join().expect("the daemon is well");
        stop.store(true, Ordering::Relaxed);
    });
    let (times, health) = (Times::new(times), Times::new(health));
    let slowest = health.percentile(100);
    let within = |time: Option<Duration>, limit: u64| time.is_some_and(|time| time <= Duration::from_millis(limit));
    vec![
        Row::alone(
            "`true`, ten a second, beside a fork bomb, a memory hog, a disk filler and two times two busy loops",
            format!("{}, {errors} errors", spread(&times)),
            Some(Target { text: "p99 ≤ 100 ms, no error", met: errors == 0 && within(times.percentile(99), 100) }),
        ),
        Row::alone(
            "`/healthz` meanwhile",
            format!("{}, at most {} ms", spread(&health), slowest.unwrap_or_default().as_millis()),
            Some(Target { text: "always ≤ 50 ms", met: within(slowest, 50) }),
        ),
    ]
}

/// Again and again, whatever becomes of it.
fn until_stopped(attacker: &Project, attack: &str, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        attacker.call(&json!({ "command": attack, "timeout_ms": 4000 }));
    }
}

/// How long each of them took; the next one begins when it is due, or when the one before has ended.
fn every(pace: Duration, whole: Duration, mut act: impl FnMut()) -> Vec<Duration> {
    let began = Instant::now();
    let mut times = Vec::new();
    while began.elapsed() < whole {
        let started = Instant::now();
        act();
        times.push(started.elapsed());
        std::thread::sleep(pace.saturating_sub(started.elapsed()));
    }
    times
}
