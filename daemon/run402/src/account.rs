//! A caller at a gateway: whose wallet, whose keys, and whether making things costs nothing.
//!
//! Input: the environment of a program that has a directory of its own. Output: [`Account`]. On this
//! computer a wallet is made when it is missing, since nothing there costs anything; elsewhere nothing is
//! made unasked.

use crate::api::ci::{self, Runner};
use crate::api::projects::{self, NewProject};
use crate::client::{Client, Identity};
use crate::environment::{Base, Environment, EnvironmentError, Settings};
use crate::error::Error;
use crate::keys::KeyCache;
use crate::wallet::{self, Wallet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// Any of these says that the caller has chosen a gateway or a directory.
const CHOICES: [&str; 3] = ["RUN402_API_BASE", "RUN402_DEPLOY_API_BASE", "RUN402_CONFIG_DIR"];

/// What the process's variables say; with nothing chosen, wallet and keys are in `own`.
pub fn settings(own: &Path) -> Result<Settings, EnvironmentError> {
    let chosen = CHOICES.iter().any(|name| std::env::var_os(name).is_some());
    let look_up = |name: &str| match name {
        "RUN402_CONFIG_DIR" if !chosen => Some(own.as_os_str().to_owned()),
        name => std::env::var_os(name),
    };
    Settings::read(&look_up)
}

/// Whether a gateway is on this computer.
pub fn is_local(base: &Base) -> bool {
    let ip = base.host().trim_matches(['[', ']']).parse::<IpAddr>();
    base.host() == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

/// The wallet; made when it is missing and `may_make` says so.
pub fn wallet(environment: &Environment, may_make: bool) -> Result<Wallet, Error> {
    match Wallet::load(environment)? {
        Some(wallet) => Ok(wallet),
        None if may_make => Ok(Wallet::create(environment)?),
        None => {
            let path = wallet::path(environment);
            Err(Error::local("NO_WALLET", format!("there is no wallet in {}", path.display())))
        }
    }
}

/// An open way to a gateway.
#[derive(Debug)]
pub struct Account {
    pub client: Client,
    pub keys: KeyCache,
    pub environment: Environment,
    is_local: bool,
    /// A job of CI without a wallet: its identity becomes a session, project by project.
    runner: Option<Runner>,
    /// What a user should hear.
    pub warnings: Vec<String>,
}

impl Account {
    /// Blocking: reads files.
    pub fn open(environment: &Environment) -> Result<Self, Error> {
        let base = &environment.deploy_base;
        let is_local = is_local(base);
        let mut warnings: Vec<String> = environment.warnings.iter().map(ToString::to_string).collect();
        let runner = match Wallet::load(environment)? {
            None if environment.delegate.is_none() && !is_local => {
                Runner::from_variables(&|name| std::env::var_os(name))?
            }
            _ => None,
        };
        let (identity, address) = match (&environment.delegate, &runner) {
            (Some(token), _) => (Identity::Bearer(token.clone()), None),
            (None, Some(_)) => (Identity::Nobody, None),
            (None, None) => {
                let wallet = wallet(environment, is_local)?;
                warnings.extend(wallet.warnings().iter().map(ToString::to_string));
                (Identity::Wallet(wallet.signer()), Some(wallet.address().to_lower()))
            }
        };
        let keys = KeyCache::new(environment, base, address.as_deref());
        let client = Client::new(base.as_str(), identity, Arc::new(keys.clone()))?;
        Ok(Self { client, keys, environment: environment.clone(), is_local, runner, warnings })
    }

    /// In a job of CI: makes the calls that follow as a session for one project. Otherwise nothing.
    pub async fn sign_in(&mut self, project: &str) -> Result<(), Error> {
        if let Some(runner) = &self.runner {
            let session = ci::sign_in(&self.client, runner, ci::AUDIENCE, project).await?;
            self.client = self.client.clone().with_identity(Identity::Bearer(session.bearer));
        }
        Ok(())
    }

    /// Making things here costs nothing.
    pub const fn is_local(&self) -> bool {
        self.is_local
    }

    /// Makes a project, keeps its keys and makes it the active one.
    pub async fn provision(&self, name: Option<&str>) -> Result<String, Error> {
        let plain = |name: &str| name.chars().filter(|c| !c.is_control()).take(100).collect::<String>();
        let name = name.map(plain).filter(|name| !name.is_empty());
        let made = projects::provision(&self.client, &NewProject { name, ..NewProject::default() }).await?;
        self.keys.save_project(&made.project_id, &made.keys).await?;
        Ok(made.project_id)
    }

    /// Whether the keys of a project are here.
    pub fn knows(&self, project: &str) -> Result<bool, Error> {
        Ok(self.keys.project(project)?.is_some())
    }

    pub fn active_project(&self) -> Result<Option<String>, Error> {
        Ok(self.keys.active()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> Base {
        text.parse().expect("a base")
    }

    #[test]
    fn this_computer_is_told_from_others() {
        for local in ["http://127.0.0.1:7403", "http://localhost", "http://[::1]:80/x"] {
            assert!(is_local(&base(local)), "{local}");
        }
        for other in ["https://api.example", "http://127.0.0.1.example:80", "http://10.0.0.1"] {
            assert!(!is_local(&base(other)), "{other}");
        }
    }
}
