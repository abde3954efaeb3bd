//! What went wrong, in the words of the gateway.
//!
//! Input: an answer that is not 2xx, a broken connection, or a rule of ours that was not met. Output: one
//! `Error` that keeps everything the gateway said (code, status, whether a retry is safe, what to do next)
//! and sorts it into a `Kind`. Knows no endpoint.

use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt;
use std::ops::{Deref, DerefMut};

/// Which family an error is of. Only `code` tells errors of one family apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// 402: the gateway wants money.
    PaymentRequired,
    /// 403: the caller has to sign in more strongly.
    StepUpRequired,
    /// 403: the caller may not do this, or the project is not theirs.
    NotAuthorized,
    /// 403: a person has to approve.
    OperatorApprovalRequired,
    /// 401, or a 403 without a reason of its own.
    Unauthorized,
    /// 409: the project is being handed over.
    TransferFreeze,
    /// Any other answer that is not 2xx.
    ApiError,
    /// There was no answer, or only a part of it.
    NetworkError,
    /// Refused before anything was sent.
    LocalError,
    /// A deploy was refused or failed.
    DeployError,
}

/// May the same call be made again?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// Nothing was changed, or doing it twice is doing it once.
    Safe,
    /// With the same idempotency key only: it may have been done already.
    WithSameKey,
    /// It would fail again, or do something a second time.
    Never,
}

/// What a deploy's error says beyond the envelope.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DeployFacts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan_id: Option<String>,
    /// `{action, path?, …}`: what would make it work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<bool>,
    /// How often the deploy was tried, once it was tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_retry_code: Option<String>,
}

/// An error of the client or of the gateway: a [`Report`], kept apart so that results stay small.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Error(Box<Report>);

impl Deref for Error {
    type Target = Report;

    fn deref(&self) -> &Report {
        &self.0
    }
}

impl DerefMut for Error {
    fn deref_mut(&mut self) -> &mut Report {
        &mut self.0
    }
}

/// Everything that is known of an error.
#[derive(Debug, Serialize)]
pub struct Report {
    pub kind: Kind,
    /// The only thing to branch on.
    pub code: String,
    pub message: String,
    pub category: String,
    /// What the client was doing, such as `planning the deploy`.
    pub context: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    pub retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safe_to_retry: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mutation_state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub details: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub next_actions: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deploy: Option<Box<DeployFacts>>,
    /// The whole envelope, unknown fields and all.
    #[serde(skip)]
    pub body: Value,
    /// `retryable` as the gateway wrote it, when it did.
    #[serde(skip)]
    explicit_retryable: Option<bool>,
    #[serde(skip)]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.context.is_empty() {
            write!(f, " while {}", self.context)?;
        }
        match self.status {
            Some(status) if !matches!(self.kind, Kind::PaymentRequired | Kind::StepUpRequired) => {
                write!(f, " (HTTP {status})")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as &(dyn std::error::Error + 'static))
    }
}

/// `invalid_token`, not a sentence.
fn is_code(word: &str) -> bool {
    word.contains('_') && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// The text of a member of an object.
fn text(object: &Map<String, Value>, name: &str) -> Option<String> {
    object.get(name).and_then(Value::as_str).map(str::to_owned)
}

impl Error {
    fn bare(kind: Kind, code: &str, category: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Report {
            kind,
            code: code.to_owned(),
            message: message.into(),
            category: category.to_owned(),
            context: String::new(),
            status: None,
            retryable: false,
            safe_to_retry: None,
            mutation_state: None,
            trace_id: None,
            request_id: None,
            hint: None,
            details: Value::Null,
            next_actions: Vec::new(),
            deploy: None,
            body: Value::Null,
            explicit_retryable: None,
            source: None,
        }))
    }

    /// A rule of ours was not met; nothing was sent.
    pub fn local(code: &str, message: impl Into<String>) -> Self {
        Self::bare(Kind::LocalError, code, "local", message)
    }

    /// Nothing came back, or only a part.
    pub fn network(message: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        let mut error = Self::bare(Kind::NetworkError, "NETWORK_ERROR", "network", message);
        error.retryable = true;
        error.source = Some(Box::new(source));
        error
    }

    /// An answer that is not 2xx. `body` is its JSON, or its text, or null.
    pub fn answered(status: u16, body: Value) -> Self {
        let empty = Map::new();
        let fields = body.as_object().unwrap_or(&empty);
        let given = text(fields, "code").unwrap_or_default();
        let (kind, code, category) = match (status, given.as_str()) {
            (402, _) => (Kind::PaymentRequired, "PAYMENT_REQUIRED", "payment_required"),
            (403, "STEP_UP_REQUIRED") => (Kind::StepUpRequired, "STEP_UP_REQUIRED", "auth"),
            (403, "NOT_AUTHORIZED") => (Kind::NotAuthorized, "NOT_AUTHORIZED", "auth"),
            (403, "WRITE_AUTH_REQUIRED" | "WRITE_AUTH_BINDING_MISMATCH" | "WRITE_AUTH_SESSION_INVALID") => {
                (Kind::OperatorApprovalRequired, "WRITE_AUTH_REQUIRED", "auth")
            }
            (401 | 403, _) => (Kind::Unauthorized, "UNAUTHORIZED", "auth"),
            (409, "PROJECT_HAS_PENDING_TRANSFER") => (Kind::TransferFreeze, "PROJECT_HAS_PENDING_TRANSFER", "api"),
            _ => (Kind::ApiError, "API_ERROR", "api"),
        };
        let mut error = Self::bare(kind, code, category, "");
        error.status = Some(status);
        error.read_envelope(fields);
        if error.message.is_empty() {
            error.message = match body.as_str().map(str::trim) {
                Some(said) if !said.is_empty() => said.chars().take(200).collect(),
                _ => format!("the gateway answered {status}"),
            };
        }
        error.retryable = error.explicit_retryable.unwrap_or(matches!(status, 408 | 425 | 429 | 500..=599));
        if error.code == "AUTH_REQUIRED" && error.next_actions.is_empty() {
            error.next_actions.push(serde_json::json!({"type": "authenticate"}));
        }
        error.body = body;
        error
    }

    /// A deploy's rule that was not met here, before or between requests.
    pub fn deploy(code: &str, phase: &str, resource: &str, message: impl Into<String>) -> Self {
        let mut error = Self::bare(Kind::DeployError, code, "deploy", message);
        error.deploy = Some(Box::new(DeployFacts {
            phase: Some(phase.to_owned()),
            resource: Some(resource.to_owned()),
            ..DeployFacts::default()
        }));
        error
    }

    /// The error object within an operation or an answer to a commit.
    pub fn of_operation(body: &Value) -> Self {
        let mut error = Self::bare(Kind::DeployError, "INTERNAL_ERROR", "deploy", "the deploy failed");
        if let Some(fields) = body.as_object() {
            error.read_envelope(fields);
            error.retryable = error.explicit_retryable.unwrap_or(false);
        }
        error.read_deploy_facts(body);
        error.body = body.clone();
        error
    }

    /// The same error as one of a deploy. What has a class of its own (payment, rights, no network) keeps it.
    pub fn into_deploy(mut self) -> Self {
        if self.kind != Kind::ApiError && self.kind != Kind::TransferFreeze {
            return self;
        }
        self.kind = Kind::DeployError;
        if self.category == "api" {
            self.category = "deploy".to_owned();
        }
        if self.code == "API_ERROR" {
            self.code = "INTERNAL_ERROR".to_owned();
            self.retryable = self.status.is_some_and(|status| status >= 500);
        }
        let body = std::mem::take(&mut self.body);
        self.read_deploy_facts(&body);
        self.body = body;
        self
    }

    fn read_envelope(&mut self, fields: &Map<String, Value>) {
        // Some answers have the envelope within `error`.
        if let Some(Value::Object(inner)) = fields.get("error") {
            self.read_envelope(inner);
        }
        // OAuth's answers (RFC 6749, section 5.2) have the code in `error`.
        let word = text(fields, "error").filter(|word| is_code(word));
        if let Some(code) = text(fields, "code").or(word) {
            self.code = code;
        }
        let said = ["message", "error_description", "error"].into_iter().find_map(|name| text(fields, name));
        if let Some(message) = said {
            self.message = message;
        }
        if let Some(category) = text(fields, "category") {
            self.category = category;
        }
        if let Some(retryable) = fields.get("retryable").and_then(Value::as_bool) {
            self.explicit_retryable = Some(retryable);
        }
        self.safe_to_retry = fields.get("safe_to_retry").and_then(Value::as_bool).or(self.safe_to_retry);
        self.mutation_state = text(fields, "mutation_state").or(self.mutation_state.take());
        self.trace_id = text(fields, "trace_id").or(self.trace_id.take());
        self.request_id = text(fields, "request_id").or(self.request_id.take());
        self.hint = text(fields, "hint").or(self.hint.take());
        if let Some(details) = fields.get("details") {
            self.details = details.clone();
        }
        if let Some(Value::Array(actions)) = fields.get("next_actions") {
            self.next_actions.clone_from(actions);
        }
    }

    fn read_deploy_facts(&mut self, body: &Value) {
        let sources = [body.get("error").unwrap_or(&Value::Null), body, body.get("details").unwrap_or(&Value::Null)];
        let find = |name: &str| sources.iter().find_map(|source| source.get(name).filter(|value| !value.is_null()));
        let words = |name: &str| find(name).and_then(Value::as_str).map(str::to_owned);
        let facts = DeployFacts {
            phase: words("phase"),
            resource: words("resource"),
            operation_id: words("operation_id"),
            plan_id: words("plan_id"),
            fix: find("fix").cloned(),
            logs: find("logs").and_then(Value::as_array).cloned().unwrap_or_default(),
            rolled_back: find("rolled_back").and_then(Value::as_bool),
            ..DeployFacts::default()
        };
        self.code = self.code.to_uppercase();
        self.deploy = Some(Box::new(facts));
    }

    /// Says what the client was doing; the first to say it is right.
    #[must_use]
    pub fn context(mut self, context: impl Into<String>) -> Self {
        if self.context.is_empty() {
            self.context = context.into();
        }
        self
    }

    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    #[must_use]
    pub fn with_fix(mut self, fix: Value) -> Self {
        self.facts().fix = Some(fix);
        self
    }

    /// The facts of a deploy, made when there are none.
    pub fn facts(&mut self) -> &mut DeployFacts {
        self.deploy.get_or_insert_default()
    }

    /// Whether making the same call again could end differently.
    pub fn is_retryable(&self) -> bool {
        match self.explicit_retryable {
            Some(explicit) => explicit,
            None => self.retryable,
        }
    }

    /// Whether the same call may be made again.
    pub fn retry(&self) -> Retry {
        match (self.safe_to_retry, self.mutation_state.as_deref(), self.is_retryable()) {
            (_, _, false) => Retry::Never,
            (Some(true), _, true) | (_, Some("none" | "not_started" | "rolled_back"), true) => Retry::Safe,
            _ => Retry::WithSameKey,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kind(status: u16, code: &str) -> Kind {
        Error::answered(status, json!({"code": code})).kind
    }

    #[test]
    fn answers_are_sorted_by_status_and_code() {
        assert_eq!(kind(402, "X"), Kind::PaymentRequired);
        assert_eq!(kind(403, "STEP_UP_REQUIRED"), Kind::StepUpRequired);
        assert_eq!(kind(403, "NOT_AUTHORIZED"), Kind::NotAuthorized);
        assert_eq!(kind(403, "WRITE_AUTH_SESSION_INVALID"), Kind::OperatorApprovalRequired);
        assert_eq!(kind(403, "QUOTA_EXCEEDED"), Kind::Unauthorized);
        assert_eq!(kind(401, "AUTH_REQUIRED"), Kind::Unauthorized);
        assert_eq!(kind(409, "PROJECT_HAS_PENDING_TRANSFER"), Kind::TransferFreeze);
        assert_eq!(kind(404, "X"), Kind::ApiError);
        assert_eq!(kind(503, "X"), Kind::ApiError);
    }

    #[test]
    fn the_envelope_is_kept_with_what_we_do_not_know() {
        let body = json!({"code": "QUOTA_EXCEEDED", "message": "too many", "retryable": false, "trace_id": "trc_1",
            "mutation_state": "none", "next_actions": [{"type": "upgrade"}], "surprise": 7});
        let error = Error::answered(403, body.clone()).context("listing");
        assert_eq!(error.to_string(), "too many while listing (HTTP 403)");
        assert_eq!((error.code.as_str(), error.trace_id.as_deref()), ("QUOTA_EXCEEDED", Some("trc_1")));
        assert_eq!((error.retry(), error.next_actions.len()), (Retry::Never, 1));
        assert_eq!(error.body, body);
    }

    #[test]
    fn a_missing_envelope_still_says_something() {
        let error = Error::answered(502, Value::String("<html>bad gateway</html>".to_owned()));
        assert_eq!(error.to_string(), "<html>bad gateway</html> (HTTP 502)");
        assert!(error.is_retryable());
        assert_eq!(error.retry(), Retry::WithSameKey);
        assert_eq!(Error::answered(404, Value::Null).to_string(), "the gateway answered 404 (HTTP 404)");
    }

    #[test]
    fn sign_in_is_offered_where_it_is_missing() {
        let error = Error::answered(401, json!({"code": "AUTH_REQUIRED"}));
        assert_eq!(error.next_actions, [json!({"type": "authenticate"})]);
    }

    #[test]
    fn deploy_errors_are_found_in_every_place() {
        let nested =
            json!({"error": {"code": "migration_failed", "message": "syntax", "phase": "migrate", "logs": ["l"]}});
        let error = Error::answered(422, nested).into_deploy();
        let facts = error.deploy.as_deref().expect("a deploy error has facts");
        assert_eq!((error.kind, error.code.as_str(), error.status), (Kind::DeployError, "MIGRATION_FAILED", Some(422)));
        assert_eq!((facts.phase.as_deref(), facts.logs.len()), (Some("migrate"), 1));
        let detailed = json!({"code": "BASE_RELEASE_CONFLICT", "safe_to_retry": true, "retryable": true,
            "details": {"phase": "apply", "operation_id": "op_1"}});
        let error = Error::answered(409, detailed).into_deploy();
        assert_eq!(error.deploy.as_deref().and_then(|facts| facts.operation_id.as_deref()), Some("op_1"));
        assert_eq!(error.retry(), Retry::Safe);
        let unknown = Error::answered(500, Value::Null).into_deploy();
        assert_eq!((unknown.code.as_str(), unknown.retryable), ("INTERNAL_ERROR", true));
    }

    #[test]
    fn rights_and_payment_keep_their_class_within_a_deploy() {
        for (status, code, kind) in [
            (402, "PAYMENT_REQUIRED", Kind::PaymentRequired),
            (403, "NOT_AUTHORIZED", Kind::NotAuthorized),
            (403, "STEP_UP_REQUIRED", Kind::StepUpRequired),
            (401, "AUTH_REQUIRED", Kind::Unauthorized),
        ] {
            assert_eq!(Error::answered(status, json!({"code": code})).into_deploy().kind, kind);
        }
    }
}
