//! The daemon's HTTP interface as calls: wire types in, wire types or a problem out.
//!
//! Follows `docs/api.md`. Knows addresses and tokens, not where they came from (`connect`), and
//! prints nothing.

use crate::ndjson::{DecodeError, Line, Lines, decode};
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url, redirect};
use sandbox_wire::{Code, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error as _;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Calls that are not streams answer within this.
const CALL_TIME: Duration = Duration::from_secs(60);
/// A live stream says something every 15 s; four missed pings are a dead connection.
const SILENCE: Duration = Duration::from_secs(60);
/// How often, and with which pause, a full queue is tried again: 2 s in all.
const QUEUE_TRIES: u32 = 100;
const QUEUE_PAUSE: Duration = Duration::from_millis(20);
/// More of an error's body is not read.
const ERROR_LIMIT_BYTES: usize = 256 << 10;

/// Where a daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Unix(PathBuf),
    Http(Url),
}

impl Endpoint {
    /// Reads `http://host:port`, `https://…` or `unix:/path`.
    pub(crate) fn parse(text: &str) -> Result<Self, ClientError> {
        let invalid = || ClientError::InvalidUrl(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            return if path.is_absolute() { Ok(Self::Unix(path)) } else { Err(invalid()) };
        }
        let url: Url = text.parse().map_err(|_| invalid())?;
        match url.scheme() {
            "http" | "https" if url.has_host() && url.query().is_none() => Ok(Self::Http(url)),
            _ => Err(invalid()),
        }
    }

    /// Whether the daemon's files are this computer's.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Http(url) => is_loopback(url),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Http(url) => f.write_str(url.as_str().trim_end_matches('/')),
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("'{0}' is not the address of a daemon; write http://host:port or unix:/path")]
    InvalidUrl(String),
    #[error("cannot make an HTTP client: {0}")]
    Setup(#[source] reqwest::Error),
    #[error("cannot reach the daemon at {endpoint}: {reason}")]
    Unreachable { endpoint: String, reason: String },
    #[error("the connection to the daemon at {endpoint} broke: {reason}")]
    Broken { endpoint: String, reason: String },
    /// The daemon answered that it did not do it.
    #[error("{0}")]
    Problem(Box<Problem>),
    #[error("the daemon at {endpoint} answered something that is not its interface ({status}): {reason}")]
    Protocol { endpoint: String, status: StatusCode, reason: String },
    #[error("the daemon's stream cannot be read: {0}")]
    Stream(#[from] DecodeError),
}

impl ClientError {
    /// Whether a stream may go on over a new connection.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Broken { .. })
    }

    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Self::Problem(problem) => Some(problem.code),
            _ => None,
        }
    }

    pub(crate) fn into_problem(self) -> Problem {
        let text = self.to_string();
        match self {
            Self::Problem(problem) if problem.code == Code::Unauthorized && problem.next_actions.is_empty() => {
                problem.next("give a token of this daemon in SANDBOXD_TOKEN")
            }
            Self::Problem(problem) => *problem,
            Self::Unreachable { .. } => Problem::new(Code::Unreachable, text)
                .next("start it: sandboxd serve")
                .next("or unset SANDBOXD_URL and SANDBOXD_TOKEN: a daemon is then started by itself"),
            Self::Broken { .. } => Problem::new(Code::Unreachable, text),
            Self::InvalidUrl(_) => Problem::new(Code::InvalidRequest, text),
            Self::Setup(_) | Self::Protocol { .. } | Self::Stream(_) => {
                Problem::new(Code::Internal, text).next("compare the versions: sandboxctl version")
            }
        }
    }
}

/// Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    /// What paths are appended to.
    base: String,
    token: Option<HeaderValue>,
}

impl Client {
    pub(crate) fn new(endpoint: Endpoint, token: Option<&str>) -> Result<Self, ClientError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("sandboxctl/", env!("CARGO_PKG_VERSION")))
            // A redirect would carry commands to somebody whom nobody named.
            .redirect(redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10));
        let base = match &endpoint {
            Endpoint::Unix(path) => {
                builder = builder.unix_socket(path.as_path());
                "http://localhost".to_owned()
            }
            Endpoint::Http(url) => url.as_str().trim_end_matches('/').to_owned(),
        };
        if endpoint.is_local() {
            // Proxy variables are about other hosts; a proxy would also see the token.
            builder = builder.no_proxy();
        }
        if !base.starts_with("https:") {
            // Reading the host's certificates costs more than a whole call.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(ClientError::Setup)?;
        let token = token.map(bearer).transpose()?;
        Ok(Self { http, endpoint, base, token })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None::<&()>).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// As [`Client::post`], for answers whose body says nothing.
    pub(crate) async fn tell(&self, path: &str, body: &impl Serialize) -> Result<(), ClientError> {
        self.timed(Method::POST, path, Some(body)).await.map(drop)
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.timed(Method::DELETE, path, None::<&()>).await.map(drop)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let (status, text) = self.timed(method, path, body).await?;
        serde_json::from_slice(&text).map_err(|error| self.protocol(status, error.to_string()))
    }

    /// A call with its whole answer, within [`CALL_TIME`].
    async fn timed(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let call = async {
            let response = self.send(method, path, "application/json", body).await?;
            let status = response.status();
            let text = response.bytes().await.map_err(|error| self.broken(&error))?;
            Ok((status, text.to_vec()))
        };
        match tokio::time::timeout(CALL_TIME, call).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Broken {
                endpoint: self.endpoint.to_string(),
                reason: format!("no answer within {} s", CALL_TIME.as_secs()),
            }),
        }
    }

    /// Starts a run and follows it.
    pub(crate) async fn post_stream(&self, path: &str, body: &impl Serialize) -> Result<EventStream, ClientError> {
        let response = self.send(Method::POST, path, "application/x-ndjson", Some(body)).await?;
        Ok(EventStream { response, lines: Lines::default(), client: self.clone() })
    }

    /// Follows a run.
    pub(crate) async fn get_stream(&self, path: &str) -> Result<EventStream, ClientError> {
        let response = self.send(Method::GET, path, "application/x-ndjson", None::<&()>).await?;
        Ok(EventStream { response, lines: Lines::default(), client: self.clone() })
    }

    /// Sends a body as it is; the answer may have any status.
    pub(crate) async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<Response, ClientError> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).headers(headers).body(body);
        if let Some(token) = &self.token {
            request = request.header(reqwest::header::AUTHORIZATION, token);
        }
        self.send_request(request).await.map_err(|error| self.unsent(&error))
    }

    fn unsent(&self, error: &reqwest::Error) -> ClientError {
        let (endpoint, reason) = (self.endpoint.to_string(), root_cause(error));
        match error.is_connect() {
            true => ClientError::Unreachable { endpoint, reason },
            false => ClientError::Broken { endpoint, reason },
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &'static str,
        body: Option<&impl Serialize>,
    ) -> Result<Response, ClientError> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).header(ACCEPT, accept);
        if let Some(token) = &self.token {
            request = request.header(reqwest::header::AUTHORIZATION, token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = self.send_request(request).await.map_err(|error| self.unsent(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response).await) }
    }

    /// Sends, again and again while a unix socket's queue is full: unix(7), connect(2) says EAGAIN then
    /// and, unlike over TCP, does not wait. Nothing was sent in such a try.
    async fn send_request(&self, request: reqwest::RequestBuilder) -> Result<Response, reqwest::Error> {
        for _ in 0..QUEUE_TRIES {
            let Some(again) = request.try_clone() else { break };
            match again.send().await {
                Err(error) if error.is_connect() && is_would_block(&error) => tokio::time::sleep(QUEUE_PAUSE).await,
                answer => return answer,
            }
        }
        request.send().await
    }

    /// The problem in a failed answer.
    async fn refused(&self, mut response: Response) -> ClientError {
        let status = response.status();
        let mut text = Vec::new();
        while text.len() < ERROR_LIMIT_BYTES {
            match response.chunk().await {
                Ok(Some(chunk)) => text.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return self.broken(&error),
            }
        }
        match problem(&text) {
            Some(problem) => ClientError::Problem(Box::new(problem)),
            None => self.protocol(status, String::from_utf8_lossy(&text).chars().take(200).collect()),
        }
    }

    fn protocol(&self, status: StatusCode, reason: String) -> ClientError {
        ClientError::Protocol { endpoint: self.endpoint.to_string(), status, reason }
    }

    fn broken(&self, error: &reqwest::Error) -> ClientError {
        ClientError::Broken { endpoint: self.endpoint.to_string(), reason: root_cause(error) }
    }
}

/// Events of one run, in order.
#[derive(Debug)]
pub(crate) struct EventStream {
    response: Response,
    lines: Lines,
    client: Client,
}

impl EventStream {
    /// The next line, as it came and read; `None` at the end of the connection. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<(Vec<u8>, Line)>, ClientError> {
        loop {
            if let Some(line) = self.lines.next_line() {
                return match decode(line)? {
                    Line::Problem(problem) => Err(ClientError::Problem(problem)),
                    decoded => Ok(Some((line.to_vec(), decoded))),
                };
            }
            match tokio::time::timeout(SILENCE, self.response.chunk()).await {
                Ok(Ok(Some(bytes))) => self.lines.feed(&bytes)?,
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => return Err(self.client.broken(&error)),
                Err(_) => {
                    return Err(ClientError::Broken {
                        endpoint: self.client.endpoint.to_string(),
                        reason: format!("silent for {} s", SILENCE.as_secs()),
                    });
                }
            }
        }
    }
}

fn bearer(token: &str) -> Result<HeaderValue, ClientError> {
    let invalid = |_| {
        ClientError::Problem(Box::new(Problem::new(Code::Unauthorized, "the token has characters that no token has")))
    };
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(invalid)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The daemon's problem; one with a code that this client does not know keeps its sentence.
fn problem(text: &[u8]) -> Option<Problem> {
    if let Ok(problem) = serde_json::from_slice(text) {
        return Some(problem);
    }
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    let sentence = value.get("error")?.as_str()?;
    let problem = Problem::new(Code::Internal, sentence);
    Some(match value.get("code").and_then(serde_json::Value::as_str) {
        Some(code) => problem.with("code", code),
        None => problem,
    })
}

fn is_would_block(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The innermost error: reqwest's own words only repeat the address.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if error.source().is_none() { error.to_string() } else { cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_parse_and_know_whether_they_are_here() {
        for (text, shown, local) in [
            ("http://127.0.0.1:7402", "http://127.0.0.1:7402", true),
            ("http://127.0.0.1:7402/api/v1/", "http://127.0.0.1:7402/api/v1", true),
            ("http://[::1]:1", "http://[::1]:1", true),
            ("http://localhost:1", "http://localhost:1", true),
            ("https://sandbox.example.com", "https://sandbox.example.com", false),
            ("unix:/run/s.sock", "unix:/run/s.sock", true),
            ("unix:///run/s.sock", "unix:/run/s.sock", true),
        ] {
            let endpoint = Endpoint::parse(text).expect(text);
            assert_eq!((endpoint.to_string().as_str(), endpoint.is_local()), (shown, local), "{text}");
        }
        for bad in ["", "127.0.0.1:7402", "ftp://x", "unix:relative", "http://", "http://x/?a=b"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_problem_with_an_unknown_code_keeps_its_sentence() {
        let known = problem(br#"{"error":"no such run","code":"run_not_found","retryable":false}"#).expect("reads");
        assert_eq!(known.code, Code::RunNotFound);
        let unknown = problem(br#"{"error":"too hot","code":"overheated","retryable":true}"#).expect("reads");
        assert_eq!((unknown.error.as_str(), &unknown.details["code"]), ("too hot", &"overheated".into()));
        assert_eq!(problem(b"<html>"), None);
    }

    #[test]
    fn clients_are_made_without_reading_certificates() {
        let endpoint = Endpoint::parse("unix:/nonexistent/s.sock").expect("parses");
        let client = Client::new(endpoint, Some("sbx_secret")).expect("made");
        assert!(!format!("{client:?}").contains("secret"));
        let endpoint = Endpoint::parse("http://127.0.0.1:1").expect("parses");
        assert!(Client::new(endpoint, Some("a\nb")).is_err());
    }
}
