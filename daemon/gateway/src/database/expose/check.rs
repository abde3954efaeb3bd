//! A manifest against what a project has, and the one that is in force.

use super::{Findings, Issue, IssueKind, Manifest, TablePolicy};
use crate::database::run::fault;
use crate::database::schema::{Table, tables};
use crate::database::split::split;
use crate::database::{Database, DatabaseError, ProjectSchema};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Client;

/// Parts of column names that hold what nobody else should write.
const SENSITIVE: [&str; 7] = ["password", "passwd", "secret", "token", "api_key", "is_admin", "role"];

/// Names of one manifest, or of what one has more than another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Names {
    pub tables: Vec<String>,
    pub views: Vec<String>,
    pub rpcs: Vec<String>,
}

/// What a manifest has changed by coming into force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ApplyOutcome {
    pub applied: Names,
    pub dropped: Names,
}

/// The manifest that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    pub manifest: Value,
    pub source: KeptSource,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeptSource {
    Applied,
    /// None was ever applied; this one exposes nothing.
    Introspected,
}

impl Names {
    fn of(manifest: &Manifest) -> Self {
        let tables = manifest.tables.iter().filter(|table| table.expose).map(|table| table.name.clone());
        let views = manifest.views.iter().filter(|view| view.expose != Some(false)).map(|view| view.name.clone());
        let rpcs = manifest.rpcs.iter().map(|rpc| rpc.name.clone());
        Self { tables: tables.collect(), views: views.collect(), rpcs: rpcs.collect() }
    }

    fn without(&self, others: &Self) -> Self {
        let left = |mine: &[String], others: &[String]| {
            let others: BTreeSet<&String> = others.iter().collect();
            mine.iter().filter(|name| !others.contains(name)).cloned().collect()
        };
        Self {
            tables: left(&self.tables, &others.tables),
            views: left(&self.views, &others.views),
            rpcs: left(&self.rpcs, &others.rpcs),
        }
    }
}

impl Database {
    /// Compares a manifest with what the project has. What the migrations that come with it may still make
    /// is a warning, not an error.
    pub async fn check_expose(
        &self,
        project_id: &str,
        manifest: &Manifest,
        migration_sql: Option<&str>,
    ) -> Result<Findings, DatabaseError> {
        let schema = self.provision(project_id).await?;
        let limit = self.0.limits.statement;
        let session = self.session(&schema, limit).await?;
        let look = async |client: &Client| {
            let tables = tables(client, schema.as_str()).await?;
            let mut functions = Vec::new();
            for rpc in &manifest.rpcs {
                functions.push(find_function(client, schema.as_str(), &rpc.name, &rpc.signature).await?);
            }
            Ok(judge(manifest, &tables, &functions))
        };
        let issues = session.within(limit, look).await?;
        let made_later = migration_sql.map(words).unwrap_or_default();
        Ok(issues.into_iter().map(|(subject, issue)| soften(issue, &subject, &made_later)).collect::<Vec<_>>().into())
    }

    /// Puts a manifest into force. It is to be checked before.
    pub async fn expose(&self, project_id: &str, manifest: &Manifest) -> Result<ApplyOutcome, DatabaseError> {
        let failed = || DatabaseError::admin("keeping a manifest");
        let schema = self.provision(project_id).await?;
        let mut admin = self.0.admin().await?;
        let transaction = admin.client().transaction().await.map_err(failed())?;
        let before = kept(transaction.client(), &schema).await?.and_then(|value| Manifest::read(&value).ok());
        let text = serde_json::to_string(manifest).expect("a manifest can be written as JSON");
        let upsert = "INSERT INTO run402.manifests (schema, manifest) VALUES ($1, $2::text::jsonb)
            ON CONFLICT (schema) DO UPDATE SET manifest = excluded.manifest, applied_at = now()";
        transaction.execute(upsert, &[&schema.as_str(), &text]).await.map_err(failed())?;
        transaction.commit().await.map_err(failed())?;
        let applied = Names::of(manifest);
        let dropped = before.map(|before| Names::of(&before).without(&applied)).unwrap_or_default();
        Ok(ApplyOutcome { applied, dropped })
    }

    /// The manifest in force; without one, all tables, none of them exposed.
    pub async fn exposed(&self, project_id: &str) -> Result<Kept, DatabaseError> {
        let schema = ProjectSchema::of(project_id);
        {
            let mut admin = self.0.admin().await?;
            if let Some(manifest) = kept(admin.client(), &schema).await? {
                return Ok(Kept { manifest, source: KeptSource::Applied });
            }
        }
        let tables = self.schema(project_id).await?.tables;
        let hidden = |table: &Table| serde_json::json!({"name": table.name, "expose": false});
        let tables: Vec<Value> = tables.iter().map(hidden).collect();
        let manifest = serde_json::json!({"version": "1", "tables": tables, "views": [], "rpcs": []});
        Ok(Kept { manifest, source: KeptSource::Introspected })
    }
}

async fn kept(client: &Client, schema: &ProjectSchema) -> Result<Option<Value>, DatabaseError> {
    let query = "SELECT manifest::text FROM run402.manifests WHERE schema = $1";
    let row = client.query_opt(query, &[&schema.as_str()]).await;
    let row = row.map_err(DatabaseError::admin("reading a manifest"))?;
    Ok(row.and_then(|row| serde_json::from_str(row.get(0)).ok()))
}

/// Functions of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    /// Whether one has exactly the signature.
    exact: bool,
    /// Arguments of all that have the name.
    overloads: Vec<String>,
}

async fn find_function(client: &Client, schema: &str, name: &str, signature: &str) -> Result<Found, DatabaseError> {
    let query = "SELECT pg_catalog.oidvectortypes(p.proargtypes), pg_catalog.pg_get_function_identity_arguments(p.oid)
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = $1 AND p.proname = $2 ORDER BY 1";
    let rows = client.query(query, &[&schema, &name]).await.map_err(fault)?;
    let wanted = plain(signature);
    let mut exact = false;
    let mut overloads = Vec::new();
    for row in rows {
        let (types, named): (String, String) = (row.get(0), row.get(1));
        exact |= [&types, &named].iter().any(|arguments| plain(arguments) == wanted);
        overloads.push(format!("({types})"));
    }
    if !exact && !overloads.is_empty() {
        // Other spellings of types, such as `int` for `integer`. What cannot be read is no function.
        let spelled = format!("\"{schema}\".\"{}\"{signature}", name.replace('"', "\"\""));
        let look = client.query_one("SELECT pg_catalog.to_regprocedure($1) IS NOT NULL", &[&spelled]).await;
        exact = match look {
            Ok(row) => row.get(0),
            Err(error) if error.as_db_error().is_some() => false,
            Err(error) => return Err(fault(error)),
        };
    }
    Ok(Found { exact, overloads })
}

/// Without parentheses, white space and case.
fn plain(arguments: &str) -> String {
    let kept = arguments.chars().filter(|c| !c.is_whitespace() && !matches!(c, '(' | ')'));
    kept.flat_map(char::to_lowercase).collect()
}

/// What is wrong, each with the name that it is about.
fn judge(manifest: &Manifest, tables: &[Table], functions: &[Found]) -> Vec<(String, Issue)> {
    let tables: BTreeMap<&str, &Table> = tables.iter().map(|table| (table.name.as_str(), table)).collect();
    let has = |table: &Table, column: &str| table.columns.iter().any(|known| known.name == column);
    let mut issues = Vec::new();
    for exposed in &manifest.tables {
        let name = &exposed.name;
        let Some(table) = tables.get(name.as_str()) else {
            let issue = Issue::error(IssueKind::MissingTable, format!("there is no table \"{name}\""));
            issues.push((name.clone(), issue));
            continue;
        };
        if let Some(column) = exposed.owner_column.as_ref().filter(|column| !has(table, column)) {
            let detail = format!("the table \"{name}\" has no column \"{column}\"");
            issues.push((column.clone(), Issue::error(IssueKind::MissingColumn, detail)));
        }
        if exposed.expose && exposed.policy == Some(TablePolicy::PublicReadWriteUnrestricted) {
            let sensitive = |column: &str| SENSITIVE.iter().any(|part| column.to_ascii_lowercase().contains(part));
            for column in table.columns.iter().filter(|column| sensitive(&column.name)) {
                let detail = format!("anybody could write the column \"{}\" of \"{name}\"", column.name);
                let issue = Issue::warning(IssueKind::SensitiveColumnPublicWrite, detail);
                issues.push((name.clone(), issue.fix("choose another policy, or move the column")));
            }
        }
    }
    for view in &manifest.views {
        let Some(base) = tables.get(view.base.as_str()) else {
            let detail = format!("the view \"{}\" is of \"{}\", which is not there", view.name, view.base);
            issues.push((view.base.clone(), Issue::error(IssueKind::MissingViewBase, detail)));
            continue;
        };
        for column in view.select.iter().filter(|column| !has(base, column)) {
            let detail = format!("the view \"{}\" selects \"{column}\", which \"{}\" has not", view.name, view.base);
            issues.push((column.clone(), Issue::error(IssueKind::MissingColumn, detail)));
        }
    }
    for (rpc, found) in manifest.rpcs.iter().zip(functions).filter(|(_, found)| !found.exact) {
        let wanted = format!("{}{}", rpc.name, rpc.signature);
        let issue = match found.overloads.as_slice() {
            [] => Issue::error(IssueKind::MissingRpc, format!("there is no function \"{wanted}\"")),
            [one] => Issue::error(IssueKind::MissingRpc, format!("there is no function \"{wanted}\""))
                .fix(format!("write the signature {one}")),
            several => Issue::error(IssueKind::AmbiguousRpc, format!("\"{wanted}\" is none of those of this name"))
                .fix(format!("write one of: {}", several.join(", "))),
        };
        issues.push((rpc.name.clone(), issue));
    }
    issues
}

/// Words of scripts that are not run yet.
fn words(sql: &str) -> BTreeSet<String> {
    split(sql).iter().flat_map(|statement| statement.words().collect::<Vec<_>>()).collect()
}

/// What a script speaks of may be there after it.
fn soften(issue: Issue, subject: &str, made_later: &BTreeSet<String>) -> Issue {
    let is_missing = matches!(
        issue.kind,
        IssueKind::MissingTable | IssueKind::MissingColumn | IssueKind::MissingViewBase | IssueKind::MissingRpc
    );
    if is_missing && made_later.contains(&subject.to_ascii_lowercase()) {
        let detail = format!("{}; the migrations may make it", issue.detail);
        return Issue::warning(IssueKind::ValidationInconclusive, detail);
    }
    issue
}
