//! Where the gateway and the client's files are: what the environment says.
//!
//! Input: a look-up of variables, so that nothing here reads the process's own unless it is asked to, and
//! the gateway to use when none is named. Output: [`Environment`], valid; every later stage takes it as it
//! is. Nothing is printed: what a user should hear is in it.

use crate::client::Secret;
use crate::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use url::Url;

const DEFAULT_PROFILE: &str = "default";

/// A gateway's URL: http or https, without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    url: Url,
    /// As it was written, since that is what is signed and sent.
    text: String,
}

/// Why a text is not a gateway's URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BaseError {
    #[error("it is not an http or https URL")]
    Scheme,
    #[error("it must not hold a user name or a password")]
    Credentials,
    #[error("it must not have a query or a fragment, since paths are appended to it")]
    Suffix,
}

impl FromStr for Base {
    type Err = BaseError;

    fn from_str(text: &str) -> Result<Self, BaseError> {
        let text = text.trim().trim_end_matches('/');
        let url = Url::parse(text).map_err(|_| BaseError::Scheme)?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(BaseError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BaseError::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(BaseError::Suffix);
        }
        Ok(Self { url, text: text.to_owned() })
    }
}

impl Base {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// The URL of a path with its leading slash, appended as it is.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.text)
    }

    /// Without the port.
    pub fn host(&self) -> &str {
        self.url.host_str().expect("a base without a host is refused when it is read")
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a user should hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvironmentWarning {
    /// The variable is set to nothing, and is as if it were not set.
    Empty { name: &'static str },
}

impl fmt::Display for EnvironmentWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty { name } => write!(f, "{name} is empty; it is as if it were not set"),
        }
    }
}

/// What the environment says of itself. A gateway may have to be started before there is a default, so that
/// comes afterwards: [`Settings::with_default`].
#[derive(Debug, Clone)]
pub struct Settings {
    base: Option<Base>,
    deploy_base: Option<Base>,
    config: PathBuf,
    profile: String,
    allowance: Option<PathBuf>,
    delegate: Option<Secret>,
    pub warnings: Vec<EnvironmentWarning>,
}

/// The gateway, and where the wallet and the keys are.
#[derive(Debug, Clone)]
pub struct Environment {
    pub base: Base,
    /// The gateway for deploys, where that is another one.
    pub deploy_base: Base,
    /// Directory of all profiles.
    pub config: PathBuf,
    pub profile: String,
    /// Where the wallet is, when it is not in the profile's directory.
    pub allowance: Option<PathBuf>,
    /// In place of the wallet and every key.
    pub delegate: Option<Secret>,
    pub warnings: Vec<EnvironmentWarning>,
}

/// A variable that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    #[error("{name} is no URL of a gateway: {source}")]
    Base { name: &'static str, source: BaseError },
    #[error("{name} is {value:?}; a profile is 1 to 64 lower-case letters, digits, _ and -, a letter or digit first")]
    Profile { name: &'static str, value: String },
    #[error("{name} is not UTF-8")]
    Encoding { name: &'static str },
    #[error("RUN402_DELEGATE_TOKEN holds spaces or other characters that no token has")]
    Delegate,
    #[error("there is no home directory to keep wallets and keys in; set RUN402_CONFIG_DIR")]
    NoHome,
}

impl From<EnvironmentError> for Error {
    fn from(error: EnvironmentError) -> Self {
        Self::local("LOCAL_ENVIRONMENT", error.to_string())
    }
}

/// A look-up that reads each variable once and says which was wrong.
struct Variables<'a> {
    look_up: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Variables<'_> {
    fn text(&self, name: &'static str) -> Result<Option<String>, EnvironmentError> {
        let value = (self.look_up)(name).map(OsString::into_string);
        value.transpose().map_err(|_| EnvironmentError::Encoding { name })
    }

    /// An empty path is none.
    fn path(&self, name: &str) -> Option<PathBuf> {
        (self.look_up)(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    fn base(
        &self,
        name: &'static str,
        warnings: &mut Vec<EnvironmentWarning>,
    ) -> Result<Option<Base>, EnvironmentError> {
        match self.text(name)? {
            None => Ok(None),
            Some(value) if value.trim().is_empty() => {
                warnings.push(EnvironmentWarning::Empty { name });
                Ok(None)
            }
            Some(value) => value.parse().map(Some).map_err(|source| EnvironmentError::Base { name, source }),
        }
    }

    fn profile(&self) -> Result<String, EnvironmentError> {
        for name in ["RUN402_WALLET", "RUN402_PROFILE"] {
            let Some(value) = self.text(name)? else { continue };
            return match value.trim() {
                "" => Ok(DEFAULT_PROFILE.to_owned()),
                trimmed if is_profile(trimmed) => Ok(trimmed.to_owned()),
                _ => Err(EnvironmentError::Profile { name, value }),
            };
        }
        Ok(DEFAULT_PROFILE.to_owned())
    }
}

impl Settings {
    /// `look_up` returns the value of a variable.
    pub fn read(look_up: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, EnvironmentError> {
        let variables = Variables { look_up };
        let mut warnings = Vec::new();
        let base = variables.base("RUN402_API_BASE", &mut warnings)?;
        let deploy_base = variables.base("RUN402_DEPLOY_API_BASE", &mut warnings)?;
        let config = match variables.path("RUN402_CONFIG_DIR") {
            Some(path) => path,
            None => variables.path("HOME").ok_or(EnvironmentError::NoHome)?.join(".config/run402"),
        };
        let delegate = variables.text("RUN402_DELEGATE_TOKEN")?.map(|token| token.trim().to_owned());
        let delegate = match delegate.filter(|token| !token.is_empty()) {
            Some(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => Some(Secret::new(token)),
            Some(_) => return Err(EnvironmentError::Delegate),
            None => None,
        };
        let (profile, allowance) = (variables.profile()?, variables.path("RUN402_ALLOWANCE_PATH"));
        Ok(Self { base, deploy_base, config, profile, allowance, delegate, warnings })
    }

    /// The gateway that is named; `None` when the default is wanted.
    pub const fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// The gateway that is named for deploys, else the one for everything.
    pub fn deploy_base(&self) -> Option<&Base> {
        self.deploy_base.as_ref().or(self.base())
    }

    /// `base` is the gateway when none is named.
    pub fn with_default(self, base: &Base) -> Environment {
        let Self { base: named, deploy_base, config, profile, allowance, delegate, warnings } = self;
        let base = named.unwrap_or_else(|| base.clone());
        let deploy_base = deploy_base.unwrap_or_else(|| base.clone());
        Environment { base, deploy_base, config, profile, allowance, delegate, warnings }
    }
}

impl Environment {
    /// From the variables of this process.
    pub fn from_process(default_base: &Base) -> Result<Self, EnvironmentError> {
        Self::resolve(&|name| std::env::var_os(name), default_base)
    }

    /// `look_up` returns the value of a variable; `default_base` is the gateway when none is named.
    pub fn resolve(look_up: &dyn Fn(&str) -> Option<OsString>, default_base: &Base) -> Result<Self, EnvironmentError> {
        Ok(Settings::read(look_up)?.with_default(default_base))
    }

    /// Where the files of the active profile are.
    pub fn profile_dir(&self) -> PathBuf {
        match self.profile.as_str() {
            DEFAULT_PROFILE => self.config.clone(),
            profile => self.config.join(Path::new("profiles")).join(profile),
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
    use std::os::unix::ffi::OsStringExt;

    fn resolve(variables: &[(&str, &str)]) -> Result<Environment, EnvironmentError> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        Environment::resolve(&find, &"http://default:1/".parse().expect("a base"))
    }

    fn bases(variables: &[(&str, &str)]) -> Result<(String, String), EnvironmentError> {
        let variables = [variables, &[("HOME", "/h")]].concat();
        resolve(&variables).map(|found| (found.base.to_string(), found.deploy_base.to_string()))
    }

    #[test]
    fn a_base_is_a_web_address_to_which_paths_are_appended() {
        let base: Base = "https://API.example:8443/v0//".parse().expect("a base");
        assert_eq!((base.as_str(), base.host()), ("https://API.example:8443/v0", "api.example"));
        assert_eq!(base.join("/x?y=z"), "https://API.example:8443/v0/x?y=z");
        let six: Base = "http://[::1]:7403".parse().expect("a base");
        assert_eq!(six.host(), "[::1]");
        for (bad, error) in [
            ("", BaseError::Scheme),
            ("nonsense", BaseError::Scheme),
            ("ftp://x", BaseError::Scheme),
            ("http://", BaseError::Scheme),
            ("file:///etc", BaseError::Scheme),
            ("http://user:secret@x", BaseError::Credentials),
            ("http://x?y", BaseError::Suffix),
            ("http://x#y", BaseError::Suffix),
        ] {
            assert_eq!(bad.parse::<Base>(), Err(error), "{bad}");
        }
    }

    #[test]
    fn deploys_go_to_the_other_gateway_when_there_is_one() {
        let pair = |one: &str, other: &str| Ok((one.to_owned(), other.to_owned()));
        let (api, deploy) = ("RUN402_API_BASE", "RUN402_DEPLOY_API_BASE");
        assert_eq!(bases(&[]), pair("http://default:1", "http://default:1"));
        assert_eq!(bases(&[(api, "http://a/")]), pair("http://a", "http://a"));
        assert_eq!(bases(&[(deploy, "http://b")]), pair("http://default:1", "http://b"));
        assert_eq!(bases(&[(api, "http://a"), (deploy, "http://b")]), pair("http://a", "http://b"));
        for name in [api, deploy] {
            let error = bases(&[(name, "http://me:s3cret@a")]).expect_err("credentials");
            assert_eq!(error, EnvironmentError::Base { name, source: BaseError::Credentials });
            assert!(!error.to_string().contains("s3cret"));
        }
    }

    #[test]
    fn whether_a_gateway_is_named_is_known_before_there_is_a_default() {
        let named = |name: &'static str| {
            let look_up = move |wanted: &str| [name, "HOME"].contains(&wanted).then(|| "http://a".into());
            let settings = Settings::read(&look_up).expect("good");
            (settings.base().is_some(), settings.deploy_base().is_some())
        };
        assert_eq!(named("HOME"), (false, false));
        assert_eq!(named("RUN402_API_BASE"), (true, true));
        assert_eq!(named("RUN402_DEPLOY_API_BASE"), (false, true));
    }

    #[test]
    fn an_empty_base_is_a_warning() {
        let found = resolve(&[("HOME", "/h"), ("RUN402_API_BASE", " "), ("RUN402_DEPLOY_API_BASE", "")]).expect("good");
        let names = ["RUN402_API_BASE", "RUN402_DEPLOY_API_BASE"];
        assert_eq!(found.warnings, names.map(|name| EnvironmentWarning::Empty { name }));
        assert_eq!(found.base.as_str(), "http://default:1");
    }

    #[test]
    fn profiles_have_directories_of_their_own() {
        let directory = |variables: &[(&str, &str)]| resolve(variables).map(|environment| environment.profile_dir());
        assert_eq!(directory(&[("HOME", "/h")]), Ok("/h/.config/run402".into()));
        let trimmed = [("RUN402_CONFIG_DIR", "/c"), ("RUN402_WALLET", " work ")];
        assert_eq!(directory(&trimmed), Ok("/c/profiles/work".into()));
        let empty = [("RUN402_CONFIG_DIR", "/c"), ("RUN402_WALLET", ""), ("RUN402_PROFILE", "x")];
        assert_eq!(directory(&empty), Ok("/c".into()));
        assert_eq!(directory(&[("RUN402_CONFIG_DIR", "/c"), ("RUN402_PROFILE", "x")]), Ok("/c/profiles/x".into()));
        assert_eq!(directory(&[("RUN402_CONFIG_DIR", ""), ("HOME", "/h")]), Ok("/h/.config/run402".into()));
        for bad in ["../x", "A", "-a", "a/b", ".", "ä", &"a".repeat(65)] {
            directory(&[("HOME", "/h"), ("RUN402_WALLET", bad)]).expect_err(bad);
        }
        assert_eq!(directory(&[]), Err(EnvironmentError::NoHome));
        assert_eq!(directory(&[("HOME", "")]), Err(EnvironmentError::NoHome));
    }

    #[test]
    fn the_delegate_is_not_shown() {
        let delegate = |value: &str| resolve(&[("HOME", "/h"), ("RUN402_DELEGATE_TOKEN", value)]);
        let found = delegate(" s3cret\n").expect("good");
        assert_eq!(found.delegate.as_ref().map(Secret::reveal), Some("s3cret"));
        assert!(!format!("{found:?}").contains("s3cret"));
        assert!(delegate(" ").expect("none").delegate.is_none());
        let error = delegate("s3\ncret").expect_err("a line end");
        assert_eq!(error, EnvironmentError::Delegate);
    }

    #[test]
    fn bytes_that_are_no_text_are_good_for_paths_only() {
        let bytes = OsString::from_vec(vec![b'/', 0xff]);
        let with = |wanted: &'static str| {
            let bytes = bytes.clone();
            let look_up = move |name: &str| [wanted, "HOME"].contains(&name).then(|| bytes.clone());
            Environment::resolve(&look_up, &"http://a".parse().expect("a base"))
        };
        assert_eq!(with("RUN402_CONFIG_DIR").expect("a path").config, PathBuf::from(bytes.clone()));
        for name in ["RUN402_API_BASE", "RUN402_WALLET", "RUN402_DELEGATE_TOKEN"] {
            assert_eq!(with(name).expect_err(name), EnvironmentError::Encoding { name });
        }
    }
}
