//! Reading deploys: operations, their events, releases and what differs between them, what a URL serves.

use super::{Rest, query};
use crate::client::{Auth, Client};
use crate::deploy::encoded;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A deploy as the gateway remembers it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Operation {
    pub operation_id: String,
    #[serde(default)]
    pub status: Option<String>,
    #[serde(default)]
    pub release_id: Option<String>,
    #[serde(default)]
    pub created_at: Option<String>,
    #[serde(flatten)]
    pub rest: Rest,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OperationPage {
    pub operations: Vec<Operation>,
    #[serde(default)]
    pub cursor: Option<Value>,
}

pub async fn list(
    client: &Client,
    project: &str,
    limit: Option<u32>,
    cursor: Option<&str>,
) -> Result<OperationPage, Error> {
    if limit == Some(0) {
        return Err(Error::local("LOCAL_ERROR", "limit is a positive whole number"));
    }
    let query = query(&[("limit", limit.map(|limit| limit.to_string())), ("cursor", cursor.map(str::to_owned))]);
    let path = format!("/apply/v1/operations{query}");
    client.get(path, Auth::Anon(project)).receive("listing deploys").await
}

/// What happened during a deploy.
pub async fn events(client: &Client, project: &str, operation_id: &str) -> Result<Value, Error> {
    if !operation_id.starts_with("op_") {
        let message = format!("{operation_id} is not the id of a deploy: they start with op_");
        return Err(Error::deploy("OPERATION_NOT_FOUND", "validate", "operation_id", message));
    }
    let path = format!("/apply/v1/operations/{}/events", encoded(operation_id));
    Ok(client.get(path, Auth::Anon(project)).send("reading the deploy's events").await?.value())
}

/// Everything that a release holds. `release` is an id, or `active`.
pub async fn get(client: &Client, project: &str, release: &str, site_limit: Option<u32>) -> Result<Value, Error> {
    let query = query(&[("site_limit", site_limit.map(|limit| limit.to_string()))]);
    let path = format!("/apply/v1/releases/{}{query}", encoded(release));
    Ok(client.get(path, Auth::Anon(project)).send("reading the release").await?.value())
}

/// What differs between two releases: ids, `active`, or `empty` to compare with nothing.
pub async fn diff(client: &Client, project: &str, from: &str, to: &str, limit: Option<u32>) -> Result<Value, Error> {
    let query = query(&[
        ("from", Some(from.to_owned())),
        ("to", Some(to.to_owned())),
        ("limit", limit.map(|limit| limit.to_string())),
    ]);
    let path = format!("/apply/v1/releases/diff{query}");
    Ok(client.get(path, Auth::Anon(project)).send("comparing the releases").await?.value())
}

/// Why a public URL answers as it does.
pub async fn diagnose_url(client: &Client, project: &str, url: &str, method: &str) -> Result<Value, Error> {
    let wrong = |message: &str| Error::local("LOCAL_ERROR", format!("{url}: {message}"));
    let parsed = url::Url::parse(url).map_err(|_| wrong("not a URL"))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(wrong("an http or https URL is wanted"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(wrong("the URL must not hold a user name or a password"));
    }
    let host = parsed.host_str().ok_or_else(|| wrong("the URL has no host"))?;
    let query = query(&[
        ("host", Some(host.to_owned())),
        ("path", Some(parsed.path().to_owned())),
        ("method", Some(method.to_uppercase())),
    ]);
    let path = format!("/apply/v1/resolve{query}");
    let mut found = client.get(path, Auth::Anon(project)).send("diagnosing the URL").await?.value();
    let ignored = json!({"query": parsed.query(), "fragment": parsed.fragment()});
    if let Some(fields) = found.as_object_mut() {
        let would_serve = would_serve(&Value::Object(fields.clone()));
        fields.insert("would_serve".to_owned(), json!(would_serve));
        if parsed.query().is_some() || parsed.fragment().is_some() {
            fields.insert("ignored".to_owned(), ignored);
        }
    }
    Ok(found)
}

/// Whether somebody who opens the URL gets what was meant.
fn would_serve(found: &Value) -> bool {
    let allowed = match found.get("authorization_result").and_then(Value::as_str) {
        None => true,
        Some(result) => matches!(result, "authorized" | "not_applicable"),
    };
    let matched = found.get("match").and_then(Value::as_str).unwrap_or_default();
    let status = found.get("result").and_then(Value::as_u64).unwrap_or_default();
    found.get("authorized").and_then(Value::as_bool).unwrap_or(false)
        && allowed
        && (200..400).contains(&status)
        && !matches!(matched, "host_missing" | "route_method_miss")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_served_is_told_from_what_would_not() {
        let base = json!({"authorized": true, "result": 200, "match": "static_exact"});
        assert!(would_serve(&base));
        for (name, value) in [
            ("authorized", json!(false)),
            ("result", json!(404)),
            ("match", json!("host_missing")),
            ("authorization_result", json!("missing_content")),
        ] {
            let mut other = base.clone();
            other[name] = value;
            assert!(!would_serve(&other), "{other}");
        }
    }
}
