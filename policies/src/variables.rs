//! Environment variables: which names are valid, which are the sandbox's own, which come from the host.
//!
//! Input: a policy and a look-up in the host's environment; output: the environment that every command
//! of the policy starts with. Names follow XBD section 8.1 of POSIX.1-2017.

use crate::{HOME, Policy, at_or_below};
use std::collections::BTreeMap;

/// What every command has, unless the policy or the request says otherwise.
pub const BASE_ENVIRONMENT: [(&str, &str); 6] = [
    ("HOME", HOME),
    ("USER", "user"),
    ("LOGNAME", "user"),
    ("SHELL", "/bin/sh"),
    ("PATH", "/home/user/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("LANG", "C.UTF-8"),
];

/// Variables that name a file or folder of certificates. A policy may pass them on; a value is passed
/// only when it lies in `/etc/ssl` and the policy makes it readable, for elsewhere the file would be
/// missing inside and every connection would fail. `SSL_CERT_DIR` may list several, all of them there.
pub const CERTIFICATE_VARIABLES: [&str; 14] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "NPM_CONFIG_CAFILE",
    "PIP_CERT",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "HTTPLIB2_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "DENO_CERT",
    "NIX_SSL_CERT_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
];

/// Longest value that is passed on from the host.
const MAX_PASSED: usize = 32 << 10;

/// `[A-Za-z_][A-Za-z0-9_]*`.
pub fn is_variable_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_some_and(|b| !b.is_ascii_digit()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// Names that a policy file neither sets nor passes: they say who and where a command is.
pub(crate) fn is_reserved(name: &str) -> bool {
    matches!(name, "HOME" | "USER" | "LOGNAME" | "PWD" | "OLDPWD")
}

/// Names that are not passed on from the host: ours, and those that look like a secret.
pub(crate) fn looks_secret(name: &str) -> bool {
    const PARTS: [&str; 9] =
        ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "APIKEY", "API_KEY", "PRIVATE_KEY", "ACCESS_KEY"];
    const OURS: [&str; 3] = ["SANDBOXD_", "SANDBOXCTL_", "RUN402_"];
    let upper = name.to_ascii_uppercase();
    OURS.iter().any(|ours| upper.starts_with(ours))
        || PARTS.iter().any(|part| upper.contains(part))
        || upper.ends_with("_KEY")
        || matches!(upper.as_str(), "SSH_AUTH_SOCK" | "DATABASE_URL" | "DOCKER_HOST" | "PGPASSFILE" | "NETRC")
}

/// The environment of the policy's commands, before what a request adds: the base, then what is passed
/// on from the host, then what the policy sets. `host` looks a name up in the daemon's environment.
///
/// Not passed on: certificate variables that point elsewhere than [`CERTIFICATE_VARIABLES`] allows, and
/// values with a URL that carries a password.
pub fn environment(policy: &Policy, host: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let mut variables: BTreeMap<String, String> =
        BASE_ENVIRONMENT.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    for name in &policy.environment().pass {
        if let Some(value) = host(name)
            && may_pass(policy, name, &value)
        {
            variables.insert(name.clone(), value);
        }
    }
    variables.extend(policy.environment().set.iter().map(|(name, value)| (name.clone(), value.clone())));
    variables
}

fn may_pass(policy: &Policy, name: &str, value: &str) -> bool {
    if value.len() > MAX_PASSED || value.contains('\0') {
        return false;
    }
    if CERTIFICATE_VARIABLES.contains(&name) {
        return !value.is_empty() && value.split(':').all(|path| is_certificate_path(policy, path));
    }
    !carries_password(value)
}

fn is_certificate_path(policy: &Policy, path: &str) -> bool {
    let files = policy.filesystem();
    at_or_below(path, "/etc/ssl")
        && path.split('/').all(|part| part != "..")
        && files.read.iter().any(|root| at_or_below(path, root))
        && !files.deny.iter().any(|root| at_or_below(path, root))
}

/// `scheme://user:password@host` or `scheme://token@host`, anywhere in the value.
fn carries_password(value: &str) -> bool {
    value.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?', '#', ' ', ',']).next().unwrap_or_default();
        authority.contains('@')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PolicySet;

    fn built(name: &str, host: &[(&str, &str)]) -> BTreeMap<String, String> {
        let policy = PolicySet::shipped().get(name).expect("shipped");
        environment(&policy, |wanted| {
            host.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn only_named_variables_come_from_the_host() {
        let variables = built("default", &[("TZ", "Europe/Vienna"), ("HOME", "/root"), ("SANDBOXD_TOKEN", "sbx_1")]);
        assert_eq!(variables["TZ"], "Europe/Vienna");
        assert_eq!(variables["HOME"], "/home/user");
        assert!(!variables.contains_key("SANDBOXD_TOKEN"));
    }

    #[test]
    fn certificate_variables_pass_only_into_etc_ssl() {
        let name = "NODE_EXTRA_CA_CERTS";
        for good in ["/etc/ssl", "/etc/ssl/certs/ca-certificates.crt"] {
            assert_eq!(built("default", &[(name, good)])[name], good);
        }
        for bad in ["", "/etc/sslx/a", "/root/ca.pem", "/etc/ssl/../shadow", "ca.pem", "/etc/ssl/private/key.pem"] {
            assert!(!built("default", &[(name, bad)]).contains_key(name), "{bad}");
        }
        let list = "/etc/ssl/certs:/etc/ssl/other";
        assert_eq!(built("default", &[("SSL_CERT_DIR", list)])["SSL_CERT_DIR"], list);
        assert!(!built("default", &[("SSL_CERT_DIR", "/etc/ssl/certs:/root")]).contains_key("SSL_CERT_DIR"));
    }

    #[test]
    fn values_with_passwords_stay_outside() {
        let plain = "http://proxy.example:3128";
        assert_eq!(built("node-build", &[("HTTPS_PROXY", plain)])["HTTPS_PROXY"], plain);
        for bad in ["http://me:pw@proxy.example:3128", "https://token@host/x?a=b", "a http://u@h"] {
            assert!(!built("node-build", &[("HTTPS_PROXY", bad)]).contains_key("HTTPS_PROXY"), "{bad}");
        }
        let scoped = "https://host.example/@scope/x";
        assert_eq!(built("node-build", &[("npm_config_registry", scoped)])["npm_config_registry"], scoped);
    }

    #[test]
    fn policies_for_everyday_work_pass_every_certificate_variable() {
        let set = PolicySet::shipped();
        for name in ["default", "offline", "node-build", "python"] {
            let policy = set.get(name).expect("shipped");
            for variable in CERTIFICATE_VARIABLES {
                assert!(policy.environment().pass.iter().any(|name| name == variable), "{name}: {variable}");
            }
        }
    }

    #[test]
    fn names_of_variables() {
        for good in ["A", "_", "npm_config_cache", "A1"] {
            assert!(is_variable_name(good), "{good}");
        }
        for bad in ["", "1A", "A-B", "A=B", "A B", "É", "A\0"] {
            assert!(!is_variable_name(bad), "{bad}");
        }
        for secret in ["SANDBOXD_URL", "RUN402_CONFIG_DIR", "npm_token", "GITHUB_TOKEN", "AWS_ACCESS_KEY_ID", "X_KEY"] {
            assert!(looks_secret(secret), "{secret}");
        }
        for plain in ["TZ", "SSL_CERT_FILE", "HTTPS_PROXY", "KEYBOARD"] {
            assert!(!looks_secret(plain), "{plain}");
        }
    }
}
