//! Errors as responses: the only place that knows status codes.
//!
//! Input: a [`Problem`], or an [`Error`] of the service; output: a response
//! that carries the problem until [`complete`] writes it down, with the request's id in it.

use crate::config::Auth;
use crate::service::{Error, internal};
use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use sandbox_wire::{Code, Problem};

/// A failed call.
#[derive(Debug)]
pub(crate) struct Failure(Error);

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

pub(crate) fn status(code: Code) -> StatusCode {
    match code {
        Code::InvalidRequest
        | Code::UnknownField
        | Code::EmptyCommand
        | Code::NulByte
        | Code::InvalidEnvironment
        | Code::TimeoutOutOfRange
        | Code::CwdNotFound
        | Code::CwdOutsideProject
        | Code::PathOutsideProject
        | Code::InvalidPolicy
        | Code::PolicyNotFound
        | Code::InvalidName
        | Code::InvalidDirectory
        | Code::InvalidManifest => StatusCode::BAD_REQUEST,
        Code::Unauthorized => StatusCode::UNAUTHORIZED,
        Code::Forbidden
        | Code::PolicyRefused
        | Code::LayerUnavailable
        | Code::HostNotAllowed
        | Code::OriginNotAllowed => StatusCode::FORBIDDEN,
        Code::NotFound | Code::ProjectNotFound | Code::RunNotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
        Code::IdempotencyConflict | Code::ProjectBusy | Code::RunEnded | Code::InputClosed | Code::NameTaken => {
            StatusCode::CONFLICT
        }
        Code::OutputExpired => StatusCode::GONE,
        Code::BodyTooLarge | Code::CommandTooLong => StatusCode::PAYLOAD_TOO_LARGE,
        Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Code::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unavailable | Code::Draining | Code::NoCapacity | Code::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        Code::BuildFailed => StatusCode::UNPROCESSABLE_ENTITY,
        Code::DeployFailed => StatusCode::BAD_GATEWAY,
    }
}

/// Seconds after which the same call is worth another attempt.
fn retry_after(code: Code) -> Option<HeaderValue> {
    match code {
        Code::NoCapacity | Code::TooManyRequests | Code::Unavailable => Some(HeaderValue::from_static("1")),
        Code::Draining => Some(HeaderValue::from_static("10")),
        _ => None,
    }
}

impl Failure {
    /// What the caller is told.
    pub(crate) fn into_problem(self) -> Problem {
        self.0.into_problem()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        into_response(self.into_problem())
    }
}

/// A response that [`complete`] finishes.
pub(crate) fn into_response(problem: Problem) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status(problem.code);
    let headers = response.headers_mut();
    if let Some(seconds) = retry_after(problem.code) {
        headers.insert(RETRY_AFTER, seconds);
    }
    if problem.code == Code::Unauthorized {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"sandboxd\""));
    }
    // What the caller still sends is not wanted; some of it may be on its way.
    if matches!(problem.code, Code::BodyTooLarge | Code::HeadersTooLarge) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response.extensions_mut().insert(problem);
    response
}

/// Writes the problem that a response carries, if it does.
pub(crate) fn complete(response: &mut Response, request_id: &str) {
    let Some(mut problem) = response.extensions_mut().remove::<Problem>() else { return };
    request_id.clone_into(&mut problem.request_id);
    if problem.code == Code::Internal {
        tracing::error!(request_id, "answered with an internal error");
    }
    let body = serde_json::to_vec(&problem).expect("texts, booleans and JSON values are JSON");
    *response.body_mut() = Body::from(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
}

/// The answer to a request whose handler panicked; the panic itself is in the log.
pub(crate) fn after_panic() -> Response {
    into_response(internal())
}

/// The answer to a path that nothing has.
pub(crate) async fn not_found(uri: Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    into_response(
        Problem::new(Code::NotFound, format!("there is nothing at {path}")).next("GET /openapi.json lists all calls"),
    )
}

/// The answer to a method that a path does not have; the router adds `Allow`.
pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    into_response(Problem::new(
        Code::MethodNotAllowed,
        format!("{method} is not a call of {path}; see the header Allow"),
    ))
}

/// The answer to a missing or wrong token.
pub(crate) fn unauthorized(auth: Auth, given: bool) -> Problem {
    let sentence =
        if given { "the token is not good" } else { "this call needs a token: Authorization: Bearer sbx_…" };
    let problem = Problem::new(Code::Unauthorized, sentence);
    match auth {
        Auth::Tokens => problem.next("the first token is in the file `token` of the state directory"),
        Auth::Off => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_problem_is_written_with_the_request_id() {
        let mut response = Failure::from(Problem::new(Code::NoCapacity, "full")).into_response();
        complete(&mut response, "req_1");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let body = axum::body::to_bytes(response.into_body(), 4096).await.expect("a body");
        let problem: Problem = serde_json::from_slice(&body).expect("a problem");
        let expected = Problem { request_id: "req_1".to_owned(), ..Problem::new(Code::NoCapacity, "full") };
        assert_eq!(problem, expected);
        assert!(problem.retryable);
    }

    #[test]
    fn each_code_has_its_status() {
        let full = Failure::from(Problem::new(Code::DiskFull, "full")).into_response();
        let folder = Failure::from(Problem::new(Code::CwdNotFound, "no such folder")).into_response();
        assert_eq!((full.status().as_u16(), folder.status().as_u16()), (507, 400));
    }
}
