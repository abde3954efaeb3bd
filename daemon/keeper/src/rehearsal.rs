//! Makes a sandbox in which nothing runs, to know whether one can be made.
//!
//! Input: a policy and a project that nobody else knows; output: [`Rehearsal`]. The sandbox is made and tested by what
//! makes and tests every other, in the caller's own cgroup, and then removed: a prediction by doing.

use crate::api::KeeperSpec;
use crate::cgroup::CgroupError;
use crate::project::internal;
use crate::spawn::Program;
use crate::{factory, home, selftest};
use sandbox_policy::Policy;
use sandbox_wire::{Enforced, Problem};
use std::sync::Arc;
use std::time::Duration;

/// A killed sandbox is dead within this.
const DEATH: Duration = Duration::from_secs(2);

/// How it went.
#[derive(Debug)]
pub struct Rehearsal {
    /// The receipt that commands would have, or the sentence with which they would be refused.
    pub receipt: Result<Enforced, Box<Problem>>,
    /// Why a policy that limits `disk_rate` would be refused.
    pub disk_rate: Result<(), CgroupError>,
}

/// `spec.project_dir` is an empty folder; it holds a few empty ones afterwards.
pub async fn rehearse(spec: KeeperSpec, policy: Arc<Policy>) -> Rehearsal {
    let spec = Arc::new(spec);
    let ground = Arc::new(factory::Ground::survey());
    let made = {
        let (spec, ground, policy) = (Arc::clone(&spec), Arc::clone(&ground), Arc::clone(&policy));
        tokio::task::spawn_blocking(move || {
            for name in ["home", "workspace"] {
                std::fs::create_dir(spec.project_dir.join(name)).map_err(|error| internal(&error))?;
            }
            home::prepare(&spec).map_err(|error| internal(&error))?;
            let program = Program::beside_this().map_err(|error| internal(&error))?;
            factory::make(&ground, &program, policy, &spec)
        })
    };
    let made = made.await.unwrap_or_else(|error| Err(internal(&error)));
    let receipt = match made {
        Ok(sandbox) => {
            let passed = selftest::pass(&sandbox, &spec).await;
            let receipt = sandbox.receipt.clone();
            sandbox.kill();
            let gone = tokio::task::spawn_blocking(move || sandbox.wait_dead(DEATH)).await;
            if !gone.is_ok_and(|gone| gone) {
                tracing::warn!("the sandbox of a rehearsal does not die");
            }
            passed.map(|()| receipt)
        }
        Err(problem) => Err(problem),
    };
    let last = tokio::task::spawn_blocking(move || {
        let disk_rate = ground.try_disk_rate(&policy);
        ground.clear();
        disk_rate
    });
    let disk_rate = last.await.unwrap_or(Err(CgroupError::NoIo));
    Rehearsal { receipt, disk_rate }
}
