//! A function's files, as it sees them.
//!
//! `<state>/functions/<project>/<name>/<code hash>/`: made once for each version, whole or not at all, out
//! of the contents of the release and the shim that runs it.

use super::Live;
use crate::error::Result;
use crate::gateway::Gateway;
use crate::ids;
use run402::deploy::Digest;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The program that runs the function; its folder is not one that a function can have.
pub(super) const SHIM: &str = ".run402/shim.mjs";
const SHIM_TEXT: &str = include_str!("shim.mjs");
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Folders of a function.
#[derive(Debug)]
pub(super) struct Placed {
    /// The files of this version.
    pub(super) folder: PathBuf,
    /// The same for every version.
    pub(super) scratch: PathBuf,
}

/// Makes what is not there yet.
pub(super) fn place(gateway: &Gateway, live: &Live) -> Result<Placed> {
    // The shim is part of the version: a newer gateway brings its own.
    let version = Digest::of(format!("{}{SHIM_TEXT}", live.function.code_hash()).as_bytes()).to_string();
    let versions = gateway.config().state.join("functions").join(&live.project).join(&live.name);
    let (folder, scratch) = (versions.join(&version[..32]), versions.join("scratch"));
    fs::create_dir_all(&scratch)?;
    if folder.is_dir() {
        return Ok(Placed { folder, scratch });
    }
    let beside = versions.join(format!(".{}", ids::random()));
    let placed = fill(gateway, live, &beside).and_then(|()| match fs::rename(&beside, &folder) {
        // Another call was as fast.
        Err(_) if folder.is_dir() => Ok(()),
        renamed => Ok(renamed?),
    });
    if beside.exists() {
        // Nothing runs from it; what cannot be removed now does no harm.
        let _ = fs::remove_dir_all(&beside);
    }
    placed.map(|()| Placed { folder, scratch })
}

fn fill(gateway: &Gateway, live: &Live, folder: &Path) -> Result<()> {
    let mut files = live.function.contents();
    files.retain(|(path, _)| !path.starts_with(".run402/"));
    for (path, content) in files {
        let bytes = gateway.contents().read(&content.sha256, MAX_FILE_BYTES)?;
        write(&folder.join(path), &bytes)?;
    }
    write(&folder.join(SHIM), SHIM_TEXT.as_bytes())?;
    // Readable for whoever the function runs as; the folders above are closed to everybody else.
    open_up(folder)?;
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
    fs::write(path, bytes)
}

fn open_up(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => open_up(&entry.path())?,
            false => fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o644))?,
        }
    }
    Ok(())
}
