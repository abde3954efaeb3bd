//! Walking a directory that may be hostile.
//!
//! Input: a root, opened once. Output: every regular file beneath it with its path, in the order in which
//! a deploy lists them, handed in batches to whoever hashes them. Every step is relative to the open
//! directory before it and follows no link (openat(2), `O_NOFOLLOW`), so that a directory that is swapped
//! for a link meanwhile leads nowhere. Names are skipped, refused and kept as the protocol says.

use crate::error::Error;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

const CONTEXT: &str = "collecting files for deploy";
/// Deeper trees are refused; each level holds one descriptor open.
const MAX_DEPTH: usize = 128;
/// More files than any site has; a bound for our memory.
const MAX_FILES: usize = 1_000_000;
/// Files of one directory that are handed over together.
const BATCH: usize = 64;

/// Names that are never part of a site.
const IGNORED: [&str; 3] = [".git", "node_modules", ".DS_Store"];
/// Names that hold secrets, lower case.
const SENSITIVE: [&str; 11] = [
    ".env",
    ".envrc",
    ".npmrc",
    ".pnpmrc",
    ".yarnrc",
    ".netrc",
    ".pypirc",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    "id_rsa",
];
const SENSITIVE_ENDS: [&str; 4] = [".key", ".pem", ".p12", ".pfx"];

fn local(message: String) -> Error {
    Error::local("LOCAL_ERROR", message).context(CONTEXT)
}

/// An open directory; nothing above it is ever reached through it.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    /// For messages.
    path: PathBuf,
    /// What is not to be read, with all that is below it.
    denied: Vec<PathBuf>,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Root {
    /// Opens a directory that the caller trusts up to its last name, which must not be a link.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let opened = rustix::fs::open(path, DIRECTORY, Mode::empty());
        let fd = opened.map_err(|errno| refused(path, errno))?;
        Ok(Self { fd, path: path.to_owned(), denied: Vec::new() })
    }

    /// The same directory, of which some is not to be read: walks leave it out, and naming it is an error.
    #[must_use]
    pub fn denying(self, denied: &[PathBuf]) -> Self {
        Self { denied: denied.to_owned(), ..self }
    }

    fn denies(&self, inner: &Path) -> bool {
        self.denied.iter().any(|denied| inner.starts_with(denied))
    }

    /// Where a path leads, as far as its words say.
    fn inner(&self, path: &Path) -> Result<PathBuf, Error> {
        let wrong = |why: &str| local(format!("{} {why}", path.display()));
        let inner =
            relative(path).ok_or_else(|| wrong("is not a relative path within the directory that is deployed"))?;
        match self.denies(&inner) {
            true => Err(wrong("is denied by the project's policy")),
            false => Ok(inner),
        }
    }

    /// The same directory, which messages name like this.
    #[must_use]
    pub fn shown_as(self, path: &Path) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    /// A directory beneath this one; no part of `path` may be a link or lead out.
    pub fn beneath(&self, path: &Path) -> Result<Self, Error> {
        let shown = self.path.join(path);
        let inner = self.inner(path)?;
        let opened = self.open_beneath(&inner, DIRECTORY);
        let below = |denied: &PathBuf| match inner.as_path() == Path::new(".") {
            true => Some(denied.clone()),
            false => denied.strip_prefix(&inner).ok().map(Path::to_owned),
        };
        let denied = self.denied.iter().filter_map(below).collect();
        Ok(Self { fd: opened.map_err(|errno| refused(&shown, errno))?, path: shown, denied })
    }

    /// A regular file beneath this directory, open for reading.
    pub fn file(&self, path: &Path) -> Result<std::fs::File, Error> {
        let shown = self.path.join(path);
        let inner = self.inner(path)?;
        // Not blocking: opening a FIFO would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = self.open_beneath(&inner, flags).map_err(|errno| refused(&shown, errno))?;
        regular(fd, &|| shown.clone()).map(|(file, _)| file)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_beneath(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            // EAGAIN: a rename elsewhere raced with the look-up, which openat2(2) says to try again.
            match rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
    }
}

/// The path without `.` parts; `None` when it is absolute or has `..`.
fn relative(path: &Path) -> Option<PathBuf> {
    let mut inner = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inner.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    if inner.as_os_str().is_empty() {
        inner.push(".");
    }
    Some(inner)
}

fn refused(path: &Path, errno: Errno) -> Error {
    let reason = match errno {
        Errno::LOOP => "is a symbolic link, or lies behind one; deploy the directory that it points to".to_owned(),
        Errno::XDEV => "leads out of the directory that is deployed".to_owned(),
        Errno::NOTDIR => "is not a directory, or is a symbolic link to one".to_owned(),
        Errno::NOENT => "does not exist".to_owned(),
        other => format!("cannot be opened: {}", std::io::Error::from(other)),
    };
    local(format!("{} {reason}", path.display()))
}

/// Checks the open file, not its name.
pub(crate) fn regular(fd: OwnedFd, shown: &dyn Fn() -> PathBuf) -> Result<(std::fs::File, Stat), Error> {
    let failed = |errno: Errno| local(format!("{} cannot be read: {}", shown().display(), std::io::Error::from(errno)));
    let stat = rustix::fs::fstat(&fd).map_err(failed)?;
    match FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        true => Ok((fd.into(), stat)),
        false => Err(local(format!("{} is not a regular file", shown().display()))),
    }
}

/// What else a walk leaves out.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Names, not paths.
    pub ignore: Vec<String>,
    /// Takes names that look like secrets too.
    pub include_sensitive: bool,
}

impl Filter {
    fn skips(&self, name: &str) -> bool {
        is_ignored(name)
            || self.ignore.iter().any(|ignored| ignored == name)
            || !self.include_sensitive && is_sensitive(name)
    }
}

/// Whether a name is never part of a site.
pub fn is_ignored(name: &str) -> bool {
    IGNORED.contains(&name)
}

/// Whether a name looks like that of a secret.
pub fn is_sensitive(name: &str) -> bool {
    let name = name.to_lowercase();
    SENSITIVE.contains(&name.as_str())
        || name.starts_with(".env.")
        || SENSITIVE_ENDS.iter().any(|end| name.ends_with(end))
}

/// Regular files of one directory.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Position of the first file in the order of the walk.
    pub(crate) first: usize,
    pub(crate) directory: Arc<OwnedFd>,
    /// Name within the directory, path within the root.
    pub(crate) files: Vec<(CString, String)>,
}

/// Walks, and hands every batch to `take`; stops when `take` says so. Returns how many files there were.
pub(crate) fn walk(root: &Root, filter: &Filter, take: &mut dyn FnMut(Batch) -> bool) -> Result<usize, Error> {
    let fd = rustix::fs::openat(&root.fd, c".", DIRECTORY, Mode::empty());
    let fd = fd.map_err(|errno| refused(&root.path, errno))?;
    let mut walker = Walker { root, filter, take, count: 0, stopped: false };
    walker.directory(Arc::new(fd), "", 0)?;
    Ok(walker.count)
}

struct Walker<'a> {
    root: &'a Root,
    filter: &'a Filter,
    take: &'a mut dyn FnMut(Batch) -> bool,
    count: usize,
    stopped: bool,
}

impl Walker<'_> {
    /// `prefix` is empty or ends in a slash.
    fn directory(&mut self, fd: Arc<OwnedFd>, prefix: &str, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(self.error(prefix, format!("lies deeper than {MAX_DEPTH} directories")));
        }
        let mut files = Vec::new();
        for (name, kind) in self.entries(&fd, prefix)? {
            if self.stopped {
                return Ok(());
            }
            let Ok(text) = name.to_str() else {
                let shown = String::from_utf8_lossy(name.to_bytes()).into_owned();
                // Only names that would be deployed have to be text.
                if matches!(kind, FileType::RegularFile | FileType::Directory | FileType::Symlink) {
                    return Err(self.error(&format!("{prefix}{shown}"), "has a name that is not UTF-8"));
                }
                continue;
            };
            if self.filter.skips(text) {
                continue;
            }
            let path = format!("{prefix}{text}");
            if self.root.denies(Path::new(&path)) {
                continue;
            }
            match kind {
                FileType::Symlink => {
                    return Err(self.error(&path, "is a symbolic link; a site has files and directories only"));
                }
                FileType::Directory => {
                    // The files before it come before its contents.
                    self.hand_over(&fd, &mut files);
                    let inner = rustix::fs::openat(&*fd, &name, DIRECTORY, Mode::empty());
                    let inner = inner.map_err(|errno| refused(&self.root.path.join(&path), errno).context(CONTEXT))?;
                    self.directory(Arc::new(inner), &format!("{path}/"), depth + 1)?;
                }
                FileType::RegularFile => {
                    if self.count + files.len() >= MAX_FILES {
                        return Err(self.error("", format!("holds more than {MAX_FILES} files")));
                    }
                    files.push((name, path));
                    if files.len() == BATCH {
                        self.hand_over(&fd, &mut files);
                    }
                }
                // FIFOs, sockets and devices are not part of a site.
                _ => {}
            }
        }
        self.hand_over(&fd, &mut files);
        Ok(())
    }

    fn hand_over(&mut self, directory: &Arc<OwnedFd>, files: &mut Vec<(CString, String)>) {
        if files.is_empty() || self.stopped {
            return;
        }
        let batch = Batch { first: self.count, directory: directory.clone(), files: std::mem::take(files) };
        self.count += batch.files.len();
        self.stopped = !(self.take)(batch);
    }

    /// The names in byte order, with what they are.
    fn entries(&self, fd: &OwnedFd, prefix: &str) -> Result<Vec<(CString, FileType)>, Error> {
        let failed = |errno: Errno| self.error(prefix, format!("cannot be listed: {}", std::io::Error::from(errno)));
        let mut entries = Vec::new();
        for entry in Dir::read_from(fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = match entry.file_type() {
                // Some filesystems do not say in the listing.
                FileType::Unknown => match self.kind(fd, name) {
                    Err(Errno::NOENT) => continue,
                    kind => kind.map_err(failed)?,
                },
                kind => kind,
            };
            entries.push((name.to_owned(), kind));
        }
        entries.sort_unstable_by(|one, other| one.0.as_bytes().cmp(other.0.as_bytes()));
        Ok(entries)
    }

    fn kind(&self, fd: &OwnedFd, name: &CStr) -> Result<FileType, Errno> {
        let stat = rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(stat.st_mode))
    }

    fn error(&self, path: &str, what: impl std::fmt::Display) -> Error {
        local(format!("{} {what}", self.root.path.join(path).display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    fn paths(root: &Path, filter: &Filter) -> Result<Vec<String>, Error> {
        let mut paths = Vec::new();
        walk(&Root::open(root)?, filter, &mut |batch| {
            assert_eq!(batch.first, paths.len());
            paths.extend(batch.files.into_iter().map(|(_, path)| path));
            true
        })?;
        Ok(paths)
    }

    fn tree(names: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for name in names {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            fs::write(path, name).expect("a file");
        }
        root
    }

    #[test]
    fn files_come_in_the_order_of_names_with_directories_at_their_place() {
        let root = tree(&["b.txt", "a/z", "a.txt", "a/b/c", "B", ".well-known/x", "a-b"]);
        let expected = [".well-known/x", "B", "a/b/c", "a/z", "a-b", "a.txt", "b.txt"];
        // "a" sorts before "a-b" and "a.txt" as a name, although "a/…" does not as a path.
        assert_eq!(paths(root.path(), &Filter::default()).expect("a walk"), expected);
    }

    #[test]
    fn ignored_and_sensitive_names_are_skipped_at_every_depth() {
        let root = tree(&[
            "index.html",
            ".git/HEAD",
            "x/node_modules/y",
            ".env",
            "x/.env.local",
            "x/ID_RSA",
            "tls.PEM",
            "x/.envoy",
            "x/monkey",
            ".DS_Store",
            "x/drafts/a",
        ]);
        symlink("/etc/passwd", root.path().join("x/.npmrc")).expect("a link");
        let filter = Filter { ignore: vec!["drafts".to_owned()], include_sensitive: false };
        assert_eq!(paths(root.path(), &filter).expect("a walk"), ["index.html", "x/.envoy", "x/monkey"]);
        let all = Filter { ignore: vec![".npmrc".to_owned()], include_sensitive: true };
        let taken = paths(root.path(), &all).expect("a walk");
        assert!(taken.contains(&"x/ID_RSA".to_owned()) && taken.contains(&".env".to_owned()), "{taken:?}");
    }

    #[test]
    fn what_is_denied_is_left_out_and_not_to_be_named() {
        let tree = tree(&["a/index.html", "a/key", "secret/b", "secrets/c"]);
        let denied = [PathBuf::from("a/key"), PathBuf::from("secret")];
        let root = Root::open(tree.path()).expect("a root").denying(&denied);
        let names = |root: &Root| {
            let mut names = Vec::new();
            walk(root, &Filter::default(), &mut |batch| {
                names.extend(batch.files.into_iter().map(|(_, path)| path));
                true
            })
            .expect("a walk");
            names
        };
        assert_eq!(names(&root), ["a/index.html", "secrets/c"]);
        assert_eq!(names(&root.beneath(Path::new("./a")).expect("a directory")), ["index.html"]);
        assert_eq!(names(&root.beneath(Path::new(".")).expect("itself")).len(), 2);
        for path in ["a/key", "./a/./key", "secret/b"] {
            assert!(root.file(Path::new(path)).is_err_and(|error| error.message.contains("denied")), "{path}");
        }
        assert!(root.beneath(Path::new("secret")).is_err() && root.file(Path::new("a/index.html")).is_ok());
        assert!(root.beneath(Path::new("a")).expect("a directory").file(Path::new("key")).is_err());
    }

    #[test]
    fn links_are_refused_and_what_is_no_file_is_skipped() {
        let root = tree(&["a/index.html"]);
        rustix::fs::mkfifoat(rustix::fs::CWD, root.path().join("fifo"), Mode::RUSR).expect("a FIFO");
        assert_eq!(paths(root.path(), &Filter::default()).expect("a walk"), ["a/index.html"]);
        symlink("/etc", root.path().join("a/out")).expect("a link");
        let error = paths(root.path(), &Filter::default()).expect_err("a link");
        assert!(error.to_string().contains("a/out is a symbolic link"), "{error}");
        assert!(error.to_string().ends_with("while collecting files for deploy"), "{error}");
    }

    #[test]
    fn a_root_that_is_a_link_or_a_file_is_refused() {
        let root = tree(&["a/b"]);
        symlink(root.path().join("a"), root.path().join("link")).expect("a link");
        for name in ["link", "a/b", "none"] {
            Root::open(&root.path().join(name)).expect_err(name);
        }
    }

    #[test]
    fn nothing_outside_is_reached_through_a_root() {
        let outside = tree(&["secret"]);
        let inside = tree(&["dist/a"]);
        symlink(outside.path(), inside.path().join("out")).expect("a link");
        symlink(outside.path().join("secret"), inside.path().join("dist/link")).expect("a link");
        let root = Root::open(inside.path()).expect("a root");
        for path in ["out", "../x", "/etc", "dist/../..", "out/.."] {
            root.beneath(Path::new(path)).expect_err(path);
        }
        for path in ["out/secret", "dist/link", "../x", "/etc/passwd", "dist"] {
            root.file(Path::new(path)).expect_err(path);
        }
        root.beneath(Path::new("./dist/.")).expect("a directory");
        root.file(Path::new("dist/a")).expect("a file");
    }

    #[test]
    fn strange_names_are_kept_or_refused() {
        let root = tree(&["new\nline", "a b/ünï.txt"]);
        assert_eq!(paths(root.path(), &Filter::default()).expect("a walk"), ["a b/ünï.txt", "new\nline"]);
        fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"bad\xff")), "").expect("a file");
        let error = paths(root.path(), &Filter::default()).expect_err("not UTF-8");
        assert!(error.to_string().contains("not UTF-8"), "{error}");
    }
}
