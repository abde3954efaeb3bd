//! Secrets and names of a project.

use super::{Answer, Api, parse};
use crate::error::{Refusal, Result};
use crate::rules::is_subdomain;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use run402::deploy::rules::is_secret_key;
use serde::Deserialize;
use serde_json::{Value, json};

const MAX_SECRET_BYTES: usize = 4096;

pub(super) async fn secrets(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.served(&id)?;
        Ok(json!({"secrets": gateway.store().secrets(&project.id)?}))
    });
    answered.await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretRequest {
    key: String,
    value: String,
}

pub(super) async fn set_secret(
    State(api): State<Api>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let SecretRequest { key, value } = parse(&body)?;
    if !is_secret_key(&key) {
        return Err(Refusal::bad("BAD_FIELD", "a key is 1 to 128 upper-case letters, digits and _, no digit first"));
    }
    if value.len() > MAX_SECRET_BYTES {
        return Err(Refusal::bad("BAD_FIELD", format!("a value has at most {MAX_SECRET_BYTES} bytes")));
    }
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.served(&id)?;
        gateway.store().set_secret(&project.id, &key, &value)?;
        Ok(json!({"status": "ok", "key": key}))
    });
    answered.await
}

pub(super) async fn delete_secret(
    State(api): State<Api>,
    Path((id, key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.served(&id)?;
        match gateway.store().delete_secret(&project.id, &key)? {
            true => Ok(json!({"status": "deleted", "key": key})),
            false => Err(Refusal::not_found("secret", "SECRET_NOT_FOUND")),
        }
    });
    answered.await
}

pub(super) async fn subdomains(State(api): State<Api>, headers: HeaderMap) -> Answer {
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.any_served()?;
        Ok(json!({"subdomains": gateway.store().subdomains(&project.id)?}))
    });
    answered.await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimRequest {
    name: String,
    deployment_id: String,
}

pub(super) async fn claim(State(api): State<Api>, headers: HeaderMap, body: Bytes) -> Answer {
    let ClaimRequest { name, deployment_id } = parse(&body)?;
    // A project's own host name cannot be taken from it.
    if !is_subdomain(&name) {
        return Err(Refusal::bad(
            "BAD_FIELD",
            "a name is 1 to 63 lower-case letters, digits and -, and does not start with prj-",
        ));
    }
    let answered = api.answer(headers, move |gateway, caller| {
        let project = caller.any_served()?;
        let release = gateway.store().release(&project.id, &deployment_id.replacen("dpl_", "rel_", 1))?;
        release.ok_or_else(|| Refusal::not_found("deployment", "DEPLOYMENT_NOT_FOUND"))?;
        let claimed = gateway.store().claim_subdomain(&project.id, &name, &deployment_id)?;
        let urls = gateway.site_urls(&project, Some(&name));
        let mut answer = serde_json::to_value(&claimed).map_err(Refusal::internal)?;
        answer["url"] = json!(urls.host);
        answer["deployment_url"] = json!(urls.path);
        Ok(answer)
    });
    answered.await
}

pub(super) async fn release(State(api): State<Api>, Path(name): Path<String>, headers: HeaderMap) -> Answer {
    let answered = api.answer(headers, move |gateway, caller| -> Result<Value> {
        let project = caller.any_served()?;
        match gateway.store().delete_subdomain(&project.id, &name)? {
            true => Ok(json!({"status": "deleted", "name": name})),
            false => Err(Refusal::not_found("subdomain", "SUBDOMAIN_NOT_FOUND")),
        }
    });
    answered.await
}
