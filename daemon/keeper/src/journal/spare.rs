//! A journal's folder and first segment, made before the run that will use it is known.
//!
//! Making the two costs 40 µs on a quiet ext4, and 1.5 ms for a minute or more after many files
//! were deleted near by (ext4 passes over every inode that was freed lately, see `recently_deleted`
//! in `fs/ext4/ialloc.c`), as a build in the workspace does. Renaming a folder allocates no inode
//! and takes some 15 µs in either state. So a keeper makes a spare when it has nothing better to do.

use super::record::StartRecord;
use super::writer::{Writer, make_folder, open_new};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::remove_dir_all;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// An unused journal. Removed when dropped; one that a killed keeper left is removed by the next
/// [`Spare::make`] with its number.
#[derive(Debug)]
pub struct Spare {
    dir: PathBuf,
    /// Until it is used.
    file: Option<OwnedFd>,
}

impl Spare {
    /// Makes `<runs_dir>/.spare-<number>`. The caller is the only keeper of the folder and uses
    /// each number for one spare at a time. Blocks for up to some milliseconds.
    pub fn make(runs_dir: &Path, number: u32) -> io::Result<Self> {
        let dir = runs_dir.join(format!(".spare-{number}"));
        match make_folder(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                remove_dir_all(&dir)?;
                make_folder(&dir)?;
            }
            result => result?,
        }
        match open_new(&dir, 0) {
            Ok(file) => Ok(Self { dir, file: Some(file) }),
            Err(error) => {
                let _ = remove_dir_all(&dir); // the first error is the one to report
                Err(error)
            }
        }
    }

    /// Does what [`Writer::create`] does, with one rename and one write.
    pub fn begin(mut self, dir: &Path, limit_bytes: u64, start: &StartRecord) -> io::Result<Writer> {
        match renameat_with(CWD, &self.dir, CWD, dir, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            // The file system does not know the flag (renameat2(2)).
            Err(Errno::INVAL | Errno::NOSYS) => return Writer::create(dir, limit_bytes, start),
            Err(error) => return Err(error.into()),
        }
        let file = self.file.take().expect("a spare is used once, by value");
        Writer::begin(dir, file, limit_bytes, start).inspect_err(|_| {
            // As in `Writer::create`: the first error is the one to report.
            let _ = remove_dir_all(dir);
        })
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        // What has been used has another name. What cannot be removed now is when the number is used again.
        if self.file.is_some() {
            let _ = remove_dir_all(&self.dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ended, start_record};
    use super::super::{Item, Reader, outcome};
    use super::*;

    #[test]
    fn a_spare_becomes_a_journal_once() {
        let root = tempfile::tempdir().unwrap();
        let runs = root.path().join("runs");
        let names =
            || -> Vec<_> { std::fs::read_dir(&runs).unwrap().map(|entry| entry.unwrap().file_name()).collect() };
        std::mem::forget(Spare::make(&runs, 7).unwrap());
        let spare = Spare::make(&runs, 7).unwrap();
        assert_eq!(names(), [".spare-7"]);

        let start = start_record();
        let dir = runs.join(start.run.as_str());
        let mut writer = spare.begin(&dir, 1 << 20, &start).unwrap();
        writer.finish(&ended(0, 0)).unwrap();
        assert_eq!(names(), [start.run.as_str()]);
        assert_eq!(Reader::open(&dir).unwrap().next().unwrap(), Item::Start(start.clone()));
        assert!(outcome(&dir).unwrap().is_some());

        let second = Spare::make(&runs, 7).unwrap().begin(&dir, 1 << 20, &start);
        assert_eq!(second.map(drop).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(outcome(&dir).unwrap().is_some(), "the journal that was there stays");
        assert_eq!(names(), [start.run.as_str()]);
    }
}
