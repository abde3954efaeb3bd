//! Times become percentiles, percentiles become a table.

use std::fmt::Write;
use std::time::Duration;

/// Sorted times.
#[derive(Debug, Clone)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// The time that so many per cent do not exceed; none without times.
    pub(crate) fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied()
    }

    pub(crate) fn median(&self) -> Option<Duration> {
        self.percentile(50)
    }
}

/// A measured figure against the figure that was promised.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) case: &'static str,
    pub(crate) ours: String,
    pub(crate) bare: String,
    pub(crate) bwrap: String,
    /// What the target is about, such as `1.32 × bare`.
    pub(crate) figure: String,
    pub(crate) target: Option<Target>,
}

impl Row {
    /// Of a case that has one figure and nobody to be compared with.
    pub(crate) fn alone(case: &'static str, figure: String, target: Option<Target>) -> Self {
        let none = || "–".to_owned();
        Self { case, ours: figure.clone(), bare: none(), bwrap: none(), figure, target }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) text: &'static str,
    pub(crate) met: bool,
}

impl Row {
    pub(crate) fn verdict(&self) -> Option<bool> {
        self.target.as_ref().map(|target| target.met)
    }
}

/// `p50 / p90 / p99` in milliseconds.
pub(crate) fn spread(times: &Times) -> String {
    match (times.median(), times.percentile(90), times.percentile(99)) {
        (Some(p50), Some(p90), Some(p99)) => format!("{} / {} / {}", ms(p50), ms(p90), ms(p99)),
        _ => "–".to_owned(),
    }
}

pub(crate) fn ms(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}

/// How many times as long `a` is as `b`.
pub(crate) fn ratio(a: Option<Duration>, b: Option<Duration>) -> Option<f64> {
    Some(a?.as_secs_f64() / b?.as_secs_f64())
}

pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "Times in ms: p50 / p90 / p99.\n\n\
         | case | sandboxd | bare | bwrap | figure | target | |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let (target, verdict) = match &row.target {
            Some(target) => (target.text, if target.met { "ok" } else { "MISSED" }),
            None => ("", ""),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {target} | {verdict} |",
            row.case, row.ours, row.bare, row.bwrap, row.figure
        );
    }
    text
}

/// What it was measured on.
pub(crate) fn host() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    format!("{cores} cores, Linux {}, load {load} before the start.", read("/proc/sys/kernel/osrelease"))
}
