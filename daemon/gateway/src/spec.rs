//! A release as it comes over the wire, read strictly.
//!
//! Input: JSON of a client that is not trusted. Output: [`Spec`], with the rules of `rules` kept; what
//! depends on the release before is judged in `release`. Written apart from the client's own form on
//! purpose: a mistake in one shows in the other.

use crate::error::{Refusal, Result};
use crate::rules;
use run402::deploy::Digest;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    #[serde(alias = "project")]
    pub(crate) project_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<Base>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) database: Option<Database>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secrets: Option<Secrets>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) functions: Option<Functions>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) site: Option<Site>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subdomains: Option<Subdomains>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) routes: Option<Routes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checks: Option<Vec<Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) assets: Option<Assets>,
    /// Null clears.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) i18n: Option<Option<Value>>,
}

fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Base {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) release: Option<BaseRelease>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) release_id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BaseRelease {
    Current,
    Empty,
}

/// A content by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContentRef {
    pub(crate) sha256: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<String>,
    #[serde(default, skip_serializing)]
    integrity: Option<String>,
}

#[cfg(test)]
impl ContentRef {
    pub(crate) fn new(sha256: Digest, size: u64, content_type: Option<String>) -> Self {
        Self { sha256, size, content_type, integrity: None }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Database {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expose: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) zero_downtime: Option<bool>,
    #[serde(default)]
    pub(crate) migrations: Vec<Migration>,
}

impl Database {
    /// Whether a database is needed for it.
    pub(crate) fn changes_something(&self) -> bool {
        !self.migrations.is_empty() || self.expose.is_some()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Migration {
    pub(crate) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checksum: Option<String>,
    pub(crate) sql_ref: ContentRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) transaction: Option<Transaction>,
}

impl Migration {
    /// That of its text, unless the author says another.
    pub(crate) fn checksum(&self) -> String {
        self.checksum.clone().unwrap_or_else(|| self.sql_ref.sha256.to_string())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transaction {
    #[serde(alias = "default")]
    Required,
    None,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Secrets {
    #[serde(default)]
    pub(crate) require: Vec<String>,
    #[serde(default)]
    pub(crate) delete: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Functions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replace: Option<BTreeMap<String, Function>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) patch: Option<FunctionsPatch>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FunctionsPatch {
    #[serde(default)]
    pub(crate) set: BTreeMap<String, Function>,
    #[serde(default)]
    pub(crate) delete: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Function {
    #[serde(default = "node22")]
    pub(crate) runtime: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<ContentRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<BTreeMap<String, ContentRef>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) entrypoint: Option<String>,
    #[serde(default)]
    pub(crate) config: FunctionConfig,
    #[serde(default)]
    pub(crate) deps: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) triggers: Option<Value>,
    /// Null takes it away; when it is left out of a patch, the one before stays.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub(crate) schedule: Option<Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) require_auth: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) require_role: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) class: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) capabilities: Option<Vec<String>>,
}

fn node22() -> String {
    "node22".to_owned()
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FunctionConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_seconds: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_mb: Option<u32>,
}

impl Function {
    pub(crate) fn timeout_seconds(&self) -> u32 {
        self.config.timeout_seconds.unwrap_or(15)
    }

    pub(crate) fn memory_mb(&self) -> u32 {
        self.config.memory_mb.unwrap_or(128)
    }

    /// Its files by path; a single source is called `index.mjs`.
    pub(crate) fn contents(&self) -> Vec<(String, &ContentRef)> {
        let source = self.source.iter().map(|source| ("index.mjs".to_owned(), source));
        source.chain(self.files.iter().flatten().map(|(path, content)| (path.clone(), content))).collect()
    }

    pub(crate) fn entrypoint(&self) -> &str {
        match &self.source {
            Some(_) => "index.mjs",
            None => self.entrypoint.as_deref().unwrap_or("index.mjs"),
        }
    }

    /// Of everything that makes its code.
    pub(crate) fn code_hash(&self) -> String {
        let listed: Vec<String> =
            self.contents().iter().map(|(path, content)| format!("{path}\0{}", content.sha256)).collect();
        Digest::of(format!("{}\0{}\0{:?}", self.entrypoint(), listed.join("\0"), self.deps).as_bytes()).to_string()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Site {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replace: Option<BTreeMap<String, ContentRef>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) patch: Option<SitePatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) public_paths: Option<PublicPaths>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SitePatch {
    #[serde(default)]
    pub(crate) put: BTreeMap<String, ContentRef>,
    #[serde(default)]
    pub(crate) delete: Vec<String>,
}

/// Which files can be asked for, and under which paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum PublicPaths {
    /// Every file, under its own path.
    Implicit {},
    /// Only these.
    Explicit { replace: BTreeMap<String, PublicPath> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublicPath {
    pub(crate) asset: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cache_class: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subdomains {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) set: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) add: Vec<String>,
    #[serde(default)]
    pub(crate) remove: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Routes {
    pub(crate) replace: Vec<Route>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    pub(crate) pattern: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) methods: Option<Vec<String>>,
    pub(crate) target: RouteTarget,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) acknowledge_readonly: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pricing: Option<Value>,
}

impl Route {
    /// What it starts with, when it is for everything below a path.
    pub(crate) fn prefix(&self) -> Option<&str> {
        self.pattern.strip_suffix('*')
    }

    pub(crate) fn allows(&self, method: &str) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.iter().any(|allowed| allowed == method))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum RouteTarget {
    Function { name: String },
    Static { file: String },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Assets {
    #[serde(default)]
    pub(crate) put: Vec<Asset>,
    #[serde(default)]
    pub(crate) delete: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sync: Option<AssetSync>,
}

/// Assets below a prefix that are not put go away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AssetSync {
    pub(crate) prefix: String,
    pub(crate) prune: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) confirm: Option<SyncConfirmation>,
}

/// What the author was shown, and agreed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SyncConfirmation {
    pub(crate) base_revision: String,
    pub(crate) delete_set_digest: String,
    pub(crate) expected_delete_count: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asset {
    pub(crate) key: String,
    pub(crate) sha256: Digest,
    pub(crate) size_bytes: u64,
    pub(crate) content_type: String,
    pub(crate) visibility: String,
    pub(crate) immutable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) metadata: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exif_policy: Option<String>,
}

impl Spec {
    pub(crate) fn read(value: Value) -> Result<Self> {
        Self::parse(&value.to_string())
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        // Keeping track of the path is slow, and needed for errors only.
        let parsed = serde_json::from_str(text).or_else(|_| {
            let mut reader = serde_json::Deserializer::from_str(text);
            serde_path_to_error::deserialize(&mut reader)
        });
        let spec: Self = parsed.map_err(|error| {
            let path = error.path().to_string();
            Refusal::spec(&path, error.inner().to_string())
        })?;
        rules::check(&spec)?;
        Ok(spec)
    }

    fn functions(&self) -> impl Iterator<Item = (&String, &Function)> {
        let replaced = self.functions.iter().flat_map(|functions| functions.replace.iter().flatten());
        let set = self.functions.iter().flat_map(|functions| functions.patch.iter().flat_map(|patch| &patch.set));
        replaced.chain(set)
    }

    /// Every content that it refers to, once, with its size, in the order of their names.
    pub(crate) fn contents(&self) -> Vec<(Digest, u64)> {
        let mut contents = Vec::new();
        let mut add = |content: &ContentRef| contents.push((content.sha256, content.size));
        if let Some(site) = &self.site {
            let put = site.patch.as_ref().map(|patch| &patch.put);
            site.replace.iter().chain(put).flatten().for_each(|(_, content)| add(content));
        }
        for (_, function) in self.functions() {
            function.contents().into_iter().for_each(|(_, content)| add(content));
        }
        self.database.iter().flat_map(|database| &database.migrations).for_each(|migration| add(&migration.sql_ref));
        let assets = self.assets.iter().flat_map(|assets| &assets.put);
        contents.extend(assets.map(|asset| (asset.sha256, asset.size_bytes)));
        contents.sort_unstable();
        contents.dedup();
        contents
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_known_or_not_safe_is_refused() {
        let content = json!({"sha256": "00".repeat(32), "size": 1});
        let good = json!({"project_id": "p", "site": {"replace": {"a/b.html": content}}});
        assert_eq!(Spec::read(good).expect("it is good").contents().len(), 1);
        for bad in [
            json!({"project_id": "p", "surprise": 1}),
            json!({}),
            json!([]),
            json!({"project_id": "p", "site": {"replace": {"../a": content}}}),
            json!({"project_id": "p", "site": {"replace": {"a//b": content}}}),
            json!({"project_id": "p", "site": {"replace": {"a": {"sha256": "AA".repeat(32), "size": 1}}}}),
            json!({"project_id": "p", "site": {"replace": {"a": {"sha256": "00".repeat(32), "size": -1}}}}),
            json!({"project_id": "p", "functions": {"replace": {"F": {"source": content}}}}),
            json!({"project_id": "p", "functions": {"replace": {"f": {}}}}),
            json!({"project_id": "p", "routes": {"replace": [{"pattern": "a", "target": {"type": "function", "name": "f"}}]}}),
            json!({"project_id": "p", "secrets": {"set": {"A": "b"}}}),
            json!({"project_id": "p", "subdomains": {"add": ["a.b"]}}),
        ] {
            Spec::read(bad.clone()).expect_err(&bad.to_string());
        }
    }
}
