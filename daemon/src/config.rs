//! The configuration: flags and a TOML file become one checked [`Config`].
//!
//! A flag wins over the file, the file over the default. Unknown keys and values out of range are
//! errors that name the key.

use clap::{Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Runs commands of other people's programs in sandboxes, one per project.
#[derive(Debug, Parser)]
#[command(name = "sandboxd", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the HTTP interface until SIGTERM
    Serve(Box<Flags>),
    /// Print the version
    Version,
}

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Flags {
    /// Where to listen: host:port (port 0 picks a free one) or unix:/path; may be repeated [default: 127.0.0.1:7402,
    /// or the sockets of a systemd socket unit alone]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// Where projects, tokens and journals are kept [default: /var/lib/sandboxd as root, else
    /// $XDG_STATE_HOME/sandboxd]
    #[arg(long, env = "SANDBOXD_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// A TOML file with the same settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Further policy files; the shipped ones stay
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// Ask for no token; only with loopback addresses and unix sockets
    #[arg(long)]
    no_auth: bool,
    /// How logs are written to standard error [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// After SIGTERM, how long running commands may take to finish [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    drain: Option<Duration>,
    /// After this long without a run, a project's keeper exits [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    idle: Option<Duration>,
    /// Exit after this long without a run and without a connection [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    idle_exit: Option<Duration>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// What the file says, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    listen: Option<Vec<String>>,
    state: Option<PathBuf>,
    policies: Option<PathBuf>,
    no_auth: Option<bool>,
    log_format: Option<LogFormat>,
    drain: Option<String>,
    idle: Option<String>,
    idle_exit: Option<String>,
    /// Names that callers may use in `Host` besides loopback names and the listen addresses.
    #[serde(default)]
    hosts: Vec<String>,
    /// Web pages that may call, such as `https://ide.example.com`.
    #[serde(default)]
    origins: Vec<String>,
    /// How callers reach this daemon; what preview URLs begin with.
    public_url: Option<String>,
    max_runs: Option<usize>,
    keep_runs: Option<u32>,
}

/// Valid settings; nothing below checks them again.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) listen: Vec<Listen>,
    /// Where sockets that we were started with listen already.
    pub(crate) given: Vec<Listen>,
    /// Absolute; created when missing.
    pub(crate) state: PathBuf,
    pub(crate) policies: Option<PathBuf>,
    pub(crate) auth: Auth,
    pub(crate) log_format: LogFormat,
    pub(crate) drain: Duration,
    pub(crate) idle: Duration,
    pub(crate) idle_exit: Option<Duration>,
    /// Lower case, without port.
    pub(crate) hosts: Vec<String>,
    pub(crate) origins: Vec<String>,
    pub(crate) public_url: Option<String>,
    /// Runs at the same time, of all projects.
    pub(crate) max_runs: usize,
    /// Journals kept per project; older ones are removed.
    pub(crate) keep_runs: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Auth {
    Tokens,
    /// Every caller is an administrator.
    Off,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    Tcp(Vec<SocketAddr>),
    Unix(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the configuration {path} is not valid:\n{source}")]
    Toml { path: PathBuf, source: Box<toml::de::Error> },
    #[error("cannot listen on {address}: {reason}; write host:port or unix:/path")]
    Listen { address: String, reason: String },
    #[error(
        "--no-auth lets everybody who can connect run commands, so it needs loopback addresses or unix sockets only; {address} is neither"
    )]
    OpenToOthers { address: String },
    #[error("no state directory: name one with --state, or set XDG_STATE_HOME or HOME")]
    NoState,
    #[error("{key} in the configuration: {reason}")]
    Value { key: &'static str, reason: String },
}

impl Config {
    /// Reads the file that the flags name and joins both. `given` is where we listen already.
    pub(crate) fn resolve(flags: Flags, given: Vec<Listen>) -> Result<Self, ConfigError> {
        let raw = match &flags.config {
            None => RawConfig::default(),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
                toml::from_str(&text)
                    .map_err(|source| ConfigError::Toml { path: path.clone(), source: Box::new(source) })?
            }
        };
        let root = nix::unistd::geteuid().is_root();
        Self::join(flags, raw, given, default_state(root, |name| std::env::var_os(name).map(PathBuf::from)))
    }

    fn join(
        flags: Flags,
        raw: RawConfig,
        given: Vec<Listen>,
        default_state: Option<PathBuf>,
    ) -> Result<Self, ConfigError> {
        let mut addresses = flags.listen;
        if addresses.is_empty() {
            addresses = raw.listen.unwrap_or_default();
        }
        if addresses.is_empty() && given.is_empty() {
            addresses.push("127.0.0.1:7402".to_owned());
        }
        let listen = addresses.iter().map(|address| Listen::parse(address)).collect::<Result<Vec<_>, _>>()?;
        let no_auth = flags.no_auth || raw.no_auth.unwrap_or(false);
        if no_auth && let Some(open) = listen.iter().chain(&given).find(|listen| !listen.is_local()) {
            return Err(ConfigError::OpenToOthers { address: open.to_string() });
        }
        let state = flags.state.or(raw.state).or(default_state).ok_or(ConfigError::NoState)?;
        Ok(Self {
            listen,
            given,
            state: absolute(&state),
            policies: flags.policies.or(raw.policies).as_deref().map(absolute),
            auth: if no_auth { Auth::Off } else { Auth::Tokens },
            log_format: flags.log_format.or(raw.log_format).unwrap_or_default(),
            drain: duration("drain", flags.drain, raw.drain)?.unwrap_or(Duration::from_secs(10)),
            idle: duration("idle", flags.idle, raw.idle)?.unwrap_or(Duration::from_secs(60)),
            idle_exit: duration("idle_exit", flags.idle_exit, raw.idle_exit)?,
            hosts: raw.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            origins: raw.origins.into_iter().map(check_origin).collect::<Result<_, _>>()?,
            public_url: raw.public_url.map(|url| url.trim_end_matches('/').to_owned()),
            max_runs: match raw.max_runs {
                None => 256,
                Some(runs @ 1..=100_000) => runs,
                Some(_) => return Err(value("max_runs", "must be 1 to 100000")),
            },
            keep_runs: match raw.keep_runs {
                None => 1000,
                Some(0) => return Err(value("keep_runs", "must be at least 1")),
                Some(runs) => runs,
            },
        })
    }
}

impl Listen {
    fn parse(address: &str) -> Result<Self, ConfigError> {
        let invalid = |reason: &str| ConfigError::Listen { address: address.to_owned(), reason: reason.to_owned() };
        if let Some(path) = address.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(invalid("the path is missing"));
            }
            return Ok(Self::Unix(absolute(Path::new(path))));
        }
        let address = address.strip_prefix("http://").unwrap_or(address);
        let resolved: Vec<_> = address.to_socket_addrs().map_err(|error| invalid(&error.to_string()))?.collect();
        if resolved.is_empty() {
            return Err(invalid("the name has no address"));
        }
        Ok(Self::Tcp(resolved))
    }

    /// Whether only this host's users can reach it.
    fn is_local(&self) -> bool {
        match self {
            Self::Tcp(addresses) => addresses.iter().all(|address| address.ip().is_loopback()),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addresses) => {
                let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join(", "))
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn default_state(root: bool, var: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    if root {
        return Some(PathBuf::from("/var/lib/sandboxd"));
    }
    // The base directory specification: a relative path is to be ignored.
    let absolute = |name| var(name).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    base.map(|base| base.join("sandboxd"))
}

fn absolute(path: &Path) -> PathBuf {
    // Fails only for an empty path, which opening will report with its name.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn value(key: &'static str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Value { key, reason: reason.into() }
}

fn duration(key: &'static str, flag: Option<Duration>, raw: Option<String>) -> Result<Option<Duration>, ConfigError> {
    match (flag, raw) {
        (Some(flag), _) => Ok(Some(flag)),
        (None, Some(text)) => parse_duration(&text).map(Some).map_err(|reason| value(key, reason)),
        (None, None) => Ok(None),
    }
}

/// `500ms`, `90s`, `2m`, `1h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("'{text}' is not a time such as 500ms, 90s, 2m or 1h");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)
}

/// An origin is scheme, host and port: RFC 6454.
fn check_origin(origin: String) -> Result<String, ConfigError> {
    let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    match rest {
        Some(host) if !host.is_empty() && !host.contains('/') => Ok(origin.to_ascii_lowercase()),
        _ => Err(value("origins", format!("'{origin}' is not an origin such as https://ide.example.com"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(listen: &[&str], no_auth: bool, toml: &str) -> Result<Config, ConfigError> {
        let flags = Flags { listen: listen.iter().map(|l| (*l).to_owned()).collect(), no_auth, ..Flags::default() };
        Config::join(flags, toml::from_str(toml).expect("valid"), Vec::new(), Some(PathBuf::from("/s")))
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let config = join(&[], false, "").expect("valid");
        assert_eq!(config.listen, [Listen::Tcp(vec!["127.0.0.1:7402".parse().expect("valid")])]);
        assert_eq!(config.drain, Duration::from_secs(10));
        assert_eq!(config.auth, Auth::Tokens);
        assert_eq!((config.max_runs, config.idle_exit), (256, None));
    }

    #[test]
    fn no_auth_needs_local_listeners() {
        assert!(join(&["127.0.0.1:0", "unix:/x", "[::1]:0"], true, "").is_ok());
        assert!(matches!(join(&["127.0.0.1:0", "0.0.0.0:0"], true, ""), Err(ConfigError::OpenToOthers { .. })));
        assert!(join(&["0.0.0.0:0"], false, "").is_ok());
    }

    #[test]
    fn given_sockets_take_the_place_of_the_default_and_count_as_open() {
        let join = |listen: &[&str], no_auth, given: &str| {
            let flags = Flags { listen: listen.iter().map(|l| (*l).to_owned()).collect(), no_auth, ..Flags::default() };
            let given = vec![Listen::parse(given).expect("an address")];
            Config::join(flags, RawConfig::default(), given, Some(PathBuf::from("/s")))
        };
        assert_eq!(join(&[], false, "0.0.0.0:80").expect("valid").listen, []);
        assert_eq!(join(&["unix:/x"], false, "[::1]:80").expect("valid").listen.len(), 1);
        assert!(join(&[], true, "unix:/x").is_ok() && join(&[], true, "127.0.0.1:80").is_ok());
        let error = join(&[], true, "0.0.0.0:80").expect_err("open to others").to_string();
        assert!(error.contains("0.0.0.0:80"), "{error}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let toml = "listen = ['127.0.0.1:1']\ndrain = '2m'\norigins = ['https://A.example']";
        let config = join(&["unix:/x"], false, toml).expect("valid");
        assert_eq!(config.listen, [Listen::Unix(PathBuf::from("/x"))]);
        assert_eq!(config.drain, Duration::from_secs(120));
        assert_eq!(config.origins, ["https://a.example"]);
    }

    #[test]
    fn wrong_values_name_their_key() {
        for (toml, key) in [("drain = '10'", "drain"), ("origins = ['x']", "origins"), ("max_runs = 0", "max_runs")] {
            let error = join(&[], false, toml).expect_err("invalid").to_string();
            assert!(error.starts_with(key), "{error}");
        }
        assert!(toml::from_str::<RawConfig>("listn = []").is_err());
        assert!(matches!(join(&["nonsense"], false, ""), Err(ConfigError::Listen { .. })));
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        for wrong in ["", "10", "s", "-1s", "1.5s", "99999999999999999999s", "9999999999999999h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_state_directory_follows_the_base_directory_specification() {
        let state = |xdg: &'static str, home: &'static str| {
            default_state(false, move |name| Some(PathBuf::from(if name == "HOME" { home } else { xdg })))
        };
        assert_eq!(state("/x", "/h"), Some(PathBuf::from("/x/sandboxd")));
        assert_eq!(state("x", "/h"), Some(PathBuf::from("/h/.local/state/sandboxd")));
        assert_eq!(state("x", "h"), None);
    }
}
