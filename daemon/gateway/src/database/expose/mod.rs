//! Expose manifests: which tables, views and functions of a project are to be seen from outside.
//!
//! [`Manifest::read`] judges the shape, [`Database::check_expose`](super::Database::check_expose) what
//! there is, [`Database::expose`](super::Database::expose) keeps it. Nobody is granted anything by a
//! manifest yet: it says what an interface of the tables may show.

mod check;
mod manifest;

pub use check::{ApplyOutcome, Kept, KeptSource, Names};
pub use manifest::{ExposedTable, ExposedView, Manifest, Rpc, TablePolicy};

use serde::Serialize;

/// One thing that is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Issue {
    #[serde(rename = "type")]
    pub kind: IssueKind,
    pub severity: Severity,
    pub detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IssueKind {
    SchemaShape,
    MissingTable,
    MissingColumn,
    MissingViewBase,
    MissingRpc,
    AmbiguousRpc,
    UnrestrictedAckRequired,
    SensitiveColumnPublicWrite,
    GrantToRoleUnknown,
    ForceOwnerWithoutOwnerColumn,
    ValidationInconclusive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

impl Issue {
    fn error(kind: IssueKind, detail: impl Into<String>) -> Self {
        Self { kind, severity: Severity::Error, detail: detail.into(), fix: None }
    }

    fn warning(kind: IssueKind, detail: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(kind, detail) }
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// What a validation found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    pub has_errors: bool,
    pub errors: Vec<Issue>,
    pub warnings: Vec<Issue>,
}

impl From<Vec<Issue>> for Findings {
    fn from(issues: Vec<Issue>) -> Self {
        let (errors, warnings): (Vec<_>, Vec<_>) =
            issues.into_iter().partition(|issue| issue.severity == Severity::Error);
        Self { has_errors: !errors.is_empty(), errors, warnings }
    }
}
