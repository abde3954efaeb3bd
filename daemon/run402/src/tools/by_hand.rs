//! Tools that are more than one request, or whose answer is not for everybody.

use super::Tool;
use crate::account::Account;
use crate::api::projects::{self, NewProject};
use crate::error::Error;
use serde_json::{Map, Value};

pub(super) async fn call(tool: &Tool, account: &Account, arguments: &Map<String, Value>) -> Result<Value, Error> {
    tool.check(arguments)?;
    match tool.name.as_str() {
        "provision_postgres_project" => provision(account, arguments).await,
        name => Err(Error::local("LOCAL_ERROR", format!("{name} is in the table, and nothing calls it"))),
    }
}

/// The keys stay on this machine: whoever calls needs the project's name only.
async fn provision(account: &Account, arguments: &Map<String, Value>) -> Result<Value, Error> {
    let text = |name: &str| arguments.get(name).and_then(Value::as_str).map(str::to_owned);
    let tier = text("tier").or_else(|| Some("prototype".to_owned()));
    let wanted = NewProject { tier, name: text("name"), org_id: text("org_id") };
    let made = projects::provision(&account.client, &wanted).await?;
    account.keys.save_project(&made.project_id, &made.keys).await?;
    let mut answer = made.rest;
    answer.insert("project_id".to_owned(), made.project_id.into());
    answer.extend(made.schema_slot.map(|slot| ("schema_slot".to_owned(), slot.into())));
    Ok(answer.into())
}
