//! Policies as a daemon lists them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /policies`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyList {
    pub policies: Vec<PolicySummary>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicySummary {
    pub name: String,
    pub description: String,
    /// `none`, `filtered`, `host`.
    pub network: String,
}

/// Answer of `GET /policies/{name}`: the policy with everything it extends put in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PolicyDocument {
    pub name: String,
    pub description: String,
    /// Equal for equal policies.
    pub digest: String,
    #[schema(value_type = Object)]
    pub policy: serde_json::Value,
}
