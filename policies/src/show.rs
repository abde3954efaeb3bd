//! A policy as one file that extends nothing, for `policy show`.
//!
//! Input: [`Policy`]; output: TOML that resolves to the same policy, with the origin of each rule as a
//! comment where it is known.

use crate::limits::{Bytes, Millis};
use crate::paths::HOME;
use crate::{Layer, MountMode, NetworkMode, Policy};
use std::fmt::Write;

/// The whole policy, written out.
pub fn to_toml(policy: &Policy) -> String {
    let mut out = format!("name = {}\n", quoted(policy.name()));
    if !policy.description().is_empty() {
        out += &format!("description = {}\n", quoted(policy.description()));
    }
    filesystem(policy, &mut out);
    let network = policy.network();
    out += "\n[network]\n";
    single(policy, &mut out, "network.mode", &quoted(network.mode.name()));
    list(policy, &mut out, "network.allow", &network.allow);
    limits(policy, &mut out);
    out += "\n[syscalls]\n";
    single(policy, &mut out, "syscalls.profile", &quoted(policy.syscalls().name()));
    environment(policy, &mut out);
    // What the network mode implies need not be said.
    let said = |layer: &&Layer| **layer != Layer::Net || policy.network().mode != NetworkMode::None;
    let layers: Vec<String> = policy.require().iter().filter(said).map(Layer::to_string).collect();
    if !layers.is_empty() {
        out += "\n[require]\n";
        list(policy, &mut out, "require.layers", &layers);
    }
    for test in policy.tests() {
        let (command, expect) = (quoted(&test.command), test.expect.name());
        out += &format!("\n[[test]]\ncommand = {command}\nexpect = \"{expect}\"\n");
    }
    out
}

fn filesystem(policy: &Policy, out: &mut String) {
    let files = policy.filesystem();
    out.push_str("\n[filesystem]\n");
    list(policy, out, "filesystem.read", &files.read);
    list(policy, out, "filesystem.write", &files.write);
    list(policy, out, "filesystem.deny", &files.deny);
    if !files.mount.is_empty() {
        out.push_str("mount = [\n");
        for mount in &files.mount {
            let mode = match mount.mode {
                MountMode::Ro => "ro",
                MountMode::Rw => "rw",
            };
            let (host, at) = (quoted(&mount.host), quoted(&mount.at));
            let origin = origin(policy, "filesystem.mount", &mount.at);
            *out += &format!("  {{ host = {host}, at = {at}, mode = \"{mode}\" }},{origin}\n");
        }
        out.push_str("]\n");
    }
}

fn limits(policy: &Policy, out: &mut String) {
    let limits = policy.limits();
    let size = |bytes| quoted(&Bytes(bytes).to_string());
    let duration = |ms| quoted(&Millis(ms).to_string());
    out.push_str("\n[limits]\n");
    for (rule, value) in [
        ("limits.memory", size(limits.memory_bytes)),
        // The debug form keeps the point, without which TOML has an integer.
        ("limits.cpu", format!("{:?}", limits.cpu)),
        ("limits.pids", limits.pids.to_string()),
        ("limits.disk", size(limits.disk_bytes)),
        ("limits.tmp", size(limits.tmp_bytes)),
        ("limits.open_files", limits.open_files.to_string()),
        ("limits.output", size(limits.output_bytes)),
        ("limits.timeout", duration(limits.timeout_ms)),
        ("limits.max_timeout", duration(limits.max_timeout_ms)),
    ] {
        single(policy, out, rule, &value);
    }
    if let Some(rate) = limits.disk_rate {
        single(policy, out, "limits.disk_rate", &size(rate));
    }
}

fn environment(policy: &Policy, out: &mut String) {
    let environment = policy.environment();
    if environment.set.is_empty() && environment.pass.is_empty() {
        return;
    }
    out.push_str("\n[environment]\n");
    list(policy, out, "environment.pass", &environment.pass);
    if !environment.set.is_empty() {
        out.push_str("\n[environment.set]\n");
        for (name, value) in &environment.set {
            *out += &format!("{name} = {}{}\n", quoted(value), origin(policy, "environment.set", name));
        }
    }
}

fn single(policy: &Policy, out: &mut String, rule: &'static str, value: &str) {
    *out += &format!("{} = {value}{}\n", key(rule), origin(policy, rule, ""));
}

fn list(policy: &Policy, out: &mut String, rule: &'static str, items: &[String]) {
    if items.is_empty() {
        return;
    }
    *out += &format!("{} = [\n", key(rule));
    for item in items {
        let shown = match item.strip_prefix(HOME) {
            Some(below) if below.is_empty() || below.starts_with('/') => format!("~{below}"),
            _ => item.clone(),
        };
        *out += &format!("  {},{}\n", quoted(&shown), origin(policy, rule, item));
    }
    out.push_str("]\n");
}

fn key(rule: &'static str) -> &'static str {
    rule.split_once('.').map_or(rule, |(_, key)| key)
}

fn origin(policy: &Policy, rule: &'static str, item: &str) -> String {
    match policy.provenance().of(rule, item) {
        // A file's name may hold anything, a comment may not.
        Some(place) => format!("  # {}", place.short().replace(|c: char| c.is_control(), "?")),
        None => String::new(),
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            control if control.is_control() => {
                write!(out, "\\u{:04x}", u32::from(control)).expect("a String takes all that is written");
            }
            plain => out.push(plain),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PolicySet;
    use proptest::prelude::*;

    #[test]
    fn shown_policies_resolve_to_themselves() {
        let set = PolicySet::shipped();
        for listed in set.list() {
            let policy = listed.policy.expect("shipped policies resolve");
            let renamed = to_toml(&policy).replacen(&listed.name, "copy", 1);
            let copy = set.load_text("copy.toml", &renamed).expect("what is shown is valid");
            assert_eq!(to_toml(&copy).replace("copy.toml", ""), {
                let again = set.load_text("copy.toml", &to_toml(&copy)).expect("valid");
                to_toml(&again).replace("copy.toml", "")
            });
            assert_eq!(
                (copy.filesystem(), copy.network(), copy.limits(), copy.environment(), copy.require(), copy.tests()),
                (
                    policy.filesystem(),
                    policy.network(),
                    policy.limits(),
                    policy.environment(),
                    policy.require(),
                    policy.tests()
                ),
            );
        }
    }

    proptest! {
        #[test]
        fn quoted_text_reads_back(text: String) {
            let document = format!("a = {}", quoted(&text));
            let table: toml::Table = toml::from_str(&document).expect("a basic string");
            prop_assert_eq!(table["a"].as_str(), Some(text.as_str()));
        }
    }
}
