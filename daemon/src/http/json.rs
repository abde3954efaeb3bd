//! Bodies and parameters of requests: JSON and query text become wire types.
//!
//! Output: the type, or a [`Problem`] that names the field that is wrong. Bodies are at most
//! [`BODY_LIMIT_BYTES`] and must keep coming.

use super::problem::Failure;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use sandbox_wire::{Code, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

pub(crate) const BODY_LIMIT_BYTES: usize = 8 << 20;
/// A body of which nothing comes for this long is given up.
const STALL_TIME: Duration = Duration::from_secs(20);
/// All of a body must be there after this long.
const BODY_TIME: Duration = Duration::from_secs(120);
/// What is too large is read and thrown away up to here, so that the caller, who is still sending, gets to
/// read why.
const DISCARD_LIMIT_BYTES: usize = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        let empty = parts.headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0") && !is_chunked(&parts.headers);
        match parts.headers.get(CONTENT_TYPE) {
            Some(kind) if is_json(kind) => {}
            // Nothing was sent, so nothing of the wrong kind was: the same as an empty object.
            None if empty => return Ok(Self(parse(b"{}")?)),
            _ => {
                let problem = Problem::new(Code::UnsupportedMediaType, "the body must be application/json");
                return Err(problem.next("send the header Content-Type: application/json").into());
            }
        }
        Ok(Self(parse(&whole(&parts.headers, body).await?)?))
    }
}

/// A body of bytes, whatever they are said to be.
#[derive(Debug)]
pub(crate) struct Raw(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        Ok(Self(whole(&parts.headers, body).await?))
    }
}

async fn whole(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    tokio::time::timeout(BODY_TIME, read(headers, body)).await.map_err(|_| stalled())?
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => {
                let mut response = Response::new(Body::from(body));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            Err(error) => Failure::from(crate::service::Error::internal(error)).into_response(),
        }
    }
}

/// A JSON body with a status of its own.
pub(crate) fn with_status<T: Serialize>(status: StatusCode, body: T) -> Response {
    let mut response = Json(body).into_response();
    if response.status() == StatusCode::OK {
        *response.status_mut() = status;
    }
    response
}

fn is_json(kind: &HeaderValue) -> bool {
    let Ok(kind) = kind.to_str() else { return false };
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn is_chunked(headers: &HeaderMap) -> bool {
    headers.contains_key(axum::http::header::TRANSFER_ENCODING)
}

fn stalled() -> Problem {
    let mut problem = Problem::new(Code::InvalidRequest, "the body did not arrive in time");
    problem.retryable = true;
    problem
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(Code::BodyTooLarge, format!("the body is larger than {BODY_LIMIT_BYTES} bytes"))
            .with("max_bytes", BODY_LIMIT_BYTES)
            .next("put large input into a file of the workspace")
    };
    let mut chunks = body.into_data_stream();
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > BODY_LIMIT_BYTES as u64) {
        // A caller that asks first sends nothing after a refusal.
        if !headers.contains_key(EXPECT) {
            discard(&mut chunks).await;
        }
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut all = Vec::new();
    loop {
        let next = tokio::time::timeout(STALL_TIME, chunks.next()).await.map_err(|_| stalled())?;
        let chunk = match next {
            None => break,
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => {
                return Err(Problem::new(Code::InvalidRequest, format!("the body broke off: {error}")));
            }
        };
        if first.len() + all.len() + chunk.len() > BODY_LIMIT_BYTES {
            discard(&mut chunks).await;
            return Err(too_large());
        }
        if first.is_empty() && all.is_empty() {
            first = chunk;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&chunk);
        }
    }
    Ok(if all.is_empty() { first } else { all.into() })
}

async fn discard(chunks: &mut axum::body::BodyDataStream) {
    let read = async {
        let mut discarded = 0;
        while let Some(Ok(chunk)) = chunks.next().await {
            discarded += chunk.len();
            if discarded > DISCARD_LIMIT_BYTES {
                return;
            }
        }
    };
    // In time or not, the answer is the same.
    let _ = tokio::time::timeout(DISCARD_TIME, read).await;
}

/// Parses once when all is well, and a second time to find the place of a mistake.
///
/// A body is an object; `null` is an empty one. A list is refused here, because to a derived
/// deserializer it would be the values of the fields in their order.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    let text = match text.trim_ascii() {
        b"null" => b"{}",
        [b'[', ..] => return Err(Problem::new(Code::InvalidRequest, "the body must be an object, not a list")),
        _ => text,
    };
    let error = match serde_json::from_slice(text) {
        Ok(parsed) => return Ok(parsed),
        Err(error) => error,
    };
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let path = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => return Err(not_json(&error)),
        Err(error) => error.path().to_string(),
    };
    if error.classify() != serde_json::error::Category::Data {
        return Err(not_json(&error));
    }
    Err(wrong_field(&path, &error.to_string()))
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::new(Code::InvalidRequest, format!("the body is not JSON: {error}"))
}

fn wrong_field(path: &str, message: &str) -> Problem {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    let quoted = message.split('`').nth(1);
    if let (Some(field), true) = (quoted, message.starts_with("unknown field")) {
        let expected = message.split_once(", expected ").map_or("", |(_, expected)| expected);
        let sentence = if expected.is_empty() {
            format!("`{field}` is not a field of this call")
        } else {
            format!("`{field}` is not a field of this call; these are: {}", expected.trim_start_matches("one of "))
        };
        return Problem::new(Code::UnknownField, sentence).with("field", field);
    }
    if let (Some(field), true) = (quoted, message.starts_with("missing field")) {
        let sentence = format!("the field `{field}` is missing");
        return Problem::new(Code::InvalidRequest, sentence).with("field", field);
    }
    let reason = if message.contains("untagged enum Command") {
        "must be a text (a shell line) or a list of texts (a program and its arguments)".to_owned()
    } else if message.contains("untagged enum Signal") {
        "must be a signal's name or number".to_owned()
    } else {
        format!("is wrong: {}", readable(message))
    };
    if path == "." {
        return Problem::new(Code::InvalidRequest, format!("the body {reason}"));
    }
    Problem::new(Code::InvalidRequest, format!("the field `{path}` {reason}")).with("field", path)
}

/// Names of Rust types mean nothing to a caller.
fn readable(message: &str) -> String {
    let integers = ["i64", "u64", "u32", "i32", "usize"];
    match message.rsplit_once(", expected ") {
        Some((what, expected)) if integers.contains(&expected) => format!("{what}, expected an integer"),
        Some((what, expected)) if expected.starts_with("struct ") => format!("{what}, expected an object"),
        _ => message.to_owned(),
    }
}

/// Parameters of the query.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(bad_query(&rejection).into()),
        }
    }
}

fn bad_query(rejection: &QueryRejection) -> Problem {
    let text = rejection.body_text();
    let reason = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
    let problem = Problem::new(Code::InvalidRequest, format!("the query is wrong: {reason}"));
    match reason.split_once(": ") {
        Some((field, _)) => problem.with("field", field),
        None => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox_wire::{Command, RunRequest, SignalRequest};

    fn refused(text: &str) -> (Code, String, String) {
        let problem = parse::<RunRequest>(text.as_bytes()).expect_err("refused");
        let field = problem.details.get("field").and_then(|field| field.as_str()).unwrap_or_default().to_owned();
        (problem.code, field, problem.error)
    }

    #[test]
    fn mistakes_name_their_field() {
        for (text, field) in [
            (r#"{"command":"x","timeout_ms":"x"}"#, "timeout_ms"),
            (r#"{"command":"x","timeout_ms":1.5}"#, "timeout_ms"),
            (r#"{"command":"x","env":{"A":1}}"#, "env.A"),
            (r#"{"command":7}"#, "command"),
            (r#"{"command":["a",1]}"#, "command"),
            (r#"{"cwd":"/"}"#, "command"),
            (r#"{"command":"x","encoding":"latin1"}"#, "encoding"),
        ] {
            let (code, named, sentence) = refused(text);
            assert_eq!((code, named.as_str()), (Code::InvalidRequest, field), "{sentence}");
            assert!(sentence.contains(&format!("`{field}`")) && !sentence.contains(" at line "), "{sentence}");
        }
        let (code, field, sentence) = refused(r#"{"command":"x","shell":true}"#);
        assert_eq!((code, field.as_str()), (Code::UnknownField, "shell"), "{sentence}");
        assert!(refused(r#"{"command":"x","timeout_ms":"x"}"#).2.ends_with("expected an integer"));
    }

    #[test]
    fn what_is_not_json_says_where() {
        for text in ["", "{", "nonsense", "{\"command\":\"x\"} trailing", "\u{feff}{}"] {
            let (code, _, sentence) = refused(text);
            assert_eq!(code, Code::InvalidRequest);
            assert!(sentence.starts_with("the body is not JSON"), "{sentence}");
        }
        assert_eq!(refused("[\"true\"]").2, "the body must be an object, not a list");
        assert_eq!(refused("null").1, "command");
    }

    #[test]
    fn good_bodies_are_understood() {
        let request: RunRequest = parse(br#"{"command":["a","b"],"timeout_ms":-1}"#).expect("good");
        assert_eq!(request.command, Command::Argv(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(request.timeout_ms, Some(-1));
        assert!(parse::<SignalRequest>(br#"{"signal":9}"#).is_ok());
    }

    #[test]
    fn json_has_several_media_types() {
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"] {
            assert!(is_json(&HeaderValue::from_static(good)), "{good}");
        }
        for bad in ["text/plain", "text/json", "", "application/jsonx"] {
            assert!(!is_json(&HeaderValue::from_static(bad)), "{bad}");
        }
    }
}
