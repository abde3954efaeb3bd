//! The private view: a tmpfs root with exactly what the plan lists, made with the new mount API.
//!
//! Follows mount_namespaces(7), open_tree(2), move_mount(2), pivot_root(2). Mount points are found
//! beneath the new root without following any link, because the workspace below them is hostile.
//! Read-only is set before a mount becomes visible.

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use sandbox_launch::plan::{Access, IdMap, ViewStep};
use sandbox_launch::report::{Report, Step};
use sandbox_launch::sys::{self, MountAttributes};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;

/// Where the new root is attached before it becomes the root: a folder that every host has. All
/// sources are open by then.
const STAGING: &str = "/usr";

/// Detached copies of the host's mounts, in the order of the plan's `Bind` steps.
#[derive(Default)]
pub(crate) struct Sources(VecDeque<OwnedFd>);

impl Sources {
    /// Opens every source of the plan. Needs CAP_SYS_ADMIN over the current mount namespace.
    pub(crate) fn open(&mut self, steps: &[ViewStep]) -> Result<(), Report> {
        for step in steps {
            if let ViewStep::Bind { source, access, devices, ids, .. } = step {
                self.0.push_back(open_source(source, *access, *devices, *ids)?);
            }
        }
        Ok(())
    }
}

fn open_source(source: &str, access: Access, devices: bool, ids: Option<IdMap>) -> Result<OwnedFd, Report> {
    let failed = |errno| Report::new(Step::OpenSource, errno, source);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(CWD, source, flags).map_err(failed)?;
    // Private: a copy of a shared mount stays its peer, as `/` is under systemd, and what the view mounts on it
    // would be mounted on the host, too.
    let attributes = MountAttributes {
        read_only: access == Access::ReadOnly,
        no_suid: true,
        no_dev: !devices,
        private: true,
        idmap: None,
    };
    sys::set_mount_attributes(&tree, attributes, true).map_err(failed)?;
    if let Some(ids) = ids {
        let userns = idmap_namespace(ids)?;
        let attributes = MountAttributes { idmap: Some(userns.as_fd()), ..MountAttributes::default() };
        // Only the top mount: what is mounted below it keeps its own ids.
        sys::set_mount_attributes(&tree, attributes, false)
            .map_err(|errno| Report::new(Step::MapIds, errno, source))?;
    }
    Ok(tree)
}

/// A user namespace that exists only for its maps: inside it an id is the one on disk, outside it
/// the one that uses the mount.
fn idmap_namespace(ids: IdMap) -> Result<OwnedFd, Report> {
    let failed = |error: std::io::Error| Report::new(Step::MapIds, error, "an id-mapped mount");
    let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let pid = match sys::fork(libc::CLONE_NEWUSER as u64).map_err(|e| failed(e.into()))? {
        sys::Forked::Child => {
            // Holds the namespace until its maps are written and it is open by descriptor.
            drop(go);
            let _ = rustix::io::read(&wait, &mut [0; 1]); // ends either way
            sys::exit(0)
        }
        sys::Forked::Parent(pid) => pid,
    };
    drop(wait);
    let made = (|| {
        let write = |file: &str, inside: u32, outside: u32| {
            std::fs::write(format!("/proc/{pid}/{file}"), format!("{inside} {outside} 1\n"))
        };
        write("uid_map", ids.on_disk_uid, ids.on_host_uid)?;
        write("gid_map", ids.on_disk_gid, ids.on_host_gid)?;
        Ok(OwnedFd::from(std::fs::File::open(format!("/proc/{pid}/ns/user"))?))
    })();
    drop(go);
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()); // reaped, or gone
    }
    made.map_err(failed)
}

/// Makes the view and enters it: afterwards nothing of the host is left but what the plan lists.
pub(crate) fn make_view(steps: &[ViewStep], mut sources: Sources) -> Result<(), Report> {
    let mount_failed = |subject: &str| {
        let subject = subject.to_owned();
        move |errno| Report::new(Step::Mount, errno, subject)
    };
    // Nothing that is mounted here may show outside, and the other way round.
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(mount_failed("/ private"))?;
    let root = new_filesystem("tmpfs", &[("size", "16m"), ("nr_inodes", "4096"), ("mode", "0755")], false)
        .map_err(mount_failed("the root of the view"))?;
    rustix::mount::move_mount(root.as_fd(), "", CWD, STAGING, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(mount_failed(STAGING))?;
    for step in steps {
        carry_out(root.as_fd(), step, &mut sources)?;
    }
    let read_only = MountAttributes { read_only: true, no_suid: true, no_dev: true, ..MountAttributes::default() };
    sys::set_mount_attributes(&root, read_only, false).map_err(mount_failed("/ read-only"))?;

    if crate::fault::omits("pivot") {
        return Ok(());
    }
    let pivot_failed = |errno| Report::new(Step::PivotRoot, errno, "");
    rustix::process::fchdir(&root).map_err(pivot_failed)?;
    // Both names are the same folder: the old root ends up on top of the new one and goes at once.
    rustix::process::pivot_root(".", ".").map_err(pivot_failed)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(pivot_failed)?;
    rustix::process::chdir("/").map_err(pivot_failed)
}

/// An init's own mounts, on top of the launcher's view.
pub(crate) fn extend_view(steps: &[ViewStep]) -> Result<(), Report> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Report::new(Step::Mount, errno, "/"))?;
    let mut none = Sources::default();
    steps.iter().try_for_each(|step| carry_out(root.as_fd(), step, &mut none))
}

fn carry_out(root: BorrowedFd<'_>, step: &ViewStep, sources: &mut Sources) -> Result<(), Report> {
    match step {
        ViewStep::Directory { at, mode } => {
            make_directory(root, at, *mode).map_err(|e| Report::new(Step::MakeView, e, at.as_str()))
        }
        ViewStep::File { at, content, mode } => {
            make_file(root, at, content, *mode).map_err(|e| Report::new(Step::MakeView, e, at.as_str()))
        }
        ViewStep::Symlink { at, target } => parent(root, at)
            .and_then(|(folder, name)| rustix::fs::symlinkat(target.as_str(), folder, name))
            .map_err(|e| Report::new(Step::MakeView, e, at.as_str())),
        ViewStep::Bind { at, .. } => {
            let source = sources.0.pop_front();
            source.ok_or(Errno::NOENT).and_then(|source| attach(root, source, at)).map_err(mount_of(at))
        }
        ViewStep::Again { from, at } => again(root, from, at).map_err(mount_of(at)),
        ViewStep::Tmpfs { at, size_bytes, inodes, mode } => {
            let (size, inodes, mode) = (size_bytes.to_string(), inodes.to_string(), format!("{mode:o}"));
            new_filesystem("tmpfs", &[("size", &size), ("nr_inodes", &inodes), ("mode", &mode)], false)
                .and_then(|mount| attach(root, mount, at))
                .map_err(mount_of(at))
        }
        ViewStep::Proc { at } => {
            new_filesystem("proc", &[], true).and_then(|mount| attach(root, mount, at)).map_err(mount_of(at))
        }
        ViewStep::Devpts { at } => new_filesystem("devpts", &[("ptmxmode", "0666"), ("mode", "0620")], true)
            .and_then(|mount| attach(root, mount, at))
            .map_err(mount_of(at)),
    }
}

fn mount_of(at: &str) -> impl FnOnce(Errno) -> Report + '_ {
    move |errno| Report::new(Step::Mount, errno, at)
}

/// A new, still detached mount of a new filesystem; nosuid and nodev always.
fn new_filesystem(kind: &str, options: &[(&str, &str)], no_exec: bool) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID;
    if kind != "devpts" {
        attributes |= MountAttrFlags::MOUNT_ATTR_NODEV;
    }
    if no_exec {
        attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC;
    }
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// What a view begins with: a file system of its own in a place of the host's, and a part of the host's files.
pub(crate) fn try_view() -> Result<(), Report> {
    let failed = |subject: &str| {
        let subject = subject.to_owned();
        move |errno| Report::new(Step::Mount, errno, subject)
    };
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(failed("/ private"))?;
    open_source(STAGING, Access::ReadOnly, false, None)?;
    let root = new_filesystem("tmpfs", &[], false).map_err(failed("a tmpfs"))?;
    rustix::mount::move_mount(root.as_fd(), "", CWD, STAGING, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed(STAGING))
}

/// A mount of this file system can be made.
pub(crate) fn try_filesystem(kind: &str, options: &[(&str, &str)]) -> Result<(), Report> {
    new_filesystem(kind, options, true).map(drop).map_err(mount_of(kind))
}

/// Attaches a detached mount, making its mount point where the view does not have it yet.
fn attach(root: BorrowedFd<'_>, mount: OwnedFd, at: &str) -> Result<(), Errno> {
    let directory = FileType::from_raw_mode(rustix::fs::fstat(&mount)?.st_mode).is_dir();
    let point = match beneath(root, at) {
        Ok(point) => point,
        Err(Errno::NOENT) => {
            if directory {
                make_directory(root, at, 0o755)?;
            } else {
                make_file(root, at, b"", 0o644)?;
            }
            beneath(root, at)?
        }
        Err(errno) => return Err(errno),
    };
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount.as_fd(), "", point.as_fd(), "", flags)
}

/// Shows a part of the view at a second place, read-only.
fn again(root: BorrowedFd<'_>, from: &str, at: &str) -> Result<(), Errno> {
    let from = beneath(root, from)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(from.as_fd(), "", flags)?;
    let read_only = MountAttributes { read_only: true, no_suid: true, ..MountAttributes::default() };
    sys::set_mount_attributes(&tree, read_only, false)?;
    attach(root, tree, at)
}

/// Opens a place in the view; any link on the way is refused (`ELOOP`).
fn beneath(root: BorrowedFd<'_>, at: &str) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, relative(at), OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn relative(at: &str) -> &str {
    match at.trim_start_matches('/') {
        "" => ".",
        path => path,
    }
}

/// The folder that holds `at`, made with its parents, and the last name.
fn parent<'at>(root: BorrowedFd<'_>, at: &'at str) -> Result<(OwnedFd, &'at str), Errno> {
    let (folder, name) = relative(at).rsplit_once('/').unwrap_or((".", relative(at)));
    let opened = match beneath(root, folder) {
        Err(Errno::NOENT) => {
            make_directory(root, folder, 0o755)?;
            beneath(root, folder)?
        }
        other => other?,
    };
    Ok((opened, name))
}

/// A folder with its parents; one that is there stays as it is.
fn make_directory(root: BorrowedFd<'_>, at: &str, mode: u32) -> Result<(), Errno> {
    if relative(at) == "." {
        return Ok(());
    }
    let (folder, name) = parent(root, at)?;
    match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(mode)) {
        // umask(2) has had its say; the plan's mode is the one that holds.
        Ok(()) => rustix::fs::chmodat(&folder, name, Mode::from_raw_mode(mode), AtFlags::empty()),
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn make_file(root: BorrowedFd<'_>, at: &str, content: &[u8], mode: u32) -> Result<(), Errno> {
    let (folder, name) = parent(root, at)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o600))?;
    let mut rest = content;
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&file, rest)?..];
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
}
