//! What this host can enforce, and whether that is enough for the policy `default`.
//!
//! Things are tried, not guessed: each feature of the kernel by itself, and then a whole sandbox of the policy
//! `default`, made as for any project. So the doctor cannot disagree with what then happens.

use crate::policies::DEFAULT_POLICY;
use crate::service::{Error, Service};
use crate::{host_ids, tree};
use sandbox_keeper::api::KeeperSpec;
use sandbox_keeper::probe::{Examination, Host, Privilege};
use sandbox_keeper::rehearsal::{Rehearsal, rehearse};
use sandbox_wire::{DoctorReport, ProjectId};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Takes some fifty milliseconds.
pub(crate) async fn report(service: &Service) -> Result<DoctorReport, Error> {
    // The folder of the rehearsal is there once.
    let _alone = service.examining.lock().await;
    let rehearsal = rehearsal(service).await?;
    let state = service.state.clone();
    let examined = tokio::task::spawn_blocking(move || Examination::new(&state)).await.map_err(Error::internal)?;
    Ok(DoctorReport { lines: examined.doctor(&rehearsal), default_policy_enforceable: rehearsal.receipt.is_ok() })
}

/// Makes a sandbox of the policy `default`, in a project that nobody sees, and removes it.
async fn rehearsal(service: &Service) -> Result<Rehearsal, Error> {
    let policy = service.policies.get(DEFAULT_POLICY).ok_or_else(|| Error::internal("no policy `default`"))?;
    let slot = service.allocate_slot()?;
    let folder = service.state.join("rehearsal");
    let spec = KeeperSpec {
        project: ProjectId::random(),
        hostname: "rehearsal".to_owned(),
        project_dir: folder.clone(),
        dir: None,
        id_base: slot.and_then(host_ids::id_base),
        cgroup_name: service.keepers.cgroup_name().to_owned(),
        idle_ms: 0,
    };
    let rehearsal = match on_disk(folder.clone(), make_anew).await {
        Ok(()) => Ok(rehearse(spec, Arc::clone(&policy.policy)).await),
        Err(error) => Err(error),
    };
    let removed = on_disk(folder, |folder| tree::remove(&folder)).await;
    // Files may have these ids as long as the folder is there.
    if removed.is_ok() {
        service.free_slot(slot);
    }
    removed.and(rehearsal)
}

/// An earlier one may have been cut short.
fn make_anew(folder: PathBuf) -> io::Result<()> {
    tree::remove(&folder)?;
    std::fs::create_dir(&folder)
}

async fn on_disk(folder: PathBuf, work: impl FnOnce(PathBuf) -> io::Result<()> + Send + 'static) -> Result<(), Error> {
    let done = tokio::task::spawn_blocking(move || work(folder)).await;
    done.map_err(Error::internal)?.map_err(Error::internal)
}

/// Whether projects can have host ids of their own: root over the host's user namespace, with all ids mapped.
pub(crate) fn has_own_ids() -> bool {
    let host = Host::probe();
    host.privilege == Privilege::Host && host.mapped_ids >= u64::from(u32::MAX)
}
