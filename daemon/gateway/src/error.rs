//! What the gateway refuses, and how it says so: the error envelope of the API.
//!
//! The only place that knows status codes. Every answer has a trace id; what the caller must not see goes
//! to the log under the same id.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// A refusal or a failure, as the caller sees it.
#[derive(Debug)]
pub(crate) struct Refusal(Box<Envelope>);

#[derive(Debug)]
struct Envelope {
    status: StatusCode,
    code: String,
    category: &'static str,
    message: String,
    retryable: bool,
    safe_to_retry: bool,
    mutation_state: &'static str,
    details: Map<String, Value>,
    next_actions: Vec<Value>,
    fix: Option<Value>,
}

pub(crate) type Result<T> = std::result::Result<T, Refusal>;

impl Refusal {
    fn new(status: StatusCode, code: &str, category: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Envelope {
            status,
            code: code.to_owned(),
            category,
            message: message.into(),
            retryable: false,
            safe_to_retry: false,
            mutation_state: "none",
            details: Map::new(),
            next_actions: Vec::new(),
            fix: None,
        }))
    }

    pub(crate) fn bad(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, "validation", message)
    }

    /// A rule of the release that was not met.
    pub(crate) fn spec(resource: &str, message: impl Into<String>) -> Self {
        let mut refusal =
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, "INVALID_SPEC", "deploy", message).at("plan", resource);
        refusal.0.fix = Some(json!({"action": "set_field", "path": resource}));
        refusal
    }

    pub(crate) fn deploy(
        status: StatusCode,
        code: &str,
        phase: &str,
        resource: &str,
        message: impl Into<String>,
    ) -> Self {
        Self::new(status, code, "deploy", message).at(phase, resource)
    }

    pub(crate) fn other(status: StatusCode, code: &str, message: &str) -> Self {
        Self::new(status, code, "validation", message)
    }

    pub(crate) fn conflict(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, "conflict", message)
    }

    pub(crate) fn not_found(what: &str, code: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, "not_found", format!("there is no such {what}"))
    }

    pub(crate) fn not_here(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "NOT_IMPLEMENTED", "unsupported", message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", "validation", message)
    }

    /// Nobody has signed in.
    pub(crate) fn unauthenticated() -> Self {
        let mut refusal = Self::new(
            StatusCode::UNAUTHORIZED,
            "AUTH_REQUIRED",
            "auth",
            "sign in with a wallet, or send a key of the project",
        );
        refusal.0.next_actions.push(json!({"type": "authenticate", "auth": "siwx"}));
        refusal
    }

    /// Somebody has tried to sign in and did not succeed; answered as the API does, with 402.
    pub(crate) fn bad_sign_in(message: impl Into<String>) -> Self {
        let mut refusal = Self::new(StatusCode::PAYMENT_REQUIRED, "INVALID_SIGN_IN", "auth", message);
        refusal.0.next_actions.push(json!({"type": "authenticate", "auth": "siwx"}));
        refusal
    }

    /// A project of somebody else's and one that does not exist look the same.
    pub(crate) fn unknown_project() -> Self {
        let refusal =
            Self::new(StatusCode::FORBIDDEN, "NOT_AUTHORIZED", "auth", "this project is not there, or not yours");
        refusal.detail("reason", json!("project_not_found"))
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "NOT_AUTHORIZED", "auth", message).detail("reason", json!("forbidden"))
    }

    /// A bug or a broken disk: the reason goes to the log.
    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!(%error, "a request failed");
        let mut refusal = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "INTERNAL_ERROR",
            "internal",
            "the gateway failed; its log says why",
        );
        refusal.0.retryable = true;
        refusal.0.mutation_state = "unknown";
        refusal
    }

    pub(crate) fn unavailable(code: &str, message: impl Into<String>) -> Self {
        let mut refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, "capacity", message);
        refusal.0.retryable = true;
        refusal
    }

    pub(crate) fn too_many(message: impl Into<String>) -> Self {
        let mut refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_REQUESTS", "capacity", message);
        refusal.0.retryable = true;
        refusal
    }

    fn at(self, phase: &str, resource: &str) -> Self {
        self.detail("phase", json!(phase)).detail("resource", json!(resource))
    }

    pub(crate) fn detail(mut self, name: &str, value: Value) -> Self {
        self.0.details.insert(name.to_owned(), value);
        self
    }

    /// Nothing was changed: the whole may be tried again.
    pub(crate) fn retry_safe(mut self) -> Self {
        self.0.retryable = true;
        self.0.safe_to_retry = true;
        self
    }

    /// The gateway or its surroundings are at fault, not the request: the same may get through later.
    pub(crate) fn is_passing(&self) -> bool {
        self.0.status.is_server_error() && self.0.status != StatusCode::NOT_IMPLEMENTED
    }

    pub(crate) fn envelope(&self) -> Value {
        let Envelope {
            code,
            category,
            message,
            retryable,
            safe_to_retry,
            mutation_state,
            details,
            next_actions,
            fix,
            ..
        } = &*self.0;
        let mut body = json!({
            "error": message, "message": message, "code": code, "category": category, "retryable": retryable,
            "safe_to_retry": safe_to_retry, "mutation_state": mutation_state,
            "trace_id": format!("trc_{}", crate::ids::random()), "details": details, "next_actions": next_actions,
        });
        if let Some(fix) = fix {
            body["fix"] = fix.clone();
        }
        body
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0.status, Json(self.envelope())).into_response()
    }
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => {
                Self::unavailable("STORAGE_UNAVAILABLE", "the gateway's disk is full")
            }
            _ => Self::internal(error),
        }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull => Self::unavailable("STORAGE_UNAVAILABLE", "the gateway's disk is full"),
            _ => Self::internal(error),
        }
    }
}
