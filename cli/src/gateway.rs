//! The embedded gateway: a local server of the run402 API for this user, started when a deploy needs one
//! and none is named.
//!
//! `<state>-gateway/gateway.json` says where it listens. It goes on until it is told to stop: the sites
//! that it serves are for people to look at.

use crate::daemon::{self, StartError};
use crate::state::StateDir;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where a gateway listens when it is not told otherwise.
pub(crate) const DEFAULT_ADDRESS: &str = "127.0.0.1:7403";

pub(crate) const FREE_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A gateway that listens, as `gateway.json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) pid: i32,
    pub(crate) address: SocketAddr,
}

/// Beside the daemon's directory, not in it: a daemon gives nobody a folder of its own, and functions run
/// from one of the gateway's.
pub(crate) fn directory(state: &StateDir) -> PathBuf {
    let mut name = state.path().as_os_str().to_owned();
    name.push("-gateway");
    name.into()
}

/// The gateway of a directory, when it is alive and it is ours that listens there.
pub(crate) fn running(directory: &Path) -> Option<Running> {
    let running: Running = serde_json::from_slice(&fs::read(directory.join("gateway.json")).ok()?).ok()?;
    let pid = Some(running.pid).filter(|pid| *pid > 0).and_then(rustix::process::Pid::from_raw)?;
    let alive = rustix::process::test_kill_process(pid).is_ok();
    (alive && crate::listener::is_trusted(running.address)).then_some(running)
}

/// Says where the gateway listens; as one who says it replaces who said it before, whole.
pub(crate) fn announce(directory: &Path, address: SocketAddr) -> io::Result<()> {
    let running = Running { pid: i32::try_from(std::process::id()).unwrap_or_default(), address };
    let beside = directory.join(format!(".gateway.{}", std::process::id()));
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(&serde_json::to_vec(&running)?)?;
    fs::rename(beside, directory.join("gateway.json"))
}

/// The right to start the gateway of a state directory. Nobody else does as long as it is held.
#[derive(Debug)]
pub(crate) struct Claim {
    directory: PathBuf,
    _lock: fs::File,
}

impl Claim {
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

pub(crate) fn claim(state: &StateDir) -> Result<Claim, StartError> {
    let directory = directory(state);
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    made.map_err(|source| StartError::Lock { path: directory.clone(), source })?;
    let lock = daemon::lock(&state.path().join("gateway.lock"))?;
    Ok(Claim { directory, _lock: lock })
}

/// Base URL of a gateway that listens; starts one when there is none.
pub(crate) fn ensure(state: &StateDir) -> Result<String, StartError> {
    let directory = directory(state);
    let base = |running: Running| format!("http://{}", running.address);
    if let Some(running) = running(&directory) {
        return Ok(base(running));
    }
    let _claim = claim(state)?;
    // Another client may have started it while we waited for the lock.
    if let Some(running) = running(&directory) {
        return Ok(base(running));
    }
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("sandboxctl"));
    const LOG: &str = "gateway.log";
    let words = |address: &str| -> Vec<OsString> {
        let words = ["gateway", "--listen", address, "--state"].map(OsString::from);
        words.into_iter().chain([directory.clone().into()]).collect()
    };
    // Somebody else's program may have the usual port.
    let usual = daemon::spawn(state, &own, &words(DEFAULT_ADDRESS), LOG);
    usual.or_else(|_| daemon::spawn(state, &own, &words(&FREE_PORT.to_string()), LOG))?;
    running(&directory).map(base).ok_or_else(|| StartError::Ended {
        log: state.path().join(LOG),
        tail: "the gateway listens, but is not ours".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_gateway_that_listens_is_running() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(running(folder.path()), None);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        announce(folder.path(), address).expect("written");
        assert_eq!(running(folder.path()).map(|running| running.address), Some(address));
        drop(listener);
        assert_eq!(running(folder.path()), None, "nobody listens any more");
        fs::write(folder.path().join("gateway.json"), "{").expect("written");
        assert_eq!(running(folder.path()), None);
    }
}
