//! A walk over folders that somebody hostile may be changing at the same time.
//!
//! Input: folders; output: what they take. No link is followed and no mount is crossed; each step is
//! relative to an open directory, so a folder that is exchanged for a link leads nowhere. Directories
//! are kept on a stack of our own, of which only the deepest have a descriptor: a chain of folders
//! 100,000 deep costs some memory and nothing else. Going up again is by `..`, and what is found
//! there must be the very directory that was left; otherwise the walk finds its way from the top.
//!
//! Each entry counts 512 bytes beside its blocks, so that empty files are not free. A file with many
//! names counts its blocks once. Sizes are blocks, so holes in files do not count.

use super::open_files::Device;
use super::{DiskError, DiskUsage};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Statx, StatxFlags, openat, statx};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::time::Instant;

/// What an entry takes beside its blocks: its inode, its name.
pub(super) const ENTRY_BYTES: u64 = 512;
/// Directories of the stack that stay open.
const OPEN_DIRECTORIES: usize = 64;
/// Files with several names that are remembered; beyond these each name counts its share.
const REMEMBERED_FILES: usize = 1 << 20;
const ENTRIES_PER_LOOK_AT_THE_CLOCK: u64 = 256;

/// The result of a walk.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) usage: DiskUsage,
    /// Directories that our own user owns and cannot open.
    pub(super) closed: u64,
    /// The file systems of the folders.
    pub(super) devices: HashSet<Device>,
    /// The folders themselves: met below another they are not counted again.
    roots: HashSet<Identity>,
    linked: HashSet<Identity>,
    enough: Option<u64>,
    deadline: Instant,
    stopped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    device: Device,
    inode: u64,
}

impl Identity {
    fn of(stat: &Statx) -> Self {
        Self { device: (stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino }
    }
}

/// A directory on the way from the top to where the walk is.
struct Level {
    name: CString,
    identity: Identity,
    /// Only the deepest levels have one.
    fd: Option<OwnedFd>,
    /// Directories in it that are still to be walked, each ended by a NUL.
    pending: Vec<u8>,
}

impl Level {
    fn next_name(&mut self) -> Option<CString> {
        self.pending.pop()?;
        let start = self.pending.iter().rposition(|byte| *byte == 0).map_or(0, |end| end + 1);
        CString::new(self.pending.split_off(start)).ok()
    }
}

impl Walk {
    /// Walks the folders; stops early beyond `enough` bytes and at the deadline.
    pub(super) fn over(dirs: &[PathBuf], enough: Option<u64>, deadline: Instant) -> Result<Self, DiskError> {
        let mut walk = Self {
            usage: DiskUsage { bytes: 0, entries: 0, complete: true },
            closed: 0,
            devices: HashSet::new(),
            roots: HashSet::new(),
            linked: HashSet::new(),
            enough,
            deadline,
            stopped: false,
        };
        let mut tops = Vec::new();
        for path in dirs {
            let top = open(rustix::fs::CWD, path.as_path(), OFlags::empty())
                .map_err(|errno| DiskError::Open { path: path.clone(), source: errno.into() })?;
            let stat = stat_open(&top).map_err(|errno| DiskError::Walk { path: path.clone(), source: errno.into() })?;
            let identity = Identity::of(&stat);
            walk.devices.insert(identity.device);
            // The same folder twice is one folder.
            if walk.roots.insert(identity) {
                walk.count(&stat);
                tops.push((path, top, stat));
            }
        }
        for (path, top, stat) in tops {
            walk.below(top, &stat).map_err(|errno| DiskError::Walk { path: path.clone(), source: errno.into() })?;
        }
        Ok(walk)
    }

    fn below(&mut self, top: OwnedFd, stat: &Statx) -> Result<(), Errno> {
        let mount = stat.stx_mnt_id;
        let pending = self.read(&top, mount)?;
        let root = Level { name: c".".to_owned(), identity: Identity::of(stat), fd: Some(top), pending };
        let mut stack = vec![root];
        while let Some(level) = stack.last_mut() {
            if self.stopped {
                self.usage.complete = false;
                break;
            }
            match level.next_name() {
                Some(name) => {
                    if let Some(below) = self.enter(level, name, mount)? {
                        stack.push(below);
                        // The top's stays open: it is the one way back that nobody can take away.
                        if let Some(far) = stack.len().checked_sub(OPEN_DIRECTORIES).filter(|far| *far > 0) {
                            stack[far].fd = None;
                        }
                    }
                }
                None => self.leave(&mut stack),
            }
        }
        Ok(())
    }

    /// Opens and reads the directory `name`; `None` when it is gone, elsewhere, or closed to us.
    fn enter(&mut self, level: &Level, name: CString, mount: u64) -> Result<Option<Level>, Errno> {
        let parent = level.fd.as_ref().expect("the deepest level is open");
        let opened = match open(parent, &*name, OFlags::NOFOLLOW) {
            Ok(opened) => opened,
            // Removed, or exchanged for something else.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(Errno::ACCESS | Errno::PERM) => {
                let own = rustix::process::geteuid().as_raw();
                let owner = stat_entry(parent, &name).map(|stat| stat.stx_uid);
                self.closed += u64::from(owner == Ok(own));
                return Ok(None);
            }
            Err(errno) => return Err(errno),
        };
        let stat = stat_open(&opened)?;
        let identity = Identity::of(&stat);
        if stat.stx_mnt_id != mount || self.roots.contains(&identity) {
            return Ok(None);
        }
        let pending = match self.read(&opened, mount) {
            Ok(pending) => pending,
            // Removed while it was read.
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        Ok(Some(Level { name, identity, fd: Some(opened), pending }))
    }

    /// Drops the deepest level and makes sure the one above is open, if there is one.
    fn leave(&mut self, stack: &mut Vec<Level>) {
        let Some(left) = stack.pop() else { return };
        let Some(above) = stack.last_mut() else { return };
        if above.fd.is_some() {
            return;
        }
        let up = left.fd.and_then(|fd| open(&fd, c"..", OFlags::NOFOLLOW).ok());
        above.fd = up.filter(|fd| stat_open(fd).is_ok_and(|stat| Identity::of(&stat) == above.identity));
        if above.fd.is_none() {
            self.find_way_back(stack);
        }
    }

    /// The tree was changed: follows the names from the top as far as they lead to the same
    /// directories, and gives up what is below.
    fn find_way_back(&mut self, stack: &mut Vec<Level>) {
        let mut reached = 0;
        let mut here: Option<OwnedFd> = None;
        for depth in 1..stack.len() {
            let from = here.as_ref().or(stack[0].fd.as_ref()).expect("the top is always open");
            let Ok(next) = open(from, &*stack[depth].name, OFlags::NOFOLLOW) else { break };
            if !stat_open(&next).is_ok_and(|stat| Identity::of(&stat) == stack[depth].identity) {
                break;
            }
            reached = depth;
            here = Some(next);
            self.stopped |= Instant::now() >= self.deadline;
        }
        if reached + 1 < stack.len() {
            self.usage.complete = false;
            stack.truncate(reached + 1);
        }
        if let (Some(level), Some(fd)) = (stack.last_mut(), here) {
            level.fd = Some(fd);
        }
    }

    /// Counts what is in a directory; answers the directories among it.
    fn read(&mut self, dir: &OwnedFd, mount: u64) -> Result<Vec<u8>, Errno> {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut entries = RawDir::new(dir, &mut buffer);
        let mut pending = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            // Gone since it was listed.
            let Ok(stat) = stat_entry(dir, name) else { continue };
            if stat.stx_mnt_id != mount {
                continue;
            }
            let is_dir = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
            if is_dir && self.roots.contains(&Identity::of(&stat)) {
                continue;
            }
            self.count(&stat);
            if self.stopped {
                break;
            }
            if is_dir {
                pending.extend_from_slice(name.to_bytes_with_nul());
            }
        }
        Ok(pending)
    }

    fn count(&mut self, stat: &Statx) {
        self.usage.entries += 1;
        self.usage.bytes += ENTRY_BYTES + self.blocks(stat) * 512;
        let late = self.usage.entries.is_multiple_of(ENTRIES_PER_LOOK_AT_THE_CLOCK) && Instant::now() >= self.deadline;
        let enough = self.enough.is_some_and(|enough| self.usage.bytes > enough);
        self.stopped |= late || enough;
    }

    fn blocks(&mut self, stat: &Statx) -> u64 {
        let is_dir = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
        if is_dir || stat.stx_nlink <= 1 {
            return stat.stx_blocks;
        }
        let identity = Identity::of(stat);
        if self.linked.contains(&identity) {
            0
        } else if self.linked.len() < REMEMBERED_FILES {
            self.linked.insert(identity);
            stat.stx_blocks
        } else {
            stat.stx_blocks.div_ceil(u64::from(stat.stx_nlink))
        }
    }
}

fn open(at: impl AsFd, path: impl rustix::path::Arg, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | flags, Mode::empty())
}

/// The mount's number tells a bind mount of the same file system from the folder's own.
fn wanted() -> StatxFlags {
    StatxFlags::TYPE
        | StatxFlags::MODE
        | StatxFlags::NLINK
        | StatxFlags::UID
        | StatxFlags::INO
        | StatxFlags::BLOCKS
        | StatxFlags::MNT_ID
}

fn stat_open(fd: &OwnedFd) -> Result<Statx, Errno> {
    statx(fd, c"", AtFlags::EMPTY_PATH, wanted())
}

fn stat_entry(dir: &OwnedFd, name: &CStr) -> Result<Statx, Errno> {
    statx(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, wanted())
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
