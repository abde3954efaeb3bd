//! The keys of projects on this machine, and which project is the active one.
//!
//! `credentials/project-keys.v1.json` and `state.json` in the profile's directory, shared with other
//! clients of the API. The older `projects.json` is taken over by the first reading and by the first
//! writing, whichever comes first, so that no key is left behind; it stays where it is. Fields that we do
//! not know are kept. Readers never wait; writers queue up and lock out other processes.

use crate::client::{KeyPair, Keyring, Secret};
use crate::environment::{Base, Environment};
use crate::error::Error;
use crate::files::{self, FileError, Lock, MAX_STATE_BYTES, Queue};
use serde_json::{Map, Value, json};
use std::fmt;
use std::path::PathBuf;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

const KEYS: &str = "credentials/project-keys.v1.json";
const STATE: &str = "state.json";
const OLD: &str = "projects.json";
/// Were kept with the keys once, and are the gateway's to tell.
const OBSOLETE: [&str; 3] = ["tier", "lease_expires_at", "expires_at"];

type Object = Map<String, Value>;

fn now() -> Value {
    OffsetDateTime::now_utc().format(&Rfc3339).expect("this century can be written in RFC 3339").into()
}

/// What is remembered of a project beside its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    SiteUrl,
    DeployedAt,
    LastDeploymentId,
    MailboxId,
    MailboxAddress,
}

impl Field {
    const fn name(self) -> &'static str {
        match self {
            Self::SiteUrl => "site_url",
            Self::DeployedAt => "deployed_at",
            Self::LastDeploymentId => "last_deployment_id",
            Self::MailboxId => "mailbox_id",
            Self::MailboxAddress => "mailbox_address",
        }
    }
}

/// A project with both of its keys.
#[derive(Debug, Clone)]
pub struct ProjectKeys {
    pub keys: KeyPair,
    pub site_url: Option<String>,
    pub deployed_at: Option<String>,
    pub last_deployment_id: Option<String>,
    pub mailbox_id: Option<String>,
    pub mailbox_address: Option<String>,
}

impl ProjectKeys {
    fn read(entry: &Value) -> Option<Self> {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
        let key = |name: &str| text(name).filter(|key| !key.is_empty()).map(Secret::new);
        Some(Self {
            keys: KeyPair { anon: key("anon_key")?, service: key("service_key")? },
            site_url: text(Field::SiteUrl.name()),
            deployed_at: text(Field::DeployedAt.name()),
            last_deployment_id: text(Field::LastDeploymentId.name()),
            mailbox_id: text(Field::MailboxId.name()),
            mailbox_address: text(Field::MailboxAddress.name()),
        })
    }
}

/// A project's entry while it is changed.
pub struct Entry<'a>(&'a mut Object);

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").finish_non_exhaustive()
    }
}

impl Entry<'_> {
    /// `None` forgets it.
    pub fn set(&mut self, field: Field, value: Option<&str>) {
        match value {
            Some(value) => self.0.insert(field.name().to_owned(), value.into()),
            None => self.0.remove(field.name()),
        };
    }
}

/// The files of one profile, for one gateway and one wallet. Clones share a queue.
#[derive(Debug, Clone)]
pub struct KeyCache {
    directory: PathBuf,
    scope: Scope,
    queue: Queue,
}

/// Whose active project is meant.
#[derive(Debug, Clone)]
struct Scope {
    api_base: String,
    profile: String,
    principal: String,
}

impl Scope {
    /// Compact JSON, in this order: other clients build the same text.
    fn key(&self) -> String {
        let quoted = |text: &str| Value::from(text).to_string();
        let (base, profile, principal) = (quoted(&self.api_base), quoted(&self.profile), quoted(&self.principal));
        format!("{{\"api_base\":{base},\"profile\":{profile},\"principal\":{principal}}}")
    }
}

/// One of the files, and what has to be done about it.
struct Loaded {
    object: Object,
    /// It is there, and is not what it should be; it reads as empty.
    is_broken: bool,
    /// It has taken something over that is not written down yet.
    has_import: bool,
}

impl KeyCache {
    /// `principal` is the wallet's address, lower case.
    pub fn new(environment: &Environment, base: &Base, principal: Option<&str>) -> Self {
        let scope = Scope {
            api_base: base.as_str().to_owned(),
            profile: environment.profile.clone(),
            principal: principal.unwrap_or("unknown").to_owned(),
        };
        Self { directory: environment.profile_dir(), scope, queue: Queue::default() }
    }

    /// The keys of a project, when both are here.
    pub fn project(&self, project: &str) -> Result<Option<ProjectKeys>, FileError> {
        let keys = self.read_keys()?;
        Ok(projects(&keys).and_then(|projects| projects.get(project)).and_then(ProjectKeys::read))
    }

    /// Every project of which something is here.
    pub fn projects(&self) -> Result<Vec<String>, FileError> {
        let keys = self.read_keys()?;
        Ok(projects(&keys).map(|projects| projects.keys().cloned().collect()).unwrap_or_default())
    }

    /// The active project of this gateway and wallet, else that of the profile.
    pub fn active(&self) -> Result<Option<String>, FileError> {
        self.read_keys()?;
        let state = self.load_state()?;
        // Not before the keys: that state was taken over says that they were.
        if state.has_import && !state.is_broken && !self.load_keys()?.has_import {
            self.write_if_free(STATE, || self.load_state());
        }
        let state = state.object;
        let scoped = state.get("active_projects").and_then(|scoped| scoped.get(self.scope.key())?.get("project_id"));
        let active = scoped.or_else(|| state.get("active_project_id"));
        Ok(active.and_then(Value::as_str).map(str::to_owned))
    }

    /// Keeps the keys of a project and makes it the active one. What else is known of it stays.
    pub async fn save_project(&self, project: &str, keys: &KeyPair) -> Result<(), FileError> {
        self.change_keys(|projects| {
            let entry = projects.entry(project).or_insert(Value::Null);
            let mut fields = entry.as_object().cloned().unwrap_or_default();
            fields.insert("anon_key".to_owned(), keys.anon.reveal().into());
            fields.insert("service_key".to_owned(), keys.service.reveal().into());
            fields.insert("cached_at".to_owned(), now());
            *entry = fields.into();
        })
        .await?;
        self.set_active(project).await
    }

    /// Changes what is remembered of a project. Whether it is here at all: other clients expect keys in
    /// every entry, so that none is made without.
    pub async fn update(&self, project: &str, change: impl FnOnce(&mut Entry<'_>)) -> Result<bool, FileError> {
        self.change_keys(|projects| {
            let entry = projects.get_mut(project).and_then(Value::as_object_mut);
            entry.map(|entry| change(&mut Entry(entry))).is_some()
        })
        .await
    }

    /// Forgets a project; when it was the active one, the one before it is active again.
    pub async fn remove_project(&self, project: &str) -> Result<(), FileError> {
        self.change_keys(|projects| {
            projects.remove(project);
        })
        .await?;
        let scope = self.scope.key();
        self.change_state(|state| {
            forget(state, "active_project_id", "previous_active_project_id", project);
            if let Some(scoped) = state.get_mut("active_projects").and_then(Value::as_object_mut)
                && let Some(entry) = scoped.get_mut(&scope).and_then(Value::as_object_mut)
            {
                forget(entry, "project_id", "previous_project_id", project);
                if !entry.contains_key("project_id") {
                    scoped.remove(&scope);
                }
            }
        })
        .await
    }

    pub async fn set_active(&self, project: &str) -> Result<(), FileError> {
        let Scope { api_base, profile, principal } = self.scope.clone();
        let scope = self.scope.key();
        self.change_state(|state| {
            activate(state, "active_project_id", "previous_active_project_id", project);
            let scoped = state.entry("active_projects").or_insert_with(|| json!({}));
            if !scoped.is_object() {
                *scoped = json!({});
            }
            let Some(scoped) = scoped.as_object_mut() else { return };
            let entry = scoped.entry(scope).or_insert_with(|| json!({}));
            if !entry.is_object() {
                *entry = json!({});
            }
            let Some(entry) = entry.as_object_mut() else { return };
            activate(entry, "project_id", "previous_project_id", project);
            for (name, value) in [("api_base", api_base), ("principal", principal), ("profile", profile)] {
                entry.insert(name.to_owned(), value.into());
            }
            entry.insert("updated_at".to_owned(), now());
        })
        .await
    }

    fn read_keys(&self) -> Result<Object, FileError> {
        let keys = self.load_keys()?;
        // A broken file is put aside by who writes, not by who reads.
        if keys.has_import && !keys.is_broken {
            self.write_if_free(KEYS, || self.load_keys());
        }
        Ok(keys.object)
    }

    async fn change_keys<T>(&self, change: impl FnOnce(&mut Object) -> T) -> Result<T, FileError> {
        let _turn = self.queue.enter(&self.directory.join(KEYS)).await?;
        let mut keys = self.load_keys()?;
        keys.object.entry("version").or_insert(json!(1));
        keys.object.entry("source").or_insert(json!("local_cache"));
        let projects = keys.object.entry("projects").or_insert_with(|| json!({}));
        let projects = projects.as_object_mut().expect("a file whose projects are no object reads as empty");
        let result = change(projects);
        self.write(KEYS, &keys)?;
        Ok(result)
    }

    async fn change_state(&self, change: impl FnOnce(&mut Object)) -> Result<(), FileError> {
        if self.load_keys()?.has_import {
            self.change_keys(|_| ()).await?;
        }
        let _turn = self.queue.enter(&self.directory.join(STATE)).await?;
        let mut state = self.load_state()?;
        state.object.entry("version").or_insert(json!(1));
        change(&mut state.object);
        self.write(STATE, &state)
    }

    /// Writes down what was taken over, unless somebody else is writing: it can be taken over again. A
    /// reader has its answer already, so that a failure is none of the answer's.
    fn write_if_free(&self, name: &str, load: impl FnOnce() -> Result<Loaded, FileError>) {
        let path = self.directory.join(name);
        let written = (|| {
            let Some(_lock) = Lock::try_acquire(&path)? else { return Ok(()) };
            let loaded = load()?;
            match loaded.has_import && !loaded.is_broken {
                true => self.write(name, &loaded),
                false => Ok(()),
            }
        })();
        if let Err(error) = written {
            tracing::warn!(%error, "what an older client kept is read, but cannot be taken over");
        }
    }

    /// Under the lock only.
    fn write(&self, name: &str, loaded: &Loaded) -> Result<(), FileError> {
        let path = self.directory.join(name);
        if loaded.is_broken {
            // Somebody may still find a key in it.
            let mut aside = path.as_os_str().to_owned();
            aside.push(format!(".broken-{}", OffsetDateTime::now_utc().unix_timestamp_nanos()));
            files::rename_new(&path, &PathBuf::from(aside))?;
        }
        let text = serde_json::to_vec_pretty(&loaded.object).expect("an object can be written as JSON");
        files::write_private(&path, &Zeroizing::new(text))
    }

    /// With what older clients kept, when that was not taken over yet. A file that was made without it, by a
    /// client that only wrote, gets it afterwards; what it has itself is newer.
    fn load_keys(&self) -> Result<Loaded, FileError> {
        let mut keys = self.load(KEYS, |keys| keys.get("projects").is_none_or(Value::is_object))?;
        let is_there = !keys.object.is_empty() || keys.is_broken;
        if keys.object.contains_key("migrated_from") || (is_there && is_imported(&self.load_raw_state()?.object)) {
            return Ok(keys);
        }
        let Some(old) = self.load_old()? else { return Ok(keys) };
        keys.has_import = true;
        for (name, value) in [("version", json!(1)), ("source", json!("local_cache")), ("projects", json!({}))] {
            keys.object.entry(name).or_insert(value);
        }
        keys.object.insert("migrated_from".to_owned(), OLD.into());
        keys.object.insert("migrated_at".to_owned(), now());
        if let Some(projects) = keys.object.get_mut("projects").and_then(Value::as_object_mut) {
            for (id, entry) in imported(&old) {
                projects.entry(id).or_insert(entry);
            }
        }
        Ok(keys)
    }

    fn load_state(&self) -> Result<Loaded, FileError> {
        let mut state = self.load_raw_state()?;
        if is_imported(&state.object) {
            return Ok(state);
        }
        let Some(old) = self.load_old()? else { return Ok(state) };
        state.has_import = true;
        state.object.entry("version").or_insert(json!(1));
        if !state.object.contains_key("active_project_id") {
            for name in ["active_project_id", "previous_active_project_id"] {
                if let Some(active) = old.get(name).filter(|active| active.is_string()) {
                    state.object.insert(name.to_owned(), active.clone());
                }
            }
        }
        let migrations = state.object.entry("migrations").or_insert_with(|| json!({}));
        if !migrations.is_object() {
            *migrations = json!({});
        }
        migrations["projects_json_import"] = json!({"at": now(), "projects": imported(&old).len()});
        Ok(state)
    }

    fn load_raw_state(&self) -> Result<Loaded, FileError> {
        self.load(STATE, |_| true)
    }

    fn load(&self, name: &str, is_good: impl FnOnce(&Object) -> bool) -> Result<Loaded, FileError> {
        let bytes = files::read_bounded(&self.directory.join(name), MAX_STATE_BYTES)?;
        let parsed = bytes.map(|bytes| serde_json::from_slice::<Object>(&bytes).ok().filter(is_good));
        let is_broken = matches!(parsed, Some(None));
        Ok(Loaded { object: parsed.flatten().unwrap_or_default(), is_broken, has_import: false })
    }

    /// A broken file has nothing to take over; it stays where it is.
    fn load_old(&self) -> Result<Option<Value>, FileError> {
        let bytes = files::read_bounded(&self.directory.join(OLD), MAX_STATE_BYTES)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}

fn projects(keys: &Object) -> Option<&Object> {
    keys.get("projects").and_then(Value::as_object)
}

fn is_imported(state: &Object) -> bool {
    state.get("migrations").is_some_and(|migrations| migrations.get("projects_json_import").is_some())
}

fn activate(fields: &mut Object, active: &str, previous: &str, project: &str) {
    if let Some(before) = fields.insert(active.to_owned(), project.into()).filter(|before| before != project) {
        fields.insert(previous.to_owned(), before);
    }
}

fn forget(fields: &mut Object, active: &str, previous: &str, project: &str) {
    if fields.get(previous).is_some_and(|before| before == project) {
        fields.remove(previous);
    }
    if fields.get(active).is_some_and(|found| found == project) {
        fields.remove(active);
        if let Some(before) = fields.remove(previous) {
            fields.insert(active.to_owned(), before);
        }
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
    let clean = |(id, mut entry): (String, Object)| {
        entry.retain(|name, _| !OBSOLETE.contains(&name.as_str()) && name != "project_id");
        entry.entry("cached_at").or_insert_with(now);
        (id, Value::Object(entry))
    };
    entries.into_iter().map(clean).collect()
}

impl Keyring for KeyCache {
    fn keys(&self, project: &str) -> Result<Option<KeyPair>, Error> {
        Ok(self.project(project)?.map(|project| project.keys))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scope_is_written_as_other_clients_write_it() {
        let scope = Scope { api_base: "http://a:1".into(), profile: "de\"fault".into(), principal: "0xabc".into() };
        assert_eq!(scope.key(), r#"{"api_base":"http://a:1","profile":"de\"fault","principal":"0xabc"}"#);
    }

    #[test]
    fn the_project_before_is_active_again() {
        let mut fields = Object::new();
        for project in ["a", "b", "b"] {
            activate(&mut fields, "active", "previous", project);
        }
        assert_eq!(Value::from(fields.clone()), json!({"active": "b", "previous": "a"}));
        let after = |project: &str| {
            let mut fields = fields.clone();
            forget(&mut fields, "active", "previous", project);
            Value::from(fields)
        };
        assert_eq!(after("b"), json!({"active": "a"}));
        assert_eq!(after("a"), json!({"active": "b"}));
        assert_eq!(after("c"), json!({"active": "b", "previous": "a"}));
    }

    #[test]
    fn both_older_forms_are_read_without_what_is_obsolete() {
        let entry = json!({"anon_key": "a", "service_key": "s", "tier": "hobby", "lease_expires_at": "x",
            "expires_at": "x", "mailbox_id": "m", "surprise": 1});
        let mut row = entry.clone();
        row["project_id"] = json!("p");
        for old in [json!({"projects": {"p": entry, "bad": 7}}), json!([row, {"anon_key": "nameless"}, 7])] {
            let mut found = imported(&old);
            assert_eq!(found.len(), 1, "{old}");
            let mut project = found.remove("p").expect("the project");
            assert!(project["cached_at"].is_string());
            project.as_object_mut().expect("an object").remove("cached_at");
            let wanted = json!({"anon_key": "a", "service_key": "s", "mailbox_id": "m", "surprise": 1});
            assert_eq!(project, wanted);
        }
        for nothing in [json!(null), json!("x"), json!({}), json!({"projects": []})] {
            assert_eq!(imported(&nothing).len(), 0);
        }
    }

    #[test]
    fn a_project_without_both_keys_is_none() {
        let whole = json!({"anon_key": "anon_secret", "service_key": "service_secret", "mailbox_id": "m"});
        let found = ProjectKeys::read(&whole).expect("both keys");
        assert_eq!((found.mailbox_id.as_deref(), found.site_url.as_deref()), (Some("m"), None));
        assert!(!format!("{found:?}").contains("_secret"));
        for bad in [
            json!({"anon_key": "a"}),
            json!({"anon_key": "a", "service_key": ""}),
            json!(7),
            json!({"anon_key": 1, "service_key": 2}),
        ] {
            assert!(ProjectKeys::read(&bad).is_none(), "{bad}");
        }
    }
}
