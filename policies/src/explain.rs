//! What a policy means, rule by rule, for `policy explain`.
//!
//! Input: [`Policy`]; output: [`Explanation`], which prints as text for people and serialises for
//! programs. A rule says in which file and line it stands, when the policy was resolved in this process.

use crate::limits::{Bytes, Millis};
use crate::{NetworkMode, Policy};
use serde::Serialize;
use std::fmt;

/// All rules of a policy, in the order of a policy file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub policy: String,
    pub description: String,
    pub rules: Vec<ExplainedRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedRule {
    /// `filesystem.read`, `limits.memory`, …
    pub rule: &'static str,
    /// `/usr`, `2GiB`, …
    pub value: String,
    pub meaning: String,
    /// `file:line`; none for what no file says.
    pub from: Option<String>,
}

/// Explains every rule.
pub fn explain(policy: &Policy) -> Explanation {
    let mut rules = Vec::new();
    let mut add = |rule: &'static str, item: &str, value: String, meaning: String| {
        let from = policy.provenance().of(rule, item).map(|place| place.short());
        rules.push(ExplainedRule { rule, value, meaning, from });
    };

    let files = policy.filesystem();
    for path in &files.read {
        add("filesystem.read", path, path.clone(), "readable, where the host has it".to_owned());
    }
    for path in &files.write {
        add("filesystem.write", path, path.clone(), "writable".to_owned());
    }
    for path in &files.deny {
        add("filesystem.deny", path, path.clone(), "neither readable nor writable".to_owned());
    }
    for mount in &files.mount {
        add("filesystem.mount", &mount.at, mount.at.clone(), format!("readable, the host's {}", mount.host));
    }

    let network = policy.network();
    let meaning = match network.mode {
        NetworkMode::None => "no network but the sandbox's own loopback",
        NetworkMode::Filtered => "only the destinations below",
        NetworkMode::Host => "the host's whole network, with its loopback services; nothing is filtered",
    };
    add("network.mode", "", network.mode.to_string(), meaning.to_owned());
    for rule in &network.allow {
        add("network.allow", rule, rule.clone(), "may be connected to".to_owned());
    }

    let limits = policy.limits();
    let single = [
        ("limits.memory", Bytes(limits.memory_bytes).to_string(), "memory of all processes, with /tmp"),
        ("limits.cpu", limits.cpu.to_string(), "processors' worth of time"),
        ("limits.pids", limits.pids.to_string(), "processes and threads at a time"),
        ("limits.disk", Bytes(limits.disk_bytes).to_string(), "in the workspace and the home folder"),
        ("limits.tmp", Bytes(limits.tmp_bytes).to_string(), "in /tmp"),
        ("limits.open_files", limits.open_files.to_string(), "open files of one process"),
        ("limits.output", Bytes(limits.output_bytes).to_string(), "of output kept for one run"),
        ("limits.timeout", Millis(limits.timeout_ms).to_string(), "deadline of a run that asks for none"),
        ("limits.max_timeout", Millis(limits.max_timeout_ms).to_string(), "longest deadline a run may ask for"),
        ("syscalls.profile", policy.syscalls().to_string(), policy.syscalls().meaning()),
    ];
    for (rule, value, meaning) in single {
        add(rule, "", value, meaning.to_owned());
    }
    if let Some(rate) = limits.disk_rate {
        add("limits.disk_rate", "", Bytes(rate).to_string(), "a second from the disk, and to it".to_owned());
    }

    let environment = policy.environment();
    for (name, value) in &environment.set {
        add("environment.set", name, format!("{name}={value}"), "set for every command".to_owned());
    }
    for name in &environment.pass {
        add("environment.pass", name, name.clone(), "as in the daemon's environment, where it is set".to_owned());
    }
    for layer in policy.require() {
        let meaning = format!("required: {}", layer.meaning());
        add("require.layers", layer.name(), layer.to_string(), meaning);
    }
    Explanation { policy: policy.name().to_owned(), description: policy.description().to_owned(), rules }
}

impl ExplainedRule {
    fn origin(&self) -> &str {
        self.from.as_deref().unwrap_or("built in")
    }

    /// Shown on one line with `other`, which stands on the same line of its file.
    fn joins(&self, other: &Self) -> bool {
        (self.rule, &self.meaning, &self.from) == (other.rule, &other.meaning, &other.from)
    }
}

/// Sections; in each line the key, where it stands, the values and what they mean.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.policy)?;
        if !self.description.is_empty() {
            write!(f, " – {}", self.description)?;
        }
        writeln!(f)?;
        let width = self.rules.iter().map(|rule| rule.origin().chars().count()).max().unwrap_or(0);
        let mut section = "";
        for rules in self.rules.chunk_by(ExplainedRule::joins) {
            let (current, key) = rules[0].rule.split_once('.').unwrap_or((rules[0].rule, ""));
            if current != section {
                section = current;
                writeln!(f, "\n{section}")?;
            }
            let values: Vec<&str> = rules.iter().map(|rule| rule.value.as_str()).collect();
            let (values, meaning) = (values.join(", "), &rules[0].meaning);
            writeln!(f, "  {key:<11} {:<width$}  {values}: {meaning}", rules[0].origin())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::{PolicySet, explain};

    #[test]
    fn rules_of_one_line_are_explained_together() {
        let text = "name = \"a\"\ndescription = \"d\"\n[filesystem]\nread = [\"/usr\", \"/bin\"]\nwrite = [\"~\"]\n";
        let policy = PolicySet::shipped().load_text("a.toml", text).expect("valid");
        let shown = explain(&policy).to_string();
        assert!(
            shown.starts_with(
                "a – d\n\nfilesystem\n  read        a.toml:4  /usr, /bin: readable, where the host has it\n  write       \
                 a.toml:5  /home/user: writable\n\nnetwork\n  mode        built in  none: "
            ),
            "{shown}"
        );
    }

    #[test]
    fn every_rule_of_a_shipped_policy_says_where_it_stands() {
        for listed in PolicySet::shipped().list() {
            let policy = listed.policy.expect("shipped policies resolve");
            let explanation = explain(&policy);
            for rule in &explanation.rules {
                let implied = rule.rule == "require.layers" && rule.value == "net";
                assert!(rule.from.is_some() || implied, "{}: {rule:?}", listed.name);
            }
            assert!(explanation.to_string().starts_with(&format!("{} – ", listed.name)));
        }
    }
}
