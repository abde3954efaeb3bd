//! What the gateway remembers: SQLite in WAL mode, written through to the disk before anything is
//! acknowledged.
//!
//! One connection, one writer at a time; every method is one transaction. Keys of projects are stored as
//! SHA-256 only: they have 256 random bits, so that there is nothing to guess.

pub(crate) mod deploys;
mod manifests;
pub(crate) mod projects;
pub(crate) mod uploads;

use manifests::Manifests;
use rand::RngExt;
use rusqlite::{Connection, TransactionBehavior};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS wallets (address TEXT PRIMARY KEY, tier TEXT NOT NULL, started_at TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS projects (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, owner TEXT NOT NULL, tier TEXT NOT NULL,
    anon_hash BLOB NOT NULL UNIQUE, service_hash BLOB NOT NULL UNIQUE,
    live_release TEXT, generation INTEGER NOT NULL DEFAULT 0, port INTEGER, created_at TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS projects_owner ON projects (owner, created_at);
CREATE TABLE IF NOT EXISTS releases (
    id TEXT PRIMARY KEY, project TEXT NOT NULL REFERENCES projects ON DELETE CASCADE, parent TEXT, manifest TEXT NOT NULL,
    digest TEXT NOT NULL, plan TEXT NOT NULL, operation TEXT NOT NULL, status TEXT NOT NULL, generation INTEGER NOT NULL,
    created_at TEXT NOT NULL, superseded_at TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS plans (
    id TEXT PRIMARY KEY, project TEXT NOT NULL REFERENCES projects ON DELETE CASCADE, operation TEXT NOT NULL UNIQUE,
    spec TEXT NOT NULL, base TEXT, live TEXT, digest TEXT NOT NULL, is_noop INTEGER NOT NULL, created_at TEXT NOT NULL, expires INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS operations (
    id TEXT PRIMARY KEY, project TEXT NOT NULL REFERENCES projects ON DELETE CASCADE, plan TEXT NOT NULL,
    status TEXT NOT NULL, base TEXT, release TEXT, error TEXT, idempotency_key TEXT, digest TEXT NOT NULL,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS operations_project ON operations (project, created_at);
CREATE INDEX IF NOT EXISTS operations_key ON operations (project, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, operation TEXT NOT NULL REFERENCES operations ON DELETE CASCADE, body TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS events_operation ON events (operation, id);
CREATE TABLE IF NOT EXISTS contents (
    project TEXT NOT NULL REFERENCES projects ON DELETE CASCADE, sha256 BLOB NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY (project, sha256)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS contents_sha256 ON contents (sha256);
CREATE TABLE IF NOT EXISTS content_plans (
    id TEXT PRIMARY KEY, project TEXT NOT NULL REFERENCES projects ON DELETE CASCADE, expires INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS uploads (
    id TEXT PRIMARY KEY, plan TEXT NOT NULL REFERENCES content_plans ON DELETE CASCADE, token_hash BLOB NOT NULL,
    sha256 BLOB NOT NULL, size INTEGER NOT NULL, part_size INTEGER NOT NULL, parts INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS uploads_plan ON uploads (plan);
CREATE TABLE IF NOT EXISTS secrets (
    project TEXT NOT NULL REFERENCES projects ON DELETE CASCADE, key TEXT NOT NULL, value TEXT NOT NULL,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL, PRIMARY KEY (project, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS subdomains (
    name TEXT PRIMARY KEY, project TEXT NOT NULL REFERENCES projects ON DELETE CASCADE, deployment_id TEXT NOT NULL,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the gateway's database: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("cannot use the gateway's state directory: {0}")]
    Directory(#[from] std::io::Error),
    #[error("another gateway has this state directory")]
    InUse,
}

#[derive(Debug)]
pub(crate) struct Store {
    connection: Mutex<Connection>,
    manifests: Manifests,
    /// Locked as long as the gateway lives.
    _lock: fs::File,
}

/// What a key or token is stored as.
pub(crate) fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

impl Store {
    pub(crate) fn open(state: &Path) -> Result<Self, StoreError> {
        let private = |name: &str| {
            let mut options = fs::OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(state.join(name))
        };
        let lock = private("lock")?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| StoreError::InUse)?;
        // SQLite gives its other files the mode of this one.
        drop(private("gateway.db")?);
        fs::set_permissions(state.join("gateway.db"), fs::Permissions::from_mode(0o600))?;
        let connection = Connection::open(state.join("gateway.db"))?;
        // Nobody else opens it: the lock above says so once, SQLite would ask the kernel for each statement.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self { connection: Mutex::new(connection), manifests: Manifests::default(), _lock: lock })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic between two statements leaves an open transaction, which rolled itself back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Proves that these were put together here. Lower-case hexadecimal.
    pub(crate) fn sign(&self, parts: &[&str]) -> Result<String, rusqlite::Error> {
        let key = self.transaction(|transaction| {
            let fresh: [u8; 32] = rand::rng().random();
            transaction.execute("INSERT OR IGNORE INTO settings VALUES ('signing-key', ?1)", [fresh])?;
            transaction
                .query_row("SELECT value FROM settings WHERE name = 'signing-key'", [], |row| row.get::<_, Vec<u8>>(0))
        })?;
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        // Hashed once more with the key before it, so that what was signed cannot be gone on with.
        Ok(hex::encode(Sha256::new().chain_update(&key).chain_update(hasher.finalize()).finalize()))
    }

    /// All of it, or nothing.
    pub(crate) fn transaction<T, E: From<rusqlite::Error>>(
        &self,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = self.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = work(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }
}
