//! Planning a release, and making it live.
//!
//! `Spec -> Plan -> Operation -> Release`. A commit is written down before each phase, and everything that
//! becomes visible becomes so in one transaction: whenever the gateway ends, the old or the new release is
//! live, and what was begun is carried on to the same result.

use crate::error::{Refusal, Result};
use crate::fault::Point;
use crate::gateway::Gateway;
use crate::ids;
use crate::release::{self, Manifest};
use crate::spec::{Asset, BaseRelease, ContentRef, RouteTarget, Spec};
use crate::store::deploys::{OperationRecord, PlanRecord, deployment_id};
use crate::store::projects::Project;
use axum::http::StatusCode;
use run402::deploy::Digest;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use time::{Duration, OffsetDateTime};

/// A plan can be committed for so long.
const PLAN_LIFETIME: Duration = Duration::hours(1);
/// A manifest that is sent by reference has at most so many bytes.
const MAX_MANIFEST_BYTES: u64 = 128 << 20;
/// Files that a plan lists in full.
const DIFF_LIMIT: usize = 100_000;

/// How a plan is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stored,
    DryRun,
}

impl Gateway {
    /// A release by reference, from the project's contents.
    pub(crate) fn referenced_spec(&self, project: &str, reference: &ContentRef) -> Result<Value> {
        if !self.store().has_content(project, &reference.sha256)? {
            let message = "the manifest that the plan refers to was not uploaded";
            return Err(Refusal::deploy(StatusCode::CONFLICT, "CONTENT_MISSING", "plan", "manifest_ref", message));
        }
        let bytes = self.contents().read(&reference.sha256, MAX_MANIFEST_BYTES)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Refusal::spec("manifest_ref", format!("the manifest is not JSON: {error}")))
    }

    /// What the release would change; stored unless it is only looked at.
    pub(crate) fn plan(&self, project: &Project, spec: &Spec, kind: Kind) -> Result<Value> {
        let (base, before) = self.base_release(project, spec)?;
        let after = before.apply(spec);
        check_targets(&after)?;
        self.check_database(spec)?;
        check_deps(&after)?;
        let digest = after.digest();
        let is_noop = base.is_some() && before == after;
        let contents = spec.contents();
        let present = self.store().present(&project.id, contents.keys())?;
        let missing: Vec<Value> = contents
            .values()
            .zip(&present)
            .map(|(content, present)| json!({"sha256": content.sha256, "size": content.size, "present": present}))
            .collect();
        let new: BTreeSet<Digest> =
            contents.keys().zip(&present).filter(|(_, present)| !**present).map(|(digest, _)| *digest).collect();
        let secrets = self.store().secret_keys(&project.id)?;
        let now = OffsetDateTime::now_utc();
        let expires = now + PLAN_LIFETIME;
        let record = PlanRecord {
            id: ids::new("plan"),
            operation: ids::new("op"),
            project: project.id.clone(),
            spec: serde_json::to_string(spec).map_err(Refusal::internal)?,
            base: base.clone(),
            live: project.live_release.clone(),
            digest: digest.clone(),
            is_noop,
            created_at: ids::iso(now),
            expires: expires.unix_timestamp(),
        };
        let mut body = release::diff(&before, &after, DIFF_LIMIT);
        count_bytes(&mut body["static_assets"], &after, &new);
        if let Some(assets) = &spec.assets {
            body["asset_entries"] = assets.put.iter().map(|asset| self.asset_entry(&project.id, asset, &new)).collect();
            body["asset_deletes"] =
                json!(before.assets.keys().filter(|key| !after.assets.contains_key(*key)).collect::<Vec<_>>());
        }
        body["migrations"] = migrations(&before, spec);
        let fields = json!({
            "kind": "plan_response", "schema_version": "agent-deploy-observability.v1",
            "base_release_id": base, "manifest_digest": digest, "is_noop": is_noop,
            "summary": summary(&body, is_noop), "expected_events": [], "missing_content": missing,
            "warnings": release::warnings(&after, spec, &secrets), "payment_required": null,
            "plan_fingerprint": digest, "next_actions": [],
        });
        merge(&mut body, fields);
        if kind == Kind::DryRun {
            merge(&mut body, json!({"plan_id": null, "operation_id": null}));
            return Ok(body);
        }
        self.store().save_plan(&record)?;
        Point::PlanStored.pass();
        merge(
            &mut body,
            json!({"plan_id": record.id, "operation_id": record.operation, "plan_expires_at": ids::iso(expires)}),
        );
        Ok(body)
    }

    /// Plans a release and makes it live at once, for changes that the gateway itself makes. The project's
    /// commit lock has to be held.
    pub(crate) fn apply_now(&self, project: &Project, spec: Value) -> Result<()> {
        let spec = Spec::read(spec)?;
        let planned = self.plan(project, &spec, Kind::Stored)?;
        let id = planned["plan_id"].as_str().unwrap_or_default();
        let plan = self.store().plan(id)?.ok_or_else(|| Refusal::internal("a plan that was just made is gone"))?;
        self.store().begin(&plan, None)?;
        let operation = self.store().operation(&plan.operation)?;
        let operation = operation.ok_or_else(|| Refusal::internal("an operation that was just written is gone"))?;
        self.advance(operation).map(drop)
    }

    /// The release that the spec is applied to, and what it holds.
    fn base_release(&self, project: &Project, spec: &Spec) -> Result<(Option<String>, Manifest)> {
        let wrong = |message: &str| Err(Refusal::spec("base", message));
        let id = match spec.base.as_ref().map(|base| (base.release, &base.release_id)) {
            None | Some((Some(BaseRelease::Current), None)) => project.live_release.clone(),
            Some((Some(BaseRelease::Empty), None)) if project.live_release.is_some() => {
                return Err(Refusal::conflict(
                    "BASE_RELEASE_CONFLICT",
                    "the base is empty, but the project has a release",
                ));
            }
            Some((Some(BaseRelease::Empty), None)) => None,
            Some((None, Some(id))) => Some(id.clone()),
            Some(_) => return wrong("a base has either release or release_id"),
        };
        match id {
            None => Ok((None, Manifest::default())),
            Some(id) => match self.store().release(&project.id, &id)? {
                Some(release) => Ok((Some(id), release.manifest)),
                None => wrong("there is no such release"),
            },
        }
    }

    fn check_database(&self, spec: &Spec) -> Result<()> {
        match &spec.database {
            Some(database) if !database.migrations.is_empty() || database.expose.is_some() => Err(Refusal::deploy(
                StatusCode::UNPROCESSABLE_ENTITY,
                "DATABASE_UNAVAILABLE",
                "plan",
                "database",
                "this gateway was started without a database, so that a release must not have a database slice; \
                 start it with --database-url",
            )),
            _ => Ok(()),
        }
    }

    fn asset_entry(&self, project: &str, asset: &Asset, new: &BTreeSet<Digest>) -> Value {
        let status = if new.contains(&asset.sha256) { "upload_pending" } else { "present" };
        json!({"key": asset.key, "sha256": asset.sha256, "size_bytes": asset.size_bytes, "content_type": asset.content_type,
            "visibility": asset.visibility, "immutable": asset.immutable, "status": status, "asset_ref": self.asset_ref(project, asset)})
    }

    /// What a page needs to refer to an asset.
    pub(crate) fn asset_ref(&self, project: &str, asset: &Asset) -> Value {
        let path: Vec<String> = asset.key.split('/').map(encode).collect();
        let url = format!("{}/assets/{project}/{}", self.base(), path.join("/"));
        let immutable = asset.immutable.then(|| format!("{url}?sha256={}", asset.sha256));
        json!({"key": asset.key, "sha256": asset.sha256, "size_bytes": asset.size_bytes, "content_type": asset.content_type,
            "visibility": asset.visibility, "url": url, "cdn_url": url, "immutable_url": immutable, "cdn_immutable_url": immutable,
            "sri": format!("sha256-{}", asset.sha256.base64()), "etag": format!("\"sha256-{}\"", asset.sha256),
            "content_digest": format!("sha-256=:{}:", asset.sha256.base64()), "metadata": asset.metadata})
    }

    /// Makes a plan live. The same plan, or the same key and release, is made live once.
    pub(crate) async fn commit(&self, plan: PlanRecord, idempotency_key: Option<String>) -> Result<Value> {
        let lock = self.commit_lock(&plan.project);
        let _held = lock.lock().await;
        self.blocking(move |gateway| {
            if let Some(operation) = gateway.store().operation(&plan.operation)? {
                return gateway.advance(operation);
            }
            if let Some(key) = &idempotency_key
                && let Some(done) = gateway.store().by_idempotency_key(&plan.project, key, &plan.digest)?
            {
                return gateway.advance(done);
            }
            if plan.expires <= OffsetDateTime::now_utc().unix_timestamp() {
                let message = "the plan's time has run out; plan again";
                return Err(Refusal::deploy(StatusCode::GONE, "PLAN_EXPIRED", "commit", "plan", message).retry_safe());
            }
            gateway.check_contents(&plan)?;
            gateway.store().begin(&plan, idempotency_key.as_deref())?;
            Point::CommitRecorded.pass();
            let operation = gateway.store().operation(&plan.operation)?;
            gateway.advance(operation.ok_or_else(|| Refusal::internal("an operation that was just written is gone"))?)
        })
        .await
    }

    /// Carries an interrupted operation on.
    pub(crate) async fn carry_on(&self, operation: &str) -> Result<Value> {
        let id = operation.to_owned();
        let found = self.blocking(move |gateway| gateway.store().operation(&id)).await?;
        let found = found.ok_or_else(|| Refusal::not_found("operation", "OPERATION_NOT_FOUND"))?;
        let lock = self.commit_lock(&found.project);
        let _held = lock.lock().await;
        // It may have ended while the lock was waited for.
        self.blocking(move |gateway| {
            let now = gateway.store().operation(&found.id)?.unwrap_or(found);
            gateway.advance(now)
        })
        .await
    }

    fn check_contents(&self, plan: &PlanRecord) -> Result<()> {
        let spec: Spec = serde_json::from_str(&plan.spec).map_err(Refusal::internal)?;
        let contents = spec.contents();
        let present = self.store().present(&plan.project, contents.keys())?;
        let missing: Vec<&Digest> =
            contents.keys().zip(present).filter(|(_, present)| !present).map(|(digest, _)| digest).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let message = format!("{} contents of the release were not uploaded", missing.len());
        let shown: Vec<_> = missing.iter().take(20).collect();
        let refusal = Refusal::deploy(StatusCode::CONFLICT, "CONTENT_MISSING", "commit", "content", message);
        Err(refusal.detail("missing", json!(shown)).retry_safe())
    }

    /// From wherever an operation is to its end.
    fn advance(&self, operation: OperationRecord) -> Result<Value> {
        if operation.is_final() {
            return self.snapshot(&operation);
        }
        let plan = self.store().plan(&operation.plan)?.ok_or_else(|| Refusal::not_found("plan", "PLAN_NOT_FOUND"))?;
        match self.make_live(&plan) {
            Ok(()) => Point::Activated.pass(),
            Err(refusal) => {
                let error = refusal.envelope();
                self.store().fail(&operation.id, &error)?;
                return Err(refusal);
            }
        }
        let done = self.store().operation(&operation.id)?;
        self.snapshot(&done.ok_or_else(|| Refusal::internal("an operation that has just ended is gone"))?)
    }

    fn make_live(&self, plan: &PlanRecord) -> Result<()> {
        let spec: Spec = serde_json::from_str(&plan.spec).map_err(Refusal::internal)?;
        let before = match &plan.base {
            Some(id) => self.store().release(&plan.project, id)?.map(|release| release.manifest).unwrap_or_default(),
            None => Manifest::default(),
        };
        self.store().set_status(&plan.operation, "activating")?;
        let deleted = spec.secrets.as_ref().map(|secrets| secrets.delete.clone()).unwrap_or_default();
        self.store().activate(plan, &before.apply(&spec), &deleted)?;
        Ok(())
    }

    /// An operation as callers see it.
    pub(crate) fn snapshot(&self, operation: &OperationRecord) -> Result<Value> {
        let urls = match &operation.release {
            Some(release) => self.urls(&operation.project, release)?,
            None => Value::Null,
        };
        Ok(json!({
            "operation_id": operation.id, "project_id": operation.project, "plan_id": operation.plan, "status": operation.status,
            "base_release_id": operation.base, "target_release_id": operation.release, "release_id": operation.release,
            "urls": urls, "payment_required": null, "error": operation.error, "activate_attempts": 1,
            "last_activate_attempt_at": operation.updated_at, "created_at": operation.created_at, "updated_at": operation.updated_at,
        }))
    }

    fn urls(&self, project: &str, release: &str) -> Result<Value> {
        let found = self.store().release(project, release)?;
        let record = self.store().project(project)?.ok_or_else(Refusal::unknown_project)?;
        let manifest = found.map(|release| release.manifest).unwrap_or_default();
        let site = self.site_urls(&record, manifest.subdomains.first().map(String::as_str));
        let mut urls = json!({"project": site.own, "site": site.host, "path": site.path, "release": site.path, "deployment_id": deployment_id(release)});
        for name in manifest.functions.keys() {
            urls[name] = json!(format!("{}/functions/v1/{name}", self.base()));
        }
        Ok(urls)
    }
}

/// Percent-encodes a part of a path.
pub(crate) fn encode(part: &str) -> String {
    const PLAIN: percent_encoding::AsciiSet =
        percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    percent_encoding::utf8_percent_encode(part, const { &PLAIN }).to_string()
}

pub(crate) fn merge(body: &mut Value, more: Value) {
    if let (Value::Object(body), Value::Object(more)) = (body, more) {
        body.extend::<Map<String, Value>>(more);
    }
}

/// Packages are not installed here: a function brings everything with it.
fn check_deps(after: &Manifest) -> Result<()> {
    match after.functions.iter().find(|(_, function)| !function.deps.is_empty()) {
        Some((name, _)) => Err(Refusal::deploy(
            StatusCode::UNPROCESSABLE_ENTITY,
            "FUNCTION_BUILD_FAILED",
            "plan",
            &format!("functions.{name}.deps"),
            "this gateway does not install dependencies of functions; bundle them into the function's source",
        )),
        None => Ok(()),
    }
}

/// What routes and public paths point at has to be there.
fn check_targets(after: &Manifest) -> Result<()> {
    for route in &after.routes {
        let there = match &route.target {
            RouteTarget::Function { name } => after.functions.contains_key(name),
            RouteTarget::Static { file } => after.site.contains_key(file),
        };
        if !there {
            return Err(Refusal::spec(
                "routes",
                format!("the target of route {} is not in the release", route.pattern),
            ));
        }
    }
    let Some(crate::spec::PublicPaths::Explicit { replace }) = &after.public_paths else { return Ok(()) };
    match replace.iter().find(|(path, public)| !path.starts_with('/') || !after.site.contains_key(&public.asset)) {
        Some((path, _)) => {
            Err(Refusal::spec("site.public_paths", format!("{path} does not point at a file of the site")))
        }
        None => Ok(()),
    }
}

fn count_bytes(bucket: &mut Value, after: &Manifest, new: &BTreeSet<Digest>) {
    let unique: BTreeMap<Digest, u64> = after.site.values().map(|content| (content.sha256, content.size)).collect();
    let sum = |fresh: bool| {
        unique.iter().filter(|(digest, _)| new.contains(digest) == fresh).map(|(_, size)| size).sum::<u64>()
    };
    bucket["newly_uploaded_cas_bytes"] = json!(sum(true));
    bucket["reused_cas_bytes"] = json!(sum(false));
}

fn migrations(before: &Manifest, spec: &Spec) -> Value {
    let all = spec.database.iter().flat_map(|database| &database.migrations);
    let entry = |migration: &crate::spec::Migration| {
        let checksum = migration.checksum.clone().unwrap_or_else(|| migration.sql_ref.sha256.to_string());
        json!({"id": migration.id, "checksum_hex": checksum})
    };
    let (noop, new): (Vec<_>, Vec<_>) = all.partition(|migration| before.migrations.contains_key(&migration.id));
    json!({"new": new.into_iter().map(entry).collect::<Vec<_>>(), "noop": noop.into_iter().map(entry).collect::<Vec<_>>()})
}

fn summary(body: &Value, is_noop: bool) -> String {
    if is_noop {
        return "no changes".to_owned();
    }
    let totals = &body["site"]["totals"];
    let functions = |kind: &str| body["functions"][kind].as_array().map_or(0, Vec::len);
    let changed: usize = ["added", "removed", "changed"].iter().map(|kind| functions(kind)).sum();
    format!(
        "{} files added, {} changed, {} removed; {changed} functions touched",
        totals["added"], totals["changed"], totals["removed"]
    )
}
