//! How fast a project's files may be read and written: `io.max`, which only cgroup v2 has for all of it.
//!
//! Input: the folders of a project and a rate; output: the limit on each disk below them, read back. The `io`
//! controller is handed down only once a policy asks for it: it costs every write of every project a little, and
//! service managers do not delegate it by default. Version 1 has no such limit: its `blkio` throttles reads, but of
//! writes only those that wait for the disk. Follows the kernel's `admin-guide/cgroup-v2.rst`, "IO" and "Writeback".

use super::{CgroupError, read, write};
use rustix::fs::{Dev, major, makedev, minor};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// File systems that tell the kernel whose data they write back later (`statfs(2)`): of others only direct writes
/// would be limited.
const ATTRIBUTING: [(i64, &str); 4] =
    [(0xEF53, "ext4"), (0x5846_5342, "xfs"), (0x9123_683E, "btrfs"), (0xF2F5_2010, "f2fs")];

/// Why a rate cannot be kept on a folder's disk.
#[derive(Debug, thiserror::Error)]
pub enum NoDisk {
    #[error("{folder}: {source}")]
    Unreadable { folder: PathBuf, source: std::io::Error },
    #[error("the file system of {folder} does not tell the kernel who writes; ext4, xfs, btrfs and f2fs do")]
    NotAttributing { folder: PathBuf },
    #[error("the disk of {folder} is not known")]
    Unknown { folder: PathBuf },
}

/// A whole disk, as `io.max` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disk {
    major: u32,
    minor: u32,
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The disks that the folders are on, each once.
pub(super) fn disks_of(folders: &[PathBuf]) -> Result<Vec<Disk>, NoDisk> {
    let mut disks = Vec::new();
    for folder in folders {
        let disk = Disk::of(folder)?;
        if !disks.contains(&disk) {
            disks.push(disk);
        }
    }
    Ok(disks)
}

impl Disk {
    fn of(folder: &Path) -> Result<Self, NoDisk> {
        let unreadable = |source| NoDisk::Unreadable { folder: folder.to_owned(), source };
        let kind = rustix::fs::statfs(folder).map_err(|error| unreadable(error.into()))?.f_type;
        if !ATTRIBUTING.iter().any(|(magic, _)| *magic == kind) {
            return Err(NoDisk::NotAttributing { folder: folder.to_owned() });
        }
        let device = std::fs::metadata(folder).map_err(unreadable)?.dev();
        // One that is made up, as btrfs does: the mount names the real one.
        let device = if major(device) == 0 { mounted_device(folder) } else { Some(device) };
        device.and_then(Self::whole).ok_or_else(|| NoDisk::Unknown { folder: folder.to_owned() })
    }

    /// The disk itself, also of a partition, for which `io.max` has no line.
    fn whole(device: Dev) -> Option<Self> {
        let entry = Path::new("/sys/dev/block").join(format!("{}:{}", major(device), minor(device)));
        let file = if entry.join("partition").exists() { entry.join("../dev") } else { entry.join("dev") };
        let text = std::fs::read_to_string(file).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

/// What the mount above the folder is a mount of.
fn mounted_device(folder: &Path) -> Option<Dev> {
    let folder = folder.canonicalize().ok()?;
    let mounts = crate::mounts::own_mounts();
    let above = mounts.iter().filter(|mount| folder.starts_with(&mount.point));
    // Of two at the same point the later one hides the other.
    let mount = above.max_by_key(|mount| mount.point.components().count())?;
    let source = std::fs::metadata(&mount.source).ok()?;
    (major(source.rdev()) != 0).then(|| makedev(major(source.rdev()), minor(source.rdev())))
}

/// So many bytes a second from each disk, and as many to it; `None` lifts the limit.
pub(super) fn limit(dir: &Path, disks: &[Disk], rate: Option<u64>) -> Result<(), CgroupError> {
    let file = dir.join("io.max");
    let rate = rate.map_or_else(|| "max".to_owned(), |rate| rate.to_string());
    for disk in disks {
        let wanted = format!("rbps={rate} wbps={rate}");
        write(&file, &format!("{disk} {wanted}"))?;
        let got = read(&file)?;
        if !is_set(&got, *disk, &rate) {
            return Err(CgroupError::Differs { path: file, wanted: format!("{disk} {wanted}"), got });
        }
    }
    Ok(())
}

/// A disk without any limit has no line.
fn is_set(io_max: &str, disk: Disk, rate: &str) -> bool {
    let disk = disk.to_string();
    let mut lines = io_max.lines().map(|line| line.split(' '));
    match lines.find_map(|mut words| (words.next() == Some(&disk)).then(|| words.collect::<Vec<_>>())) {
        Some(words) => ["rbps", "wbps"].iter().all(|key| words.contains(&format!("{key}={rate}").as_str())),
        None => rate == "max",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Disk = Disk { major: 259, minor: 1 };

    #[test]
    fn a_limit_is_read_back_in_the_kernels_order_and_company() {
        let text = "8:16 rbps=1 wbps=1 riops=max wiops=max\n259:1 rbps=65536 wbps=65536 riops=max wiops=7";
        assert!(is_set(text, DISK, "65536"));
        assert!(!is_set(text, DISK, "6553"), "a number is a whole word");
        assert!(!is_set(text, DISK, "max"));
        assert!(is_set("", DISK, "max"));
        assert!(!is_set("", DISK, "65536"));
        assert!(!is_set("1259:1 rbps=65536 wbps=65536", DISK, "65536"));
    }

    #[test]
    fn memory_is_no_disk() {
        let error = disks_of(&["/dev/shm".into()]).unwrap_err();
        assert!(matches!(error, NoDisk::NotAttributing { .. } | NoDisk::Unreadable { .. }), "{error}");
        assert!(matches!(disks_of(&["/nowhere".into()]).unwrap_err(), NoDisk::Unreadable { .. }));
    }

    #[test]
    fn a_disk_is_named_once() {
        let target = Path::new(env!("CARGO_MANIFEST_DIR"));
        // Where this is built there may be any file system.
        if let Ok(disks) = disks_of(&[target.to_owned(), target.join("src")]) {
            assert_eq!(disks.len(), 1);
        }
    }
}
