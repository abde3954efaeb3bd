//! Files that were removed but are still open or mapped: they take room and no folder names them.
//!
//! Input: process ids; output: bytes. Follows proc_pid_fd(5) and proc_pid_map_files(5). What this
//! user may not look into, and descriptors on their way through a socket, are not seen.

use rustix::fs::{AtFlags, FileType, StatxFlags};
use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

/// A file system, by its device number.
pub(super) type Device = (u32, u32);

/// Bytes of removed files on `devices` that these processes hold, each file once.
pub(super) fn removed_bytes(processes: &[u32], devices: &HashSet<Device>, deadline: Instant) -> u64 {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    for process in processes {
        for list in ["fd", "map_files"] {
            if Instant::now() >= deadline {
                return bytes;
            }
            bytes += held_by(&PathBuf::from(format!("/proc/{process}/{list}")), devices, &mut seen).unwrap_or_default();
        }
    }
    bytes
}

/// `None` when the process is gone or closed to us.
fn held_by(list: &PathBuf, devices: &HashSet<Device>, seen: &mut HashSet<(Device, u64)>) -> Option<u64> {
    let dir = File::open(list).ok()?;
    let mut bytes = 0;
    for entry in std::fs::read_dir(list).ok()?.filter_map(Result::ok) {
        let wanted = StatxFlags::TYPE | StatxFlags::NLINK | StatxFlags::INO | StatxFlags::BLOCKS;
        // Without waiting for a network file system: its size as last known will do.
        let flags = AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let Ok(stat) = rustix::fs::statx(&dir, entry.file_name(), flags, wanted) else { continue };
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        let is_file = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
        if is_file && stat.stx_nlink == 0 && devices.contains(&device) && seen.insert((device, stat.stx_ino)) {
            bytes += stat.stx_blocks * 512;
        }
    }
    Some(bytes)
}
