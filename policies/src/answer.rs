//! What a policy says about one thing: a path, a host or a variable.
//!
//! Input: [`Policy`] and [`Question`]; output: [`Answer`] with the rule that decides. Lexical like the
//! policy itself: a link may lead elsewhere, and then the rules for where it leads hold.

use crate::paths::{COMPOSED, SandboxPath, at_or_below};
use crate::{BASE_ENVIRONMENT, CERTIFICATE_VARIABLES, NetworkMode, PROJECT, PathFault, Policy};
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// What `policy explain NAME QUESTION` can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Begins with `/`, `~` or `.`; what begins with `.` starts in the project.
    Path(SandboxPath),
    /// `example.com` or `example.com:443`.
    Host(String),
    /// Capital letters, digits and `_`, or `$` before any name.
    Variable(String),
}

/// Why a text is not a question.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuestion {
    #[error("the path {path:?} {why}; {}", why.fix())]
    Path { path: String, why: PathFault },
    #[error("{0:?} is neither a path (/x, ~/x, ./x), a host (example.com:443) nor a variable (PATH, $name)")]
    Neither(String),
}

impl FromStr for Question {
    type Err = InvalidQuestion;
    fn from_str(text: &str) -> Result<Self, InvalidQuestion> {
        let path = |parsed: Result<SandboxPath, PathFault>| {
            parsed.map(Self::Path).map_err(|why| InvalidQuestion::Path { path: text.to_owned(), why })
        };
        if let Some(name) = text.strip_prefix('$').filter(|name| crate::is_variable_name(name)) {
            return Ok(Self::Variable(name.to_owned()));
        }
        if text.starts_with(['/', '~']) {
            return path(SandboxPath::parse(text));
        }
        if text.starts_with('.') {
            return path(SandboxPath::parse(&format!("{PROJECT}/{text}")));
        }
        if crate::is_variable_name(text) && !text.bytes().any(|b| b.is_ascii_lowercase()) {
            return Ok(Self::Variable(text.to_owned()));
        }
        let host_like = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
        if host_like && (text.contains(['.', ':']) || text == "localhost") {
            return Ok(Self::Host(text.to_owned()));
        }
        Err(InvalidQuestion::Neither(text.to_owned()))
    }
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    pub policy: String,
    /// What was asked, in full.
    pub about: String,
    pub rulings: Vec<Ruling>,
}

/// Whether one action is allowed, and by which rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ruling {
    /// `read`, `write`, `connect` or `see`.
    pub action: &'static str,
    pub allowed: bool,
    pub because: String,
    /// `filesystem.write`, …; none where no rule speaks of it.
    pub rule: Option<&'static str>,
    /// `file:line`.
    pub from: Option<String>,
}

/// Answers from the rules alone.
pub fn answer(policy: &Policy, question: &Question) -> Answer {
    let (about, rulings) = match question {
        Question::Path(path) => (path.to_string(), about_path(policy, path.as_str())),
        Question::Host(host) => (host.clone(), vec![about_host(policy, host)]),
        Question::Variable(name) => (name.clone(), vec![about_variable(policy, name)]),
    };
    Answer { policy: policy.name().to_owned(), about, rulings }
}

fn ruling(policy: &Policy, action: &'static str, allowed: bool, rule: (&'static str, &str), because: String) -> Ruling {
    let from = policy.provenance().of(rule.0, rule.1).map(|place| place.short());
    Ruling { action, allowed, because, rule: Some(rule.0), from }
}

fn about_path(policy: &Policy, path: &str) -> Vec<Ruling> {
    let files = policy.filesystem();
    let above =
        |list: &[String]| list.iter().filter(|root| at_or_below(path, root)).max_by_key(|root| root.len()).cloned();
    if let Some(deny) = above(&files.deny) {
        let denied = |action| ruling(policy, action, false, ("filesystem.deny", &deny), format!("`deny` names {deny}"));
        return vec![denied("read"), denied("write")];
    }
    if let Some(root) = above(&files.write) {
        let granted =
            |action| ruling(policy, action, true, ("filesystem.write", &root), format!("`write` names {root}"));
        return vec![granted("read"), granted("write")];
    }
    let read_only = "readable only".to_owned();
    if let Some(mount) = files.mount.iter().find(|mount| at_or_below(path, &mount.at)) {
        let rule = ("filesystem.mount", mount.at.as_str());
        let read = ruling(policy, "read", true, rule, format!("`mount` shows the host's {}", mount.host));
        return vec![read, ruling(policy, "write", false, rule, read_only)];
    }
    if let Some(root) = above(&files.read) {
        let rule = ("filesystem.read", root.as_str());
        let read = ruling(policy, "read", true, rule, format!("`read` names {root}, where the host has it"));
        return vec![read, ruling(policy, "write", false, rule, read_only)];
    }
    let (read, because) = match path {
        own if at_or_below(own, "/proc") || at_or_below(own, "/dev") => (true, "the sandbox has its own, in parts"),
        own if COMPOSED.contains(&own) => (true, "the sandbox writes this file itself"),
        _ => (false, "no rule grants it"),
    };
    let plain = |action, allowed, because: &str| Ruling {
        action,
        allowed,
        because: because.to_owned(),
        rule: None,
        from: None,
    };
    let write = if read { "only what its permissions allow the user `user`" } else { because };
    vec![plain("read", read, because), plain("write", false, write)]
}

fn about_host(policy: &Policy, host: &str) -> Ruling {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    let local = matches!(name, "localhost" | "::1") || name.starts_with("127.");
    let rule = ("network.mode", "");
    match policy.network().mode {
        NetworkMode::None if local => {
            ruling(policy, "connect", true, rule, "mode `none` has a loopback of its own".to_owned())
        }
        NetworkMode::None => ruling(policy, "connect", false, rule, "mode `none` has loopback only".to_owned()),
        NetworkMode::Host => {
            ruling(policy, "connect", true, rule, "mode `host` shares the host's network unfiltered".to_owned())
        }
        // Such a policy is not resolved; the arm keeps the answer on the safe side.
        NetworkMode::Filtered => ruling(policy, "connect", false, rule, "mode `filtered` is not available".to_owned()),
    }
}

fn about_variable(policy: &Policy, name: &str) -> Ruling {
    let environment = policy.environment();
    if let Some(value) = environment.set.get(name) {
        return ruling(policy, "see", true, ("environment.set", name), format!("set to {value:?}"));
    }
    let base = BASE_ENVIRONMENT.iter().find(|(known, _)| *known == name);
    if environment.pass.iter().any(|passed| passed == name) {
        let because = match (CERTIFICATE_VARIABLES.contains(&name), base) {
            (true, _) => "passed on where the daemon has it and it points into /etc/ssl".to_owned(),
            (false, Some((_, value))) => format!("passed on where the daemon has it, else {value:?}"),
            (false, None) => "passed on where the daemon has it".to_owned(),
        };
        return ruling(policy, "see", true, ("environment.pass", name), because);
    }
    let (allowed, because) = match base {
        Some((_, value)) => (true, format!("the sandbox sets it to {value:?}")),
        None => (false, "no rule sets it or passes it on; a request may give it".to_owned()),
    };
    Ruling { action: "see", allowed, because, rule: None, from: None }
}

/// One line for each ruling.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Ruling { action, allowed, because, rule, from } in &self.rulings {
            let verdict = if *allowed { "allowed" } else { "refused" };
            write!(f, "{action} {}: {verdict}, {because}", self.about)?;
            match (rule, from) {
                (Some(rule), Some(from)) => writeln!(f, " ({rule}, {from})")?,
                (Some(rule), None) => writeln!(f, " ({rule})")?,
                (None, _) => writeln!(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PolicySet;

    fn verdicts(name: &str, question: &str) -> Vec<(&'static str, bool)> {
        let policy = PolicySet::shipped().get(name).expect("shipped");
        let question = question.parse().expect("a question");
        answer(&policy, &question).rulings.into_iter().map(|ruling| (ruling.action, ruling.allowed)).collect()
    }

    #[test]
    fn paths_hosts_and_variables_are_answered() {
        let files = |read, write| vec![("read", read), ("write", write)];
        assert_eq!(verdicts("default", "~/x"), files(true, true));
        assert_eq!(verdicts("default", "./src/a.ts"), files(true, true));
        assert_eq!(verdicts("default", "/usr/bin/env"), files(true, false));
        assert_eq!(verdicts("default", "/etc/passwd"), files(true, false));
        assert_eq!(verdicts("default", "/proc/self"), files(true, false));
        assert_eq!(verdicts("default", "/etc/shadow"), files(false, false));
        assert_eq!(verdicts("default", "/etc/ssl/private/key.pem"), files(false, false));
        assert_eq!(verdicts("strict", "~/x"), files(false, false));
        assert_eq!(verdicts("default", "example.com:443"), [("connect", false)]);
        assert_eq!(verdicts("default", "localhost:3000"), [("connect", true)]);
        assert_eq!(verdicts("node-build", "example.com"), [("connect", true)]);
        assert_eq!(verdicts("node-build", "CI"), [("see", true)]);
        assert_eq!(verdicts("default", "$npm_config_cache"), [("see", false)]);
    }

    #[test]
    fn answers_name_rule_and_line() {
        let set = PolicySet::shipped();
        let policy = set.load_text("a.toml", "name = \"a\"\n[filesystem]\nwrite = [\n  \"~\",\n]\n").expect("valid");
        let text = answer(&policy, &"~/x".parse().expect("a path")).to_string();
        assert_eq!(
            text,
            "read /home/user/x: allowed, `write` names /home/user (filesystem.write, a.toml:4)\n\
             write /home/user/x: allowed, `write` names /home/user (filesystem.write, a.toml:4)\n"
        );
    }

    #[test]
    fn other_words_are_not_questions() {
        for text in ["", "readme", "../x", "~/../x", "a b"] {
            assert!(text.parse::<Question>().is_err(), "{text:?}");
        }
    }
}
