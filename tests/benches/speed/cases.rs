//! What is measured, each case for all contenders in turns, and its target.

use crate::Effort;
use crate::contenders::{Contenders, Ours, bare, bwrap};
use crate::table::{Row, Target, Times, ms, ratio, spread};
use sandbox_tests::events::NDJSON;
use sandbox_tests::host;
use serde_json::json;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between commands where a case has pauses.
const GAP: Duration = Duration::from_millis(20);
/// As often as the prototype was measured with busy neighbours.
const SHORT_GAP: Duration = Duration::from_millis(3);
const CLIENTS: usize = 16;

fn target(text: &'static str, figure: Option<f64>, met: impl Fn(f64) -> bool) -> Option<Target> {
    Some(Target { text, met: figure.is_some_and(met) })
}

fn times(of: Option<f64>, what: &str) -> String {
    of.map_or("–".to_owned(), |factor| format!("{factor:.2} × {what}"))
}

/// Times of the three, measured in blocks that take turns.
struct Measured {
    ours: Times,
    bare: Times,
    bwrap: Times,
}

/// A block of one contender after the other, so that our re-arming weighs on nobody else's time.
fn in_turns(contenders: &Contenders<'_>, effort: Effort, gap: Duration) -> Measured {
    let project = contenders.daemon.project();
    let mut client = Ours::new(&project);
    let (mut ours, mut bare, mut bwrap) = (Vec::new(), Vec::new(), Vec::new());
    let block = |count: usize, into: &mut Vec<Duration>, run: &mut dyn FnMut() -> Duration| {
        // The first two of each block warm caches up that the contender before has emptied.
        for number in 0..count + 2 {
            std::thread::sleep(gap);
            let time = run();
            if number >= 2 {
                into.push(time);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    for _ in 0..effort.rounds {
        block(effort.commands, &mut bare, &mut || contenders.bare());
        block(effort.commands, &mut ours, &mut || client.run());
        if contenders.has_bwrap {
            block(effort.commands / 4, &mut bwrap, &mut || contenders.bwrap());
        }
    }
    Measured { ours: Times::new(ours), bare: Times::new(bare), bwrap: Times::new(bwrap) }
}

pub(crate) fn back_to_back(contenders: &Contenders<'_>, effort: Effort) -> Vec<Row> {
    let measured = in_turns(contenders, effort, Duration::ZERO);
    let to_bare = ratio(measured.ours.median(), measured.bare.median());
    let to_bwrap = ratio(measured.bwrap.median(), measured.ours.median());
    let tail = ratio(measured.ours.percentile(99), measured.ours.median());
    let row = |case, figure, target| Row {
        case,
        ours: String::new(),
        bare: String::new(),
        bwrap: String::new(),
        figure,
        target,
    };
    vec![
        Row {
            ours: spread(&measured.ours),
            bare: spread(&measured.bare),
            bwrap: spread(&measured.bwrap),
            ..row(
                "`sh -c 'echo hi'`, warm, back to back",
                times(to_bare, "bare"),
                target("≤ 1.5 × bare", to_bare, |factor| factor <= 1.5),
            )
        },
        row(
            "— against bwrap",
            to_bwrap.map_or("–".to_owned(), |factor| format!("{factor:.2} × faster")),
            if contenders.has_bwrap { target("≥ 3.5 × faster", to_bwrap, |factor| factor >= 3.5) } else { None },
        ),
        row("— its slowest", times(tail, "p50 at p99"), target("≤ 3 × p50", tail, |factor| factor <= 3.0)),
    ]
}

/// Over MCP and over plain HTTP, in turns.
pub(crate) fn over_mcp(contenders: &Contenders<'_>, effort: Effort) -> Vec<Row> {
    let project = contenders.daemon.project();
    let (mut plain, mut mcp) = (Ours::new(&project), Ours::over_mcp(&project));
    let (mut plain_times, mut mcp_times) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        for (client, into) in [(&mut plain, &mut plain_times), (&mut mcp, &mut mcp_times)] {
            for number in 0..effort.commands + 2 {
                let time = client.run();
                if number >= 2 {
                    into.push(time);
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let (plain, mcp) = (Times::new(plain_times), Times::new(mcp_times));
    let more = mcp.median().zip(plain.median()).map(|(mcp, plain)| mcp.as_secs_f64() - plain.as_secs_f64());
    let figure = more.map_or("–".to_owned(), |more| format!("{:+.2} ms to HTTP ({})", more * 1e3, spread(&plain)));
    let met = target("at most 1 ms more than HTTP", more, |more| more <= 1e-3);
    vec![Row {
        ours: spread(&mcp),
        ..Row::alone("the same as the MCP tool `run_command`, without a session", figure, met)
    }]
}

pub(crate) fn with_gaps(contenders: &Contenders<'_>, effort: Effort) -> Vec<Row> {
    let effort = Effort { rounds: effort.rounds.div_ceil(2), commands: effort.commands.min(40), ..effort };
    let measured = in_turns(contenders, effort, GAP);
    let to_bare = ratio(measured.ours.median(), measured.bare.median());
    vec![Row {
        case: "the same, every 20 ms",
        ours: spread(&measured.ours),
        bare: spread(&measured.bare),
        bwrap: spread(&measured.bwrap),
        figure: times(to_bare, "bare"),
        target: target("≤ 1.3 × bare", to_bare, |factor| factor <= 1.3),
    }]
}

pub(crate) fn with_hogs(contenders: &Contenders<'_>, effort: Effort) -> Vec<Row> {
    let project = contenders.daemon.project();
    let mut client = Ours::new(&project);
    let count = effort.rounds * effort.commands / 2;
    let measure = |run: &mut dyn FnMut() -> Duration| {
        let run_one = |_| {
            std::thread::sleep(SHORT_GAP);
            run()
        };
        Times::new((0..count).map(run_one).collect())
    };
    measure(&mut || client.run());
    let quiet = measure(&mut || client.run());
    let neighbour = contenders.daemon.project();
    let hogs = neighbour.start(&json!({"command": "while :; do :; done & while :; do :; done", "timeout_ms": 300_000}));
    std::thread::sleep(Duration::from_millis(500));
    let busy = measure(&mut || client.run());
    let bare = measure(&mut || contenders.bare());
    neighbour.client.delete(&neighbour.path(&format!("/runs/{hogs}")));
    let factor = ratio(busy.percentile(90), quiet.median());
    vec![Row {
        case: "the same, while another project uses two cores",
        ours: format!("{} (quiet: {})", spread(&busy), spread(&quiet)),
        bare: spread(&bare),
        bwrap: "–".to_owned(),
        figure: times(factor, "quiet p50 at p90"),
        target: target("≤ 2 × the quiet p50", factor, |factor| factor <= 2.0),
    }]
}

pub(crate) fn sixteen_clients(contenders: &Contenders<'_>, effort: Effort) -> Vec<Row> {
    let project = contenders.daemon.project();
    let time = Duration::from_secs(effort.seconds);
    let mut best = [0.0_f64; 3];
    for _ in 0..2 {
        best[1] = best[1].max(contenders.runtime.block_on(rate_of(time, bare)));
        best[0] = best[0].max(our_rate(&project, time));
        if contenders.has_bwrap {
            best[2] = best[2].max(contenders.runtime.block_on(rate_of(time, bwrap)));
        }
    }
    let [ours, bare, bwrap] = best;
    let show = |rate: f64| if rate > 0.0 { format!("{rate:.0}/s") } else { "–".to_owned() };
    vec![Row {
        case: "commands per second, 16 clients",
        ours: show(ours),
        bare: show(bare),
        bwrap: show(bwrap),
        figure: times(Some(ours / bare), "bare"),
        target: target("≥ 0.5 × bare", Some(ours / bare), |factor| factor >= 0.5),
    }]
}

/// Commands per second of sixteen tasks.
async fn rate_of<F, R>(time: Duration, run: F) -> f64
where
    F: Fn() -> R + Copy + Send + 'static,
    R: Future<Output = std::io::Result<()>> + Send,
{
    let started = Instant::now();
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|_| {
            tokio::spawn(async move {
                let mut count = 0_u64;
                while started.elapsed() < time {
                    run().await.expect("it has run before");
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += task.await.expect("no task panics");
    }
    count as f64 / started.elapsed().as_secs_f64()
}

fn our_rate(project: &sandbox_tests::Project, time: Duration) -> f64 {
    let (count, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut clients: Vec<Ours> = (0..CLIENTS).map(|_| Ours::new(project)).collect();
    clients[0].run();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    client.run();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
    });
    count.into_inner() as f64 / started.elapsed().as_secs_f64()
}

pub(crate) fn first_command(contenders: &Contenders<'_>, effort: Effort) -> Vec<Row> {
    let (mut first, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..effort.projects {
        let project = contenders.daemon.project();
        let mut client = Ours::new(&project);
        std::thread::sleep(Duration::from_millis(100));
        bare.push(contenders.bare());
        first.push(client.run());
    }
    let (first, bare) = (Times::new(first), Times::new(bare));
    let median = first.median().unwrap_or(Duration::MAX);
    vec![Row {
        case: "first command of a new project",
        ours: spread(&first),
        bare: spread(&bare),
        bwrap: "–".to_owned(),
        figure: format!("{} ms, {}", ms(median), times(ratio(first.median(), bare.median()), "bare")),
        target: target("≤ 4 × bare + start of the keeper, ≤ 25 ms", Some(median.as_secs_f64()), |time| {
            time <= 0.025
        }),
    }]
}

pub(crate) fn stream(contenders: &Contenders<'_>, effort: Effort) -> Vec<Row> {
    let mut rates = Vec::new();
    for _ in 0..3 {
        let project = contenders.daemon.project_of("large");
        project.ok("true");
        let started = Instant::now();
        let run = project.start(&json!({"command": format!("head -c {} /dev/zero", effort.stream_bytes)}));
        let path = project.path(&format!("/runs/{run}/output?stream=stdout&follow=true"));
        let mut answer = project.client.open("GET", &path, &[], &[]).expect("the daemon answers");
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0_u64;
        while let Ok(read @ 1..) = answer.read(&mut buffer) {
            bytes += read as u64;
        }
        let seconds = started.elapsed().as_secs_f64();
        assert_eq!(bytes, effort.stream_bytes, "the reader got everything");
        rates.push(bytes as f64 / seconds / 1e6);
    }
    rates.sort_unstable_by(f64::total_cmp);
    let median = rates[rates.len() / 2];
    vec![Row {
        case: "one stream of output, journal on",
        ours: format!("{median:.0} MB/s"),
        bare: "–".to_owned(),
        bwrap: "–".to_owned(),
        figure: format!("{median:.0} MB/s"),
        target: target("≥ 500 MB/s", Some(median), |rate| rate >= 500.0),
    }]
}

pub(crate) fn kill(contenders: &Contenders<'_>, effort: Effort) -> Vec<Row> {
    let project = contenders.daemon.project_of("large");
    let mut killed = Vec::new();
    for _ in 0..effort.kills {
        let marker = host::marker();
        let command = format!("i=0; while [ $i -lt 1000 ]; do sleep {marker} & i=$((i+1)); done; echo ready; wait");
        let run = project.start(&json!({ "command": command }));
        let mut events = project.events(&run, NDJSON, 0);
        events.until("stdout");
        // One that is being executed has no arguments for a moment.
        let all = host::eventually(Duration::from_secs(5), || host::processes_with(&marker).len() >= 1000);
        assert!(all, "all of them run");
        let started = Instant::now();
        project.client.delete(&project.path(&format!("/runs/{run}"))).ok();
        events.until("result");
        killed.push(started.elapsed());
        assert_eq!(host::processes_with(&marker).len(), 0, "none of them runs");
    }
    let killed = Times::new(killed);
    let median = killed.median().unwrap_or(Duration::MAX);
    vec![Row {
        case: "killing 1,000 processes",
        ours: spread(&killed),
        bare: "–".to_owned(),
        bwrap: "–".to_owned(),
        figure: format!("{} ms", ms(median)),
        target: target("≤ 250 ms", Some(median.as_secs_f64()), |time| time <= 0.25),
    }]
}

pub(crate) fn idle(contenders: &Contenders<'_>, _: Effort) -> Vec<Row> {
    // Keepers of the cases before this one have to be gone, or they would be counted.
    let alone = host::eventually(Duration::from_secs(20), || contenders.daemon.keepers().is_empty());
    let project = contenders.daemon.project();
    project.ok("true");
    std::thread::sleep(Duration::from_millis(800));
    let mut family: Vec<u32> = contenders.daemon.keepers().into_iter().flat_map(host::family).collect();
    family.extend(contenders.daemon.inside());
    family.sort_unstable();
    family.dedup();
    let kib: u64 = family.iter().filter_map(|pid| host::pss_kib(*pid)).sum();
    let gone = host::eventually(Duration::from_secs(10), || {
        family.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
    });
    let mib = kib as f64 / 1024.0;
    vec![
        Row::alone(
            "memory of a project at rest",
            format!("{mib:.1} MiB in {} processes", family.len()),
            target("≤ 4 MB", Some(mib), |mib| mib > 0.0 && mib * 1.048_576 <= 4.0),
        ),
        Row::alone(
            "after its idle time",
            if gone && alone { "no process".to_owned() } else { "processes are left".to_owned() },
            target("no process", Some(0.0), |_| gone && alone),
        ),
    ]
}
