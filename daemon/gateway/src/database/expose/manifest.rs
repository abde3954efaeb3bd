//! The shape of a manifest, and the rules that it can be judged by alone.

use super::{Issue, IssueKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashSet;

/// PostgreSQL cuts longer names.
const MAX_NAME_BYTES: usize = 63;
const MAX_ENTRIES: usize = 1000;
/// Roles that a function may be granted to.
const ROLES: [&str; 3] = ["anon", "authenticated", "service_role"];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub version: String,
    #[serde(default)]
    pub tables: Vec<ExposedTable>,
    #[serde(default)]
    pub views: Vec<ExposedView>,
    #[serde(default)]
    pub rpcs: Vec<Rpc>,
    #[serde(default, rename = "$schema", skip_serializing)]
    _schema: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExposedTable {
    pub name: String,
    pub expose: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<TablePolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_column: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_owner_on_insert: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub i_understand_this_is_unrestricted: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_sql: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TablePolicy {
    UserOwnsRows,
    PublicReadAuthenticatedWrite,
    #[serde(rename = "public_read_write_UNRESTRICTED")]
    PublicReadWriteUnrestricted,
    Custom,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExposedView {
    pub name: String,
    pub base: String,
    pub select: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_invoker: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expose: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rpc {
    pub name: String,
    /// Types of the arguments in parentheses.
    pub signature: String,
    pub grant_to: Vec<String>,
}

impl Manifest {
    /// Reads a manifest strictly. Refused with everything that can be said without the database.
    pub fn read(value: &Value) -> Result<Self, Vec<Issue>> {
        let manifest: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            vec![Issue::error(IssueKind::SchemaShape, format!("{}: {}", error.path(), error.inner()))]
        })?;
        let issues = manifest.check();
        if issues.is_empty() { Ok(manifest) } else { Err(issues) }
    }

    fn check(&self) -> Vec<Issue> {
        let shape = |detail: String| Issue::error(IssueKind::SchemaShape, detail);
        let mut issues = Vec::new();
        if self.version != "1" {
            issues.push(shape(format!("version is \"{}\"", self.version)).fix("write \"1\""));
        }
        if self.tables.len() + self.views.len() + self.rpcs.len() > MAX_ENTRIES {
            issues.push(shape(format!("the manifest has more than {MAX_ENTRIES} entries")));
        }
        let mut names = HashSet::new();
        let relations = self.tables.iter().map(|table| &table.name).chain(self.views.iter().map(|view| &view.name));
        for name in relations {
            if !names.insert(name) {
                issues.push(shape(format!("\"{name}\" is listed twice")));
            }
        }
        let mut rpcs = HashSet::new();
        for rpc in &self.rpcs {
            if !rpcs.insert((&rpc.name, &rpc.signature)) {
                issues.push(shape(format!("the function \"{}{}\" is listed twice", rpc.name, rpc.signature)));
            }
        }
        let columns = self.tables.iter().filter_map(|table| table.owner_column.as_ref());
        let selected = self.views.iter().flat_map(|view| view.select.iter().chain([&view.base]));
        let all = names.iter().copied().chain(self.rpcs.iter().map(|rpc| &rpc.name)).chain(columns).chain(selected);
        let bad = |name: &&String| name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(char::is_control);
        for name in all.filter(bad) {
            issues.push(shape(format!("{name:?} is not a name of 1 to {MAX_NAME_BYTES} bytes")));
        }
        self.tables.iter().for_each(|table| table.check(&mut issues));
        for view in self.views.iter().filter(|view| view.select.is_empty()) {
            issues.push(shape(format!("the view \"{}\" selects no column", view.name)));
        }
        self.rpcs.iter().for_each(|rpc| rpc.check(&mut issues));
        issues
    }
}

impl ExposedTable {
    fn check(&self, issues: &mut Vec<Issue>) {
        let name = &self.name;
        if self.expose && self.policy.is_none() {
            issues.push(Issue::error(
                IssueKind::SchemaShape,
                format!("the table \"{name}\" is exposed without a policy"),
            ));
        }
        if self.policy == Some(TablePolicy::UserOwnsRows) && self.owner_column.is_none() {
            let detail = format!("the policy of \"{name}\" needs to know whose a row is");
            issues.push(Issue::error(IssueKind::SchemaShape, detail).fix("name the owner_column"));
        }
        if self.policy == Some(TablePolicy::PublicReadWriteUnrestricted)
            && self.i_understand_this_is_unrestricted != Some(true)
        {
            let detail = format!("anybody could write to \"{name}\"");
            let issue = Issue::error(IssueKind::UnrestrictedAckRequired, detail);
            issues.push(issue.fix("set i_understand_this_is_unrestricted to true, or choose another policy"));
        }
        if self.policy == Some(TablePolicy::Custom) && self.custom_sql.as_ref().is_none_or(|sql| sql.trim().is_empty())
        {
            let detail = format!("the policy of \"{name}\" is custom and has no custom_sql");
            issues.push(Issue::error(IssueKind::SchemaShape, detail));
        }
        if self.force_owner_on_insert == Some(true) && self.owner_column.is_none() {
            let detail = format!("\"{name}\" has no owner_column to force an owner into");
            issues.push(Issue::error(IssueKind::ForceOwnerWithoutOwnerColumn, detail).fix("name the owner_column"));
        }
    }
}

impl Rpc {
    fn check(&self, issues: &mut Vec<Issue>) {
        let name = &self.name;
        let inner = self.signature.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        let odd = |c: char| c.is_control() || matches!(c, ';' | '\'' | '\\' | '$');
        if inner.is_none_or(|inner| inner.len() > 1000 || inner.contains(odd)) {
            let detail = format!("the signature of \"{name}\" is not of the form (type, type)");
            issues.push(Issue::error(IssueKind::SchemaShape, detail));
        }
        for role in self.grant_to.iter().filter(|role| !ROLES.contains(&role.as_str())) {
            let detail = format!("\"{name}\" is granted to {role:?}, which is no role");
            let issue = Issue::error(IssueKind::GrantToRoleUnknown, detail);
            issues.push(issue.fix(format!("use one of: {}", ROLES.join(", "))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kinds(manifest: Value) -> Vec<IssueKind> {
        match Manifest::read(&manifest) {
            Ok(_) => Vec::new(),
            Err(issues) => issues.iter().map(|issue| issue.kind).collect(),
        }
    }

    fn table(fields: Value) -> Value {
        let mut table = json!({"name": "notes", "expose": true});
        table.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        json!({"version": "1", "tables": [table]})
    }

    #[test]
    fn a_manifest_is_judged_before_the_database_is_asked() {
        use IssueKind::*;
        let cases = [
            (json!({"version": "1"}), vec![]),
            (json!({"version": "1", "$schema": "x", "tables": [], "views": [], "rpcs": []}), vec![]),
            (json!({}), vec![SchemaShape]),
            (json!([]), vec![SchemaShape]),
            (json!({"version": 1}), vec![SchemaShape]),
            (json!({"version": "2"}), vec![SchemaShape]),
            (json!({"version": "1", "table": []}), vec![SchemaShape]),
            (table(json!({"policy": "user_owns_rows", "owner_column": "user_id"})), vec![]),
            (table(json!({"policy": "user_owns_rows"})), vec![SchemaShape]),
            (table(json!({"policy": "nobody"})), vec![SchemaShape]),
            (table(json!({})), vec![SchemaShape]),
            (table(json!({"expose": false})), vec![]),
            (table(json!({"policy": "public_read_write_UNRESTRICTED"})), vec![UnrestrictedAckRequired]),
            (
                table(json!({"policy": "public_read_write_UNRESTRICTED", "i_understand_this_is_unrestricted": true})),
                vec![],
            ),
            (table(json!({"policy": "custom", "custom_sql": " "})), vec![SchemaShape]),
            (
                table(json!({"policy": "public_read_authenticated_write", "force_owner_on_insert": true})),
                vec![ForceOwnerWithoutOwnerColumn],
            ),
            (table(json!({"policy": "custom", "custom_sql": "x", "name": "a\u{0}"})), vec![SchemaShape]),
            (
                json!({"version": "1", "tables": [{"name": "a", "expose": false}],
                    "views": [{"name": "a", "base": "b", "select": []}]}),
                vec![SchemaShape, SchemaShape],
            ),
            (
                json!({"version": "1", "rpcs": [{"name": "f", "signature": "(int, text)", "grant_to": ["anon", "root"]}]}),
                vec![GrantToRoleUnknown],
            ),
            (json!({"version": "1", "rpcs": [{"name": "f", "signature": "int", "grant_to": []}]}), vec![SchemaShape]),
        ];
        for (manifest, expected) in cases {
            assert_eq!(kinds(manifest.clone()), expected, "{manifest}");
        }
    }

    #[test]
    fn what_is_kept_is_what_was_given() {
        let given =
            table(json!({"policy": "public_read_write_UNRESTRICTED", "i_understand_this_is_unrestricted": true}));
        let manifest = Manifest::read(&given).expect("reads");
        let kept = serde_json::to_value(&manifest).expect("is JSON");
        assert_eq!(kept["tables"], given["tables"]);
    }
}
