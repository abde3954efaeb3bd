//! Rows of projects: which names and host id ranges are taken, and what is half deleted.
//!
//! What a project is stands in its `project.json`; a row that is missing is made from it.

use super::{Index, IndexError, parse};
use rusqlite::params;
use sandbox_wire::{ProjectId, UrlId};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProjectRow {
    pub(crate) id: ProjectId,
    pub(crate) url_id: UrlId,
    /// Number of the project's host id range; none for an ordinary user.
    pub(crate) id_slot: Option<u32>,
    /// Its files are being removed; the range is not free before they are gone.
    pub(crate) deleting: bool,
}

impl Index {
    pub(crate) async fn put_project(&self, row: ProjectRow) -> Result<(), IndexError> {
        self.write(move |connection| {
            let sql = "INSERT INTO projects (id, url_id, id_slot, deleting) VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT (id) DO UPDATE SET deleting = ?4";
            connection
                .prepare_cached(sql)?
                .execute(params![row.id.to_string(), row.url_id.as_str(), row.id_slot, row.deleting])
                .map(|_| ())
        })
        .await
    }

    /// Removes the project's row and those of its runs.
    pub(crate) async fn delete_project(&self, id: ProjectId) -> Result<(), IndexError> {
        self.write(move |connection| {
            connection.execute("DELETE FROM runs WHERE project = ?1", [id.to_string()])?;
            connection.execute("DELETE FROM projects WHERE id = ?1", [id.to_string()]).map(|_| ())
        })
        .await
    }

    /// All projects; blocks.
    pub(crate) fn projects(&self) -> Result<Vec<ProjectRow>, IndexError> {
        self.read_now(|connection| {
            let mut statement = connection.prepare("SELECT id, url_id, id_slot, deleting FROM projects")?;
            let rows = statement.query_map([], |row| {
                Ok(ProjectRow {
                    id: parse(0, row.get_ref(0)?.as_str()?)?,
                    url_id: parse(1, row.get_ref(1)?.as_str()?)?,
                    id_slot: row.get(2)?,
                    deleting: row.get(3)?,
                })
            })?;
            rows.collect()
        })
    }
}
