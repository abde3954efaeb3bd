//! A local server of the run402 API, with real storage.
//!
//! Plans, contents, releases, operations that survive a crash, secrets, names, sites: what a client of the
//! API can do with the vendor's gateway on the deploy family, it can do with this one, on this machine,
//! without an account. `edges (api, serve) -> Gateway -> store, contents`.

mod api;
mod assets;
mod auth;
mod content;
pub mod database;
mod deploy;
mod error;
mod fault;
mod functions;
mod gateway;
mod ids;
mod release;
mod rules;
mod serve;
pub mod slices;
mod sparse;
mod spec;
mod store;
mod tables;
mod warnings;

pub use functions::{
    CODE_FOLDER, Ended, FunctionRunner, Installation, Invocation, PACKAGES_FOLDER, REPLY_LIMIT_BYTES, RunnerError,
    SOCKET_FOLDER,
};
pub use gateway::{Config, Gateway, OpenError};
pub use tables::Tables;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves until `shutdown`; requests that are being answered are finished.
pub async fn run(listener: TcpListener, gateway: Gateway, shutdown: CancellationToken) -> std::io::Result<()> {
    gateway.listen_on(listener.local_addr()?);
    gateway.recover().await;
    gateway.open_ports(&shutdown).await;
    gateway.keep_swept(&shutdown);
    let router = api::router(gateway.clone(), shutdown.clone());
    gateway.open_socket(router.clone(), &shutdown)?;
    let schedules = gateway.clone();
    let until = shutdown.clone();
    gateway.tasks().spawn(async move { schedules.keep_schedules(until).await });
    let stopped = shutdown.clone();
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream: &mut tokio::net::TcpStream| {
        // Small answers are not held back; one that cannot be set is only slower.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).with_graceful_shutdown(async move { stopped.cancelled().await }).await?;
    gateway.tasks().close();
    gateway.tasks().wait().await;
    Ok(())
}
