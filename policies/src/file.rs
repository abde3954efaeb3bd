//! A policy file: exactly what a person wrote.
//!
//! Input: TOML 1.1 text; output: [`PolicyFile`] with the place of every value, or the first thing that
//! is not of this shape. Whether the values make sense is judged by [`crate::resolve`].

use crate::fault::nearest;
use crate::{
    Expectation, Fault, Layer, Mistake, MountMode, NetworkMode, Place, PolicyError, Quantity, Source, SyscallProfile,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use toml::Spanned;

/// A sandbox policy: what a project's commands may do. Paths are as seen inside; `~` is /home/user.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "sandbox policy")]
pub struct PolicyFile {
    /// How the policy is called: 1 to 63 of a-z, 0-9 and `-`.
    #[schemars(with = "String", regex(pattern = "^[a-z0-9][a-z0-9-]{0,62}$"))]
    pub name: Spanned<String>,
    /// Name of the policy that this one starts from. Lists add to its lists, single values replace its values.
    #[schemars(with = "Option<String>")]
    pub extends: Option<Spanned<String>>,
    /// One sentence for `policy list`.
    #[schemars(with = "Option<String>")]
    pub description: Option<Spanned<String>>,
    #[serde(default)]
    pub filesystem: FilesystemFile,
    #[serde(default)]
    pub network: NetworkFile,
    #[serde(default)]
    pub limits: LimitsFile,
    #[serde(default)]
    pub syscalls: SyscallsFile,
    #[serde(default)]
    pub environment: EnvironmentFile,
    #[serde(default)]
    pub require: RequireFile,
    /// Claims that `sandboxctl policy check` tries. Not inherited.
    #[serde(default, rename = "test")]
    pub tests: Vec<TestFile>,
}

/// What commands see of files.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FilesystemFile {
    /// Files and folders of the host that are readable at the same place inside, where they exist.
    #[schemars(with = "Vec<String>")]
    pub read: Vec<Spanned<String>>,
    /// Writable folders: `~` or `/tmp`, or below them.
    #[schemars(with = "Vec<String>")]
    pub write: Vec<Spanned<String>>,
    /// Neither readable nor writable, though something above is. Wins over every grant.
    #[schemars(with = "Vec<String>")]
    pub deny: Vec<Spanned<String>>,
    /// Further folders of the host, at a place of their own.
    #[schemars(with = "Vec<MountFile>")]
    pub mount: Vec<Spanned<MountFile>>,
}

/// A folder of the host at another place inside.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MountFile {
    /// Absolute path on the host.
    #[schemars(with = "String")]
    pub host: Spanned<String>,
    /// Absolute path inside.
    #[schemars(with = "String")]
    pub at: Spanned<String>,
    /// Only `ro`; `ro` when absent.
    #[schemars(with = "Option<MountMode>")]
    pub mode: Option<Spanned<MountMode>>,
}

/// What commands reach over the network.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkFile {
    /// `none` when absent: only the sandbox's own loopback.
    #[schemars(with = "Option<NetworkMode>")]
    pub mode: Option<Spanned<NetworkMode>>,
    /// With `filtered`: `@npm`, `@pypi`, `@crates`, `@debian`, or names such as `*.example.com:443`.
    #[schemars(with = "Vec<String>")]
    pub allow: Vec<Spanned<String>>,
}

/// How much commands may use.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsFile {
    /// Memory of all processes together, with what is in /tmp and /dev/shm.
    #[schemars(schema_with = "size")]
    pub memory: Option<Spanned<Quantity>>,
    /// Processors, such as 2.0 or 0.5.
    #[schemars(with = "Option<f64>", extend("minimum" = 0.01, "maximum" = 1024))]
    pub cpu: Option<Spanned<f64>>,
    /// Processes and threads.
    #[schemars(schema_with = "count")]
    pub pids: Option<Spanned<Quantity>>,
    /// Bytes of the workspace and the home folder.
    #[schemars(schema_with = "size")]
    pub disk: Option<Spanned<Quantity>>,
    /// Bytes a second that are read from the disk, and as many that are written to it; as fast as it is when absent.
    #[schemars(schema_with = "size")]
    pub disk_rate: Option<Spanned<Quantity>>,
    /// Bytes of /tmp; not more than `memory`.
    #[schemars(schema_with = "size")]
    pub tmp: Option<Spanned<Quantity>>,
    /// Descriptors of one process.
    #[schemars(schema_with = "count")]
    pub open_files: Option<Spanned<Quantity>>,
    /// Bytes of output kept for one run.
    #[schemars(schema_with = "size")]
    pub output: Option<Spanned<Quantity>>,
    /// Deadline of a run that asks for none.
    #[schemars(schema_with = "duration")]
    pub timeout: Option<Spanned<Quantity>>,
    /// Longest deadline that a run may ask for; at most 300s.
    #[schemars(schema_with = "duration")]
    pub max_timeout: Option<Spanned<Quantity>>,
}

/// Which system calls reach the kernel.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SyscallsFile {
    /// `default` when absent.
    #[schemars(with = "Option<SyscallProfile>")]
    pub profile: Option<Spanned<SyscallProfile>>,
}

/// Environment variables of commands.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EnvironmentFile {
    /// Variables with their values.
    #[schemars(with = "BTreeMap<String, String>")]
    pub set: BTreeMap<Spanned<String>, Spanned<String>>,
    /// Names whose values come from the daemon's own environment, where it has them.
    #[schemars(with = "Vec<String>")]
    pub pass: Vec<Spanned<String>>,
}

/// Layers without which nothing runs.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RequireFile {
    /// Where this host cannot give one of them, runs are refused.
    #[schemars(with = "Vec<Layer>")]
    pub layers: Vec<Spanned<Layer>>,
}

/// A claim about the policy.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestFile {
    /// A shell line.
    #[schemars(with = "String")]
    pub command: Spanned<String>,
    /// `allowed`: it ends with exit code 0; `denied`: it does not.
    pub expect: Expectation,
}

fn size(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [
        { "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)?$", "examples": ["512MiB", "2GiB"] },
        { "type": "integer", "minimum": 0, "description": "bytes" }
    ] })
}

fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^[0-9]+(ms|s|m)$", "examples": ["120s", "500ms", "2m"] })
}

fn count(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [ { "type": "integer", "minimum": 2 }, { "type": "string", "pattern": "^[0-9]+$" } ] })
}

/// The JSON schema of a policy file, for editors; the text of `policies/schema.json`.
pub fn schema() -> String {
    let schema = schemars::schema_for!(PolicyFile);
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is a JSON document");
    text.push('\n');
    text
}

/// A policy file and its text.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) file: PolicyFile,
    pub(crate) source: Arc<Source>,
}

impl Written {
    /// Refused when the text is not TOML, or not of the shape of a policy file.
    pub(crate) fn parse(name: &str, bytes: &[u8]) -> Result<Self, PolicyError> {
        let refuse = |source: Source, span, fault| {
            PolicyError::Invalid(vec![Mistake::new(Place::new(&Arc::new(source), span), fault)])
        };
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                // The text up to the bad byte is kept, so that its line can be named.
                let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                return Err(refuse(Source::new(name, good), error.valid_up_to()..error.valid_up_to(), Fault::NotText));
            }
        };
        let source = Source::new(name, text);
        match toml::from_str::<PolicyFile>(text) {
            Ok(file) => {
                let written = Self { file, source: Arc::new(source) };
                match written.bad_name() {
                    Some(mistake) => Err(PolicyError::Invalid(vec![mistake])),
                    None => Ok(written),
                }
            }
            Err(error) => {
                let message = error.message().trim().lines().collect::<Vec<_>>().join(", ");
                let fix = shape_fix(&message);
                Err(refuse(source, error.span().unwrap_or(0..0), Fault::Shape { message, fix }))
            }
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.file.name.get_ref()
    }

    /// A mistake at the file's name, for what concerns the file as a whole.
    pub(crate) fn mistake(&self, fault: Fault) -> Mistake {
        Mistake::new(Place::new(&self.source, self.file.name.span()), fault)
    }

    fn bad_name(&self) -> Option<Mistake> {
        let bytes = self.name().as_bytes();
        let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = bytes.first().is_some_and(word) && bytes.len() <= 63 && bytes.iter().all(|b| word(b) || *b == b'-');
        (!good).then(|| self.mistake(Fault::Name { name: self.name().to_owned() }))
    }
}

/// The parser quotes with backticks what it found, then what it knows.
fn shape_fix(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let wrong = quoted.next().unwrap_or_default();
    if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        let known: Vec<&str> = quoted.collect();
        return match nearest(wrong, known.iter().copied()) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("use one of: {}", known.join(", ")),
        };
    }
    if message.starts_with("missing field") {
        return format!("add `{wrong}`");
    }
    if message.contains("expected a string") {
        return "write the value in quotes".to_owned();
    }
    "see docs/policies.md for the format".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            if let Err(error) = Written::parse("any.toml", &bytes) {
                prop_assert!(error.to_string().starts_with("any.toml:"));
                prop_assert!(!error.report(false).is_empty());
            }
        }

        #[test]
        fn no_text_of_toml_letters_panics(text in "[\\[\\]a-z=\"'.#{}, \\n0-9é-]{0,120}") {
            if let Err(error) = Written::parse("any.toml", text.as_bytes()) {
                prop_assert!(!error.report(false).is_empty());
            }
        }
    }
}
