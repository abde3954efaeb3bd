//! Making, describing, changing and deleting projects.

use super::{Error, Service};
use crate::host_ids::{id_base, slot_of};
use crate::index::projects::ProjectRow;
use crate::policies::DEFAULT_POLICY;
use crate::projects::{Entry, ProjectFile, Record, check_dir, check_name, create_folders, url_id_for};
use crate::tokens::Caller;
use crate::{clock, tree};
use sandbox_keeper::api::KillCause;
use sandbox_keeper::client::KeeperError;
use sandbox_wire::project::ProjectList;
use sandbox_wire::{Code, CreateProject, PatchProject, Problem, Project, ProjectId, Scope};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// How long the end of a deleted project's runs is waited for.
const END_TIME: Duration = Duration::from_secs(3);

/// Answer to a request for a project.
#[derive(Debug)]
pub(crate) enum Created {
    Now(Project),
    /// The project that already has the folder.
    Before(Project),
}

impl Service {
    /// A number for a new project's host ids; none for an ordinary user, who has no ids to give.
    pub(crate) fn allocate_slot(&self) -> Result<Option<u32>, Problem> {
        let Some(slots) = &self.slots else { return Ok(None) };
        let slot = slots.lock().unwrap_or_else(PoisonError::into_inner).allocate();
        let used_up = || Problem::new(Code::NoCapacity, "all ranges of host ids are taken; delete projects");
        slot.map(Some).ok_or_else(used_up)
    }

    /// The range belongs to a project that was made before.
    pub(crate) fn take_slot(&self, slot: u32) {
        if let Some(slots) = &self.slots {
            slots.lock().unwrap_or_else(PoisonError::into_inner).take(slot);
        }
    }

    pub(crate) fn free_slot(&self, slot: Option<u32>) {
        if let (Some(slots), Some(slot)) = (&self.slots, slot) {
            slots.lock().unwrap_or_else(PoisonError::into_inner).free(slot);
        }
    }

    pub(crate) fn describe(&self, entry: &Entry) -> Project {
        let file = &entry.record().file;
        Project {
            id: file.id,
            url_id: file.url_id.clone(),
            name: file.name.clone(),
            created_at: file.created_at.clone(),
            preview_url: format!("{}/projects/{}/ports", self.base_url, file.url_id),
            access_type: file.access_type,
            policy: file.policy.clone(),
            dir: file.dir.as_ref().map(|dir| dir.to_string_lossy().into_owned()),
        }
    }

    /// Oldest first.
    pub(crate) fn list_projects(&self, caller: &Caller) -> ProjectList {
        let entries = self.registry.all();
        let seen = entries.iter().filter(|entry| caller.may_see(entry.id));
        let mut projects: Vec<_> = seen.map(|entry| self.describe(entry)).collect();
        projects.sort_by(|a, b| (&a.created_at, a.id).cmp(&(&b.created_at, b.id)));
        ProjectList { projects }
    }

    /// Makes a project, or finds the one that already has the folder.
    pub(crate) async fn create_project(&self, caller: &Caller, request: CreateProject) -> Result<Created, Error> {
        caller.require_for_all_projects(Scope::Admin)?;
        let name = request.name.as_deref().map(check_name).transpose()?;
        let policy_name = request.policy.unwrap_or_else(|| DEFAULT_POLICY.to_owned());
        let policy = self.policies.require(&policy_name)?;
        let dir = match request.dir {
            None => None,
            Some(dir) => {
                let state = self.state.clone();
                let checked = tokio::task::spawn_blocking(move || check_dir(&dir, &state)).await;
                Some(checked.map_err(Error::internal)??)
            }
        };
        let _changing = self.changing.lock().await;
        if let Some(entry) = dir.as_deref().and_then(|dir| self.registry.of_dir(dir)) {
            return Ok(Created::Before(self.describe(&entry)));
        }
        let id = ProjectId::random();
        let from_dir = || dir.as_ref().and_then(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()));
        let name = name.or_else(|| from_dir().and_then(|name| check_name(&name).ok()));
        let url_id = url_id_for(name.as_deref(), |taken| self.registry.has_url_id(taken));
        let slot = self.allocate_slot()?;
        let file = ProjectFile {
            version: ProjectFile::VERSION,
            id,
            name: name.unwrap_or_else(|| url_id.as_str().to_owned()),
            url_id,
            created_at: clock::rfc3339(clock::now_ms()),
            access_type: request.access_type.unwrap_or_default(),
            policy: policy_name,
            dir,
            id_base: slot.and_then(id_base),
        };
        // The row first: a folder whose making a crash interrupts is known, and its ids stay taken.
        let row = ProjectRow { id, url_id: file.url_id.clone(), id_slot: slot, deleting: false };
        self.index.put_project(row).await?;
        let folder = self.state.join("projects").join(id.to_string());
        let (at, content) = (folder.clone(), file.clone());
        let made = tokio::task::spawn_blocking(move || create_folders(&at, &content)).await.map_err(Error::internal)?;
        if let Err(error) = made {
            self.take_back(folder, id, slot).await;
            return Err(error.into());
        }
        let entry = Arc::new(Entry::new(folder, Record { file, policy: Some(policy) }));
        let project = self.describe(&entry);
        self.registry.insert(entry);
        Ok(Created::Now(project))
    }

    async fn take_back(&self, folder: PathBuf, id: ProjectId, slot: Option<u32>) {
        let removed = tokio::task::spawn_blocking(move || tree::remove(&folder)).await;
        if matches!(removed, Ok(Ok(()))) && self.index.delete_project(id).await.is_ok() {
            self.free_slot(slot);
        } else {
            tracing::warn!(project = %id, "the rest of a project that could not be made stays until the next start");
        }
    }

    pub(crate) async fn patch_project(
        &self,
        caller: &Caller,
        name: &str,
        patch: PatchProject,
    ) -> Result<Project, Error> {
        let entry = self.project(caller, name)?;
        caller.require(Scope::Admin)?;
        let _changing = self.changing.lock().await;
        let old = entry.record();
        let mut file = old.file.clone();
        let mut policy = old.policy.clone();
        if let Some(name) = patch.name {
            file.name = check_name(&name)?;
        }
        if let Some(access_type) = patch.access_type {
            file.access_type = access_type;
        }
        if let Some(name) = patch.policy {
            policy = Some(self.policies.require(&name)?);
            file.policy = name;
        }
        let (folder, content) = (entry.folder.clone(), file.clone());
        tokio::task::spawn_blocking(move || content.write(&folder)).await.map_err(Error::internal)??;
        entry.replace_record(Record { file, policy });
        Ok(self.describe(&entry))
    }

    /// Ends what runs in the project and removes its files; a folder of the host stays as it is.
    pub(crate) async fn delete_project(&self, caller: &Caller, name: &str) -> Result<(), Error> {
        let entry = self.project(caller, name)?;
        caller.require(Scope::Admin)?;
        let _changing = self.changing.lock().await;
        if entry.deleting.swap(true, Relaxed) {
            return Err(Problem::new(Code::ProjectBusy, "the project is being deleted").into());
        }
        let deleted = self.delete_entry(&entry).await;
        if deleted.is_err() {
            // Half deleted at worst; another call goes on from here.
            entry.deleting.store(false, Relaxed);
        }
        deleted
    }

    async fn delete_entry(&self, entry: &Entry) -> Result<(), Error> {
        let file = entry.record().file.clone();
        let slot = file.id_base.and_then(slot_of);
        let row = ProjectRow { id: entry.id, url_id: file.url_id, id_slot: slot, deleting: true };
        self.index.put_project(row).await?;
        {
            // No keeper is being started meanwhile, and none will be.
            let _starting = entry.starting.lock().await;
            match entry.keeper.stop(KillCause::Caller).await {
                Ok(()) | Err(KeeperError::Absent(_)) => {}
                Err(error) => tracing::warn!(project = %entry.id, %error, "the keeper did not stop properly"),
            }
        }
        let folder = entry.folder.clone();
        let removed = tokio::task::spawn_blocking(move || tree::remove(&folder)).await.map_err(Error::internal)?;
        removed.map_err(|source| Error::Disk { what: "cannot remove the project's files", source })?;
        for run in self.active.all().iter().filter(|run| run.row.project == entry.id) {
            // Its end must not be recorded after the rows are gone.
            let _ = tokio::time::timeout(END_TIME, run.ended.cancelled()).await;
        }
        self.index.delete_project(entry.id).await?;
        self.registry.remove(entry);
        self.free_slot(slot);
        Ok(())
    }
}
