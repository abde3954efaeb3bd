//! Which file, route or nothing a path of a site is. Pure and total.
//!
//! Input: a release, a method and the path as it came in, still percent-encoded. A path is decoded once;
//! what is then not a plain path of names is an error, never repaired: `..`, an empty part, a NUL, a
//! backslash, bytes that are not UTF-8.

use crate::release::{Manifest, covers};
use crate::serve::respond::CacheClass;
use crate::spec::{PublicPaths, RouteTarget};
use percent_encoding::percent_decode_str;
use std::collections::BTreeSet;

/// How a path was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    StaticExact,
    StaticIndex,
    SpaFallback,
    RouteFunction,
    RouteStaticAlias,
    /// There is a route, for other methods.
    RouteMethodMiss,
    PathError,
    None,
}

impl Match {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::StaticExact => "static_exact",
            Self::StaticIndex => "static_index",
            Self::SpaFallback => "spa_fallback",
            Self::RouteFunction => "route_function",
            Self::RouteStaticAlias => "route_static_alias",
            Self::RouteMethodMiss => "route_method_miss",
            Self::PathError => "path_error",
            Self::None => "none",
        }
    }
}

/// What a request gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) matched: Match,
    pub(crate) status: u16,
    /// Decoded, with its first slash.
    pub(crate) path: Option<String>,
    /// A file of the site.
    pub(crate) file: Option<String>,
    /// Pattern of the route.
    pub(crate) route: Option<String>,
    /// The function that answers.
    pub(crate) function: Option<String>,
    /// Methods that would be answered.
    pub(crate) allow: Vec<String>,
    /// Where to go instead, percent-encoded.
    pub(crate) redirect: Option<String>,
}

impl Found {
    fn new(matched: Match, status: u16, path: Option<&str>) -> Self {
        let path = path.map(str::to_owned);
        Self { matched, status, path, file: None, route: None, function: None, allow: Vec::new(), redirect: None }
    }

    fn file(matched: Match, path: &str, file: impl Into<String>) -> Self {
        Self { file: Some(file.into()), ..Self::new(matched, 200, Some(path)) }
    }
}

/// `page_wanted`: whether the caller would take an HTML page in place of a file that is not there.
pub(crate) fn resolve(manifest: &Manifest, method: &str, raw: &str, page_wanted: bool) -> Found {
    let Some(path) = decode(raw) else { return Found::new(Match::PathError, 400, None) };
    if let Some(found) = route(manifest, method, &path) {
        return found;
    }
    let found = file(manifest, &path, raw, page_wanted);
    let readable = matches!(method, "GET" | "HEAD");
    match readable {
        true => found,
        false if found.status == 404 => found,
        false => {
            let allow = vec!["GET".to_owned(), "HEAD".to_owned()];
            Found { file: None, redirect: None, status: 405, allow, ..found }
        }
    }
}

fn decode(raw: &str) -> Option<String> {
    let bytes: Vec<u8> = percent_decode_str(raw).collect();
    let path = String::from_utf8(bytes).ok()?;
    let inner = path.strip_prefix('/')?;
    let plain = !path.contains(['\0', '\\']) && !path.chars().any(|c| c.is_control() && c != '\n' && c != '\t');
    let parts = inner.strip_suffix('/').unwrap_or(inner);
    let good =
        parts.is_empty() && !inner.starts_with('/') || parts.split('/').all(|part| !matches!(part, "" | "." | ".."));
    (plain && good).then_some(path)
}

/// Exact routes before longer prefixes before shorter ones.
fn route(manifest: &Manifest, method: &str, path: &str) -> Option<Found> {
    let mut covering: Vec<_> = manifest.routes.iter().filter(|route| covers(route, path)).collect();
    covering.sort_by_key(|route| (route.prefix().is_some(), std::cmp::Reverse(route.pattern.len())));
    let first = covering.first()?;
    // HEAD is answered wherever GET is.
    let wanted = |route: &&&crate::spec::Route| route.allows(method) || method == "HEAD" && route.allows("GET");
    let Some(chosen) = covering.iter().find(wanted) else {
        // A file under the same path is still there to be read.
        let readable = matches!(method, "GET" | "HEAD");
        if readable && file(manifest, path, path, false).status == 200 {
            return None;
        }
        let allow: BTreeSet<String> =
            covering.iter().flat_map(|route| route.methods.iter().flatten().cloned()).collect();
        let missed = Found::new(Match::RouteMethodMiss, 405, Some(path));
        return Some(Found { route: Some(first.pattern.clone()), allow: allow.into_iter().collect(), ..missed });
    };
    let found = match &chosen.target {
        RouteTarget::Function { name } => {
            Found { function: Some(name.clone()), ..Found::new(Match::RouteFunction, 200, Some(path)) }
        }
        RouteTarget::Static { file } => Found::file(Match::RouteStaticAlias, path, file.clone()),
    };
    Some(Found { route: Some(chosen.pattern.clone()), ..found })
}

fn file(manifest: &Manifest, path: &str, raw: &str, page_wanted: bool) -> Found {
    let name = &path[1..];
    if let Some(PublicPaths::Explicit { replace }) = &manifest.public_paths {
        return match replace.get(path) {
            Some(public) => Found::file(Match::StaticExact, path, public.asset.clone()),
            None => nothing(manifest, path, page_wanted),
        };
    }
    let has = |file: &str| manifest.site.contains_key(file);
    if !name.is_empty() && !name.ends_with('/') && has(name) {
        return Found::file(Match::StaticExact, path, name);
    }
    let folder = name.trim_end_matches('/');
    let index = if folder.is_empty() { "index.html".to_owned() } else { format!("{folder}/index.html") };
    if has(&index) {
        if name.is_empty() || name.ends_with('/') {
            return Found::file(Match::StaticIndex, path, index);
        }
        // Relative links of the page start at the folder. The last name alone: the path may have a prefix
        // that is not seen here.
        let last = raw.rsplit('/').next().unwrap_or_default();
        let redirect = Some(format!("{last}/"));
        return Found { redirect, ..Found::new(Match::StaticIndex, 308, Some(path)) };
    }
    if !name.is_empty() && !name.ends_with('/') && has(&format!("{name}.html")) {
        return Found::file(Match::StaticExact, path, format!("{name}.html"));
    }
    nothing(manifest, path, page_wanted)
}

/// The site's own page for what is not there; or its first page, when it finds its way by itself.
fn nothing(manifest: &Manifest, path: &str, page_wanted: bool) -> Found {
    if manifest.site.contains_key("404.html") {
        return Found { status: 404, ..Found::file(Match::None, path, "404.html") };
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    // A name with an extension is a file that is missing, and no page.
    if page_wanted && !last.contains('.') && manifest.site.contains_key("index.html") {
        return Found::file(Match::SpaFallback, path, "index.html");
    }
    Found::new(Match::None, 404, Some(path))
}

/// How long a file may be kept by who has read it.
pub(crate) fn cache_class(file: &str) -> CacheClass {
    let name = file.rsplit('/').next().unwrap_or_default();
    let Some((stem, extension)) = name.rsplit_once('.') else { return CacheClass::Short };
    if extension == "html" {
        return CacheClass::Revalidate;
    }
    match stem.rsplit_once(['-', '.']) {
        Some((_, hash)) if is_hash(hash) => CacheClass::Immutable,
        _ => CacheClass::Short,
    }
}

/// A bundler's hash of the content: eight or more letters and digits, not all of one kind.
fn is_hash(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let digit = text.bytes().any(|byte| byte.is_ascii_digit());
    let mixed =
        text.bytes().any(|byte| byte.is_ascii_uppercase()) && text.bytes().any(|byte| byte.is_ascii_lowercase());
    text.len() >= 8 && plain && (digit || mixed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{ContentRef, Spec};
    use run402::deploy::Digest;
    use serde_json::json;

    fn site(files: &[&str]) -> Manifest {
        let content = |name: &&str| ((*name).to_owned(), ContentRef::new(Digest::of(name.as_bytes()), 1, None));
        Manifest { site: files.iter().map(content).collect(), ..Manifest::default() }
    }

    fn found(manifest: &Manifest, path: &str) -> (Match, u16, Option<String>) {
        let found = resolve(manifest, "GET", path, true);
        (found.matched, found.status, found.file.or(found.redirect))
    }

    #[test]
    fn files_indexes_and_clean_names_are_found() {
        let site = site(&["index.html", "about.html", "docs/index.html", "a b/ü.txt", "app.js"]);
        let file = |matched, name: &str| (matched, 200, Some(name.to_owned()));
        assert_eq!(found(&site, "/"), file(Match::StaticIndex, "index.html"));
        assert_eq!(found(&site, "/app.js"), file(Match::StaticExact, "app.js"));
        assert_eq!(found(&site, "/about"), file(Match::StaticExact, "about.html"));
        assert_eq!(found(&site, "/docs/"), file(Match::StaticIndex, "docs/index.html"));
        assert_eq!(found(&site, "/docs"), (Match::StaticIndex, 308, Some("docs/".to_owned())));
        assert_eq!(found(&site, "/a%20b/%C3%BC.txt"), file(Match::StaticExact, "a b/ü.txt"));
        assert_eq!(found(&site, "/deep/link"), file(Match::SpaFallback, "index.html"));
        assert_eq!(found(&site, "/missing.js"), (Match::None, 404, None));
    }

    #[test]
    fn paths_that_are_not_plain_are_errors() {
        let site = site(&["index.html", "secret", "a/b"]);
        for path in [
            "/../secret",
            "/a/../secret",
            "/%2e%2e/secret",
            "/a//b",
            "//a",
            "/a%00",
            "/a%5cb",
            "/%ff",
            "a",
            "",
            "/./a",
            "/a/%2e",
            "/a%1b",
        ] {
            assert_eq!(found(&site, path), (Match::PathError, 400, None), "{path}");
        }
        // Decoded once: what is left is a name like any other.
        assert_eq!(found(&site, "/%252e%252e/secret").0, Match::SpaFallback);
        assert_eq!(found(&site, "/a%2Fb"), (Match::StaticExact, 200, Some("a/b".to_owned())));
    }

    #[test]
    fn a_page_for_what_is_missing_goes_before_the_fallback() {
        let site = site(&["index.html", "404.html"]);
        assert_eq!(found(&site, "/nowhere"), (Match::None, 404, Some("404.html".to_owned())));
        assert_eq!(resolve(&site, "POST", "/", true).status, 405);
        assert_eq!(resolve(&site, "POST", "/", true).allow, ["GET", "HEAD"]);
    }

    #[test]
    fn routes_go_before_files_and_say_what_they_allow() {
        let content = json!({"sha256": "00".repeat(32), "size": 1});
        let spec = json!({"project_id": "p", "site": {"replace": {"index.html": content, "api/readme": content, "old.html": content}},
        "functions": {"replace": {"f": {"source": content}, "g": {"source": content}}},
        "routes": {"replace": [
            {"pattern": "/api/*", "methods": ["POST"], "target": {"type": "function", "name": "f"}},
            {"pattern": "/api/v2/*", "target": {"type": "function", "name": "g"}},
            {"pattern": "/old", "methods": ["GET"], "target": {"type": "static", "file": "old.html"}},
        ]}});
        let site = Manifest::default().apply(&Spec::read(spec).expect("a spec"));
        let function = |method: &str, path: &str| resolve(&site, method, path, true).function;
        assert_eq!(function("POST", "/api/x").as_deref(), Some("f"));
        assert_eq!(function("POST", "/api").as_deref(), Some("f"));
        assert_eq!(function("GET", "/api/v2/x").as_deref(), Some("g"));
        let missed = resolve(&site, "GET", "/api/x", true);
        assert_eq!(
            (missed.matched, missed.status, missed.allow),
            (Match::RouteMethodMiss, 405, vec!["POST".to_owned()])
        );
        assert_eq!(resolve(&site, "GET", "/api/readme", true).matched, Match::StaticExact);
        assert_eq!(resolve(&site, "HEAD", "/old", true).matched, Match::RouteStaticAlias);
        assert_eq!(function("POST", "/apiary"), None);
    }

    #[test]
    fn explicit_paths_hide_everything_else() {
        let content = json!({"sha256": "00".repeat(32), "size": 1});
        let spec = json!({"project_id": "p", "site": {"replace": {"a.txt": content, "b.txt": content},
            "public_paths": {"mode": "explicit", "replace": {"/x": {"asset": "a.txt"}}}}});
        let site = Manifest::default().apply(&Spec::read(spec).expect("a spec"));
        assert_eq!(found(&site, "/x"), (Match::StaticExact, 200, Some("a.txt".to_owned())));
        assert_eq!(found(&site, "/b.txt"), (Match::None, 404, None));
    }

    #[test]
    fn only_names_with_a_hash_are_kept_for_good() {
        for name in ["assets/index-BZ3kq9aX.js", "main.4f2a91bc.css", "x-DGkwUvTz.woff2"] {
            assert_eq!(cache_class(name), CacheClass::Immutable, "{name}");
        }
        for name in ["app.js", "my-component.js", "jquery.min.js", "data-2024.json", "LICENSE"] {
            assert_eq!(cache_class(name), CacheClass::Short, "{name}");
        }
        assert_eq!(cache_class("a/index-BZ3kq9aX.html"), CacheClass::Revalidate);
    }
}
