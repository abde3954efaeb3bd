//! Which gateway a deploy goes to, as whom, into which project.
//!
//! Input: the environment (`RUN402_*`) and the state directory. With nothing named it is the embedded
//! gateway with a wallet of its own in the state directory; a wallet and a project are made there when
//! they are missing, since they cost nothing. Elsewhere nothing is made unasked.

use crate::args::Globals;
use crate::failure::Failure;
use crate::gateway;
use crate::state::StateDir;
use run402::account::{self, Account};
use run402::deploy::Digest;
use run402::environment::{Base, BaseError, Environment, Settings};
use sandbox_wire::{Code, Problem};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A caller at a gateway, and what this program remembers of folders.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) account: Account,
    /// Started by this program: its address may change, what it has does not.
    is_embedded: bool,
    state: PathBuf,
}

impl Target {
    pub(crate) fn open(globals: &Globals) -> Result<Self, Failure> {
        let state = StateDir::open(globals.state.as_deref()).map_err(crate::daemon::StartError::from)?;
        let is_embedded = settings(&state)?.deploy_base().is_none();
        let account = Account::open(&Self::environment(globals)?)?;
        for warning in &account.warnings {
            eprintln!("sandboxctl: {warning}");
        }
        Ok(Self { account, is_embedded, state: state.path().to_owned() })
    }

    /// The gateway, started where none is named, and where wallet and keys are.
    pub(crate) fn environment(globals: &Globals) -> Result<Environment, Failure> {
        let state = StateDir::open(globals.state.as_deref()).map_err(crate::daemon::StartError::from)?;
        let settings = settings(&state)?;
        let base = match settings.deploy_base() {
            Some(base) => base.clone(),
            None => parse(&gateway::ensure(&state)?)?,
        };
        Ok(settings.with_default(&base))
    }

    /// Makes a wallet when there is none.
    pub(crate) fn make_wallet(globals: &Globals) -> Result<(), Failure> {
        let state = StateDir::open(globals.state.as_deref()).map_err(crate::daemon::StartError::from)?;
        // The wallet's place does not depend on the gateway.
        let any = parse("http://127.0.0.1")?;
        Ok(account::wallet(&settings(&state)?.with_default(&any), true).map(drop)?)
    }

    /// The project of a folder: named, remembered, or made.
    pub(crate) async fn project_of(
        &mut self,
        folder: &Path,
        named: Option<&str>,
        name: &str,
    ) -> Result<String, Failure> {
        if named.is_some() {
            return self.project(named).await;
        }
        let memory = self.memory(folder);
        if let Some(project) = remembered(&memory)
            && self.account.knows(&project)?
        {
            return Ok(project);
        }
        if !self.account.is_local() {
            return self.project(None).await;
        }
        let project = self.account.provision(Some(name)).await?;
        remember(&memory, &project).map_err(|error| {
            Failure::new(Code::Internal, format!("cannot remember the project in {}: {error}", memory.display()))
        })?;
        Ok(project)
    }

    /// The project that was named, or the active one. In a job of CI its session begins here.
    pub(crate) async fn project(&mut self, named: Option<&str>) -> Result<String, Failure> {
        let project = match named {
            Some(project) => project.to_owned(),
            None => self.active_project()?,
        };
        self.account.sign_in(&project).await?;
        Ok(project)
    }

    fn active_project(&self) -> Result<String, Failure> {
        self.account.active_project()?.ok_or_else(|| {
            let base = self.account.client.base();
            let problem = Problem::new(Code::ProjectNotFound, format!("no project is active at {base}"));
            problem.next("make one: sandboxctl deploy init").next("or name one with --project").into()
        })
    }

    /// Where hashes of a folder's files are remembered.
    pub(crate) fn hash_cache(&self, folder: &Path) -> PathBuf {
        self.state.join("deploys").join(format!("{}.hashes", name_of(folder)))
    }

    fn memory(&self, folder: &Path) -> PathBuf {
        let base = Digest::of(self.account.client.base().as_bytes()).to_string();
        let gateway = if self.is_embedded { "embedded" } else { &base[..16] };
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
    let settings = account::settings(&state.path().join("run402"));
    settings.map_err(|error| Failure::new(Code::InvalidEnvironment, error.to_string()))
}
