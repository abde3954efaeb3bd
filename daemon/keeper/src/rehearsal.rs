//! Makes a sandbox in which nothing runs, to know whether one can be made.
//!
//! Input: a policy and a project that nobody else knows; output: the receipt that its commands would have, or the
//! sentence with which they would be refused. It is made and tested by what makes and tests every other, in the
//! caller's own cgroup, and then removed: a prediction by doing.

use crate::api::KeeperSpec;
use crate::project::internal;
use crate::spawn::Program;
use crate::{factory, home, selftest};
use sandbox_policy::Policy;
use sandbox_wire::{Enforced, Problem};
use std::sync::Arc;
use std::time::Duration;

/// A killed sandbox is dead within this.
const DEATH: Duration = Duration::from_secs(2);

/// `spec.project_dir` is an empty folder; it holds a few empty ones afterwards.
pub async fn rehearse(spec: KeeperSpec, policy: Arc<Policy>) -> Result<Enforced, Box<Problem>> {
    let spec = Arc::new(spec);
    let ground = Arc::new(factory::Ground::survey());
    let made = {
        let (spec, ground) = (Arc::clone(&spec), Arc::clone(&ground));
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
    let cleared = tokio::task::spawn_blocking(move || ground.clear()).await;
    if let Err(error) = cleared {
        tracing::warn!(%error, "the cgroup of a rehearsal stays");
    }
    receipt
}
