//! Projects: their folders, their `project.json`, and the register of those that exist.
//!
//! ```text
//! <state>/projects/<id>/project.json    what the project is; the truth
//! <state>/projects/<id>/workspace/      unless the project uses a folder of the host
//! <state>/projects/<id>/home/           /home/user
//! <state>/projects/<id>/runs/<run>/     journals
//! ```
//! Everything is 0700; the keeper opens the folders before it gives up its rights.

use crate::policies::NamedPolicy;
use sandbox_keeper::client::Keeper;
use sandbox_wire::{AccessType, Code, Problem, ProjectId, RunId, UrlId};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, PoisonError, RwLock};

/// Inside the sandbox the user is 1000, which is this far into the project's range of host ids.
const INNER_UID: u32 = 1000;
const FILE_VERSION: u32 = 1;
const MAX_NAME_CHARS: usize = 100;

/// `project.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProjectFile {
    pub(crate) version: u32,
    pub(crate) id: ProjectId,
    pub(crate) url_id: UrlId,
    pub(crate) name: String,
    pub(crate) created_at: String,
    pub(crate) access_type: AccessType,
    pub(crate) policy: String,
    /// The host folder that is the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dir: Option<PathBuf>,
    /// First host id of the project's range; none when an ordinary user made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id_base: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ProjectError {
    #[error("cannot make the project folder {path}")]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not a project file of version {FILE_VERSION}")]
    NotAProject { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Write(#[from] crate::state::StateError),
}

impl ProjectFile {
    pub(crate) const VERSION: u32 = FILE_VERSION;

    /// Writes it in its folder; a crash leaves the old or the new one.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), ProjectError> {
        let text = serde_json::to_vec_pretty(self).expect("texts and numbers are JSON");
        Ok(crate::state::write_atomically(&folder.join("project.json"), &text)?)
    }

    /// None when the folder has none: its making was not completed.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, ProjectError> {
        let path = folder.join("project.json");
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map(Some).map_err(|source| ProjectError::NotAProject { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ProjectError::Read { path, source }),
        }
    }
}

/// Makes the project's folders, owned by the ids of its sandbox, and at last its file.
pub(crate) fn create_folders(folder: &Path, file: &ProjectFile) -> Result<(), ProjectError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ProjectError::Create { path, source }
    };
    let make = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path).map_err(failed(path));
    // Spread by a hash of the name that a folder is made with: one that no other project's has.
    let make_inside = |name: &str| -> Result<PathBuf, ProjectError> {
        let (path, first) = (folder.join(name), folder.join(format!("{name}-{}", file.id)));
        make(&first)?;
        fs::rename(first, &path).map_err(failed(&path))?;
        Ok(path)
    };
    make(folder)?;
    crate::state::spread_below(folder);
    make_inside("runs")?;
    let mut inner = vec!["home"];
    if file.dir.is_none() {
        inner.push("workspace");
    }
    for name in inner {
        let path = make_inside(name)?;
        if let Some(base) = file.id_base {
            let id = Some(base + INNER_UID);
            std::os::unix::fs::chown(&path, id, id).map_err(failed(&path))?;
        }
    }
    file.write(folder)
}

/// A project that exists.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: ProjectId,
    pub(crate) folder: PathBuf,
    pub(crate) keeper: Keeper,
    record: RwLock<Arc<Record>>,
    /// Held while a keeper is being started, so that two requests start one.
    pub(crate) starting: tokio::sync::Mutex<()>,
    /// Counts the keepers that were started.
    pub(crate) generation: AtomicU64,
    /// Set for good when the project is being deleted.
    pub(crate) deleting: AtomicBool,
}

/// What a project is right now.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) file: ProjectFile,
    /// None when the policy that the file names does not exist any more.
    pub(crate) policy: Option<Arc<NamedPolicy>>,
}

impl Entry {
    /// The host folder that is the project's inside.
    pub(crate) fn workspace(&self) -> PathBuf {
        match &self.record().file.dir {
            Some(dir) => PathBuf::from(dir),
            None => self.folder.join("workspace"),
        }
    }

    pub(crate) fn new(folder: PathBuf, record: Record) -> Self {
        Self {
            id: record.file.id,
            keeper: Keeper::at(&folder),
            folder,
            record: RwLock::new(Arc::new(record)),
            starting: tokio::sync::Mutex::new(()),
            generation: AtomicU64::new(0),
            deleting: AtomicBool::new(false),
        }
    }

    pub(crate) fn record(&self) -> Arc<Record> {
        Arc::clone(&self.record.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace_record(&self, record: Record) {
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(record);
    }

    /// The folder of a run's journal.
    pub(crate) fn run_dir(&self, run: &RunId) -> PathBuf {
        self.folder.join("runs").join(run.as_str())
    }
}

/// All projects, by each of their names.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    maps: RwLock<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    by_id: HashMap<ProjectId, Arc<Entry>>,
    by_url_id: HashMap<String, ProjectId>,
    by_dir: HashMap<PathBuf, ProjectId>,
}

impl Registry {
    pub(crate) fn insert(&self, entry: Arc<Entry>) {
        let record = entry.record();
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        maps.by_url_id.insert(record.file.url_id.as_str().to_owned(), entry.id);
        if let Some(dir) = &record.file.dir {
            maps.by_dir.insert(dir.clone(), entry.id);
        }
        maps.by_id.insert(entry.id, entry);
    }

    pub(crate) fn remove(&self, entry: &Entry) {
        let record = entry.record();
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        maps.by_url_id.remove(record.file.url_id.as_str());
        if let Some(dir) = &record.file.dir {
            maps.by_dir.remove(dir);
        }
        maps.by_id.remove(&entry.id);
    }

    /// By UUID or by `url_id`.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Entry>> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        let id = match maps.by_url_id.get(name) {
            Some(id) => *id,
            None => name.parse().ok()?,
        };
        maps.by_id.get(&id).cloned()
    }

    pub(crate) fn of_dir(&self, dir: &Path) -> Option<Arc<Entry>> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        maps.by_dir.get(dir).and_then(|id| maps.by_id.get(id)).cloned()
    }

    pub(crate) fn has_url_id(&self, url_id: &str) -> bool {
        self.maps.read().unwrap_or_else(PoisonError::into_inner).by_url_id.contains_key(url_id)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner).by_id.values().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.maps.read().unwrap_or_else(PoisonError::into_inner).by_id.len()
    }
}

/// A name as people see it. Refused when it is empty, long, or would break a line.
pub(crate) fn check_name(name: &str) -> Result<String, Problem> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control) {
        let sentence = format!("name must be 1 to {MAX_NAME_CHARS} characters without line breaks");
        return Err(Problem::new(Code::InvalidName, sentence).with("field", "name"));
    }
    Ok(name.to_owned())
}

/// A `url_id` made from a name; a random one when the name gives nothing to read, is taken, or could be
/// taken for an id.
pub(crate) fn url_id_for(name: Option<&str>, taken: impl Fn(&str) -> bool) -> UrlId {
    let slug = name.map(slug).unwrap_or_default();
    let usable = |id: &str| !id.is_empty() && id.parse::<ProjectId>().is_err() && !taken(id);
    if usable(&slug) {
        return slug.parse().expect("a slug is made of the allowed characters");
    }
    let stem = if slug.is_empty() || slug.parse::<ProjectId>().is_ok() { "project".to_owned() } else { slug };
    loop {
        let id = format!("{}-{:06x}", &stem[..stem.len().min(56)], rand::random::<u32>() & 0x00ff_ffff);
        if usable(&id) {
            return id.parse().expect("a slug, a hyphen and hexadecimal digits");
        }
    }
}

/// Lower-case words joined by hyphens, at most 63 bytes; empty when there are none.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
        if slug.len() == 63 {
            break;
        }
    }
    slug.trim_end_matches('-').to_owned()
}

/// A host folder that may be a workspace, without links. Refused when it is not an absolute path of a
/// folder, or when the daemon's own files or the system's would become writable with it.
pub(crate) fn check_dir(dir: &str, state: &Path) -> Result<PathBuf, Problem> {
    let invalid = |reason: &str| {
        Problem::new(Code::InvalidDirectory, format!("dir {reason}")).with("field", "dir").with("dir", dir)
    };
    if dir.contains('\0') {
        return Err(invalid("contains a NUL byte"));
    }
    let path = Path::new(dir);
    if !path.is_absolute() {
        return Err(invalid("must be an absolute path on the host"));
    }
    let path = fs::canonicalize(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => invalid("does not exist on the host"),
        io::ErrorKind::PermissionDenied => invalid("cannot be read by the daemon"),
        _ => invalid("cannot be opened on the host"),
    })?;
    if !path.is_dir() {
        return Err(invalid("is not a folder"));
    }
    let system = ["proc", "sys", "dev"];
    let top = path.components().find_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    match top {
        None => return Err(invalid("is the root of the host")),
        Some(name) if system.iter().any(|kernel| name == *kernel) => {
            return Err(invalid("is a filesystem of the kernel"));
        }
        Some(_) => {}
    }
    if path.starts_with(state) || state.starts_with(&path) {
        let sentence = format!("dir {} overlaps the daemon's state directory {}", path.display(), state.display());
        return Err(Problem::new(Code::InvalidDirectory, sentence)
            .with("field", "dir")
            .with("dir", dir)
            .with("state", state.display().to_string())
            .next("use another folder, one that is neither inside the state directory nor around it")
            .next("or give the daemon another state directory with --state"));
    }
    if path.to_str().is_none() {
        return Err(invalid("is not UTF-8"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_ids_come_from_names() {
        let free = |_: &str| false;
        assert_eq!(url_id_for(Some("My  Site!"), free).as_str(), "my-site");
        assert_eq!(url_id_for(Some(&"x".repeat(100)), free).as_str().len(), 63);
        let again = url_id_for(Some("my site"), |id| id == "my-site");
        assert!(again.as_str().starts_with("my-site-") && again.as_str().len() == 14, "{again}");
        assert!(url_id_for(Some("日本"), free).as_str().starts_with("project-"));
        assert!(url_id_for(None, free).as_str().starts_with("project-"));
        let id = ProjectId::random().to_string();
        assert_ne!(url_id_for(Some(&id), free).as_str(), id);
    }

    #[test]
    fn names_are_one_readable_line() {
        assert_eq!(check_name(" a b "), Ok("a b".to_owned()));
        for bad in ["", "  ", "a\nb", &"x".repeat(101)] {
            assert_eq!(check_name(bad).expect_err("refused").code, Code::InvalidName);
        }
    }

    #[test]
    fn folders_of_the_daemon_and_the_kernel_are_no_workspaces() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = fs::canonicalize(dir.path()).expect("there");
        let state = root.join("state");
        fs::create_dir_all(state.join("projects")).expect("made");
        fs::create_dir(root.join("work")).expect("made");
        fs::write(root.join("file"), "").expect("written");
        std::os::unix::fs::symlink(&state, root.join("link")).expect("linked");
        let check = |path: &Path| check_dir(path.to_str().expect("UTF-8"), &state);
        assert_eq!(check(&root.join("work")), Ok(root.join("work")));
        for bad in ["state", "state/projects", "link", "file", "missing", "."] {
            assert_eq!(check(&root.join(bad)).expect_err("refused").code, Code::InvalidDirectory, "{bad}");
        }
        let overlap = check(&root).expect_err("refused");
        assert!(
            [&root, &state].iter().all(|path| overlap.to_string().contains(&path.display().to_string())),
            "{overlap}"
        );
        assert_eq!(overlap.next_actions.len(), 2);
        for bad in ["/", "/proc", "/sys/fs", "relative", "", "a\0b"] {
            assert_eq!(check_dir(bad, &state).expect_err("refused").code, Code::InvalidDirectory, "{bad}");
        }
    }

    #[test]
    fn a_project_file_survives_writing() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let folder = dir.path().join("p");
        let file = ProjectFile {
            version: ProjectFile::VERSION,
            id: ProjectId::random(),
            url_id: url_id_for(Some("a"), |_| false),
            name: "a".to_owned(),
            created_at: crate::clock::rfc3339(0),
            access_type: AccessType::Private,
            policy: "default".to_owned(),
            dir: None,
            id_base: None,
        };
        create_folders(&folder, &file).expect("made");
        assert_eq!(ProjectFile::read(&folder).expect("read"), Some(file));
        assert!(folder.join("workspace").is_dir() && folder.join("home").is_dir() && folder.join("runs").is_dir());
        assert_eq!(ProjectFile::read(dir.path()).expect("read"), None);
    }
}
