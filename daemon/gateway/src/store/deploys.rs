//! Plans, operations, their events, and releases.

use super::Store;
use super::manifests::Manifests;
use super::projects::{self, claim};
use crate::error::{Refusal, Result};
use crate::fault::Point;
use crate::ids;
use crate::release::Manifest;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a release is to be, decided but not live.
#[derive(Debug, Clone)]
pub(crate) struct PlanRecord {
    pub(crate) id: String,
    pub(crate) operation: String,
    pub(crate) project: String,
    /// JSON of the wire form.
    pub(crate) spec: String,
    /// What it is applied to.
    pub(crate) base: Option<String>,
    /// What was live when it was planned.
    pub(crate) live: Option<String>,
    pub(crate) digest: String,
    pub(crate) is_noop: bool,
    pub(crate) created_at: String,
    pub(crate) expires: i64,
}

/// A plan on its way to being live.
#[derive(Debug, Clone)]
pub(crate) struct OperationRecord {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) plan: String,
    pub(crate) status: String,
    pub(crate) base: Option<String>,
    pub(crate) release: Option<String>,
    /// JSON of the envelope.
    pub(crate) error: Option<Value>,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
}

impl OperationRecord {
    pub(crate) fn is_final(&self) -> bool {
        matches!(self.status.as_str(), "ready" | "failed")
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ReleaseRecord {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) parent: Option<String>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) digest: String,
    pub(crate) plan: String,
    pub(crate) operation: String,
    pub(crate) status: String,
    pub(crate) generation: u64,
    pub(crate) created_at: String,
    pub(crate) superseded_at: Option<String>,
}

fn plan(row: &Row<'_>) -> rusqlite::Result<PlanRecord> {
    Ok(PlanRecord {
        id: row.get(0)?,
        project: row.get(1)?,
        operation: row.get(2)?,
        spec: row.get(3)?,
        base: row.get(4)?,
        live: row.get(5)?,
        digest: row.get(6)?,
        is_noop: row.get(7)?,
        created_at: row.get(8)?,
        expires: row.get(9)?,
    })
}

const OPERATION: &str = "id, project, plan, status, base, release, error, created_at, updated_at";

fn operation(row: &Row<'_>) -> rusqlite::Result<OperationRecord> {
    let error: Option<String> = row.get(6)?;
    Ok(OperationRecord {
        id: row.get(0)?,
        project: row.get(1)?,
        plan: row.get(2)?,
        status: row.get(3)?,
        base: row.get(4)?,
        release: row.get(5)?,
        error: error.and_then(|text| serde_json::from_str(&text).ok()),
        created_at: row.get(7)?,
        updated_at: row.get(8)?,
    })
}

const RELEASE: &str = "id, parent, digest, plan, operation, status, generation, created_at, superseded_at, project";

fn release(row: &Row<'_>, manifest: Arc<Manifest>) -> rusqlite::Result<ReleaseRecord> {
    Ok(ReleaseRecord {
        id: row.get(0)?,
        parent: row.get(1)?,
        manifest,
        digest: row.get(2)?,
        plan: row.get(3)?,
        operation: row.get(4)?,
        status: row.get(5)?,
        generation: row.get(6)?,
        created_at: row.get(7)?,
        superseded_at: row.get(8)?,
        project: row.get(9)?,
    })
}

fn read_manifest(connection: &Connection, project: &str, id: &str) -> rusqlite::Result<Option<Arc<Manifest>>> {
    let mut statement = connection.prepare_cached("SELECT manifest FROM releases WHERE project = ?1 AND id = ?2")?;
    let read = |row: &Row<'_>| {
        let text = row.get_ref(0)?.as_str()?;
        serde_json::from_str(text)
            .map(Arc::new)
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error)))
    };
    statement.query_row([project, id], read).optional()
}

/// With its manifest as it was read before, or else from the database.
fn find_release(
    connection: &Connection,
    manifests: &Manifests,
    project: &str,
    id: &str,
) -> rusqlite::Result<Option<ReleaseRecord>> {
    let sql = format!("SELECT {RELEASE} FROM releases WHERE project = ?1 AND id = ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let Some(found) = statement.query_row([project, id], |row| release(row, Arc::default())).optional()? else {
        return Ok(None);
    };
    let manifest = match manifests.get(id) {
        Some(manifest) => manifest,
        None => {
            let Some(manifest) = read_manifest(connection, project, id)? else { return Ok(None) };
            manifests.put(id, &manifest);
            manifest
        }
    };
    Ok(Some(ReleaseRecord { manifest, ..found }))
}

fn event(connection: &Connection, operation: &str, body: Value) -> rusqlite::Result<()> {
    let mut body = body;
    body["at"] = json!(ids::now());
    connection.execute("INSERT INTO events (operation, body) VALUES (?1, ?2)", params![operation, body.to_string()])?;
    Ok(())
}

impl Store {
    pub(crate) fn save_plan(&self, plan: &PlanRecord) -> Result<()> {
        self.lock().execute(
            "INSERT INTO plans VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                plan.id,
                plan.project,
                plan.operation,
                plan.spec,
                plan.base,
                plan.live,
                plan.digest,
                plan.is_noop,
                plan.created_at,
                plan.expires
            ],
        )?;
        Ok(())
    }

    pub(crate) fn plan(&self, id: &str) -> Result<Option<PlanRecord>> {
        let sql = "SELECT id, project, operation, spec, base, live, digest, is_noop, created_at, expires FROM plans WHERE id = ?1";
        Ok(self.lock().query_row(sql, [id], plan).optional()?)
    }

    pub(crate) fn release(&self, project: &str, id: &str) -> Result<Option<ReleaseRecord>> {
        Ok(find_release(&self.lock(), &self.manifests, project, id)?)
    }

    pub(crate) fn live_release(&self, project: &str) -> Result<Option<ReleaseRecord>> {
        let connection = self.lock();
        let live = projects::find(&connection, project)?.and_then(|project| project.live_release);
        match live {
            Some(id) => Ok(find_release(&connection, &self.manifests, project, &id)?),
            None => Ok(None),
        }
    }

    pub(crate) fn operation(&self, id: &str) -> Result<Option<OperationRecord>> {
        let sql = format!("SELECT {OPERATION} FROM operations WHERE id = ?1");
        Ok(self.lock().query_row(&sql, [id], operation).optional()?)
    }

    /// The operation that was committed under this key for the same release.
    pub(crate) fn by_idempotency_key(&self, project: &str, key: &str, digest: &str) -> Result<Option<OperationRecord>> {
        let sql = format!(
            "SELECT {OPERATION} FROM operations WHERE project = ?1 AND idempotency_key = ?2 AND digest = ?3 AND status != 'failed'"
        );
        Ok(self.lock().query_row(&sql, [project, key, digest], operation).optional()?)
    }

    /// The newest first; `before` is the id of the last one of the page before.
    pub(crate) fn operations(&self, project: &str, before: Option<&str>, limit: usize) -> Result<Vec<OperationRecord>> {
        let connection = self.lock();
        let sql = format!(
            "SELECT {OPERATION} FROM operations WHERE project = ?1 AND (?2 IS NULL OR rowid < (SELECT rowid FROM operations WHERE id = ?2))
             ORDER BY rowid DESC LIMIT ?3"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params![project, before, limit as u64], operation)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Those that the gateway's end has interrupted.
    pub(crate) fn unfinished(&self) -> Result<Vec<OperationRecord>> {
        let connection = self.lock();
        let sql = format!("SELECT {OPERATION} FROM operations WHERE status NOT IN ('ready', 'failed') ORDER BY rowid");
        let mut statement = connection.prepare_cached(&sql)?;
        Ok(statement.query_map([], operation)?.collect::<rusqlite::Result<_>>()?)
    }

    /// Events after the one numbered `after`.
    pub(crate) fn events(&self, operation: &str, after: i64, limit: usize) -> Result<Vec<Value>> {
        let connection = self.lock();
        let sql = "SELECT id, body FROM events WHERE operation = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
        let mut statement = connection.prepare_cached(sql)?;
        let read = |row: &Row<'_>| {
            let text: String = row.get(1)?;
            let mut body: Value = serde_json::from_str(&text).unwrap_or_default();
            body["id"] = json!(row.get::<_, i64>(0)?);
            Ok(body)
        };
        Ok(statement.query_map(params![operation, after, limit as u64], read)?.collect::<rusqlite::Result<_>>()?)
    }

    /// Writes down that a plan is being committed, when what it was planned on is still live.
    pub(crate) fn begin(&self, plan: &PlanRecord, idempotency_key: Option<&str>) -> Result<()> {
        self.transaction(|transaction| {
            check_base(transaction, plan)?;
            transaction.execute(
                "INSERT INTO operations VALUES (?1, ?2, ?3, 'committing', ?4, NULL, NULL, ?5, ?6, ?7, ?7)",
                params![plan.operation, plan.project, plan.id, plan.base, idempotency_key, plan.digest, ids::now()],
            )?;
            let body = json!({"type": "commit.phase.detail", "phase": "validate", "status": "done"});
            Ok(event(transaction, &plan.operation, body)?)
        })
    }

    pub(crate) fn set_status(&self, operation: &str, status: &str) -> Result<()> {
        self.transaction(|transaction| {
            let sql = "UPDATE operations SET status = ?2, updated_at = ?3 WHERE id = ?1";
            transaction.execute(sql, params![operation, status, ids::now()])?;
            Ok(event(
                transaction,
                operation,
                json!({"type": "commit.phase.detail", "phase": phase(status), "status": "started"}),
            )?)
        })
    }

    /// It did not get through this time: it is carried on when asked to, and at the next start.
    pub(crate) fn postpone(&self, operation: &str, error: &Value) -> Result<()> {
        self.transaction(|transaction| {
            let sql = "UPDATE operations SET status = 'activation_pending', error = ?2, updated_at = ?3 WHERE id = ?1";
            transaction.execute(sql, params![operation, error.to_string(), ids::now()])?;
            Ok(event(transaction, operation, json!({"type": "log", "level": "warn", "message": error["message"]}))?)
        })
    }

    pub(crate) fn fail(&self, operation: &str, error: &Value) -> Result<()> {
        self.transaction(|transaction| {
            let sql = "UPDATE operations SET status = 'failed', error = ?2, updated_at = ?3 WHERE id = ?1";
            transaction.execute(sql, params![operation, error.to_string(), ids::now()])?;
            Ok(event(transaction, operation, json!({"type": "log", "level": "error", "message": error["message"]}))?)
        })
    }

    /// Everything at once: the release, the live pointer, names, secrets that go, the operation's end.
    pub(crate) fn activate(
        &self,
        plan: &PlanRecord,
        manifest: &Manifest,
        deleted_secrets: &[String],
    ) -> Result<String> {
        self.transaction(|transaction| {
            check_base(transaction, plan)?;
            let project = projects::find(transaction, &plan.project)?.ok_or_else(Refusal::unknown_project)?;
            let (id, now) = (ids::new("rel"), ids::now());
            let generation = project.generation + 1;
            transaction.execute(
                "INSERT INTO releases VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'active', ?8, ?9, NULL)",
                params![
                    id,
                    plan.project,
                    project.live_release,
                    serde_json::to_string(manifest).map_err(Refusal::internal)?,
                    plan.digest,
                    plan.id,
                    plan.operation,
                    generation,
                    now
                ],
            )?;
            Point::ReleaseWritten.pass();
            supersede(transaction, &project, &id, generation, &now)?;
            let before = manifest_of(transaction, &self.manifests, &project)?;
            settle_names(transaction, &plan.project, &before, manifest, &deployment_id(&id))?;
            for key in deleted_secrets {
                transaction.execute("DELETE FROM secrets WHERE project = ?1 AND key = ?2", [&plan.project, key])?;
            }
            let sql =
                "UPDATE operations SET status = 'ready', release = ?2, error = NULL, updated_at = ?3 WHERE id = ?1";
            transaction.execute(sql, params![plan.operation, id, now])?;
            event(
                transaction,
                &plan.operation,
                json!({"type": "commit.phase.detail", "phase": "activate", "status": "done"}),
            )?;
            Ok(id)
        })
    }

    /// Makes an earlier release live again; the release that was live until now.
    pub(crate) fn promote(&self, project: &str, release: &str) -> Result<(Option<String>, String)> {
        self.transaction(|transaction| {
            let found = projects::find(transaction, project)?.ok_or_else(Refusal::unknown_project)?;
            let (operation, now) = (ids::new("op"), ids::now());
            let target = find_release(transaction, &self.manifests, project, release)?
                .ok_or_else(|| Refusal::not_found("release", "PROMOTE_TARGET_NOT_FOUND"))?;
            if found.live_release.as_deref() == Some(release) {
                return Err(Refusal::conflict("PROMOTE_NO_OP", "this release is live already"));
            }
            supersede(transaction, &found, release, found.generation + 1, &now)?;
            let before = manifest_of(transaction, &self.manifests, &found)?;
            settle_names(transaction, project, &before, &target.manifest, &deployment_id(release))?;
            let sql = "UPDATE releases SET status = 'active', generation = ?2, superseded_at = NULL WHERE id = ?1";
            transaction.execute(sql, params![release, found.generation + 1])?;
            transaction.execute(
                "INSERT INTO operations VALUES (?1, ?2, ?3, 'ready', ?4, ?5, NULL, NULL, ?6, ?7, ?7)",
                params![operation, project, target.plan, found.live_release, release, target.digest, now],
            )?;
            event(
                transaction,
                &operation,
                json!({"type": "commit.phase.detail", "phase": "activate", "status": "done"}),
            )?;
            Ok((found.live_release, operation))
        })
    }
}

/// What clients call the phase of an operation in this status.
fn phase(status: &str) -> &str {
    match status {
        "staging" => "stage",
        "gating" => "migrate-gate",
        "migrating" => "migrate",
        "schema_settling" => "schema-settle",
        "activating" | "activation_pending" => "activate",
        other => other,
    }
}

/// A deployment is a release as its site is known by.
pub(crate) fn deployment_id(release: &str) -> String {
    format!("dpl_{}", release.trim_start_matches("rel_"))
}

fn manifest_of(connection: &Connection, manifests: &Manifests, project: &projects::Project) -> Result<Arc<Manifest>> {
    let live = project.live_release.as_ref().map(|id| find_release(connection, manifests, &project.id, id));
    Ok(live.transpose()?.flatten().map(|release| release.manifest).unwrap_or_default())
}

/// Names that the release gives up become free; those that it has are its own, or another project's and
/// nothing happens. Names that were claimed beside releases stay.
fn settle_names(
    connection: &Connection,
    project: &str,
    before: &Manifest,
    after: &Manifest,
    deployment: &str,
) -> Result<()> {
    for gone in before.subdomains.difference(&after.subdomains) {
        connection.execute("DELETE FROM subdomains WHERE name = ?1 AND project = ?2", [gone.as_str(), project])?;
    }
    after.subdomains.iter().try_for_each(|name| claim(connection, project, name, deployment))
}

fn supersede(
    connection: &Connection,
    project: &projects::Project,
    release: &str,
    generation: u64,
    now: &str,
) -> rusqlite::Result<()> {
    if let Some(live) = &project.live_release {
        let sql = "UPDATE releases SET status = 'superseded', superseded_at = ?2 WHERE id = ?1";
        connection.execute(sql, [live.as_str(), now])?;
    }
    let sql = "UPDATE projects SET live_release = ?2, generation = ?3 WHERE id = ?1";
    connection.execute(sql, params![project.id, release, generation])?;
    Ok(())
}

/// Somebody else's release must not come between planning and committing.
fn check_base(connection: &Connection, plan: &PlanRecord) -> Result<()> {
    let live = projects::find(connection, &plan.project)?.ok_or_else(Refusal::unknown_project)?.live_release;
    match live == plan.live {
        true => Ok(()),
        false => {
            let message = "another release became live after this one was planned; plan again";
            let refusal =
                Refusal::deploy(axum::http::StatusCode::CONFLICT, "BASE_RELEASE_CONFLICT", "apply", "release", message);
            let refusal = refusal.detail("operation_id", json!(plan.operation)).detail("plan_id", json!(plan.id));
            Err(refusal.detail("live_release_id", json!(live)).retry_safe())
        }
    }
}
