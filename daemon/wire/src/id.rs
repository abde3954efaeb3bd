//! Names of things: projects and runs.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// A project's UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct ProjectId(pub uuid::Uuid);

impl ProjectId {
    /// A fresh random (version 4) id.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4())
    }
}

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ProjectId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.parse().map(Self).map_err(|_| InvalidId("a project id is a UUID"))
    }
}

/// A project's name in URLs: `[a-z0-9][a-z0-9-]{0,62}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z0-9][a-z0-9-]{0,62}$", example = "my-site")]
pub struct UrlId(String);

impl UrlId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UrlId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let bytes = text.as_bytes();
        let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let valid = matches!(bytes.first(), Some(first) if word(first))
            && bytes.len() <= 63
            && bytes.iter().all(|b| word(b) || *b == b'-');
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId("a url_id is 1 to 63 of a-z, 0-9 and '-', and does not start with '-'"))
        }
    }
}

impl TryFrom<String> for UrlId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<UrlId> for String {
    fn from(id: UrlId) -> String {
        id.0
    }
}

impl fmt::Display for UrlId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A run's id, `run_` and a ULID: sorts by the time at which the run was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^run_[0-7][0-9A-HJKMNP-TV-Z]{25}$", example = "run_01JD8Z5Q6W9J5Q0M3V7T2K4X8A")]
pub struct RunId(String);

impl RunId {
    /// A fresh id for a run that starts now.
    pub fn generate() -> Self {
        Self(format!("run_{}", ulid::Ulid::generate()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RunId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId("a run id is 'run_' and a ULID");
        let ulid = text.strip_prefix("run_").ok_or(invalid)?;
        // Only the canonical spelling: the id is also the name of the journal's folder.
        match ulid::Ulid::from_string(ulid) {
            Ok(parsed) if parsed.to_string() == ulid => Ok(Self(text.to_owned())),
            _ => Err(invalid),
        }
    }
}

impl TryFrom<String> for RunId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> String {
        id.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not an id: a sentence that says what one looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidId(pub &'static str);

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for InvalidId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_ids_follow_their_pattern() {
        for good in ["a", "0", "my-site", "a-", &"x".repeat(63)] {
            assert!(good.parse::<UrlId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a_b", "a.b", "a/b", &"x".repeat(64)] {
            assert!(bad.parse::<UrlId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn run_ids_have_one_spelling() {
        let id = RunId::generate();
        assert_eq!(id.as_str().parse::<RunId>(), Ok(id.clone()));
        assert!(id.as_str().to_lowercase().parse::<RunId>().is_err());
        assert!("run_../../../../etc/passwd0000".parse::<RunId>().is_err());
    }
}
