//! The wallet of this computer, as the tools see it: made, shown, filled with test money, and looked up.

use super::tiers::{self, TierStatus};
use super::{Rest, projects, query};
use crate::client::{Auth, Client};
use crate::environment::Environment;
use crate::error::Error;
use crate::wallet::{self, Rail, Wallet};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;

/// What may be shown of a wallet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalletStatus {
    pub configured: bool,
    pub path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rail: Option<Rail>,
    pub funded: bool,
}

/// `allowance_status`. Local. Blocking: reads a file.
pub fn local_status(environment: &Environment) -> Result<WalletStatus, Error> {
    let wallet = Wallet::load(environment)?;
    Ok(WalletStatus {
        configured: wallet.is_some(),
        path: wallet::path(environment),
        address: wallet.as_ref().map(|wallet| wallet.address().to_lower()),
        rail: wallet.as_ref().map(Wallet::rail),
        funded: wallet.as_ref().is_some_and(Wallet::is_funded),
    })
}

/// `allowance_create`. Local; never in place of another wallet. Blocking: writes a file.
pub fn create(environment: &Environment) -> Result<WalletStatus, Error> {
    Wallet::create(environment)?;
    local_status(environment)
}

/// `allowance_export`: the address. The key itself is in the file and stays there.
pub fn export(environment: &Environment) -> Result<String, Error> {
    let wallet = Wallet::load(environment)?;
    wallet.map(|wallet| wallet.address().to_lower()).ok_or_else(|| no_wallet(environment))
}

fn no_wallet(environment: &Environment) -> Error {
    Error::local("NO_WALLET", format!("there is no wallet in {}", wallet::path(environment).display()))
}

/// Test money that was given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Funding {
    #[serde(default)]
    pub transaction_hash: Option<String>,
    #[serde(default)]
    pub amount_usd_micros: Option<u64>,
    #[serde(flatten)]
    pub rest: Rest,
}

/// `request_faucet`: test money for an address. Anybody may ask.
pub async fn faucet(client: &Client, address: &str) -> Result<Funding, Error> {
    let request = client.post("/faucet/v1", Auth::Public).json(&json!({"address": address}))?;
    request.receive("asking for test money").await
}

/// A part of a composite answer that may be missing, with the reason.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part<T> {
    Here(T),
    /// It was not asked for, since it was there.
    NotNeeded,
    Unavailable(String),
}

impl<T> From<Result<T, Error>> for Part<T> {
    fn from(result: Result<T, Error>) -> Self {
        match result {
            Ok(part) => Self::Here(part),
            Err(error) => Self::Unavailable(error.to_string()),
        }
    }
}

/// What [`init`] has found or made.
#[derive(Debug, Clone, Serialize)]
pub struct Initialised {
    pub config: PathBuf,
    pub address: String,
    pub rail: Rail,
    pub faucet: Part<Funding>,
    pub tier: Part<TierStatus>,
    /// How many projects have their keys here.
    pub projects: usize,
}

/// The first set-up: a wallet when there is none, test money when it has none, a look at the tier. What the
/// gateway refuses is told, not raised. `connect` makes a client that signs with the wallet.
pub async fn init(
    environment: &Environment,
    projects: usize,
    connect: impl FnOnce(&Wallet) -> Result<Client, Error>,
) -> Result<Initialised, Error> {
    let mut wallet = match Wallet::load(environment)? {
        Some(wallet) => wallet,
        None => Wallet::create(environment)?,
    };
    let client = connect(&wallet)?;
    let address = wallet.address().to_lower();
    let faucet = match (wallet.is_funded(), wallet.rail()) {
        (true, _) => Part::NotNeeded,
        (false, Rail::Mpp) => Part::Unavailable("the wallet pays on a test network that has no faucet here".to_owned()),
        (false, Rail::X402) => {
            let given = faucet(&client, &address).await;
            if given.is_ok() {
                wallet.set_funded().await?;
            }
            given.into()
        }
    };
    let tier = tiers::status(&client).await.into();
    Ok(Initialised { config: environment.config.clone(), address, rail: wallet.rail(), faucet, tier, projects })
}

/// Wallet, credit, tier and projects on one page.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    pub address: String,
    pub rail: Rail,
    /// The organisation of the wallet: its label, prepaid credit and what is held.
    pub organization: Part<Value>,
    pub tier: Part<TierStatus>,
    pub projects: Part<projects::ProjectPage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
}

/// `status`: asks for all parts at once; each may be unavailable by itself. Without a wallet it is an error.
pub async fn status(client: &Client, environment: &Environment, active: Option<String>) -> Result<Snapshot, Error> {
    let wallet = Wallet::load(environment)?.ok_or_else(|| no_wallet(environment))?;
    let address = wallet.address().to_lower();
    let (tier, organization, projects) =
        tokio::join!(tiers::status(client), organization(client, &address), projects::list(client, None, None));
    Ok(Snapshot {
        address,
        rail: wallet.rail(),
        organization: organization.into(),
        tier: tier.into(),
        projects: projects.into(),
        active,
    })
}

async fn organization(client: &Client, address: &str) -> Result<Value, Error> {
    let path = format!("/orgs/v1/lookup{}", query(&[("wallet", Some(address.to_owned()))]));
    Ok(client.get(path, Auth::Wallet).send("looking up the wallet's organisation").await?.value())
}
