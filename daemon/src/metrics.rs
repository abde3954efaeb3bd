//! Counters of this process, as Prometheus text (exposition format 0.0.4).

use sandbox_wire::RunState;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The final states, in the order of [`Metrics::finished`].
const STATES: [(RunState, &str); 6] = [
    (RunState::Exited, "exited"),
    (RunState::Signaled, "signaled"),
    (RunState::TimedOut, "timed_out"),
    (RunState::OomKilled, "oom_killed"),
    (RunState::Cancelled, "cancelled"),
    (RunState::Lost, "lost"),
];

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    started: AtomicU64,
    finished: [AtomicU64; STATES.len()],
    run_microseconds: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) keepers_started: AtomicU64,
    pub(crate) keepers_failed: AtomicU64,
    /// Responses by hundreds of their status: 1xx to 5xx.
    responses: [AtomicU64; 5],
    pub(crate) connections_open: AtomicU64,
    pub(crate) connections_accepted: AtomicU64,
}

impl Metrics {
    pub(crate) fn run_started(&self) {
        self.started.fetch_add(1, Relaxed);
    }

    pub(crate) fn run_finished(&self, state: RunState, duration_ms: f64) {
        if let Some(at) = STATES.iter().position(|(known, _)| *known == state) {
            self.finished[at].fetch_add(1, Relaxed);
        }
        // Negative or huge durations cannot come from a keeper; the cast saturates for them.
        self.run_microseconds.fetch_add((duration_ms * 1000.0) as u64, Relaxed);
    }

    pub(crate) fn response(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.responses[class].fetch_add(1, Relaxed);
    }

    /// All counters; the gauges come from whoever owns the numbers.
    pub(crate) fn text(&self, active_runs: usize, projects: usize) -> String {
        let mut text = String::with_capacity(2048);
        let head = |name: &str, kind: &str, help: &str| {
            format!("# HELP sandboxd_{name} {help}\n# TYPE sandboxd_{name} {kind}\n")
        };
        let mut one = |name: &str, kind: &str, help: &str, value: u64| {
            text.push_str(&head(name, kind, help));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "sandboxd_{name} {value}");
        };
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        one("runs_started_total", "counter", "Runs that were handed to a keeper.", read(&self.started));
        one("runs_refused_total", "counter", "Runs that a policy or the capacity refused.", read(&self.refused));
        one("runs_active", "gauge", "Runs that have not ended.", active_runs as u64);
        one("projects", "gauge", "Projects.", projects as u64);
        one("keepers_started_total", "counter", "Keepers that were started.", read(&self.keepers_started));
        one("keepers_failed_total", "counter", "Keepers that did not start.", read(&self.keepers_failed));
        one("connections_open", "gauge", "Open connections.", read(&self.connections_open));
        one("connections_accepted_total", "counter", "Accepted connections.", read(&self.connections_accepted));
        text.push_str(&head("runs_finished_total", "counter", "Runs that ended, by how."));
        for ((_, name), counter) in STATES.iter().zip(&self.finished) {
            let _ = writeln!(text, "sandboxd_runs_finished_total{{status=\"{name}\"}} {}", read(counter));
        }
        text.push_str(&head("run_seconds_total", "counter", "Time for which ended runs ran."));
        let _ = writeln!(text, "sandboxd_run_seconds_total {}", read(&self.run_microseconds) as f64 / 1e6);
        text.push_str(&head("http_responses_total", "counter", "Responses, by class of status."));
        for (at, counter) in self.responses.iter().enumerate() {
            let _ = writeln!(text, "sandboxd_http_responses_total{{class=\"{}xx\"}} {}", at + 1, read(counter));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_has_a_type_and_counts() {
        let metrics = Metrics::default();
        metrics.run_started();
        metrics.run_finished(RunState::TimedOut, 1500.0);
        metrics.response(204);
        metrics.response(999);
        let text = metrics.text(3, 2);
        for line in [
            "sandboxd_runs_started_total 1",
            "sandboxd_runs_active 3",
            "sandboxd_runs_finished_total{status=\"timed_out\"} 1",
            "sandboxd_run_seconds_total 1.5",
            "sandboxd_http_responses_total{class=\"2xx\"} 1",
            "sandboxd_http_responses_total{class=\"5xx\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        for sample in text.lines().filter(|line| !line.starts_with('#')) {
            let name = sample.split(['{', ' ']).next().expect("a name");
            assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
        }
    }
}
