//! Deploys from CI: bindings that let a workflow in, and the exchange of its identity token for a session.
//!
//! A wallet's owner signs a delegation once, with a client that knows its text; here it is handed on, never
//! made. A job then swaps the token that its runner gives it (OpenID Connect) for a short bearer (RFC 8693).

use super::{Rest, query};
use crate::client::{Auth, Client, Secret};
use crate::deploy::encoded;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

/// The only provider there is.
const PROVIDER: &str = "github-actions";
const MAX_SUBJECT: usize = 256;
const MAX_DELEGATION: usize = 8192;
const MAX_ROUTE_SCOPES: usize = 100;
const MAX_ROUTE_SCOPE_BYTES: usize = 256;

/// Whom the gateway expects identity tokens to be for, unless it is told otherwise.
pub const AUDIENCE: &str = "https://api.run402.com";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
/// A session is not used in its last minute: the deploy it begins has to end within it.
const MARGIN: Duration = Duration::from_secs(60);

/// A binding to be made.
#[derive(Debug, Clone, Default)]
pub struct NewBinding {
    pub project_id: String,
    /// Which workflows; a `*` at the end stands for any rest.
    pub subject_match: String,
    pub allowed_actions: BTreeSet<String>,
    pub allowed_events: BTreeSet<String>,
    pub route_scopes: BTreeSet<String>,
    pub github_repository_id: Option<String>,
    pub expires_at: Option<String>,
    pub nonce: String,
    pub signed_delegation: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Binding {
    pub id: String,
    pub project_id: String,
    #[serde(default)]
    pub subject_match: Option<String>,
    #[serde(default)]
    pub allowed_events: Vec<String>,
    #[serde(default)]
    pub revoked_at: Option<String>,
    #[serde(flatten)]
    pub rest: Rest,
}

fn invalid(field: &str, rule: impl fmt::Display) -> Error {
    Error::local("LOCAL_ERROR", format!("{field}: {rule}"))
}

/// What the gateway would refuse, said before anything is sent.
fn check(binding: &NewBinding) -> Result<(), Error> {
    let subject = &binding.subject_match;
    let length = subject.chars().count();
    if length == 0 || length > MAX_SUBJECT || subject.chars().any(char::is_control) {
        return Err(invalid(
            "subject_match",
            format!("1 to {MAX_SUBJECT} characters, none of them control characters"),
        ));
    }
    let before = subject.strip_suffix('*').unwrap_or(subject);
    if before.is_empty() || before.contains('*') {
        return Err(invalid("subject_match", "at most one *, as the last character, and not alone"));
    }
    if binding.allowed_actions.iter().map(String::as_str).ne(["deploy"]) {
        return Err(invalid("allowed_actions", "exactly [\"deploy\"]"));
    }
    if binding.allowed_events.is_empty() {
        return Err(invalid("allowed_events", "at least one, push for example"));
    }
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if !(16..=64).contains(&binding.nonce.len()) || !binding.nonce.chars().all(is_hex) {
        return Err(invalid("nonce", "16 to 64 lower-case hexadecimal digits"));
    }
    if binding.signed_delegation.is_empty() || binding.signed_delegation.len() > MAX_DELEGATION {
        return Err(invalid("signed_delegation", format!("1 to {MAX_DELEGATION} bytes")));
    }
    check_route_scopes(&binding.route_scopes)
}

fn check_route_scopes(scopes: &BTreeSet<String>) -> Result<(), Error> {
    if scopes.len() > MAX_ROUTE_SCOPES {
        return Err(invalid("route_scopes", format!("at most {MAX_ROUTE_SCOPES}")));
    }
    let mut seen = BTreeSet::new();
    for scope in scopes {
        let wrong = |rule: &str| Err(invalid("route_scopes", format!("{}: {rule}", scope.escape_debug())));
        if !scope.starts_with('/') || scope.len() > MAX_ROUTE_SCOPE_BYTES || scope.contains('?') {
            return wrong("starts with /, has at most 256 bytes and no ?");
        }
        if scope.chars().any(char::is_control) || !is_percent_encoded(scope) {
            return wrong("percent signs are followed by two hexadecimal digits, and there are no control characters");
        }
        let path = match scope.strip_suffix("/*") {
            Some(path) if path.len() < 2 => return wrong("a wildcard has a segment before it"),
            Some(path) => path,
            None => scope,
        };
        if path.contains('*') {
            return wrong("a wildcard is the whole last segment");
        }
        let bare = if path == scope { scope.trim_end_matches('/') } else { scope.as_str() };
        if !seen.insert(bare.to_owned()) {
            return wrong("is there twice");
        }
    }
    Ok(())
}

fn is_percent_encoded(text: &str) -> bool {
    text.split('%').skip(1).all(|after| after.len() >= 2 && after.bytes().take(2).all(|byte| byte.is_ascii_hexdigit()))
}

pub async fn create_binding(client: &Client, binding: &NewBinding) -> Result<Binding, Error> {
    check(binding)?;
    let mut body = json!({
        "project_id": binding.project_id,
        "provider": PROVIDER,
        "subject_match": binding.subject_match,
        "allowed_actions": binding.allowed_actions,
        "allowed_events": binding.allowed_events,
        "github_repository_id": binding.github_repository_id,
        "expires_at": binding.expires_at,
        "nonce": binding.nonce,
        "signed_delegation": binding.signed_delegation,
    });
    if !binding.route_scopes.is_empty() {
        body["route_scopes"] = json!(binding.route_scopes);
    }
    client.post("/ci/v1/bindings", Auth::Wallet).json(&body)?.receive("binding the workflow").await
}

pub async fn list_bindings(client: &Client, project: &str) -> Result<Vec<Binding>, Error> {
    #[derive(Deserialize)]
    struct Page {
        bindings: Vec<Binding>,
    }
    let path = format!("/ci/v1/bindings{}", query(&[("project", Some(project.to_owned()))]));
    let page: Page = client.get(path, Auth::Wallet).receive("listing bindings").await?;
    Ok(page.bindings)
}

pub async fn get_binding(client: &Client, id: &str) -> Result<Binding, Error> {
    client.get(format!("/ci/v1/bindings/{}", encoded(id)), Auth::Wallet).receive("reading the binding").await
}

pub async fn revoke_binding(client: &Client, id: &str) -> Result<Value, Error> {
    let path = format!("/ci/v1/bindings/{}/revoke", encoded(id));
    Ok(client.post(path, Auth::Wallet).send("revoking the binding").await?.value())
}

/// Where a job asks its runner for an identity token.
#[derive(Debug, Clone)]
pub struct Runner {
    url: url::Url,
    token: Secret,
}

impl Runner {
    /// From `ACTIONS_ID_TOKEN_REQUEST_URL` and `ACTIONS_ID_TOKEN_REQUEST_TOKEN`; `None` outside of such a job.
    pub fn from_variables(look_up: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Result<Option<Self>, Error> {
        let text =
            |name: &str| look_up(name).and_then(|value| value.into_string().ok()).filter(|text| !text.is_empty());
        let (Some(url), Some(token)) = (text("ACTIONS_ID_TOKEN_REQUEST_URL"), text("ACTIONS_ID_TOKEN_REQUEST_TOKEN"))
        else {
            return Ok(None);
        };
        let url = url::Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| invalid("ACTIONS_ID_TOKEN_REQUEST_URL", "is not a URL"))?;
        Ok(Some(Self { url, token: Secret::new(token) }))
    }

    /// The identity token of this job, for one audience.
    async fn identity(&self, audience: &str) -> Result<Secret, Error> {
        #[derive(Deserialize)]
        struct Answer {
            value: String,
        }
        let mut url = self.url.clone();
        let kept: Vec<(String, String)> =
            url.query_pairs().filter(|(name, _)| name != "audience").map(|(a, b)| (a.into(), b.into())).collect();
        url.query_pairs_mut().clear().extend_pairs(kept).append_pair("audience", audience);
        let failed = |what: String| {
            let message = format!("the runner gave no identity token: {what}");
            Error::local("CI_IDENTITY_UNAVAILABLE", message)
                .with_fix(json!({"action": "grant the job the permission id-token: write"}))
        };
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30));
        let http = http.build().map_err(|error| failed(error.without_url().to_string()))?;
        let answer = http.get(url).bearer_auth(self.token.reveal()).send().await;
        let answer = answer.and_then(reqwest::Response::error_for_status);
        let answer = answer.map_err(|error| failed(crate::client::why(&error.without_url())))?;
        let body = crate::client::read(answer, 1 << 20).await?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| failed("its answer has no value".to_owned()))?;
        Ok(Secret::new(answer.value))
    }
}

/// A bearer for deploys into one project, and until when it is good.
#[derive(Debug, Clone)]
pub struct Session {
    pub bearer: Secret,
    pub scope: Option<String>,
    until: Instant,
}

impl Session {
    /// Whether a deploy may begin with it.
    pub fn is_fresh(&self) -> bool {
        Instant::now() < self.until
    }
}

/// Swaps this job's identity for a session. `client` needs no identity of its own.
pub async fn sign_in(client: &Client, runner: &Runner, audience: &str, project: &str) -> Result<Session, Error> {
    #[derive(Deserialize)]
    struct Answer {
        access_token: String,
        expires_in: u64,
        #[serde(default)]
        scope: Option<String>,
    }
    let began = Instant::now();
    let identity = runner.identity(audience).await?;
    let body = json!({"grant_type": TOKEN_EXCHANGE, "subject_token": identity.reveal(),
        "subject_token_type": JWT, "project_id": project});
    let request = client.post("/ci/v1/token-exchange", Auth::Public).json(&body)?;
    let answer: Answer = request.receive("exchanging the job's identity for a session").await?;
    let lives = Duration::from_secs(answer.expires_in.min(24 * 3600)).saturating_sub(MARGIN);
    Ok(Session { bearer: Secret::new(answer.access_token), scope: answer.scope, until: began + lives })
}

/// Keeps a session until its last minute, and gets another one then.
#[derive(Debug)]
pub struct Sessions {
    client: Client,
    runner: Runner,
    audience: String,
    project: String,
    current: tokio::sync::Mutex<Option<Session>>,
}

impl Sessions {
    pub fn new(client: Client, runner: Runner, audience: impl Into<String>, project: impl Into<String>) -> Self {
        let current = tokio::sync::Mutex::new(None);
        Self { client, runner, audience: audience.into(), project: project.into(), current }
    }

    pub async fn bearer(&self) -> Result<Secret, Error> {
        let mut current = self.current.lock().await;
        if let Some(session) = current.as_ref().filter(|session| session.is_fresh()) {
            return Ok(session.bearer.clone());
        }
        let session = sign_in(&self.client, &self.runner, &self.audience, &self.project).await?;
        Ok(current.insert(session).bearer.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(values: &[&str]) -> BTreeSet<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    fn good() -> NewBinding {
        NewBinding {
            project_id: "prj_demo".to_owned(),
            subject_match: "repo:us/it:ref:refs/heads/main".to_owned(),
            allowed_actions: set(&["deploy"]),
            allowed_events: set(&["push"]),
            nonce: "0123456789abcdef".to_owned(),
            signed_delegation: "signed".to_owned(),
            ..NewBinding::default()
        }
    }

    #[track_caller]
    fn refused(field: &str, change: impl FnOnce(&mut NewBinding)) {
        let mut binding = good();
        change(&mut binding);
        let error = check(&binding).expect_err("it is refused");
        assert!(error.message.starts_with(field), "{error}");
    }

    #[test]
    fn what_the_gateway_would_refuse_is_refused_here() {
        check(&good()).expect("good");
        check(&NewBinding { subject_match: "repo:us/it:*".to_owned(), ..good() }).expect("a star at the end");
        for subject in ["", "*", "a*b", "a**", "*a*", "a\nb", &"a".repeat(257)] {
            refused("subject_match", |binding| binding.subject_match = subject.to_owned());
        }
        refused("allowed_actions", |binding| binding.allowed_actions = set(&["deploy", "delete"]));
        refused("allowed_events", |binding| binding.allowed_events = set(&[]));
        for nonce in ["0123456789abcde", "0123456789ABCDEF", &"0".repeat(65)] {
            refused("nonce", |binding| binding.nonce = nonce.to_owned());
        }
        refused("signed_delegation", |binding| binding.signed_delegation = "x".repeat(8193));
    }

    #[test]
    fn route_scopes_follow_their_grammar() {
        let scopes = |values: &[&str]| check_route_scopes(&set(values));
        scopes(&["/", "/api", "/api/*", "/a%20b"]).expect("good");
        for wrong in ["api", "/a?b", "/*", "/a*", "/a/*/b", "/%2", "/%zz", &format!("/{}", "a".repeat(256))] {
            scopes(&[wrong]).expect_err(wrong);
        }
        scopes(&["/api", "/api/"]).expect_err("twice");
        let many: Vec<String> = (0..101).map(|number| format!("/{number}")).collect();
        scopes(&many.iter().map(String::as_str).collect::<Vec<_>>()).expect_err("too many");
    }

    #[test]
    fn a_runner_is_there_only_with_both_variables() {
        let with = |variables: &'static [(&str, &str)]| {
            Runner::from_variables(&move |name: &str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
            })
        };
        let (url, token) = ("ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN");
        assert!(with(&[]).expect("none").is_none());
        assert!(with(&[("ACTIONS_ID_TOKEN_REQUEST_URL", "http://127.0.0.1/x")]).expect("none").is_none());
        assert!(Runner::from_variables(&|name| (name == url || name == token).then(|| "no url".into())).is_err());
    }
}
