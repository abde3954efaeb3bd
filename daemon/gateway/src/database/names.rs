//! What a project's schema and role are called.

use sha2::{Digest, Sha256};
use std::fmt;

/// PostgreSQL cuts names at 63 bytes, silently; ours stay below.
const READABLE_CHARS: usize = 48;

/// Name of a project's schema and of its role: letters, digits and underscores, so that it needs no quotes.
/// Different projects have different ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProjectSchema(String);

impl ProjectSchema {
    /// Of a project by its id. Ids with other characters than `a-z`, `0-9` and `_`, and long ones, are hashed.
    pub fn of(project_id: &str) -> Self {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let readable = (1..=READABLE_CHARS).contains(&project_id.len()) && project_id.bytes().all(plain);
        Self(match readable {
            true => format!("p_{project_id}"),
            false => format!("h_{}", hex::encode(&Sha256::digest(project_id.as_bytes())[..24])),
        })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProjectSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text as a literal of SQL, whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_need_no_quotes() {
        for (id, name) in [("prj_demo", "p_prj_demo"), ("a", "p_a"), ("p_x", "p_p_x"), ("0", "p_0")] {
            assert_eq!(ProjectSchema::of(id).as_str(), name);
        }
        for id in ["", "prj_Demo", "prj-demo", "x\"; DROP SCHEMA public; --", "ü", &"a".repeat(49)] {
            assert!(ProjectSchema::of(id).as_str().starts_with("h_"), "{id}");
        }
        assert_ne!(ProjectSchema::of("prj-a"), ProjectSchema::of("prj-A"));
    }

    #[test]
    fn literals_hold_what_they_are_given() {
        for (text, sql) in [("", "''"), ("a'b", "'a''b'"), ("a\\'b", " E'a\\\\''b'"), ("\n", "'\n'")] {
            assert_eq!(literal(text), sql);
        }
    }

    proptest! {
        #[test]
        fn every_id_has_a_plain_name(id: String) {
            let name = ProjectSchema::of(&id);
            prop_assert!(name.as_str().len() < 63);
            prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
        }
    }
}
