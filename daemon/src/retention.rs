//! Old runs: beyond the newest `keep_runs` of a project, journals and rows are removed.

use crate::service::{Error, Service};
use crate::tree;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(600);

/// Removes what is too old, again and again, until told to stop.
pub(crate) async fn keep_tidy(service: Arc<Service>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        if let Err(error) = sweep(&service).await {
            tracing::warn!(%error, "cannot remove old runs");
        }
    }
}

async fn sweep(service: &Arc<Service>) -> Result<(), Error> {
    for entry in service.registry.all() {
        for run in service.index.surplus(entry.id, service.config.keep_runs).await? {
            let dir = entry.run_dir(&run);
            // The journal first: a row without a journal still tells how the run ended.
            let removed = tokio::task::spawn_blocking(move || tree::remove(&dir)).await.map_err(Error::internal)?;
            removed.map_err(|source| Error::Disk { what: "cannot remove an old journal", source })?;
            service.index.forget_run(run).await?;
        }
    }
    Ok(())
}
