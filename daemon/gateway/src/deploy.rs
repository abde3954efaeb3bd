//! Planning a release, and making it live.
//!
//! `Spec -> Plan -> Operation -> Release`. A commit is written down before each phase, and everything that
//! becomes visible becomes so in one transaction: whenever the gateway ends, the old or the new release is
//! live, and what was begun is carried on to the same result.

use crate::assets::check_sync;
use crate::error::{Refusal, Result};
use crate::fault::Point;
use crate::gateway::Gateway;
use crate::ids;
use crate::release::{self, Manifest};
use crate::rules::MAX_SCHEDULES;
use crate::slices::MigrationPlan;
use crate::spec::{BaseRelease, ContentRef, RouteTarget, Spec};
use crate::store::deploys::{OperationRecord, PlanRecord, deployment_id};
use crate::store::projects::Project;
use crate::warnings::warnings;
use axum::http::StatusCode;
use run402::deploy::Digest;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use time::{Duration, OffsetDateTime};

/// A plan can be committed for so long.
const PLAN_LIFETIME: Duration = Duration::hours(1);
/// A manifest that is sent by reference has at most so many bytes.
const MAX_MANIFEST_BYTES: u64 = 128 << 20;
/// Files that a plan lists in each of its lists; the totals count all of them.
const DIFF_LIMIT: usize = 1_000;

/// How a plan is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stored,
    DryRun,
}

/// A plan, as the caller is told of it.
#[derive(Debug, Serialize)]
pub(crate) struct Planned {
    missing_content: Vec<ContentState>,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// A content of the release: whether the project has it.
#[derive(Debug, Serialize)]
struct ContentState {
    sha256: Digest,
    size: u64,
    present: bool,
}

impl Planned {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}

impl Gateway {
    /// A release by reference, from the project's contents.
    pub(crate) fn referenced_spec(&self, project: &str, reference: &ContentRef) -> Result<Spec> {
        if !self.store().has_content(project, &reference.sha256)? {
            let message = "the manifest that the plan refers to was not uploaded";
            return Err(Refusal::deploy(StatusCode::CONFLICT, "CONTENT_MISSING", "plan", "manifest_ref", message));
        }
        let bytes = self.contents().read(&reference.sha256, MAX_MANIFEST_BYTES)?;
        let text = std::str::from_utf8(&bytes);
        Spec::parse(text.map_err(|_| Refusal::spec("manifest_ref", "the manifest is not JSON in UTF-8"))?)
    }

    /// What the release would change; stored unless it is only looked at.
    pub(crate) fn plan(
        &self,
        project: &Project,
        spec: &Spec,
        kind: Kind,
        migrations: &MigrationPlan,
    ) -> Result<Planned> {
        let (base, before) = self.base_release(project, spec)?;
        let after = before.apply(spec);
        check_targets(&after)?;
        self.check_deps(&after)?;
        check_limits(&after)?;
        if let (Some(assets), Kind::Stored) = (&spec.assets, kind) {
            check_sync(assets, &before)?;
        }
        let is_noop = base.is_some() && *before == after && migrations.new.is_empty();
        // Both take their time with thousands of files.
        let (digest, states) = std::thread::scope(|scope| {
            let digest = scope.spawn(|| after.digest());
            let states = self.content_states(&project.id, spec.contents());
            (digest.join().expect("a manifest has a digest"), states)
        });
        let states = states?;
        let secrets = self.store().secret_keys(&project.id)?;
        let mut body = release::diff(&before, &after, DIFF_LIMIT);
        count_bytes(&mut body["static_assets"], &states);
        if let Some(assets) = &spec.assets {
            let missing = states.iter().filter(|state| !state.present).map(|state| state.sha256).collect();
            merge(&mut body, self.plan_assets(&project.id, assets, &before, &after, &missing));
        }
        body["migrations"] = migrations.to_json();
        let fields = json!({
            "kind": "plan_response", "schema_version": "agent-deploy-observability.v1",
            "base_release_id": base, "manifest_digest": digest, "is_noop": is_noop,
            "summary": summary(&body, is_noop), "expected_events": [],
            "warnings": warnings(&after, spec, &secrets), "payment_required": null, "plan_fingerprint": digest,
            "planner_semantics_version": 1, "base_identity": {"release_id": base, "release_generation": project.generation},
            "next_actions": [], "rehearsal": {"available": false, "rehearse_url": null},
            "actor": {"type": "wallet", "address": project.owner},
        });
        merge(&mut body, fields);
        if kind == Kind::DryRun {
            merge(&mut body, json!({"plan_id": null, "operation_id": null}));
            return Ok(planned(body, states));
        }
        let now = OffsetDateTime::now_utc();
        let expires = now + PLAN_LIFETIME;
        let record = PlanRecord {
            id: ids::new("plan"),
            operation: ids::new("op"),
            project: project.id.clone(),
            spec: serde_json::to_string(spec).map_err(Refusal::internal)?,
            base,
            live: project.live_release.clone(),
            digest,
            is_noop,
            created_at: ids::iso(now),
            expires: expires.unix_timestamp(),
        };
        self.store().save_plan(&record)?;
        Point::PlanStored.pass();
        merge(
            &mut body,
            json!({"plan_id": record.id, "operation_id": record.operation, "plan_expires_at": ids::iso(expires)}),
        );
        Ok(planned(body, states))
    }

    /// Packages are installed by whatever runs functions.
    fn check_deps(&self, after: &Manifest) -> Result<()> {
        match after.functions.iter().find(|(_, function)| !function.deps.is_empty()) {
            Some((name, _)) if self.config().functions.is_none() => Err(Refusal::deploy(
                StatusCode::UNPROCESSABLE_ENTITY,
                "FUNCTION_BUILD_FAILED",
                "plan",
                &format!("functions.{name}.deps"),
                "this gateway was started without a way to install packages; bundle them into the function's source",
            )),
            _ => Ok(()),
        }
    }

    /// Which of these the project has.
    fn content_states(&self, project: &str, contents: Vec<(Digest, u64)>) -> Result<Vec<ContentState>> {
        let sizes = self.store().sizes(project, contents.iter().map(|(digest, _)| digest))?;
        let state = |((sha256, size), stored): ((Digest, u64), Option<u64>)| match stored {
            Some(stored) if stored != size => {
                Err(Refusal::spec("content", format!("content {sha256} has {stored} bytes, not {size}")))
            }
            stored => Ok(ContentState { sha256, size, present: stored.is_some() }),
        };
        contents.into_iter().zip(sizes).map(state).collect()
    }

    /// Plans a release and makes it live at once, for changes that the gateway itself makes. The project's
    /// commit lock has to be held.
    pub(crate) async fn apply_now(&self, project: Project, spec: Value) -> Result<()> {
        let begun = self.blocking(move |gateway| {
            let spec = Spec::read(spec)?;
            let planned = gateway.plan(&project, &spec, Kind::Stored, &MigrationPlan::default())?;
            let gone = || Refusal::internal("a plan that was just made is gone");
            let plan = gateway.store().plan(planned.field("plan_id"))?.ok_or_else(gone)?;
            gateway.store().begin(&plan, None)?;
            gateway.store().operation(&plan.operation)?.ok_or_else(gone)
        });
        self.advance(begun.await?).await.map(drop)
    }

    /// The release that the spec is applied to, and what it holds.
    fn base_release(&self, project: &Project, spec: &Spec) -> Result<(Option<String>, Arc<Manifest>)> {
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
            None => Ok((None, Arc::default())),
            Some(id) => match self.store().release(&project.id, &id)? {
                Some(release) => Ok((Some(id), release.manifest)),
                None => wrong("there is no such release"),
            },
        }
    }

    /// Makes a plan live. The same plan, or the same key and release, is made live once.
    pub(crate) async fn commit(&self, plan: PlanRecord, idempotency_key: Option<String>) -> Result<Value> {
        let lock = self.commit_lock(&plan.project);
        let _held = lock.lock().await;
        let begun = self.blocking(move |gateway| {
            if let Some(operation) = gateway.store().operation(&plan.operation)? {
                return Ok(operation);
            }
            if let Some(key) = &idempotency_key
                && let Some(done) = gateway.store().by_idempotency_key(&plan.project, key, &plan.digest)?
            {
                return Ok(done);
            }
            if plan.expires <= OffsetDateTime::now_utc().unix_timestamp() {
                let message = "the plan's time has run out; plan again";
                return Err(Refusal::deploy(StatusCode::GONE, "PLAN_EXPIRED", "commit", "plan", message).retry_safe());
            }
            gateway.check_contents(&plan)?;
            gateway.store().begin(&plan, idempotency_key.as_deref())?;
            Point::CommitRecorded.pass();
            let operation = gateway.store().operation(&plan.operation)?;
            operation.ok_or_else(|| Refusal::internal("an operation that was just written is gone"))
        });
        self.advance(begun.await?).await
    }

    /// Carries an interrupted operation on.
    pub(crate) async fn carry_on(&self, operation: &str) -> Result<Value> {
        let id = operation.to_owned();
        let found = self.blocking(move |gateway| gateway.store().operation(&id)).await?;
        let found = found.ok_or_else(|| Refusal::not_found("operation", "OPERATION_NOT_FOUND"))?;
        let lock = self.commit_lock(&found.project);
        let _held = lock.lock().await;
        // It may have ended while the lock was waited for.
        let now = self.blocking(move |gateway| Ok(gateway.store().operation(&found.id)?.unwrap_or(found)));
        self.advance(now.await?).await
    }

    fn check_contents(&self, plan: &PlanRecord) -> Result<()> {
        let spec: Spec = serde_json::from_str(&plan.spec).map_err(Refusal::internal)?;
        let states = self.content_states(&plan.project, spec.contents())?;
        let missing: Vec<Digest> = states.iter().filter(|state| !state.present).map(|state| state.sha256).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let message = format!("{} contents of the release were not uploaded", missing.len());
        let shown: Vec<_> = missing.iter().take(20).collect();
        let refusal = Refusal::deploy(StatusCode::CONFLICT, "CONTENT_MISSING", "commit", "content", message);
        Err(refusal.detail("missing", json!(shown)).retry_safe())
    }

    /// From wherever an operation is to its end. The project's commit lock is held.
    async fn advance(&self, operation: OperationRecord) -> Result<Value> {
        if !operation.is_final() {
            let plan = operation.plan.clone();
            let read = self.blocking(move |gateway| {
                let unknown = || Refusal::not_found("plan", "PLAN_NOT_FOUND");
                let plan = gateway.store().plan(&plan)?.ok_or_else(unknown)?;
                let spec: Spec = serde_json::from_str(&plan.spec).map_err(Refusal::internal)?;
                Ok((plan, spec))
            });
            let (plan, spec) = read.await?;
            match self.make_live(plan, spec).await {
                Ok(()) => Point::Activated.pass(),
                Err(refusal) => return Err(self.record_refusal(&operation.id, refusal).await),
            }
        }
        self.blocking(move |gateway| {
            let done = gateway.store().operation(&operation.id)?;
            gateway.snapshot(&done.ok_or_else(|| Refusal::internal("an operation that has just ended is gone"))?)
        })
        .await
    }

    /// Writes down why an operation did not get through; the refusal again, for the caller.
    async fn record_refusal(&self, operation: &str, refusal: Refusal) -> Refusal {
        let (id, error, passing) = (operation.to_owned(), refusal.envelope(), refusal.is_passing());
        let recorded = self.blocking(move |gateway| match passing {
            true => gateway.store().postpone(&id, &error),
            false => gateway.store().fail(&id, &error),
        });
        if let Err(error) = recorded.await {
            // It stays where it was, and is carried on at the next start.
            tracing::error!(operation, ?error, "why an operation did not get through cannot be written down");
        }
        refusal
    }

    /// Each phase is written down before it begins, and may be done twice.
    async fn make_live(&self, plan: PlanRecord, spec: Spec) -> Result<()> {
        let (plan, spec, after) = self
            .blocking(move |gateway| {
                let base = plan.base.as_ref().map(|id| gateway.store().release(&plan.project, id));
                let before = base.transpose()?.flatten().map(|release| release.manifest).unwrap_or_default();
                let after = before.apply(&spec);
                Ok((plan, spec, after))
            })
            .await?;
        // Before anything that cannot be taken back.
        if after.functions.values().any(|function| !function.deps.is_empty()) {
            let operation = plan.operation.clone();
            self.blocking(move |gateway| gateway.store().set_status(&operation, "staging")).await?;
        }
        for (name, function) in after.functions.iter().filter(|(_, function)| !function.deps.is_empty()) {
            self.install_packages(&plan.project, name, function).await?;
        }
        if spec.database.as_ref().is_some_and(crate::spec::Database::changes_something) {
            let operation = plan.operation.clone();
            self.blocking(move |gateway| gateway.store().set_status(&operation, "migrating")).await?;
            self.migrate(&plan.project, &spec).await?;
        }
        self.blocking(move |gateway| {
            gateway.store().set_status(&plan.operation, "activating")?;
            let deleted = spec.secrets.as_ref().map(|secrets| secrets.delete.clone()).unwrap_or_default();
            gateway.store().activate(&plan, &after, &deleted).map(drop)
        })
        .await
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

fn planned(body: Value, missing_content: Vec<ContentState>) -> Planned {
    let fields = match body {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    Planned { missing_content, fields }
}

pub(crate) fn merge(body: &mut Value, more: Value) {
    if let (Value::Object(body), Value::Object(more)) = (body, more) {
        body.extend::<Map<String, Value>>(more);
    }
}

/// Packages are not installed here: a function brings everything with it.
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

/// Of every content that the spec refers to.
fn count_bytes(bucket: &mut Value, states: &[ContentState]) {
    let sum = |present: bool| {
        let counted = states.iter().filter(|state| state.present == present);
        counted.map(|state| state.size).fold(0, u64::saturating_add)
    };
    bucket["newly_uploaded_cas_bytes"] = json!(sum(false));
    bucket["reused_cas_bytes"] = json!(sum(true));
}

/// Limits of the whole release.
fn check_limits(after: &Manifest) -> Result<()> {
    let scheduled = after.functions.values().filter(|function| function.schedule.is_some()).count();
    match scheduled > MAX_SCHEDULES {
        true => {
            let message = format!("{scheduled} functions have a schedule; at most {MAX_SCHEDULES} may have one");
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            Err(Refusal::deploy(status, "FUNCTION_SCHEDULE_LIMIT_EXCEEDED", "plan", "functions", message))
        }
        false => Ok(()),
    }
}

pub(crate) fn summary(body: &Value, is_noop: bool) -> String {
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
