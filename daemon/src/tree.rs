//! Removing a folder that commands have written to.
//!
//! Names, modes and depth are the commands' choice: a folder may be unreadable to us, and links may point
//! anywhere. Nothing runs in the sandbox any more when this is called. Blocks.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Removes the folder and everything in it; follows no link. Done when it is already gone.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        Err(error) => Err(error),
    }
}

/// Gives the owner all rights to each folder below, as an ordinary user needs to empty it.
fn open_up(path: &Path) -> io::Result<()> {
    let mut open = vec![path.to_owned()];
    while let Some(folder) = open.pop() {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_folders_are_removed_and_links_are_not_followed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        fs::create_dir_all(tree.join("a/b/c")).expect("made");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("file"), "x").expect("written");
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).expect("linked");
        fs::set_permissions(tree.join("a/b"), fs::Permissions::from_mode(0o000)).expect("closed");
        remove(&tree).expect("removed");
        assert!(!tree.exists() && outside.join("file").exists());
        remove(&tree).expect("already gone");
    }
}
