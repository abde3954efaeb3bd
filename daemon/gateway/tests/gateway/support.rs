//! A gateway on a free port, and wallets with projects on it.

#![allow(dead_code, reason = "each of the test programs that share this needs a part of it")]

use crate::tables::Tables;
use reqwest::Response;
use run402::api::projects::{self, NewProject};
use run402::client::{Auth, Client, Identity, KeyPair, Keyring};
use run402::deploy::spec::{Manifest, ReleaseSpec};
use run402::deploy::{AllowWarnings, Deploy, Options, Polling, Released, Silent};
use run402::error::Error;
use run402::signin::Signer;
use run402_gateway::slices::Database;
use run402_gateway::{Config, Gateway};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(crate) struct Server {
    pub(crate) base: String,
    pub(crate) state: tempfile::TempDir,
    shutdown: CancellationToken,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::on(tempfile::tempdir().expect("a directory")).await
    }

    pub(crate) async fn on(state: tempfile::TempDir) -> Self {
        Self::with(state, None).await
    }

    pub(crate) async fn with(state: tempfile::TempDir, database: Option<Arc<Tables>>) -> Self {
        let gateway = Gateway::open(config(state.path(), database)).expect("a gateway");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let running = tokio::spawn(async move {
            run402_gateway::run(listener, gateway, stop).await.expect("it serves");
        });
        Self { base, state, shutdown, running: Some(running) }
    }

    /// Stops it; its state is left.
    pub(crate) async fn stop(mut self) -> tempfile::TempDir {
        self.shutdown.cancel();
        self.running.take().expect("it runs").await.expect("it ends");
        std::mem::replace(&mut self.state, tempfile::tempdir().expect("a directory"))
    }

    pub(crate) async fn user(&self, seed: u8) -> User {
        User::new(&self.base, seed).await
    }
}

/// Parts are small enough that tests see some.
pub(crate) fn config(state: &Path, database: Option<Arc<Tables>>) -> Config {
    let database = database.map(|tables| tables as Arc<dyn Database>);
    Config { multipart_above_bytes: 1 << 20, part_bytes: 1 << 18, database, ..Config::new(state) }
}

#[derive(Debug, Default)]
pub(crate) struct Keys(Mutex<HashMap<String, KeyPair>>);

impl Keyring for Keys {
    fn keys(&self, project: &str) -> Result<Option<KeyPair>, Error> {
        Ok(self.0.lock().expect("no panic").get(project).cloned())
    }
}

/// A wallet with one project.
pub(crate) struct User {
    pub(crate) client: Client,
    pub(crate) project: String,
    seed: u8,
    keys: Arc<Keys>,
}

pub(crate) fn options() -> Options {
    let polling = Polling { interval: Duration::from_millis(5), ..Polling::default() };
    Options { polling, allow_warnings: AllowWarnings::Everything, ..Options::default() }
}

impl User {
    /// With a project of its own.
    pub(crate) async fn new(base: &str, seed: u8) -> Self {
        let signer = Signer::from_bytes(&[seed; 32]).expect("a key");
        let keys = Arc::new(Keys::default());
        let client = Client::new(base, Identity::Wallet(signer), keys.clone()).expect("a client");
        let provisioned = projects::provision(&client, &NewProject::default()).await.expect("a project");
        keys.0.lock().expect("no panic").insert(provisioned.project_id.clone(), provisioned.keys);
        Self { client, project: provisioned.project_id, seed, keys }
    }

    /// The project's keys: anon, service.
    pub(crate) fn keys(&self) -> (String, String) {
        let keys = self.keys.0.lock().expect("no panic");
        let pair = keys.get(&self.project).expect("the project's keys");
        (pair.anon.reveal().to_owned(), pair.service.reveal().to_owned())
    }

    pub(crate) async fn get(&self, path: &str, auth: Auth<'_>) -> Result<Value, Error> {
        self.client.get(path, auth).receive("reading").await
    }

    pub(crate) async fn post(&self, path: &str, auth: Auth<'_>, body: Value) -> Result<Value, Error> {
        self.client.post(path, auth).json(&body)?.receive("writing").await
    }

    /// The same wallet and project, where the gateway is now.
    pub(crate) fn at(&self, base: &str) -> Self {
        let signer = Signer::from_bytes(&[self.seed; 32]).expect("a key");
        let client = Client::new(base, Identity::Wallet(signer), self.keys.clone()).expect("a client");
        Self { client, project: self.project.clone(), seed: self.seed, keys: self.keys.clone() }
    }

    pub(crate) fn spec(&self, mut slices: Value) -> ReleaseSpec {
        slices["project"] = json!(self.project);
        Manifest::from_json(slices, None).expect("a manifest").spec
    }

    pub(crate) async fn deploy(&self, slices: Value) -> Result<Released, Error> {
        self.deploy_with(slices, &options()).await
    }

    pub(crate) async fn deploy_with(&self, slices: Value, options: &Options) -> Result<Released, Error> {
        Deploy::new(self.spec(slices), None).apply(&self.client, options, &Default::default(), &Silent).await
    }

    /// Every file of the live release, by path.
    pub(crate) async fn live(&self) -> Vec<String> {
        let release = run402::api::releases::get(&self.client, &self.project, "active", None).await.expect("a release");
        let paths = release["site"]["paths"].as_array().expect("paths");
        paths.iter().map(|path| path["path"].as_str().expect("a path").to_owned()).collect()
    }
}

pub(crate) async fn get(url: &str) -> Response {
    reqwest::get(url).await.expect("an answer")
}

pub(crate) fn files_below(path: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).expect("a list") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}
