//! The gateway's calls as tools, from one table: `tools/*.toml`, a file for each group.
//!
//! Input: a tool and its arguments as JSON; output: the gateway's answer. An entry of the table says everything of a tool
//! that is thin: its words, the shape of its arguments, and the request that they become. So adding a tool is adding an
//! entry. Names and parameters are those of the vendor's own server.

mod by_hand;
mod table;
mod thin;

pub use table::{Effect, Param, Tool, all, named};

use crate::account::Account;
use crate::error::Error;
use serde_json::{Map, Value, json};

/// Calls a tool. `project` is meant where the tool may leave it out; the active one when there is none.
///
/// Refused before anything is sent when an argument is missing, unknown, or not what the table says.
pub async fn call(
    tool: &Tool,
    account: &Account,
    arguments: &Map<String, Value>,
    project: Option<&str>,
) -> Result<Value, Error> {
    if let Some(successor) = &tool.replaced_by {
        tool.check(arguments)?;
        return Ok(json!({"replaced_by": successor, "done": false}));
    }
    let active = match project {
        Some(project) => Some(project.to_owned()),
        None => account.active_project()?,
    };
    if tool.is_by_hand() {
        return by_hand::call(tool, account, arguments, active.as_deref()).await;
    }
    Ok(thin::call(tool, &account.client, arguments, active.as_deref()).await?.value())
}
