//! Whether the functions of a release fit into the caller's tier, before anything is planned.
//!
//! Input: the release and what the gateway says of the tier. Output: nothing, or a `BAD_FIELD` that names
//! the field, the value and the limit. When the tier cannot be read, nothing is checked: the gateway is
//! the one that decides.

use super::cron::shortest_interval_minutes;
use super::wire::{Function, Spec};
use crate::client::{Auth, Client};
use crate::error::Error;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const CONTEXT: &str = "checking the tier";

#[derive(Debug, Clone, PartialEq)]
struct Limits {
    tier: String,
    timeout_seconds: Option<u64>,
    memory_mb: Option<u64>,
    scheduled: Option<u64>,
    interval_minutes: Option<u64>,
    source: &'static str,
}

/// Needs a request only when a function names a timeout, a memory or a schedule.
pub(crate) async fn check(client: &Client, spec: &Spec) -> Result<(), Error> {
    let functions = functions(spec);
    let names_limit = |function: &Function| function.config.is_some() || matches!(function.schedule, Some(Some(_)));
    if client.is_bearer() || !functions.iter().any(|(_, function)| names_limit(function)) {
        return Ok(());
    }
    let Ok(status) = client.get("/tiers/v1/status", Auth::Wallet).send(CONTEXT).await else { return Ok(()) };
    let Some(limits) = limits(&status.value()) else { return Ok(()) };
    check_functions(&functions, &limits)?;
    check_schedules(client, spec, &functions, &limits).await
}

fn functions(spec: &Spec) -> Vec<(&String, &Function)> {
    let Some(functions) = &spec.functions else { return Vec::new() };
    let set = functions.patch.as_ref().and_then(|patch| patch.set.as_ref());
    functions.replace.iter().flatten().chain(set.into_iter().flatten()).collect()
}

fn limits(status: &Value) -> Option<Limits> {
    let tier = status.get("tier").and_then(Value::as_str)?.to_owned();
    let nested = |path: &[&str]| path.iter().try_fold(status, |value, name| value.get(name)).and_then(Value::as_object);
    let places =
        [&["function_limits"][..], &["limits", "functions"], &["limits", "function_limits"], &["pool_usage"], &[]];
    let places: Vec<&Map<String, Value>> = places.iter().filter_map(|path| nested(path)).collect();
    let find = |names: &[&str]| {
        places.iter().find_map(|place| names.iter().find_map(|name| place.get(*name).and_then(Value::as_u64)))
    };
    let given = Limits {
        tier: tier.clone(),
        timeout_seconds: find(&["max_function_timeout_seconds", "max_timeout_seconds"]),
        memory_mb: find(&["max_function_memory_mb", "max_memory_mb"]),
        scheduled: find(&["max_scheduled_functions"]),
        interval_minutes: find(&["min_cron_interval_minutes", "min_schedule_interval_minutes"]),
        source: "tier_status",
    };
    let named = [given.timeout_seconds, given.memory_mb, given.scheduled, given.interval_minutes];
    if named.iter().any(Option::is_some) {
        return Some(given);
    }
    let (timeout, memory, scheduled, interval) = match tier.as_str() {
        "prototype" => (10, 128, 1, 15),
        "hobby" => (30, 256, 3, 5),
        "team" => (60, 512, 10, 1),
        _ => return None,
    };
    Some(Limits {
        tier,
        timeout_seconds: Some(timeout),
        memory_mb: Some(memory),
        scheduled: Some(scheduled),
        interval_minutes: Some(interval),
        source: "local_static_fallback",
    })
}

fn exceeded(field: &str, message: String, limits: &Limits, mut details: Value) -> Error {
    if let Some(fields) = details.as_object_mut() {
        fields.insert("field".to_owned(), json!(field));
        fields.insert("tier".to_owned(), json!(limits.tier));
        fields.insert("limit_source".to_owned(), json!(limits.source));
    }
    Error::deploy("BAD_FIELD", "validate", field, message)
        .with_details(details)
        .with_fix(json!({"action": "set_field", "path": field}))
}

fn check_functions(functions: &[(&String, &Function)], limits: &Limits) -> Result<(), Error> {
    for (name, function) in functions {
        let config = function.config.clone().unwrap_or_default();
        for (field, value, most) in [
            ("timeoutSeconds", config.timeout_seconds, limits.timeout_seconds),
            ("memoryMb", config.memory_mb, limits.memory_mb),
        ] {
            let (Some(value), Some(most)) = (value.map(u64::from), most) else { continue };
            if value > most {
                let field = format!("functions.{name}.config.{field}");
                let message = format!("{field} is {value}; tier {} allows at most {most}", limits.tier);
                return Err(exceeded(&field, message, limits, json!({"value": value, "tier_max": most})));
            }
        }
        let Some(Some(schedule)) = &function.schedule else { continue };
        let (Some(interval), Some(least)) =
            (shortest_interval_minutes(schedule).map(u64::from), limits.interval_minutes)
        else {
            continue;
        };
        if interval < least {
            let field = format!("functions.{name}.schedule");
            let message = format!(
                "{schedule:?} is due every {interval} minutes; tier {} allows at most every {least}",
                limits.tier
            );
            let details = json!({"value": schedule, "interval_minutes": interval, "min_interval_minutes": least});
            return Err(exceeded(&field, message, limits, details));
        }
    }
    Ok(())
}

/// How many functions would have a schedule, those that stay included.
async fn check_schedules(
    client: &Client,
    spec: &Spec,
    functions: &[(&String, &Function)],
    limits: &Limits,
) -> Result<(), Error> {
    let Some(most) = limits.scheduled else { return Ok(()) };
    let has_schedule = |function: &Function| matches!(function.schedule, Some(Some(_)));
    let mut scheduled: BTreeSet<String> =
        functions.iter().filter(|(_, function)| has_schedule(function)).map(|(name, _)| (*name).clone()).collect();
    let Some(last) = scheduled.last().cloned() else { return Ok(()) };
    if let Some(patch) = spec.functions.as_ref().and_then(|functions| functions.patch.as_ref()) {
        let path = "/apply/v1/releases/active?site_limit=1";
        let Ok(reply) = client.get(path, Auth::Anon(&spec.project_id)).send(CONTEXT).await else { return Ok(()) };
        let touched = |name: &str| {
            patch.delete.iter().flatten().any(|deleted| deleted == name)
                || patch.set.as_ref().and_then(|set| set.get(name)).is_some_and(|function| function.schedule.is_some())
        };
        let value = reply.value();
        for live in value.get("functions").and_then(Value::as_array).into_iter().flatten() {
            let Some(name) = live.get("name").and_then(Value::as_str) else { continue };
            if live.get("schedule").is_some_and(Value::is_string) && !touched(name) {
                scheduled.insert(name.to_owned());
            }
        }
    }
    let count = scheduled.len() as u64;
    match count > most {
        false => Ok(()),
        true => {
            let field = format!("functions.{last}.schedule");
            let message =
                format!("{count} functions would have a schedule; tier {} allows at most {most}", limits.tier);
            Err(exceeded(&field, message, limits, json!({"value": count, "tier_max": most})))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_found_wherever_they_are() {
        let found = limits(&json!({"tier": "hobby", "limits": {"functions": {"max_function_timeout_seconds": 7}}}))
            .expect("limits");
        assert_eq!((found.timeout_seconds, found.memory_mb, found.source), (Some(7), None, "tier_status"));
        let fallback = limits(&json!({"tier": "prototype"})).expect("limits");
        assert_eq!(
            (fallback.timeout_seconds, fallback.interval_minutes, fallback.source),
            (Some(10), Some(15), "local_static_fallback")
        );
        assert_eq!(limits(&json!({"tier": "unheard-of"})), None);
        assert_eq!(limits(&json!({})), None);
    }
}
