//! Which gateway a deploy goes to, as whom, into which project.
//!
//! Input: the environment (`RUN402_*`) and the state directory. With nothing named it is the embedded
//! gateway with a wallet of its own in the state directory; a wallet and a project are made there when
//! they are missing, since they cost nothing. Elsewhere nothing is made unasked.

use crate::args::Globals;
use crate::failure::Failure;
use crate::gateway;
use crate::state::StateDir;
use run402::api::projects::{self, NewProject};
use run402::client::{Client, Identity};
use run402::deploy::Digest;
use run402::environment::{Base, BaseError, Environment, Settings};
use run402::keys::KeyCache;
use run402::wallet::Wallet;
use sandbox_wire::{Code, Problem};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A gateway, and the caller's keys for it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) client: Client,
    pub(crate) keys: KeyCache,
    /// On this computer: making things there costs nothing.
    is_local: bool,
    state: PathBuf,
}

impl Target {
    pub(crate) fn open(globals: &Globals) -> Result<Self, Failure> {
        let state = StateDir::open(globals.state.as_deref()).map_err(crate::daemon::StartError::from)?;
        let settings = settings(&state)?;
        let base = match settings.deploy_base() {
            Some(base) => base.clone(),
            None => parse(&gateway::ensure(&state)?)?,
        };
        let environment = settings.with_default(&base);
        for warning in &environment.warnings {
            eprintln!("sandboxctl: {warning}");
        }
        let is_local = is_loopback(base.as_str());
        let identity = match &environment.delegate {
            Some(token) => Identity::Bearer(token.clone()),
            None => Identity::Wallet(wallet(&environment, is_local)?.signer()),
        };
        let address = match &identity {
            Identity::Wallet(signer) => Some(signer.address().to_lower()),
            Identity::Nobody | Identity::Bearer(_) => None,
        };
        let keys = KeyCache::new(&environment, &base, address.as_deref());
        let client = Client::new(base.as_str(), identity, Arc::new(keys.clone()))?;
        Ok(Self { client, keys, is_local, state: state.path().to_owned() })
    }

    /// Makes a wallet when there is none.
    pub(crate) fn make_wallet(globals: &Globals) -> Result<(), Failure> {
        let state = StateDir::open(globals.state.as_deref()).map_err(crate::daemon::StartError::from)?;
        // The wallet's place does not depend on the gateway.
        let any = parse("http://127.0.0.1")?;
        wallet(&settings(&state)?.with_default(&any), true).map(drop)
    }

    /// The project of a folder: named, remembered, or made.
    pub(crate) async fn project_of(&self, folder: &Path, named: Option<&str>, name: &str) -> Result<String, Failure> {
        if let Some(project) = named {
            return Ok(project.to_owned());
        }
        let memory = self.memory(folder);
        if let Some(project) = remembered(&memory)
            && self.keys.project(&project).map_err(run402::error::Error::from)?.is_some()
        {
            return Ok(project);
        }
        if !self.is_local {
            return self.active_project();
        }
        let name: String = name.chars().filter(|c| !c.is_control()).take(100).collect();
        let project = self.provision(Some(name).filter(|name| !name.is_empty())).await?;
        remember(&memory, &project).map_err(|error| {
            Failure::new(Code::Internal, format!("cannot remember the project in {}: {error}", memory.display()))
        })?;
        Ok(project)
    }

    /// Makes a project and keeps its keys.
    pub(crate) async fn provision(&self, name: Option<String>) -> Result<String, Failure> {
        let new = NewProject { name, ..NewProject::default() };
        let made = projects::provision(&self.client, &new).await?;
        self.keys.save_project(&made.project_id, &made.keys).await.map_err(run402::error::Error::from)?;
        Ok(made.project_id)
    }

    /// The project that was named, or the active one.
    pub(crate) fn project(&self, named: Option<&str>) -> Result<String, Failure> {
        match named {
            Some(project) => Ok(project.to_owned()),
            None => self.active_project(),
        }
    }

    fn active_project(&self) -> Result<String, Failure> {
        let active = self.keys.active().map_err(run402::error::Error::from)?;
        active.ok_or_else(|| {
            let problem =
                Problem::new(Code::ProjectNotFound, format!("no project is active at {}", self.client.base()));
            problem.next("make one: sandboxctl deploy init").next("or name one with --project").into()
        })
    }

    /// Where hashes of a folder's files are remembered.
    pub(crate) fn hash_cache(&self, folder: &Path) -> PathBuf {
        self.state.join("deploys").join(format!("{}.hashes", name_of(folder)))
    }

    fn memory(&self, folder: &Path) -> PathBuf {
        let base = Digest::of(self.client.base().as_bytes()).to_string();
        // The embedded gateway's address may change, what it has does not.
        let gateway = if self.is_local { "local" } else { &base[..16] };
        self.state.join("deploys").join(format!("{}.{gateway}", name_of(folder)))
    }
}

/// Short and without meaning: a name for a folder.
fn name_of(folder: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    Digest::of(folder.as_os_str().as_bytes()).to_string()[..32].to_owned()
}

fn remembered(memory: &Path) -> Option<String> {
    let text = fs::read_to_string(memory).ok()?;
    Some(text.trim().to_owned()).filter(|project| !project.is_empty())
}

fn remember(memory: &Path, project: &str) -> io::Result<()> {
    if let Some(parent) = memory.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(memory, project)
}

fn parse(base: &str) -> Result<Base, Failure> {
    base.parse().map_err(|error: BaseError| Failure::new(Code::InvalidEnvironment, error.to_string()))
}

fn settings(state: &StateDir) -> Result<Settings, Failure> {
    let variable = |name: &str| std::env::var_os(name);
    let own =
        !["RUN402_API_BASE", "RUN402_DEPLOY_API_BASE", "RUN402_CONFIG_DIR"].iter().any(|name| variable(name).is_some());
    let config = state.path().join("run402").into_os_string();
    let look_up = move |name: &str| match name {
        "RUN402_CONFIG_DIR" if own => Some(config.clone()),
        name => variable(name),
    };
    Settings::read(&look_up).map_err(|error| Failure::new(Code::InvalidEnvironment, error.to_string()))
}

fn is_loopback(base: &str) -> bool {
    let host = base.split("://").nth(1).unwrap_or_default().split('/').next().unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn wallet(environment: &Environment, is_local: bool) -> Result<Wallet, Failure> {
    let failed = |error: run402::wallet::WalletError| Failure::from(run402::error::Error::from(error));
    match Wallet::load(environment).map_err(failed)? {
        Some(wallet) => {
            for warning in wallet.warnings() {
                eprintln!("sandboxctl: {warning}");
            }
            Ok(wallet)
        }
        None if is_local => Wallet::create(environment).map_err(failed),
        None => {
            let path = run402::wallet::path(environment);
            let problem = Problem::new(Code::Unauthorized, format!("there is no wallet in {}", path.display()));
            Err(problem.next("make one: sandboxctl deploy init --new-wallet").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_computer_is_told_from_others() {
        for base in ["http://127.0.0.1:7403", "http://localhost", "http://[::1]:80/x"] {
            assert!(is_loopback(base), "{base}");
        }
        for base in ["https://api.example", "http://127.0.0.1.example:80", "http://10.0.0.1", ""] {
            assert!(!is_loopback(base), "{base}");
        }
    }
}
