//! The Model Context Protocol: the service as tools for agents, at `/mcp`.
//!
//! Input: JSON-RPC messages over streamable HTTP, of revision 2025-11-25 and older (with sessions) and 2026-07-28
//! (without); output: results, and progress notifications on the way. Tools translate between models and [`Service`];
//! they decide nothing. Who calls is found anew for each request by what surrounds every route, so a session is worth
//! nothing without a token; and what a tool needs to know of a run is in its id, never in a session.

mod answer;
mod catalogue;
mod deploys;
mod files;
mod gateway;
mod live;
mod profile;
mod projects;
mod prompts;
mod resources;
mod runs;
mod server;
mod sessions;
mod tasks;
mod tool;

use crate::http::Shared;
use axum::routing::MethodRouter;
use rmcp::ServerHandler;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use server::Server;
use sessions::Sessions;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// As much as any other request's body.
const MAX_BODY_BYTES: usize = 16 << 20;

/// What answers at `/mcp`, made when the service is there; the token ends all sessions.
pub(crate) type Endpoint = Box<dyn FnOnce(&Shared, CancellationToken) -> MethodRouter<Shared> + Send>;

/// Our tools.
pub(crate) fn endpoint() -> Endpoint {
    Box::new(|service, stop| {
        let service = Arc::clone(service);
        serve(move || Server::new(Arc::clone(&service)), stop)
    })
}

/// Somebody else's, in the same surroundings.
pub(crate) fn endpoint_of<H: ServerHandler>(make: fn() -> H) -> Endpoint {
    Box::new(move |_, stop| serve(make, stop))
}

fn serve<H: ServerHandler>(
    make: impl Fn() -> H + Send + Sync + 'static,
    stop: CancellationToken,
) -> MethodRouter<Shared> {
    let config = StreamableHttpServerConfig::default()
        .with_cancellation_token(stop)
        .with_max_request_body_bytes(MAX_BODY_BYTES)
        // Whoever gets here has passed our own check of both, which is stricter.
        .disable_allowed_hosts()
        .disable_allowed_origins();
    let service = StreamableHttpService::new(move || Ok(make()), Arc::<Sessions>::default(), config);
    axum::routing::any_service(service)
}
