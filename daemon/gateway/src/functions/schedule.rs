//! Functions that are due by the clock.
//!
//! Once a minute every live function whose schedule is due is called with a POST; a minute that was
//! missed is not made up for, and a call that is still running does not hold the next one back.

use super::{Live, Request};
use crate::gateway::Gateway;
use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use croner::Cron;
use std::str::FromStr;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const MINUTE_MS: i64 = 60_000;

/// Whether a schedule of five fields is due in this minute. One that cannot be read never is.
pub(super) fn is_due(schedule: &str, minute: DateTime<Utc>) -> bool {
    Cron::from_str(schedule).is_ok_and(|cron| cron.is_time_matching(&minute).unwrap_or(false))
}

impl Gateway {
    /// Calls what is due until `shutdown`.
    pub(crate) async fn keep_schedules(&self, shutdown: CancellationToken) {
        if self.config().functions.is_none() {
            return;
        }
        loop {
            let now = Utc::now().timestamp_millis();
            let next = (now / MINUTE_MS + 1) * MINUTE_MS;
            let pause = Duration::from_millis(u64::try_from(next - now).unwrap_or(0));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let Some(minute) = DateTime::from_timestamp_millis(next) else { continue };
            self.call_due(minute).await;
        }
    }

    /// Starts a call of every function that is due.
    pub(crate) async fn call_due(&self, minute: DateTime<Utc>) {
        let found = self.blocking(move |gateway| {
            let mut due = Vec::new();
            for project in gateway.store().projects()? {
                let Some(release) = gateway.store().live_release(&project.id)? else { continue };
                for (name, function) in release.manifest.functions.clone() {
                    if function.schedule.clone().flatten().is_some_and(|schedule| is_due(&schedule, minute)) {
                        due.push(Live { project: project.id.clone(), name, function });
                    }
                }
            }
            Ok(due)
        });
        let due = match found.await {
            Ok(due) => due,
            Err(error) => return tracing::error!(?error, "schedules cannot be read"),
        };
        for live in due {
            let gateway = self.clone();
            self.tasks().spawn(async move {
                let url = format!("{}/functions/v1/{}", gateway.base(), live.name);
                let name = live.name.clone();
                let request = Request { method: "POST".to_owned(), url, headers: HeaderMap::new(), body: Vec::new() };
                if let Err(error) = gateway.invoke(live, request).await {
                    tracing::warn!(function = name, ?error, "a scheduled call failed");
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_due_in_its_minutes_only() {
        let at = |text: &str| DateTime::parse_from_rfc3339(text).expect("a time").to_utc();
        assert!(
            is_due("*/5 * * * *", at("2026-01-01T10:05:00Z")) && !is_due("*/5 * * * *", at("2026-01-01T10:06:00Z"))
        );
        assert!(is_due("0 3 * * 1", at("2026-01-05T03:00:00Z")) && !is_due("0 3 * * 1", at("2026-01-06T03:00:00Z")));
        assert!(!is_due("nonsense", at("2026-01-01T00:00:00Z")) && !is_due("61 * * * *", at("2026-01-01T00:00:00Z")));
    }
}
