//! From what an author wrote to what goes over the wire.
//!
//! Input: a checked [`ReleaseSpec`] and the root that its file names start at. Output: the wire form,
//! and every content that it refers to once, with where its bytes are. Reads and hashes files: blocking.

use super::cache::Cache;
use super::content_type;
use super::digest::Digest;
use super::event::SliceKind;
use super::hash::{Hashed, Identity, Progress, hash_one, hash_tree};
use super::rules;
use super::spec::{self, Files, ReleaseSpec, Source, invalid};
use super::walk::{Filter, Root};
use super::wire::{self, ContentRef, FileRefs};
use crate::error::Error;
use bytes::Bytes;
use indexmap::IndexMap;
use indexmap::map::Entry;
use serde_json::Value;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names of functions may have no other runtime.
const RUNTIME: &str = "node22";
const SQL: &str = "application/sql";

/// Where the bytes of a content are.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    Memory(Bytes),
    File {
        root: Arc<Root>,
        path: PathBuf,
        identity: Identity,
    },
    /// The author only gave its name: the gateway has to have it.
    Elsewhere,
}

/// Something that the gateway has, or is sent.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) size: u64,
    /// As the first that refers to it says.
    pub(crate) content_type: Option<Cow<'static, str>>,
    pub(crate) label: String,
    pub(crate) slice: SliceKind,
    pub(crate) origin: Origin,
}

/// A release that is ready to be planned.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) spec: wire::Spec,
    pub(crate) contents: IndexMap<Digest, Content>,
    pub(crate) slices: Vec<SliceKind>,
    pub(crate) summary: Summary,
}

/// What the later steps have to know of the author's form.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    /// An image was put whose author named an image type: its variants are worth asking for.
    pub(crate) has_typed_image: bool,
}

pub(crate) fn prepare(
    spec: ReleaseSpec,
    root: Option<Arc<Root>>,
    cache: &mut Cache,
    progress: &Progress,
) -> Result<Prepared, Error> {
    let slices = slices(&spec);
    let mut builder =
        Builder { root, cache, progress, contents: IndexMap::new(), hashed: Vec::new(), summary: Summary::default() };
    let wire = builder.spec(spec)?;
    // A cache that cannot be written makes the next deploy slower and nothing else.
    if let Err(error) = builder.cache.save(&builder.hashed) {
        tracing::debug!(%error, "the cache of hashes cannot be written");
    }
    Ok(Prepared { spec: wire, contents: builder.contents, slices, summary: builder.summary })
}

fn slices(spec: &ReleaseSpec) -> Vec<SliceKind> {
    let release = spec.database.is_some() || spec.functions.is_some() || spec.site.is_some();
    let kinds = [(spec.assets.is_some(), SliceKind::Asset), (release, SliceKind::Release)];
    kinds.into_iter().filter_map(|(given, kind)| given.then_some(kind)).collect()
}

struct Builder<'a> {
    root: Option<Arc<Root>>,
    cache: &'a mut Cache,
    progress: &'a Progress,
    contents: IndexMap<Digest, Content>,
    /// Every file of a directory, for the cache.
    hashed: Vec<(Identity, Digest)>,
    summary: Summary,
}

impl Builder<'_> {
    fn spec(&mut self, spec: ReleaseSpec) -> Result<wire::Spec, Error> {
        Ok(wire::Spec {
            project_id: spec.project,
            base: spec.base,
            database: spec.database.map(|database| self.database(database)).transpose()?,
            secrets: spec.secrets,
            functions: spec.functions.map(|functions| self.functions(functions)).transpose()?,
            site: spec.site.map(|site| self.site(site)).transpose()?,
            subdomains: spec.subdomains,
            routes: spec.routes,
            checks: spec.checks,
            assets: spec.assets.map(|assets| self.assets(assets)).transpose()?,
            i18n: spec.i18n,
        })
    }

    fn database(&mut self, database: spec::Database) -> Result<wire::Database, Error> {
        let migrations = database.migrations.into_iter().map(|migration| self.migration(migration));
        let migrations = migrations.collect::<Result<Vec<_>, Error>>()?;
        Ok(wire::Database { expose: database.expose, zero_downtime: database.zero_downtime, migrations })
    }

    fn migration(&mut self, migration: spec::Migration) -> Result<wire::Migration, Error> {
        let spec::Migration { id, name, sql, sql_path, sql_ref, checksum, transaction } = migration;
        let shown = id.as_ref().or(name.as_ref()).cloned().unwrap_or_default();
        let source = match (sql, sql_path, sql_ref) {
            (Some(text), _, _) => Source::Text { text, content_type: None },
            (_, Some(path), _) => Source::File { path, content_type: None },
            (_, _, Some(reference)) => Source::Reference(reference),
            _ => return Err(invalid("database.migrations", format!("migration {shown} has no SQL"))),
        };
        // SQL is checked as text even when it comes from a file: its id may depend on it.
        let sql_ref = self.content(source, Some(SQL.into()), &format!("migration:{shown}"), SliceKind::Release)?;
        let id = match (id, name) {
            (Some(id), _) => id,
            (None, name) => named_migration(&name.unwrap_or_default(), &sql_ref.sha256),
        };
        let label = format!("migration:{id}");
        if let Some(content) = self.contents.get_mut(&sql_ref.sha256)
            && content.label == format!("migration:{shown}")
        {
            content.label = label;
        }
        let checksum = checksum.unwrap_or_else(|| sql_ref.sha256.to_string());
        Ok(wire::Migration { id, checksum, sql_ref, transaction })
    }

    fn functions(&mut self, functions: spec::Functions) -> Result<wire::Functions, Error> {
        let replace = functions.replace.map(|map| self.function_map(map)).transpose()?;
        let patch = match functions.patch {
            Some(patch) => {
                let set = patch.set.map(|map| self.function_map(map)).transpose()?;
                Some(wire::FunctionsPatch { set, delete: patch.delete })
            }
            None => None,
        };
        Ok(wire::Functions { replace, patch })
    }

    fn function_map(
        &mut self,
        map: IndexMap<String, spec::Function>,
    ) -> Result<IndexMap<String, wire::Function>, Error> {
        map.into_iter().map(|(name, function)| Ok((name, self.function(function)?))).collect()
    }

    fn function(&mut self, function: spec::Function) -> Result<wire::Function, Error> {
        let source = match function.source {
            // Nothing is guessed for a single source: the field is absent.
            Some(source) => Some(self.content(source, None, "function source", SliceKind::Release)?),
            None => None,
        };
        let files = function.files.map(|files| self.files(files, "functions", SliceKind::Release)).transpose()?;
        let triggers = function.triggers.map(triggers);
        Ok(wire::Function {
            runtime: function.runtime.unwrap_or_else(|| RUNTIME.to_owned()),
            source,
            files,
            entrypoint: function.entrypoint,
            config: function.config,
            deps: function.deps,
            triggers,
            schedule: function.schedule,
            require_auth: function.require_auth,
            require_role: function.require_role,
            class: function.class,
            capabilities: function.capabilities,
        })
    }

    fn site(&mut self, site: spec::Site) -> Result<wire::Site, Error> {
        let replace = site.replace.map(|files| self.files(files, "site.replace", SliceKind::Release)).transpose()?;
        let patch = match site.patch {
            Some(patch) => {
                let put = patch.put.map(|files| self.files(files, "site.patch.put", SliceKind::Release)).transpose()?;
                Some(wire::SitePatch { put, delete: patch.delete })
            }
            None => None,
        };
        Ok(wire::Site { replace, patch, public_paths: site.public_paths })
    }

    fn files(&mut self, files: Files, place: &str, slice: SliceKind) -> Result<FileRefs, Error> {
        match files {
            Files::Directory(directory) => self.directory(directory, place, slice),
            Files::Listed(map) => {
                let entry = |(path, source): (String, Source)| {
                    let kind = content_type::of_file(&path).into();
                    let content = self.content(source, Some(kind), &path, slice)?;
                    Ok((path, content))
                };
                map.into_iter().map(entry).collect()
            }
        }
    }

    fn directory(&mut self, directory: spec::Directory, place: &str, slice: SliceKind) -> Result<FileRefs, Error> {
        let root = Arc::new(self.root()?.beneath(&directory.path)?);
        let filter = Filter { ignore: directory.ignore, include_sensitive: directory.include_sensitive };
        let hashed = hash_tree(&root, &filter, self.cache, self.progress)?;
        if hashed.is_empty() {
            let message = format!("{} holds no file that can be deployed", root.path().display());
            return Err(Error::local("LOCAL_ERROR", message).context("collecting files for deploy"));
        }
        let prefix = directory.prefix.map(|prefix| prefix.trim_matches('/').to_owned()).filter(|p| !p.is_empty());
        let mut refs = FileRefs::with_capacity(hashed.len());
        self.contents.reserve(hashed.len());
        self.hashed.reserve(hashed.len());
        for Hashed { path: inner, digest, identity } in hashed {
            let path = match &prefix {
                Some(prefix) => format!("{prefix}/{inner}"),
                None => inner.clone(),
            };
            rules::check_site_path(place, &path)?;
            let origin = Origin::File { root: root.clone(), path: inner.into(), identity };
            let kind = Some(content_type::of_file(&path).into());
            let content = ContentRef { sha256: digest, size: identity.size, content_type: kind };
            self.remember(&content, &path, slice, origin);
            self.hashed.push((identity, digest));
            refs.insert(path, content);
        }
        Ok(refs)
    }

    fn assets(&mut self, assets: spec::Assets) -> Result<wire::Assets, Error> {
        let put = match assets.put {
            Some(put) => {
                Some(put.into_iter().enumerate().map(|(at, put)| self.asset(at, put)).collect::<Result<_, _>>()?)
            }
            None => None,
        };
        Ok(wire::Assets { put, delete: assets.delete, sync: assets.sync })
    }

    fn asset(&mut self, at: usize, put: spec::AssetPut) -> Result<wire::AssetPut, Error> {
        let typed = put.content_type.is_some();
        let kind = put.content_type.unwrap_or_else(|| content_type::of_file(&put.key).to_owned());
        let label = format!("assets.put[{at}] ({})", put.key);
        let content = self.content(put.source, Some(kind.into()), &label, SliceKind::Asset)?;
        let kind = content.content_type.unwrap_or_default().into_owned();
        self.summary.has_typed_image |= typed && kind.starts_with("image/");
        Ok(wire::AssetPut {
            key: put.key,
            sha256: content.sha256,
            size_bytes: content.size,
            content_type: kind,
            visibility: put.visibility.unwrap_or(spec::Visibility::Public),
            immutable: put.immutable.unwrap_or(true),
            metadata: put.metadata,
            exif_policy: put.exif_policy,
        })
    }

    /// `kind` is used when the source names no type of its own.
    fn content(
        &mut self,
        source: Source,
        kind: Option<Cow<'static, str>>,
        label: &str,
        slice: SliceKind,
    ) -> Result<ContentRef, Error> {
        let of_bytes = |bytes: Bytes, content_type: Option<Cow<'static, str>>| {
            let content = ContentRef { sha256: Digest::of(&bytes), size: bytes.len() as u64, content_type };
            (content, Origin::Memory(bytes))
        };
        let (content, origin) = match source {
            Source::Text { text, content_type } => {
                let content_type = content_type.map(Cow::Owned).or(kind);
                if content_type.as_deref().is_some_and(content_type::is_binary) {
                    let message = format!("{label} is binary, but its content was given as a text; give its bytes");
                    return Err(Error::deploy("BINARY_CONTENT_REQUIRES_BYTES", "validate", label, message));
                }
                of_bytes(text.into(), content_type)
            }
            Source::Bytes { bytes, content_type } => of_bytes(bytes, content_type.map(Cow::Owned).or(kind)),
            Source::File { path, content_type } => self.file(&path, content_type.map(Cow::Owned).or(kind))?,
            Source::Reference(given) => {
                let content_type = given.content_type.map(Cow::Owned);
                (ContentRef { sha256: given.sha256, size: given.size, content_type }, Origin::Elsewhere)
            }
        };
        self.remember(&content, label, slice, origin);
        Ok(content)
    }

    fn file(&mut self, path: &Path, content_type: Option<Cow<'static, str>>) -> Result<(ContentRef, Origin), Error> {
        let root = self.root()?;
        let (sha256, identity) = hash_one(&root, path, self.progress)?;
        let content = ContentRef { sha256, size: identity.size, content_type };
        Ok((content, Origin::File { root, path: path.to_owned(), identity }))
    }

    fn root(&self) -> Result<Arc<Root>, Error> {
        self.root.clone().ok_or_else(|| {
            Error::local("LOCAL_ERROR", "the release names local files, but no directory was given to look in")
        })
    }

    /// The first that refers to a content names it.
    fn remember(&mut self, content: &ContentRef, label: &str, slice: SliceKind, origin: Origin) {
        match self.contents.entry(content.sha256) {
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                if known.slice != slice {
                    known.slice = SliceKind::Mixed;
                }
                if matches!(known.origin, Origin::Elsewhere) {
                    known.origin = origin;
                }
            }
            Entry::Vacant(entry) => {
                let content_type = content.content_type.clone();
                entry.insert(Content { size: content.size, content_type, label: label.to_owned(), slice, origin });
            }
        }
    }
}

/// A migration given by name is another one as soon as its SQL is another.
pub fn named_migration(name: &str, sql: &Digest) -> String {
    format!("{name}_{}", &sql.to_string()[..16])
}

/// With every default written out, in the order of their ids.
fn triggers(mut triggers: Vec<Value>) -> Vec<Value> {
    for trigger in &mut triggers {
        let Some(fields) = trigger.as_object_mut() else { continue };
        if fields.get("type").is_some_and(|kind| kind == "schedule") {
            for (name, value) in [("timezone", "UTC"), ("misfire_policy", "skip"), ("overlap_policy", "allow")] {
                fields.entry(name).or_insert_with(|| value.into());
            }
        }
        if let Some(Value::Array(events)) = fields.get_mut("events") {
            events.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
        }
        if let Some(Value::Object(run)) = fields.get_mut("run") {
            run.entry("payload").or_insert_with(|| Value::Object(serde_json::Map::new()));
        }
    }
    let id = |trigger: &Value| trigger.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    triggers.sort_by_key(id);
    triggers
}
