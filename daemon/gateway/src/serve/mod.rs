//! Serving what is live: by host name, by path, and each site on a port of its own.
//!
//! `request -> project -> live release -> Found -> response`.

pub(crate) mod ports;
pub(crate) mod resolve;
pub(crate) mod respond;

use crate::api::Api;
use crate::error::{Refusal, Result};
use crate::gateway::Gateway;
use crate::store::deploys::ReleaseRecord;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{ACCEPT, ALLOW, CACHE_CONTROL, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use resolve::{Found, Match};
use respond::{CacheClass, Stored};
use std::collections::HashMap;

/// `http://<label>.localhost:<port>/…`
pub(crate) async fn by_label(gateway: &Gateway, label: &str, request: Request) -> Response {
    let label = label.to_ascii_lowercase();
    let found = gateway.blocking(move |gateway| gateway.store().by_label(&label)).await;
    let path = request.uri().path().to_owned();
    match found {
        Ok(Some(project)) => site(gateway, &project.id, &path, request).await,
        Ok(None) => page(StatusCode::NOT_FOUND, "There is no site of this name here."),
        Err(refusal) => refusal.into_response(),
    }
}

/// `/sites/<project>/…` of the API's own host.
pub(crate) async fn by_path(
    State(api): State<Api>,
    Path(parts): Path<HashMap<String, String>>,
    request: Request,
) -> Response {
    let project = parts.get("project").cloned().unwrap_or_default();
    let prefix = format!("/sites/{project}");
    let path = request.uri().path().strip_prefix(&prefix).unwrap_or_default().to_owned();
    if path.is_empty() {
        return redirect(&format!("{prefix}/"));
    }
    let mut response = site(&api.gateway, &project, &path, request).await;
    // It shares an origin with the API and with every other site: its pages run without that origin.
    let csp = HeaderValue::from_static("sandbox allow-scripts allow-forms allow-popups allow-modals");
    response.headers_mut().insert("content-security-policy", csp);
    response
}

pub(crate) async fn site(gateway: &Gateway, project: &str, path: &str, request: Request) -> Response {
    let id = project.to_owned();
    let live = match gateway.blocking(move |gateway| gateway.store().live_release(&id)).await {
        Ok(Some(live)) => live,
        Ok(None) => return page(StatusCode::NOT_FOUND, "Nothing has been deployed here yet."),
        Err(refusal) => return refusal.into_response(),
    };
    answer(gateway, &live, path, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer(gateway: &Gateway, live: &ReleaseRecord, path: &str, request: Request) -> Result<Response> {
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let page_wanted = accept.is_empty() || accept.contains("text/html") || accept.contains("*/*");
    let found = resolve::resolve(&live.manifest, method.as_str(), path, page_wanted);
    if let Some(to) = &found.redirect {
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        return Ok(redirect(&format!("{to}{query}")));
    }
    let status = StatusCode::from_u16(found.status).map_err(Refusal::internal)?;
    match (&found.matched, &found.file) {
        (Match::RouteFunction, _) => call(gateway, live, &found, request).await,
        (_, Some(file)) => file_of(gateway, live, &found, file, &method, &headers, status).await,
        (Match::RouteMethodMiss, _) => Ok(not_allowed(&found)),
        _ if status == StatusCode::METHOD_NOT_ALLOWED => Ok(not_allowed(&found)),
        _ => Ok(page(status, "There is nothing at this address.")),
    }
}

/// A function's answer in place of a file.
async fn call(gateway: &Gateway, live: &ReleaseRecord, found: &Found, request: Request) -> Result<Response> {
    let name = found.function.as_deref().unwrap_or_default();
    let live = gateway.live_function(&live.project, name).await?;
    if live.function.require_auth == Some(true) || live.function.require_role.is_some() {
        // There are no users here, so that nobody can be one.
        return Err(Refusal::unauthenticated());
    }
    let (parts, body) = request.into_parts();
    let host = parts.headers.get("host").and_then(|value| value.to_str().ok()).unwrap_or("localhost").to_owned();
    let url = format!("http://{host}{}", parts.uri.path_and_query().map_or("/", |path| path.as_str()));
    let body = axum::body::to_bytes(body, crate::functions::REQUEST_LIMIT_BYTES).await;
    let body = body.map_err(|_| Refusal::too_large("a function takes a body of at most 5 MiB"))?.to_vec();
    let request = crate::functions::Request { method: parts.method.to_string(), url, headers: parts.headers, body };
    gateway.invoke(live, request).await.map(function_response)
}

pub(crate) fn function_response(answer: crate::functions::Response) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

async fn file_of(
    gateway: &Gateway,
    live: &ReleaseRecord,
    found: &Found,
    file: &str,
    method: &axum::http::Method,
    headers: &axum::http::HeaderMap,
    status: StatusCode,
) -> Result<Response> {
    let content =
        live.manifest.site.get(file).ok_or_else(|| Refusal::internal("a resolved file is not in its release"))?;
    let content_type = content.content_type.clone().unwrap_or_else(|| "application/octet-stream".to_owned());
    // A page that stands in for another must not be kept as that other.
    let cache = if matches!(found.matched, Match::SpaFallback | Match::None) {
        CacheClass::Revalidate
    } else {
        resolve::cache_class(file)
    };
    let stored = Stored { digest: content.sha256, size: content.size, content_type, cache };
    respond::content(gateway, &stored, method, headers, status).await
}

fn not_allowed(found: &Found) -> Response {
    let mut response = page(StatusCode::METHOD_NOT_ALLOWED, "This address does not answer to this method.");
    if let Ok(allow) = HeaderValue::from_str(&found.allow.join(", ")) {
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}

fn redirect(to: &str) -> Response {
    match HeaderValue::from_str(to) {
        Ok(to) => {
            (StatusCode::PERMANENT_REDIRECT, [(LOCATION, to), (CACHE_CONTROL, HeaderValue::from_static("no-cache"))])
                .into_response()
        }
        Err(_) => page(StatusCode::BAD_REQUEST, "This address cannot be read."),
    }
}

fn page(status: StatusCode, sentence: &str) -> Response {
    let html = format!("<!doctype html><meta charset=utf-8><title>{status}</title><p>{sentence}</p>\n");
    let headers = [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    ];
    (status, headers, Body::from(html)).into_response()
}
