//! The HTTP edge: routes, bodies, who asks.
//!
//! Handlers read the request, ask the gateway, and write JSON. Requests for a site's host name never reach
//! the API.

mod account;
mod admin;
mod assets;
mod contents;
mod database;
mod deploys;
mod functions;
mod projects;
mod releases;

use crate::auth::Caller;
use crate::error::{Refusal, Result};
use crate::gateway::Gateway;
use crate::serve;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Longer requests are refused; uploads of contents have limits of their own.
const MAX_BODY_BYTES: usize = 16 << 20;

type Answer = Result<Json<Value>>;

/// What handlers share.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) gateway: Gateway,
    /// Ends the listeners of sites that were made meanwhile.
    pub(crate) shutdown: CancellationToken,
}

pub(crate) fn router(gateway: Gateway, shutdown: CancellationToken) -> Router {
    let api = Api { gateway, shutdown };
    Router::new()
        .route("/health", get(health))
        .route("/status", get(health))
        .route("/apply/v1/plans", post(deploys::plan))
        .route("/apply/v1/plans/{plan}/commit", post(deploys::commit))
        .route("/apply/v1/operations", get(deploys::list))
        .route("/apply/v1/operations/{operation}", get(deploys::get))
        .route("/apply/v1/operations/{operation}/events", get(deploys::events))
        .route("/apply/v1/operations/{operation}/resume", post(deploys::resume))
        .route("/apply/v1/releases/{release}", get(releases::get))
        .route("/apply/v1/releases/{release}/promote", post(releases::promote))
        .route("/apply/v1/resolve", get(releases::resolve))
        .route("/content/v1/plans", post(contents::plan))
        .route("/content/v1/plans/{plan}/commit", post(contents::commit))
        .route("/uploads/{upload}/{part}", put(contents::receive).layer(DefaultBodyLimit::disable()))
        .route("/projects/v1", get(projects::list).post(projects::create))
        .route("/projects/v1/{project}", get(projects::get).patch(projects::rename).delete(projects::delete))
        .route("/projects/v1/admin/{project}/usage", get(projects::usage))
        .route("/projects/v1/admin/{project}/schema", get(database::schema))
        .route("/projects/v1/admin/{project}/sql", post(database::run_sql))
        .route("/projects/v1/admin/{project}/expose", get(database::exposed).post(database::expose))
        .route("/projects/v1/admin/{project}/expose/validate", post(database::validate))
        .route("/projects/v1/expose/validate", post(database::validate_alone))
        .route("/projects/v1/admin/{project}/secrets", get(admin::secrets).post(admin::set_secret))
        .route("/projects/v1/admin/{project}/secrets/{key}", axum::routing::delete(admin::delete_secret))
        .route("/projects/v1/admin/{project}/functions", get(functions::list))
        .route(
            "/projects/v1/admin/{project}/functions/{name}",
            axum::routing::patch(functions::change).delete(functions::delete),
        )
        .route("/projects/v1/admin/{project}/functions/{name}/logs", get(functions::logs))
        .route("/subdomains/v1", get(admin::subdomains).post(admin::claim))
        .route("/subdomains/v1/{name}", axum::routing::delete(admin::release))
        .route("/storage/v1/blobs", get(assets::list))
        .route("/storage/v1/blobs/diagnose", get(assets::diagnose))
        .route("/storage/v1/blob/{*key}", get(assets::get).delete(assets::delete).post(assets::sign))
        .route("/assets/{project}/{*key}", get(assets::public))
        .route("/tiers/v1", get(account::tiers))
        .route("/tiers/v1/status", get(account::status))
        .route("/tiers/v1/{tier}", post(account::set_tier))
        .route("/faucet/v1", post(account::faucet))
        .route("/orgs/v1/lookup", get(account::lookup))
        .route("/orgs/v1/{org}/billing", get(account::billing))
        .route("/orgs/v1/{org}/billing/history", get(account::history))
        .route("/orgs/v1/{org}/checkouts", post(account::checkout))
        .route("/sites/{project}", any(serve::by_path))
        .route("/sites/{project}/", any(serve::by_path))
        .route("/sites/{project}/{*path}", any(serve::by_path))
        .route("/rest/v1/{*path}", any(rest))
        .route("/admin/v1/rest/{*path}", any(rest))
        .route("/functions/v1/{name}", any(functions::invoke))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(axum::middleware::from_fn_with_state(api.clone(), by_host))
        .with_state(api)
}

/// A site's host name is the site's alone; any other name but our own is nobody's, so that a page of
/// somebody else's cannot reach the API by pointing a name of its own at this address.
async fn by_host(State(api): State<Api>, request: Request, next: Next) -> Response {
    let host = request.headers().get("host").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let name =
        host.rsplit_once(':').map_or(host.as_str(), |(name, port)| if port.contains(']') { &host } else { name });
    if let Some(label) = name.strip_suffix(".localhost") {
        return serve::by_label(&api.gateway, label, request).await;
    }
    let own =
        name.eq_ignore_ascii_case("localhost") || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    let api_path = !["/functions/", "/sites/"].iter().any(|prefix| request.uri().path().starts_with(prefix));
    match own {
        true => {
            let response = next.run(request).await;
            if api_path { enveloped(response) } else { response }
        }
        false => Refusal::bad("UNKNOWN_HOST", "this gateway has no such host name").into_response(),
    }
}

/// What the router refuses by itself, such as a method or a body that is too long, as any other refusal.
fn enveloped(response: Response) -> Response {
    let refused = response.status().is_client_error();
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("text/plain");
    if !refused || !kind.starts_with("text/plain") {
        return response;
    }
    let (code, sentence) = match response.status() {
        StatusCode::METHOD_NOT_ALLOWED => ("METHOD_NOT_ALLOWED", "this endpoint does not answer to this method"),
        StatusCode::PAYLOAD_TOO_LARGE => ("PAYLOAD_TOO_LARGE", "the body is too long"),
        _ => ("BAD_REQUEST", "the path, the query or the body cannot be read"),
    };
    let allow = response.headers().get(ALLOW).cloned();
    let mut refusal = Refusal::other(response.status(), code, sentence).into_response();
    if let Some(allow) = allow {
        refusal.headers_mut().insert(ALLOW, allow);
    }
    refusal
}

async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

async fn unknown() -> Refusal {
    Refusal::not_found("endpoint", "NOT_FOUND")
}

async fn rest() -> Refusal {
    Refusal::not_here("this gateway does not have the REST interface to tables; run SQL instead")
}

/// JSON of a body, with the path to what is wrong in it.
fn parse<'body, T: Deserialize<'body>>(body: &'body [u8]) -> Result<T> {
    // Keeping track of the path is slow, and needed for errors only.
    if let Ok(parsed) = serde_json::from_slice(body) {
        return Ok(parsed);
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| Refusal::bad("BAD_REQUEST", format!("the body is not as it should be: {error}")))?;
    reader.end().map_err(|error| Refusal::bad("BAD_REQUEST", format!("the body goes on after its JSON: {error}")))?;
    Ok(parsed)
}

impl Api {
    /// Checks who asks and does the work, where waiting for the disk is allowed.
    async fn answer(
        &self,
        headers: HeaderMap,
        work: impl FnOnce(&Gateway, &Caller) -> Result<Value> + Send + 'static,
    ) -> Answer {
        let done = self.gateway.blocking(move |gateway| work(gateway, &Caller::read(gateway, &headers)?)).await;
        done.map(Json)
    }
}
