//! Listening sockets and the connections on them.
//!
//! Input: addresses, or sockets that listen already, and a router; output: lines that say where we listen, and answered requests. HTTP/1.1
//! with keep-alive. A head that does not come in time ends the connection; so does an idle one after the
//! same time.

use crate::activation::Given;
use crate::config::Listen;
use crate::http::Transport;
use crate::metrics::Metrics;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// For the head of a request, and between two requests.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// What the parser takes; [`crate::http`] answers properly to much less.
const MAX_PARSED_HEADERS: usize = 1024;
/// Room for a head; also the size of one read of a body.
const BUFFER_BYTES: usize = 256 << 10;
/// Descriptors that connections leave for journals, keepers and the index.
const RESERVED_DESCRIPTORS: u64 = 256;
/// When the process has no descriptor left, before the next attempt.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("cannot listen on {address}")]
    Bind { address: String, source: io::Error },
    #[error("cannot listen on {}: another process listens there", path.display())]
    Taken { path: PathBuf },
    #[error("cannot listen on {}: it is there and not a socket", path.display())]
    NotASocket { path: PathBuf },
}

/// A bound socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        path: PathBuf,
        /// We made it, so we remove it, on drop.
        ours: bool,
    },
}

impl Listener {
    pub(crate) async fn bind(listen: &Listen) -> Result<Self, ListenError> {
        match listen {
            Listen::Tcp(addresses) => {
                let listener = TcpListener::bind(&addresses[..]).await;
                let address = addresses.first().map(ToString::to_string).unwrap_or_default();
                listener.map(Self::Tcp).map_err(|source| ListenError::Bind { address, source })
            }
            Listen::Unix(path) => bind_unix(path),
        }
    }

    /// Takes over a socket that listens. Whoever made it also removes it, if anybody.
    pub(crate) fn adopt(given: Given) -> Result<Self, ListenError> {
        let address = given.address().to_string();
        let listener = match given {
            Given::Tcp(listener, _) => TcpListener::from_std(listener).map(Self::Tcp),
            Given::Unix(listener, path) => {
                UnixListener::from_std(listener).map(|listener| Self::Unix { listener, path, ours: false })
            }
        };
        listener.map_err(|source| ListenError::Bind { address, source })
    }

    /// `http://127.0.0.1:7402`, `unix:/path`.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("http://{address}"),
                Err(error) => format!("http://unknown ({error})"),
            },
            Self::Unix { path, .. } => format!("unix:{}", path.display()),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix { path, ours: true, .. } = self {
            // Somebody may have removed it before; a socket left behind is taken over by the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Takes the place of a socket on which nobody listens any more.
fn bind_unix(path: &Path) -> Result<Listener, ListenError> {
    let failed = |source| ListenError::Bind { address: format!("unix:{}", path.display()), source };
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(ListenError::Taken { path: path.to_owned() }),
            Err(_) => std::fs::remove_file(path).map_err(failed)?,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(Listener::Unix { listener, path: path.to_owned(), ours: true })
}

/// What all listeners have in common.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) router: Router,
    pub(crate) metrics: Arc<Metrics>,
    /// Connections that may be open.
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    /// No new connections; open ones end after the request that they are at.
    stop: CancellationToken,
}

impl Server {
    pub(crate) fn new(router: Router, metrics: Arc<Metrics>, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let descriptors = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        let soft = descriptors.map_or(1024, |(soft, _)| soft);
        // Each connection may follow a journal and watch a keeper.
        let connections = (soft.saturating_sub(RESERVED_DESCRIPTORS) / 3).clamp(64, 100_000);
        let places = Semaphore::new(usize::try_from(connections).unwrap_or(64));
        Self { router, metrics, places: Arc::new(places), tasks, stop }
    }

    /// Accepts until told to stop.
    pub(crate) async fn serve(self, listener: Listener) {
        loop {
            let place = tokio::select! {
                place = Arc::clone(&self.places).acquire_owned() => place,
                () = self.stop.cancelled() => return,
            };
            let Ok(place) = place else { return };
            let accepted = tokio::select! {
                accepted = accept(&listener) => accepted,
                () = self.stop.cancelled() => return,
            };
            let connection = match accepted {
                Ok(connection) => connection,
                Err(error) => {
                    // Of a single connection, or for want of descriptors: neither is a reason to end.
                    tracing::debug!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let server = self.clone();
            self.metrics.connections_accepted.fetch_add(1, Relaxed);
            self.metrics.connections_open.fetch_add(1, Relaxed);
            self.tasks.spawn(async move {
                match connection {
                    Connection::Tcp(stream) => server.answer(stream, Transport::Tcp).await,
                    Connection::Unix(stream) => server.answer(stream, Transport::Unix).await,
                }
                server.metrics.connections_open.fetch_sub(1, Relaxed);
                drop(place);
            });
        }
    }

    async fn answer<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S, transport: Transport) {
        let service = service_fn(|request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(transport);
            self.router.clone().oneshot(request)
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_headers(MAX_PARSED_HEADERS)
            .max_buf_size(BUFFER_BYTES);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke");
        }
    }
}

enum Connection {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

async fn accept(listener: &Listener) -> io::Result<Connection> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            // Small answers must not wait for acknowledgements.
            stream.set_nodelay(true)?;
            Ok(Connection::Tcp(stream))
        }
        Listener::Unix { listener, .. } => Ok(Connection::Unix(listener.accept().await?.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_was_given_is_not_removed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("s.sock");
        let socket = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        socket.set_nonblocking(true).expect("a flag");
        let listener = Listener::adopt(Given::Unix(socket, path.clone())).expect("it listens");
        assert_eq!(listener.url(), format!("unix:{}", path.display()));
        drop(listener);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_dead_socket_is_taken_over_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("s.sock");
        let listen = Listen::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let live = Listener::bind(&listen).await.expect("taken over");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(matches!(Listener::bind(&listen).await, Err(ListenError::Taken { .. })));
        drop(live);
        assert!(!path.exists());
        std::fs::write(&path, "x").expect("written");
        assert!(matches!(Listener::bind(&listen).await, Err(ListenError::NotASocket { .. })));
    }
}
