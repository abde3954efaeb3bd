//! The project's home folder: owned by the project's user, with a mount point for the workspace.
//!
//! Its content was written by commands and is hostile: no link in it is followed here.

use crate::api::KeeperSpec;
use crate::plan::{GID, UID};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::io;

/// Makes `home` and `home/project` belong to the project's user.
pub fn prepare(spec: &KeeperSpec) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let home = rustix::fs::openat(CWD, spec.home(), flags, Mode::empty())?;
    match rustix::fs::mkdirat(&home, "project", Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    if let Some(base) = spec.id_base {
        let (uid, gid) = (Some(Uid::from_raw(base + UID)), Some(Gid::from_raw(base + GID)));
        rustix::fs::fchown(&home, uid, gid)?;
        rustix::fs::chownat(&home, "project", uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}
