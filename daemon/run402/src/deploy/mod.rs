//! Deploying: plan, upload, commit, wait.
//!
//! `ReleaseSpec -> Prepared -> Plan -> (contents sent) -> Released`. One engine for everything that ships
//! bytes or changes a release. Every step is told to an [`Observer`]. What is repeated on its own: the
//! whole deploy when somebody else's release came between plan and commit and the gateway calls that safe;
//! an upload that broke off. Nothing else.

pub mod content_type;
pub mod cron;
pub mod rules;
pub mod site_manifest;
pub mod spec;
pub mod walk;
pub mod wire;

mod cache;
mod commit;
mod content;
mod digest;
mod event;
mod hash;
mod plan;
mod prepare;
mod tier;

pub use cache::Cache;
pub use commit::{Polling, Released};
pub use content::Uploads;
pub(crate) use content::encoded;
pub use digest::{Digest, DigestError};
pub use event::{Event, Observer, PhaseStatus, Silent, SliceKind};
pub use hash::Progress;
pub use plan::{AllowWarnings, MissingContent, Plan, RequiredPlan};
pub use prepare::named_migration;

use crate::client::Client;
use crate::error::Error;
use commit::Operation;
use plan::Purpose;
use prepare::Prepared;
use rand::RngExt;
use serde_json::{Value, json};
use spec::{Base, BaseRelease, ReleaseSpec};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use walk::Root;

/// How a release is deployed.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The same key and the same release are one deploy, however often it is sent.
    pub idempotency_key: Option<String>,
    pub allow_warnings: AllowWarnings,
    pub required_plan: Option<RequiredPlan>,
    /// How often the whole deploy is made again after somebody else's came between; 2 when `None`.
    pub max_retries: Option<u32>,
    pub uploads: Uploads,
    pub polling: Polling,
    /// Where hashes of files are remembered.
    pub cache: Option<PathBuf>,
}

const DEFAULT_RETRIES: u32 = 2;

/// A release to be deployed: what it is, and where its file names start.
#[derive(Debug)]
pub struct Deploy {
    pub spec: ReleaseSpec,
    pub root: Option<Root>,
}

impl Deploy {
    pub fn new(spec: ReleaseSpec, root: Option<Root>) -> Self {
        Self { spec, root }
    }

    /// Checks the rules, then reads and hashes every file. Dropping the future stops the hashing.
    async fn prepare(self, client: &Client, options: &Options, progress: &Arc<Progress>) -> Result<Prepared, Error> {
        rules::check(&self.spec)?;
        if client.is_bearer() {
            rules::check_ci(&self.spec)?;
        }
        let Self { spec, root } = self;
        let cache = options.cache.clone();
        let stop = StopHashing(progress.clone());
        let progress = progress.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let mut cache = cache.map(|path| Cache::load(&path)).unwrap_or_default();
            prepare::prepare(spec, root.map(Arc::new), &mut cache, &progress)
        })
        .await
        .expect("hashing does not panic");
        std::mem::forget(stop);
        prepared
    }

    /// Plans, uploads, commits and waits until the release is live.
    pub async fn apply(
        self,
        client: &Client,
        options: &Options,
        progress: &Arc<Progress>,
        observer: &dyn Observer,
    ) -> Result<Released, Error> {
        let moves_with_others =
            matches!(&self.spec.base, None | Some(Base { release: Some(BaseRelease::Current), .. }));
        let prepared = self.prepare(client, options, progress).await?;
        tier::check(client, &prepared.spec).await?;
        let max_retries = options.max_retries.unwrap_or(DEFAULT_RETRIES);
        let mut attempt = 1;
        loop {
            let mut error = match once(client, &prepared, options, observer).await {
                Ok(released) => return Ok(released),
                Err(error) => error,
            };
            let conflict = error.code == "BASE_RELEASE_CONFLICT" && error.safe_to_retry == Some(true);
            if !conflict || !moves_with_others {
                return Err(error);
            }
            if attempt > max_retries {
                let code = error.code.clone();
                let facts = error.facts();
                facts.attempts = Some(attempt);
                facts.max_retries = Some(max_retries);
                facts.last_retry_code = Some(code);
                return Err(error);
            }
            let delay_ms = backoff_ms(attempt);
            let facts = error.facts().clone();
            observer.observe(Event::Retry {
                attempt,
                next_attempt: attempt + 1,
                max_attempts: max_retries + 1,
                delay_ms,
                code: error.code.clone(),
                phase: facts.phase,
                resource: facts.resource,
                operation_id: facts.operation_id,
                plan_id: facts.plan_id,
                message: error.message.clone(),
            });
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            attempt += 1;
        }
    }

    /// Asks what it would change, and changes nothing.
    pub async fn dry_run(self, client: &Client, options: &Options, progress: &Arc<Progress>) -> Result<Plan, Error> {
        self.plan(client, options, progress, &Purpose::DryRun).await
    }

    /// Stores a plan that somebody approves later.
    pub async fn review(self, client: &Client, options: &Options, progress: &Arc<Progress>) -> Result<Plan, Error> {
        self.plan(client, options, progress, &Purpose::Review).await
    }

    async fn plan(
        self,
        client: &Client,
        options: &Options,
        progress: &Arc<Progress>,
        purpose: &Purpose,
    ) -> Result<Plan, Error> {
        let prepared = self.prepare(client, options, progress).await?;
        let mut plan = plan::ask(client, &prepared, purpose, &options.uploads).await?;
        plan.warnings = plan::warnings(&plan, &prepared.spec);
        Ok(plan)
    }
}

/// Tells the hashing threads to stop when nobody waits for them any more.
struct StopHashing(Arc<Progress>);

impl Drop for StopHashing {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

async fn once(
    client: &Client,
    prepared: &Prepared,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Released, Error> {
    observer.observe(Event::PlanStarted {});
    let idempotency_key = options.idempotency_key.clone();
    let purpose = Purpose::Commit { idempotency_key, required_plan: options.required_plan.clone() };
    let plan = plan::ask(client, prepared, &purpose, &options.uploads).await?;
    let warnings = plan::warnings(&plan, &prepared.spec);
    plan::announce(&plan, &warnings, observer);
    // Who named a plan has seen its warnings.
    if options.required_plan.is_none() {
        plan::check_warnings(&warnings, &options.allow_warnings).map_err(|error| of_plan(error, &plan))?;
    }
    let project = prepared.spec.project_id.as_str();
    content::send(client, project, &prepared.contents, &plan.missing_content, &options.uploads, observer)
        .await
        .map_err(|error| of_plan(error, &plan))?;
    let plan_id = plan.plan_id.as_deref().ok_or_else(|| {
        Error::deploy("DRY_RUN_PLAN_NOT_COMMITTABLE", "commit", "plan", "the gateway's plan has no id to commit")
    })?;
    let slices = &prepared.slices;
    let operation = Operation { client, project: Some(project), polling: &options.polling, observer, slices };
    let committed = operation.commit(plan_id, options.idempotency_key.as_deref(), options.required_plan.as_ref()).await;
    let (operation_id, release_id, urls) = committed.map_err(|error| of_plan(error, &plan))?;
    let mut diff = plan.diff;
    if let Some(entries) = plan::image_variants(client, &prepared.spec, &prepared.summary).await {
        diff["asset_entries"] = entries;
    }
    Ok(Released { release_id, operation_id, urls, diff, warnings })
}

/// Says which plan it was, where the gateway did not.
fn of_plan(mut error: Error, plan: &Plan) -> Error {
    let facts = error.facts();
    facts.plan_id = facts.plan_id.take().or_else(|| plan.plan_id.clone());
    facts.operation_id = facts.operation_id.take().or_else(|| plan.operation_id.clone());
    error
}

/// Before the next attempt: doubling from 250 ms to 2 s, and up to 100 ms more, so that two that met once
/// do not meet again.
fn backoff_ms(attempt: u32) -> u64 {
    let doubled = 250_u64.saturating_mul(1_u64.checked_shl(attempt - 1).unwrap_or(u64::MAX));
    doubled.min(2000) + rand::rng().random_range(0..=100)
}

/// Runs an interrupted deploy on from where it stopped, and waits until it is live.
pub async fn resume(
    client: &Client,
    project: Option<&str>,
    operation_id: &str,
    polling: &Polling,
    observer: &dyn Observer,
) -> Result<Released, Error> {
    let operation = Operation { client, project, polling, observer, slices: &[] };
    let (operation_id, release_id, urls) = operation.resume(operation_id).await?;
    Ok(Released { release_id, operation_id, urls, diff: json!({}), warnings: Vec::new() })
}

/// Makes an earlier release live again.
pub async fn promote(client: &Client, project: &str, release_id: &str, allow: &AllowWarnings) -> Result<Value, Error> {
    let codes: Vec<&str> = match allow {
        AllowWarnings::Nothing => Vec::new(),
        AllowWarnings::Codes(codes) => codes.iter().map(String::as_str).collect(),
        AllowWarnings::Everything => vec!["MIGRATIONS_NOT_REVERSIBLE"],
    };
    let path = format!("/apply/v1/releases/{}/promote", encoded(release_id));
    let body = json!({"project": project, "allow_warning_codes": codes});
    let request = client.post(path, crate::client::Auth::Wallet).json(&body)?;
    Ok(request.send("promoting the release").await.map_err(Error::into_deploy)?.value())
}
