//! `/content/v1/plans` and the uploads themselves.

use super::{Answer, Api, parse};
use crate::auth::Caller;
use crate::content::ReceiveError;
use crate::error::{Refusal, Result};
use crate::fault::Point;
use crate::gateway::Gateway;
use crate::ids;
use crate::store::uploads::{ContentPlan, Upload};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use run402::deploy::Digest;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use time::{Duration, OffsetDateTime};

/// Uploads may be sent for so long.
const LIFETIME: Duration = Duration::hours(1);
const MAX_CONTENTS: usize = 200_000;
/// As much as one object may have elsewhere.
const MAX_CONTENT_BYTES: u64 = 5 << 40;
const CHECKSUM: &str = "x-amz-checksum-sha256";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanRequest {
    content: Vec<Wanted>,
    #[serde(default)]
    project_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    sha256: Digest,
    size: u64,
    // A content has no type of its own here: every reference to it has one.
    #[serde(default, rename = "content_type")]
    _content_type: Option<String>,
}

pub(super) async fn plan(State(api): State<Api>, headers: HeaderMap, body: Bytes) -> Answer {
    let request: PlanRequest = parse(&body)?;
    if request.content.len() > MAX_CONTENTS || request.content.iter().any(|wanted| wanted.size > MAX_CONTENT_BYTES) {
        return Err(Refusal::too_large("too many contents, or one that is too large"));
    }
    let answered = api.answer(headers, move |gateway, caller| {
        let project = match &request.project_id {
            Some(id) => caller.reader(gateway, id)?,
            None => caller.keyed()?,
        };
        let mut seen = BTreeSet::new();
        let wanted: Vec<&Wanted> = request.content.iter().filter(|wanted| seen.insert(wanted.sha256)).collect();
        let sizes = gateway.store().sizes(&project.id, wanted.iter().map(|wanted| &wanted.sha256))?;
        let wrong = wanted.iter().zip(&sizes).find(|(wanted, size)| size.is_some_and(|size| size != wanted.size));
        if let Some((wanted, _)) = wrong {
            return Err(Refusal::bad("BAD_FIELD", format!("content {} has another size", wanted.sha256)));
        }
        let present: Vec<bool> = sizes.iter().map(Option::is_some).collect();
        let missing = wanted.iter().zip(&present).filter(|(_, present)| !**present).map(|(wanted, _)| *wanted);
        let uploads: Vec<(Upload, String)> = missing.map(|wanted| upload(gateway, wanted)).collect();
        let expires = OffsetDateTime::now_utc() + LIFETIME;
        let plan = gateway.store().plan_uploads(&project.id, expires.unix_timestamp(), &uploads)?;
        let expires_at = ids::iso(expires);
        let entry = |(wanted, present): (&&Wanted, &bool)| json!({"sha256": wanted.sha256, "missing": !present});
        let entries: Vec<Value> = wanted.iter().zip(&present).map(entry).collect();
        let missing: Vec<Value> =
            uploads.iter().map(|(upload, token)| describe(gateway, upload, token, &expires_at)).collect();
        Ok(json!({"plan_id": plan.id, "expires_at": expires_at, "entries": entries, "missing": missing}))
    });
    answered.await
}

fn upload(gateway: &Gateway, wanted: &Wanted) -> (Upload, String) {
    let config = gateway.config();
    let (part_size, parts) = match wanted.size > config.multipart_above_bytes {
        true => (config.part_bytes, u32::try_from(wanted.size.div_ceil(config.part_bytes)).unwrap_or(u32::MAX)),
        false => (wanted.size, 1),
    };
    let upload = Upload { id: ids::new("upl"), digest: wanted.sha256, size: wanted.size, part_size, parts };
    (upload, ids::secret(""))
}

fn describe(gateway: &Gateway, upload: &Upload, token: &str, expires_at: &str) -> Value {
    let part = |number: u32| {
        let (start, end) = upload.range(number).unwrap_or_default();
        let end = i64::try_from(end).unwrap_or(i64::MAX) - 1;
        let url = format!("{}/uploads/{}/{number}?token={token}", gateway.base(), upload.id);
        json!({"part_number": number, "url": url, "byte_start": start, "byte_end": end})
    };
    json!({
        "sha256": upload.digest, "mode": if upload.parts > 1 { "multipart" } else { "single" },
        "parts": (1..=upload.parts).map(part).collect::<Vec<_>>(), "part_size_bytes": upload.part_size,
        "part_count": upload.parts, "upload_id": upload.id, "staging_key": format!("staging/{}", upload.id),
        "expires_at": expires_at,
    })
}

#[derive(Debug, Deserialize)]
pub(super) struct Token {
    token: String,
    #[serde(default, rename = "x-amz-checksum-sha256")]
    checksum: Option<String>,
}

/// Needs no key: the URL is the permission.
pub(super) async fn receive(
    State(api): State<Api>,
    Path((id, number)): Path<(String, u32)>,
    Query(token): Query<Token>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let secret = token.token;
    let found = api.gateway.blocking(move |gateway| gateway.store().upload(&id, &secret, now)).await?;
    let upload = found.ok_or_else(|| Refusal::forbidden("this upload is not there, or its time has run out"))?;
    let (start, end) = upload.range(number).ok_or_else(|| Refusal::not_found("part", "PART_NOT_FOUND"))?;
    let given = headers.get(CHECKSUM).map(|value| value.to_str().unwrap_or_default().to_owned()).or(token.checksum);
    let given = given
        .ok_or_else(|| Refusal::bad("CHECKSUM_REQUIRED", "an upload says its SHA-256 in x-amz-checksum-sha256"))?;
    let digest = STANDARD.decode(given.trim()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()).map(Digest::new);
    let digest = digest.ok_or_else(|| Refusal::bad("BAD_DIGEST", "the checksum is not the base64 of a SHA-256"))?;
    if upload.parts == 1 && digest != upload.digest {
        return Err(Refusal::bad("BAD_DIGEST", "the checksum is not that of the content"));
    }
    let taken = api.gateway.contents().receive(&upload.id, number, end - start, digest, body.into_data_stream()).await;
    taken.map_err(refused)?;
    Point::PartWritten.pass();
    let tag = HeaderValue::from_str(&format!("\"{digest}\"")).map_err(Refusal::internal)?;
    Ok((StatusCode::OK, [(header::ETAG, tag)]).into_response())
}

fn refused(error: ReceiveError) -> Refusal {
    match error {
        ReceiveError::Disk(error) => error.into(),
        ReceiveError::Digest { .. } => Refusal::bad("BAD_DIGEST", error.to_string()),
        ReceiveError::TooLong { .. } | ReceiveError::TooShort { .. } | ReceiveError::Broken => {
            Refusal::bad("INCOMPLETE_BODY", error.to_string())
        }
    }
}

pub(super) async fn commit(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let committed = api.gateway.blocking(move |gateway| {
        let caller = Caller::read(gateway, &headers)?;
        let plan =
            gateway.store().content_plan(&id)?.ok_or_else(|| Refusal::not_found("content plan", "PLAN_NOT_FOUND"))?;
        caller.reader(gateway, &plan.project)?;
        promote(gateway, &plan)?;
        Ok(json!({"plan_id": plan.id, "status": "committed"}))
    });
    committed.await.map(Json)
}

/// Everything that was sent gets its name, or nothing becomes the project's.
fn promote(gateway: &Gateway, plan: &ContentPlan) -> Result<()> {
    let uploads = gateway.store().uploads(&plan.id)?;
    let contents = gateway.contents();
    let mut wholes = Vec::new();
    for upload in &uploads {
        // Even when the store has the same bytes: a project owns what it has sent, not what it can name.
        let missing = |error: ReceiveError| match error {
            ReceiveError::Disk(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let message = format!("content {} was not uploaded", upload.digest);
                Refusal::deploy(StatusCode::CONFLICT, "CONTENT_MISSING", "upload", "content", message).retry_safe()
            }
            error => refused(error),
        };
        let whole = contents.assemble(&upload.id, upload.parts, &upload.digest).map_err(missing)?;
        wholes.push(whole);
    }
    Point::ContentAssembled.pass();
    contents.sync(&wholes)?;
    for (whole, upload) in wholes.iter().zip(&uploads) {
        contents.promote(whole, &upload.digest)?;
    }
    let digests: Vec<Digest> = uploads.iter().map(|upload| upload.digest).collect();
    contents.sync_names(&digests)?;
    Point::ContentPromoted.pass();
    gateway.store().own_contents(plan, &uploads)?;
    uploads.iter().for_each(|upload| contents.discard(&upload.id, upload.parts));
    Ok(())
}
