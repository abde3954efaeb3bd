//! The administrator's side: our own schema, making and dropping projects.
//!
//! The administrator is who the address names: a superuser, or an owner of the database who may create
//! roles. Statements here are ours alone; nothing of a project's is run, called or resolved in this
//! session, whose search path is the catalogue's.

use super::names::literal;
use super::{DatabaseError, ProjectSchema};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard, Semaphore};
use tokio_postgres::{Client, Config, NoTls};
use tokio_util::task::TaskTracker;

/// How much a project's statements may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Of one call of `run_sql`, of one look at a schema.
    pub statement: Duration,
    /// Of one migration.
    pub migration: Duration,
    pub rows: usize,
    /// Of all values of a result together, as text.
    pub result_bytes: usize,
    pub sql_bytes: usize,
    /// Sessions of all projects together.
    pub sessions: usize,
    /// How long a call waits for a session.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            statement: Duration::from_secs(30),
            migration: Duration::from_secs(300),
            rows: 10_000,
            result_bytes: 8 << 20,
            sql_bytes: 8 << 20,
            sessions: 32,
            wait: Duration::from_secs(10),
        }
    }
}

/// Sessions of one project at a time; the rest is for others.
const SESSIONS_OF_PROJECT: u32 = 8;
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// A start beside another start is tried again.
const SETUP_TRIES: u32 = 5;
const OPTIONS: &str = "-c search_path=pg_catalog -c statement_timeout=60000 -c lock_timeout=15000 -c DateStyle=ISO";

/// `carry_out` lets the database itself refuse what would end the transaction around it; it has the rights
/// of its caller. `record` writes for whoever the session was authenticated as.
const SETUP: &str = "
CREATE SCHEMA IF NOT EXISTS run402;
REVOKE ALL ON SCHEMA run402 FROM PUBLIC;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
CREATE TABLE IF NOT EXISTS run402.settings (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    tag text NOT NULL
);
CREATE TABLE IF NOT EXISTS run402.projects (
    schema text PRIMARY KEY,
    role text NOT NULL UNIQUE,
    project_id text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS run402.migrations (
    schema text NOT NULL REFERENCES run402.projects ON DELETE CASCADE,
    number bigint GENERATED ALWAYS AS IDENTITY,
    id text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (schema, id)
);
CREATE TABLE IF NOT EXISTS run402.manifests (
    schema text PRIMARY KEY REFERENCES run402.projects ON DELETE CASCADE,
    manifest jsonb NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
CREATE OR REPLACE FUNCTION run402.carry_out(script text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE script;
END $$;
CREATE OR REPLACE FUNCTION run402.record(id text, checksum text) RETURNS void LANGUAGE sql
SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO run402.migrations (schema, id, checksum)
    SELECT schema, $1, $2 FROM run402.projects WHERE role = session_user;
$$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA run402 FROM PUBLIC;
";

/// A database for many projects. Cheap to clone.
#[derive(Clone)]
pub struct Database(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) config: Config,
    pub(super) limits: Limits,
    /// Lazily connected again after a break.
    client: Mutex<Option<Client>>,
    is_superuser: bool,
    /// Part of roles' names, since roles belong to all databases of a server.
    tag: String,
    /// Projects that are known to be there.
    known: Mutex<HashSet<ProjectSchema>>,
    /// Passwords live as long as this process; the next one sets others.
    pub(super) passwords: Mutex<HashMap<ProjectSchema, String>>,
    pub(super) sessions: Arc<Semaphore>,
    pub(super) tasks: TaskTracker,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { limits, is_superuser, .. } = &*self.0;
        f.debug_struct("Database").field("limits", limits).field("is_superuser", is_superuser).finish_non_exhaustive()
    }
}

impl Database {
    /// Connects as the administrator and makes our own schema, where it is not there yet. The database
    /// should be for this gateway alone.
    pub async fn connect(url: &str) -> Result<Self, DatabaseError> {
        Self::with_limits(url, Limits::default()).await
    }

    pub async fn with_limits(url: &str, limits: Limits) -> Result<Self, DatabaseError> {
        let mut config: Config = url.parse().map_err(DatabaseError::Address)?;
        config.connect_timeout(CONNECT_TIME).application_name("run402-gateway").options(OPTIONS);
        let tasks = TaskTracker::new();
        let mut client = connect(&config, &tasks).await?;
        let tag = set_up(&mut client).await?;
        let query = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
        let row = client.query_one(query, &[]).await.map_err(DatabaseError::admin("reading its own rights"))?;
        Ok(Self(Arc::new(Inner {
            config,
            client: Mutex::new(Some(client)),
            is_superuser: row.get(0),
            tag,
            known: Mutex::default(),
            passwords: Mutex::default(),
            sessions: Arc::new(Semaphore::new(limits.sessions)),
            limits,
            tasks,
        })))
    }

    /// Makes the project's schema and role, where they are not there yet.
    pub async fn provision(&self, project_id: &str) -> Result<ProjectSchema, DatabaseError> {
        let schema = ProjectSchema::of(project_id);
        let mut known = self.0.known.lock().await;
        if !known.contains(&schema) {
            match self.make(project_id, &schema).await {
                // Another gateway has made it just now.
                Err(DatabaseError::Admin { source, .. }) if is_race(&source) => self.make(project_id, &schema).await?,
                made => made?,
            }
            known.insert(schema.clone());
        }
        Ok(schema)
    }

    async fn make(&self, project_id: &str, schema: &ProjectSchema) -> Result<(), DatabaseError> {
        let failed = || DatabaseError::admin("making a project");
        let mut admin = self.0.admin().await?;
        let transaction = admin.client().transaction().await.map_err(failed())?;
        let query = "SELECT 1 FROM run402.projects WHERE schema = $1";
        if transaction.query_opt(query, &[&schema.as_str()]).await.map_err(failed())?.is_some() {
            return Ok(());
        }
        let role = self.0.role(schema);
        let mut script = format!(
            "CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION NOBYPASSRLS
                CONNECTION LIMIT {SESSIONS_OF_PROJECT};"
        );
        match self.0.is_superuser {
            // Only a superuser may set it, and so only a superuser may lift it.
            true => script.push_str(&format!("ALTER ROLE {role} SET temp_file_limit = '1GB';")),
            // Only members of a role may make things that it owns.
            false => script.push_str(&format!("GRANT {role} TO CURRENT_USER;")),
        }
        script.push_str(&format!(
            "CREATE SCHEMA {schema} AUTHORIZATION {role};
            GRANT USAGE ON SCHEMA run402 TO {role};
            GRANT EXECUTE ON FUNCTION run402.carry_out(text), run402.record(text, text) TO {role};"
        ));
        transaction.batch_execute(&script).await.map_err(failed())?;
        let insert = "INSERT INTO run402.projects (schema, role, project_id) VALUES ($1, $2, $3)";
        transaction.execute(insert, &[&schema.as_str(), &role, &project_id]).await.map_err(failed())?;
        transaction.commit().await.map_err(failed())
    }

    /// Ends the project's sessions and removes everything that it has; nothing happens when it has nothing.
    pub async fn drop_project(&self, project_id: &str) -> Result<(), DatabaseError> {
        let failed = || DatabaseError::admin("dropping a project");
        let schema = ProjectSchema::of(project_id);
        let mut known = self.0.known.lock().await;
        let mut admin = self.0.admin().await?;
        let client = admin.client();
        let query = "SELECT role FROM run402.projects WHERE schema = $1";
        let Some(row) = client.query_opt(query, &[&schema.as_str()]).await.map_err(failed())? else { return Ok(()) };
        let role: String = row.get(0);
        client.batch_execute(&format!("ALTER ROLE {role} NOLOGIN")).await.map_err(failed())?;
        // What a session holds would make the drop wait. The second argument waits for their end.
        let end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1";
        client.query(end, &[&role]).await.map_err(failed())?;
        let transaction = client.transaction().await.map_err(failed())?;
        let delete = "DELETE FROM run402.projects WHERE schema = $1";
        transaction.execute(delete, &[&schema.as_str()]).await.map_err(failed())?;
        let script = format!("DROP OWNED BY {role} CASCADE; DROP SCHEMA IF EXISTS {schema} CASCADE; DROP ROLE {role};");
        transaction.batch_execute(&script).await.map_err(failed())?;
        transaction.commit().await.map_err(failed())?;
        known.remove(&schema);
        self.0.passwords.lock().await.remove(&schema);
        Ok(())
    }

    /// Bytes on disk of the project's tables with their indexes.
    pub async fn size_bytes(&self, project_id: &str) -> Result<u64, DatabaseError> {
        let failed = || DatabaseError::admin("measuring a project");
        let schema = ProjectSchema::of(project_id);
        let mut admin = self.0.admin().await?;
        let query = "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
            JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind IN ('r', 'm', 'S')";
        let row = admin.client().query_one(query, &[&schema.as_str()]).await.map_err(failed())?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default())
    }
}

impl Inner {
    pub(super) fn role(&self, schema: &ProjectSchema) -> String {
        format!("{schema}_{}", self.tag)
    }

    /// The administrator's session, for one thing at a time.
    pub(super) async fn admin(&self) -> Result<Admin<'_>, DatabaseError> {
        let mut slot = self.client.lock().await;
        if slot.as_ref().is_none_or(Client::is_closed) {
            *slot = Some(connect(&self.config, &self.tasks).await?);
        }
        Ok(Admin(slot))
    }

    /// Another session of the administrator's, for what takes long.
    pub(super) async fn another_admin(&self) -> Result<Client, DatabaseError> {
        connect(&self.config, &self.tasks).await
    }

    /// Sets a new password for the project's role; what the server is told is only a verifier.
    pub(super) async fn set_password(&self, schema: &ProjectSchema) -> Result<String, DatabaseError> {
        let password = hex::encode(rand::random::<[u8; 24]>());
        let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
        let statement = format!("ALTER ROLE {} PASSWORD {}", self.role(schema), literal(&verifier));
        let mut admin = self.admin().await?;
        let done = admin.client().batch_execute(&statement).await;
        done.map_err(DatabaseError::admin("letting a project sign in"))?;
        Ok(password)
    }

    /// Ends a session of the project's, whatever it does.
    pub(super) async fn terminate(&self, schema: &ProjectSchema, pid: i32) -> Result<(), DatabaseError> {
        let mut admin = self.admin().await?;
        // By role as well: the number may belong to somebody else by now.
        let query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND usename = $2";
        let done = admin.client().query(query, &[&pid, &self.role(schema)]).await;
        done.map(drop).map_err(DatabaseError::admin("ending a session"))
    }
}

/// The administrator's session while it is held.
pub(super) struct Admin<'a>(MutexGuard<'a, Option<Client>>);

impl Admin<'_> {
    pub(super) fn client(&mut self) -> &mut Client {
        self.0.as_mut().expect("it was connected before it was given out")
    }
}

/// Connects; a task of its own moves the bytes until the client is dropped.
pub(super) async fn connect(config: &Config, tasks: &TaskTracker) -> Result<Client, DatabaseError> {
    let connecting = tokio::time::timeout(CONNECT_TIME * 2, config.connect(NoTls)).await;
    let (client, connection) = connecting.map_err(|_| DatabaseError::Silent)?.map_err(DatabaseError::Connect)?;
    tasks.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the database ended");
        }
    });
    Ok(client)
}

/// Makes what is not there; answers the tag of this database.
async fn set_up(client: &mut Client) -> Result<String, DatabaseError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match try_set_up(client).await {
            Ok(tag) => return Ok(tag),
            // Two at the same time: one of them loses at the catalogue's indexes, or at its rows.
            Err(error) if tries < SETUP_TRIES && is_race(&error) => {}
            Err(source) => return Err(DatabaseError::Admin { step: "making its own schema", source }),
        }
    }
}

async fn try_set_up(client: &mut Client) -> Result<String, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(SETUP).await?;
    let tag = hex::encode(rand::random::<[u8; 4]>());
    let insert = "INSERT INTO run402.settings (tag) VALUES ($1) ON CONFLICT DO NOTHING";
    transaction.execute(insert, &[&tag]).await?;
    let row = transaction.query_one("SELECT tag FROM run402.settings", &[]).await?;
    transaction.commit().await?;
    Ok(row.get(0))
}

fn is_race(error: &tokio_postgres::Error) -> bool {
    let state = error.code().map(|code| code.code()).unwrap_or_default();
    ["23505", "40001", "40P01", "42P06", "42P07", "42710", "42723", "XX000"].contains(&state)
}
