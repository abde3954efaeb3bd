//! What the keeper looks at while something runs: the disk, and the processors.
//!
//! Input: a [`Project`]; output: runs that are ended because the project's files outgrew the limit, and
//! the project's [`Precedence`]. A few looks a second, and none while nothing runs.

use crate::cgroup::Precedence;
use crate::disk::{DiskState, DiskWatch};
use crate::pool::Sandbox;
use crate::project::Project;
use crate::run::{Ask, Cause};
use std::sync::Arc;
use std::time::Duration;

/// How often is looked while something runs.
const TICK: Duration = Duration::from_millis(200);

/// Ends runs when the project's files outgrow the limit. Costs a statvfs(2) per tick, and only
/// while something runs. Ends with the sandbox.
pub(crate) async fn disk(project: Arc<Project>, sandbox: Arc<Sandbox>) {
    let limit = sandbox.policy.limits().disk_bytes;
    let (home, workspace) = (project.spec.home(), project.spec.workspace());
    let mut watch = DiskWatch::new(vec![home, workspace.clone()], limit);
    if project.spec.dir.is_some() {
        // A folder that a person brought along may be as large as it is.
        let brought = tokio::task::spawn_blocking(move || crate::disk::usage(&[workspace])).await;
        if let Ok(Ok(usage)) = brought {
            watch = watch.allowing(usage.bytes);
        }
    }
    let sandbox = Arc::downgrade(&sandbox);
    let mut active = project.active.subscribe();
    // What it outgrew the limit to before: a run that only makes room is let live.
    let mut known = 0;
    loop {
        if active.wait_for(|active| *active > 0).await.is_err() {
            return;
        }
        tokio::time::sleep(TICK).await;
        if sandbox.strong_count() == 0 {
            return;
        }
        if project.running().is_empty() {
            continue;
        }
        let holders = Arc::clone(&project);
        let ticked = tokio::task::spawn_blocking(move || {
            let state = watch.tick(|| holders.ground.pids());
            (watch, state)
        });
        let Ok((back, state)) = ticked.await else { return };
        watch = back;
        match state {
            Ok(DiskState::Exceeded { used, limit }) if used > known => {
                known = used;
                tracing::warn!(used, limit, "the project's files outgrew the limit");
                for run in project.running() {
                    project.ask(&run, Ask::End(Cause::Disk)).await;
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the disk cannot be measured"),
        }
    }
}

/// Lets other projects go first while this one computes for long. Ends with the keeper.
pub(crate) async fn processors(project: Arc<Project>, mut precedence: Precedence) {
    let mut active = project.active.subscribe();
    loop {
        if !precedence.is_behind() && active.wait_for(|active| *active > 0).await.is_err() {
            return;
        }
        tokio::time::sleep(TICK).await;
        if let Err(error) = precedence.settle() {
            tracing::warn!(%error, "this project is no longer weighed against others");
            return;
        }
    }
}
