//! Tries a new sandbox before its first command.
//!
//! Input: a sandbox that stands; output: nothing, or a [`Problem`] that names each layer that let something
//! through. What is outside is named by what this very process has: its namespaces, its number, its folder, a
//! socket that listens for as long as the test takes.

use crate::api::KeeperSpec;
use crate::plan::{GID, UID};
use crate::pool::Sandbox;
use crate::project::internal;
use sandbox_launch::selftest::{Breach, Layer, SelfTest};
use sandbox_policy::NetworkMode;
use sandbox_wire::{Code, Problem};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Arc;

/// Fails closed: a test that cannot be made has not been passed.
pub(crate) async fn pass(sandbox: &Arc<Sandbox>, spec: &KeeperSpec) -> Result<(), Box<Problem>> {
    let shares_network = sandbox.policy.network().mode == NetworkMode::Host;
    let (listening, name) = match shares_network {
        true => (None, None),
        false => {
            let (listener, name) = listen().map_err(|error| internal(&error))?;
            (Some(listener), Some(name))
        }
    };
    let test = SelfTest {
        namespaces: own_namespaces(shares_network).map_err(|error| internal(&error))?,
        hidden: spec.project_dir.to_string_lossy().into_owned(),
        outsider: outsider(),
        listener: name,
        uid: UID,
        gid: GID,
        rlimits: sandbox.rlimits.clone(),
        landlock: sandbox.receipt.landlock_abi.is_some(),
    };
    let mut slot = sandbox.take().await.map_err(|error| internal(&error))?;
    let limited = slot.leaf.as_ref().map(crate::cgroup::Leaf::pids);
    let tested = slot.test(&test).await;
    slot.pidfd.kill();
    sandbox.recycle(slot);
    drop(listening);
    let mut breaches = tested.map_err(|error| internal(&error))?;
    if limited.is_some_and(|pids| !pids.is_ok_and(|pids| !pids.is_empty())) {
        breaches.push(Breach::new(Layer::Limits, "run outside of the cgroup that limits it"));
    }
    if breaches.is_empty() { Ok(()) } else { Err(refusal(&breaches)) }
}

fn refusal(breaches: &[Breach]) -> Box<Problem> {
    let said = breaches.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    tracing::error!(%said, "the self-test of a new sandbox has failed");
    let layer = breaches.first().map_or("", |breach| breach.layer.name());
    let text = format!("the sandbox does not hold on this host, so nothing is run in it: {said}");
    let problem = Problem::new(Code::LayerUnavailable, text).with("layer", layer);
    Box::new(problem.next("run `sandboxctl doctor`; if it finds nothing, report this with its output"))
}

/// A process outside whose number nobody has inside, where there is an init and nothing else. This one, unless it is
/// the first of a container: then the launcher is there with a larger number.
fn outsider() -> i32 {
    const INIT: i32 = 1;
    let own = rustix::process::getpid().as_raw_nonzero().get();
    if own > INIT {
        return own;
    }
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).max().unwrap_or(own)
}

fn own_namespaces(shares_network: bool) -> io::Result<Vec<(Layer, String)>> {
    let unshared = Layer::NAMESPACES.into_iter().filter(|layer| !(shares_network && *layer == Layer::Net));
    let own = |layer: Layer| {
        let link = std::fs::read_link(format!("/proc/self/ns/{}", layer.name()))?;
        Ok((layer, link.to_string_lossy().into_owned()))
    };
    unshared.map(own).collect()
}

/// Nobody can have the name already.
fn listen() -> io::Result<(UnixListener, Vec<u8>)> {
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let name = format!("sandbox-self-test-{}", random.trim()).into_bytes();
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    Ok((listener, name))
}
