//! Tools about the wallet of this computer, which may have to be made first.

use super::{Tool, value};
use crate::account::Account;
use crate::api::wallets;
use crate::client::{Client, Identity};
use crate::environment::Environment;
use crate::error::Error;
use crate::keys::KeyCache;
use crate::wallet::{Rail, Wallet};
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub(super) async fn call(
    tool: &Tool,
    environment: &Environment,
    arguments: &Map<String, Value>,
) -> Result<Value, Error> {
    tool.check(arguments)?;
    match tool.name.as_str() {
        "allowance_status" => value(wallets::local_status(environment)?),
        "allowance_create" => value(wallets::create(environment)?),
        "allowance_export" => Ok(json!({"address": wallets::export(environment)?})),
        "init" => init(environment, arguments).await,
        "status" => {
            // Not made on the way: who asks how things are wants to know that there is none.
            wallets::export(environment)?;
            let account = Account::open(environment)?;
            value(wallets::status(&account.client, environment, account.active_project()?).await?)
        }
        name => Err(Error::local("LOCAL_ERROR", format!("{name} is in the table, and nothing calls it"))),
    }
}

async fn init(environment: &Environment, arguments: &Map<String, Value>) -> Result<Value, Error> {
    let mut wallet = match Wallet::load(environment)? {
        Some(wallet) => wallet,
        None => Wallet::create(environment)?,
    };
    let rail = match arguments.get("rail").and_then(Value::as_str) {
        Some("mpp") => Some(Rail::Mpp),
        Some(_) => Some(Rail::X402),
        None => None,
    };
    if let Some(rail) = rail {
        wallet.set_rail(rail).await?;
    }
    let address = wallet.address().to_lower();
    let keys = KeyCache::new(environment, &environment.deploy_base, Some(&address));
    let projects = keys.projects()?.len();
    let connect = |wallet: &Wallet| {
        Client::new(environment.deploy_base.as_str(), Identity::Wallet(wallet.signer()), Arc::new(keys))
    };
    value(wallets::init(environment, projects, connect).await?)
}
