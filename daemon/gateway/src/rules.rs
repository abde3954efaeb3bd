//! What a release must keep to by itself, whatever was live before it.
//!
//! Input: [`Spec`], whose fields are known. Output: nothing, or the first rule that is broken with the dotted
//! path of the field. Written apart from the client's rules on purpose: a mistake in one shows in the other.

mod functions;
mod routes;

use crate::error::{Refusal, Result};
use crate::spec::{Assets, ContentRef, Database, PublicPaths, Site, Spec, Subdomains};
use axum::http::StatusCode;
use run402::deploy::rules::is_secret_key;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) use functions::{MAX_SCHEDULES, limits, package_name};
pub(crate) use routes::MAX_ROUTES;

/// Longer lists are refused.
const MAX_FILES: usize = 200_000;
const MAX_PATH_BYTES: usize = 4096;
const MAX_MIGRATIONS: usize = 10_000;
const MAX_MIGRATION_ID_BYTES: usize = 256;
const MAX_CHECKS: usize = 100;
const MAX_METADATA_BYTES: usize = 4096;

pub(crate) fn check(spec: &Spec) -> Result<()> {
    if let Some(database) = &spec.database {
        check_database(database)?;
    }
    if let Some(secrets) = &spec.secrets {
        check_secrets(&secrets.require, &secrets.delete)?;
    }
    if let Some(functions) = &spec.functions {
        functions::check(functions)?;
    }
    if let Some(site) = &spec.site {
        check_site(site)?;
    }
    if let Some(names) = &spec.subdomains {
        check_subdomains(names)?;
    }
    if let Some(routes) = &spec.routes {
        routes::check(routes)?;
    }
    if let Some(checks) = &spec.checks {
        check_checks(checks)?;
    }
    if let Some(assets) = &spec.assets {
        check_assets(assets)?;
    }
    if let Some(Some(i18n)) = &spec.i18n {
        check_i18n(i18n)?;
    }
    check_sizes(spec)?;
    match has_anything(spec) {
        true => Ok(()),
        false => Err(Refusal::deploy(
            StatusCode::UNPROCESSABLE_ENTITY,
            "MANIFEST_EMPTY",
            "plan",
            "spec",
            "the release changes nothing",
        )),
    }
}

fn has_anything(spec: &Spec) -> bool {
    let database = spec.database.as_ref().is_some_and(|database| {
        let exposes = database.expose.as_ref().and_then(Value::as_object).is_some_and(|expose| !expose.is_empty());
        !database.migrations.is_empty() || exposes
    });
    let site = spec.site.as_ref().is_some_and(|site| {
        let patch = site.patch.as_ref().is_some_and(|patch| !patch.put.is_empty() || !patch.delete.is_empty());
        site.replace.as_ref().is_some_and(|files| !files.is_empty()) || patch || site.public_paths.is_some()
    });
    let functions = spec.functions.as_ref().is_some_and(|functions| {
        let patch = functions.patch.as_ref().is_some_and(|patch| !patch.set.is_empty() || !patch.delete.is_empty());
        functions.replace.as_ref().is_some_and(|replace| !replace.is_empty()) || patch
    });
    let secrets =
        spec.secrets.as_ref().is_some_and(|secrets| !secrets.require.is_empty() || !secrets.delete.is_empty());
    let subdomains = spec.subdomains.as_ref().is_some_and(|names| {
        let set = names.set.as_ref().is_some_and(|set| !set.is_empty());
        set || !names.add.is_empty() || !names.remove.is_empty()
    });
    let assets = spec
        .assets
        .as_ref()
        .is_some_and(|assets| !assets.put.is_empty() || !assets.delete.is_empty() || assets.sync.is_some());
    let checks = spec.checks.as_ref().is_some_and(|checks| !checks.is_empty());
    let others = spec.routes.is_some() || spec.i18n.is_some();
    database || site || functions || secrets || subdomains || assets || checks || others
}

/// A value whose fields are all known.
fn strict<T: DeserializeOwned>(value: &Value, at: &str) -> Result<T> {
    serde_path_to_error::deserialize(value.clone()).map_err(|error| {
        let inner = error.path().to_string();
        let path = if inner == "." { at.to_owned() } else { format!("{at}.{inner}") };
        Refusal::spec(&path, error.inner().to_string())
    })
}

/// One sentence of SQL is a content like any other; its name is its own.
fn check_database(database: &Database) -> Result<()> {
    if database.migrations.len() > MAX_MIGRATIONS {
        return Err(Refusal::spec("database.migrations", format!("at most {MAX_MIGRATIONS} migrations are taken")));
    }
    let mut ids = BTreeSet::new();
    for (index, migration) in database.migrations.iter().enumerate() {
        let at = format!("database.migrations[{index}]");
        let id = &migration.id;
        if id.is_empty() || id.len() > MAX_MIGRATION_ID_BYTES || id.chars().any(char::is_control) {
            return Err(Refusal::spec(
                &format!("{at}.id"),
                "an id has 1 to 256 bytes, none of them a control character",
            ));
        }
        if !ids.insert(id) {
            return Err(Refusal::spec(&at, format!("two migrations are called {id}")));
        }
        let hex = |sum: &String| sum.len() == 64 && sum.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !migration.checksum.as_ref().is_none_or(hex) {
            return Err(Refusal::spec(&format!("{at}.checksum"), "a checksum is 64 lower-case hexadecimal digits"));
        }
    }
    match &database.expose {
        Some(expose) if !expose.is_object() => Err(Refusal::spec("database.expose", "an object is wanted")),
        _ => Ok(()),
    }
}

fn check_secrets(require: &[String], delete: &[String]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for (list, keys) in [("secrets.require", require), ("secrets.delete", delete)] {
        for key in keys {
            if !is_secret_key(key) {
                let rule = "a key is 1 to 128 upper-case letters, digits and _, no digit first";
                return Err(Refusal::spec(list, format!("{key:?}: {rule}")));
            }
            if !seen.insert(key) {
                return Err(Refusal::spec(list, format!("{key} is named twice")));
            }
        }
    }
    Ok(())
}

fn check_site(site: &Site) -> Result<()> {
    match (&site.replace, &site.patch, &site.public_paths) {
        (Some(_), Some(_), _) => return Err(Refusal::spec("site", "a site has replace or patch, not both")),
        (None, None, None) => return Err(Refusal::spec("site", "a site has replace, patch or public_paths")),
        _ => {}
    }
    if let Some(files) = &site.replace {
        check_site_files("site.replace", files)?;
    }
    if let Some(patch) = &site.patch {
        check_site_files("site.patch.put", &patch.put)?;
        check_lists("site.patch.delete", &patch.delete, is_path)?;
        if let Some(path) = patch.delete.iter().find(|path| patch.put.contains_key(*path)) {
            return Err(Refusal::spec("site.patch.delete", format!("{path} is put and deleted")));
        }
    }
    let Some(PublicPaths::Explicit { replace }) = &site.public_paths else { return Ok(()) };
    if replace.len() > MAX_FILES {
        return Err(Refusal::spec("site.public_paths.replace", format!("at most {MAX_FILES} paths are taken")));
    }
    for (path, public) in replace {
        if !path.starts_with('/') || path.len() > MAX_PATH_BYTES || path.contains(['?', '#', '\\', '\0']) {
            let rule = "a public path starts with / and has no ?, # or backslash";
            return Err(Refusal::spec("site.public_paths.replace", format!("{path:?}: {rule}")));
        }
        if !is_path(&public.asset) {
            let rule = "asset is the relative path of a file of the site";
            return Err(Refusal::spec(&format!("site.public_paths.replace.{path}.asset"), rule));
        }
    }
    Ok(())
}

fn check_site_files(place: &str, files: &BTreeMap<String, ContentRef>) -> Result<()> {
    if let Some(path) = files.keys().find(|path| *path == "run402/adapter.json" || path.starts_with("run402/server/")) {
        let message = format!("{path} belongs to an adapter's output, which is not a static site");
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        return Err(Refusal::deploy(status, "ASTRO_ADAPTER_TREE_IN_SITE", "plan", place, message));
    }
    check_files(place, files)
}

fn check_files(place: &str, files: &BTreeMap<String, ContentRef>) -> Result<()> {
    if files.len() > MAX_FILES {
        return Err(Refusal::spec(place, format!("at most {MAX_FILES} files are taken")));
    }
    match files.keys().find(|path| !is_path(path)) {
        Some(path) => {
            Err(Refusal::spec(place, format!("{path:?} is not a relative path without empty, . and .. parts")))
        }
        None => Ok(()),
    }
}

/// Not too many, each one good.
fn check_lists(place: &str, list: &[String], good: impl Fn(&str) -> bool) -> Result<()> {
    match list.iter().find(|entry| !good(entry)) {
        _ if list.len() > MAX_FILES => Err(Refusal::spec(place, format!("at most {MAX_FILES} entries are taken"))),
        Some(bad) => Err(Refusal::spec(place, format!("{bad:?} cannot be the name of anything here"))),
        None => Ok(()),
    }
}

fn is_path(path: &str) -> bool {
    path.len() <= MAX_PATH_BYTES
        && !path.contains('\0')
        && path.split('/').all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255)
}

/// A part of a host name.
fn is_label(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| plain(byte) || byte == b'-')
        && name.bytes().next().is_some_and(plain)
        && name.bytes().last().is_some_and(plain)
}

/// A label that may be claimed: a project's own host name cannot be taken from it.
pub(crate) fn is_subdomain(name: &str) -> bool {
    is_label(name) && !name.starts_with("prj-")
}

fn check_subdomains(names: &Subdomains) -> Result<()> {
    if names.set.as_ref().is_some_and(|set| set.len() > 1) {
        return Err(Refusal::deploy(
            StatusCode::UNPROCESSABLE_ENTITY,
            "SUBDOMAIN_MULTI_NOT_SUPPORTED",
            "plan",
            "subdomains.set",
            "a release sets at most one subdomain",
        ));
    }
    let all = names.set.iter().flatten().chain(&names.add).chain(&names.remove);
    match all.into_iter().find(|name| !is_subdomain(name)) {
        Some(bad) => Err(Refusal::spec(
            "subdomains",
            format!("{bad:?}: a name is 1 to 63 lower-case letters, digits and -, and does not start with prj-"),
        )),
        None => match names.add.iter().find(|name| names.remove.contains(name)) {
            Some(both) => Err(Refusal::spec("subdomains", format!("{both} is added and removed"))),
            None => Ok(()),
        },
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    name: String,
    #[serde(default)]
    http: Option<HttpCheck>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpCheck {
    path: String,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    expect: Option<Expected>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    #[serde(default)]
    status: Option<u16>,
}

fn check_checks(checks: &[Value]) -> Result<()> {
    if checks.len() > MAX_CHECKS {
        return Err(Refusal::spec("checks", format!("at most {MAX_CHECKS} checks are taken")));
    }
    for (index, value) in checks.iter().enumerate() {
        let at = format!("checks[{index}]");
        let Check { name, http } = strict(value, &at)?;
        if name.is_empty() {
            return Err(Refusal::spec(&format!("{at}.name"), "a check has a name"));
        }
        let Some(HttpCheck { path, method, expect }) = http else { continue };
        if !path.starts_with('/') {
            return Err(Refusal::spec(&format!("{at}.http.path"), "a path starts with /"));
        }
        if method.is_some_and(|method| !routes::METHODS.contains(&method.as_str())) {
            return Err(Refusal::spec(&format!("{at}.http.method"), "this is not a method"));
        }
        let status = expect.and_then(|expected| expected.status);
        if status.is_some_and(|status| !(100..600).contains(&status)) {
            return Err(Refusal::spec(&format!("{at}.http.expect.status"), "a status is 100 to 599"));
        }
    }
    Ok(())
}

fn check_assets(assets: &Assets) -> Result<()> {
    let refuse = |code: &str, at: &str, message: String| {
        Err(Refusal::deploy(StatusCode::UNPROCESSABLE_ENTITY, code, "plan", at, message))
    };
    let mut keys = BTreeSet::new();
    for (index, asset) in assets.put.iter().enumerate() {
        let at = format!("assets.put[{index}]");
        if !is_path(&asset.key) {
            let rule = "a key is a relative path without empty, . and .. parts";
            return Err(Refusal::spec(&format!("{at}.key"), format!("{:?}: {rule}", asset.key)));
        }
        if !keys.insert(&asset.key) {
            return refuse("ASSET_DUPLICATE_KEY_IN_PUT", &at, format!("{} is put twice", asset.key));
        }
        if !matches!(asset.visibility.as_str(), "public" | "private") {
            return Err(Refusal::spec(&format!("{at}.visibility"), "visibility is public or private"));
        }
        if asset.metadata.as_ref().is_some_and(|metadata| !is_metadata(metadata)) {
            let rule = "metadata is a flat object of texts, numbers, booleans and lists of texts, at most 4096 bytes";
            return refuse("INVALID_ASSET_METADATA", &format!("{at}.metadata"), rule.to_owned());
        }
        if asset.exif_policy.as_ref().is_some_and(|policy| !matches!(policy.as_str(), "keep" | "strip")) {
            return refuse("INVALID_EXIF_POLICY", &format!("{at}.exif_policy"), "keep or strip".to_owned());
        }
    }
    if keys.len() > MAX_FILES {
        return Err(Refusal::spec("assets.put", format!("at most {MAX_FILES} assets are taken")));
    }
    check_lists("assets.delete", &assets.delete, |key| !key.is_empty() && key.len() <= MAX_PATH_BYTES)?;
    if let Some(key) = assets.delete.iter().find(|key| keys.contains(key)) {
        return refuse("ASSET_KEY_IN_PUT_AND_DELETE", "assets.delete", format!("{key} is put and deleted"));
    }
    match &assets.sync {
        Some(sync) if sync.prefix.is_empty() || !sync.prune => {
            Err(Refusal::spec("assets.sync", "a sync has a prefix and prune: true"))
        }
        _ => Ok(()),
    }
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct I18n {
    default_locale: String,
    locales: Vec<String>,
    #[serde(default)]
    detect: Vec<String>,
    #[serde(default)]
    unknown_locale_policy: Option<String>,
}

fn check_i18n(value: &Value) -> Result<()> {
    let i18n: I18n = strict(value, "i18n")?;
    let tag = |tag: &String| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        tag.len() <= 64
            && tag.bytes().all(plain)
            && tag.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
    };
    let unique: BTreeSet<&String> = i18n.locales.iter().collect();
    if !(1..=50).contains(&i18n.locales.len()) || unique.len() != i18n.locales.len() {
        return Err(Refusal::spec("i18n.locales", "1 to 50 locales, each once"));
    }
    if let Some(bad) = i18n.locales.iter().find(|locale| !tag(locale)) {
        return Err(Refusal::spec("i18n.locales", format!("{bad:?} is not a locale tag")));
    }
    if !i18n.locales.contains(&i18n.default_locale) {
        return Err(Refusal::spec("i18n.default_locale", "the default locale is one of the locales"));
    }
    let token = |byte: u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte);
    let cookie = |name: &str| !name.is_empty() && name.bytes().all(token);
    let known = |way: &String| way == "accept-language" || way.strip_prefix("cookie:").is_some_and(cookie);
    if i18n.detect.len() > 10 || !i18n.detect.iter().all(known) {
        return Err(Refusal::spec("i18n.detect", "at most 10 of accept-language and cookie:<name>"));
    }
    match i18n.unknown_locale_policy.as_deref() {
        None | Some("default" | "reject") => Ok(()),
        Some(_) => Err(Refusal::spec("i18n.unknown_locale_policy", "default or reject")),
    }
}

/// Bytes with one hash have one size.
fn check_sizes(spec: &Spec) -> Result<()> {
    match spec.contents().windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(Refusal::spec("spec", format!("content {} is given two sizes", pair[0].0))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::spec::Spec;
    use serde_json::{Value, json};

    fn refused(mut slices: Value) -> (String, String) {
        slices["project_id"] = json!("p");
        let refusal = Spec::read(slices.clone()).expect_err(&slices.to_string()).envelope();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&refusal["code"]), text(&refusal["details"]["resource"]))
    }

    fn taken(mut slices: Value) {
        slices["project_id"] = json!("p");
        Spec::read(slices.clone()).unwrap_or_else(|refusal| panic!("{slices}: {}", refusal.envelope()));
    }

    #[test]
    fn every_slice_says_where_it_is_wrong() {
        let content = json!({"sha256": "00".repeat(32), "size": 1});
        let asset = |more: Value| {
            let mut asset = json!({"key": "a", "sha256": "00".repeat(32), "size_bytes": 1, "content_type": "text/plain",
                "visibility": "public", "immutable": true});
            crate::deploy::merge(&mut asset, more);
            asset
        };
        let migration = |id: &str| json!({"id": id, "sql_ref": content});
        for (slices, code, resource) in [
            (json!({}), "MANIFEST_EMPTY", "spec"),
            (json!({"site": {"replace": {}}}), "MANIFEST_EMPTY", "spec"),
            (json!({"site": {}}), "INVALID_SPEC", "site"),
            (json!({"routes": null}), "MANIFEST_EMPTY", "spec"),
            (json!({"database": {"migrations": []}}), "MANIFEST_EMPTY", "spec"),
            (json!({"site": {"replace": {"a": content}, "patch": {"delete": ["b"]}}}), "INVALID_SPEC", "site"),
            (json!({"site": {"patch": {"put": {"a": content}, "delete": ["a"]}}}), "INVALID_SPEC", "site.patch.delete"),
            (
                json!({"site": {"replace": {"run402/server/x.mjs": content}}}),
                "ASTRO_ADAPTER_TREE_IN_SITE",
                "site.replace",
            ),
            (json!({"subdomains": {"set": ["a", "b"]}}), "SUBDOMAIN_MULTI_NOT_SUPPORTED", "subdomains.set"),
            (json!({"subdomains": {"add": ["prj-0011"]}}), "INVALID_SPEC", "subdomains"),
            (json!({"subdomains": {"add": ["-a"]}}), "INVALID_SPEC", "subdomains"),
            (json!({"secrets": {"require": ["A"], "delete": ["A"]}}), "INVALID_SPEC", "secrets.delete"),
            (json!({"secrets": {"require": ["a"]}}), "INVALID_SPEC", "secrets.require"),
            (
                json!({"database": {"migrations": [migration("a"), migration("a")]}}),
                "INVALID_SPEC",
                "database.migrations[1]",
            ),
            (json!({"checks": [{"name": "c", "htttp": {}}]}), "INVALID_SPEC", "checks[0].htttp"),
            (json!({"checks": [{"name": "c", "http": {"path": "x"}}]}), "INVALID_SPEC", "checks[0].http.path"),
            (json!({"i18n": {"default_locale": "de", "locales": ["en"]}}), "INVALID_SPEC", "i18n.default_locale"),
            (
                json!({"i18n": {"default_locale": "en", "locales": ["en"], "detect": ["ip"]}}),
                "INVALID_SPEC",
                "i18n.detect",
            ),
            (
                json!({"assets": {"put": [asset(json!({})), asset(json!({}))]}}),
                "ASSET_DUPLICATE_KEY_IN_PUT",
                "assets.put[1]",
            ),
            (
                json!({"assets": {"put": [asset(json!({}))], "delete": ["a"]}}),
                "ASSET_KEY_IN_PUT_AND_DELETE",
                "assets.delete",
            ),
            (
                json!({"assets": {"put": [asset(json!({"metadata": {"a": {}}}))]}}),
                "INVALID_ASSET_METADATA",
                "assets.put[0].metadata",
            ),
            (
                json!({"assets": {"put": [asset(json!({"exif_policy": "burn"}))]}}),
                "INVALID_EXIF_POLICY",
                "assets.put[0].exif_policy",
            ),
            (json!({"assets": {"sync": {"prefix": "", "prune": true}}}), "INVALID_SPEC", "assets.sync"),
            (
                json!({"site": {"replace": {"a": content, "b": {"sha256": "00".repeat(32), "size": 2}}}}),
                "INVALID_SPEC",
                "spec",
            ),
        ] {
            assert_eq!(refused(slices.clone()), (code.to_owned(), resource.to_owned()), "{slices}");
        }
    }

    #[test]
    fn small_releases_are_taken() {
        for slices in [
            json!({"routes": {"replace": []}}),
            json!({"i18n": null}),
            json!({"site": {"public_paths": {"mode": "implicit"}}}),
            json!({"subdomains": {"remove": ["a"]}}),
            json!({"i18n": {"default_locale": "en", "locales": ["en", "de-AT"], "detect": ["cookie:lang", "accept-language"],
                "unknown_locale_policy": "reject"}}),
            json!({"checks": [{"name": "home", "http": {"path": "/", "method": "GET", "expect": {"status": 200}}}]}),
        ] {
            taken(slices);
        }
    }
}
