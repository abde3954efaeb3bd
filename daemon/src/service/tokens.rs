//! Making, listing and revoking tokens.

use super::{Error, Service};
use crate::clock;
use crate::index::tokens::TokenRow;
use crate::projects::check_name;
use crate::tokens::{ADMIN_TOKEN_ID, Caller, fresh, fresh_id, hash};
use sandbox_wire::token::TokenList;
use sandbox_wire::{Code, CreateToken, Problem, Scope, Token};

impl Service {
    pub(crate) fn list_tokens(&self, caller: &Caller) -> Result<TokenList, Problem> {
        caller.require_for_all_projects(Scope::Admin)?;
        Ok(TokenList { tokens: self.tokens.list().iter().map(|row| describe_token(row, None)).collect() })
    }

    pub(crate) async fn create_token(&self, caller: &Caller, request: CreateToken) -> Result<Token, Error> {
        caller.require_for_all_projects(Scope::Admin)?;
        if request.scopes.is_empty() {
            let problem =
                Problem::new(Code::InvalidRequest, "scopes must name at least one of run, files, deploy, admin");
            return Err(problem.with("field", "scopes").into());
        }
        let name = if request.name.trim().is_empty() { String::new() } else { check_name(&request.name)? };
        for id in request.projects.iter().flatten() {
            self.project(caller, &id.to_string())?;
        }
        let mut scopes = request.scopes;
        scopes.sort_unstable();
        scopes.dedup();
        let token = fresh();
        let row = TokenRow {
            id: fresh_id(),
            hash: hash(&token),
            name,
            scopes,
            projects: request.projects,
            created_at_ms: clock::now_ms(),
        };
        self.index.put_token(row.clone()).await?;
        self.tokens.insert(row.clone());
        Ok(describe_token(&row, Some(token)))
    }

    pub(crate) async fn revoke_token(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        caller.require_for_all_projects(Scope::Admin)?;
        if id == ADMIN_TOKEN_ID {
            let problem = Problem::new(Code::Forbidden, "the token of the state directory cannot be revoked by a call");
            return Err(problem.next("remove the file `token` in the state directory and restart the daemon").into());
        }
        if !self.tokens.remove(id) {
            let id: String = id.chars().take(64).collect();
            return Err(Problem::new(Code::NotFound, format!("there is no token `{id}`")).into());
        }
        Ok(self.index.delete_token(id.to_owned()).await?)
    }
}

fn describe_token(row: &TokenRow, token: Option<String>) -> Token {
    Token {
        id: row.id.clone(),
        name: row.name.clone(),
        scopes: row.scopes.clone(),
        projects: row.projects.clone(),
        created_at: clock::rfc3339(row.created_at_ms),
        token,
    }
}
