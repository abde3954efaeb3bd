//! Rules of the functions slice.

use super::{check_files, check_lists, strict};
use crate::error::{Refusal, Result};
use crate::spec::{Function, Functions};
use axum::http::StatusCode;
use run402::api::functions::is_name;
use run402::deploy::cron::shortest_interval_minutes;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// What every tier has here: as much as the largest elsewhere.
pub(crate) const MAX_TIMEOUT_SECONDS: u32 = 60;
pub(crate) const MAX_MEMORY_MB: u32 = 512;
pub(crate) const MAX_SCHEDULES: usize = 10;

const MAX_FUNCTIONS: usize = 1000;
const MAX_DEPS: usize = 30;
const MAX_DEP_CHARS: usize = 200;
/// Cannot be installed beside a function: there already, or native code.
const FORBIDDEN_DEPS: [&str; 5] = ["@run402/functions", "run402-functions", "sharp", "canvas", "bcrypt"];
const MAX_CACHE_SECONDS: u32 = 600;

pub(super) fn check(functions: &Functions) -> Result<()> {
    let replaced = functions.replace.iter().flatten().map(|(name, function)| ("replace", name, function));
    let set = functions.patch.iter().flat_map(|patch| &patch.set).map(|(name, function)| ("patch.set", name, function));
    let all: Vec<_> = replaced.chain(set).collect();
    if all.len() > MAX_FUNCTIONS {
        return Err(Refusal::spec("functions", format!("at most {MAX_FUNCTIONS} functions are taken")));
    }
    for (place, name, function) in &all {
        let at = format!("functions.{place}.{name}");
        if !is_name(name) {
            return Err(Refusal::spec(&at, "a name is 1 to 128 lower-case letters, digits, - and _, no - or _ first"));
        }
        check_function(&at, function)?;
    }
    if let Some(patch) = &functions.patch {
        check_lists("functions.patch.delete", &patch.delete, is_name)?;
        if let Some(name) = patch.delete.iter().find(|name| patch.set.contains_key(*name)) {
            return Err(Refusal::spec("functions.patch.delete", format!("{name} is set and deleted")));
        }
    }
    check_gates(&all.iter().map(|(_, _, function)| *function).collect::<Vec<_>>())
}

fn check_function(at: &str, function: &Function) -> Result<()> {
    if function.runtime != "node22" {
        return Err(Refusal::spec(&format!("{at}.runtime"), "the only runtime is node22"));
    }
    match (&function.source, &function.files) {
        (Some(_), None) => {}
        (None, Some(files)) => {
            check_files(&format!("{at}.files"), files)?;
            if !function.entrypoint.as_ref().is_some_and(|entrypoint| files.contains_key(entrypoint)) {
                return Err(Refusal::spec(&format!("{at}.entrypoint"), "the entrypoint is one of the files"));
            }
        }
        _ => return Err(Refusal::spec(at, "a function has exactly one of source and files")),
    }
    let config = &function.config;
    check_limit(at, "timeout_seconds", config.timeout_seconds, MAX_TIMEOUT_SECONDS, "FUNCTION_TIMEOUT_EXCEEDS_TIER")?;
    check_limit(at, "memory_mb", config.memory_mb, MAX_MEMORY_MB, "FUNCTION_MEMORY_EXCEEDS_TIER")?;
    if let Some(Some(schedule)) = &function.schedule {
        check_cron(&format!("{at}.schedule"), schedule)?;
    }
    check_deps(&format!("{at}.deps"), &function.deps)?;
    if let Some(triggers) = &function.triggers {
        check_triggers(&format!("{at}.triggers"), triggers)?;
    }
    match function.class.as_deref() {
        None | Some("ssr" | "standard") => Ok(()),
        Some(_) => Err(Refusal::spec(&format!("{at}.class"), "a class is ssr or standard")),
    }
}

fn check_limit(at: &str, field: &str, value: Option<u32>, most: u32, code: &str) -> Result<()> {
    let at = format!("{at}.config.{field}");
    match value {
        Some(0) => Err(Refusal::spec(&at, "a positive whole number is wanted")),
        Some(value) if value > most => {
            let message = format!("{value} is more than the {most} that every function has at most");
            Err(Refusal::deploy(StatusCode::UNPROCESSABLE_ENTITY, code, "plan", &at, message)
                .detail("tier_max", most.into()))
        }
        _ => Ok(()),
    }
}

/// Five fields; minutes and hours as they are counted, the others of the letters that they are made of.
fn check_cron(at: &str, schedule: &str) -> Result<()> {
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    let plain = |field: &&str| field.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"*,-/".contains(&byte));
    let good = fields.len() == 5 && fields.iter().all(plain) && shortest_interval_minutes(schedule).is_some();
    match good {
        true => Ok(()),
        false => Err(Refusal::spec(at, "a schedule is a cron expression of five fields, as in 0 3 * * *")),
    }
}

/// Without the version, which begins at the second @ of a name with a scope.
pub(crate) fn package_name(dep: &str) -> &str {
    let mut ats = dep.match_indices('@').map(|(at, _)| at).filter(|at| *at > 0);
    ats.next().map_or(dep, |at| &dep[..at])
}

fn check_deps(at: &str, deps: &[String]) -> Result<()> {
    if deps.len() > MAX_DEPS {
        return Err(Refusal::spec(at, format!("at most {MAX_DEPS} packages are taken")));
    }
    for dep in deps {
        let length = dep.chars().count();
        if length == 0 || length > MAX_DEP_CHARS || dep.chars().any(char::is_whitespace) {
            return Err(Refusal::spec(at, format!("{dep:?} is not a package's name with or without a version")));
        }
        let name = package_name(dep);
        if FORBIDDEN_DEPS.contains(&name) {
            return Err(Refusal::spec(at, format!("{name} cannot be installed beside a function")));
        }
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Trigger {
    Schedule {
        id: String,
        cron: String,
        #[serde(default)]
        timezone: Option<String>,
        #[serde(default)]
        misfire_policy: Option<String>,
        #[serde(default)]
        overlap_policy: Option<String>,
        run: Run,
    },
    Email {
        id: String,
        mailbox: String,
        events: Vec<String>,
        run: Run,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    event_type: String,
    #[serde(default, rename = "payload")]
    _payload: Option<Value>,
    #[serde(default, rename = "retry")]
    _retry: Option<Value>,
    #[serde(default)]
    expires_after_seconds: Option<u64>,
}

fn check_triggers(at: &str, triggers: &Value) -> Result<()> {
    let list = triggers.as_array().ok_or_else(|| Refusal::spec(at, "a list is wanted"))?;
    let mut ids = BTreeSet::new();
    for (index, value) in list.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let (id, run) = match strict(value, &at)? {
            Trigger::Schedule { id, cron, timezone, misfire_policy, overlap_policy, run } => {
                check_cron(&format!("{at}.cron"), &cron)?;
                let known = misfire_policy.is_none_or(|policy| policy == "skip")
                    && overlap_policy.is_none_or(|policy| policy == "allow")
                    && timezone.is_none_or(|zone| !zone.is_empty());
                if !known {
                    return Err(Refusal::spec(&at, "misfire_policy is skip, overlap_policy is allow"));
                }
                (id, run)
            }
            Trigger::Email { id, mailbox, events, run } => {
                if mailbox.is_empty() || events.is_empty() {
                    return Err(Refusal::spec(&at, "a mailbox and at least one event are wanted"));
                }
                (id, run)
            }
        };
        if run.event_type.is_empty() || run.expires_after_seconds == Some(0) {
            return Err(Refusal::spec(&format!("{at}.run"), "a run has an event_type, and time"));
        }
        if id.is_empty() || !ids.insert(id) {
            return Err(Refusal::spec(&format!("{at}.id"), "every trigger has an id of its own"));
        }
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleGate {
    table: String,
    id_column: String,
    role_column: String,
    allowed: Vec<String>,
    #[serde(default)]
    cache_ttl: Option<u32>,
    #[serde(default, rename = "on_deny")]
    _on_deny: Option<Value>,
    #[serde(default)]
    sign_in_path: Option<String>,
}

/// All gates of a release ask the same column of the same table.
fn check_gates(functions: &[&Function]) -> Result<()> {
    let refuse = |message: &str| {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Err(Refusal::deploy(status, "DEPLOY_INVALID_ROLE_GATE", "plan", "functions.require_role", message))
    };
    let mut asked: Option<(String, String, String)> = None;
    for value in functions.iter().filter_map(|function| function.require_role.as_ref()) {
        let gate: RoleGate = strict(value, "functions.require_role")?;
        let plain = |name: &str| !name.is_empty() && !name.contains('.') && !name.chars().any(char::is_whitespace);
        if ![&gate.table, &gate.id_column, &gate.role_column].into_iter().all(|name| plain(name)) {
            return refuse("table, id_column and role_column are names without a schema");
        }
        if gate.allowed.is_empty() || gate.allowed.iter().any(String::is_empty) {
            return refuse("allowed names at least one role");
        }
        if gate.cache_ttl.is_some_and(|seconds| seconds > MAX_CACHE_SECONDS) {
            return refuse("cache_ttl is 0 to 600 seconds");
        }
        if gate.sign_in_path.is_some_and(|path| !path.starts_with('/')) {
            return refuse("sign_in_path is a path");
        }
        let column = (gate.table, gate.id_column, gate.role_column);
        if asked.get_or_insert_with(|| column.clone()) != &column {
            return refuse("all gates of a release ask the same table and columns");
        }
    }
    Ok(())
}

/// The limits, as the tiers' status tells them.
pub(crate) fn limits() -> Map<String, Value> {
    [
        ("max_function_timeout_seconds", MAX_TIMEOUT_SECONDS.into()),
        ("max_function_memory_mb", MAX_MEMORY_MB.into()),
        ("max_scheduled_functions", MAX_SCHEDULES.into()),
        ("min_cron_interval_minutes", 1.into()),
    ]
    .into_iter()
    .map(|(name, value): (&str, Value)| (name.to_owned(), value))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::package_name;
    use crate::spec::Spec;
    use serde_json::{Value, json};

    fn read(function: Value) -> Result<(), (String, String)> {
        let mut whole = json!({"source": {"sha256": "00".repeat(32), "size": 1}});
        crate::deploy::merge(&mut whole, function);
        let spec = json!({"project_id": "p", "functions": {"patch": {"set": {"f": whole}}}});
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Spec::read(spec).map(drop).map_err(|refusal| {
            let refusal = refusal.envelope();
            (text(&refusal["code"]), text(&refusal["details"]["resource"]))
        })
    }

    #[test]
    fn names_of_packages_end_where_versions_begin() {
        for (dep, name) in
            [("zod", "zod"), ("zod@3", "zod"), ("@scope/name@1.2.3", "@scope/name"), ("@scope/name", "@scope/name")]
        {
            assert_eq!(package_name(dep), name);
        }
    }

    #[test]
    fn functions_say_where_they_are_wrong() {
        let gate = json!({"table": "members", "id_column": "user_id", "role_column": "role", "allowed": ["admin"]});
        let mut qualified = gate.clone();
        qualified["table"] = json!("auth.members");
        let run = json!({"event_type": "x"});
        for (function, code, resource) in [
            (json!({"runtime": "node18"}), "INVALID_SPEC", "runtime"),
            (json!({"source": null}), "INVALID_SPEC", ""),
            (json!({"files": {"a": {"sha256": "00".repeat(32), "size": 1}}}), "INVALID_SPEC", ""),
            (
                json!({"source": null, "files": {"a": {"sha256": "00".repeat(32), "size": 1}}}),
                "INVALID_SPEC",
                "entrypoint",
            ),
            (json!({"config": {"timeout_seconds": 0}}), "INVALID_SPEC", "config.timeout_seconds"),
            (json!({"config": {"timeout_seconds": 61}}), "FUNCTION_TIMEOUT_EXCEEDS_TIER", "config.timeout_seconds"),
            (json!({"config": {"memory_mb": 513}}), "FUNCTION_MEMORY_EXCEEDS_TIER", "config.memory_mb"),
            (json!({"config": {"memoryMb": 1}}), "INVALID_SPEC", "config.memoryMb"),
            (json!({"schedule": "* * * *"}), "INVALID_SPEC", "schedule"),
            (json!({"schedule": "61 * * * *"}), "INVALID_SPEC", "schedule"),
            (json!({"deps": ["a b"]}), "INVALID_SPEC", "deps"),
            (json!({"deps": ["sharp@1.0.0"]}), "INVALID_SPEC", "deps"),
            (json!({"deps": ["@run402/functions@1"]}), "INVALID_SPEC", "deps"),
            (json!({"class": "edge"}), "INVALID_SPEC", "class"),
            (
                json!({"triggers": [{"id": "a", "type": "schedule", "cron": "* * * *", "run": run}]}),
                "INVALID_SPEC",
                "triggers[0].cron",
            ),
            (
                json!({"triggers": [{"id": "a", "type": "email", "mailbox": "m", "events": [], "run": run}]}),
                "INVALID_SPEC",
                "triggers[0]",
            ),
        ] {
            let place = if resource.is_empty() {
                "functions.patch.set.f".to_owned()
            } else {
                format!("functions.patch.set.f.{resource}")
            };
            assert_eq!(read(function.clone()), Err((code.to_owned(), place)), "{function}");
        }
        assert_eq!(read(json!({"require_role": qualified})).expect_err("a schema").0, "DEPLOY_INVALID_ROLE_GATE");
        read(json!({"require_role": gate})).expect("a gate");
    }

    #[test]
    fn whole_functions_are_taken() {
        for function in [
            json!({"config": {"timeout_seconds": 60, "memory_mb": 512}, "schedule": "*/5 0-6 * * mon", "class": "ssr",
                "deps": ["left-pad", "@scope/name@1.2.3", "zod@3"]}),
            json!({"schedule": null}),
            json!({"triggers": [{"id": "a", "type": "schedule", "cron": "0 3 * * *", "timezone": "UTC", "misfire_policy": "skip",
                "overlap_policy": "allow", "run": {"event_type": "x", "payload": {}}}], "capabilities": []}),
        ] {
            read(function.clone()).unwrap_or_else(|_| panic!("{function}"));
        }
    }
}
