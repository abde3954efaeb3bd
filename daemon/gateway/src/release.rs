//! What a release holds, and what changes from one to the next.
//!
//! `apply(before, spec) -> after` and `diff(before, after) -> buckets`: both pure. A slice that the spec
//! leaves out is carried forward; `replace` is the whole new set; `patch` touches only what it names.

use crate::spec::{Asset, ContentRef, Function, PublicPaths, Route, Spec};
use run402::deploy::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that is live together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    #[serde(default)]
    pub(crate) site: BTreeMap<String, ContentRef>,
    #[serde(default)]
    pub(crate) public_paths: Option<PublicPaths>,
    #[serde(default)]
    pub(crate) functions: BTreeMap<String, Function>,
    /// Keys that the functions need.
    #[serde(default)]
    pub(crate) secrets: BTreeSet<String>,
    #[serde(default)]
    pub(crate) subdomains: BTreeSet<String>,
    #[serde(default)]
    pub(crate) routes: Vec<Route>,
    #[serde(default)]
    pub(crate) checks: Vec<Value>,
    #[serde(default)]
    pub(crate) assets: BTreeMap<String, Asset>,
    #[serde(default)]
    pub(crate) i18n: Option<Value>,
    #[serde(default)]
    pub(crate) expose: Option<Value>,
    /// Id to checksum.
    #[serde(default)]
    pub(crate) migrations: BTreeMap<String, String>,
}

impl Manifest {
    /// The release after `spec` was applied to this one.
    pub(crate) fn apply(&self, spec: &Spec) -> Self {
        let mut after = self.clone();
        if let Some(site) = &spec.site {
            if let Some(replace) = &site.replace {
                after.site.clone_from(replace);
            }
            if let Some(patch) = &site.patch {
                after.site.extend(patch.put.clone());
                let gone: BTreeSet<&String> = patch.delete.iter().collect();
                after.site.retain(|path, _| !gone.contains(path));
            }
            if let Some(public) = &site.public_paths {
                after.public_paths = Some(public.clone());
            }
        }
        if let Some(functions) = &spec.functions {
            if let Some(replace) = &functions.replace {
                after.functions.clone_from(replace);
            }
            if let Some(patch) = &functions.patch {
                for (name, function) in &patch.set {
                    let before = after.functions.remove(name).and_then(|before| before.schedule);
                    let schedule = function.schedule.clone().or(before);
                    after.functions.insert(name.clone(), Function { schedule, ..function.clone() });
                }
                after.functions.retain(|name, _| !patch.delete.contains(name));
            }
            for function in after.functions.values_mut() {
                // None, and one that was taken away, are the same from here on.
                function.schedule = function.schedule.take().flatten().map(Some);
            }
        }
        if let Some(secrets) = &spec.secrets {
            after.secrets.extend(secrets.require.iter().cloned());
            after.secrets.retain(|key| !secrets.delete.contains(key));
        }
        if let Some(names) = &spec.subdomains {
            if let Some(set) = &names.set {
                after.subdomains = set.iter().cloned().collect();
            }
            after.subdomains.extend(names.add.iter().cloned());
            after.subdomains.retain(|name| !names.remove.contains(name));
        }
        if let Some(routes) = &spec.routes {
            after.routes.clone_from(&routes.replace);
        }
        if let Some(checks) = &spec.checks {
            after.checks.clone_from(checks);
        }
        if let Some(assets) = &spec.assets {
            after.assets.extend(assets.put.iter().map(|asset| (asset.key.clone(), asset.clone())));
            let gone: BTreeSet<&String> = assets.delete.iter().collect();
            after.assets.retain(|key, _| !gone.contains(key));
            if let Some(sync) = &assets.sync {
                let kept: BTreeSet<&String> = assets.put.iter().map(|asset| &asset.key).collect();
                after.assets.retain(|key, _| !is_below(key, &sync.prefix) || kept.contains(key));
            }
        }
        if let Some(i18n) = &spec.i18n {
            after.i18n.clone_from(i18n);
        }
        if let Some(database) = &spec.database {
            if let Some(expose) = &database.expose {
                after.expose = Some(expose.clone());
            }
            let named = |migration: &crate::spec::Migration| (migration.id.clone(), migration.checksum());
            after.migrations.extend(database.migrations.iter().map(named));
        }
        after
    }

    /// Names the release: the hash of its JSON, whose maps are sorted.
    pub(crate) fn digest(&self) -> String {
        Digest::of(&serde_json::to_vec(self).expect("a manifest can be written as JSON")).to_string()
    }

    pub(crate) fn total_bytes(&self) -> u64 {
        self.site.values().map(|content| content.size).sum()
    }

    pub(crate) fn routes_digest(&self) -> String {
        Digest::of(&serde_json::to_vec(&self.routes).expect("routes can be written as JSON")).to_string()
    }
}

fn names<'a, T: PartialEq + 'a>(
    before: &'a BTreeMap<String, T>,
    after: &'a BTreeMap<String, T>,
) -> (Vec<&'a String>, Vec<&'a String>, Vec<&'a String>) {
    let added = after.keys().filter(|name| !before.contains_key(*name)).collect();
    let removed = before.keys().filter(|name| !after.contains_key(*name)).collect();
    let changed = after.iter().filter(|(name, value)| before.get(*name).is_some_and(|old| old != *value));
    (added, removed, changed.map(|(name, _)| name).collect())
}

/// The buckets of a plan or of a comparison; lists of files are cut at `limit`.
pub(crate) fn diff(before: &Manifest, after: &Manifest, limit: usize) -> Value {
    let (added, removed, changed) = names(&before.site, &after.site);
    let kind = |content: &ContentRef| content.content_type.clone().unwrap_or_default();
    let entry = |path: &&String| {
        let content = &after.site[*path];
        json!({"path": path, "sha256": content.sha256, "content_type": kind(content)})
    };
    let change = |path: &&String| {
        let (old, new) = (&before.site[*path], &after.site[*path]);
        json!({"path": path, "sha256_old": old.sha256, "sha256_new": new.sha256,
            "content_type_old": kind(old), "content_type_new": kind(new)})
    };
    let site = json!({
        "added": added.iter().take(limit).map(entry).collect::<Vec<_>>(),
        "removed": removed.iter().take(limit).collect::<Vec<_>>(),
        "changed": changed.iter().take(limit).map(change).collect::<Vec<_>>(),
        "totals": {"added": added.len(), "removed": removed.len(), "changed": changed.len()},
    });
    let static_assets = json!({
        "unchanged": after.site.len() - added.len() - changed.len(), "changed": changed.len(), "added": added.len(),
        "removed": removed.len(), "newly_uploaded_cas_bytes": 0, "reused_cas_bytes": after.total_bytes(),
        "deployment_copy_bytes_eliminated": 0, "legacy_immutable_warnings": [], "previous_immutable_failures": [],
        "cas_authorization_failures": [],
    });
    json!({
        "site": site,
        "functions": functions(before, after),
        "secrets": sets(&before.secrets, &after.secrets),
        "subdomains": sets(&before.subdomains, &after.subdomains),
        "routes": routes(before, after),
        "static_assets": static_assets,
    })
}

fn functions(before: &Manifest, after: &Manifest) -> Value {
    let (added, removed, changed) = names(&before.functions, &after.functions);
    let fields = |name: &&String| {
        let (old, new) = (&before.functions[*name], &after.functions[*name]);
        let all = [
            ("code_hash", old.code_hash() != new.code_hash()),
            ("runtime", old.runtime != new.runtime),
            ("timeout_seconds", old.timeout_seconds() != new.timeout_seconds()),
            ("memory_mb", old.memory_mb() != new.memory_mb()),
            ("schedule", old.schedule != new.schedule),
        ];
        let fields: Vec<&str> = all.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
        json!({"name": name, "fields_changed": fields})
    };
    json!({"added": added, "removed": removed, "changed": changed.iter().map(fields).collect::<Vec<_>>()})
}

fn sets(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Value {
    json!({"added": after.difference(before).collect::<Vec<_>>(), "removed": before.difference(after).collect::<Vec<_>>()})
}

fn routes(before: &Manifest, after: &Manifest) -> Value {
    let by_pattern = |manifest: &Manifest| -> BTreeMap<String, Route> {
        let key = |route: &Route| format!("{} {}", route.methods.clone().unwrap_or_default().join(","), route.pattern);
        manifest.routes.iter().map(|route| (key(route), route.clone())).collect()
    };
    let (old, new) = (by_pattern(before), by_pattern(after));
    let (added, removed, changed) = names(&old, &new);
    let list = |names: &[&String], from: &BTreeMap<String, Route>| {
        names.iter().map(|name| json!(from[*name])).collect::<Vec<_>>()
    };
    let mut bucket =
        json!({"added": list(&added, &new), "removed": list(&removed, &old), "changed": list(&changed, &new)});
    if before.routes != after.routes {
        bucket["manifest_sha256_old"] = json!(before.routes_digest());
        bucket["manifest_sha256_new"] = json!(after.routes_digest());
    }
    bucket
}

/// Whether a key is below a prefix, which ends where a name ends: `img` is not before `img2/a`.
pub(crate) fn is_below(key: &str, prefix: &str) -> bool {
    key.strip_prefix(prefix.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether a route is for this path.
pub(crate) fn covers(route: &Route, path: &str) -> bool {
    match route.prefix() {
        Some(prefix) => path.starts_with(prefix) || path == prefix.trim_end_matches('/') && !path.is_empty(),
        None => path == route.pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(text: &str) -> Value {
        json!({"sha256": Digest::of(text.as_bytes()), "size": text.len(), "content_type": "text/plain"})
    }

    fn apply(before: &Manifest, slices: Value) -> Manifest {
        let mut spec = slices;
        spec["project_id"] = json!("p");
        before.apply(&Spec::read(spec).expect("a spec"))
    }

    #[test]
    fn slices_are_carried_forward_replaced_and_patched() {
        let first = apply(
            &Manifest::default(),
            json!({"site": {"replace": {"a": content("a"), "b": content("b")}},
            "functions": {"replace": {"f": {"source": content("f")}}}, "secrets": {"require": ["KEY"]}}),
        );
        let patched = apply(&first, json!({"site": {"patch": {"put": {"c": content("c")}, "delete": ["a"]}}}));
        assert_eq!(patched.site.keys().collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!((patched.functions.len(), patched.secrets.len()), (1, 1));
        let replaced = apply(
            &patched,
            json!({"site": {"replace": {"d": content("d")}}, "functions": {"patch": {"delete": ["f"]}}}),
        );
        assert_eq!((replaced.site.len(), replaced.functions.len()), (1, 0));
        assert_eq!(apply(&replaced, json!({"secrets": {"delete": ["KEY"]}})).secrets.len(), 0);
    }

    #[test]
    fn differences_are_found_and_a_release_is_equal_to_itself() {
        let before = apply(&Manifest::default(), json!({"site": {"replace": {"a": content("a"), "b": content("b")}}}));
        let after = apply(&before, json!({"site": {"replace": {"a": content("A"), "c": content("c")}}}));
        let diff_ = diff(&before, &after, 100);
        assert_eq!(diff_["site"]["totals"], json!({"added": 1, "removed": 1, "changed": 1}));
        assert_eq!(diff(&after, &after, 100)["site"]["totals"], json!({"added": 0, "removed": 0, "changed": 0}));
        assert_ne!(before.digest(), after.digest());
        assert_eq!(after.digest(), apply(&after, json!({"site": {"patch": {"delete": ["none"]}}})).digest());
    }
}
