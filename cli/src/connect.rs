//! Which daemon to talk to, and with which token.
//!
//! What is named is used. With nothing named: the daemon on the default address, when its token is
//! readable here; else the daemon of this user's state directory; else a new one. A token goes only
//! to a listener of root's or of this user's.

use crate::args::Globals;
use crate::client::{Client, Endpoint};
use crate::daemon;
use crate::failure::Failure;
use crate::state::{Running, StateDir, listens};
use sandbox_wire::Health;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Where `sandboxd serve` listens when it is not told otherwise.
const DEFAULT_ADDRESS: &str = "127.0.0.1:7402";
const DEFAULT_URL: &str = "http://127.0.0.1:7402";
/// A daemon on this computer answers at once, or is not one.
const HEALTH_TIME: Duration = Duration::from_secs(2);

/// The daemon; started when none is named and none is there.
pub(crate) async fn client(globals: &Globals) -> Result<Client, Failure> {
    if let Some(client) = existing(globals).await? {
        return Ok(client);
    }
    let state = StateDir::open(globals.state.as_deref()).map_err(daemon::StartError::from)?;
    let socket = daemon::ensure(&state)?;
    Ok(Client::new(Endpoint::Unix(socket), state.token().as_deref())?)
}

/// The daemon, when one is named or there; starts nothing.
pub(crate) async fn existing(globals: &Globals) -> Result<Option<Client>, Failure> {
    let url = globals.url.as_deref().filter(|url| !url.is_empty());
    let token = globals.token.as_ref().map(|token| token.0.as_str()).filter(|token| !token.is_empty());
    if url.is_some() || token.is_some() {
        return named(globals, url.unwrap_or(DEFAULT_URL), token).map(Some);
    }
    if globals.state.is_none()
        && let Some(client) = on_default_address().await?
    {
        return Ok(Some(client));
    }
    match StateDir::existing(globals.state.as_deref()) {
        Some(state) => of_state(&state).await,
        None => Ok(None),
    }
}

/// The daemon that flags or environment name; its token is looked up when it is this user's own.
fn named(globals: &Globals, url: &str, token: Option<&str>) -> Result<Client, Failure> {
    let endpoint = Endpoint::parse(url)?;
    let token = token.map(str::to_owned).or_else(|| own_token(globals, &endpoint));
    Ok(Client::new(endpoint, token.as_deref())?)
}

fn own_token(globals: &Globals, endpoint: &Endpoint) -> Option<String> {
    let state = StateDir::existing(globals.state.as_deref())?;
    match endpoint {
        Endpoint::Unix(path) if owned(path) => {
            let beside = path.parent().and_then(|folder| StateDir::existing(Some(folder)));
            beside.and_then(|beside| beside.token()).or_else(|| {
                let socket = state.socket().ok();
                if socket.as_deref() == Some(path) { state.token() } else { None }
            })
        }
        Endpoint::Unix(_) => None,
        Endpoint::Http(url) => {
            let ip: IpAddr = url.host_str()?.parse().ok()?;
            let address = SocketAddr::new(ip, url.port_or_known_default()?);
            let ours = state.running().is_some_and(|running| names(&running, address));
            if ours && ip.is_loopback() && crate::listener::is_trusted(address) { state.token() } else { None }
        }
    }
}

/// The daemon on 127.0.0.1:7402, when it is trusted and its token is readable here.
async fn on_default_address() -> Result<Option<Client>, Failure> {
    let address: SocketAddr = DEFAULT_ADDRESS.parse().expect("a literal address parses");
    if !crate::listener::is_trusted(address) {
        return Ok(None);
    }
    let states = StateDir::existing(None).into_iter().chain([StateDir::system()]);
    for state in states {
        // A daemon of another state directory has another token.
        let its_own = match state.running() {
            Some(running) => names(&running, address),
            None => !state.path().join("daemon.json").exists(),
        };
        if let (true, Some(token)) = (its_own, state.token()) {
            let client = Client::new(Endpoint::parse(DEFAULT_URL)?, Some(&token))?;
            if is_sandboxd(&Client::new(Endpoint::parse(DEFAULT_URL)?, None)?).await {
                return Ok(Some(client));
            }
        }
    }
    Ok(None)
}

/// The daemon that has this state directory: on the socket where we start one, or where it says.
async fn of_state(state: &StateDir) -> Result<Option<Client>, Failure> {
    let socket = state.socket().map_err(daemon::StartError::from)?;
    if listens(&socket) {
        // Read only now: a daemon that is starting makes its token before it listens.
        return Ok(Some(Client::new(Endpoint::Unix(socket), state.token().as_deref())?));
    }
    let listeners = state.running().map(|running| running.listeners).unwrap_or_default();
    for endpoint in listeners.iter().filter_map(|text| Endpoint::parse(&from_here(text)).ok()) {
        let trusted = match &endpoint {
            Endpoint::Unix(path) => owned(path) && listens(path),
            Endpoint::Http(_) => match address(&endpoint) {
                Some(address) => {
                    crate::listener::is_trusted(address) && is_sandboxd(&Client::new(endpoint.clone(), None)?).await
                }
                None => false,
            },
        };
        if trusted {
            return Ok(Some(Client::new(endpoint, state.token().as_deref())?));
        }
    }
    Ok(None)
}

/// Where to reach a listener on this host: one on all addresses, on loopback.
fn from_here(listener: &str) -> String {
    match listener.strip_prefix("http://").and_then(|address| address.parse::<SocketAddr>().ok()) {
        Some(SocketAddr::V4(address)) if address.ip().is_unspecified() => {
            format!("http://127.0.0.1:{}", address.port())
        }
        Some(SocketAddr::V6(address)) if address.ip().is_unspecified() => format!("http://[::1]:{}", address.port()),
        _ => listener.to_owned(),
    }
}

/// The loopback address of an endpoint.
fn address(endpoint: &Endpoint) -> Option<SocketAddr> {
    match endpoint {
        Endpoint::Http(url) => {
            let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
            let ip: IpAddr = host.parse().ok()?;
            ip.is_loopback().then_some(SocketAddr::new(ip, url.port_or_known_default()?))
        }
        Endpoint::Unix(_) => None,
    }
}

/// Whether the daemon says that it listens at this address, or at all addresses with its port.
fn names(running: &Running, address: SocketAddr) -> bool {
    running.listeners.iter().any(|listener| {
        let bound = listener.trim_start_matches("http://").trim_end_matches('/').parse::<SocketAddr>();
        bound.is_ok_and(|bound| {
            bound.port() == address.port() && (bound.ip() == address.ip() || bound.ip().is_unspecified())
        })
    })
}

/// Whether a socket's file belongs to root or to this user.
fn owned(path: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    std::fs::metadata(path).is_ok_and(|metadata| metadata.uid() == 0 || metadata.uid() == own)
}

async fn is_sandboxd(client: &Client) -> bool {
    health(client).await.is_some_and(|health| health.service == "sandboxd")
}

/// What the daemon says of itself, when it answers soon.
pub(crate) async fn health(client: &Client) -> Option<Health> {
    tokio::time::timeout(HEALTH_TIME, client.get("/healthz")).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_loopback() {
        assert_eq!(from_here("http://0.0.0.0:7402"), "http://127.0.0.1:7402");
        assert_eq!(from_here("http://[::]:7402"), "http://[::1]:7402");
        assert_eq!(from_here("http://10.0.0.1:7402"), "http://10.0.0.1:7402");
        assert_eq!(from_here("unix:/run/s.sock"), "unix:/run/s.sock");
    }

    #[test]
    fn a_daemon_on_all_addresses_is_on_this_one() {
        let running = |listener: &str| Running { pid: 1, listeners: vec![listener.to_owned()] };
        let address: SocketAddr = "127.0.0.1:7402".parse().expect("an address");
        for yes in ["http://127.0.0.1:7402", "http://0.0.0.0:7402", "127.0.0.1:7402", "http://[::]:7402/"] {
            assert!(names(&running(yes), address), "{yes}");
        }
        for no in ["http://127.0.0.1:7403", "unix:/run/s.sock", "http://127.0.0.2:7402"] {
            assert!(!names(&running(no), address), "{no}");
        }
    }

    #[test]
    fn only_loopback_listeners_are_used_by_themselves() {
        let of = |text: &str| address(&Endpoint::parse(text).expect("parses"));
        assert_eq!(of("http://127.0.0.1:7402"), "127.0.0.1:7402".parse().ok());
        assert_eq!(of("http://[::1]:80"), "[::1]:80".parse().ok());
        assert_eq!(of("http://192.0.2.1:7402"), None);
        assert_eq!(of("unix:/run/s.sock"), None);
    }
}
