//! Secrets of a project's functions: written, listed by name, deleted; never read.

use super::Rest;
use crate::client::{Auth, Client};
use crate::deploy::{encoded, rules::is_secret_key};
use crate::error::Error;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const MAX_VALUE_BYTES: usize = 4096;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SecretRecord {
    pub key: String,
    #[serde(default)]
    pub created_at: Option<Value>,
    #[serde(default)]
    pub updated_at: Option<Value>,
    #[serde(flatten)]
    pub rest: Rest,
}

fn path(project: &str) -> String {
    format!("/projects/v1/admin/{}/secrets", encoded(project))
}

fn check_key(key: &str) -> Result<(), Error> {
    match is_secret_key(key) {
        true => Ok(()),
        false => Err(Error::local(
            "LOCAL_ERROR",
            format!("{key:?}: a secret's key is 1 to 128 upper-case letters, digits and _, no digit first"),
        )),
    }
}

/// Sets or replaces a value of at most 4096 bytes.
pub async fn set(client: &Client, project: &str, key: &str, value: &str) -> Result<Value, Error> {
    check_key(key)?;
    if value.len() > MAX_VALUE_BYTES {
        let message = format!("the value of {key} has {} bytes; at most {MAX_VALUE_BYTES} are allowed", value.len());
        return Err(Error::local("LOCAL_ERROR", message));
    }
    let request = client.post(path(project), Auth::Service(project)).json(&json!({"key": key, "value": value}))?;
    Ok(request.send("setting the secret").await?.value())
}

pub async fn list(client: &Client, project: &str) -> Result<Vec<SecretRecord>, Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Answer {
        Wrapped { secrets: Vec<SecretRecord> },
        Bare(Vec<SecretRecord>),
    }
    let answer = client.get(path(project), Auth::Service(project)).receive("listing secrets").await?;
    Ok(match answer {
        Answer::Wrapped { secrets } | Answer::Bare(secrets) => secrets,
    })
}

pub async fn delete(client: &Client, project: &str, key: &str) -> Result<Value, Error> {
    check_key(key)?;
    let path = format!("{}/{}", path(project), encoded(key));
    Ok(client.delete(path, Auth::Service(project)).send("deleting the secret").await?.value())
}
