//! A session of a project's own, for what the project sends.
//!
//! One call, one session: whatever the statements set, prepare, lock or listen to ends with it. A deadline is
//! kept from outside, by ending the session, since statements can change their own `statement_timeout` and
//! catch a cancel.

use super::admin::{Inner, connect};
use super::{Database, DatabaseError, ProjectSchema};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// How long the database may take to end a statement by itself before we end the session.
const GRACE: Duration = Duration::from_secs(1);

/// Ends with its drop.
pub(super) struct Session {
    client: Client,
    schema: ProjectSchema,
    pid: i32,
    /// Whether a statement may be running.
    is_busy: bool,
    inner: Arc<Inner>,
    _permit: OwnedSemaphorePermit,
}

impl Database {
    /// A session whose statements may take `limit`.
    pub(super) async fn session(&self, schema: &ProjectSchema, limit: Duration) -> Result<Session, DatabaseError> {
        let inner = &self.0;
        let permit = tokio::time::timeout(inner.limits.wait, Arc::clone(&inner.sessions).acquire_owned()).await;
        let permit = permit.map_err(|_| DatabaseError::Busy)?.expect("the semaphore is never closed");
        let client = match self.sign_in(schema, limit, false).await {
            // Somebody has changed the password: the project itself, or another gateway.
            Err(DatabaseError::Connect(error)) if error.code() == Some(&SqlState::INVALID_PASSWORD) => {
                self.sign_in(schema, limit, true).await
            }
            done => done,
        };
        let client = client.map_err(|error| match error {
            DatabaseError::Connect(error) if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS) => {
                DatabaseError::Busy
            }
            error => error,
        })?;
        let row = client.query_one("SELECT pg_catalog.pg_backend_pid(), session_user::pg_catalog.text", &[]).await;
        let row = row.map_err(DatabaseError::admin("signing a project in"))?;
        // Some set-ups map every user of the host to one role; statements would have that role's rights.
        if row.get::<_, String>(1) != inner.role(schema) {
            return Err(DatabaseError::Sql(Box::new(super::error::SqlFault::text(
                "the server does not let projects sign in",
            ))));
        }
        let (schema, pid, inner) = (schema.clone(), row.get(0), Arc::clone(inner));
        Ok(Session { client, schema, pid, is_busy: false, inner, _permit: permit })
    }

    async fn sign_in(&self, schema: &ProjectSchema, limit: Duration, anew: bool) -> Result<Client, DatabaseError> {
        let inner = &self.0;
        let mut passwords = inner.passwords.lock().await;
        let password = match passwords.get(schema) {
            Some(password) if !anew => password.clone(),
            _ => {
                let password = inner.set_password(schema).await?;
                passwords.insert(schema.clone(), password.clone());
                password
            }
        };
        drop(passwords);
        let mut config = inner.config.clone();
        let limit = limit.as_millis();
        // Sent by the client, these win over what the role may have set for itself.
        let options = format!(
            "-c search_path={schema} -c statement_timeout={limit} -c lock_timeout={limit} \
             -c idle_in_transaction_session_timeout={limit} -c default_transaction_read_only=off \
             -c DateStyle=ISO -c TimeZone=UTC -c bytea_output=hex"
        );
        config.user(inner.role(schema)).password(password).application_name("run402-project").options(options);
        connect(&config, &inner.tasks).await
    }
}

impl Session {
    /// Does `work` in this session, within `limit`. When the time is over the session is ended, and with it
    /// whatever was not committed. Cancelling it does the same.
    pub(super) async fn within<T>(
        mut self,
        limit: Duration,
        work: impl AsyncFnOnce(&Client) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        self.is_busy = true;
        let done = tokio::time::timeout(limit + GRACE, work(&self.client)).await;
        match done {
            // By the database itself.
            Ok(Err(DatabaseError::Sql(fault))) if fault.sqlstate.as_deref() == Some("57014") => {
                self.is_busy = false;
                Err(DatabaseError::Timeout(limit.as_millis()))
            }
            Ok(done) => {
                // After an error the rest of an answer may still be on its way.
                self.is_busy = done.is_err();
                done
            }
            Err(_) => {
                self.is_busy = false;
                self.inner.terminate(&self.schema, self.pid).await?;
                Err(DatabaseError::Timeout(limit.as_millis()))
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Without a runtime there is nobody who could still be running anything.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.is_busy && !self.client.is_closed() {
            let (inner, schema, pid) = (Arc::clone(&self.inner), self.schema.clone(), self.pid);
            let end = async move {
                if let Err(error) = inner.terminate(&schema, pid).await {
                    tracing::warn!(%error, "a session of a project could not be ended");
                }
            };
            self.inner.tasks.spawn_on(end, &runtime);
        }
    }
}
