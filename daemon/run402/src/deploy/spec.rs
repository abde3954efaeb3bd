//! A release as its author writes it.
//!
//! Input: a JSON manifest (camelCase or snake_case) or values made in Rust. Output: [`ReleaseSpec`], still
//! with contents as texts, bytes and file names; `prepare` turns it into what goes over the wire. A slice
//! that is left out is carried forward from the release before; `replace` is the whole new set; `patch`
//! touches only what it names.

use super::digest::Digest;
use crate::error::Error;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Everything that a deploy changes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseSpec {
    #[serde(alias = "project_id")]
    pub project: String,
    #[serde(default)]
    pub base: Option<Base>,
    #[serde(default)]
    pub database: Option<Database>,
    #[serde(default)]
    pub secrets: Option<Secrets>,
    #[serde(default)]
    pub functions: Option<Functions>,
    #[serde(default)]
    pub site: Option<Site>,
    #[serde(default)]
    pub subdomains: Option<Subdomains>,
    /// Absent and null carry the routes forward.
    #[serde(default, deserialize_with = "given")]
    pub routes: Option<Option<Routes>>,
    #[serde(default)]
    pub checks: Option<Vec<Value>>,
    #[serde(default)]
    pub assets: Option<Assets>,
    /// Absent carries forward, null clears.
    #[serde(default, deserialize_with = "given")]
    pub i18n: Option<Option<I18n>>,
}

/// Tells a null from nothing.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

/// What the release starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// `current` or `empty`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<BaseRelease>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseRelease {
    Current,
    Empty,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    #[serde(default)]
    pub expose: Option<Value>,
    #[serde(default, alias = "zeroDowntime")]
    pub zero_downtime: Option<bool>,
    #[serde(default)]
    pub migrations: Vec<Migration>,
}

/// Exactly one of `id` and `name`, and exactly one kind of SQL.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migration {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub sql: Option<String>,
    #[serde(default, alias = "sql_file", alias = "sqlFile", alias = "sqlPath")]
    pub sql_path: Option<PathBuf>,
    #[serde(default, alias = "sqlRef")]
    pub sql_ref: Option<Reference>,
    #[serde(default)]
    pub checksum: Option<String>,
    #[serde(default)]
    pub transaction: Option<Transaction>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transaction {
    Required,
    None,
}

/// Names only; values never travel with a deploy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Functions {
    #[serde(default)]
    pub replace: Option<IndexMap<String, Function>>,
    #[serde(default)]
    pub patch: Option<FunctionsPatch>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionsPatch {
    #[serde(default)]
    pub set: Option<IndexMap<String, Function>>,
    #[serde(default)]
    pub delete: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    #[serde(default)]
    pub runtime: Option<String>,
    #[serde(default)]
    pub source: Option<Source>,
    #[serde(default)]
    pub files: Option<Files>,
    #[serde(default)]
    pub entrypoint: Option<String>,
    #[serde(default)]
    pub config: Option<FunctionConfig>,
    #[serde(default)]
    pub deps: Option<Vec<String>>,
    #[serde(default)]
    pub triggers: Option<Vec<Value>>,
    /// Five fields; null removes.
    #[serde(default, deserialize_with = "given")]
    pub schedule: Option<Option<String>>,
    #[serde(default, alias = "requireAuth")]
    pub require_auth: Option<bool>,
    #[serde(default, alias = "requireRole", deserialize_with = "given")]
    pub require_role: Option<Option<RoleGate>>,
    #[serde(default)]
    pub class: Option<FunctionClass>,
    #[serde(default)]
    pub capabilities: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FunctionClass {
    Ssr,
    Standard,
}

/// Both are positive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionConfig {
    #[serde(default, alias = "timeoutSeconds", skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    #[serde(default, alias = "memoryMb", skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleGate {
    pub table: String,
    #[serde(alias = "idColumn")]
    pub id_column: String,
    #[serde(alias = "roleColumn")]
    pub role_column: String,
    pub allowed: Vec<String>,
    #[serde(default, alias = "cacheTtl", skip_serializing_if = "Option::is_none")]
    pub cache_ttl: Option<u32>,
    #[serde(default, alias = "onDeny", skip_serializing_if = "Option::is_none")]
    pub on_deny: Option<Value>,
    #[serde(default, alias = "signInPath", skip_serializing_if = "Option::is_none")]
    pub sign_in_path: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    #[serde(default)]
    pub replace: Option<Files>,
    #[serde(default)]
    pub patch: Option<SitePatch>,
    #[serde(default, alias = "publicPaths")]
    pub public_paths: Option<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SitePatch {
    #[serde(default)]
    pub put: Option<Files>,
    #[serde(default)]
    pub delete: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subdomains {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routes {
    pub replace: Vec<Route>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub pattern: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    pub target: RouteTarget,
    #[serde(default, alias = "acknowledgeReadonly", skip_serializing_if = "Option::is_none")]
    pub acknowledge_readonly: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pricing: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum RouteTarget {
    Function { name: String },
    Static { file: String },
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assets {
    #[serde(default)]
    pub put: Option<Vec<AssetPut>>,
    #[serde(default)]
    pub delete: Option<Vec<String>>,
    #[serde(default)]
    pub sync: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssetPut {
    pub key: String,
    pub source: Source,
    #[serde(default, alias = "contentType")]
    pub content_type: Option<String>,
    #[serde(default)]
    pub visibility: Option<Visibility>,
    #[serde(default)]
    pub immutable: Option<bool>,
    #[serde(default)]
    pub metadata: Option<Value>,
    #[serde(default, alias = "exifPolicy")]
    pub exif_policy: Option<ExifPolicy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    Public,
    Private,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExifPolicy {
    Keep,
    Strip,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct I18n {
    #[serde(alias = "defaultLocale")]
    pub default_locale: String,
    pub locales: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detect: Option<Vec<String>>,
    #[serde(default, alias = "unknownLocalePolicy", skip_serializing_if = "Option::is_none")]
    pub unknown_locale_policy: Option<UnknownLocale>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownLocale {
    Default,
    Reject,
}

/// A content that the gateway has already.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    pub sha256: Digest,
    pub size: u64,
    #[serde(default, alias = "contentType")]
    pub content_type: Option<String>,
}

/// Paths to contents: listed one by one, or a directory as it is.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Files {
    Directory(Directory),
    Listed(IndexMap<String, Source>),
}

/// Every file of a directory beneath the root.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// Only tells it from a map of files.
    #[serde(rename = "__source")]
    _kind: LocalDirectory,
    pub path: PathBuf,
    #[serde(default)]
    pub prefix: Option<String>,
    #[serde(default)]
    pub ignore: Vec<String>,
    #[serde(default, rename = "includeSensitive", alias = "include_sensitive")]
    pub include_sensitive: bool,
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum LocalDirectory {
    #[serde(rename = "local-dir")]
    LocalDirectory,
}

impl Directory {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let _kind = LocalDirectory::LocalDirectory;
        Self { _kind, path: path.into(), prefix: None, ignore: Vec::new(), include_sensitive: false }
    }
}

/// One content.
#[derive(Debug, Clone)]
pub enum Source {
    Text {
        text: String,
        content_type: Option<String>,
    },
    Bytes {
        bytes: Bytes,
        content_type: Option<String>,
    },
    /// A file beneath the root.
    File {
        path: PathBuf,
        content_type: Option<String>,
    },
    Reference(Reference),
}

impl From<&str> for Source {
    fn from(text: &str) -> Self {
        Self::Text { text: text.to_owned(), content_type: None }
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        enum Encoding {
            #[serde(rename = "utf-8", alias = "utf8")]
            Utf8,
            Base64,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Entry {
            data: Option<String>,
            encoding: Option<Encoding>,
            path: Option<PathBuf>,
            sha256: Option<Digest>,
            size: Option<u64>,
            #[serde(alias = "contentType")]
            content_type: Option<String>,
        }
        let entry = match Value::deserialize(deserializer)? {
            Value::String(text) => return Ok(Self::Text { text, content_type: None }),
            object @ Value::Object(_) => serde_json::from_value::<Entry>(object).map_err(D::Error::custom)?,
            _ => return Err(D::Error::custom("a text or an object with data, path or sha256 is wanted")),
        };
        let content_type = entry.content_type;
        match (entry.data, entry.path, entry.sha256, entry.size, entry.encoding) {
            (Some(data), None, None, None, Some(Encoding::Base64)) => {
                let bytes = STANDARD.decode(&data).map_err(|_| D::Error::custom("data is not base64"))?.into();
                Ok(Self::Bytes { bytes, content_type })
            }
            (Some(text), None, None, None, _) => Ok(Self::Text { text, content_type }),
            (None, Some(path), None, None, None) => Ok(Self::File { path, content_type }),
            (None, None, Some(sha256), Some(size), None) => {
                Ok(Self::Reference(Reference { sha256, size, content_type }))
            }
            _ => Err(D::Error::custom("exactly one of data, path, and sha256 with size is wanted")),
        }
    }
}

/// A deploy manifest: a release, and the key under which it is the same deploy.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub spec: ReleaseSpec,
    pub idempotency_key: Option<String>,
}

impl Manifest {
    /// Reads a manifest. `default_project` is used when it names none.
    pub fn from_json(mut value: Value, default_project: Option<&str>) -> Result<Self, Error> {
        let Some(fields) = value.as_object_mut() else {
            return Err(invalid("", "a release is a JSON object"));
        };
        for ignored in ["$schema", "x-run402-omitted_features", "verify"] {
            fields.remove(ignored);
        }
        let idempotency_key = match fields.remove("idempotency_key").or_else(|| fields.remove("idempotencyKey")) {
            None | Some(Value::Null) => None,
            Some(Value::String(key)) => Some(key),
            Some(_) => return Err(invalid("idempotency_key", "an idempotency key is a text")),
        };
        if let Some(named) = fields.remove("project_id") {
            match fields.get("project") {
                Some(project) if *project != named => {
                    return Err(invalid("project_id", "project and project_id name different projects"));
                }
                _ => fields.insert("project".to_owned(), named),
            };
        }
        if !fields.contains_key("project") {
            let project = default_project.ok_or_else(|| invalid("project", "the release names no project"))?;
            fields.insert("project".to_owned(), json!(project));
        }
        let spec = serde_path_to_error::deserialize(value).map_err(|error| {
            let mut resource = error.path().to_string();
            let message = error.inner().to_string();
            // The path ends at the object; the name that it must not have is in the message.
            if let Some(unknown) = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next())
                && !resource.ends_with(unknown)
            {
                resource = if resource == "." { unknown.to_owned() } else { format!("{resource}.{unknown}") };
            }
            invalid(&resource, message)
        })?;
        Ok(Self { spec, idempotency_key })
    }
}

/// A rule of the release that was not met; `resource` is the path to the field.
pub(crate) fn invalid(resource: &str, message: impl Into<String>) -> Error {
    Error::deploy("INVALID_SPEC", "validate", resource, message)
        .with_fix(json!({"action": "set_field", "path": resource}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(value: Value) -> (String, String) {
        let error = Manifest::from_json(value, Some("prj_1")).expect_err("it is refused");
        (error.code.clone(), error.deploy.as_deref().expect("a deploy error").resource.clone().expect("a resource"))
    }

    #[test]
    fn both_spellings_are_one() {
        let camel = json!({"project": "prj_1", "functions": {"replace": {"f": {"source": "x",
            "config": {"timeoutSeconds": 5, "memoryMb": 64}, "requireAuth": true}}}});
        let snake = json!({"project_id": "prj_1", "functions": {"replace": {"f": {"source": "x",
            "config": {"timeout_seconds": 5, "memory_mb": 64}, "require_auth": true}}}});
        let camel = Manifest::from_json(camel, None).expect("camelCase").spec;
        let snake = Manifest::from_json(snake, None).expect("snake_case").spec;
        assert_eq!(format!("{camel:?}"), format!("{snake:?}"));
    }

    #[test]
    fn unknown_fields_are_named_by_their_path() {
        let invalid = |resource: &str| ("INVALID_SPEC".to_owned(), resource.to_owned());
        assert_eq!(refused(json!({"sit": {}})), invalid("sit"));
        assert_eq!(refused(json!({"functions": {"patch": {"sett": {}}}})), invalid("functions.patch.sett"));
        assert_eq!(refused(json!({"secrets": {"set": {"A": "b"}}})), invalid("secrets.set"));
        assert_eq!(refused(json!({"project": "a", "project_id": "b"})), invalid("project_id"));
        assert_eq!(refused(json!([])), invalid(""));
    }

    #[test]
    fn null_is_told_from_nothing() {
        let spec = |value| Manifest::from_json(value, Some("p")).expect("a release").spec;
        assert!(spec(json!({})).i18n.is_none());
        assert!(matches!(spec(json!({"i18n": null})).i18n, Some(None)));
        assert!(
            matches!(spec(json!({"routes": {"replace": []}})).routes, Some(Some(routes)) if routes.replace.is_empty())
        );
    }

    #[test]
    fn sources_have_four_forms() {
        let source = |value| serde_json::from_value::<Source>(value);
        assert!(matches!(source(json!("x")), Ok(Source::Text { .. })));
        assert!(
            matches!(source(json!({"data": "eA==", "encoding": "base64"})), Ok(Source::Bytes { bytes, .. }) if bytes == "x")
        );
        assert!(matches!(source(json!({"path": "a", "content_type": "text/x"})), Ok(Source::File { .. })));
        assert!(matches!(source(json!({"sha256": "00".repeat(32), "size": 1})), Ok(Source::Reference(_))));
        for wrong in [
            json!(1),
            json!({}),
            json!({"data": "x", "path": "a"}),
            json!({"data": "?", "encoding": "base64"}),
            json!({"sha256": "00", "size": 1}),
            json!({"path": "a", "mode": 7}),
        ] {
            source(wrong.clone()).expect_err(&wrong.to_string());
        }
    }
}
