//! The files of a project, for callers with the scope `files`.

use super::{Error, Service};
use crate::files::{FileError, Listed, Piece, Workspace};
use crate::projects::Entry;
use crate::tokens::Caller;
use sandbox_policy::{PROJECT, at_or_below};
use sandbox_wire::{Code, Problem, Scope};
use std::path::Path;
use std::sync::Arc;

impl Service {
    /// The project, for a caller with the scope `files`.
    pub(crate) fn project_for_files(&self, caller: &Caller, name: &str) -> Result<Arc<Entry>, Problem> {
        let entry = self.project(caller, name)?;
        caller.require(Scope::Files)?;
        Ok(entry)
    }

    /// At most `max` bytes of a file, from `offset` on.
    pub(crate) async fn read_file(&self, entry: &Entry, path: &str, offset: u64, max: usize) -> Result<Piece, Error> {
        in_workspace(entry, path, move |workspace, path| workspace.read(path, offset, max)).await
    }

    /// Whether the file is new. Refused when the project would be larger than its policy allows.
    pub(crate) async fn write_file(&self, entry: &Entry, path: &str, bytes: Vec<u8>) -> Result<bool, Error> {
        self.refuse_overfull(entry, bytes.len()).await?;
        in_workspace(entry, path, move |workspace, path| workspace.write(path, &bytes)).await
    }

    pub(crate) async fn list_files(
        &self,
        entry: &Entry,
        path: &str,
        depth: u32,
        most: usize,
    ) -> Result<(Vec<Listed>, bool), Error> {
        in_workspace(entry, path, move |workspace, path| workspace.list(path, depth, most)).await
    }

    /// Commands are watched while they run; what comes from elsewhere is weighed before. A folder that somebody brought
    /// along may be as large as it is.
    async fn refuse_overfull(&self, entry: &Entry, more: usize) -> Result<(), Error> {
        let record = entry.record();
        let (None, Some(policy)) = (&record.file.dir, &record.policy) else { return Ok(()) };
        let limit = policy.policy.limits().disk_bytes;
        let folders = [entry.folder.join("home"), entry.folder.join("workspace")];
        let usage = tokio::task::spawn_blocking(move || sandbox_keeper::disk::usage(&folders)).await;
        let used = usage.map_err(Error::internal)?.map_err(Error::internal)?.bytes;
        if used.saturating_add(more as u64) <= limit {
            return Ok(());
        }
        let sentence = format!("the project would be over its disk limit of {limit} bytes, of which it uses {used}");
        Err(Problem::new(Code::DiskFull, sentence)
            .next("remove files of the project, or raise `disk` in its policy")
            .into())
    }
}

async fn in_workspace<T: Send + 'static>(
    entry: &Entry,
    path: &str,
    work: impl FnOnce(&Workspace<'_>, &str) -> Result<T, FileError> + Send + 'static,
) -> Result<T, Error> {
    let record = entry.record();
    let policy = record.policy.clone().ok_or_else(|| {
        Problem::new(Code::PolicyNotFound, format!("the project's policy `{}` does not exist", record.file.policy))
    })?;
    let folder = entry.workspace();
    let given = path.to_owned();
    let work = move || {
        let deny = &policy.policy.filesystem().deny;
        let denied = |inside: &Path| {
            let at = Path::new(PROJECT).join(inside);
            let at = at.to_string_lossy();
            deny.iter().any(|deny| at_or_below(at.trim_end_matches('/'), deny))
        };
        Workspace::open(&folder, &denied).and_then(|workspace| work(&workspace, &given))
    };
    let done = tokio::task::spawn_blocking(work).await.map_err(Error::internal)?;
    done.map_err(|error| refused(error, path))
}

fn refused(error: FileError, path: &str) -> Error {
    let shown: String = path.chars().take(200).collect();
    let sentence = format!("{shown:?}: {error}");
    let problem = match error {
        FileError::Io(source) => return Error::Disk { what: "cannot read or write a project's file", source },
        FileError::NotFound => Problem::new(Code::NotFound, sentence).next("list the folder to see what is there"),
        FileError::Denied => Problem::new(Code::PolicyRefused, sentence).with("rule", "filesystem.deny"),
        FileError::IsFolder | FileError::NotAFolder | FileError::Special => {
            Problem::new(Code::InvalidRequest, sentence)
        }
        FileError::Outside => Problem::new(Code::PathOutsideProject, sentence)
            .next("paths start at the project's folder, such as src/index.js"),
    };
    problem.into()
}
