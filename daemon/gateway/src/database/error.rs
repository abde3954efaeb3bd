//! What goes wrong with a project's database, and how it is called over the wire.

use tokio_postgres::error::{DbError, ErrorPosition};

/// A refusal of the database's, or a failure to reach it.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("the address of the database cannot be read: {0}")]
    Address(#[source] tokio_postgres::Error),
    #[error("cannot connect to the database: {0}")]
    Connect(#[source] tokio_postgres::Error),
    #[error("the database did not answer in time")]
    Silent,
    /// Of our own statements.
    #[error("the database failed at {step}: {}", chain(source))]
    Admin { step: &'static str, source: tokio_postgres::Error },
    #[error("the migration {id} was applied with checksum {applied}; the one that is given now has {given}")]
    ChecksumMismatch { id: String, applied: String, given: String },
    #[error("the migration {id} is given twice")]
    DuplicateMigration { id: String },
    #[error("the migration {id} failed: {fault}")]
    MigrationFailed {
        id: String,
        fault: Box<SqlFault>,
        /// Migrations of the same call that were applied before, and stay.
        applied: Vec<String>,
        /// Whether nothing of the failed one stays.
        rolled_back: bool,
    },
    #[error("{0}")]
    Sql(Box<SqlFault>),
    #[error("the statement ran longer than {0} ms and was ended")]
    Timeout(u128),
    #[error("the result has more than {0}; ask for less, such as with LIMIT")]
    ResultTooLarge(String),
    #[error("the SQL is longer than {0} bytes")]
    SqlTooLong(usize),
    #[error("{0}")]
    Parameters(String),
    #[error("too many statements are running; try again in a moment")]
    Busy,
    #[error("the project has no database")]
    NoProject,
}

/// A statement of a project's that PostgreSQL refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", position.map(|at| format!(" (at character {at})")).unwrap_or_default())]
pub struct SqlFault {
    pub message: String,
    /// Five characters, such as `42601`.
    pub sqlstate: Option<String>,
    /// Of the first character that is wrong, counted in characters from 1.
    pub position: Option<u32>,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl SqlFault {
    pub(super) fn text(message: impl Into<String>) -> Self {
        Self { message: message.into(), sqlstate: None, position: None, detail: None, hint: None }
    }

    /// None when the connection broke rather than the statement.
    pub(super) fn of(error: &tokio_postgres::Error) -> Option<Self> {
        error.as_db_error().filter(|error| !is_shutdown(error)).map(|error| Self {
            message: error.message().to_owned(),
            sqlstate: Some(error.code().code().to_owned()),
            position: match error.position() {
                Some(ErrorPosition::Original(at)) => Some(*at),
                // Of a text within the text, such as a function's body.
                Some(ErrorPosition::Internal { .. }) | None => None,
            },
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
        })
    }

    /// As [`SqlFault::of`], for a text that was carried out by a function of ours.
    pub(super) fn of_script(error: &tokio_postgres::Error, script: &str) -> Option<Self> {
        let fault = Self::of(error)?;
        match error.as_db_error()?.position() {
            Some(ErrorPosition::Internal { position, query }) if query == script => {
                Some(Self { position: Some(*position), ..fault })
            }
            _ => Some(fault),
        }
    }

    /// The place in the whole text of a statement that starts after `chars` characters of it.
    pub(super) fn shifted(mut self, chars: usize) -> Self {
        let chars = u32::try_from(chars).unwrap_or(u32::MAX);
        self.position = self.position.map(|at| at.saturating_add(chars));
        self
    }
}

/// Class 57P: an administrator ended the session.
fn is_shutdown(error: &DbError) -> bool {
    error.code().code().starts_with("57P")
}

impl DatabaseError {
    /// As the API names it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ChecksumMismatch { .. } => "MIGRATION_CHECKSUM_MISMATCH",
            Self::MigrationFailed { .. } => "MIGRATION_FAILED",
            Self::DuplicateMigration { .. } => "INVALID_SPEC",
            Self::Sql(_) => "SQL_ERROR",
            Self::Timeout(_) => "SQL_TIMEOUT",
            Self::ResultTooLarge(_) => "RESULT_TOO_LARGE",
            Self::SqlTooLong(_) | Self::Parameters(_) => "BAD_FIELD",
            Self::Busy => "TOO_MANY_REQUESTS",
            Self::NoProject => "PROJECT_NOT_FOUND",
            Self::Address(_) | Self::Connect(_) | Self::Silent | Self::Admin { .. } => "STORAGE_UNAVAILABLE",
        }
    }

    /// Whether the same call may succeed later without being changed.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Silent | Self::Admin { .. } | Self::Busy)
    }

    pub(super) fn admin(step: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| Self::Admin { step, source }
    }
}

/// The driver's own words are "db error".
fn chain(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(fault) => fault.message().to_owned(),
        None => error.to_string(),
    }
}
