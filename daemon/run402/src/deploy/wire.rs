//! A release as it goes over the wire: contents by reference, snake_case, fields in their fixed order.
//!
//! The order has no meaning to the gateway, but a manifest that is sent by reference is named by the hash
//! of exactly these bytes.

use super::digest::Digest;
use super::spec::{Base, ExifPolicy, FunctionClass, FunctionConfig, I18n, RoleGate, Routes, Secrets, Subdomains};
use super::spec::{Transaction, Visibility};
use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;
use std::borrow::Cow;

/// A content: what it hashes to, its size in bytes, its type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContentRef {
    pub sha256: Digest,
    pub size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<Cow<'static, str>>,
}

pub type FileRefs = IndexMap<String, ContentRef>;

#[derive(Debug, Clone, Serialize)]
pub struct Spec {
    pub project_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<Database>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Secrets>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub functions: Option<Functions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<Site>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subdomains: Option<Subdomains>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<Option<Routes>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checks: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assets: Option<Assets>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub i18n: Option<Option<I18n>>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Database {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expose: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_downtime: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub migrations: Vec<Migration>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Migration {
    pub id: String,
    pub checksum: String,
    pub sql_ref: ContentRef,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<Transaction>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Functions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace: Option<IndexMap<String, Function>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<FunctionsPatch>,
}

#[derive(Debug, Clone, Serialize)]
pub struct FunctionsPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<IndexMap<String, Function>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete: Option<Vec<String>>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Function {
    pub runtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<ContentRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<FileRefs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<FunctionConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deps: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub triggers: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_auth: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_role: Option<Option<RoleGate>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<FunctionClass>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Site {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace: Option<FileRefs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<SitePatch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_paths: Option<Value>,
}

#[derive(Debug, Clone, Serialize)]
pub struct SitePatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub put: Option<FileRefs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete: Option<Vec<String>>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Assets {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub put: Option<Vec<AssetPut>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync: Option<Value>,
}

#[derive(Debug, Clone, Serialize)]
pub struct AssetPut {
    pub key: String,
    pub sha256: Digest,
    pub size_bytes: u64,
    pub content_type: String,
    pub visibility: Visibility,
    pub immutable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exif_policy: Option<ExifPolicy>,
}
