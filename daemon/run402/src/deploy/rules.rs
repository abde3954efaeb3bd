//! What a release must keep to before anything of it is sent.
//!
//! Input: the author's [`ReleaseSpec`]; output: nothing, or the first rule that it breaks, as an
//! `INVALID_SPEC` (or more exact) error with the dotted path of the field. Pure: looks at no file.

use super::spec::*;
use crate::error::Error;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const MAX_METADATA_BYTES: usize = 4096;

/// Checks every slice.
pub fn check(spec: &ReleaseSpec) -> Result<(), Error> {
    if spec.project.is_empty() {
        return Err(invalid("project", "the release names no project"));
    }
    if let Some(base) = &spec.base {
        check_base(base)?;
    }
    if let Some(database) = &spec.database {
        check_migrations(&database.migrations)?;
    }
    if let Some(secrets) = &spec.secrets {
        check_secrets(secrets)?;
    }
    if let Some(functions) = &spec.functions {
        check_functions(functions)?;
    }
    if let Some(site) = &spec.site {
        check_site(site)?;
    }
    if let Some(subdomains) = &spec.subdomains
        && subdomains.set.as_ref().is_some_and(|set| set.len() > 1)
    {
        return Err(Error::deploy(
            "SUBDOMAIN_MULTI_NOT_SUPPORTED",
            "validate",
            "subdomains.set",
            "a release sets at most one subdomain",
        ));
    }
    if let Some(Some(routes)) = &spec.routes {
        check_routes(routes)?;
    }
    if let Some(assets) = &spec.assets {
        check_assets(assets)?;
    }
    if let Some(Some(i18n)) = &spec.i18n {
        check_i18n(i18n)?;
    }
    match has_anything(spec) {
        true => Ok(()),
        false => Err(Error::deploy("MANIFEST_EMPTY", "validate", "spec", "the release changes nothing")
            .with_fix(json!({"action": "add_slice"}))),
    }
}

/// What a session of CI may deploy.
pub fn check_ci(spec: &ReleaseSpec) -> Result<(), Error> {
    let forbidden = [
        ("secrets", spec.secrets.is_some()),
        ("subdomains", spec.subdomains.is_some()),
        ("checks", spec.checks.is_some()),
        ("i18n", spec.i18n.is_some()),
        ("base", spec.base.as_ref().is_some_and(|base| base.release != Some(BaseRelease::Current))),
    ];
    match forbidden.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((field, _)) => Err(Error::deploy(
            "forbidden_spec_field",
            "validate",
            field,
            format!("a deploy from CI must not hold {field}"),
        )),
    }
}

fn has_anything(spec: &ReleaseSpec) -> bool {
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let files = |files: &Option<Files>| match files {
        Some(Files::Directory(_)) => true,
        Some(Files::Listed(map)) => !map.is_empty(),
        None => false,
    };
    let database = spec.database.as_ref().is_some_and(|database| {
        !database.migrations.is_empty() || database.expose.as_ref().is_some_and(|expose| expose != &json!({}))
    });
    let site = spec.site.as_ref().is_some_and(|site| {
        let patch = site.patch.as_ref().is_some_and(|patch| files(&patch.put) || some(&patch.delete));
        files(&site.replace) || patch || site.public_paths.is_some()
    });
    let functions = spec.functions.as_ref().is_some_and(|functions| {
        let patch = functions
            .patch
            .as_ref()
            .is_some_and(|patch| patch.set.as_ref().is_some_and(|set| !set.is_empty()) || some(&patch.delete));
        patch || functions.replace.as_ref().is_some_and(|replace| !replace.is_empty())
    });
    let secrets = spec.secrets.as_ref().is_some_and(|secrets| some(&secrets.require) || some(&secrets.delete));
    let subdomains =
        spec.subdomains.as_ref().is_some_and(|names| some(&names.set) || some(&names.add) || some(&names.remove));
    let assets = spec.assets.as_ref().is_some_and(|assets| {
        assets.put.as_ref().is_some_and(|put| !put.is_empty()) || some(&assets.delete) || assets.sync.is_some()
    });
    let checks = spec.checks.as_ref().is_some_and(|checks| !checks.is_empty());
    let routes = matches!(spec.routes, Some(Some(_)));
    database || site || functions || secrets || subdomains || assets || checks || routes || spec.i18n.is_some()
}

fn check_base(base: &Base) -> Result<(), Error> {
    match (&base.release, &base.release_id) {
        (Some(_), None) | (None, Some(_)) => Ok(()),
        _ => Err(invalid("base", "a base has either release or release_id")),
    }
}

fn check_migrations(migrations: &[Migration]) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for (index, migration) in migrations.iter().enumerate() {
        let at = format!("database.migrations[{index}]");
        let name = match (&migration.id, &migration.name) {
            (Some(id), None) if !id.is_empty() => id,
            (None, Some(name)) if is_migration_name(name) => name,
            (None, Some(_)) => {
                let rule = "a migration's name is 1 to 64 letters, digits, - and _, a letter or digit first";
                return Err(invalid(&format!("{at}.name"), rule));
            }
            _ => return Err(invalid(&at, "a migration has exactly one of id and name")),
        };
        if !seen.insert((migration.id.is_some(), name)) {
            return Err(invalid(&at, format!("two migrations are called {name}")));
        }
        let given = [migration.sql.is_some(), migration.sql_path.is_some(), migration.sql_ref.is_some()];
        match given.iter().filter(|given| **given).count() {
            1 => {}
            0 => {
                let message = format!("migration {name} has no SQL");
                return Err(Error::deploy("MIGRATION_SQL_NOT_FOUND", "validate", &at, message));
            }
            _ => return Err(invalid(&at, "a migration has exactly one of sql, sql_path and sql_ref")),
        }
    }
    Ok(())
}

fn is_migration_name(name: &str) -> bool {
    name.len() <= 64
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

/// `^[A-Z_][A-Z0-9_]{0,127}$`
pub fn is_secret_key(key: &str) -> bool {
    key.len() <= 128
        && key.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
        && key.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

fn check_secrets(secrets: &Secrets) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for (list, keys) in [("require", &secrets.require), ("delete", &secrets.delete)] {
        for key in keys.iter().flatten() {
            if !is_secret_key(key) {
                let rule = "a secret's key is 1 to 128 upper-case letters, digits and _, no digit first";
                return Err(invalid(&format!("secrets.{list}"), format!("{key:?}: {rule}")));
            }
            if !seen.insert(key) {
                return Err(invalid(&format!("secrets.{list}"), format!("{key} is named twice")));
            }
        }
    }
    Ok(())
}

fn check_functions(functions: &Functions) -> Result<(), Error> {
    let replaced = functions.replace.iter().flatten().map(|(name, function)| ("replace", name, function));
    let set = functions.patch.iter().flat_map(|patch| patch.set.iter().flatten());
    let set = set.map(|(name, function)| ("patch.set", name, function));
    for (place, name, function) in replaced.chain(set) {
        let at = format!("functions.{place}.{name}");
        if name.is_empty() {
            return Err(invalid(&at, "a function has a name"));
        }
        match (&function.source, &function.files, &function.entrypoint) {
            (Some(_), None, _) => {}
            (None, Some(Files::Listed(files)), Some(entrypoint)) if !files.contains_key(entrypoint) => {
                return Err(invalid(&format!("{at}.entrypoint"), format!("{entrypoint} is not among the files")));
            }
            (None, Some(_), Some(_)) => {}
            (None, Some(_), None) => return Err(invalid(&format!("{at}.entrypoint"), "files need an entrypoint")),
            _ => return Err(invalid(&at, "a function has exactly one of source and files")),
        }
        if let Some(config) = &function.config {
            for (field, value) in [("timeout_seconds", config.timeout_seconds), ("memory_mb", config.memory_mb)] {
                if value == Some(0) {
                    return Err(invalid(&format!("{at}.config.{field}"), "a positive whole number is wanted"));
                }
            }
        }
        if let Some(Some(schedule)) = &function.schedule
            && schedule.split_whitespace().count() != 5
        {
            return Err(invalid(&format!("{at}.schedule"), "a schedule has five fields, as in 0 3 * * *"));
        }
    }
    Ok(())
}

fn check_site(site: &Site) -> Result<(), Error> {
    match (&site.replace, &site.patch, &site.public_paths) {
        (Some(_), Some(_), _) => return Err(invalid("site", "a site has replace or patch, not both")),
        (None, None, None) => return Err(invalid("site", "a site has replace, patch or public_paths")),
        _ => {}
    }
    let put = site.patch.as_ref().and_then(|patch| patch.put.as_ref());
    for (place, files) in [("site.replace", site.replace.as_ref()), ("site.patch.put", put)] {
        if let Some(Files::Listed(map)) = files {
            map.keys().try_for_each(|path| check_site_path(place, path))?;
        }
    }
    Ok(())
}

/// The build tree of a server-side renderer is not a site.
pub(crate) fn check_site_path(place: &str, path: &str) -> Result<(), Error> {
    if path == "run402/adapter.json" || path.starts_with("run402/server/") {
        let message = format!("{path} belongs to the adapter's output, which is not a static site");
        return Err(Error::deploy("ASTRO_ADAPTER_TREE_IN_SITE", "validate", place, message));
    }
    match is_relative_path(path) {
        true => Ok(()),
        false => Err(invalid(place, format!("{path:?} is not a relative path without empty, . and .. parts"))),
    }
}

fn is_relative_path(path: &str) -> bool {
    !path.is_empty() && !path.contains('\0') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn check_routes(routes: &Routes) -> Result<(), Error> {
    for (index, route) in routes.replace.iter().enumerate() {
        let at = format!("routes.replace[{index}]");
        if route.pattern.is_empty() {
            return Err(invalid(&format!("{at}.pattern"), "a pattern is not empty"));
        }
        let methods = route.methods.as_deref();
        if let Some(methods) = methods {
            let unique: BTreeSet<&String> = methods.iter().collect();
            let known = methods.iter().all(|method| METHODS.contains(&method.as_str()));
            if methods.is_empty() || unique.len() != methods.len() || !known {
                let rule = format!("methods are one or more of {}, each once", METHODS.join(", "));
                return Err(invalid(&format!("{at}.methods"), rule));
            }
        }
        if let RouteTarget::Static { file } = &route.target {
            check_static_target(&at, route, methods, file)?;
        }
        if route.acknowledge_readonly.is_some() && !may_acknowledge(route) {
            let rule = "only true, and only for a function's route that ends in /* and has no methods but GET and HEAD";
            return Err(invalid(&format!("{at}.acknowledge_readonly"), rule));
        }
        if let Some(pricing) = &route.pricing {
            check_pricing(&at, &route.target, pricing)?;
        }
    }
    Ok(())
}

fn check_static_target(at: &str, route: &Route, methods: Option<&[String]>, file: &str) -> Result<(), Error> {
    if route.pattern.contains('*') {
        return Err(invalid(&format!("{at}.pattern"), "a static target needs an exact pattern"));
    }
    let reads = methods.is_some_and(|methods| {
        methods.iter().any(|method| method == "GET") && methods.iter().all(|method| is_read(method))
    });
    if !reads {
        return Err(invalid(&format!("{at}.methods"), "a static target answers GET, or GET and HEAD"));
    }
    if !is_relative_path(file) || file.contains(['?', '#', '\\']) {
        return Err(invalid(&format!("{at}.target.file"), format!("{file:?} is not a relative path of a file")));
    }
    Ok(())
}

fn is_read(method: &str) -> bool {
    matches!(method, "GET" | "HEAD")
}

/// A function's route of everything below a path that answers nothing but reads.
pub(crate) fn is_readonly_wildcard(route: &Route) -> bool {
    matches!(route.target, RouteTarget::Function { .. })
        && route.pattern.ends_with("/*")
        && route.methods.as_ref().is_some_and(|methods| methods.iter().all(|method| is_read(method)))
}

fn may_acknowledge(route: &Route) -> bool {
    route.acknowledge_readonly == Some(true) && is_readonly_wildcard(route)
}

fn check_pricing(at: &str, target: &RouteTarget, pricing: &Value) -> Result<(), Error> {
    let at = format!("{at}.pricing");
    if !matches!(target, RouteTarget::Function { .. }) {
        return Err(invalid(&at, "only a function's route can have a price"));
    }
    let Some(fields) = pricing.as_object() else { return Err(invalid(&at, "a price is an object")) };
    for (name, value) in fields {
        let ok = match name.as_str() {
            "mode" => value == "always",
            "amount_usd_micros" => value.as_u64().is_some_and(|amount| amount > 0),
            "pay_to" => value == "org_default_payout",
            "receipt" => value == "on_fulfillment",
            "networks" => value.as_array().is_some_and(|networks| {
                !networks.is_empty() && networks.iter().all(|network| network == "mainnet" || network == "testnet")
            }),
            _ => false,
        };
        if !ok {
            return Err(invalid(&format!("{at}.{name}"), "not a field or value that a price can have"));
        }
    }
    for required in ["mode", "amount_usd_micros", "pay_to"] {
        if !fields.contains_key(required) {
            return Err(invalid(&format!("{at}.{required}"), "a price needs mode, amount_usd_micros and pay_to"));
        }
    }
    Ok(())
}

fn check_assets(assets: &Assets) -> Result<(), Error> {
    let mut keys = BTreeSet::new();
    for (index, put) in assets.put.iter().flatten().enumerate() {
        let at = format!("assets.put[{index}]");
        if put.key.is_empty() {
            return Err(invalid(&format!("{at}.key"), "an asset has a key"));
        }
        if !keys.insert(&put.key) {
            let message = format!("{} is put twice", put.key);
            return Err(Error::deploy("ASSET_DUPLICATE_KEY_IN_PUT", "validate", &at, message));
        }
        if let Some(metadata) = &put.metadata
            && !is_metadata(metadata)
        {
            let rule = "metadata is a flat object of texts, numbers, booleans and lists of texts, at most 4096 bytes";
            return Err(Error::deploy("INVALID_ASSET_METADATA", "validate", &format!("{at}.metadata"), rule));
        }
    }
    if let Some(key) = assets.delete.iter().flatten().find(|key| keys.contains(key)) {
        let message = format!("{key} is put and deleted");
        return Err(Error::deploy("ASSET_KEY_IN_PUT_AND_DELETE", "validate", "assets.delete", message));
    }
    if let Some(sync) = &assets.sync {
        let prefix = sync.get("prefix").and_then(Value::as_str).unwrap_or_default();
        if prefix.is_empty() || sync.get("prune") != Some(&Value::Bool(true)) {
            return Err(invalid("assets.sync", "a sync has a prefix and prune: true"));
        }
    }
    Ok(())
}

fn is_metadata(metadata: &Value) -> bool {
    let flat = |value: &Value| match value {
        Value::String(_) | Value::Number(_) | Value::Bool(_) => true,
        Value::Array(list) => list.iter().all(Value::is_string),
        Value::Null | Value::Object(_) => false,
    };
    metadata.as_object().is_some_and(|fields| fields.values().all(flat))
        && metadata.to_string().len() <= MAX_METADATA_BYTES
}

fn check_i18n(i18n: &I18n) -> Result<(), Error> {
    let tag = |tag: &str| {
        tag.len() <= 64
            && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
            && tag.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
    };
    let unique: BTreeSet<&String> = i18n.locales.iter().collect();
    if !(1..=50).contains(&i18n.locales.len()) || unique.len() != i18n.locales.len() {
        return Err(invalid("i18n.locales", "1 to 50 locales, each once"));
    }
    if let Some(bad) = i18n.locales.iter().find(|locale| !tag(locale)) {
        return Err(invalid("i18n.locales", format!("{bad:?} is not a locale tag")));
    }
    if !i18n.locales.contains(&i18n.default_locale) {
        return Err(invalid("i18n.default_locale", "the default locale is one of the locales"));
    }
    let detect = i18n.detect.as_deref().unwrap_or_default();
    let cookie = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte))
    };
    let known = |way: &String| way == "accept-language" || way.strip_prefix("cookie:").is_some_and(cookie);
    match detect.len() <= 10 && detect.iter().all(known) {
        true => Ok(()),
        false => Err(invalid("i18n.detect", "at most 10 of accept-language and cookie:<name>")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(slice: Value) -> Result<(), (String, String)> {
        let spec = Manifest::from_json(slice, Some("prj_1")).map(|manifest| manifest.spec);
        spec.and_then(|spec| check(&spec)).map_err(|error| {
            (error.code.clone(), error.deploy.as_deref().expect("a deploy error").resource.clone().unwrap_or_default())
        })
    }

    fn refused(slice: Value, resource: &str) {
        assert_eq!(verdict(slice.clone()), Err(("INVALID_SPEC".to_owned(), resource.to_owned())), "{slice}");
    }

    fn refused_as(slice: Value, code: &str) {
        assert_eq!(verdict(slice.clone()).expect_err("it is refused").0, code, "{slice}");
    }

    #[test]
    fn a_release_that_changes_nothing_is_refused() {
        for slice in [
            json!({}),
            json!({"site": {"replace": {}}}),
            json!({"functions": {}}),
            json!({"routes": null}),
            json!({"secrets": {"require": []}}),
            json!({"database": {"migrations": []}}),
            json!({"checks": []}),
        ] {
            refused_as(slice, "MANIFEST_EMPTY");
        }
        for slice in [
            json!({"routes": {"replace": []}}),
            json!({"i18n": null}),
            json!({"site": {"replace": {"a": "b"}}}),
            json!({"site": {"public_paths": {"mode": "implicit"}}}),
            json!({"assets": {"delete": ["k"]}}),
        ] {
            assert_eq!(verdict(slice.clone()), Ok(()), "{slice}");
        }
    }

    #[test]
    fn slices_keep_to_their_rules() {
        refused(json!({"base": {"release": "current", "release_id": "rel_1"}}), "base");
        refused(json!({"site": {"replace": {"a": "b"}, "patch": {"delete": ["c"]}}}), "site");
        refused(json!({"site": {"replace": {"../a": "b"}}}), "site.replace");
        refused(json!({"site": {"patch": {"put": {"/a": "b"}}}}), "site.patch.put");
        refused(json!({"secrets": {"require": ["lower"]}}), "secrets.require");
        refused(json!({"secrets": {"require": ["A"], "delete": ["A"]}}), "secrets.delete");
        refused(json!({"functions": {"replace": {"f": {}}}}), "functions.replace.f");
        refused(
            json!({"functions": {"replace": {"f": {"source": "x", "schedule": "daily"}}}}),
            "functions.replace.f.schedule",
        );
        refused(
            json!({"functions": {"replace": {"f": {"source": "x", "config": {"memoryMb": 0}}}}}),
            "functions.replace.f.config.memory_mb",
        );
        refused(
            json!({"functions": {"replace": {"f": {"files": {"a.js": "x"}, "entrypoint": "b.js"}}}}),
            "functions.replace.f.entrypoint",
        );
        refused(json!({"database": {"migrations": [{"id": "a", "name": "b", "sql": "x"}]}}), "database.migrations[0]");
        refused(
            json!({"database": {"migrations": [{"id": "a", "sql": "x"}, {"id": "a", "sql": "y"}]}}),
            "database.migrations[1]",
        );
        refused(json!({"database": {"migrations": [{"name": "-a", "sql": "x"}]}}), "database.migrations[0].name");
        refused_as(json!({"database": {"migrations": [{"id": "a"}]}}), "MIGRATION_SQL_NOT_FOUND");
        refused_as(json!({"subdomains": {"set": ["a", "b"]}}), "SUBDOMAIN_MULTI_NOT_SUPPORTED");
        refused_as(json!({"site": {"replace": {"run402/server/x.js": "b"}}}), "ASTRO_ADAPTER_TREE_IN_SITE");
        refused_as(
            json!({"assets": {"put": [{"key": "k", "source": "x"}, {"key": "k", "source": "y"}]}}),
            "ASSET_DUPLICATE_KEY_IN_PUT",
        );
        refused_as(
            json!({"assets": {"put": [{"key": "k", "source": "x"}], "delete": ["k"]}}),
            "ASSET_KEY_IN_PUT_AND_DELETE",
        );
        refused_as(
            json!({"assets": {"put": [{"key": "k", "source": "x", "metadata": {"a": {}}}]}}),
            "INVALID_ASSET_METADATA",
        );
        refused(json!({"assets": {"sync": {"prune": true}}}), "assets.sync");
        refused(json!({"i18n": {"defaultLocale": "en", "locales": ["de"]}}), "i18n.default_locale");
        refused(json!({"i18n": {"defaultLocale": "en", "locales": ["en", "en"]}}), "i18n.locales");
        refused(json!({"i18n": {"defaultLocale": "en", "locales": ["en"], "detect": ["cookie:"]}}), "i18n.detect");
    }

    #[test]
    fn routes_keep_to_their_rules() {
        let route = |route: Value| json!({"routes": {"replace": [route]}});
        let function = json!({"type": "function", "name": "f"});
        refused(route(json!({"pattern": "", "target": function})), "routes.replace[0].pattern");
        refused(
            route(json!({"pattern": "/a", "methods": ["GET", "GET"], "target": function})),
            "routes.replace[0].methods",
        );
        refused(route(json!({"pattern": "/a", "methods": ["TRACE"], "target": function})), "routes.replace[0].methods");
        let file = json!({"type": "static", "file": "a.html"});
        refused(route(json!({"pattern": "/a/*", "methods": ["GET"], "target": file})), "routes.replace[0].pattern");
        refused(route(json!({"pattern": "/a", "methods": ["POST"], "target": file})), "routes.replace[0].methods");
        for bad in ["/a", "a/", "a//b", "../a", "a?b", "a#b", "a\\b", ""] {
            let target = json!({"type": "static", "file": bad});
            refused(
                route(json!({"pattern": "/a", "methods": ["GET"], "target": target})),
                "routes.replace[0].target.file",
            );
        }
        let wild = |extra: Value| {
            let mut fields = json!({"pattern": "/a/*", "target": {"type": "function", "name": "f"}});
            fields.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
            route(fields)
        };
        assert_eq!(verdict(wild(json!({"methods": ["GET"], "acknowledge_readonly": true}))), Ok(()));
        refused(
            wild(json!({"methods": ["POST"], "acknowledge_readonly": true})),
            "routes.replace[0].acknowledge_readonly",
        );
        refused(
            wild(json!({"methods": ["GET"], "acknowledge_readonly": false})),
            "routes.replace[0].acknowledge_readonly",
        );
        let price = |value: Value| wild(json!({"pricing": value}));
        assert_eq!(
            verdict(price(json!({"mode": "always", "amount_usd_micros": 5, "pay_to": "org_default_payout"}))),
            Ok(())
        );
        refused(
            price(json!({"mode": "always", "amount_usd_micros": 0, "pay_to": "org_default_payout"})),
            "routes.replace[0].pricing.amount_usd_micros",
        );
        refused(price(json!({"mode": "always", "amount_usd_micros": 5})), "routes.replace[0].pricing.pay_to");
    }

    #[test]
    fn ci_may_not_deploy_everything() {
        let spec = |value| Manifest::from_json(value, Some("p")).expect("a release").spec;
        check_ci(&spec(json!({"site": {"replace": {"a": "b"}}, "base": {"release": "current"}}))).expect("allowed");
        for forbidden in
            [json!({"secrets": {"require": ["A"]}}), json!({"base": {"release": "empty"}}), json!({"i18n": null})]
        {
            assert_eq!(check_ci(&spec(forbidden)).expect_err("forbidden").code, "forbidden_spec_field");
        }
    }
}
