//! The gateway itself: its state, and what every edge shares.

use crate::content::{Contents, Receiving};
use crate::error::{Refusal, Result};
use crate::functions::{FunctionRunner, LentKeys, Logs, MAX_RUNNING};
use crate::serve::ports::Ports;
use crate::slices::Database;
use crate::store::projects::Project;
use crate::store::{Store, StoreError};
use run402::deploy::Digest;
use std::collections::HashMap;
use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use time::OffsetDateTime;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const SWEEP_INTERVAL: std::time::Duration = std::time::Duration::from_secs(600);

/// How a gateway is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Made when it is missing; nobody else may enter it.
    pub state: PathBuf,
    /// Longer contents are sent in parts of [`Config::part_bytes`].
    pub multipart_above_bytes: u64,
    pub part_bytes: u64,
    /// Without one, functions are deployed and cannot be called.
    pub functions: Option<Arc<dyn FunctionRunner>>,
    /// Without one, releases with tables are refused.
    pub database: Option<Arc<dyn Database>>,
}

impl Config {
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self {
            state: state.into(),
            multipart_above_bytes: 1 << 30,
            part_bytes: 64 << 20,
            functions: None,
            database: None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot make the state directory {path}: {source}")]
    State { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gateway(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    store: Store,
    contents: Contents,
    address: OnceLock<SocketAddr>,
    /// One commit of a project at a time.
    commits: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    ports: Ports,
    running: Semaphore,
    logs: Logs,
    lent_keys: LentKeys,
    tasks: TaskTracker,
}

impl Gateway {
    pub fn open(config: Config) -> std::result::Result<Self, OpenError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&config.state);
        made.map_err(|source| OpenError::State { path: config.state.clone(), source })?;
        let store = Store::open(&config.state)?;
        let contents = Contents::open(&config.state).map_err(StoreError::Directory)?;
        let logs = Logs::open(&config.state).map_err(StoreError::Database)?;
        let inner = Inner {
            config,
            store,
            contents,
            address: OnceLock::new(),
            commits: Mutex::default(),
            ports: Ports::default(),
            running: Semaphore::new(MAX_RUNNING),
            logs,
            lent_keys: LentKeys::default(),
            tasks: TaskTracker::new(),
        };
        Ok(Self(Arc::new(inner)))
    }

    pub(crate) fn listen_on(&self, address: SocketAddr) {
        // A gateway that serves twice keeps the URLs that it has given out.
        let _ = self.0.address.set(address);
    }

    /// Where the API is; what URLs are made of.
    pub(crate) fn address(&self) -> SocketAddr {
        *self.0.address.get_or_init(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.address())
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn contents(&self) -> &Contents {
        &self.0.contents
    }

    pub(crate) fn ports(&self) -> &Ports {
        &self.0.ports
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// A place for each call of a function.
    pub(crate) fn running(&self) -> &Semaphore {
        &self.0.running
    }

    /// Keys of calls that are running.
    pub(crate) fn lent_keys(&self) -> &LentKeys {
        &self.0.lent_keys
    }

    pub(crate) fn logs(&self) -> &Logs {
        &self.0.logs
    }

    /// Holds the socket that functions reach the API by, and nothing else.
    pub(crate) fn socket_folder(&self) -> PathBuf {
        self.0.config.state.join("socket")
    }

    /// Serves the API on a socket that functions are shown.
    pub(crate) fn open_socket(&self, router: axum::Router, shutdown: &CancellationToken) -> std::io::Result<()> {
        if self.0.config.functions.is_none() {
            return Ok(());
        }
        let folder = self.socket_folder();
        std::fs::create_dir_all(&folder)?;
        // Whoever is shown the folder may connect; nobody else can enter the one above it.
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))?;
        let path = folder.join("api.sock");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        let stopped = shutdown.clone();
        self.0.tasks.spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(async move { stopped.cancelled().await });
            if let Err(error) = served.await {
                tracing::warn!(%error, "functions cannot reach the API any more");
            }
        });
        Ok(())
    }

    /// Held while a release of the project is made live.
    pub(crate) fn commit_lock(&self, project: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.commits.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(project.to_owned()).or_default().clone()
    }

    /// Work that waits for the disk.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let gateway = self.clone();
        match tokio::task::spawn_blocking(move || work(&gateway)).await {
            Ok(done) => done,
            Err(error) => Err(Refusal::internal(error)),
        }
    }

    /// Finishes what the end before has interrupted.
    pub(crate) async fn recover(&self) {
        let found = self.blocking(|gateway| {
            gateway.sweep(Receiving::Nothing)?;
            // Nothing is on its way to an owner yet: what has none was a deleted project's.
            let owned = |digest: &Digest| gateway.store().is_owned(digest).unwrap_or(true);
            let freed = gateway.contents().collect(&owned)?;
            if freed > 0 {
                tracing::info!(contents = freed, "contents that no project has were removed");
            }
            gateway.store().unfinished()
        });
        let unfinished = match found.await {
            Ok(unfinished) => unfinished,
            Err(error) => return tracing::error!(?error, "what was interrupted cannot be read"),
        };
        for operation in unfinished {
            tracing::info!(operation = operation.id, status = operation.status, "a deploy is carried on");
            if let Err(error) = self.carry_on(&operation.id).await {
                tracing::warn!(operation = operation.id, ?error, "a deploy could not be carried on");
            }
        }
    }

    /// Forgets what nobody can go on with. Blocking.
    fn sweep(&self, receiving: Receiving) -> Result<()> {
        self.store().expire(OffsetDateTime::now_utc().unix_timestamp())?;
        let keep = |upload: &str| self.store().knows_upload(upload).unwrap_or(true);
        Ok(self.contents().clear_staging(&keep, receiving)?)
    }

    /// Sweeps from time to time, until `shutdown`.
    pub(crate) fn keep_swept(&self, shutdown: &CancellationToken) {
        let (gateway, stopped) = (self.clone(), shutdown.clone());
        self.tasks().spawn(async move {
            while stopped.run_until_cancelled(tokio::time::sleep(SWEEP_INTERVAL)).await.is_some() {
                if let Err(error) = gateway.blocking(|gateway| gateway.sweep(Receiving::Perhaps)).await {
                    tracing::warn!(?error, "what is left of old uploads cannot be removed");
                }
            }
        });
    }

    /// The URLs of a project's site: on a port of its own, by host name, and by path.
    pub(crate) fn site_urls(&self, project: &Project, subdomain: Option<&str>) -> SiteUrls {
        let address = self.address();
        let label = subdomain.map_or_else(|| project.id.replace('_', "-"), str::to_owned);
        let own = project.port.map(|port| format!("http://{}/", SocketAddr::new(address.ip(), port)));
        let path = format!("{}/sites/{}/", self.base(), project.id);
        SiteUrls {
            own: own.unwrap_or_else(|| path.clone()),
            host: format!("http://{label}.localhost:{}/", address.port()),
            path,
        }
    }
}

/// Where a site is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SiteUrls {
    /// Works with every client and every page: an origin of its own, no look-up of a name.
    pub(crate) own: String,
    /// Works where names under `localhost` are known, as in browsers.
    pub(crate) host: String,
    /// Works with pages whose links are relative.
    pub(crate) path: String,
}
