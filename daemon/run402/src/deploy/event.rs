//! What a deploy tells while it goes on, in the order in which it happens.

use super::digest::Digest;
use serde::Serialize;
use serde_json::{Map, Value};

/// Whose content is uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SliceKind {
    /// Assets, by their keys.
    Asset,
    /// A site, a function or a migration and assets share the bytes.
    Mixed,
    /// A site, a function or a migration.
    Release,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseStatus {
    Started,
    Done,
    Failed,
}

/// One step. Serialised with the names and fields that other clients of the API use.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type")]
pub enum Event {
    #[serde(rename = "plan.started")]
    PlanStarted {},
    #[serde(rename = "plan.diff")]
    PlanDiff { diff: Value },
    #[serde(rename = "plan.warnings")]
    PlanWarnings { warnings: Vec<Value> },
    #[serde(rename = "payment.required")]
    PaymentRequired {
        #[serde(flatten)]
        terms: Map<String, Value>,
    },
    #[serde(rename = "content.upload.skipped")]
    UploadSkipped {
        label: String,
        sha256: Digest,
        reason: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        slice_kind: Option<SliceKind>,
    },
    #[serde(rename = "content.upload.progress")]
    UploadProgress {
        label: String,
        sha256: Digest,
        done: usize,
        total: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        slice_kind: Option<SliceKind>,
    },
    #[serde(rename = "commit.phase")]
    CommitPhase {
        phase: String,
        status: PhaseStatus,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        slice_kinds: Vec<SliceKind>,
    },
    /// The gateway's own record of the operation.
    #[serde(rename = "recorded")]
    Recorded { event: Value },
    #[serde(rename = "ready", rename_all = "camelCase")]
    Ready {
        release_id: String,
        urls: Map<String, Value>,
        #[serde(rename = "slice_kinds", skip_serializing_if = "Vec::is_empty")]
        slice_kinds: Vec<SliceKind>,
    },
    #[serde(rename = "deploy.retry", rename_all = "camelCase")]
    Retry {
        attempt: u32,
        next_attempt: u32,
        max_attempts: u32,
        delay_ms: u64,
        code: String,
        phase: Option<String>,
        resource: Option<String>,
        operation_id: Option<String>,
        plan_id: Option<String>,
        message: String,
    },
}

/// Hears of every event at once; must not block.
pub trait Observer: Send + Sync {
    fn observe(&self, event: Event);

    /// `count` more bytes of contents were sent.
    fn sent(&self, count: u64) {
        // Who shows no progress needs no count.
        let _ = count;
    }
}

/// Hears nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {
    fn observe(&self, _: Event) {}
}
