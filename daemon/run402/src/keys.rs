//! The keys of projects on this machine, and which project is the active one.
//!
//! `credentials/project-keys.v1.json` and `state.json` in the profile's directory, shared with other
//! clients of the API. An older `projects.json` is imported before the first reading and before the first
//! writing, so that no key is left behind; it stays where it is. Fields that we do not know are kept.

use crate::client::{KeyPair, Keyring, Secret};
use crate::environment::Environment;
use crate::error::Error;
use crate::files::{self, FileError, Lock};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

const KEYS: &str = "credentials/project-keys.v1.json";
const STATE: &str = "state.json";
const OLD: &str = "projects.json";
/// Were kept with the keys once, and are the gateway's to tell.
const OBSOLETE: [&str; 3] = ["tier", "lease_expires_at", "expires_at"];

/// The files of one profile, for one gateway and one wallet.
#[derive(Debug, Clone)]
pub struct KeyCache {
    directory: PathBuf,
    /// Whose active project is meant: gateway, profile and wallet.
    scope: String,
    scope_fields: (String, String, String),
}

fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

type Object = Map<String, Value>;

impl KeyCache {
    /// `principal` is the wallet's address.
    pub fn new(environment: &Environment, base: &str, principal: Option<&str>) -> Self {
        let principal = principal.unwrap_or("unknown").to_owned();
        let fields = (base.to_owned(), environment.profile.clone(), principal);
        // Compact, and in this order: other clients build the same text.
        let quoted = |text: &str| Value::String(text.to_owned()).to_string();
        let (base, profile, principal) = (quoted(&fields.0), quoted(&fields.1), quoted(&fields.2));
        let scope = format!("{{\"api_base\":{base},\"profile\":{profile},\"principal\":{principal}}}");
        Self { directory: environment.profile_dir(), scope, scope_fields: fields }
    }

    /// The keys of a project, when they are here.
    pub fn project(&self, project: &str) -> Result<Option<KeyPair>, FileError> {
        let keys = self.read_keys()?;
        Ok(keys.get("projects").and_then(|projects| projects.get(project)).and_then(key_pair))
    }

    /// Every project whose keys are here.
    pub fn projects(&self) -> Result<Vec<String>, FileError> {
        let keys = self.read_keys()?;
        Ok(keys.get("projects").and_then(Value::as_object).map(|map| map.keys().cloned().collect()).unwrap_or_default())
    }

    /// Keeps the keys of a project and makes it the active one.
    pub fn save_project(&self, project: &str, keys: &KeyPair) -> Result<(), FileError> {
        self.update(project, |entry| {
            entry.insert("anon_key".to_owned(), json!(keys.anon.reveal()));
            entry.insert("service_key".to_owned(), json!(keys.service.reveal()));
            entry.insert("cached_at".to_owned(), json!(now()));
        })?;
        self.set_active(project)
    }

    /// Changes what is remembered of a project; makes the entry when there is none.
    pub fn update(&self, project: &str, change: impl FnOnce(&mut Object)) -> Result<(), FileError> {
        self.change_keys(|projects| {
            let entry = projects.entry(project).or_insert_with(|| json!({}));
            if !entry.is_object() {
                *entry = json!({});
            }
            if let Some(entry) = entry.as_object_mut() {
                change(entry);
            }
        })
    }

    /// Forgets a project; when it was the active one, the one before it is active again.
    pub fn remove_project(&self, project: &str) -> Result<(), FileError> {
        self.change_keys(|projects| {
            projects.remove(project);
        })?;
        self.change_state(|state, scope| {
            let restored = state.remove("previous_active_project_id").filter(|previous| previous != project);
            match state.get("active_project_id") {
                Some(active) if active == project => {
                    state.remove("active_project_id");
                    if let Some(previous) = restored {
                        state.insert("active_project_id".to_owned(), previous);
                    }
                }
                _ => {
                    if let Some(previous) = restored {
                        state.insert("previous_active_project_id".to_owned(), previous);
                    }
                }
            }
            let Some(scoped) = state.get_mut("active_projects").and_then(Value::as_object_mut) else { return };
            let Some(entry) = scoped.get_mut(scope).and_then(Value::as_object_mut) else { return };
            if entry.get("project_id").is_some_and(|active| active == project) {
                match entry.remove("previous_project_id").filter(|previous| previous != project) {
                    Some(previous) => {
                        entry.insert("project_id".to_owned(), previous);
                    }
                    None => {
                        scoped.remove(scope);
                    }
                }
            }
        })
    }

    /// The active project of this gateway and wallet, else that of the profile.
    pub fn active(&self) -> Result<Option<String>, FileError> {
        self.import()?;
        let state = self.read(STATE)?;
        let scoped = state.get("active_projects").and_then(|projects| projects.get(&self.scope)?.get("project_id"));
        let active = scoped.or_else(|| state.get("active_project_id"));
        Ok(active.and_then(Value::as_str).map(str::to_owned))
    }

    pub fn set_active(&self, project: &str) -> Result<(), FileError> {
        let (api_base, profile, principal) = self.scope_fields.clone();
        self.change_state(|state, scope| {
            let flat = state.get("active_project_id").filter(|active| *active != project).cloned();
            if let Some(previous) = flat {
                state.insert("previous_active_project_id".to_owned(), previous);
            }
            state.insert("active_project_id".to_owned(), json!(project));
            let scoped = state.entry("active_projects").or_insert_with(|| json!({}));
            let Some(scoped) = scoped.as_object_mut() else { return };
            let before =
                scoped.get(scope).and_then(|entry| entry.get("project_id")).filter(|before| *before != project);
            let mut entry = json!({"project_id": project, "api_base": api_base, "principal": principal,
                "profile": profile, "updated_at": now()});
            if let Some(before) = before {
                entry["previous_project_id"] = before.clone();
            }
            scoped.insert(scope.to_owned(), entry);
        })
    }

    fn read_keys(&self) -> Result<Object, FileError> {
        self.import()?;
        self.read(KEYS)
    }

    fn change_keys(&self, change: impl FnOnce(&mut Object)) -> Result<(), FileError> {
        self.import()?;
        self.change(KEYS, |keys| {
            keys.entry("version").or_insert(json!(1));
            keys.entry("source").or_insert(json!("local_cache"));
            let projects = keys.entry("projects").or_insert_with(|| json!({}));
            if !projects.is_object() {
                *projects = json!({});
            }
            if let Some(projects) = projects.as_object_mut() {
                change(projects);
            }
        })
    }

    fn change_state(&self, change: impl FnOnce(&mut Object, &str)) -> Result<(), FileError> {
        self.import()?;
        self.change(STATE, |state| {
            state.entry("version").or_insert(json!(1));
            change(state, &self.scope);
        })
    }

    /// A broken file reads as an empty one.
    fn read(&self, name: &str) -> Result<Object, FileError> {
        let bytes = files::read(&self.directory.join(name))?.map(Zeroizing::new);
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Object)) -> Result<(), FileError> {
        let path = self.directory.join(name);
        let _lock = Lock::acquire(&path)?;
        let before = files::read(&path)?.map(Zeroizing::new);
        let parsed = before.as_ref().map(|bytes| serde_json::from_slice::<Object>(bytes).ok());
        if let Some(None) = parsed {
            // Somebody may still find a key in it.
            let mut aside = path.as_os_str().to_owned();
            aside.push(format!(".broken-{}", OffsetDateTime::now_utc().unix_timestamp()));
            std::fs::rename(&path, aside).map_err(|source| FileError::Write { path: path.clone(), source })?;
        }
        let mut object = parsed.flatten().unwrap_or_default();
        change(&mut object);
        let text = serde_json::to_vec_pretty(&object).expect("an object can be written as JSON");
        files::write_private(&path, &Zeroizing::new(text))
    }

    /// Takes the keys over from the file of older clients, once.
    fn import(&self) -> Result<(), FileError> {
        let path = self.directory.join(KEYS);
        if path.exists() {
            return Ok(());
        }
        let Some(old) = files::read(&self.directory.join(OLD))?.map(Zeroizing::new) else { return Ok(()) };
        let Ok(old) = serde_json::from_slice::<Value>(&old) else { return Ok(()) };
        let projects = imported(&old);
        let _lock = Lock::acquire(&path)?;
        if path.exists() {
            return Ok(());
        }
        let at = now();
        let keys = json!({"version": 1, "source": "local_cache", "migrated_from": OLD, "migrated_at": at, "projects": projects});
        let text = Zeroizing::new(serde_json::to_vec_pretty(&keys).expect("an object can be written as JSON"));
        files::write_private(&path, &text)?;
        self.change(STATE, |state| {
            state.entry("version").or_insert(json!(1));
            for name in ["active_project_id", "previous_active_project_id"] {
                if let Some(active) = old.get(name).filter(|active| active.is_string()) {
                    state.entry(name).or_insert_with(|| active.clone());
                }
            }
            let migrations = state.entry("migrations").or_insert_with(|| json!({}));
            migrations["projects_json_import"] = json!({"at": at, "projects": projects.len()});
        })
    }
}

/// Both forms that the older file had.
fn imported(old: &Value) -> Object {
    let entries: Vec<(String, Object)> = match old {
        Value::Array(list) => {
            let named =
                |entry: &Value| Some((entry.get("project_id")?.as_str()?.to_owned(), entry.as_object()?.clone()));
            list.iter().filter_map(named).collect()
        }
        _ => {
            let projects = old.get("projects").and_then(Value::as_object).into_iter().flatten();
            projects.filter_map(|(id, entry)| Some((id.clone(), entry.as_object()?.clone()))).collect()
        }
    };
    let at = now();
    let clean = |(id, mut entry): (String, Object)| {
        entry.retain(|name, _| !OBSOLETE.contains(&name.as_str()) && name != "project_id");
        entry.entry("cached_at").or_insert(json!(at));
        (id, Value::Object(entry))
    };
    entries.into_iter().map(clean).collect()
}

fn key_pair(entry: &Value) -> Option<KeyPair> {
    let key = |name: &str| entry.get(name).and_then(Value::as_str).map(Secret::new);
    Some(KeyPair { anon: key("anon_key")?, service: key("service_key")? })
}

impl Keyring for KeyCache {
    fn keys(&self, project: &str) -> Result<Option<KeyPair>, Error> {
        Ok(self.project(project)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn cache(directory: &Path) -> KeyCache {
        let config = directory.to_string_lossy().into_owned();
        let environment = Environment::resolve(&move |name| (name == "RUN402_CONFIG_DIR").then(|| config.clone()));
        KeyCache::new(&environment.expect("good"), "http://127.0.0.1:7403", Some("0xabc"))
    }

    fn pair(name: &str) -> KeyPair {
        KeyPair { anon: Secret::new(format!("anon_{name}")), service: Secret::new(format!("service_{name}")) }
    }

    fn anon(cache: &KeyCache, project: &str) -> Option<String> {
        cache.project(project).expect("no error").map(|keys| keys.anon.reveal().to_owned())
    }

    #[test]
    fn keys_are_kept_and_the_active_project_goes_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = cache(directory.path());
        assert_eq!((anon(&cache, "a"), cache.active().expect("no error")), (None, None));
        cache.save_project("a", &pair("a")).expect("saved");
        cache.save_project("b", &pair("b")).expect("saved");
        assert_eq!(cache.active().expect("no error").as_deref(), Some("b"));
        cache
            .update("a", |entry| {
                entry.insert("last_deployment_id".to_owned(), json!("dpl_1"));
            })
            .expect("changed");
        cache.remove_project("b").expect("removed");
        assert_eq!(cache.active().expect("no error").as_deref(), Some("a"));
        assert_eq!((anon(&cache, "a").as_deref(), anon(&cache, "b")), (Some("anon_a"), None));
        cache.remove_project("a").expect("removed");
        assert_eq!(cache.active().expect("no error"), None);
    }

    #[test]
    fn another_gateway_has_another_active_project() {
        let directory = tempfile::tempdir().expect("a directory");
        let here = cache(directory.path());
        let there = KeyCache { scope: "{}".to_owned(), ..here.clone() };
        here.set_active("a").expect("set");
        there.set_active("b").expect("set");
        assert_eq!(here.active().expect("no error").as_deref(), Some("a"));
        assert_eq!(there.active().expect("no error").as_deref(), Some("b"));
        assert!(
            here.scope.starts_with("{\"api_base\":\"http://127.0.0.1:7403\",\"profile\":\"default\",\"principal\":")
        );
    }

    #[test]
    fn older_files_are_imported_before_the_first_reading_and_writing() {
        let object = json!({"active_project_id": "p", "projects": {"p": {"anon_key": "a", "service_key": "s", "tier": "hobby", "mailbox_id": "m"}}});
        let array = json!([{"project_id": "p", "anon_key": "a", "service_key": "s", "expires_at": "x"}]);
        for (old, write_first) in [(&object, false), (&object, true), (&array, false), (&array, true)] {
            let directory = tempfile::tempdir().expect("a directory");
            fs::write(directory.path().join(OLD), old.to_string()).expect("a file");
            let cache = cache(directory.path());
            if write_first {
                cache
                    .update("q", |entry| {
                        entry.insert("anon_key".to_owned(), json!("q"));
                    })
                    .expect("written");
            }
            assert_eq!(anon(&cache, "p").as_deref(), Some("a"), "{old} {write_first}");
            let keys = cache.read(KEYS).expect("no error");
            assert_eq!(keys["projects"]["p"].get("tier"), None);
            assert_eq!(keys["migrated_from"], json!(OLD));
            assert!(cache.read(STATE).expect("no error")["migrations"]["projects_json_import"].is_object());
            assert!(directory.path().join(OLD).exists());
            let active = old.is_object().then(|| "p".to_owned());
            assert_eq!(cache.active().expect("no error"), active);
        }
    }

    #[test]
    fn writers_at_the_same_time_lose_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = cache(directory.path());
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let cache = &cache;
                scope.spawn(move || {
                    for index in 0..5 {
                        let name = format!("p{writer}-{index}");
                        cache.save_project(&name, &pair(&name)).expect("saved");
                    }
                });
            }
        });
        assert_eq!(cache.projects().expect("no error").len(), 40);
    }

    #[test]
    fn a_broken_file_is_put_aside_and_not_lost() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = cache(directory.path());
        cache.save_project("a", &pair("a")).expect("saved");
        let path = directory.path().join(KEYS);
        fs::write(&path, "{\"projects\": {\"a\": {\"anon_key\": \"precious").expect("cut off");
        assert_eq!(anon(&cache, "a"), None);
        cache.save_project("b", &pair("b")).expect("saved");
        let names: Vec<_> = fs::read_dir(path.parent().expect("a parent"))
            .expect("a list")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert!(names.iter().any(|name| name.to_string_lossy().contains(".broken-")), "{names:?}");
        assert_eq!(anon(&cache, "b").as_deref(), Some("anon_b"));
        assert!(!format!("{:?}", cache.project("b")).contains("service_b"));
    }
}
