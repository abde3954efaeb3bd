//! A PostgreSQL database behind the seam that releases and calls about tables go through.
//!
//! Only translates: names of the one side into those of the other, faults of the database into refusals.

use crate::database::expose::{Findings, Issue, Manifest};
use crate::database::{self, DatabaseError, SqlFault};
use crate::slices::{Database, DatabaseFault, Migration, MigrationName, MigrationPlan, Pending, Transaction};
use serde::Serialize;
use serde_json::{Value, json};

/// Tables of projects in one PostgreSQL database.
#[derive(Debug, Clone)]
pub struct Tables(database::Database);

impl Tables {
    /// `url` names the database and a user that may make schemas and roles.
    pub async fn connect(url: &str) -> Result<Self, DatabaseError> {
        database::Database::connect(url).await.map(Self)
    }
}

impl From<database::Database> for Tables {
    fn from(database: database::Database) -> Self {
        Self(database)
    }
}

fn sql_details(fault: &SqlFault) -> Value {
    json!({"sqlstate": fault.sqlstate, "position": fault.position, "detail": fault.detail, "hint": fault.hint})
}

impl From<DatabaseError> for DatabaseFault {
    fn from(error: DatabaseError) -> Self {
        let (code, message) = (error.code().to_owned(), error.to_string());
        match error {
            DatabaseError::ChecksumMismatch { id, applied, given } => Self::Checksum { id, applied, given },
            DatabaseError::MigrationFailed { id, fault, applied, rolled_back } => {
                let mut details = sql_details(&fault);
                details["applied_before"] = json!(applied);
                Self::Migration { id, message: fault.to_string(), rolled_back, details }
            }
            DatabaseError::Sql(fault) => Self::Refused { code, message, details: sql_details(&fault) },
            DatabaseError::DuplicateMigration { .. }
            | DatabaseError::Timeout(_)
            | DatabaseError::ResultTooLarge(_)
            | DatabaseError::SqlTooLong(_)
            | DatabaseError::Parameters(_)
            | DatabaseError::NoProject => Self::Refused { code, message, details: Value::Null },
            DatabaseError::Address(_)
            | DatabaseError::Connect(_)
            | DatabaseError::Silent
            | DatabaseError::Admin { .. }
            | DatabaseError::Busy => Self::Unavailable(Box::new(error)),
        }
    }
}

fn outer(name: database::Named) -> MigrationName {
    let transaction = match name.transaction {
        database::Transaction::Required => Transaction::Default,
        database::Transaction::None => Transaction::None,
    };
    MigrationName { id: name.id, checksum: name.checksum, transaction }
}

fn inner(name: &MigrationName, sql: String) -> database::Migration {
    let transaction = match name.transaction {
        Transaction::Default => database::Transaction::Required,
        Transaction::None => database::Transaction::None,
    };
    database::Migration { id: name.id.clone(), checksum: name.checksum.clone(), sql, transaction }
}

fn answer(value: &impl Serialize) -> Result<Value, DatabaseFault> {
    serde_json::to_value(value).map_err(|error| DatabaseFault::Unavailable(Box::new(error)))
}

/// A manifest that cannot come into force, with what is wrong with it.
fn unfit(issues: &[Issue]) -> DatabaseFault {
    let message = issues.first().map_or_else(|| "the manifest cannot be used".to_owned(), |issue| issue.detail.clone());
    DatabaseFault::Refused { code: "INVALID_EXPOSE".to_owned(), message, details: json!({"errors": issues}) }
}

impl Tables {
    async fn put_in_force(&self, project: &str, manifest: &Value) -> Result<Value, DatabaseFault> {
        let manifest = Manifest::read(manifest).map_err(|issues| unfit(&issues))?;
        let findings = self.0.check_expose(project, &manifest, None).await?;
        if findings.has_errors {
            return Err(unfit(&findings.errors));
        }
        answer(&self.0.expose(project, &manifest).await?)
    }
}

impl Database for Tables {
    fn create_project<'a>(&'a self, project: &'a str) -> Pending<'a, String> {
        Box::pin(async move { Ok(self.0.provision(project).await?.as_str().to_owned()) })
    }

    fn drop_project<'a>(&'a self, project: &'a str) -> Pending<'a, ()> {
        Box::pin(async move { Ok(self.0.drop_project(project).await?) })
    }

    fn plan_migrations<'a>(&'a self, project: &'a str, migrations: &'a [MigrationName]) -> Pending<'a, MigrationPlan> {
        Box::pin(async move {
            let migrations: Vec<_> = migrations.iter().map(|name| inner(name, String::new())).collect();
            let plan = self.0.plan(project, &migrations).await?;
            let names = |names: Vec<database::Named>| names.into_iter().map(outer).collect();
            Ok(MigrationPlan { new: names(plan.new), noop: names(plan.noop) })
        })
    }

    fn apply<'a>(
        &'a self,
        project: &'a str,
        migrations: &'a [Migration],
        expose: Option<&'a Value>,
    ) -> Pending<'a, Vec<String>> {
        Box::pin(async move {
            let migrations: Vec<_> =
                migrations.iter().map(|migration| inner(&migration.name, migration.sql.clone())).collect();
            let applied = self.0.apply(project, &migrations).await?;
            if let Some(manifest) = expose {
                self.put_in_force(project, manifest).await?;
            }
            Ok(applied)
        })
    }

    fn run_sql<'a>(&'a self, project: &'a str, sql: &'a str, params: &'a [Value]) -> Pending<'a, Value> {
        Box::pin(async move { answer(&self.0.run_sql(project, sql, params).await?) })
    }

    fn schema<'a>(&'a self, project: &'a str) -> Pending<'a, Value> {
        Box::pin(async move { answer(&self.0.schema(project).await?) })
    }

    fn expose<'a>(&'a self, project: &'a str, manifest: &'a Value) -> Pending<'a, Value> {
        Box::pin(async move { self.put_in_force(project, manifest).await })
    }

    fn exposed<'a>(&'a self, project: &'a str) -> Pending<'a, Value> {
        Box::pin(async move { answer(&self.0.exposed(project).await?) })
    }

    fn validate_expose<'a>(
        &'a self,
        project: Option<&'a str>,
        manifest: &'a Value,
        migration_sql: Option<&'a str>,
    ) -> Pending<'a, Value> {
        Box::pin(async move {
            let findings = match (Manifest::read(manifest), project) {
                (Err(issues), _) => Findings::from(issues),
                (Ok(_), None) => Findings::default(),
                (Ok(manifest), Some(project)) => self.0.check_expose(project, &manifest, migration_sql).await?,
            };
            answer(&findings)
        })
    }
}
