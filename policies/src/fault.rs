//! What can be wrong in a policy file, in words, and how each is mended.
//!
//! A [`Fault`] is one variant per mistake with the values it is about; where it stands is added by
//! [`crate::Mistake`]. Messages are lower case, without a full stop.

use crate::{EgressFault, NetworkMode, PathFault, QuantityFault};

/// One mistake, without its place.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error("the file is not UTF-8 text")]
    NotText,
    #[error("{message}")]
    Shape { message: String, fix: String },
    #[error("`{name}` is not a policy name")]
    Name { name: String },
    #[error("`{name}` is a shipped policy and cannot be replaced")]
    Shipped { name: String },
    #[error("the name `{name}` is already taken by {other}")]
    Duplicate { name: String, other: String },
    #[error("extends `{parent}`, which is not a known policy")]
    UnknownParent { parent: String, fix: String },
    #[error("extends itself: {chain}")]
    Cycle { chain: String },

    #[error("`{key}` is `{given}`, which {why}")]
    Quantity { key: &'static str, given: String, why: QuantityFault, example: &'static str },
    #[error("`{key}` is {given}, outside {min} to {max}")]
    Range { key: &'static str, given: String, min: String, max: String },
    #[error("timeout ({timeout}) is longer than max_timeout ({max})")]
    TimeoutAboveMax { timeout: String, max: String },
    #[error("tmp ({tmp}) is larger than memory ({memory}), which holds what is in /tmp")]
    TmpAboveMemory { tmp: String, memory: String },

    #[error("the path {path:?} {why}")]
    Path { path: String, why: PathFault },
    #[error("`{list}` cannot name {path}: {why}")]
    Reserved { list: &'static str, path: String, why: &'static str },
    #[error("`write` names {path}, outside /home/user and /tmp")]
    WriteOutside { path: String },
    #[error("nothing could run: /home/user/project, where commands start, is not writable")]
    ProjectNotWritable,
    #[error("`deny` names {path}, which nothing grants")]
    DenyUngranted { path: String },
    #[error("{path} is both granted and denied")]
    GrantedAndDenied { path: String },
    #[error("`{list}` names {path}, but {deny} is denied at {at}")]
    GrantBelowDeny { list: &'static str, path: String, deny: String, at: String },
    #[error("the mount at {at} has mode `rw`")]
    MountWritable { at: String },
    #[error("the mount at {at} overlaps {other}")]
    MountOverlap { at: String, other: String },

    #[error("network mode `filtered` is not available yet")]
    FilteredUnavailable,
    #[error("`allow` has no effect with network mode `{mode}`")]
    AllowWithoutFilter { mode: NetworkMode },
    #[error("the destination {rule:?} {why}")]
    Egress { rule: String, why: EgressFault },
    #[error("the layer `net` is required, but network mode `host` shares the host's network")]
    NetRequiredOnHost,

    #[error("{name:?} is not a name of an environment variable")]
    VariableName { name: String },
    #[error("the sandbox sets {name} itself")]
    VariableReserved { name: String },
    #[error("the value of {name} {why}")]
    VariableValue { name: String, why: &'static str },
    #[error("{name} looks like a secret of the host and is not passed on")]
    VariableSecret { name: String },
    #[error("{name} is both set and passed on")]
    SetAndPassed { name: String },
    #[error("the variables in `set` have more than {max} bytes together")]
    EnvironmentTooLarge { max: usize },

    #[error("the command of this test is empty or contains a NUL byte")]
    TestCommand,
}

impl Fault {
    /// What to do about it: an imperative sentence, lower case, without a full stop.
    pub fn fix(&self) -> String {
        let fixed = match self {
            Self::Shape { fix, .. } | Self::UnknownParent { fix, .. } => return fix.clone(),
            Self::Path { why, .. } => why.fix(),
            Self::Egress { why, .. } => why.fix(),
            Self::Quantity { example, .. } => example,
            Self::Range { key, min, max, .. } => return format!("write {key} as a value from {min} to {max}"),
            Self::NotText => "save the file as UTF-8",
            Self::Name { .. } => "use 1 to 63 of a-z, 0-9 and `-`, starting with a letter or digit",
            Self::Shipped { .. } => "choose another name and write `extends` with the shipped one",
            Self::Duplicate { .. } => "rename one of the two policies",
            Self::Cycle { .. } => "remove one `extends` of the circle",
            Self::TimeoutAboveMax { .. } => "write both, `timeout` not longer than `max_timeout`",
            Self::TmpAboveMemory { .. } => "write both, `tmp` not larger than `memory`",
            Self::Reserved { list: "mount.at", .. } => {
                "mount the folder at a place of its own, such as /opt/toolchains"
            }
            Self::Reserved { .. } => "remove the path, or name the files below it that are needed",
            Self::WriteOutside { .. } => {
                "write below `~` or `/tmp`; to work on a host folder, make it the project's folder"
            }
            Self::ProjectNotWritable => "add \"~/project\" to `write`, or remove the `deny` that covers it",
            Self::DenyUngranted { .. } => "remove it: what no rule grants is refused anyway",
            Self::GrantedAndDenied { .. } => "remove the path from one of the two lists",
            Self::GrantBelowDeny { .. } => {
                "remove this path, which stays refused, or extend a policy that does not deny it"
            }
            Self::MountWritable { .. } => "write mode = \"ro\"; to work on a host folder, make it the project's folder",
            Self::MountOverlap { .. } => "give the mount a place of its own, such as /opt/toolchains",
            Self::FilteredUnavailable => "use `none` or `host`",
            Self::AllowWithoutFilter { .. } => "remove `allow`",
            Self::NetRequiredOnHost => "remove `net` from `layers`, or write mode = \"none\"",
            Self::VariableName { .. } => "use letters, digits and `_`, not starting with a digit",
            Self::VariableReserved { .. } => "remove it",
            Self::VariableValue { .. } => "write a shorter value without NUL bytes",
            Self::VariableSecret { .. } => "give it to the runs that need it, in the request's `env`",
            Self::SetAndPassed { .. } => "keep it in `set` or in `pass`",
            Self::EnvironmentTooLarge { .. } => "put large values into a file of the workspace",
            Self::TestCommand => "write the shell line to try",
        };
        fixed.to_owned()
    }
}

/// The known word that `wrong` was probably meant to be.
pub(crate) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let close = known.into_iter().map(|word| (distance(wrong, word), word)).min()?;
    (close.0 <= 1 + wrong.len().min(12) / 4).then_some(close.1)
}

/// Levenshtein distance in bytes; long words are far from everything.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_word_is_found_or_none() {
        assert_eq!(nearest("memry", ["memory", "cpu", "pids"]), Some("memory"));
        assert_eq!(nearest("nodebuild", ["default", "node-build"]), Some("node-build"));
        assert_eq!(nearest("gpu", ["memory", "open_files"]), None);
        assert_eq!(nearest(&"x".repeat(100), ["memory"]), None);
        assert_eq!(nearest("x", []), None);
    }
}
