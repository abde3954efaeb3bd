//! HTTP: routes, and what happens to every request before and after them.
//!
//! Input: requests; output: responses, streams included. Handlers translate between HTTP and
//! [`Service`]; they decide nothing. Served at `/` and, identically, at `/api/v1/`.

mod accept;
mod at;
mod auth;
mod deploy_stream;
mod deploys;
mod events;
mod frames;
mod json;
mod openapi;
mod operations;
mod output;
mod policies;
mod problem;
mod projects;
mod runs;
mod tokens;

use crate::config::Config;
use crate::mcp::Endpoint;
use crate::service::Service;
use auth::Gate;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{HeaderName, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use futures::FutureExt;
use sandbox_wire::{Code, Problem};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio_util::sync::CancellationToken;

pub(crate) use auth::Transport;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// More than this is an answer with status 431. The server itself gives up at a multiple of both.
const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 64 << 10;

/// The state of all handlers.
pub(crate) type Shared = Arc<Service>;

/// All routes, with everything around them.
pub(crate) fn router(service: Shared, config: &Config, tools: Endpoint, stop: CancellationToken) -> Router {
    let api = openapi::routes();
    let edge = Arc::new(Edge {
        gate: Gate::new(config),
        service: Arc::clone(&service),
        // Unique enough to find a request in the log of one daemon.
        prefix: rand::random(),
        requests: AtomicU64::new(1),
    });
    Router::new()
        .merge(api.clone())
        .nest("/api/v1", api)
        .route("/mcp", tools(&service, stop))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .with_state(service)
        .layer(axum::middleware::from_fn_with_state(edge, around))
}

#[derive(Debug)]
struct Edge {
    gate: Gate,
    service: Shared,
    prefix: u32,
    requests: AtomicU64,
}

impl Edge {
    /// The caller's own id when it is harmless, a fresh one otherwise.
    fn request_id(&self, headers: &HeaderMap) -> HeaderValue {
        let harmless = |id: &&HeaderValue| {
            let word = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
            (1..=64).contains(&id.len()) && id.as_bytes().iter().all(word)
        };
        match headers.get(X_REQUEST_ID).filter(harmless) {
            Some(id) => id.clone(),
            None => {
                let number = self.requests.fetch_add(1, Relaxed);
                let id = format!("req_{:08x}{number:08x}", self.prefix);
                HeaderValue::from_str(&id).expect("letters, digits and an underscore")
            }
        }
    }

    /// Refused, or with the caller in its extensions; a preflight has none.
    fn admit(&self, request: &mut Request, preflight: bool) -> Result<(), Problem> {
        check_size(request.headers())?;
        let transport = request.extensions().get::<Transport>().copied().unwrap_or(Transport::Tcp);
        self.gate.check_source(transport, request.uri(), request.headers())?;
        if !preflight && !operations::is_open(request.uri().path()) {
            let caller = self.gate.caller(request.headers(), &self.service.tokens)?;
            request.extensions_mut().insert(caller);
        }
        Ok(())
    }
}

fn check_size(headers: &HeaderMap) -> Result<(), Problem> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers.len() <= MAX_HEADERS && bytes <= MAX_HEADER_BYTES {
        return Ok(());
    }
    let sentence = format!("a request has at most {MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes together");
    Err(Problem::new(Code::HeadersTooLarge, sentence).with("headers", headers.len()).with("bytes", bytes))
}

/// Everything that each request goes through, in this order: its id, its size, where it comes from, who
/// sends it; then the handler, whose panic is its own; then the problem, the id and the origin in the answer.
async fn around(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let id = edge.request_id(request.headers());
    let origin = request.headers().get(ORIGIN).cloned();
    let preflight = Gate::is_preflight(request.method(), request.headers());
    let what = tracing::enabled!(tracing::Level::DEBUG).then(|| (request.method().clone(), request.uri().clone()));
    let mut response = match edge.admit(&mut request, preflight) {
        Ok(()) if preflight => no_content(),
        Ok(()) => shielded(next.run(request)).await,
        Err(problem) => problem::into_response(problem),
    };
    problem::complete(&mut response, id.to_str().unwrap_or_default());
    edge.gate.allow_origin(origin.as_ref(), preflight, response.headers_mut());
    edge.service.metrics.response(response.status().as_u16());
    if let Some((method, uri)) = what {
        tracing::debug!(%method, %uri, status = response.status().as_u16(), request_id = ?id, "answered");
    }
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, id);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A panic is the answer to its own request only. State that it may leave behind is behind locks that
/// everybody takes as they find them.
async fn shielded(answer: impl Future<Output = Response>) -> Response {
    match AssertUnwindSafe(answer).catch_unwind().await {
        Ok(response) => response,
        Err(_) => problem::after_panic(),
    }
}

fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        let response = shielded(async { panic!("on purpose") }).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn large_heads_are_refused() {
        let mut headers = HeaderMap::new();
        for n in 0..MAX_HEADERS {
            let name: HeaderName = format!("x-{n}").parse().expect("a name");
            headers.insert(name, HeaderValue::from_static("v"));
        }
        assert!(check_size(&headers).is_ok());
        headers.append("x-0", HeaderValue::from_static("v"));
        assert_eq!(check_size(&headers).expect_err("refused").code, Code::HeadersTooLarge);
        let mut headers = HeaderMap::new();
        headers.insert("x", HeaderValue::from_bytes(&[b'v'; MAX_HEADER_BYTES]).expect("a value"));
        assert_eq!(check_size(&headers).expect_err("refused").code, Code::HeadersTooLarge);
    }
}
