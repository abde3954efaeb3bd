//! Projects: made, listed, renamed, deleted; their database and what they use.

use super::{Rest, query};
use crate::client::{Auth, Client, KeyPair, Secret};
use crate::deploy::encoded;
use crate::error::Error;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A project that was just made, with its keys: to be stored at once.
#[derive(Debug, Clone)]
pub struct Provisioned {
    pub project_id: String,
    pub keys: KeyPair,
    pub schema_slot: Option<String>,
    pub rest: Rest,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct NewProject {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org_id: Option<String>,
}

/// May answer that it has to be paid.
pub async fn provision(client: &Client, project: &NewProject) -> Result<Provisioned, Error> {
    #[derive(Deserialize)]
    struct Answer {
        project_id: String,
        anon_key: String,
        service_key: String,
        #[serde(default)]
        schema_slot: Option<Value>,
        #[serde(flatten)]
        rest: Rest,
    }
    let answer: Answer =
        client.post("/projects/v1", Auth::Wallet).json(project)?.receive("provisioning the project").await?;
    let slot = answer.schema_slot.map(|slot| slot.as_str().map_or_else(|| slot.to_string(), str::to_owned));
    Ok(Provisioned {
        project_id: answer.project_id,
        keys: KeyPair { anon: Secret::new(answer.anon_key), service: Secret::new(answer.service_key) },
        schema_slot: slot,
        rest: answer.rest,
    })
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProjectRecord {
    #[serde(alias = "project_id")]
    pub id: String,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub site_url: Option<String>,
    #[serde(flatten)]
    pub rest: Rest,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProjectPage {
    pub projects: Vec<ProjectRecord>,
    #[serde(default)]
    pub has_more: bool,
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// One page of the wallet's projects; `after` is the cursor of the page before.
pub async fn list(client: &Client, limit: Option<u32>, after: Option<&str>) -> Result<ProjectPage, Error> {
    let query = query(&[("limit", limit.map(|limit| limit.to_string())), ("after", after.map(str::to_owned))]);
    client.get(format!("/projects/v1{query}"), Auth::Wallet).receive("listing projects").await
}

pub async fn get(client: &Client, project: &str) -> Result<ProjectRecord, Error> {
    client.get(format!("/projects/v1/{}", encoded(project)), Auth::Wallet).receive("reading the project").await
}

pub async fn rename(client: &Client, project: &str, name: &str) -> Result<Value, Error> {
    let path = format!("/projects/v1/{}", encoded(project));
    let request = client.request(Method::PATCH, path, Auth::Wallet).json(&json!({"name": name}))?;
    Ok(request.send("renaming the project").await?.value())
}

/// Destroys the project with everything in it.
pub async fn delete(client: &Client, project: &str) -> Result<Value, Error> {
    let path = format!("/projects/v1/{}", encoded(project));
    Ok(client.delete(path, Auth::Service(project)).send("deleting the project").await?.value())
}

pub async fn usage(client: &Client, project: &str) -> Result<Value, Error> {
    Ok(client.get(admin(project, "usage"), Auth::Service(project)).send("reading the usage").await?.value())
}

pub async fn schema(client: &Client, project: &str) -> Result<Value, Error> {
    Ok(client.get(admin(project, "schema"), Auth::Service(project)).send("reading the schema").await?.value())
}

fn admin(project: &str, what: &str) -> String {
    format!("/projects/v1/admin/{}/{what}", encoded(project))
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SqlResult {
    #[serde(default)]
    pub status: Option<String>,
    #[serde(default)]
    pub schema: Option<String>,
    #[serde(default)]
    pub rows: Vec<Value>,
    #[serde(default)]
    pub row_count: Option<u64>,
    #[serde(flatten)]
    pub rest: Rest,
}

/// Runs SQL in the project's schema; `$1`, `$2` … are taken from `params`.
pub async fn run_sql(client: &Client, project: &str, sql: &str, params: &[Value]) -> Result<SqlResult, Error> {
    let request = client.post(admin(project, "sql"), Auth::Service(project));
    let request = match params {
        [] => request.bytes(sql.to_owned(), Some("text/plain")),
        params => request.json(&json!({"sql": sql, "params": params}))?,
    };
    request.receive("running SQL").await
}
