//! All policies that can be asked for by name: the shipped ones and those of further folders.
//!
//! Input: names and folders; output: [`Policy`] values, resolved once and shared. The only part of this
//! crate that reads files.

use crate::fault::nearest;
use crate::file::Written;
use crate::resolve::resolve;
use crate::{Fault, Mistake, Place, Policy, PolicyError};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// A policy file is written by hand; a larger one is a mistake.
const MAX_FILE_BYTES: u64 = 1 << 20;

const SHIPPED: [(&str, &str); 6] = [
    ("policies/default.toml", include_str!("../default.toml")),
    ("policies/offline.toml", include_str!("../offline.toml")),
    ("policies/node-build.toml", include_str!("../node-build.toml")),
    ("policies/python.toml", include_str!("../python.toml")),
    ("policies/function.toml", include_str!("../function.toml")),
    ("policies/strict.toml", include_str!("../strict.toml")),
];

/// Where a policy comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Part of the program.
    Shipped,
    File(PathBuf),
}

/// One policy of a set, for `policy list`.
#[derive(Debug, Clone)]
pub struct Listed {
    pub name: String,
    pub description: String,
    pub extends: Option<String>,
    pub origin: Origin,
    /// Or why it cannot be used.
    pub policy: Result<Arc<Policy>, PolicyError>,
}

/// Policies by name. Cheap to ask: each is resolved once.
#[derive(Debug)]
pub struct PolicySet {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    written: Written,
    origin: Origin,
    resolved: OnceLock<Result<Arc<Policy>, PolicyError>>,
}

impl Entry {
    fn new(written: Written, origin: Origin) -> Self {
        Self { written, origin, resolved: OnceLock::new() }
    }
}

impl PolicySet {
    /// `default`, `offline`, `node-build`, `python`, `function` and `strict`.
    pub fn shipped() -> Self {
        let entries = SHIPPED.iter().map(|(file, text)| {
            let written = Written::parse(file, text.as_bytes()).expect("a test parses every shipped policy");
            (written.name().to_owned(), Entry::new(written, Origin::Shipped))
        });
        Self { entries: entries.collect() }
    }

    /// Adds every `*.toml` of a folder. They may extend the shipped policies and each other.
    ///
    /// Refused when the folder or a file cannot be read, when a file is not of the shape of a policy,
    /// and when a name is taken. Mistakes within a policy show when it is asked for; see
    /// [`PolicySet::check`].
    pub fn with_dir(mut self, dir: impl AsRef<Path>) -> Result<Self, PolicyError> {
        let dir = dir.as_ref();
        let unreadable = |source| unreadable(dir, source);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
                files.push(path);
            }
        }
        // So that of two files with one name always the same one is complained about.
        files.sort();
        let mut mistakes = Vec::new();
        for path in files {
            match read(&path).and_then(|bytes| Written::parse(&path.to_string_lossy(), &bytes)) {
                Ok(written) => match self.name_taken(&written) {
                    Some(fault) => mistakes.push(written.mistake(fault)),
                    None => {
                        self.entries.insert(written.name().to_owned(), Entry::new(written, Origin::File(path)));
                    }
                },
                Err(PolicyError::Invalid(found)) => mistakes.extend(found),
                Err(error) => return Err(error),
            }
        }
        if !mistakes.is_empty() {
            return Err(PolicyError::Invalid(mistakes));
        }
        // What could not be resolved before may extend a policy that is known only now.
        for entry in self.entries.values_mut() {
            entry.resolved = OnceLock::new();
        }
        Ok(self)
    }

    /// The policy of this name.
    pub fn get(&self, name: &str) -> Result<Arc<Policy>, PolicyError> {
        match self.entries.get(name) {
            Some(entry) => self.resolved(entry),
            None => {
                let fix = self.instead_of(name);
                // The name comes from callers and goes into a message.
                Err(PolicyError::Unknown { name: name.chars().take(64).collect(), fix })
            }
        }
    }

    /// A policy from a file that is not part of the set; it may extend those that are.
    pub fn load_file(&self, path: impl AsRef<Path>) -> Result<Arc<Policy>, PolicyError> {
        let path = path.as_ref();
        self.load_bytes(&path.to_string_lossy(), &read(path)?)
    }

    /// As [`PolicySet::load_file`], from a text; `file` is what mistakes call it.
    pub fn load_text(&self, file: &str, text: &str) -> Result<Arc<Policy>, PolicyError> {
        self.load_bytes(file, text.as_bytes())
    }

    /// In the order of their names.
    pub fn list(&self) -> Vec<Listed> {
        let listed = |entry: &Entry| Listed {
            name: entry.written.name().to_owned(),
            description: entry.written.file.description.as_ref().map(|d| d.get_ref().clone()).unwrap_or_default(),
            extends: entry.written.file.extends.as_ref().map(|parent| parent.get_ref().clone()),
            origin: entry.origin.clone(),
            policy: self.resolved(entry),
        };
        self.entries.values().map(listed).collect()
    }

    /// Resolves every policy; fails with the mistakes of all.
    pub fn check(&self) -> Result<(), PolicyError> {
        let errors = self.entries.values().filter_map(|entry| self.resolved(entry).err());
        let mut mistakes: Vec<Mistake> = errors.flat_map(|error| error.mistakes().to_vec()).collect();
        // A mistake in a file shows in each that extends it.
        let mut seen = std::collections::BTreeSet::new();
        mistakes.retain(|mistake| seen.insert(mistake.to_string()));
        if mistakes.is_empty() { Ok(()) } else { Err(PolicyError::Invalid(mistakes)) }
    }

    fn load_bytes(&self, file: &str, bytes: &[u8]) -> Result<Arc<Policy>, PolicyError> {
        let written = Written::parse(file, bytes)?;
        if let Some(known) = self.entries.get(written.name()) {
            // The very file that is in the set already, such as a shipped one that is being checked.
            if known.written.source.text() == written.source.text() {
                return self.resolved(known);
            }
            if known.origin == Origin::Shipped {
                let name = written.name().to_owned();
                return Err(PolicyError::Invalid(vec![written.mistake(Fault::Shipped { name })]));
            }
        }
        resolve(&self.chain(&written)?).map(Arc::new)
    }

    fn resolved(&self, entry: &Entry) -> Result<Arc<Policy>, PolicyError> {
        let resolve = || self.chain(&entry.written).and_then(|chain| resolve(&chain)).map(Arc::new);
        entry.resolved.get_or_init(resolve).clone()
    }

    /// The file and what it extends, the root first.
    fn chain<'a>(&'a self, written: &'a Written) -> Result<Vec<&'a Written>, PolicyError> {
        let mut chain = vec![written];
        let mut last = written;
        while let Some(parent) = &last.file.extends {
            let name = parent.get_ref();
            let refuse = |fault| {
                let place = Place::new(&last.source, parent.span());
                Err(PolicyError::Invalid(vec![Mistake::new(place, fault)]))
            };
            if chain.iter().any(|known| known.name() == name) {
                let mut names: Vec<&str> = chain.iter().map(|known| known.name()).collect();
                names.push(name);
                return refuse(Fault::Cycle { chain: names.join(" -> ") });
            }
            let Some(entry) = self.entries.get(name) else {
                return refuse(Fault::UnknownParent { parent: name.clone(), fix: self.instead_of(name) });
            };
            last = &entry.written;
            chain.push(last);
        }
        chain.reverse();
        Ok(chain)
    }

    fn name_taken(&self, written: &Written) -> Option<Fault> {
        let name = written.name().to_owned();
        match &self.entries.get(&name)?.origin {
            Origin::Shipped => Some(Fault::Shipped { name }),
            Origin::File(path) => Some(Fault::Duplicate { name, other: path.display().to_string() }),
        }
    }

    fn instead_of(&self, name: &str) -> String {
        let known = || self.entries.keys().map(String::as_str);
        match nearest(name, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("use one of: {}", known().collect::<Vec<_>>().join(", ")),
        }
    }
}

fn unreadable(path: &Path, source: std::io::Error) -> PolicyError {
    PolicyError::Unreadable { path: path.to_owned(), source: Arc::new(source) }
}

fn read(path: &Path) -> Result<Vec<u8>, PolicyError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|source| unreadable(path, source))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(PolicyError::TooLarge { path: path.to_owned(), max: MAX_FILE_BYTES });
    }
    Ok(bytes)
}
