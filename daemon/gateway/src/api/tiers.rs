//! Tiers, the faucet and the account: all free here, and said to be.

use super::projects::{TIERS, check_tier};
use super::{Answer, Api, parse};
use crate::ids;
use crate::rules::limits;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) async fn list() -> Json<Value> {
    let tier = |name: &str| {
        (
            name.to_owned(),
            json!({"price": "0", "lease_days": null, "storage_mb": null, "api_calls": null,
        "max_functions": null, "description": "free on this machine"}),
        )
    };
    Json(json!({"tiers": TIERS.iter().map(|name| tier(name)).collect::<serde_json::Map<_, _>>()}))
}

pub(super) async fn status(State(api): State<Api>, headers: HeaderMap) -> Answer {
    let answered = api.answer(headers, move |gateway, caller| {
        let wallet = caller.wallet()?;
        let projects = gateway.store().projects_of(wallet, None, 1000)?;
        let tier = projects.first().map_or("prototype", |project| project.tier.as_str());
        let bytes = projects
            .iter()
            .map(|project| gateway.store().stored_bytes(&project.id))
            .sum::<crate::error::Result<u64>>()?;
        Ok(json!({"wallet": wallet, "tier": tier, "lease_started_at": null, "lease_expires_at": null, "active": true,
            "organization_lifecycle_state": "active", "lease_perpetual": true, "function_limits": limits(),
            "pool_usage": {"projects": projects.len(), "total_api_calls": 0, "total_storage_bytes": bytes,
                "api_calls_limit": null, "storage_bytes_limit": null}}))
    });
    answered.await
}

pub(super) async fn set(State(api): State<Api>, Path(tier): Path<String>, headers: HeaderMap) -> Answer {
    check_tier(&tier)?;
    let answered = api.answer(headers, move |gateway, caller| {
        let wallet = caller.wallet()?;
        gateway.store().set_tier(wallet, &tier)?;
        Ok(json!({"wallet": wallet, "action": "subscribe", "tier": tier, "previous_tier": null, "lease_started_at": ids::now(),
            "lease_expires_at": null, "allowance_remaining_usd_micros": 0}))
    });
    answered.await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FaucetRequest {
    address: String,
}

/// There is no money here, and none is needed.
pub(super) async fn faucet(body: Bytes) -> Answer {
    let request: FaucetRequest = parse(&body)?;
    Ok(Json(
        json!({"transaction_hash": null, "amount_usd_micros": 0, "token": null, "network": "local", "address": request.address}),
    ))
}

#[derive(Debug, Deserialize)]
pub(super) struct Lookup {
    #[serde(default)]
    wallet: Option<String>,
}

pub(super) async fn lookup(State(api): State<Api>, Query(query): Query<Lookup>, headers: HeaderMap) -> Answer {
    let answered = api.answer(headers, move |_, caller| {
        let wallet = caller.wallet()?;
        Ok(json!({"org_id": format!("org_{}", query.wallet.as_deref().unwrap_or(wallet)), "available_usd_micros": 0, "held_usd_micros": 0,
            "email_credits_remaining": 0, "tier": null, "lease_expires_at": null, "auto_recharge_enabled": false,
            "auto_recharge_threshold": null}))
    });
    answered.await
}
