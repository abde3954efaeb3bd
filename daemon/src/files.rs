//! The files of a workspace, read and written for a caller. Blocks.
//!
//! Input: the workspace's folder on the host and a path in it; output: contents, or why not. Names, links and what lies
//! behind them are the commands' choice, and may change at any moment: every path is resolved by the kernel beneath the
//! workspace (openat2(2), RESOLVE_BENEATH), so that no link and no `..` leads out of it, and what is opened is looked at
//! only afterwards. A file is replaced in one step, and belongs to whom the workspace belongs to.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How deep lists go at most.
const MAX_DEPTH: u32 = 32;
/// Folders that hold what tools have fetched or made: listed, but not looked into.
const NOT_ENTERED: [&str; 2] = ["node_modules", ".git"];

#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("that is not the path of a file in the project: it is empty, has a NUL byte, or leads out of the project")]
    Outside,
    #[error("there is no such file in the project")]
    NotFound,
    #[error("that is a folder")]
    IsFolder,
    #[error("a part of that path is a file, not a folder")]
    NotAFolder,
    #[error("that is neither a file nor a folder")]
    Special,
    #[error("the policy denies that file")]
    Denied,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for FileError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::NotFound,
            // A path that leaves the folder, or more links than the kernel follows.
            Errno::XDEV | Errno::LOOP => Self::Outside,
            Errno::NOTDIR => Self::NotAFolder,
            Errno::ISDIR => Self::IsFolder,
            // A FIFO or socket that nobody serves.
            Errno::NXIO => Self::Special,
            other => Self::Io(other.into()),
        }
    }
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) bytes: Vec<u8>,
    /// Of the whole file.
    pub(crate) size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Link,
    Other,
}

/// One name in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// From the folder that is listed.
    pub(crate) path: String,
    pub(crate) kind: Kind,
    /// Of a file.
    pub(crate) size: u64,
}

/// The folder of a project that is its workspace, open.
pub(crate) struct Workspace<'a> {
    folder: OwnedFd,
    /// As the kernel names it, for what is denied below.
    real: PathBuf,
    /// Whether the policy denies what is at a path of the workspace.
    denied: &'a dyn Fn(&Path) -> bool,
}

impl<'a> Workspace<'a> {
    pub(crate) fn open(folder: &Path, denied: &'a dyn Fn(&Path) -> bool) -> Result<Self, FileError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        let real = real_path(folder.as_fd())?;
        Ok(Self { folder, real, denied })
    }

    /// At most `max` bytes from `offset` on.
    pub(crate) fn read(&self, path: &str, offset: u64, max: usize) -> Result<Piece, FileError> {
        // Not to wait for the other end of a FIFO.
        let file = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let stat = regular(&file)?;
        let mut file = File::from(file);
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(max as u64).read_to_end(&mut bytes)?;
        Ok(Piece { bytes, size: u64::try_from(stat.st_size).unwrap_or_default() })
    }

    /// Replaces the file, or makes it with the folders above it. Whether it is new.
    pub(crate) fn write(&self, path: &str, bytes: &[u8]) -> Result<bool, FileError> {
        let path = Path::new(relative(path)?);
        let name = path.file_name().ok_or(FileError::Outside)?;
        if path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(FileError::IsFolder);
        }
        let above = match path.parent() {
            Some(above) if !above.as_os_str().is_empty() => self.folder_at(above)?,
            _ => self.open_at(".", OFlags::RDONLY | OFlags::DIRECTORY)?,
        };
        self.refuse_denied(&real_path(above.as_fd())?.join(name))?;
        let before = match rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Some(stat.st_mode),
                FileType::Directory => return Err(FileError::IsFolder),
                // It would be replaced, which is seldom what is meant.
                FileType::Symlink => return self.write_behind(&above, name, bytes),
                _ => return Err(FileError::Special),
            },
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno.into()),
        };
        let mode = Mode::from_raw_mode(before.unwrap_or(0o644) & 0o777);
        self.replace(above.as_fd(), name, mode, bytes)?;
        Ok(before.is_none())
    }

    /// A link of the workspace that leads to another file of it: that one is replaced.
    fn write_behind(&self, above: &OwnedFd, name: &std::ffi::OsStr, bytes: &[u8]) -> Result<bool, FileError> {
        let link = real_path(above.as_fd())?.join(name);
        let inside = link.strip_prefix(&self.real).map_err(|_| FileError::Outside)?;
        let target = self.open_at(inside.to_str().ok_or(FileError::Outside)?, OFlags::PATH)?;
        regular(&target)?;
        let target = real_path(target.as_fd())?;
        let inside = target.strip_prefix(&self.real).map_err(|_| FileError::Outside)?;
        // Its parts are folders and a file now; links that come in between are refused like any other.
        let above = match inside.parent() {
            Some(above) if !above.as_os_str().is_empty() => {
                self.open_beneath(above, OFlags::RDONLY | OFlags::DIRECTORY)?
            }
            _ => self.open_at(".", OFlags::RDONLY | OFlags::DIRECTORY)?,
        };
        let name = inside.file_name().ok_or(FileError::Outside)?;
        self.replace(above.as_fd(), name, Mode::from_raw_mode(0o644), bytes)?;
        Ok(false)
    }

    /// Under another name first, so that nobody sees half of it.
    fn replace(
        &self,
        above: BorrowedFd<'_>,
        name: &std::ffi::OsStr,
        mode: Mode,
        bytes: &[u8],
    ) -> Result<(), FileError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
        let new = format!(".sandboxd-{}-{unique}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(above, &new, flags, Mode::from_raw_mode(0o600))?;
        let written = self.fill(file, mode, bytes).and_then(|()| Ok(rustix::fs::renameat(above, &new, above, name)?));
        if written.is_err() {
            // What is left of it is in the way of nobody.
            let _ = rustix::fs::unlinkat(above, &new, AtFlags::empty());
        }
        written
    }

    fn fill(&self, file: OwnedFd, mode: Mode, bytes: &[u8]) -> Result<(), FileError> {
        self.hand_over(file.as_fd())?;
        rustix::fs::fchmod(&file, mode)?;
        let mut file = File::from(file);
        file.write_all(bytes)?;
        file.sync_data()?;
        Ok(())
    }

    /// To whom the workspace belongs.
    fn hand_over(&self, new: BorrowedFd<'_>) -> Result<(), FileError> {
        let (own, owner) = (rustix::fs::fstat(new)?, rustix::fs::fstat(&self.folder)?);
        if (own.st_uid, own.st_gid) != (owner.st_uid, owner.st_gid) {
            let (user, group) = (rustix::fs::Uid::from_raw(owner.st_uid), rustix::fs::Gid::from_raw(owner.st_gid));
            rustix::fs::fchown(new, Some(user), Some(group))?;
        }
        Ok(())
    }

    /// What is in a folder and, so deep, in those below, sorted; and whether that is all.
    pub(crate) fn list(&self, path: &str, depth: u32, most: usize) -> Result<(Vec<Listed>, bool), FileError> {
        let folder = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let real = real_path(folder.as_fd())?;
        let mut found = Vec::new();
        let mut open = vec![(folder, String::new(), depth.clamp(1, MAX_DEPTH))];
        while let Some((folder, above, depth)) = open.pop() {
            for entry in Dir::read_from(&folder)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                if found.len() == most {
                    return Ok((sorted(found), false));
                }
                // Gone again, or hidden: it is not there.
                let Ok(stat) = rustix::fs::statat(&folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
                    continue;
                };
                let name = String::from_utf8_lossy(name);
                let path = format!("{above}{name}");
                let kind = kind_of(&stat);
                let is_open = || self.refuse_denied(&real.join(&path)).is_ok();
                if kind == Kind::Folder && depth > 1 && !NOT_ENTERED.contains(&&*name) && is_open() {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    if let Ok(below) = rustix::fs::openat(&folder, entry.file_name(), flags, Mode::empty()) {
                        open.push((below, format!("{path}/"), depth - 1));
                    }
                }
                let size = if kind == Kind::File { u64::try_from(stat.st_size).unwrap_or_default() } else { 0 };
                found.push(Listed { path, kind, size });
            }
        }
        Ok((sorted(found), true))
    }

    /// A folder of the workspace; those that are missing are made.
    fn folder_at(&self, path: &Path) -> Result<OwnedFd, FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.open_beneath(path, flags) {
            Err(FileError::NotFound) => {}
            found => return found,
        }
        let above = match path.parent() {
            Some(above) if !above.as_os_str().is_empty() => self.folder_at(above)?,
            _ => self.open_at(".", flags)?,
        };
        let name = path.file_name().ok_or(FileError::Outside)?;
        self.refuse_denied(&real_path(above.as_fd())?.join(name))?;
        match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let made = rustix::fs::openat(&above, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        self.hand_over(made.as_fd())?;
        Ok(made)
    }

    fn open_at(&self, path: &str, flags: OFlags) -> Result<OwnedFd, FileError> {
        self.open_beneath(Path::new(relative(path)?), flags)
    }

    fn open_beneath(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, FileError> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = loop {
            match rustix::fs::openat2(&self.folder, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // A rename elsewhere raced with the look-up, which openat2(2) says to try again.
                Err(Errno::AGAIN) => {}
                other => break other?,
            }
        };
        self.refuse_denied(&real_path(opened.as_fd())?)?;
        Ok(opened)
    }

    fn refuse_denied(&self, real: &Path) -> Result<(), FileError> {
        // Somewhere else by now: nobody can say what the policy would.
        let inside = real.strip_prefix(&self.real).map_err(|_| FileError::Outside)?;
        if (self.denied)(inside) { Err(FileError::Denied) } else { Ok(()) }
    }
}

/// A path as callers write it, from the workspace on.
fn relative(path: &str) -> Result<&str, FileError> {
    let inside = match path.strip_prefix(sandbox_policy::PROJECT) {
        Some("") => ".",
        Some(below) if below.starts_with('/') => below.trim_start_matches('/'),
        _ => path,
    };
    match inside {
        "" if path.starts_with('/') => Ok("."),
        "" => Err(FileError::Outside),
        inside if inside.starts_with('/') || inside.contains('\0') => Err(FileError::Outside),
        inside => Ok(inside),
    }
}

fn regular(file: &OwnedFd) -> Result<Stat, FileError> {
    let stat = rustix::fs::fstat(file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(stat),
        FileType::Directory => Err(FileError::IsFolder),
        _ => Err(FileError::Special),
    }
}

fn kind_of(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    }
}

/// Where an open file is right now.
fn real_path(fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn sorted(mut found: Vec<Listed>) -> Vec<Listed> {
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn nothing(_: &Path) -> bool {
        false
    }

    fn workspace() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let folder = dir.path().join("workspace");
        fs::create_dir(&folder).expect("made");
        fs::write(dir.path().join("secret"), "secret").expect("written");
        (dir, folder)
    }

    #[test]
    fn what_is_written_is_read() {
        let (_dir, folder) = workspace();
        let workspace = Workspace::open(&folder, &nothing).expect("open");
        assert!(workspace.write("src/deep/a.txt", b"one").expect("written"));
        assert!(!workspace.write("/home/user/project/src/deep/a.txt", b"three").expect("written"));
        let read = |offset, max| workspace.read("src/deep/a.txt", offset, max).expect("read").bytes;
        assert_eq!((read(0, 100), read(2, 2), read(9, 9)), (b"three".to_vec(), b"re".to_vec(), Vec::new()));
        assert_eq!(workspace.read("src/deep/a.txt", 0, 1).expect("read").size, 5);
        // A program stays one, and nothing of the writing stays.
        fs::set_permissions(folder.join("src/deep/a.txt"), fs::Permissions::from_mode(0o755)).expect("changed");
        workspace.write("src/deep/a.txt", b"four").expect("written");
        assert_eq!(fs::metadata(folder.join("src/deep/a.txt")).expect("there").permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(folder.join("src/deep")).expect("there").count(), 1);
    }

    #[test]
    fn no_path_and_no_link_leads_out() {
        let (dir, folder) = workspace();
        symlink("../secret", folder.join("up")).expect("linked");
        symlink(dir.path(), folder.join("above")).expect("linked");
        symlink("/etc", folder.join("etc")).expect("linked");
        symlink("loop", folder.join("loop")).expect("linked");
        let workspace = Workspace::open(&folder, &nothing).expect("open");
        for path in
            ["../secret", "up", "above/secret", "etc/passwd", "/etc/passwd", "loop", "a/../../secret", "", "a\0b"]
        {
            let read = workspace.read(path, 0, 10).expect_err(path);
            assert!(matches!(read, FileError::Outside | FileError::NotFound), "{path}: {read:?}");
            let written = workspace.write(path, b"x").expect_err(path);
            assert!(matches!(written, FileError::Outside | FileError::NotFound), "{path}: {written:?}");
        }
        for path in ["above", "etc", ".."] {
            assert!(workspace.list(path, 1, 10).is_err(), "{path}");
        }
        assert_eq!(fs::read(dir.path().join("secret")).expect("there"), b"secret");
        assert!(!dir.path().join("a").exists() && fs::symlink_metadata(folder.join("up")).expect("there").is_symlink());
    }

    #[test]
    fn a_link_within_leads_to_its_file() {
        let (_dir, folder) = workspace();
        let workspace = Workspace::open(&folder, &nothing).expect("open");
        workspace.write("real/a", b"one").expect("written");
        symlink("real/a", folder.join("link")).expect("linked");
        assert_eq!(workspace.read("link", 0, 10).expect("read").bytes, b"one");
        workspace.write("link", b"two").expect("written");
        assert_eq!(fs::read(folder.join("real/a")).expect("there"), b"two");
        assert!(fs::symlink_metadata(folder.join("link")).expect("there").is_symlink());
    }

    #[test]
    fn what_is_no_file_is_said_to_be_none() {
        let (_dir, folder) = workspace();
        let workspace = Workspace::open(&folder, &nothing).expect("open");
        workspace.write("folder/a", b"one").expect("written");
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.join("fifo"), Mode::from_raw_mode(0o600)).expect("made");
        assert!(matches!(workspace.read("folder", 0, 1), Err(FileError::IsFolder)));
        assert!(matches!(workspace.write("folder", b""), Err(FileError::IsFolder)));
        assert!(matches!(workspace.write("folder/", b""), Err(FileError::IsFolder)));
        assert!(matches!(workspace.read("fifo", 0, 1), Err(FileError::Special)));
        assert!(matches!(workspace.write("fifo", b""), Err(FileError::Special)));
        assert!(matches!(workspace.read("folder/a/b", 0, 1), Err(FileError::NotAFolder)));
        assert!(matches!(workspace.write("folder/a/b", b""), Err(FileError::NotAFolder)));
        assert!(matches!(workspace.read("none", 0, 1), Err(FileError::NotFound)));
    }

    #[test]
    fn what_is_denied_is_denied_by_every_name() {
        let (_dir, folder) = workspace();
        let denied = |path: &Path| path.starts_with("private");
        fs::create_dir(folder.join("private")).expect("made");
        fs::write(folder.join("private/key"), "key").expect("written");
        symlink("private/key", folder.join("link")).expect("linked");
        symlink("private", folder.join("dir")).expect("linked");
        let workspace = Workspace::open(&folder, &denied).expect("open");
        for path in ["private/key", "link", "dir/key", "./private/../private/key"] {
            assert!(matches!(workspace.read(path, 0, 10), Err(FileError::Denied)), "{path}");
            assert!(matches!(workspace.write(path, b"x"), Err(FileError::Denied)), "{path}");
        }
        assert!(matches!(workspace.write("private/new/deep", b"x"), Err(FileError::Denied)));
        assert!(matches!(workspace.list("private", 1, 10), Err(FileError::Denied)));
        let (listed, _) = workspace.list(".", 5, 100).expect("listed");
        assert!(listed.iter().all(|file| !file.path.contains("key")), "{listed:?}");
        assert_eq!(fs::read(folder.join("private/key")).expect("there"), b"key");
    }

    #[test]
    fn lists_are_sorted_bounded_and_pass_over_what_tools_fetch() {
        let (_dir, folder) = workspace();
        let workspace = Workspace::open(&folder, &nothing).expect("open");
        for path in ["b/c/d", "a", "node_modules/x/y", "b/e"] {
            workspace.write(path, b"12").expect("written");
        }
        symlink("/etc", folder.join("link")).expect("linked");
        let names = |depth, most| {
            let (found, all) = workspace.list(".", depth, most).expect("listed");
            (found.into_iter().map(|listed| listed.path).collect::<Vec<_>>(), all)
        };
        assert_eq!(names(1, 100).0, ["a", "b", "link", "node_modules"]);
        assert_eq!(names(3, 100).0, ["a", "b", "b/c", "b/c/d", "b/e", "link", "node_modules"]);
        let (some, all) = names(3, 2);
        assert!(some.len() == 2 && !all);
        let (below, _) = workspace.list("b", 1, 10).expect("listed");
        assert_eq!((below[1].path.as_str(), below[1].kind, below[1].size), ("e", Kind::File, 2));
    }
}
