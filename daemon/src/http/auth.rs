//! Who may talk to this daemon: `Host`, `Origin`, bearer tokens. Pure but for the look-up of a token.
//!
//! A page in a browser can send requests to loopback addresses. It cannot choose `Host` (a name that it
//! rebinds to us is not ours, so it is refused) nor hide `Origin` (refused unless configured); and it has
//! no token.

use super::problem::unauthorized;
use crate::config::{Auth, Config, Listen};
use crate::tokens::{Caller, Tokens};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, HOST, ORIGIN,
    VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use sandbox_wire::{Code, Problem};
use std::net::IpAddr;

/// How a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    /// Only programs of this host can connect, and no browser does.
    Unix,
}

/// What is asked of each request before anything else.
#[derive(Debug)]
pub(crate) struct Gate {
    auth: Auth,
    /// Names and addresses that `Host` may say, without port.
    hosts: Vec<String>,
    /// Listens on all addresses of the host, so any address may be meant.
    any_address: bool,
    origins: Vec<String>,
}

impl Gate {
    pub(crate) fn new(config: &Config) -> Self {
        let mut hosts = config.hosts.clone();
        let mut any_address = false;
        for listen in config.listen.iter().chain(&config.given) {
            let Listen::Tcp(addresses) = listen else { continue };
            for address in addresses {
                any_address |= address.ip().is_unspecified();
                hosts.push(address.ip().to_string());
            }
        }
        Self { auth: config.auth, hosts, any_address, origins: config.origins.clone() }
    }

    /// Refused when the request was meant for somebody else, or a page that is not configured sent it.
    pub(crate) fn check_source(&self, transport: Transport, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        if transport == Transport::Tcp {
            let in_uri = uri.authority().map(|authority| authority.as_str());
            let in_header = headers.get(HOST).map(|host| host.to_str().unwrap_or_default());
            let named = [in_uri, in_header];
            if named.iter().all(Option::is_none) || !named.into_iter().flatten().all(|host| self.knows_host(host)) {
                let said: String = in_header.or(in_uri).unwrap_or_default().chars().take(255).collect();
                return Err(Problem::new(Code::HostNotAllowed, "the header Host names a host that this daemon is not")
                    .with("host", said)
                    .next("call it by its address, or add the name to `hosts` in its configuration"));
            }
        }
        match headers.get(ORIGIN) {
            Some(origin) if self.allowed_origin(origin).is_none() && !is_own(origin, uri, headers) => {
                Err(Problem::new(Code::OriginNotAllowed, "pages of this origin may not call this daemon")
                    .with("origin", String::from_utf8_lossy(origin.as_bytes()).into_owned())
                    .next("add the origin to `origins` in the daemon's configuration"))
            }
            _ => Ok(()),
        }
    }

    /// The caller whose token the request carries.
    pub(crate) fn caller(&self, headers: &HeaderMap, tokens: &Tokens) -> Result<Caller, Problem> {
        if self.auth == Auth::Off {
            return Ok(Caller::anybody());
        }
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(header), None) = (given.next(), given.next()) else {
            return Err(unauthorized(self.auth, false));
        };
        bearer(header).and_then(|token| tokens.caller(token)).ok_or_else(|| unauthorized(self.auth, true))
    }

    fn knows_host(&self, host: &str) -> bool {
        let name = without_port(host);
        if name.eq_ignore_ascii_case("localhost") || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return true;
        }
        match name.parse::<IpAddr>() {
            // An address cannot be rebound; any is ours that reaches us.
            Ok(address) => address.is_loopback() || self.any_address,
            Err(_) => false,
        }
    }

    fn allowed_origin<'a>(&self, origin: &'a HeaderValue) -> Option<&'a HeaderValue> {
        let text = origin.to_str().ok()?;
        self.origins.iter().any(|known| known.eq_ignore_ascii_case(text)).then_some(origin)
    }

    /// Whether a browser asks if a page may call: answered without a token, which it does not send.
    pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
        *method == Method::OPTIONS
            && headers.contains_key(ORIGIN)
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// Lets the page read the answer, when its origin is configured.
    pub(crate) fn allow_origin(&self, origin: Option<&HeaderValue>, preflight: bool, answer: &mut HeaderMap) {
        let Some(origin) = origin.and_then(|origin| self.allowed_origin(origin)) else { return };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.append(VARY, HeaderValue::from_static("Origin"));
        let exposed = "x-request-id, x-next-offset, x-run-status, retry-after";
        answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(exposed));
        if preflight {
            let methods = "GET, HEAD, POST, PUT, PATCH, DELETE";
            answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
            let headers = "authorization, content-type, accept, last-event-id, x-request-id";
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(headers));
            answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
    }
}

/// A page that this very daemon has served: from the address to which it sends its request, whose host was checked.
fn is_own(origin: &HeaderValue, uri: &Uri, headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).map(HeaderValue::as_bytes);
    let host = host.or_else(|| uri.authority().map(|authority| authority.as_str().as_bytes()));
    host.is_some_and(|host| !host.is_empty() && origin.as_bytes().strip_prefix(b"http://") == Some(host))
}

/// The token of `Bearer <token>`; the scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(header: &HeaderValue) -> Option<&str> {
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// `name`, `1.2.3.4` or the inside of `[::1]`.
fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    match host.split_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(any_address: bool) -> Gate {
        Gate {
            auth: Auth::Tokens,
            hosts: vec!["10.1.2.3".to_owned(), "sandbox.example.com".to_owned()],
            any_address,
            origins: vec!["https://ide.example.com".to_owned()],
        }
    }

    fn check(gate: &Gate, transport: Transport, uri: &str, headers: &[(&str, &str)]) -> Option<Code> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: axum::http::HeaderName = name.parse().expect("a header's name");
            map.append(name, HeaderValue::from_str(value).expect("a header's value"));
        }
        let uri: Uri = uri.parse().expect("a URI");
        gate.check_source(transport, &uri, &map).err().map(|problem| problem.code)
    }

    #[test]
    fn only_our_own_names_are_answered() {
        let gate = gate(false);
        let host = |host: &str| check(&gate, Transport::Tcp, "/", &[("host", host)]);
        for good in [
            "localhost",
            "LOCALHOST:7402",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:7402",
            "10.1.2.3:7402",
            "Sandbox.example.com",
        ] {
            assert_eq!(host(good), None, "{good}");
        }
        for bad in
            ["evil.example", "localhost.evil.example", "10.1.2.4", "", "127.0.0.1.nip.example", "localhost:x", "[::2]"]
        {
            assert_eq!(host(bad), Some(Code::HostNotAllowed), "{bad}");
        }
        assert_eq!(check(&gate, Transport::Tcp, "/", &[]), Some(Code::HostNotAllowed));
        let both = check(&gate, Transport::Tcp, "http://evil.example/", &[("host", "localhost")]);
        assert_eq!(both, Some(Code::HostNotAllowed));
        assert_eq!(check(&gate, Transport::Unix, "/", &[("host", "anything")]), None);
        assert_eq!(check(&gate, Transport::Unix, "/", &[]), None);
    }

    #[test]
    fn a_listener_on_all_addresses_answers_to_any_address_but_no_name() {
        let gate = gate(true);
        assert_eq!(check(&gate, Transport::Tcp, "/", &[("host", "192.0.2.7:7402")]), None);
        assert_eq!(check(&gate, Transport::Tcp, "/", &[("host", "evil.example")]), Some(Code::HostNotAllowed));
    }

    #[test]
    fn only_configured_pages_may_call() {
        let gate = gate(false);
        let origin = |origin: &str| check(&gate, Transport::Tcp, "/", &[("host", "localhost"), ("origin", origin)]);
        assert_eq!(origin("https://ide.example.com"), None);
        for bad in ["https://evil.example", "null", "http://ide.example.com", "http://localhost:7402"] {
            assert_eq!(origin(bad), Some(Code::OriginNotAllowed), "{bad}");
        }
        // Its own, from the very address that it was served at.
        let own = [("host", "localhost:7402"), ("origin", "http://localhost:7402")];
        assert_eq!(check(&gate, Transport::Tcp, "/", &own), None);
        let rebound = [("host", "evil.example"), ("origin", "http://evil.example")];
        assert_eq!(check(&gate, Transport::Tcp, "/", &rebound), Some(Code::HostNotAllowed));
        let unix = check(&gate, Transport::Unix, "/", &[("origin", "https://evil.example")]);
        assert_eq!(unix, Some(Code::OriginNotAllowed));
    }

    #[test]
    fn one_bearer_token_is_taken() {
        let (gate, tokens) = (gate(false), Tokens::default());
        let row = crate::index::tokens::TokenRow {
            id: "tok_1".to_owned(),
            hash: crate::tokens::hash("sbx_good"),
            name: String::new(),
            scopes: vec![sandbox_wire::Scope::Run],
            projects: None,
            created_at_ms: 0,
        };
        tokens.insert(row);
        let call = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_str(value).expect("a value"));
            }
            gate.caller(&headers, &tokens)
        };
        assert!(call(&["Bearer sbx_good"]).is_ok() && call(&["bearer  sbx_good"]).is_ok());
        for bad in [&[][..], &["Bearer sbx_bad"], &["Basic sbx_good"], &["sbx_good"], &["Bearer sbx_good", "Bearer x"]]
        {
            assert_eq!(call(bad).expect_err("refused").code, Code::Unauthorized, "{bad:?}");
        }
    }
}
