//! Functions that are due by the clock.
//!
//! Once a minute every live function whose schedule is due is called with a POST; a minute that was
//! missed is not made up for, and a call that is still running does not hold the next one back.

use super::{Live, Request};
use crate::gateway::Gateway;
use axum::http::HeaderMap;
use croner::Weekday;
use croner::parser::{CronParser, Seconds, Year};
use std::time::Duration;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

const MINUTE_MS: i64 = 60_000;
/// Later than this into its minute, a minute has been missed.
const LATE_MS: i64 = 30_000;

/// Whether a schedule of five fields is due in the minute of this time, in UTC. One that cannot be read
/// never is.
pub(super) fn is_due(schedule: &str, at: OffsetDateTime) -> bool {
    // The parser knows more than five fields promise, such as `@daily`.
    if schedule.split_ascii_whitespace().count() != 5 {
        return false;
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let Ok(cron) = parser.parse(schedule) else { return false };
    let (year, month, day) = (at.year(), u32::from(u8::from(at.month())), u32::from(at.day()));
    let weekday = Weekday::from_days_from_sunday(u32::from(at.weekday().number_days_from_sunday()));
    let pattern = &cron.pattern;
    // Errors are about numbers that no date has.
    pattern.minute_match(u32::from(at.minute())).unwrap_or(false)
        && pattern.hour_match(u32::from(at.hour())).unwrap_or(false)
        && pattern.month_match(month).unwrap_or(false)
        && pattern.day_match(year, month, day, weekday).unwrap_or(false)
}

fn now_ms() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

impl Gateway {
    /// Calls what is due until `shutdown`.
    pub(crate) async fn keep_schedules(&self, shutdown: CancellationToken) {
        if self.config().functions.is_none() {
            return;
        }
        loop {
            let now = now_ms();
            let next = (now / MINUTE_MS + 1) * MINUTE_MS;
            let pause = Duration::from_millis(u64::try_from(next - now).unwrap_or(0));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            // The host has slept, or its clock was set.
            if !(0..LATE_MS).contains(&(now_ms() - next)) {
                continue;
            }
            let Ok(minute) = OffsetDateTime::from_unix_timestamp(next / 1000) else { continue };
            self.call_due(minute).await;
        }
    }

    /// Starts a call of every function that is due.
    pub(crate) async fn call_due(&self, minute: OffsetDateTime) {
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
        let at =
            |text: &str| OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).expect("a time");
        assert!(
            is_due("*/5 * * * *", at("2026-01-01T10:05:00Z")) && !is_due("*/5 * * * *", at("2026-01-01T10:06:00Z"))
        );
        assert!(is_due("0 3 * * 1", at("2026-01-05T03:00:00Z")) && !is_due("0 3 * * 1", at("2026-01-06T03:00:00Z")));
        assert!(!is_due("@daily", at("2026-01-01T00:00:00Z")) && !is_due("61 * * * *", at("2026-01-01T00:00:00Z")));
    }
}
