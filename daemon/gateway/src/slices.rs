//! The seam to a database: what a release's `database` slice, and the calls about tables, ask of one.
//!
//! The gateway reads no SQL and knows no server: it says what is to be done and in which order, and an
//! implementation of [`Database`], given with [`crate::Config::database`], does it. Without one, a release
//! that has a database slice is refused when it is planned, and nothing of it is done.

use crate::error::{Refusal, Result};
use crate::fault::Point;
use crate::gateway::Gateway;
use crate::spec::{self, Spec};
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::error::Error;
use std::fmt::Debug;
use std::pin::Pin;

/// Longer SQL of one migration is refused.
const MAX_SQL_BYTES: u64 = 8 << 20;

/// What an implementation answers, in time.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = std::result::Result<T, DatabaseFault>> + Send + 'a>>;

/// Tables of projects. Every call may be made again after a crash, and must then come to the same end.
pub trait Database: Debug + Send + Sync {
    /// Makes what a project needs, where it is not there yet; the name of its schema.
    fn create_project<'a>(&'a self, project: &'a str) -> Pending<'a, String>;

    /// Removes everything of a project; nothing happens when there is nothing.
    fn drop_project<'a>(&'a self, project: &'a str) -> Pending<'a, ()>;

    /// Which of these are new; [`DatabaseFault::Checksum`] when one was applied with another text.
    fn plan_migrations<'a>(&'a self, project: &'a str, migrations: &'a [MigrationName]) -> Pending<'a, MigrationPlan>;

    /// Applies those that are new, in this order, then converges to the expose manifest. What was applied is
    /// recorded together with its effects, so that it is never applied twice.
    fn apply<'a>(
        &'a self,
        project: &'a str,
        migrations: &'a [Migration],
        expose: Option<&'a Value>,
    ) -> Pending<'a, Vec<String>>;

    /// `{status, schema, rows, row_count, fields}`.
    fn run_sql<'a>(&'a self, project: &'a str, sql: &'a str, params: &'a [Value]) -> Pending<'a, Value>;

    /// `{schema, tables}`.
    fn schema<'a>(&'a self, project: &'a str) -> Pending<'a, Value>;

    /// `{applied, dropped}`, each `{tables, views, rpcs}`.
    fn expose<'a>(&'a self, project: &'a str, manifest: &'a Value) -> Pending<'a, Value>;

    /// The manifest that is in force, with its `source`.
    fn exposed<'a>(&'a self, project: &'a str) -> Pending<'a, Value>;

    /// `{has_errors, errors, warnings}`; findings are no faults. Without a project only its form is judged.
    fn validate_expose<'a>(
        &'a self,
        project: Option<&'a str>,
        manifest: &'a Value,
        migration_sql: Option<&'a str>,
    ) -> Pending<'a, Value>;
}

/// A migration as it is known afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationName {
    pub id: String,
    /// Lower-case hexadecimal.
    pub checksum: String,
    pub transaction: Transaction,
}

/// Whether a migration runs in a transaction of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    Default,
    /// For statements that no transaction may surround.
    None,
}

/// A migration that is to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    pub name: MigrationName,
    pub sql: String,
}

/// What applying would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MigrationPlan {
    pub new: Vec<MigrationName>,
    pub noop: Vec<MigrationName>,
}

impl MigrationPlan {
    pub(crate) fn to_json(&self) -> Value {
        let new = |name: &MigrationName| {
            let transaction = match name.transaction {
                Transaction::Default => "default",
                Transaction::None => "none",
            };
            json!({"id": name.id, "checksum_hex": name.checksum, "transaction": transaction})
        };
        let noop = |name: &MigrationName| json!({"id": name.id, "checksum_hex": name.checksum});
        json!({"new": self.new.iter().map(new).collect::<Vec<_>>(), "noop": self.noop.iter().map(noop).collect::<Vec<_>>()})
    }
}

/// Why a database did not do something.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseFault {
    #[error("migration {id} was applied with another text: its checksum was {applied}, and is {given} now")]
    Checksum { id: String, applied: String, given: String },
    /// `rolled_back` is false when a migration without a transaction may have left something.
    #[error("migration {id} failed: {message}")]
    Migration { id: String, message: String, rolled_back: bool, details: Value },
    /// The caller's statement or manifest is at fault.
    #[error("{message}")]
    Refused { code: String, message: String, details: Value },
    #[error("the database cannot be used: {0}")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}

impl From<DatabaseFault> for Refusal {
    fn from(fault: DatabaseFault) -> Self {
        let message = fault.to_string();
        match fault {
            DatabaseFault::Checksum { id, applied, given } => {
                let at = format!("database.migrations.{id}");
                Self::deploy(StatusCode::CONFLICT, "MIGRATION_CHECKSUM_MISMATCH", "plan", &at, message)
                    .detail("applied_checksum", json!(applied))
                    .detail("given_checksum", json!(given))
            }
            DatabaseFault::Migration { id, rolled_back, details, .. } => {
                let at = format!("database.migrations.{id}");
                let refusal =
                    Self::deploy(StatusCode::UNPROCESSABLE_ENTITY, "MIGRATION_FAILED", "migrate", &at, message);
                refusal.detail("rolled_back", json!(rolled_back)).detail("database", details)
            }
            DatabaseFault::Refused { code, details, .. } => Self::bad(&code, message).detail("database", details),
            DatabaseFault::Unavailable(_) => Self::unavailable("DATABASE_UNREACHABLE", message),
        }
    }
}

fn name(migration: &spec::Migration) -> MigrationName {
    let transaction = match migration.transaction {
        Some(spec::Transaction::None) => Transaction::None,
        Some(spec::Transaction::Required) | None => Transaction::Default,
    };
    MigrationName { id: migration.id.clone(), checksum: migration.checksum(), transaction }
}

impl Gateway {
    /// The database, or the refusal of a call about tables.
    pub(crate) fn database(&self) -> Result<&dyn Database> {
        let absent = || Refusal::not_here("this gateway was started without a database; start it with --database-url");
        self.config().database.as_deref().ok_or_else(absent)
    }

    /// What the release's migrations would do.
    pub(crate) async fn plan_database(&self, project: &str, spec: &Spec) -> Result<MigrationPlan> {
        let Some(slice) = spec.database.as_ref().filter(|slice| slice.changes_something()) else {
            return Ok(MigrationPlan::default());
        };
        let absent = |_| {
            let message = "this gateway was started without --database-url, so that a release must not have a \
                 database slice; nothing was done";
            Refusal::deploy(StatusCode::UNPROCESSABLE_ENTITY, "DATABASE_UNAVAILABLE", "plan", "database", message)
        };
        let database = self.database().map_err(absent)?;
        let names: Vec<MigrationName> = slice.migrations.iter().map(name).collect();
        Ok(database.plan_migrations(project, &names).await?)
    }

    /// Applies the release's migrations and exposes its tables. Called again after a crash, it comes to the
    /// same end: what was applied is known to the database.
    pub(crate) async fn migrate(&self, project: &str, spec: &Spec) -> Result<()> {
        let Some(slice) = spec.database.as_ref().filter(|slice| slice.changes_something()) else { return Ok(()) };
        let wanted = slice.migrations.clone();
        let read = move |gateway: &Self| -> Result<Vec<Migration>> {
            let migration = |migration: &spec::Migration| {
                let bytes = gateway.contents().read(&migration.sql_ref.sha256, MAX_SQL_BYTES)?;
                let sql = String::from_utf8(bytes).map_err(|_| {
                    Refusal::spec(&format!("database.migrations.{}", migration.id), "the SQL is not UTF-8")
                })?;
                Ok(Migration { name: name(migration), sql })
            };
            wanted.iter().map(migration).collect()
        };
        let migrations = self.blocking(read).await?;
        let applied = self.database()?.apply(project, &migrations, slice.expose.as_ref()).await?;
        Point::Migrated.pass();
        let known: HashSet<&str> = migrations.iter().map(|migration| migration.name.id.as_str()).collect();
        match applied.iter().find(|id| !known.contains(id.as_str())) {
            Some(id) => Err(Refusal::internal(format!("the database applied a migration of its own, {id}"))),
            None => Ok(()),
        }
    }
}
