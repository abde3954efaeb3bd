//! Policies by name or by file: which of the two a person means, and the policy itself.
//!
//! Reads files of this computer only; the policies that a daemon has besides are its own to check.

use crate::failure::Failure;
use sandbox_policy::{Policy, PolicyError, PolicySet};
use sandbox_wire::Code;
use std::path::Path;
use std::sync::Arc;

/// What `--policy` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PolicyChoice {
    /// One that the daemon has.
    Named(String),
    /// The text of a policy file that is valid here.
    Text(String),
}

/// A path has a `/` or ends in `.toml`; everything else is a name.
pub(crate) fn is_file(text: &str) -> bool {
    text.contains('/') || text.ends_with(".toml")
}

/// Reads and checks the file when it is one, so that mistakes are shown with their lines.
pub(crate) fn choose(text: &str) -> Result<PolicyChoice, Failure> {
    if !is_file(text) {
        return Ok(PolicyChoice::Named(text.to_owned()));
    }
    let content = std::fs::read_to_string(text)
        .map_err(|error| Failure::new(Code::InvalidPolicy, format!("cannot read the policy file {text}: {error}")))?;
    PolicySet::shipped().load_text(text, &content)?;
    Ok(PolicyChoice::Text(content))
}

/// The shipped policies and those of a folder.
pub(crate) fn set(dir: Option<&Path>) -> Result<PolicySet, PolicyError> {
    let set = PolicySet::shipped();
    match dir {
        Some(dir) => set.with_dir(dir),
        None => Ok(set),
    }
}

/// The policy that a person names, from the set or from a file.
pub(crate) fn find(set: &PolicySet, text: &str) -> Result<Arc<Policy>, PolicyError> {
    if is_file(text) { set.load_file(text) } else { set.get(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_names_are_told_apart() {
        for file in ["./mine", "mine.toml", "/etc/p", "a/b.toml"] {
            assert!(is_file(file), "{file}");
        }
        for name in ["default", "node-build", "toml"] {
            assert!(!is_file(name), "{name}");
        }
        assert_eq!(choose("default").expect("a name"), PolicyChoice::Named("default".to_owned()));
    }

    #[test]
    fn a_file_is_checked_before_it_is_sent() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("mine.toml");
        let path = path.to_str().expect("UTF-8");
        std::fs::write(path, "name = \"mine\"\nextends = \"default\"\n").expect("written");
        assert!(matches!(choose(path).expect("valid"), PolicyChoice::Text(text) if text.starts_with("name")));
        std::fs::write(path, "name = \"mine\"\nextends = \"default\"\n[limits]\nmemori = \"1GiB\"\n").expect("written");
        let failure = choose(path).expect_err("a key that does not exist");
        assert!(failure.text().contains("mine.toml:4"), "{}", failure.text());
        assert!(choose("/nonexistent/x.toml").is_err());
    }
}
