//! What a project's tables are, from the catalogue. PostgreSQL's manual, chapter 53.
//!
//! Read in a session of the project's own, so that names are written as the project writes them, and so
//! that nothing in its schema is ever looked at with other rights.

use super::run::fault;
use super::{Database, DatabaseError};
use serde::Serialize;
use std::collections::BTreeMap;
use tokio_postgres::Client;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Schema {
    pub schema: String,
    pub tables: Vec<Table>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    pub constraints: Vec<Constraint>,
    pub rls_enabled: bool,
    /// As of the last time that PostgreSQL counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row_estimate: Option<i64>,
    pub policies: Vec<Policy>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub nullable: bool,
    pub default_value: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Constraint {
    pub name: String,
    /// `PRIMARY KEY`, `FOREIGN KEY`, `UNIQUE`, `CHECK`, `EXCLUDE`, `NOT NULL`, `TRIGGER`.
    #[serde(rename = "type")]
    pub kind: String,
    pub definition: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    pub name: String,
    /// `SELECT`, `INSERT`, `UPDATE`, `DELETE`, `ALL`.
    pub command: String,
    pub using_expression: Option<String>,
    pub check_expression: Option<String>,
}

const TABLES: &str = "
SELECT c.oid, c.relname::text, c.relrowsecurity, nullif(c.reltuples, -1)::bigint
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') ORDER BY c.relname";

const COLUMNS: &str = "
SELECT a.attrelid, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
    pg_catalog.pg_get_expr(d.adbin, d.adrelid)
FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum";

const CONSTRAINTS: &str = "
SELECT conrelid, conname::text, CASE contype WHEN 'p' THEN 'PRIMARY KEY' WHEN 'f' THEN 'FOREIGN KEY'
        WHEN 'u' THEN 'UNIQUE' WHEN 'c' THEN 'CHECK' WHEN 'x' THEN 'EXCLUDE' WHEN 'n' THEN 'NOT NULL'
        ELSE 'TRIGGER' END, pg_catalog.pg_get_constraintdef(oid)
FROM pg_catalog.pg_constraint WHERE conrelid = ANY ($1) ORDER BY conrelid, conname";

const POLICIES: &str = "
SELECT polrelid, polname::text, CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
        WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
    pg_catalog.pg_get_expr(polqual, polrelid), pg_catalog.pg_get_expr(polwithcheck, polrelid)
FROM pg_catalog.pg_policy WHERE polrelid = ANY ($1) ORDER BY polrelid, polname";

impl Database {
    /// The project's tables, in the order of their names.
    pub async fn schema(&self, project_id: &str) -> Result<Schema, DatabaseError> {
        let schema = self.provision(project_id).await?;
        let limit = self.0.limits.statement;
        let session = self.session(&schema, limit).await?;
        let tables = session.within(limit, async |client: &Client| tables(client, schema.as_str()).await).await?;
        Ok(Schema { schema: schema.to_string(), tables })
    }
}

pub(super) async fn tables(client: &Client, schema: &str) -> Result<Vec<Table>, DatabaseError> {
    let rows = client.query(TABLES, &[&schema]).await.map_err(fault)?;
    let oids: Vec<u32> = rows.iter().map(|row| row.get(0)).collect();
    let mut tables: BTreeMap<u32, Table> = BTreeMap::new();
    for row in &rows {
        let table = Table {
            name: row.get(1),
            columns: Vec::new(),
            constraints: Vec::new(),
            rls_enabled: row.get(2),
            row_estimate: row.get(3),
            policies: Vec::new(),
        };
        tables.insert(row.get(0), table);
    }
    for row in client.query(COLUMNS, &[&oids]).await.map_err(fault)? {
        if let Some(table) = tables.get_mut(&row.get(0)) {
            let (kind, nullable, default_value) = (row.get(2), row.get(3), row.get(4));
            table.columns.push(Column { name: row.get(1), kind, nullable, default_value });
        }
    }
    for row in client.query(CONSTRAINTS, &[&oids]).await.map_err(fault)? {
        if let Some(table) = tables.get_mut(&row.get(0)) {
            table.constraints.push(Constraint { name: row.get(1), kind: row.get(2), definition: row.get(3) });
        }
    }
    for row in client.query(POLICIES, &[&oids]).await.map_err(fault)? {
        if let Some(table) = tables.get_mut(&row.get(0)) {
            let (using_expression, check_expression) = (row.get(3), row.get(4));
            table.policies.push(Policy { name: row.get(1), command: row.get(2), using_expression, check_expression });
        }
    }
    Ok(oids.iter().filter_map(|oid| tables.remove(oid)).collect())
}
