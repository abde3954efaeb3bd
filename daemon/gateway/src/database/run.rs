//! SQL of a project's, one call at a time: text in, JSON out.
//!
//! Several statements are one transaction, unless they begin and end transactions themselves; the result is
//! that of the last one. A result that is too large changes nothing.

use super::error::SqlFault;
use super::split::{Statement, split};
use super::{Database, DatabaseError, Limits, values};
use futures::TryStreamExt;
use serde::Serialize;
use serde_json::{Map, Value};
use std::pin::pin;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryMessage};

/// Answer of `run_sql`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SqlResult {
    pub status: &'static str,
    pub schema: String,
    pub rows: Vec<Map<String, Value>>,
    /// Rows that were read or changed; null where the statement has no such number.
    pub row_count: Option<u64>,
    pub fields: Vec<Field>,
}

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    pub name: String,
    /// As PostgreSQL names it, such as `int4`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// What a statement has brought.
#[derive(Default)]
struct Outcome {
    rows: Vec<Map<String, Value>>,
    row_count: Option<u64>,
    fields: Vec<Field>,
}

impl Database {
    /// Runs SQL with the project's own rights. Parameters are for a single statement; they are cast from
    /// their text, arrays and objects included.
    pub async fn run_sql(&self, project_id: &str, sql: &str, params: &[Value]) -> Result<SqlResult, DatabaseError> {
        let limits = &self.0.limits;
        check_text(sql, limits)?;
        let statements = split(sql);
        if !params.is_empty() && statements.len() != 1 {
            let sentence = format!("parameters are for one statement; there are {}", statements.len());
            return Err(DatabaseError::Parameters(sentence));
        }
        let schema = self.provision(project_id).await?;
        let session = self.session(&schema, limits.statement).await?;
        let run = async |client: &Client| run(client, sql, &statements, params, limits).await;
        let outcome = session.within(limits.statement, run).await?;
        let Outcome { rows, row_count, fields } = outcome;
        Ok(SqlResult { status: "ok", schema: schema.to_string(), rows, row_count, fields })
    }
}

pub(super) fn check_text(sql: &str, limits: &Limits) -> Result<(), DatabaseError> {
    if sql.len() > limits.sql_bytes {
        return Err(DatabaseError::SqlTooLong(limits.sql_bytes));
    }
    match sql.contains('\0') {
        true => Err(DatabaseError::Sql(Box::new(SqlFault::text("the SQL has a NUL character")))),
        false => Ok(()),
    }
}

async fn run(
    client: &Client,
    sql: &str,
    statements: &[Statement<'_>],
    params: &[Value],
    limits: &Limits,
) -> Result<Outcome, DatabaseError> {
    let own_transaction = statements.iter().any(Statement::controls_transaction);
    let one = statements.len() == 1;
    // A lone statement of another kind may be one that no transaction may surround, such as VACUUM.
    let surrounded = !own_transaction && (!one || statements.iter().any(Statement::counts_rows));
    if surrounded {
        client.batch_execute("BEGIN").await.map_err(fault)?;
    }
    let mut last = Outcome::default();
    for statement in statements {
        let chars = sql[..statement.offset].chars().count();
        last = run_one(client, *statement, params, limits).await.map_err(|error| match error {
            DatabaseError::Sql(fault) => DatabaseError::Sql(Box::new(fault.shifted(chars))),
            error => error,
        })?;
    }
    if surrounded {
        client.batch_execute("COMMIT").await.map_err(fault)?;
    } else if own_transaction {
        refuse_open_transaction(client).await?;
    }
    Ok(last)
}

/// The session ends now, and what was not committed would be lost without a word.
pub(super) async fn refuse_open_transaction(client: &Client) -> Result<(), DatabaseError> {
    let open = "the transaction that was begun is not committed; it was rolled back";
    match client.batch_execute("SAVEPOINT run402_open").await {
        Ok(()) => Err(DatabaseError::Sql(Box::new(SqlFault::text(open)))),
        Err(error) if error.code().is_some_and(|code| code.code() == "25P01") => Ok(()),
        Err(error) => Err(fault(error)),
    }
}

async fn run_one(
    client: &Client,
    statement: Statement<'_>,
    params: &[Value],
    limits: &Limits,
) -> Result<Outcome, DatabaseError> {
    // Types of columns and parameters; nothing runs yet.
    let described = client.prepare(statement.text).await.map_err(fault)?;
    let types: Vec<Type> = described.columns().iter().map(|column| column.type_().clone()).collect();
    if described.params().len() != params.len() {
        let (wanted, given) = (described.params().len(), params.len());
        return Err(DatabaseError::Parameters(format!("the statement has {wanted} parameters; {given} are given")));
    }
    // Results come as text, which every type has; so the statement runs by the simple protocol.
    let text = if params.is_empty() {
        statement.text.to_owned()
    } else {
        let prepare = format!("PREPARE run402_with_parameters AS {}", statement.text);
        client.batch_execute(&prepare).await.map_err(|error| without_position(fault(error)))?;
        let values = described.params().iter().zip(params).map(|(kind, value)| values::to_literal(kind, value));
        format!("EXECUTE run402_with_parameters ({})", values.collect::<Vec<_>>().join(", "))
    };
    if text.contains('\0') {
        return Err(DatabaseError::Parameters("a parameter has a NUL character".to_owned()));
    }
    let unplaced = |error| if params.is_empty() { fault(error) } else { without_position(fault(error)) };
    let mut outcome = Outcome::default();
    let mut bytes = 0;
    let mut stream = pin!(client.simple_query_raw(&text).await.map_err(unplaced)?);
    while let Some(message) = stream.try_next().await.map_err(unplaced)? {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                let field = |(name, kind): (&str, &Type)| Field { name: name.to_owned(), kind: kind.name().to_owned() };
                outcome.fields = columns.iter().map(|column| column.name()).zip(&types).map(field).collect();
            }
            SimpleQueryMessage::Row(row) => {
                let mut object = Map::new();
                for (at, column) in row.columns().iter().enumerate() {
                    let text = row.try_get(at).map_err(fault)?;
                    bytes += column.name().len() + text.map_or(4, str::len);
                    let kind = types.get(at).unwrap_or(&Type::TEXT);
                    object.insert(column.name().to_owned(), values::to_json(kind, text));
                }
                outcome.rows.push(object);
                if outcome.rows.len() > limits.rows {
                    return Err(DatabaseError::ResultTooLarge(format!("{} rows", limits.rows)));
                }
                if bytes > limits.result_bytes {
                    return Err(DatabaseError::ResultTooLarge(format!("{} bytes", limits.result_bytes)));
                }
            }
            SimpleQueryMessage::CommandComplete(count) => {
                let counts = !types.is_empty() || statement.counts_rows();
                outcome.row_count = counts.then_some(count);
            }
            // The driver may learn others.
            _ => {}
        }
    }
    Ok(outcome)
}

/// A refusal of the statement, or a break of the connection.
pub(super) fn fault(error: tokio_postgres::Error) -> DatabaseError {
    match SqlFault::of(&error) {
        Some(fault) => DatabaseError::Sql(Box::new(fault)),
        None => DatabaseError::Admin { step: "running a statement", source: error },
    }
}

/// Where the place would be one of our own text.
fn without_position(error: DatabaseError) -> DatabaseError {
    match error {
        DatabaseError::Sql(fault) => DatabaseError::Sql(Box::new(SqlFault { position: None, ..*fault })),
        error => error,
    }
}
