//! Tiers, the faucet and the account of a wallet: all free here, and said to be.

use super::projects::{TIERS, check_tier};
use super::{Answer, Api, parse};
use crate::auth::Caller;
use crate::error::{Refusal, Result};
use crate::gateway::Gateway;
use crate::rules::limits;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(super) async fn tiers() -> Json<Value> {
    let tier = |name: &&str| {
        let free = json!({"price": "0", "lease_days": null, "storage_mb": null, "api_calls": null, "max_functions": null,
            "function_limits": limits(), "description": "free on this machine"});
        ((*name).to_owned(), free)
    };
    Json(json!({"tiers": TIERS.iter().map(tier).collect::<serde_json::Map<_, _>>()}))
}

pub(super) async fn status(State(api): State<Api>, headers: HeaderMap) -> Answer {
    let answered = api.answer(headers, move |gateway, caller| {
        let wallet = caller.wallet()?;
        let lease = gateway.store().lease(wallet)?;
        let projects = gateway.store().projects_of(wallet, None, usize::MAX >> 1)?;
        let bytes = projects.iter().map(|project| gateway.store().stored_bytes(&project.id)).sum::<Result<u64>>()?;
        Ok(json!({"wallet": wallet, "tier": lease.tier, "lease_started_at": lease.started_at, "lease_expires_at": null, "active": true,
            "organization_lifecycle_state": "active", "lease_perpetual": true, "function_limits": limits(),
            "pool_usage": {"projects": projects.len(), "total_api_calls": 0, "total_storage_bytes": bytes,
                "api_calls_limit": null, "storage_bytes_limit": null}}))
    });
    answered.await
}

pub(super) async fn set_tier(State(api): State<Api>, Path(tier): Path<String>, headers: HeaderMap) -> Answer {
    check_tier(&tier)?;
    let answered = api.answer(headers, move |gateway, caller| {
        let wallet = caller.wallet()?;
        let before = gateway.store().lease(wallet)?;
        let lease = gateway.store().set_tier(wallet, &tier)?;
        let rank = |tier: &str| TIERS.iter().position(|known| *known == tier);
        let action = match before.started_at {
            None => "subscribe",
            Some(_) if before.tier == tier => "renew",
            Some(_) if rank(&before.tier) < rank(&tier) => "upgrade",
            Some(_) => "downgrade",
        };
        let previous = before.started_at.map(|_| before.tier);
        Ok(json!({"wallet": wallet, "action": action, "tier": lease.tier, "previous_tier": previous,
            "lease_started_at": lease.started_at, "lease_expires_at": null, "allowance_remaining_usd_micros": 0}))
    });
    answered.await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FaucetRequest {
    address: String,
}

/// There is no money here, and none is needed: every wallet counts as funded.
pub(super) async fn faucet(body: Bytes) -> Answer {
    let FaucetRequest { address } = parse(&body)?;
    let digits = address.strip_prefix("0x").unwrap_or_default();
    if digits.len() != 40 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Refusal::bad("BAD_FIELD", "an address is 0x and 40 hexadecimal digits"));
    }
    Ok(Json(json!({"transaction_hash": format!("0x{}", "0".repeat(64)), "amount_usd_micros": 0, "token": "none",
        "network": "local", "address": address})))
}

/// The one organization of a wallet: a UUID that is made of its address.
pub(super) fn organization(wallet: &str) -> String {
    let digest = hex::encode(Sha256::digest(wallet.as_bytes()));
    // Version 8 and the variant of RFC 9562: a UUID of one's own making.
    format!("{}-{}-8{}-8{}-{}", &digest[..8], &digest[8..12], &digest[13..16], &digest[17..20], &digest[20..32])
}

fn balance(gateway: &Gateway, wallet: &str) -> Result<Value> {
    let tier = gateway.store().lease(wallet)?.tier;
    Ok(
        json!({"org_id": organization(wallet), "available_usd_micros": 0, "held_usd_micros": 0, "email_credits_remaining": 0,
        "tier": tier, "lease_expires_at": null, "auto_recharge_enabled": false, "auto_recharge_threshold": 0}),
    )
}

#[derive(Debug, Deserialize)]
pub(super) struct Lookup {
    #[serde(default)]
    wallet: Option<String>,
    #[serde(default)]
    email: Option<String>,
}

pub(super) async fn lookup(State(api): State<Api>, Query(query): Query<Lookup>, headers: HeaderMap) -> Answer {
    let answered = api.answer(headers, move |gateway, caller| {
        let wallet = caller.wallet()?;
        let own = query.email.is_none() && query.wallet.is_none_or(|asked| asked.eq_ignore_ascii_case(wallet));
        match own {
            true => balance(gateway, wallet),
            false => Err(foreign()),
        }
    });
    answered.await
}

fn foreign() -> Refusal {
    Refusal::forbidden("a wallet sees its own account only")
}

/// The caller's wallet, when the organization is its own.
fn own<'a>(caller: &'a Caller, org: &str) -> Result<&'a str> {
    let wallet = caller.wallet()?;
    let same = org == organization(wallet) || org.eq_ignore_ascii_case(wallet);
    if same { Ok(wallet) } else { Err(foreign()) }
}

pub(super) async fn billing(State(api): State<Api>, Path(org): Path<String>, headers: HeaderMap) -> Answer {
    api.answer(headers, move |gateway, caller| balance(gateway, own(caller, &org)?)).await
}

/// Nothing was ever paid.
pub(super) async fn history(State(api): State<Api>, Path(org): Path<String>, headers: HeaderMap) -> Answer {
    let answered = api.answer(headers, move |_, caller| {
        let wallet = own(caller, &org)?;
        Ok(json!({"org_id": organization(wallet), "entries": [], "has_more": false, "next_cursor": null}))
    });
    answered.await
}

pub(super) async fn checkout(State(api): State<Api>, Path(org): Path<String>, headers: HeaderMap) -> Answer {
    let answered = api.answer(headers, move |_, caller| {
        own(caller, &org)?;
        Err(Refusal::not_here("nothing costs anything on this gateway, so that nothing can be bought"))
    });
    answered.await
}

#[cfg(test)]
mod tests {
    use super::organization;

    #[test]
    fn an_organization_is_a_uuid_and_stays() {
        let id = organization("0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266");
        let parts: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(id, organization("0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266"));
        assert_ne!(id, organization("0x0"));
    }
}
