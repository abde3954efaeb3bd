//! A run that ends with whoever waits for it.

use crate::projects::Entry;
use crate::service::Service;
use sandbox_keeper::api::KillCause;
use sandbox_wire::RunId;
use std::sync::Arc;

/// Kills the run of a caller who went away before its end.
#[derive(Debug)]
pub(crate) struct KillOnDrop {
    service: Arc<Service>,
    entry: Arc<Entry>,
    run: RunId,
    armed: bool,
}

impl KillOnDrop {
    pub(crate) fn new(service: &Arc<Service>, entry: &Arc<Entry>, run: &RunId) -> Self {
        Self { service: Arc::clone(service), entry: Arc::clone(entry), run: run.clone(), armed: true }
    }

    /// The caller has the result, or may ask for it later: the run ends by itself.
    pub(crate) fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if !self.armed || self.service.leaving() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (entry, run) = (Arc::clone(&self.entry), self.run.clone());
        let kill = async move {
            // Gone or unknown is as good as killed; the run's end is awaited elsewhere.
            if let Err(error) = entry.keeper.kill(&run, KillCause::Caller).await {
                tracing::debug!(%run, %error, "the run of a caller who went away was not killed");
            }
        };
        self.service.tasks.spawn_on(kill, &runtime);
    }
}
