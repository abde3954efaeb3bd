//! A deploy: what of a project's workspace goes live, and what came of it.

use crate::{Command, RunResult};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Body of `POST /projects/{id}/deploys`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// Run first; nothing is deployed unless it ends with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildRequest>,
    /// A directory of the workspace becomes the site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteRequest>,
    /// Functions by their names: a file of the workspace, or a function of a deploy manifest. `replace` or `patch`
    /// alone are those of a manifest.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub functions: Map<String, Value>,
    /// Further slices, as in a deploy manifest of run402; file names are paths in the workspace.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub release: Map<String, Value>,
    /// The project at the gateway; the one that was made for this project when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_project: Option<String>,
    /// Codes of warnings that the deploy goes on in spite of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_warnings: Vec<String>,
    /// The same key and the same release are one deploy, however often it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200)]
    pub idempotency_key: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildRequest {
    pub command: Command,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// 1 to 300000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteRequest {
    /// Relative to the workspace; no part of it may be a link.
    pub dir: String,
}

/// What went live.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Deploy {
    /// The gateway's operation.
    pub id: String,
    pub gateway_project: String,
    pub release_id: String,
    pub status: String,
    /// Where the site is; empty when the release has none.
    pub url: String,
    #[schema(value_type = Object)]
    pub urls: Map<String, Value>,
    /// Files that the gateway did not have.
    pub files_uploaded: u64,
    pub files_total: u64,
    #[schema(value_type = Vec<Object>)]
    pub warnings: Vec<Value>,
    /// The run of `build`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<RunResult>,
}

/// How far a deploy is: the event `progress` of its stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeployProgress {
    pub phase: DeployPhase,
    /// Hashed so far.
    pub files: u64,
    pub bytes: u64,
    pub files_uploaded: u64,
    /// Those that the gateway has already.
    pub files_unchanged: u64,
    pub bytes_uploaded: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeployPhase {
    Hashing,
    Planning,
    Uploading,
    Committing,
}

/// Answer of `GET /projects/{id}/deploys`, the newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeployList {
    #[schema(value_type = Vec<Object>)]
    pub deploys: Vec<Value>,
}

/// Body of `POST /projects/{id}/deploy`: a site as texts, or as `__b64__` and base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesDeploy {
    pub files: BTreeMap<String, String>,
}

/// Answer of `POST /projects/{id}/deploy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FilesDeployed {
    pub deploy_id: String,
    pub site_id: String,
    pub url: String,
    /// The same; callers know it by this name.
    pub netlify_url: String,
    pub status: String,
    pub files_uploaded: u64,
    pub files_total: u64,
}
