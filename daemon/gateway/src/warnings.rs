//! What somebody should look at before a release is live.
//!
//! Pure: the release as it will be, the spec that leads to it, and which secrets have a value. Only a secret
//! that is missing asks for a confirmation: everything else works, if not as it was meant.

use crate::release::{Manifest, covers};
use crate::rules::MAX_ROUTES;
use crate::spec::{Route, RouteTarget, Spec};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Paths and patterns that one warning names.
const MAX_AFFECTED: usize = 10;

/// How much a warning matters.
#[derive(Debug, Clone, Copy)]
enum Severity {
    Info,
    Warn,
    High,
}

impl Severity {
    const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::High => "high",
        }
    }
}

fn warning(code: &str, severity: Severity, message: String, affected: &[&str]) -> Value {
    let confirmation = matches!(severity, Severity::High);
    json!({"code": code, "severity": severity.name(), "requires_confirmation": confirmation, "message": message,
        "affected": affected})
}

/// `present` are the secrets that have a value.
pub(crate) fn warnings(after: &Manifest, spec: &Spec, present: &BTreeSet<String>) -> Vec<Value> {
    let mut found = Vec::new();
    let missing: Vec<&str> = after.secrets.difference(present).map(String::as_str).collect();
    if !missing.is_empty() {
        let message = format!("the release needs secrets that have no value: {}", missing.join(", "));
        found.push(warning("MISSING_REQUIRED_SECRET", Severity::High, message, &missing));
    }
    // Routes that stay are not told of again, unless files have come that they hide.
    if spec.routes.is_some() {
        after.routes.iter().for_each(|route| of_target(after, spec, route, &mut found));
        near_limit(after, &mut found);
    }
    if spec.routes.is_some() || spec.site.is_some() {
        after.routes.iter().for_each(|route| of_files(after, route, &mut found));
    }
    found
}

fn of_target(after: &Manifest, spec: &Spec, route: &Route, found: &mut Vec<Value>) {
    let pattern = route.pattern.as_str();
    match &route.target {
        RouteTarget::Function { name } => {
            let message = format!("anybody can call function {name} at {pattern}");
            found.push(warning("PUBLIC_ROUTED_FUNCTION", Severity::Info, message, &[pattern]));
            let given = spec.functions.as_ref().is_some_and(|functions| {
                let set = functions.patch.as_ref().is_some_and(|patch| patch.set.contains_key(name));
                set || functions.replace.as_ref().is_some_and(|replace| replace.contains_key(name))
            });
            if !given {
                let message = format!("{pattern} goes to function {name} of the release before");
                found.push(warning("ROUTE_TARGET_CARRIED_FORWARD", Severity::Info, message, &[pattern]));
            }
        }
        RouteTarget::Static { file } => of_alias(after, pattern, file, found),
    }
}

/// A path that answers with a file of another name.
fn of_alias(after: &Manifest, pattern: &str, file: &str, found: &mut Vec<Value>) {
    let path = &pattern[1..];
    if path == file {
        return;
    }
    let html = file.ends_with(".html") || file.ends_with(".htm");
    if after.site.contains_key(path) {
        let message = format!("{pattern} is answered with {file}, in place of the file of that name");
        found.push(warning("STATIC_ALIAS_SHADOWS_STATIC_PATH", Severity::Warn, message, &[pattern]));
    }
    let folder = |path: &str| path.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
    if html && folder(path) != folder(file) {
        let message = format!("links of {file} that are relative lead elsewhere when it is read at {pattern}");
        found.push(warning("STATIC_ALIAS_RELATIVE_ASSET_RISK", Severity::Info, message, &[pattern]));
    }
    if after.public_paths.is_none() {
        let message = format!("{file} can be read at /{file} as well");
        found.push(warning("STATIC_ALIAS_DUPLICATE_CANONICAL_URL", Severity::Info, message, &[pattern]));
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    if !last.contains('.') && !html {
        let message = format!("{pattern} looks like a page, and is answered with {file}");
        found.push(warning("STATIC_ALIAS_EXTENSIONLESS_NON_HTML", Severity::Info, message, &[pattern]));
    }
}

/// Files that a route stands before.
fn of_files(after: &Manifest, route: &Route, found: &mut Vec<Value>) {
    if matches!(route.target, RouteTarget::Static { .. }) {
        return;
    }
    let pattern = &route.pattern;
    let covered = after.site.keys().filter(|path| covers(route, &format!("/{path}")));
    let covered: Vec<&str> = covered.take(MAX_AFFECTED).map(String::as_str).collect();
    if covered.is_empty() {
        return;
    }
    if !route.allows("GET") {
        let message = format!("{pattern} does not answer GET, so that files of the site are read there");
        let code = "METHOD_SPECIFIC_ROUTE_ALLOWS_GET_STATIC_FALLBACK";
        found.push(warning(code, Severity::Info, message, &covered));
        return;
    }
    let code = match route.prefix() {
        Some(_) => "WILDCARD_ROUTE_SHADOWS_STATIC_PATHS",
        None => "ROUTE_SHADOWS_STATIC_PATH",
    };
    let message = format!("{pattern} is answered in place of files of the site");
    found.push(warning(code, Severity::Warn, message, &covered));
}

fn near_limit(after: &Manifest, found: &mut Vec<Value>) {
    const NEAR: usize = MAX_ROUTES / 10 * 9;
    let aliases = after.routes.iter().filter(|route| matches!(route.target, RouteTarget::Static { .. })).count();
    for (code, count) in [("ROUTE_TABLE_NEAR_LIMIT", after.routes.len()), ("STATIC_ALIAS_TABLE_NEAR_LIMIT", aliases)] {
        if count > NEAR {
            let message = format!("{count} routes of at most {MAX_ROUTES}");
            found.push(warning(code, Severity::Warn, message, &[]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(slices: Value, present: &[&str]) -> Vec<String> {
        let mut spec = slices;
        spec["project_id"] = json!("p");
        let spec = Spec::read(spec).expect("a spec");
        let present = present.iter().map(|key| (*key).to_owned()).collect();
        let found = warnings(&Manifest::default().apply(&spec), &spec, &present);
        found.iter().map(|warning| warning["code"].as_str().expect("a code").to_owned()).collect()
    }

    #[test]
    fn what_is_missing_and_what_is_hidden_is_named() {
        let content = json!({"sha256": "00".repeat(32), "size": 1});
        let function = json!({"type": "function", "name": "f"});
        let slices = json!({"site": {"replace": {"api/x.json": content, "home.html": content, "hook": content}},
        "secrets": {"require": ["A", "B"]}, "functions": {"replace": {"f": {"source": content}}},
        "routes": {"replace": [
            {"pattern": "/api/*", "target": function},
            {"pattern": "/hook", "methods": ["POST"], "target": function},
        ]}});
        assert_eq!(
            codes(slices.clone(), &["A"]),
            [
                "MISSING_REQUIRED_SECRET",
                "PUBLIC_ROUTED_FUNCTION",
                "PUBLIC_ROUTED_FUNCTION",
                "WILDCARD_ROUTE_SHADOWS_STATIC_PATHS",
                "METHOD_SPECIFIC_ROUTE_ALLOWS_GET_STATIC_FALLBACK"
            ]
        );
        assert_eq!(codes(slices, &["A", "B"]).len(), 4);
    }

    #[test]
    fn aliases_tell_of_what_they_do_to_links() {
        let content = json!({"sha256": "00".repeat(32), "size": 1});
        let alias = |pattern: &str, file: &str| {
            let route = json!({"pattern": pattern, "methods": ["GET"], "target": {"type": "static", "file": file}});
            let files = json!({"docs/a.html": content, "a.txt": content, "b": content});
            codes(json!({"site": {"replace": files}, "routes": {"replace": [route]}}), &[])
        };
        assert_eq!(
            alias("/a", "docs/a.html"),
            ["STATIC_ALIAS_RELATIVE_ASSET_RISK", "STATIC_ALIAS_DUPLICATE_CANONICAL_URL"]
        );
        assert_eq!(
            alias("/b", "a.txt"),
            [
                "STATIC_ALIAS_SHADOWS_STATIC_PATH",
                "STATIC_ALIAS_DUPLICATE_CANONICAL_URL",
                "STATIC_ALIAS_EXTENSIONLESS_NON_HTML"
            ]
        );
        assert!(alias("/a.txt", "a.txt").is_empty());
    }
}
