//! Making a planned release live, and waiting until it is.
//!
//! Input: the id of a plan, or of an operation that is under way. Output: [`Released`], or the error that
//! the operation ended with.

use super::content::encoded;
use super::event::{Event, Observer, PhaseStatus, SliceKind};
use super::plan::RequiredPlan;
use crate::client::{Auth, Client};
use crate::error::Error;
use serde::Serialize;
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::time::Instant;

/// Pages of recorded events that are read at the end.
const MAX_EVENT_PAGES: usize = 10;

/// How an operation is watched.
#[derive(Debug, Clone)]
pub struct Polling {
    pub interval: Duration,
    /// From then on the interval grows, each time by half.
    pub steady: Duration,
    pub longest_interval: Duration,
    pub give_up: Duration,
    /// Passes the gateway's own record of the operation on.
    pub relay_events: bool,
}

impl Default for Polling {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            steady: Duration::from_secs(30),
            longest_interval: Duration::from_secs(30),
            give_up: Duration::from_secs(600),
            relay_events: true,
        }
    }
}

/// What a deploy made live.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Released {
    pub release_id: String,
    pub operation_id: String,
    pub urls: Map<String, Value>,
    pub diff: Value,
    pub warnings: Vec<Value>,
}

impl Released {
    /// Where the site is.
    pub fn url(&self) -> Option<&str> {
        ["project", "site"].iter().find_map(|name| self.urls.get(*name).and_then(Value::as_str))
    }

    pub fn deployment_id(&self) -> &str {
        self.urls.get("deployment_id").and_then(Value::as_str).unwrap_or(&self.release_id)
    }
}

#[derive(Serialize)]
struct CommitRequest<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    required_plan: Option<&'a RequiredPlan>,
}

/// One deploy's way from its plan to its end.
pub(crate) struct Operation<'a> {
    pub(crate) client: &'a Client,
    /// Whose key reads the operation, when it is known.
    pub(crate) project: Option<&'a str>,
    pub(crate) polling: &'a Polling,
    pub(crate) observer: &'a dyn Observer,
    pub(crate) slices: &'a [SliceKind],
}

impl Operation<'_> {
    pub(crate) async fn commit(
        &self,
        plan_id: &str,
        idempotency_key: Option<&str>,
        required_plan: Option<&RequiredPlan>,
    ) -> Result<(String, String, Map<String, Value>), Error> {
        self.phase("validate", PhaseStatus::Started);
        let path = format!("/apply/v1/plans/{}/commit", encoded(plan_id));
        let body = CommitRequest { idempotency_key, required_plan };
        let reply = self.client.post(path, Auth::Wallet).json(&body)?.send("committing the deploy").await;
        let answer = reply.map_err(Error::into_deploy)?.value();
        self.follow(answer).await
    }

    /// Runs an interrupted operation on from where it stopped.
    pub(crate) async fn resume(&self, operation_id: &str) -> Result<(String, String, Map<String, Value>), Error> {
        let path = format!("/apply/v1/operations/{}/resume", encoded(operation_id));
        let reply = self.client.post(path, Auth::Wallet).send("resuming the deploy").await;
        let answer = reply.map_err(Error::into_deploy)?.value();
        self.follow(answer).await
    }

    async fn follow(&self, answer: Value) -> Result<(String, String, Map<String, Value>), Error> {
        let operation_id = text(&answer, "operation_id").ok_or_else(|| internal("the gateway named no operation"))?;
        let mut relay = Relay { last: None, on: self.polling.relay_events };
        let ready = match text(&answer, "status").as_deref() {
            Some("ready") => answer,
            Some("failed") => return Err(failure(&answer, &operation_id)),
            _ => self.poll(&operation_id, &mut relay).await?,
        };
        self.relay_rest(&operation_id, &mut relay).await;
        let release_id = text(&ready, "release_id");
        let urls = ready.get("urls").and_then(Value::as_object).cloned();
        let (Some(release_id), Some(urls)) = (release_id, urls) else {
            return Err(internal("the gateway calls the deploy ready, but names no release or no URLs"));
        };
        let slice_kinds = self.slices.to_vec();
        self.observer.observe(Event::Ready { release_id: release_id.clone(), urls: urls.clone(), slice_kinds });
        Ok((operation_id, release_id, urls))
    }

    async fn poll(&self, operation_id: &str, relay: &mut Relay) -> Result<Value, Error> {
        let began = Instant::now();
        let mut interval = self.polling.interval;
        let mut open: Option<&'static str> = None;
        let path = format!("/apply/v1/operations/{}", encoded(operation_id));
        loop {
            let auth = match self.project {
                Some(project) => Auth::Anon(project),
                None => Auth::Wallet,
            };
            let reply = self.client.get(path.clone(), auth).send("reading the deploy's state").await;
            let snapshot = reply.map_err(|error| with_operation(error.into_deploy(), operation_id))?.value();
            self.relay(operation_id, relay).await;
            let status = text(&snapshot, "status").unwrap_or_default();
            self.follow_phase(&status, &mut open);
            match status.as_str() {
                "ready" => return Ok(snapshot),
                "failed" | "rolled_back" | "needs_repair" => return Err(failure(&snapshot, operation_id)),
                "activation_pending" if is_static(snapshot.get("error")) => {
                    let mut error = failure(&snapshot, operation_id);
                    error.facts().phase = Some("activate".to_owned());
                    return Err(error);
                }
                _ => {}
            }
            if began.elapsed() >= self.polling.give_up {
                let mut error = internal(format!("the deploy is still {status} after {:?}", self.polling.give_up));
                error.retryable = true;
                error.status = Some(504);
                error.facts().phase = Some(status);
                return Err(with_operation(error, operation_id));
            }
            tokio::time::sleep(interval).await;
            if began.elapsed() >= self.polling.steady {
                interval = interval.mul_f64(1.5).min(self.polling.longest_interval);
            }
        }
    }

    /// Opens and closes phases as the status moves on.
    fn follow_phase(&self, status: &str, open: &mut Option<&'static str>) {
        let phase = match status {
            "staging" => Some("stage"),
            "gating" => Some("migrate-gate"),
            "migrating" => Some("migrate"),
            "schema_settling" => Some("schema-settle"),
            "activating" | "activation_pending" => Some("activate"),
            _ => None,
        };
        let failed = matches!(status, "failed" | "rolled_back" | "needs_repair");
        if status == "activation_pending" {
            *open = None;
            return self.phase("activate", PhaseStatus::Failed);
        }
        if phase.is_none() && status != "ready" && !failed || phase.is_some() && phase == *open {
            return;
        }
        if let Some(before) = open.take() {
            self.phase(before, if failed { PhaseStatus::Failed } else { PhaseStatus::Done });
        }
        if let Some(phase) = phase {
            self.phase(phase, PhaseStatus::Started);
            *open = Some(phase);
        }
    }

    fn phase(&self, phase: &str, status: PhaseStatus) {
        let slice_kinds = self.slices.to_vec();
        self.observer.observe(Event::CommitPhase { phase: phase.to_owned(), status, slice_kinds });
    }

    /// The next page of the gateway's record. Whatever goes wrong with it turns it off: it is only news.
    async fn relay(&self, operation_id: &str, relay: &mut Relay) -> bool {
        if !relay.on {
            return false;
        }
        let mut path = format!("/apply/v1/operations/{}/events?limit=100", encoded(operation_id));
        if let Some(last) = &relay.last {
            path.push_str(&format!("&cursor={last}"));
        }
        let auth = match self.project {
            Some(project) => Auth::Anon(project),
            None => Auth::Wallet,
        };
        let Ok(reply) = self.client.get(path, auth).send("reading the deploy's events").await else {
            relay.on = false;
            return false;
        };
        let page = reply.value();
        for event in page.get("events").and_then(Value::as_array).into_iter().flatten() {
            let id = event.get("id").or_else(|| event.get("event_id"));
            if id.is_some_and(|id| id == "synthetic") {
                continue;
            }
            if let Some(number) = id.and_then(|id| id.as_u64().or_else(|| id.as_str()?.parse().ok())) {
                relay.last = Some(number);
            }
            self.observer.observe(Event::Recorded { event: event.clone() });
        }
        page.get("cursor").is_some_and(|cursor| !cursor.is_null() && cursor != "")
    }

    async fn relay_rest(&self, operation_id: &str, relay: &mut Relay) {
        for _ in 0..MAX_EVENT_PAGES {
            let before = relay.last;
            // A page that brings nothing new would bring it forever.
            if !self.relay(operation_id, relay).await || relay.last == before {
                return;
            }
        }
    }
}

/// How far the gateway's record was read.
struct Relay {
    last: Option<u64>,
    on: bool,
}

fn text(value: &Value, name: &str) -> Option<String> {
    value.get(name).and_then(Value::as_str).map(str::to_owned)
}

fn internal(message: impl Into<String>) -> Error {
    Error::deploy("INTERNAL_ERROR", "commit", "operation", message)
}

fn with_operation(mut error: Error, operation_id: &str) -> Error {
    error.facts().operation_id.get_or_insert_with(|| operation_id.to_owned());
    error
}

fn failure(snapshot: &Value, operation_id: &str) -> Error {
    let error = match snapshot.get("error").filter(|error| error.is_object()) {
        Some(error) => Error::of_operation(error),
        None => {
            let status = text(snapshot, "status").unwrap_or_else(|| "failed".to_owned());
            internal(format!("the deploy ended as {status} without saying why"))
        }
    };
    with_operation(error, operation_id)
}

/// Trying to activate again would fail again.
fn is_static(error: Option<&Value>) -> bool {
    const CODES: [&str; 10] = [
        "BAD_FIELD",
        "INVALID_SPEC",
        "FUNCTION_ACTIVATE_FAILED",
        "FUNCTION_CONFIG_INVALID",
        "FUNCTION_TIMEOUT_EXCEEDS_TIER",
        "FUNCTION_MEMORY_EXCEEDS_TIER",
        "FUNCTION_SCHEDULE_EXCEEDS_TIER",
        "FUNCTION_SCHEDULE_INTERVAL_TOO_SHORT",
        "FUNCTION_SCHEDULE_LIMIT_EXCEEDED",
        "TIER_LIMIT_EXCEEDED",
    ];
    error.is_some_and(|error| {
        error.get("retryable") == Some(&Value::Bool(false))
            || error.get("safe_to_retry") == Some(&Value::Bool(false))
            || error.get("code").and_then(Value::as_str).is_some_and(|code| CODES.contains(&code))
    })
}
