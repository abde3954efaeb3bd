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
mod projects;
mod prompts;
mod resources;
mod runs;
mod server;
mod tool;

use crate::service::Service;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use server::Server;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// As much as any other request's body.
const MAX_BODY_BYTES: usize = 16 << 20;

/// What answers at `/mcp`. `stop` ends all sessions.
pub(crate) fn endpoint(
    service: &Arc<Service>,
    stop: CancellationToken,
) -> StreamableHttpService<Server, LocalSessionManager> {
    let config = StreamableHttpServerConfig::default()
        .with_cancellation_token(stop)
        .with_max_request_body_bytes(MAX_BODY_BYTES)
        // Whoever gets here has passed our own check of both, which is stricter.
        .disable_allowed_hosts()
        .disable_allowed_origins();
    let service = Arc::clone(service);
    StreamableHttpService::new(move || Ok(Server::new(Arc::clone(&service))), Arc::default(), config)
}
