//! What `[network] allow` may name.
//!
//! Input: one entry as written; output: [`EgressRule`], a registry group or a host pattern with an
//! optional port. Host names follow RFC 1123 section 2.1. Nothing is looked up here.

use std::fmt;
use std::str::FromStr;

/// One destination that commands may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EgressRule {
    /// The registries that the host's own tools are configured for.
    Group(RegistryGroup),
    /// A name; with `below`, all names that end in `.name`. Every port when none is given.
    Host { below: bool, name: String, port: Option<u16> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryGroup {
    Npm,
    Pypi,
    Crates,
    Debian,
}

/// Why a text is not an entry of `allow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EgressFault {
    #[error("names an unknown group")]
    UnknownGroup,
    #[error("is a URL, not a host name")]
    Url,
    #[error("has an invalid port")]
    Port,
    #[error("is an address, not a name")]
    Address,
    #[error("is not a host name")]
    Name,
    #[error("has a `*` that is not the whole first part of the name")]
    Wildcard,
}

impl EgressFault {
    pub(crate) fn fix(self) -> &'static str {
        match self {
            Self::UnknownGroup => "the groups are @npm, @pypi, @crates and @debian",
            Self::Url => "write the host name alone, such as \"example.com:443\"",
            Self::Port => "write a port from 1 to 65535 after the colon, or none",
            Self::Address => "write the host's name; addresses are checked after it is looked up",
            Self::Name => "write a name such as \"api.example.com\" or \"*.example.com:443\"",
            Self::Wildcard => "write \"*.example.com\" for all names below example.com",
        }
    }
}

impl FromStr for EgressRule {
    type Err = EgressFault;
    fn from_str(text: &str) -> Result<Self, EgressFault> {
        if let Some(group) = text.strip_prefix('@') {
            return RegistryGroup::ALL
                .into_iter()
                .find(|known| known.name() == group)
                .map(Self::Group)
                .ok_or(EgressFault::UnknownGroup);
        }
        if text.contains('/') {
            return Err(EgressFault::Url);
        }
        if text.parse::<std::net::IpAddr>().is_ok() || text.starts_with('[') {
            return Err(EgressFault::Address);
        }
        let (host, port) = match text.split_once(':') {
            None => (text, None),
            Some((host, port)) => match port.parse::<u16>() {
                Ok(number) if number != 0 && port.bytes().all(|b| b.is_ascii_digit()) => (host, Some(number)),
                _ => return Err(EgressFault::Port),
            },
        };
        if host.parse::<std::net::IpAddr>().is_ok() {
            return Err(EgressFault::Address);
        }
        let (below, name) = match host.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, host),
        };
        if name.contains('*') {
            return Err(EgressFault::Wildcard);
        }
        let name = name.to_ascii_lowercase();
        if is_host_name(&name) { Ok(Self::Host { below, name, port }) } else { Err(EgressFault::Name) }
    }
}

fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split('.').all(label)
}

impl RegistryGroup {
    pub const ALL: [Self; 4] = [Self::Npm, Self::Pypi, Self::Crates, Self::Debian];

    /// The word after `@`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Pypi => "pypi",
            Self::Crates => "crates",
            Self::Debian => "debian",
        }
    }
}

/// The canonical spelling.
impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(group) => write!(f, "@{}", group.name()),
            Self::Host { below, name, port } => {
                write!(f, "{}{name}", if *below { "*." } else { "" })?;
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_are_groups_or_host_patterns() {
        let cases = [
            ("@npm", Ok("@npm")),
            ("Example.COM", Ok("example.com")),
            ("*.example.com:443", Ok("*.example.com:443")),
            ("localhost:8080", Ok("localhost:8080")),
            ("@maven", Err(EgressFault::UnknownGroup)),
            ("https://example.com", Err(EgressFault::Url)),
            ("example.com:0", Err(EgressFault::Port)),
            ("example.com:+80", Err(EgressFault::Port)),
            ("example.com:70000", Err(EgressFault::Port)),
            ("10.0.0.1", Err(EgressFault::Address)),
            ("10.0.0.1:80", Err(EgressFault::Address)),
            ("::1", Err(EgressFault::Address)),
            ("[::1]:80", Err(EgressFault::Address)),
            ("*", Err(EgressFault::Wildcard)),
            ("a*.example.com", Err(EgressFault::Wildcard)),
            ("*.*.com", Err(EgressFault::Wildcard)),
            ("", Err(EgressFault::Name)),
            ("a..b", Err(EgressFault::Name)),
            ("-a.com", Err(EgressFault::Name)),
            ("a b", Err(EgressFault::Name)),
        ];
        for (text, expected) in cases {
            assert_eq!(
                text.parse::<EgressRule>().map(|rule| rule.to_string()),
                expected.map(str::to_owned),
                "{text:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn canonical_spelling_reads_back(text in "[@*.a-cA-C0-9:-]{0,20}") {
            if let Ok(rule) = text.parse::<EgressRule>() {
                prop_assert_eq!(rule.to_string().parse(), Ok(rule));
            }
        }
    }
}
