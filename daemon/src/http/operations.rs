//! Is it alive, is it ready, what can this host do, how much was done.

use super::Shared;
use super::json::Json;
use super::openapi::Problems;
use super::problem::Failure;
use crate::tokens::Caller;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use sandbox_wire::{Code, DoctorReport, Health, Problem, Ready};

/// Calls that need no token: they say nothing about anybody.
pub(crate) fn is_open(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/api/v1/healthz" | "/api/v1/readyz")
}

/// Whether the daemon answers
#[utoipa::path(get, path = "/healthz", tag = "operations", operation_id = "healthz", security(()),
    responses((status = 200, description = "It does", body = Health), Problems))]
pub(crate) async fn healthz() -> Json<Health> {
    Json(Health {
        status: "ok".to_owned(),
        service: "sandboxd".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Whether the daemon takes runs
#[utoipa::path(get, path = "/readyz", tag = "operations", operation_id = "readyz", security(()),
    responses((status = 200, description = "It does", body = Ready), Problems))]
pub(crate) async fn readyz(State(service): State<Shared>) -> Result<Json<Ready>, Failure> {
    if service.draining() {
        return Err(Problem::new(Code::Draining, "the daemon is stopping").into());
    }
    Ok(Json(Ready { ready: true, active_runs: service.active.len() as u64 }))
}

/// What this host can enforce
#[utoipa::path(get, path = "/doctor", tag = "operations", operation_id = "doctor",
    responses((status = 200, description = "What was found, and how to mend what is missing", body = DoctorReport), Problems))]
pub(crate) async fn doctor(State(service): State<Shared>, _: Caller) -> Result<Json<DoctorReport>, Failure> {
    Ok(Json(service.doctor().await?))
}

/// Counters
#[utoipa::path(get, path = "/metrics", tag = "operations", operation_id = "metrics",
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain"), Problems))]
pub(crate) async fn metrics(State(service): State<Shared>, _: Caller) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], service.metrics_text())
}
