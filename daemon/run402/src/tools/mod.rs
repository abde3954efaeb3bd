//! The gateway's calls as tools, from one table: `tools/*.toml`, a file for each group.
//!
//! Input: a tool and its arguments as JSON; output: the gateway's answer. An entry of the table says everything of a tool
//! that is thin: its words, the shape of its arguments, and the request that they become. So adding a tool is adding an
//! entry. Names and parameters are those of the vendor's own server.

mod by_hand;
mod files;
mod releasing;
mod signing;
mod table;
mod thin;
mod wallet;

pub use files::{Files, LocalFiles, NoFiles, Written};
pub use table::{Effect, Param, Tool, all, named};

use crate::account::Account;
use crate::environment::Environment;
use crate::error::Error;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Where a tool is called.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub account: &'a Account,
    /// The project that is meant where a call names none; the active one, if the tool allows that, when it is absent.
    pub project: Option<&'a str>,
    /// What names of files mean.
    pub files: &'a dyn Files,
}

/// Calls a tool.
///
/// Refused before anything is sent when an argument is missing, unknown, or not what the table says.
pub async fn call(tool: &Tool, context: Context<'_>, arguments: &Map<String, Value>) -> Result<Value, Error> {
    let arguments = &with_project(tool, context.project, arguments);
    if let Some(successor) = &tool.replaced_by {
        tool.check(arguments)?;
        return Ok(json!({"replaced_by": successor, "done": false}));
    }
    if tool.is_local() {
        return wallet::call(tool, &context.account.environment, arguments).await;
    }
    let active = match context.project {
        Some(project) => Some(project.to_owned()),
        None => context.account.active_project()?,
    };
    if tool.is_by_hand() {
        return by_hand::call(tool, context, arguments, active.as_deref()).await;
    }
    Ok(thin::call(tool, &context.account.client, arguments, active.as_deref()).await?.value())
}

/// Calls a tool that [`Tool::is_local`]: there need not be a wallet yet.
pub async fn call_local(
    tool: &Tool,
    environment: &Environment,
    arguments: &Map<String, Value>,
) -> Result<Value, Error> {
    wallet::call(tool, environment, arguments).await
}

/// What a typed call has answered, as a tool answers it.
fn value(answer: impl Serialize) -> Result<Value, Error> {
    serde_json::to_value(answer).map_err(|error| Error::local("LOCAL_ERROR", error.to_string()))
}

/// Where a tool has to be told its project, that of the caller counts as told.
fn with_project(tool: &Tool, project: Option<&str>, arguments: &Map<String, Value>) -> Map<String, Value> {
    let mut arguments = arguments.clone();
    if let (Some(project), Some(param)) = (project, tool.project_param()) {
        arguments.entry(param.name.clone()).or_insert_with(|| project.into());
    }
    arguments
}
