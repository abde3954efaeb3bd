//! Who makes a request, and what they may do.
//!
//! Input: headers. Output: [`Caller`], which answers for projects. A sign-in is checked whenever it is
//! there; a key is looked up by its hash.

use crate::error::{Refusal, Result};
use crate::gateway::Gateway;
use crate::store::projects::{KeyKind, Project};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use run402::signin::{VerifyError, verify};
use time::OffsetDateTime;

/// What the headers prove.
#[derive(Debug, Default)]
pub(crate) struct Caller {
    /// Lower-case address of a wallet that signed.
    wallet: Option<String>,
    key: Option<(Project, KeyKind)>,
}

impl Caller {
    pub(crate) fn read(gateway: &Gateway, headers: &HeaderMap) -> Result<Self> {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let bearer = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        let mut caller = Self::default();
        // The stronger key counts when there are two.
        for key in [text("apikey"), bearer].into_iter().flatten() {
            let found = match gateway.lent_keys().owner(key.trim()) {
                Some((id, kind)) => gateway.store().project(&id)?.map(|project| (project, kind)),
                None => gateway.store().by_key(key.trim())?,
            };
            let found = found.ok_or_else(|| Refusal::forbidden("this key is not one of a project here"))?;
            if caller.key.as_ref().is_none_or(|(_, kind)| *kind == KeyKind::Anon) {
                caller.key = Some(found);
            }
        }
        match text("sign-in-with-x").map(|header| verify(header, OffsetDateTime::now_utc())) {
            Some(Ok(verified)) => caller.wallet = Some(verified.address.to_lower()),
            Some(Err(error)) => return Err(refused(&error)),
            None => {}
        }
        Ok(caller)
    }

    /// A wallet has signed.
    pub(crate) fn wallet(&self) -> Result<&str> {
        self.wallet.as_deref().ok_or_else(Refusal::unauthenticated)
    }

    fn signed_in(&self) -> Result<()> {
        match (&self.wallet, &self.key) {
            (None, None) => Err(Refusal::unauthenticated()),
            _ => Ok(()),
        }
    }

    /// The wallet that signed owns the project.
    pub(crate) fn owned(&self, gateway: &Gateway, id: &str) -> Result<Project> {
        let wallet = self.wallet()?;
        let project = gateway.store().project(id)?.filter(|project| project.owner == wallet);
        project.ok_or_else(Refusal::unknown_project)
    }

    /// The project's service key was shown.
    pub(crate) fn served(&self, id: &str) -> Result<Project> {
        match &self.key {
            Some((project, KeyKind::Service)) if project.id == id => Ok(project.clone()),
            Some((project, KeyKind::Anon)) if project.id == id => {
                Err(Refusal::forbidden("this needs the project's service key"))
            }
            _ => self.signed_in().and(Err(Refusal::unknown_project())),
        }
    }

    /// The service key of whichever project.
    pub(crate) fn any_served(&self) -> Result<Project> {
        match &self.key {
            Some((project, KeyKind::Service)) => Ok(project.clone()),
            _ => self.signed_in().and(Err(Refusal::forbidden("this needs a project's service key"))),
        }
    }

    /// One of the project's keys was shown, or its wallet signed.
    pub(crate) fn reader(&self, gateway: &Gateway, id: &str) -> Result<Project> {
        match &self.key {
            Some((project, _)) if project.id == id => Ok(project.clone()),
            Some(_) if self.wallet.is_none() => Err(Refusal::unknown_project()),
            _ => self.owned(gateway, id),
        }
    }

    /// The project whose key was shown.
    pub(crate) fn keyed(&self) -> Result<Project> {
        match &self.key {
            Some((project, _)) => Ok(project.clone()),
            None => Err(Refusal::unauthenticated()),
        }
    }
}

fn refused(error: &VerifyError) -> Refusal {
    Refusal::bad_sign_in(error.to_string())
}
