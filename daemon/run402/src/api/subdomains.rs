//! Names under the gateway's own domain.

use super::Rest;
use crate::client::{Auth, Client};
use crate::deploy::encoded;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const PATH: &str = "/subdomains/v1";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Subdomain {
    pub name: String,
    #[serde(default)]
    pub deployment_id: Option<String>,
    #[serde(default)]
    pub url: Option<String>,
    #[serde(flatten)]
    pub rest: Rest,
}

/// Points a name at a deployment of the project.
pub async fn claim(client: &Client, project: &str, name: &str, deployment_id: &str) -> Result<Subdomain, Error> {
    let body = json!({"name": name, "deployment_id": deployment_id});
    client.post(PATH, Auth::Service(project)).json(&body)?.receive("claiming the subdomain").await
}

pub async fn list(client: &Client, project: &str) -> Result<Vec<Subdomain>, Error> {
    #[derive(Deserialize)]
    struct Answer {
        subdomains: Vec<Subdomain>,
    }
    let answer: Answer = client.get(PATH, Auth::Service(project)).receive("listing subdomains").await?;
    Ok(answer.subdomains)
}

pub async fn delete(client: &Client, project: &str, name: &str) -> Result<Value, Error> {
    let path = format!("{PATH}/{}", encoded(name));
    Ok(client.delete(path, Auth::Service(project)).send("deleting the subdomain").await?.value())
}
