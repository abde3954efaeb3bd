//! Which contents a project has, and those that are on their way.

use super::{Store, hash};
use crate::error::Result;
use crate::ids;
use run402::deploy::Digest;
use rusqlite::{OptionalExtension, Row, params};
use subtle::ConstantTimeEq;

/// One content that is being sent.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub(crate) id: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) part_size: u64,
    pub(crate) parts: u32,
}

impl Upload {
    /// `[start, end)` of a part; `None` when there is no such part.
    pub(crate) fn range(&self, number: u32) -> Option<(u64, u64)> {
        if number == 0 || number > self.parts {
            return None;
        }
        let start = u64::from(number - 1) * self.part_size;
        Some((start, self.size.min(start + self.part_size)))
    }
}

/// Contents that are sent together.
#[derive(Debug, Clone)]
pub(crate) struct ContentPlan {
    pub(crate) id: String,
    pub(crate) project: String,
}

fn digest(row: &Row<'_>, index: usize) -> rusqlite::Result<Digest> {
    Ok(Digest::new(row.get(index)?))
}

fn upload(row: &Row<'_>) -> rusqlite::Result<Upload> {
    Ok(Upload {
        id: row.get(0)?,
        digest: digest(row, 1)?,
        size: row.get(2)?,
        part_size: row.get(3)?,
        parts: row.get(4)?,
    })
}

impl Store {
    pub(crate) fn has_content(&self, project: &str, digest: &Digest) -> Result<bool> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT 1 FROM contents WHERE project = ?1 AND sha256 = ?2")?;
        Ok(statement.exists(params![project, digest.as_bytes()])?)
    }

    /// The size of each of these that the project has.
    pub(crate) fn sizes<'a>(
        &self,
        project: &str,
        digests: impl Iterator<Item = &'a Digest>,
    ) -> Result<Vec<Option<u64>>> {
        let connection = self.lock();
        // One for all of them: each by itself would begin and end on its own.
        let transaction = connection.unchecked_transaction()?;
        let mut statement =
            transaction.prepare_cached("SELECT size FROM contents WHERE project = ?1 AND sha256 = ?2")?;
        let size = |digest: &Digest| {
            Ok(statement.query_row(params![project, digest.as_bytes()], |row| row.get(0)).optional()?)
        };
        digests.map(size).collect()
    }

    /// `uploads` with the token that each may be sent with.
    pub(crate) fn plan_uploads(
        &self,
        project: &str,
        expires: i64,
        uploads: &[(Upload, String)],
    ) -> Result<ContentPlan> {
        self.transaction(|transaction| {
            let plan = ContentPlan { id: ids::new("cplan"), project: project.to_owned() };
            transaction.execute("INSERT INTO content_plans VALUES (?1, ?2, ?3)", params![plan.id, project, expires])?;
            let mut insert = transaction.prepare_cached("INSERT INTO uploads VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
            for (upload, token) in uploads {
                let Upload { id, digest, size, part_size, parts } = upload;
                insert.execute(params![id, plan.id, hash(token), digest.as_bytes(), size, part_size, parts])?;
            }
            Ok(plan)
        })
    }

    pub(crate) fn content_plan(&self, id: &str) -> Result<Option<ContentPlan>> {
        let connection = self.lock();
        let plan = |row: &Row<'_>| Ok(ContentPlan { id: row.get(0)?, project: row.get(1)? });
        let sql = "SELECT id, project FROM content_plans WHERE id = ?1";
        Ok(connection.query_row(sql, [id], plan).optional()?)
    }

    pub(crate) fn uploads(&self, plan: &str) -> Result<Vec<Upload>> {
        let connection = self.lock();
        let sql = "SELECT id, sha256, size, part_size, parts FROM uploads WHERE plan = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        Ok(statement.query_map([plan], upload)?.collect::<rusqlite::Result<_>>()?)
    }

    /// The upload, when the token is its own and its time has not run out.
    pub(crate) fn upload(&self, id: &str, token: &str, now: i64) -> Result<Option<Upload>> {
        let connection = self.lock();
        let sql = "SELECT u.id, u.sha256, u.size, u.part_size, u.parts, u.token_hash FROM uploads u
            JOIN content_plans p ON p.id = u.plan WHERE u.id = ?1 AND p.expires > ?2";
        let found = connection
            .prepare_cached(sql)?
            .query_row(params![id, now], |row| Ok((upload(row)?, row.get::<_, [u8; 32]>(5)?)))
            .optional()?;
        Ok(found.filter(|(_, stored)| stored.ct_eq(&hash(token)).into()).map(|(upload, _)| upload))
    }

    /// The project has these contents from now on, and the plan is done.
    pub(crate) fn own_contents(&self, plan: &ContentPlan, uploads: &[Upload]) -> Result<()> {
        self.transaction(|transaction| {
            let mut insert = transaction.prepare_cached("INSERT OR IGNORE INTO contents VALUES (?1, ?2, ?3)")?;
            for upload in uploads {
                insert.execute(params![plan.project, upload.digest.as_bytes(), upload.size])?;
            }
            // Kept without its uploads, so that a commit that is sent twice is answered twice.
            transaction.execute("DELETE FROM uploads WHERE plan = ?1", [&plan.id])?;
            Ok(())
        })
    }

    /// Whether an upload may still be completed.
    pub(crate) fn knows_upload(&self, id: &str) -> Result<bool> {
        let connection = self.lock();
        Ok(connection.prepare_cached("SELECT 1 FROM uploads WHERE id = ?1")?.exists([id])?)
    }

    /// Whether any project has it.
    pub(crate) fn is_owned(&self, digest: &Digest) -> Result<bool> {
        let connection = self.lock();
        Ok(connection.prepare_cached("SELECT 1 FROM contents WHERE sha256 = ?1")?.exists([digest.as_bytes()])?)
    }

    /// Forgets plans whose time has run out.
    pub(crate) fn expire(&self, now: i64) -> Result<()> {
        self.transaction(|transaction| {
            transaction.execute("DELETE FROM content_plans WHERE expires <= ?1", [now])?;
            let sql = "DELETE FROM plans WHERE expires <= ?1 AND operation NOT IN (SELECT id FROM operations)";
            transaction.execute(sql, [now])?;
            Ok(())
        })
    }

    pub(crate) fn stored_bytes(&self, project: &str) -> Result<u64> {
        let connection = self.lock();
        let sql = "SELECT COALESCE(SUM(size), 0) FROM contents WHERE project = ?1";
        Ok(connection.query_row(sql, [project], |row| row.get(0))?)
    }
}
