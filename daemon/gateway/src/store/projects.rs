//! Projects, their secrets and their names.

use super::{Store, hash};
use crate::error::{Refusal, Result};
use crate::ids;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A project as it is listed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Project {
    pub(crate) id: String,
    pub(crate) name: String,
    /// The wallet's address, lower case.
    #[serde(skip)]
    pub(crate) owner: String,
    pub(crate) tier: String,
    pub(crate) live_release: Option<String>,
    pub(crate) generation: u64,
    /// Where its site is served by itself.
    #[serde(skip)]
    pub(crate) port: Option<u16>,
    pub(crate) created_at: String,
}

const COLUMNS: &str = "id, name, owner, tier, live_release, generation, port, created_at";

fn project(row: &Row<'_>) -> rusqlite::Result<Project> {
    Ok(Project {
        id: row.get(0)?,
        name: row.get(1)?,
        owner: row.get(2)?,
        tier: row.get(3)?,
        live_release: row.get(4)?,
        generation: row.get(5)?,
        port: row.get(6)?,
        created_at: row.get(7)?,
    })
}

pub(crate) fn find(connection: &Connection, id: &str) -> rusqlite::Result<Option<Project>> {
    let sql = format!("SELECT {COLUMNS} FROM projects WHERE id = ?1");
    connection.query_row(&sql, [id], project).optional()
}

/// Which of a project's two keys was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Anon,
    Service,
}

/// A wallet's tier, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) tier: String,
    pub(crate) started_at: Option<String>,
}

/// A secret's name and when it was set; never its value.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SecretRecord {
    key: String,
    created_at: String,
    updated_at: String,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Subdomain {
    pub(crate) name: String,
    pub(crate) deployment_id: String,
    pub(crate) project_id: String,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
}

impl Store {
    pub(crate) fn create_project(
        &self,
        name: &str,
        owner: &str,
        tier: &str,
        anon: &str,
        service: &str,
    ) -> Result<Project> {
        self.transaction(|transaction| {
            let id = ids::new("prj");
            transaction.execute(
                "INSERT INTO projects (id, name, owner, tier, anon_hash, service_hash, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![id, name, owner, tier, hash(anon), hash(service), ids::now()],
            )?;
            find(transaction, &id)?.ok_or_else(|| Refusal::internal("a project that was just made is gone"))
        })
    }

    pub(crate) fn project(&self, id: &str) -> Result<Option<Project>> {
        Ok(find(&self.lock(), id)?)
    }

    pub(crate) fn projects(&self) -> Result<Vec<Project>> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached(&format!("SELECT {COLUMNS} FROM projects ORDER BY created_at, id"))?;
        Ok(statement.query_map([], project)?.collect::<rusqlite::Result<_>>()?)
    }

    /// At most `limit` projects of a wallet after the one with the id `after`.
    pub(crate) fn projects_of(&self, owner: &str, after: Option<&str>, limit: usize) -> Result<Vec<Project>> {
        let connection = self.lock();
        let sql = format!("SELECT {COLUMNS} FROM projects WHERE owner = ?1 AND id > ?2 ORDER BY id LIMIT ?3");
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params![owner, after.unwrap_or_default(), limit as u64], project)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Whose key this is.
    pub(crate) fn by_key(&self, key: &str) -> Result<Option<(Project, KeyKind)>> {
        let hashed = hash(key);
        let connection = self.lock();
        for (column, kind) in [("anon_hash", KeyKind::Anon), ("service_hash", KeyKind::Service)] {
            let sql = format!("SELECT {COLUMNS} FROM projects WHERE {column} = ?1");
            if let Some(found) = connection.prepare_cached(&sql)?.query_row([hashed], project).optional()? {
                return Ok(Some((found, kind)));
            }
        }
        Ok(None)
    }

    pub(crate) fn rename_project(&self, id: &str, name: &str) -> Result<()> {
        self.lock().execute("UPDATE projects SET name = ?2 WHERE id = ?1", [id, name])?;
        Ok(())
    }

    pub(crate) fn set_port(&self, id: &str, port: u16) -> Result<()> {
        self.lock().execute("UPDATE projects SET port = ?2 WHERE id = ?1", params![id, port])?;
        Ok(())
    }

    /// What a wallet has subscribed to; the smallest, unless it has said another.
    pub(crate) fn lease(&self, wallet: &str) -> Result<Lease> {
        let lease = |row: &Row<'_>| Ok(Lease { tier: row.get(0)?, started_at: Some(row.get(1)?) });
        let sql = "SELECT tier, started_at FROM wallets WHERE address = ?1";
        let found = self.lock().query_row(sql, [wallet], lease).optional()?;
        Ok(found.unwrap_or_else(|| Lease { tier: "prototype".to_owned(), started_at: None }))
    }

    /// For the wallet and its projects.
    pub(crate) fn set_tier(&self, wallet: &str, tier: &str) -> Result<Lease> {
        self.transaction(|transaction| {
            let now = ids::now();
            let sql = "INSERT INTO wallets VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET tier = ?2, started_at = ?3";
            transaction.execute(sql, [wallet, tier, &now])?;
            transaction.execute("UPDATE projects SET tier = ?2 WHERE owner = ?1", [wallet, tier])?;
            Ok(Lease { tier: tier.to_owned(), started_at: Some(now) })
        })
    }

    /// With everything in it.
    pub(crate) fn delete_project(&self, id: &str) -> Result<()> {
        self.lock().execute("DELETE FROM projects WHERE id = ?1", [id])?;
        Ok(())
    }

    pub(crate) fn set_secret(&self, project: &str, key: &str, value: &str) -> Result<()> {
        self.lock().execute(
            "INSERT INTO secrets VALUES (?1, ?2, ?3, ?4, ?4) ON CONFLICT DO UPDATE SET value = ?3, updated_at = ?4",
            params![project, key, value, ids::now()],
        )?;
        Ok(())
    }

    pub(crate) fn secrets(&self, project: &str) -> Result<Vec<SecretRecord>> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT key, created_at, updated_at FROM secrets WHERE project = ?1 ORDER BY key")?;
        let record =
            |row: &Row<'_>| Ok(SecretRecord { key: row.get(0)?, created_at: row.get(1)?, updated_at: row.get(2)? });
        Ok(statement.query_map([project], record)?.collect::<rusqlite::Result<_>>()?)
    }

    pub(crate) fn secret_keys(&self, project: &str) -> Result<BTreeSet<String>> {
        Ok(self.secrets(project)?.into_iter().map(|secret| secret.key).collect())
    }

    /// Only for the functions themselves.
    pub(crate) fn secret_values(&self, project: &str) -> Result<BTreeMap<String, String>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT key, value FROM secrets WHERE project = ?1")?;
        let pair = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        Ok(statement.query_map([project], pair)?.collect::<rusqlite::Result<_>>()?)
    }

    /// Whether there was one.
    pub(crate) fn delete_secret(&self, project: &str, key: &str) -> Result<bool> {
        Ok(self.lock().execute("DELETE FROM secrets WHERE project = ?1 AND key = ?2", [project, key])? > 0)
    }

    pub(crate) fn claim_subdomain(&self, project: &str, name: &str, deployment_id: &str) -> Result<Subdomain> {
        self.transaction(|transaction| {
            claim(transaction, project, name, deployment_id)?;
            subdomain(transaction, name)?.ok_or_else(|| Refusal::internal("a name that was just claimed is gone"))
        })
    }

    pub(crate) fn subdomains(&self, project: &str) -> Result<Vec<Subdomain>> {
        let connection = self.lock();
        let sql = "SELECT name, deployment_id, project, created_at, updated_at FROM subdomains WHERE project = ?1 ORDER BY name";
        let mut statement = connection.prepare_cached(sql)?;
        Ok(statement.query_map([project], subdomain_row)?.collect::<rusqlite::Result<_>>()?)
    }

    pub(crate) fn delete_subdomain(&self, project: &str, name: &str) -> Result<bool> {
        Ok(self.lock().execute("DELETE FROM subdomains WHERE project = ?1 AND name = ?2", [project, name])? > 0)
    }

    /// Whose host label this is: a claimed name, or a project's id in its form for host names.
    pub(crate) fn by_label(&self, label: &str) -> Result<Option<Project>> {
        let connection = self.lock();
        if let Some(found) = subdomain(&connection, label)? {
            return Ok(find(&connection, &found.project_id)?);
        }
        match label.strip_prefix("prj-") {
            Some(rest) => Ok(find(&connection, &format!("prj_{rest}"))?),
            None => Ok(None),
        }
    }
}

fn subdomain_row(row: &Row<'_>) -> rusqlite::Result<Subdomain> {
    Ok(Subdomain {
        name: row.get(0)?,
        deployment_id: row.get(1)?,
        project_id: row.get(2)?,
        created_at: row.get(3)?,
        updated_at: row.get(4)?,
    })
}

fn subdomain(connection: &Connection, name: &str) -> rusqlite::Result<Option<Subdomain>> {
    let sql = "SELECT name, deployment_id, project, created_at, updated_at FROM subdomains WHERE name = ?1";
    connection.query_row(sql, [name], subdomain_row).optional()
}

/// A name belongs to who came first.
pub(crate) fn claim(connection: &Connection, project: &str, name: &str, deployment_id: &str) -> Result<()> {
    if subdomain(connection, name)?.is_some_and(|known| known.project_id != project) {
        return Err(Refusal::conflict("SUBDOMAIN_TAKEN", format!("the name {name} belongs to another project")));
    }
    connection.execute(
        "INSERT INTO subdomains VALUES (?1, ?2, ?3, ?4, ?4) ON CONFLICT DO UPDATE SET deployment_id = ?3, updated_at = ?4",
        params![name, project, deployment_id, ids::now()],
    )?;
    Ok(())
}
