//! Where the gateway and the client's files are: what the environment says.
//!
//! Input: a look-up of variables, so that nothing here reads the process's own. Output: [`Environment`],
//! valid; every later stage takes it as it is.

use crate::client::Secret;
use std::path::{Path, PathBuf};

const DEFAULT_PROFILE: &str = "default";

/// The gateway, and where the wallet and the keys are.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Base URL of the gateway, without a final slash. `None` when nothing names one.
    pub base: Option<String>,
    /// Directory of all profiles.
    pub config: PathBuf,
    pub profile: String,
    /// Where the wallet is, when it is not in the profile's directory.
    pub allowance: Option<PathBuf>,
    /// In place of the wallet and every key.
    pub delegate: Option<Secret>,
    /// What a user should hear.
    pub warnings: Vec<String>,
}

/// A variable that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    #[error("{name} is {value:?}, which is not an http or https URL")]
    Base { name: &'static str, value: String },
    #[error("{name} is {value:?}; a profile is 1 to 64 lower-case letters, digits, _ and -, a letter or digit first")]
    Profile { name: &'static str, value: String },
    #[error("there is no home directory to keep wallets and keys in; set RUN402_CONFIG_DIR")]
    NoHome,
}

impl Environment {
    /// `look_up` returns the value of a variable.
    pub fn resolve(look_up: &dyn Fn(&str) -> Option<String>) -> Result<Self, EnvironmentError> {
        let mut warnings = Vec::new();
        let mut base = None;
        for name in ["RUN402_DEPLOY_API_BASE", "RUN402_API_BASE"] {
            let Some(value) = look_up(name) else { continue };
            let trimmed = value.trim().trim_end_matches('/');
            if trimmed.is_empty() {
                warnings.push(format!("{name} is empty; it is as if it were not set"));
                continue;
            }
            let good = url::Url::parse(trimmed)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
            if !good {
                return Err(EnvironmentError::Base { name, value });
            }
            base = Some(trimmed.to_owned());
            break;
        }
        let given = |name: &str| look_up(name).filter(|value| !value.is_empty());
        let config = match given("RUN402_CONFIG_DIR") {
            Some(path) => PathBuf::from(path),
            None => Path::new(&given("HOME").ok_or(EnvironmentError::NoHome)?).join(".config/run402"),
        };
        let profile = ["RUN402_WALLET", "RUN402_PROFILE"].iter().find_map(|name| Some((*name, look_up(name)?)));
        let profile = match profile {
            Some((name, value)) => match value.trim() {
                "" => DEFAULT_PROFILE.to_owned(),
                trimmed if is_profile(trimmed) => trimmed.to_owned(),
                _ => return Err(EnvironmentError::Profile { name, value }),
            },
            None => DEFAULT_PROFILE.to_owned(),
        };
        let allowance = given("RUN402_ALLOWANCE_PATH").map(PathBuf::from);
        let delegate = given("RUN402_DELEGATE_TOKEN").map(Secret::new);
        Ok(Self { base, config, profile, allowance, delegate, warnings })
    }

    /// Where the files of the active profile are.
    pub fn profile_dir(&self) -> PathBuf {
        match self.profile.as_str() {
            DEFAULT_PROFILE => self.config.clone(),
            profile => self.config.join("profiles").join(profile),
        }
    }
}

fn is_profile(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 64
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|byte| plain(byte) || matches!(byte, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(variables: &[(&str, &str)]) -> Result<Environment, EnvironmentError> {
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Environment::resolve(&find)
    }

    #[test]
    fn the_base_is_a_web_address() {
        let base = |value| resolve(&[("HOME", "/h"), ("RUN402_API_BASE", value)]).map(|environment| environment.base);
        assert_eq!(base("http://127.0.0.1:7403/"), Ok(Some("http://127.0.0.1:7403".to_owned())));
        for bad in ["nonsense", "ftp://x", "http://"] {
            base(bad).expect_err(bad);
        }
        let empty = resolve(&[("HOME", "/h"), ("RUN402_API_BASE", "")]).expect("a warning only");
        assert_eq!((empty.base, empty.warnings.len()), (None, 1));
        let both = [("HOME", "/h"), ("RUN402_API_BASE", "http://a"), ("RUN402_DEPLOY_API_BASE", "http://b")];
        assert_eq!(resolve(&both).expect("good").base.as_deref(), Some("http://b"));
    }

    #[test]
    fn profiles_have_directories_of_their_own() {
        let directory = |variables: &[(&str, &str)]| resolve(variables).map(|environment| environment.profile_dir());
        assert_eq!(directory(&[("HOME", "/h")]), Ok("/h/.config/run402".into()));
        assert_eq!(
            directory(&[("RUN402_CONFIG_DIR", "/c"), ("RUN402_WALLET", " work ")]),
            Ok("/c/profiles/work".into())
        );
        assert_eq!(
            directory(&[("RUN402_CONFIG_DIR", "/c"), ("RUN402_WALLET", ""), ("RUN402_PROFILE", "x")]),
            Ok("/c".into())
        );
        assert_eq!(directory(&[("RUN402_CONFIG_DIR", "/c"), ("RUN402_PROFILE", "x")]), Ok("/c/profiles/x".into()));
        for bad in ["../x", "A", "-a", "a/b"] {
            directory(&[("HOME", "/h"), ("RUN402_WALLET", bad)]).expect_err(bad);
        }
        assert_eq!(directory(&[]), Err(EnvironmentError::NoHome));
    }

    #[test]
    fn the_delegate_is_not_shown() {
        let environment = resolve(&[("HOME", "/h"), ("RUN402_DELEGATE_TOKEN", "s3cret")]).expect("good");
        assert!(!format!("{environment:?}").contains("s3cret"));
    }
}
