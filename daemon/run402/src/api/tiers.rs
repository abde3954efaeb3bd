//! Tiers: what they cost, which one is in force, subscribing.

use super::Rest;
use crate::client::{Auth, Client};
use crate::deploy::encoded;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TierStatus {
    #[serde(default)]
    pub wallet: Option<String>,
    #[serde(default)]
    pub tier: Option<String>,
    #[serde(default)]
    pub active: Option<bool>,
    #[serde(default)]
    pub lease_expires_at: Option<String>,
    #[serde(flatten)]
    pub rest: Rest,
}

/// Prices; anybody may ask.
pub async fn list(client: &Client) -> Result<Value, Error> {
    Ok(client.get("/tiers/v1", Auth::Public).send("listing tiers").await?.value())
}

pub async fn status(client: &Client) -> Result<TierStatus, Error> {
    client.get("/tiers/v1/status", Auth::Wallet).receive("reading the tier").await
}

/// May answer that it has to be paid.
pub async fn set(client: &Client, tier: &str) -> Result<Value, Error> {
    let path = format!("/tiers/v1/{}", encoded(tier));
    Ok(client.post(path, Auth::Wallet).json(&json!({}))?.send("setting the tier").await?.value())
}
