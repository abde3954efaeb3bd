//! Errors as responses: the only place that knows status codes.
//!
//! Input: a [`Problem`], or an [`Error`] of the service whose details stay in the log; output: a response
//! that carries the problem until [`complete`] writes it down, with the request's id in it.

use crate::config::Auth;
use crate::keepers::KeepersError;
use crate::service::Error;
use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use sandbox_wire::{Code, Problem};
use std::error::Error as _;

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
        Code::IdempotencyConflict | Code::ProjectBusy | Code::RunEnded | Code::NameTaken => StatusCode::CONFLICT,
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
    /// What the caller is told; what is not for the caller goes to the log.
    pub(crate) fn into_problem(self) -> Problem {
        let error = match self.0 {
            Error::Problem(problem) | Error::Keeper(KeepersError::Refused(problem)) => return *problem,
            error => error,
        };
        let chain = chain_of(&error);
        if is_disk_full(&error) {
            tracing::error!(error = chain, "the disk is full");
            let sentence = "the disk that holds the daemon's state is full";
            return Problem::new(Code::DiskFull, sentence).next("free space, or delete projects that are not needed");
        }
        match error {
            Error::Keeper(KeepersError::Deleting) => Problem::new(Code::ProjectBusy, "the project is being deleted"),
            Error::Keeper(_) => {
                tracing::error!(error = chain, "a keeper failed");
                let sentence =
                    "the project's keeper could not be started or does not answer; the daemon's log says why";
                Problem::new(Code::Unavailable, sentence).next("sandboxctl doctor tells what this host lacks")
            }
            _ => {
                tracing::error!(error = chain, "a call failed");
                internal()
            }
        }
    }
}

fn internal() -> Problem {
    Problem::new(Code::Internal, "something went wrong in the daemon; its log has the details under the request_id")
}

fn chain_of(error: &Error) -> String {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        chain.push_str(": ");
        chain.push_str(&cause.to_string());
        source = cause.source();
    }
    chain
}

fn is_disk_full(error: &Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        let full = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(full, Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)) {
            return true;
        }
        source = cause.source();
    }
    false
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
    fn what_is_not_for_the_caller_stays_inside() {
        let error = Error::Disk { what: "cannot read /secret", source: std::io::Error::other("inside") };
        let problem = Failure::from(error).into_problem();
        assert_eq!(problem.code, Code::Internal);
        assert!(!problem.error.contains("secret") && !problem.error.contains("inside"));
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let problem = Failure::from(Error::Disk { what: "x", source }).into_problem();
        assert_eq!((problem.code, status(problem.code).as_u16()), (Code::DiskFull, 507));
    }

    #[test]
    fn refusals_of_a_keeper_reach_the_caller() {
        let refused = KeepersError::Refused(Box::new(Problem::new(Code::CwdNotFound, "no such folder")));
        let problem = Failure::from(Error::from(refused)).into_problem();
        assert_eq!((problem.code, status(problem.code).as_u16()), (Code::CwdNotFound, 400));
    }
}
