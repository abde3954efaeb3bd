//! Sockets that a service manager opened for us: sd_listen_fds(3).
//!
//! Input: `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES` and the descriptors from 3 on; output: listening
//! sockets. All of them are usable or the start fails: one that nobody serves would let callers wait for
//! ever, and it would be open in every keeper.

use crate::config::Listen;
use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

/// What a service manager tells this process and no other; see also sd_notify(3). Not for children.
pub(crate) const VARIABLES: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET"];

/// A socket that listens already. Whoever opened it also removes it.
#[derive(Debug)]
pub(crate) enum Given {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, PathBuf),
}

#[derive(Debug, thiserror::Error)]
#[error("the socket {name} that this process was started with cannot be used: {reason}")]
pub(crate) struct ActivationError {
    /// As the service manager calls it, such as `sandboxd.socket`.
    name: String,
    reason: String,
}

impl Given {
    /// The sockets meant for this process, none when there are none. To be called once, while this process
    /// has a single thread: the variables are removed.
    pub(crate) fn take() -> Result<Vec<Self>, ActivationError> {
        // Without it the variables may be an ancestor's, and the descriptors anything.
        if std::env::var_os("LISTEN_PID").is_none() {
            return Ok(Vec::new());
        }
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut sockets = ListenFd::from_env();
        (0..sockets.len()).map(|at| Self::take_one(&mut sockets, at, &name(&names, at))).collect()
    }

    fn take_one(sockets: &mut ListenFd, at: usize, name: &str) -> Result<Self, ActivationError> {
        let unusable = |reason: String| ActivationError { name: name.to_owned(), reason };
        let given = match sockets.take_tcp_listener(at) {
            Ok(Some(listener)) => Self::tcp(listener),
            // Not TCP: its turn comes again.
            _ => match sockets.take_unix_listener(at) {
                Ok(Some(listener)) => Self::unix(listener),
                _ => return Err(unusable("it is neither a TCP nor a unix stream socket".to_owned())),
            },
        };
        given.map_err(|error| unusable(error.to_string()))
    }

    fn tcp(listener: TcpListener) -> io::Result<Self> {
        prepare(&listener, TcpListener::set_nonblocking)?;
        let address = listener.local_addr()?;
        Ok(Self::Tcp(listener, address))
    }

    fn unix(listener: UnixListener) -> io::Result<Self> {
        prepare(&listener, UnixListener::set_nonblocking)?;
        match listener.local_addr()?.as_pathname().map(PathBuf::from) {
            Some(path) => Ok(Self::Unix(listener, path)),
            None => Err(io::Error::other("it has no path, so that anybody may connect; give it one")),
        }
    }

    /// The address, as if it had been configured.
    pub(crate) fn address(&self) -> Listen {
        match self {
            Self::Tcp(_, address) => Listen::Tcp(vec![*address]),
            Self::Unix(_, path) => Listen::Unix(path.clone()),
        }
    }
}

/// It listens, and a caller that has gone away before we accept does not hold us up.
fn prepare<S: AsFd>(socket: &S, set_nonblocking: fn(&S, bool) -> io::Result<()>) -> io::Result<()> {
    if !socket_acceptconn(socket)? {
        return Err(io::Error::other("it does not listen; in a socket unit, write Accept=no"));
    }
    set_nonblocking(socket, true)
}

/// The name of a descriptor; they are separated by colons.
fn name(names: &str, at: usize) -> String {
    match names.split(':').nth(at) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => format!("number {}", at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_have_names_or_numbers() {
        assert_eq!(name("api.socket:local", 1), "local");
        assert_eq!(name("api.socket::x", 1), "number 2");
        assert_eq!(name("", 0), "number 1");
        assert_eq!(name("a", 7), "number 8");
    }

    #[test]
    fn listening_sockets_are_taken_with_their_address() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = tcp.local_addr().expect("it has one");
        let given = Given::tcp(tcp).expect("it listens");
        assert_eq!(given.address(), Listen::Tcp(vec![address]));
        let Given::Tcp(tcp, _) = given else { panic!("{given:?}") };
        assert_eq!(tcp.accept().expect_err("nobody connects").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_unix_socket_needs_a_path() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("s.sock");
        let given = Given::unix(UnixListener::bind(&path).expect("bound")).expect("it listens");
        assert_eq!(given.address(), Listen::Unix(path.clone()));
        drop(given);
        assert!(path.exists(), "it is not ours to remove");
        use std::os::linux::net::SocketAddrExt;
        let hidden = std::os::unix::net::SocketAddr::from_abstract_name("sandboxd-test").expect("short");
        let error = Given::unix(UnixListener::bind_addr(&hidden).expect("bound")).expect_err("no path");
        assert!(error.to_string().contains("path"), "{error}");
    }

    #[test]
    fn a_socket_that_does_not_listen_is_refused() {
        use std::os::fd::OwnedFd;
        let (one, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let error = Given::unix(UnixListener::from(OwnedFd::from(one))).expect_err("it is connected");
        assert!(error.to_string().contains("Accept=no"), "{error}");
    }
}
