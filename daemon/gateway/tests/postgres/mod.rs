//! A PostgreSQL server of a test's own, and the gateway's way to it.

use run402_gateway::database::{Database, Limits};
use sandbox_tests::postgres::Postgres;

#[derive(Debug)]
pub(crate) struct Server(Postgres);

impl Server {
    pub(crate) fn start() -> Self {
        Self(Postgres::start())
    }

    pub(crate) async fn database(&self, limits: Limits) -> Database {
        Database::with_limits(&self.0.url(), limits).await.expect("it takes connections")
    }
}
