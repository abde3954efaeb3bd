//! After a start: what the folders say against what the index says.
//!
//! A project is where its `project.json` is; a run is where its journal is. Rows that a crash left behind
//! or kept out of the index are mended here, before the first request is served. Runs go on in their
//! keepers meanwhile; those are found again and awaited.

use crate::host_ids;
use crate::index::Index;
use crate::index::projects::ProjectRow;
use crate::index::runs::RunRow;
use crate::projects::{Entry, ProjectFile, Record};
use crate::runs::{End, Ongoing};
use crate::service::{Error, Service};
use crate::tree;
use sandbox_keeper::journal::{self, StartRecord};
use sandbox_wire::{Command, OnDisconnect, ProjectId, RunId, RunState};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the disk has: projects, and folders whose making or removing was not completed.
struct Found {
    files: Vec<(PathBuf, ProjectFile)>,
    incomplete: Vec<(PathBuf, ProjectId)>,
}

/// Brings registry, slots and index in line with the folders.
pub(crate) async fn projects(service: &Service, folder: PathBuf) -> Result<(), Error> {
    let index = Arc::clone(&service.index);
    let loaded = tokio::task::spawn_blocking(move || load(&index, &folder)).await.map_err(Error::internal)?;
    let (mut rows, found) = loaded?;
    for (path, file) in found.files {
        let row = rows.remove(&file.id);
        if row.as_ref().is_some_and(|row| row.deleting) {
            remove(service, &path, file.id).await;
            continue;
        }
        let slot = file.id_base.and_then(host_ids::slot_of);
        if let Some(slot) = slot {
            service.take_slot(slot);
        }
        if row.is_none() {
            tracing::info!(project = %file.id, "a project that the index did not have");
            let row = ProjectRow { id: file.id, url_id: file.url_id.clone(), id_slot: slot, deleting: false };
            service.index.put_project(row).await?;
        }
        let policy = service.policies.get(&file.policy);
        if policy.is_none() {
            tracing::warn!(project = %file.id, policy = file.policy, "the project's policy does not exist");
        }
        service.registry.insert(Arc::new(Entry::new(path, Record { file, policy })));
    }
    for (path, id) in found.incomplete {
        if rows.remove(&id).is_some() {
            remove(service, &path, id).await;
        } else {
            tracing::warn!(path = %path.display(), "not a project, and not known: left as it is");
        }
    }
    // Rows without a folder: made but not begun, or removed by hand.
    for id in rows.into_keys() {
        service.index.delete_project(id).await?;
    }
    Ok(())
}

fn load(index: &Index, folder: &Path) -> Result<(HashMap<ProjectId, ProjectRow>, Found), Error> {
    let rows = index.projects()?.into_iter().map(|row| (row.id, row)).collect();
    let failed = |source| Error::Disk { what: "cannot read the folder of projects", source };
    let mut found = Found { files: Vec::new(), incomplete: Vec::new() };
    for child in fs::read_dir(folder).map_err(failed)? {
        let path = child.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(id) = name.and_then(|name| name.parse::<ProjectId>().ok()) else {
            tracing::warn!(path = %path.display(), "not a project");
            continue;
        };
        match ProjectFile::read(&path) {
            Ok(Some(file)) if file.id == id && file.version == ProjectFile::VERSION => found.files.push((path, file)),
            Ok(Some(_)) => tracing::error!(path = %path.display(), "project.json is of another project or version"),
            Ok(None) => found.incomplete.push((path, id)),
            // Damaged by hand or by the disk: nothing is removed on a guess.
            Err(error) => tracing::error!(%error, "a project that cannot be used"),
        }
    }
    Ok((rows, found))
}

/// Completes a removal, or takes back a making, that a crash interrupted.
async fn remove(service: &Service, path: &Path, id: ProjectId) {
    let path = path.to_owned();
    let removed = tokio::task::spawn_blocking(move || tree::remove(&path)).await;
    let removed = removed.unwrap_or_else(|error| Err(io::Error::other(error)));
    match removed {
        Ok(()) => {
            if let Err(error) = service.index.delete_project(id).await {
                tracing::error!(project = %id, %error, "cannot forget a removed project");
            }
        }
        Err(error) => tracing::error!(project = %id, %error, "cannot remove the rest of a project"),
    }
}

/// Takes up runs that have not ended, and those that the index does not know.
pub(crate) async fn runs(service: &Arc<Service>) -> Result<(), Error> {
    for row in service.index.unfinished().await? {
        match service.registry.find(&row.project.to_string()) {
            Some(entry) => take_up(service, &entry, row).await?,
            None => service.index.forget_run(row.id).await?,
        }
    }
    for entry in service.registry.all() {
        let known: HashSet<RunId> = service.index.run_ids(entry.id).await?.into_iter().collect();
        let of = Arc::clone(&entry);
        let scanned = tokio::task::spawn_blocking(move || unknown_runs(&of, &known)).await.map_err(Error::internal)?;
        let starts = scanned.map_err(|source| Error::Disk { what: "cannot read the folder of journals", source })?;
        for start in starts {
            let row = row_from(start);
            tracing::info!(run = %row.id, "a run that the index did not have");
            take_up(service, &entry, row).await?;
        }
    }
    Ok(())
}

/// Records the end when the journal has it; otherwise asks the keeper, in the background.
async fn take_up(service: &Arc<Service>, entry: &Arc<Entry>, row: RunRow) -> Result<(), Error> {
    let ended = journal::outcome(&entry.run_dir(&row.id));
    let ongoing = Ongoing::adopt(service, entry, row, OnDisconnect::Keep);
    match ended {
        Ok(Some(outcome)) => ongoing.finish(End::from(&outcome)).await,
        Ok(None) | Err(_) => {
            service.index.put_run(ongoing.row().clone()).await?;
            ongoing.watch_in_background();
        }
    }
    Ok(())
}

fn unknown_runs(entry: &Entry, known: &HashSet<RunId>) -> io::Result<Vec<StartRecord>> {
    let mut starts = Vec::new();
    let folder = match fs::read_dir(entry.folder.join("runs")) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(starts),
        Err(error) => return Err(error),
    };
    for child in folder {
        let child = child?;
        let Some(run) = child.file_name().to_str().and_then(|name| name.parse::<RunId>().ok()) else { continue };
        if known.contains(&run) {
            continue;
        }
        match journal::start(&child.path()) {
            Ok(Some(start)) if start.run == run => starts.push(start),
            // A run that was never begun, or one whose first record a crash cut off.
            Ok(_) => tracing::debug!(%run, "a journal without a beginning"),
            Err(error) => tracing::warn!(%run, %error, "a journal that cannot be read"),
        }
    }
    Ok(starts)
}

fn row_from(start: StartRecord) -> RunRow {
    let command = match &start.command[..] {
        [shell, dash_c, line] if shell == "/bin/sh" && dash_c == "-c" => Command::Shell(line.clone()),
        _ => Command::Argv(start.command),
    };
    RunRow {
        id: start.run,
        project: start.project,
        command,
        cwd: start.cwd,
        policy: start.policy,
        status: RunState::Running,
        exit_code: None,
        started_at_ms: i64::try_from(start.started_at).unwrap_or(i64::MAX),
        duration_ms: None,
        timeout_ms: start.timeout_ms,
    }
}
