//! What goes to a function and what comes back, as the shim has it.
//!
//! The reply was written by code that nobody has read: its size, status, header names and values are
//! checked before anything of it is passed on.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

/// Longest body of a request: what a run can be given, in base64.
pub(crate) const REQUEST_LIMIT_BYTES: usize = 5 << 20;
/// Longest body of a response.
const BODY_LIMIT_BYTES: usize = 6 << 20;
/// What a function may write to its standard output: the longest body in base64, and some.
pub const REPLY_LIMIT_BYTES: usize = 9 << 20;
const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 8 << 10;
/// Are about the connection, not the message: RFC 9110, section 7.6.1. Lengths are counted anew.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "proxy-authenticate",
];

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(super) fn encode(&self, nonce: &str, entrypoint: &str) -> String {
        let headers: Vec<[String; 2]> = self
            .headers
            .iter()
            // Keys of the project are for the gateway, not for the function.
            .filter(|(name, _)| {
                !HOP_BY_HOP.contains(&name.as_str()) && !["apikey", "sign-in-with-x"].contains(&name.as_str())
            })
            .filter_map(|(name, value)| Some([name.to_string(), value.to_str().ok()?.to_owned()]))
            .collect();
        let request =
            json!({"method": self.method, "url": self.url, "headers": headers, "body": STANDARD.encode(&self.body)});
        json!({"nonce": nonce, "entrypoint": entrypoint, "request": request}).to_string()
    }
}

/// What a function answered, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReplyError {
    #[error("it ended without an answer")]
    Missing,
    #[error("its answer cannot be read")]
    Malformed,
    #[error("its answer has the status {0}")]
    Status(u16),
    #[error("its answer has more than {MAX_HEADERS} headers, or one that is not allowed")]
    Header,
    #[error("its answer has more than {BODY_LIMIT_BYTES} bytes")]
    TooLong,
}

/// The last line that begins with the nonce; `Err` within is what the function threw.
pub(super) fn read(stdout: &[u8], nonce: &str) -> Result<Result<Response, String>, ReplyError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase", deny_unknown_fields)]
    enum Line {
        Response(Raw),
        Error(String),
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Raw {
        status: u16,
        headers: Vec<[String; 2]>,
        body: String,
    }
    let marker = format!("{nonce} ");
    let line = stdout.rsplit(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(marker.as_bytes()));
    let line = serde_json::from_slice(line.ok_or(ReplyError::Missing)?).map_err(|_| ReplyError::Malformed)?;
    let raw = match line {
        Line::Error(error) => return Ok(Err(error)),
        Line::Response(raw) => raw,
    };
    let status = StatusCode::from_u16(raw.status).ok().filter(|status| (200..600).contains(&status.as_u16()));
    let status = status.ok_or(ReplyError::Status(raw.status))?;
    if raw.headers.len() > MAX_HEADERS {
        return Err(ReplyError::Header);
    }
    let mut headers = HeaderMap::new();
    for [name, value] in &raw.headers {
        let name = HeaderName::try_from(name.as_str()).map_err(|_| ReplyError::Header)?;
        // Characters of a header are bytes: more than a byte cannot be sent.
        let bytes = value.chars().map(|c| u8::try_from(u32::from(c))).collect::<Result<Vec<u8>, _>>();
        let value = HeaderValue::from_bytes(&bytes.map_err(|_| ReplyError::Header)?).map_err(|_| ReplyError::Header)?;
        if value.len() > MAX_HEADER_BYTES {
            return Err(ReplyError::Header);
        }
        if !HOP_BY_HOP.contains(&name.as_str()) {
            headers.append(name, value);
        }
    }
    let body = STANDARD.decode(&raw.body).map_err(|_| ReplyError::Malformed)?;
    match body.len() > BODY_LIMIT_BYTES {
        true => Err(ReplyError::TooLong),
        false => Ok(Ok(Response { status, headers, body })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(value: &serde_json::Value) -> Result<Result<Response, String>, ReplyError> {
        read(format!("noise\nn0 {value}\nmore noise").as_bytes(), "n0")
    }

    #[test]
    fn a_good_answer_is_passed_on_without_what_is_about_the_connection() {
        let value = json!({"response": {"status": 201, "body": "aGk=",
            "headers": [["content-type", "text/plain"], ["set-cookie", "a=1"], ["set-cookie", "b=2"], ["connection", "close"], ["content-length", "7"]]}});
        let response = reply(&value).expect("readable").expect("an answer");
        assert_eq!((response.status.as_u16(), response.body.as_slice()), (201, b"hi".as_slice()));
        assert_eq!((response.headers.len(), response.headers.get_all("set-cookie").iter().count()), (3, 2));
    }

    #[test]
    fn what_a_function_makes_up_is_refused() {
        let with = |status: u16, headers: serde_json::Value, body: &str| {
            reply(&json!({"response": {"status": status, "headers": headers, "body": body}}))
        };
        assert_eq!(with(101, json!([]), "").err(), Some(ReplyError::Status(101)));
        assert_eq!(with(999, json!([]), "").err(), Some(ReplyError::Status(999)));
        assert_eq!(with(200, json!([["a b", "c"]]), "").err(), Some(ReplyError::Header));
        assert_eq!(with(200, json!([["a", "b\r\nc: d"]]), "").err(), Some(ReplyError::Header));
        assert_eq!(with(200, json!([["a", "x".repeat(MAX_HEADER_BYTES + 1)]]), "").err(), Some(ReplyError::Header));
        assert_eq!(with(200, json!(vec![["a", "b"]; MAX_HEADERS + 1]), "").err(), Some(ReplyError::Header));
        assert_eq!(with(200, json!([]), "?").err(), Some(ReplyError::Malformed));
        assert_eq!(
            with(200, json!([]), &STANDARD.encode(vec![0; BODY_LIMIT_BYTES + 1])).err(),
            Some(ReplyError::TooLong)
        );
        assert_eq!(read(b"n1 {}", "n0").err(), Some(ReplyError::Missing));
        assert_eq!(read(b"n0 {}", "n0").err(), Some(ReplyError::Malformed));
        assert_eq!(reply(&json!({"error": "thrown"})).expect("readable").err().as_deref(), Some("thrown"));
    }
}
