//! Tells the service manager, if there is one, how far this daemon is: sd_notify(3).

use sd_notify::NotifyState;
use std::time::Duration;

/// Requests are answered from now on.
pub(crate) fn ready(urls: &[String]) {
    send(&[NotifyState::Ready, NotifyState::Status(&format!("listening on {}", urls.join(", ")))]);
}

/// This daemon ends, and needs at most this long for it.
pub(crate) fn stopping(at_most: Duration) {
    let at_most = u32::try_from(at_most.as_micros()).unwrap_or(u32::MAX);
    send(&[NotifyState::Stopping, NotifyState::Status("stopping"), NotifyState::ExtendTimeoutUsec(at_most)]);
}

/// Without a service manager it does nothing; one that does not hear us will notice our end.
fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
