//! Migrations: which are new, and applying them.
//!
//! A migration is known by its id; the registry says with which checksum it was applied. Each is one
//! transaction together with its row in the registry. One with `transaction: "none"` runs statement by
//! statement and is recorded after the last: when it is interrupted it is run again from its start.

use super::error::SqlFault;
use super::run::{check_text, fault, refuse_open_transaction};
use super::split::split;
use super::{Database, DatabaseError, ProjectSchema};
use std::collections::{BTreeMap, HashSet};
use tokio_postgres::Client;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    pub id: String,
    /// Lower-case hexadecimal; compared, not computed.
    pub checksum: String,
    pub sql: String,
    pub transaction: Transaction,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transaction {
    #[default]
    Required,
    /// For what PostgreSQL does outside of transactions only, such as `CREATE INDEX CONCURRENTLY`.
    None,
}

/// What would happen to migrations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MigrationPlan {
    /// In the order in which they are given.
    pub new: Vec<Named>,
    /// Applied before with the same checksum.
    pub noop: Vec<Named>,
}

/// A migration by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub id: String,
    pub checksum: String,
    pub transaction: Transaction,
}

/// A row of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub id: String,
    pub checksum: String,
    /// RFC 3339, UTC.
    pub applied_at: String,
}

impl Database {
    /// Says which migrations are new. Changes nothing. Refused when one was applied with another checksum.
    pub async fn plan(&self, project_id: &str, migrations: &[Migration]) -> Result<MigrationPlan, DatabaseError> {
        compare(&self.applied(project_id).await?, migrations)
    }

    /// The registry of a project, in the order of application; empty when it has no database yet.
    pub async fn applied(&self, project_id: &str) -> Result<Vec<Applied>, DatabaseError> {
        let mut admin = self.0.admin().await?;
        registry(admin.client(), &ProjectSchema::of(project_id)).await
    }

    /// Applies what is new, in order, and stops at the first that fails; those before it stay. Answers what
    /// was applied. Only one call for a project at a time; others wait, and then find nothing new.
    ///
    /// Cancelling it ends the migration that runs, which leaves nothing behind when it is a transaction.
    pub async fn apply(&self, project_id: &str, migrations: &[Migration]) -> Result<Vec<String>, DatabaseError> {
        for migration in migrations {
            check_text(&migration.sql, &self.0.limits)?;
        }
        let schema = self.provision(project_id).await?;
        let mut lock = self.0.another_admin().await?;
        let locked = || DatabaseError::admin("waiting for other migrations");
        let transaction = lock.transaction().await.map_err(locked())?;
        // A row that only we can lock. An advisory lock could be taken by any project. It is held while
        // nothing happens in this session, and has to wait for migrations that may take long themselves.
        let wait = self.0.limits.migration.as_millis();
        let patience = format!(
            "SET LOCAL lock_timeout = {wait}; SET LOCAL statement_timeout = {wait};
             SET LOCAL idle_in_transaction_session_timeout = 0"
        );
        transaction.batch_execute(&patience).await.map_err(locked())?;
        // Not the stronger FOR UPDATE, for which rows that refer to this one would have to wait.
        let query = "SELECT 1 FROM run402.projects WHERE schema = $1 FOR NO KEY UPDATE";
        let row = transaction.query_opt(query, &[&schema.as_str()]).await.map_err(locked())?;
        row.ok_or(DatabaseError::NoProject)?;
        let plan = compare(&registry(transaction.client(), &schema).await?, migrations)?;
        // The portal of a query keeps its snapshot until the next one, and `CREATE INDEX CONCURRENTLY` waits
        // for every snapshot. One of the simple protocol leaves nothing.
        transaction.batch_execute("SELECT 1").await.map_err(locked())?;
        let new: HashSet<&str> = plan.new.iter().map(|named| named.id.as_str()).collect();
        let mut applied = Vec::new();
        for migration in migrations.iter().filter(|migration| new.contains(migration.id.as_str())) {
            self.apply_one(&schema, migration, &applied).await?;
            applied.push(migration.id.clone());
        }
        transaction.rollback().await.map_err(locked())?;
        Ok(applied)
    }

    async fn apply_one(
        &self,
        schema: &ProjectSchema,
        migration: &Migration,
        applied: &[String],
    ) -> Result<(), DatabaseError> {
        let limit = self.0.limits.migration;
        // Of its own, so that no migration sees what another one has set.
        let session = self.session(schema, limit).await?;
        let mut rolled_back = true;
        let done = session
            .within(limit, async |client: &Client| match migration.transaction {
                Transaction::Required => in_transaction(client, migration).await,
                Transaction::None => statement_by_statement(client, migration, &mut rolled_back).await,
            })
            .await;
        let failed = |fault| DatabaseError::MigrationFailed {
            id: migration.id.clone(),
            fault,
            applied: applied.to_vec(),
            rolled_back,
        };
        done.map_err(|error| match error {
            DatabaseError::Sql(fault) => failed(fault),
            DatabaseError::Timeout(_) => failed(Box::new(SqlFault::text(error.to_string()))),
            error => error,
        })
    }
}

async fn in_transaction(client: &Client, migration: &Migration) -> Result<(), DatabaseError> {
    let sql = &migration.sql;
    client.batch_execute("BEGIN").await.map_err(fault)?;
    // By the function, so that the script cannot end the transaction.
    let done = client.execute("SELECT run402.carry_out($1)", &[sql]).await;
    let placed = |error: tokio_postgres::Error| match SqlFault::of_script(&error, sql) {
        Some(fault) => DatabaseError::Sql(Box::new(fault)),
        None => fault(error),
    };
    done.map_err(|error| match (placed(error), statement_that_ends(sql)) {
        (DatabaseError::Sql(fault), Some(statement)) if fault.sqlstate.as_deref() == Some("0A000") => {
            let advice = "a migration is one transaction; leave it out, or say `transaction: \"none\"`";
            let message = format!("{}: {advice}", fault.message);
            let position = u32::try_from(sql[..statement].chars().count() + 1).ok();
            DatabaseError::Sql(Box::new(SqlFault { message, position, ..*fault }))
        }
        (error, _) => error,
    })?;
    record(client, migration).await?;
    // Constraints that were put off are looked at now.
    client.batch_execute("COMMIT").await.map_err(fault)
}

/// Where the script tries to end its transaction.
fn statement_that_ends(sql: &str) -> Option<usize> {
    split(sql).iter().find(|statement| statement.controls_transaction()).map(|statement| statement.offset)
}

async fn statement_by_statement(
    client: &Client,
    migration: &Migration,
    rolled_back: &mut bool,
) -> Result<(), DatabaseError> {
    let statements = split(&migration.sql);
    for statement in &statements {
        let chars = migration.sql[..statement.offset].chars().count();
        client.batch_execute(statement.text).await.map_err(|error| match fault(error) {
            DatabaseError::Sql(fault) => DatabaseError::Sql(Box::new(fault.shifted(chars))),
            error => error,
        })?;
        *rolled_back = false;
    }
    if statements.iter().any(|statement| statement.controls_transaction()) {
        refuse_open_transaction(client).await?;
    }
    record(client, migration).await
}

async fn record(client: &Client, migration: &Migration) -> Result<(), DatabaseError> {
    let statement = "SELECT run402.record($1, $2)";
    client.execute(statement, &[&migration.id, &migration.checksum]).await.map(drop).map_err(fault)
}

async fn registry(client: &Client, schema: &ProjectSchema) -> Result<Vec<Applied>, DatabaseError> {
    let query = "SELECT id, checksum, to_char(applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')
        FROM run402.migrations WHERE schema = $1 ORDER BY number";
    let rows = client.query(query, &[&schema.as_str()]).await;
    let rows = rows.map_err(DatabaseError::admin("reading the registry of migrations"))?;
    let applied = |row: &tokio_postgres::Row| Applied { id: row.get(0), checksum: row.get(1), applied_at: row.get(2) };
    Ok(rows.iter().map(applied).collect())
}

fn compare(applied: &[Applied], migrations: &[Migration]) -> Result<MigrationPlan, DatabaseError> {
    let applied: BTreeMap<&str, &str> = applied.iter().map(|row| (row.id.as_str(), row.checksum.as_str())).collect();
    let mut seen = HashSet::new();
    let mut plan = MigrationPlan::default();
    for Migration { id, checksum, transaction, .. } in migrations {
        if !seen.insert(id) {
            return Err(DatabaseError::DuplicateMigration { id: id.clone() });
        }
        let named = Named { id: id.clone(), checksum: checksum.clone(), transaction: *transaction };
        match applied.get(id.as_str()) {
            None => plan.new.push(named),
            Some(before) if *before == checksum => plan.noop.push(named),
            Some(before) => {
                let (applied, given) = ((*before).to_owned(), checksum.clone());
                return Err(DatabaseError::ChecksumMismatch { id: id.clone(), applied, given });
            }
        }
    }
    Ok(plan)
}
