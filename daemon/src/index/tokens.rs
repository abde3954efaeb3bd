//! Rows of tokens: hashes, never the tokens themselves.

use super::{Index, IndexError, from_json};
use rusqlite::params;
use sandbox_wire::{ProjectId, Scope};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenRow {
    /// Names the token in lists; not a secret.
    pub(crate) id: String,
    /// SHA-256 of the token.
    pub(crate) hash: [u8; 32],
    pub(crate) name: String,
    pub(crate) scopes: Vec<Scope>,
    /// The projects it is good for; all of them when none.
    pub(crate) projects: Option<Vec<ProjectId>>,
    pub(crate) created_at_ms: i64,
}

impl Index {
    /// Stores a token, in place of the one of the same id.
    pub(crate) async fn put_token(&self, row: TokenRow) -> Result<(), IndexError> {
        self.write(move |connection| {
            let scopes = serde_json::to_string(&row.scopes).expect("a list of names is JSON");
            let projects = row.projects.map(|ids| serde_json::to_string(&ids).expect("a list of ids is JSON"));
            let sql = "INSERT OR REPLACE INTO tokens (id, hash, name, scopes, projects, created_at)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            connection
                .execute(sql, params![row.id, row.hash, row.name, scopes, projects, row.created_at_ms])
                .map(|_| ())
        })
        .await
    }

    pub(crate) async fn delete_token(&self, id: String) -> Result<(), IndexError> {
        self.write(move |connection| connection.execute("DELETE FROM tokens WHERE id = ?1", [id]).map(|_| ())).await
    }

    /// All tokens; blocks.
    pub(crate) fn tokens(&self) -> Result<Vec<TokenRow>, IndexError> {
        self.read_now(|connection| {
            let mut statement =
                connection.prepare("SELECT id, hash, name, scopes, projects, created_at FROM tokens")?;
            let rows = statement.query_map([], |row| {
                let projects: Option<String> = row.get(4)?;
                Ok(TokenRow {
                    id: row.get(0)?,
                    hash: row.get(1)?,
                    name: row.get(2)?,
                    scopes: from_json(3, row.get_ref(3)?.as_str()?)?,
                    projects: projects.map(|text| from_json(4, &text)).transpose()?,
                    created_at_ms: row.get(5)?,
                })
            })?;
            rows.collect()
        })
    }
}
