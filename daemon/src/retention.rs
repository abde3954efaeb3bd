//! Old runs: beyond the newest `keep_runs` of a project, journals and rows are removed.

use crate::service::{Error, Service};
use crate::tree;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How many ticks pass between two sweeps: ten minutes.
const TICKS: u32 = 40;
/// Shorter than any time limit of a connection. While a timer that is due earlier is there, setting such a
/// limit does not wake the thread that waits for timers, which would cost each request two system calls.
const TICK: Duration = Duration::from_secs(15);

/// Removes what is too old, again and again, until told to stop.
pub(crate) async fn keep_tidy(service: Arc<Service>, stop: CancellationToken) {
    let mut ticks = 0_u32;
    while stop.run_until_cancelled(tokio::time::sleep(TICK)).await.is_some() {
        ticks = (ticks + 1) % TICKS;
        if ticks != 0 {
            continue;
        }
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
