//! What a path names: a project, and a run in it.

use super::problem::Failure;
use crate::tokens::Caller;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use sandbox_wire::{Code, Problem, RunId};

/// `/projects/{id}/…`: a UUID or a `url_id`, not yet looked up.
#[derive(Debug)]
pub(crate) struct AtProject(pub(crate) String);

/// `/projects/{id}/runs/{run}/…`
#[derive(Debug)]
pub(crate) struct AtRun {
    pub(crate) project: String,
    pub(crate) run: RunId,
}

/// `/tokens/{id}`, `/policies/{name}`
#[derive(Debug)]
pub(crate) struct AtName(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for AtProject {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        Ok(Self(one(parts, state).await?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for AtName {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        Ok(Self(one(parts, state).await?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for AtRun {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((project, run)) = path.map_err(|_| not_utf8())?;
        let run = run.parse().map_err(|invalid| {
            let shown: String = run.chars().take(64).collect();
            Problem::new(Code::RunNotFound, format!("there is no run `{shown}`: {invalid}"))
        })?;
        Ok(Self { project, run })
    }
}

async fn one<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, Problem> {
    match Path::<String>::from_request_parts(parts, state).await {
        Ok(Path(name)) => Ok(name),
        Err(_) => Err(not_utf8()),
    }
}

fn not_utf8() -> Problem {
    Problem::new(Code::InvalidRequest, "the path is not UTF-8")
}

/// The middleware has found out who calls before a handler asks.
impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| crate::service::Error::internal("a handler asked for the caller of an open call").into())
    }
}
