//! Tokens: who calls, and what that caller may do.
//!
//! Input: the text of a bearer token; output: a [`Caller`]. Only hashes are kept. A token has 256 random
//! bits, so a plain hash is enough: there is nothing to guess.

use crate::index::tokens::TokenRow;
use sandbox_wire::{Code, Problem, ProjectId, Scope};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use subtle::ConstantTimeEq;

/// Id of the token that `<state>/token` holds.
pub(crate) const ADMIN_TOKEN_ID: &str = "tok_admin";

/// Who calls.
#[derive(Debug, Clone)]
pub(crate) struct Caller(Arc<TokenRow>);

impl Caller {
    /// The caller of a daemon that asks for no token.
    pub(crate) fn anybody() -> Self {
        Self(Arc::new(TokenRow {
            id: "none".to_owned(),
            hash: [0; 32],
            name: String::new(),
            scopes: vec![Scope::Admin],
            projects: None,
            created_at_ms: 0,
        }))
    }

    pub(crate) fn has(&self, scope: Scope) -> bool {
        self.0.scopes.iter().any(|held| *held == scope || *held == Scope::Admin)
    }

    /// Refused when the token lacks the scope.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.has(scope) {
            return Ok(());
        }
        let name = scope_name(scope);
        Err(Problem::new(Code::Forbidden, format!("this call needs a token with the scope `{name}`"))
            .with("scope", name)
            .next(format!("create one: sandboxctl token create --scope {name}")))
    }

    /// Refused also when the token is good for some projects only: the call concerns all of them.
    pub(crate) fn require_for_all_projects(&self, scope: Scope) -> Result<(), Problem> {
        self.require(scope)?;
        if self.0.projects.is_none() {
            return Ok(());
        }
        Err(Problem::new(Code::Forbidden, "this call needs a token that is good for all projects"))
    }

    /// Whether the project exists for this caller.
    pub(crate) fn may_see(&self, project: ProjectId) -> bool {
        self.0.projects.as_ref().is_none_or(|listed| listed.contains(&project))
    }
}

pub(crate) fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Run => "run",
        Scope::Files => "files",
        Scope::Deploy => "deploy",
        Scope::Admin => "admin",
    }
}

/// The tokens that are good right now.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    by_hash: RwLock<HashMap<[u8; 32], Arc<TokenRow>>>,
}

impl Tokens {
    pub(crate) fn insert(&self, row: TokenRow) {
        let mut tokens = self.by_hash.write().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, known| known.id != row.id);
        tokens.insert(row.hash, Arc::new(row));
    }

    /// Whether there was one of this id.
    pub(crate) fn remove(&self, id: &str) -> bool {
        let mut tokens = self.by_hash.write().unwrap_or_else(PoisonError::into_inner);
        let before = tokens.len();
        tokens.retain(|_, known| known.id != id);
        tokens.len() < before
    }

    /// Oldest first.
    pub(crate) fn list(&self) -> Vec<Arc<TokenRow>> {
        let tokens = self.by_hash.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = tokens.values().cloned().collect();
        list.sort_by(|a, b| (a.created_at_ms, &a.id).cmp(&(b.created_at_ms, &b.id)));
        list
    }

    /// The caller who holds this token; none for a token that is not good.
    pub(crate) fn caller(&self, token: &str) -> Option<Caller> {
        let presented = hash(token);
        let tokens = self.by_hash.read().unwrap_or_else(PoisonError::into_inner);
        // How long the look-up takes tells about hashes at most, and those do not lead back to a token.
        let found = tokens.get(&presented)?;
        bool::from(found.hash.ct_eq(&presented)).then(|| Caller(Arc::clone(found)))
    }
}

pub(crate) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// A fresh token: `sbx_` and 256 random bits.
pub(crate) fn fresh() -> String {
    format!("sbx_{}", hex(&rand::random::<[u8; 32]>()))
}

/// A fresh id for a token: not a secret.
pub(crate) fn fresh_id() -> String {
    format!("tok_{}", hex(&rand::random::<[u8; 8]>()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(token: &str, scopes: Vec<Scope>, projects: Option<Vec<ProjectId>>) -> TokenRow {
        TokenRow { id: fresh_id(), hash: hash(token), name: String::new(), scopes, projects, created_at_ms: 0 }
    }

    #[test]
    fn a_token_is_good_until_it_is_revoked() {
        let tokens = Tokens::default();
        let token = fresh();
        let row = row(&token, vec![Scope::Run], None);
        let id = row.id.clone();
        tokens.insert(row);
        assert!(tokens.caller(&token).is_some());
        assert!(tokens.caller(&fresh()).is_none());
        assert!(tokens.caller("").is_none());
        assert!(tokens.remove(&id) && !tokens.remove(&id));
        assert!(tokens.caller(&token).is_none());
    }

    #[test]
    fn scopes_and_projects_limit_a_caller() {
        let tokens = Tokens::default();
        let (mine, other) = (ProjectId::random(), ProjectId::random());
        tokens.insert(row("a", vec![Scope::Run], Some(vec![mine])));
        tokens.insert(row("b", vec![Scope::Admin], None));
        let (a, b) = (tokens.caller("a").expect("good"), tokens.caller("b").expect("good"));
        assert!(a.has(Scope::Run) && !a.has(Scope::Files) && !a.has(Scope::Admin));
        assert!(a.may_see(mine) && !a.may_see(other));
        assert!(a.require_for_all_projects(Scope::Run).is_err());
        assert!(b.has(Scope::Deploy) && b.may_see(other));
        assert_eq!(a.require(Scope::Admin).expect_err("refused").code, Code::Forbidden);
    }
}
