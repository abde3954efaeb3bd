//! How much of the disk a project uses, and whether that is more than its policy allows.
//!
//! Input: the project's folders and a limit; output: [`DiskUsage`] and, five times a second while
//! something runs, [`DiskState`]. Measured, not asked of the file system: project quotas are not used.
//!
//! Measuring means walking, and walking costs a microsecond or two per file. So a tick asks the file
//! system how full it is (statvfs(3)) and walks only when that could matter: when it grew by half of
//! what the project has left, or now and then while it changes at all. What is counted is explained
//! in [`walk`]; to it come files that were removed but are still open, which no walk can see.

mod open_files;
mod walk;

use rustix::fs::StatVfs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use walk::{ENTRY_BYTES, Walk};

/// A walk that takes longer ends early and answers what it has.
const LONGEST_WALK: Duration = Duration::from_secs(10);
/// While the file system changes, walks take at most about a twentieth of the time …
const WALK_SHARE: u32 = 20;
/// … and are this far apart at least and at most.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// When the limit may be near, a quarter of the time, so that other projects' writing cannot make
/// this one walk without end.
const URGENT_SHARE: u32 = 4;

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("cannot open {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot ask the file system of {path} how full it is: {source}")]
    Fill { path: PathBuf, source: io::Error },
    #[error("cannot walk {path}: {source}")]
    Walk { path: PathBuf, source: io::Error },
}

/// What folders take of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUsage {
    /// Allocated blocks, once per file however many names it has, and 512 for each name.
    pub bytes: u64,
    pub entries: u64,
    /// False when the walk was cut short or the tree changed under it: then it is at least this much.
    pub complete: bool,
}

/// A tick's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskState {
    Within,
    Exceeded { used: u64, limit: u64 },
}

/// What the folders and all below them take.
pub fn usage(dirs: &[PathBuf]) -> Result<DiskUsage, DiskError> {
    Ok(Walk::over(dirs, None, Instant::now() + LONGEST_WALK)?.usage)
}

/// Watches the folders of one project.
#[derive(Debug)]
pub struct DiskWatch {
    dirs: Vec<PathBuf>,
    limit: u64,
    /// Bytes that were there before and are not the project's doing.
    allowance: u64,
    last: Option<LastWalk>,
}

#[derive(Debug)]
struct LastWalk {
    fills: Vec<Fill>,
    ended: Instant,
    took: Duration,
    usage: DiskUsage,
    /// Of the last walk that saw everything; its file systems' fill at that time.
    whole: Option<(u64, Vec<Fill>)>,
}

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fill {
    bytes: u64,
    inodes: u64,
}

impl Fill {
    fn of(stat: &StatVfs) -> Self {
        Self {
            bytes: stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize),
            inodes: stat.f_files.saturating_sub(stat.f_ffree),
        }
    }

    /// At least what a project can have added, were all of it the project's.
    fn growth_since(self, before: Self) -> u64 {
        let bytes = self.bytes.saturating_sub(before.bytes);
        let inodes = self.inodes.saturating_sub(before.inodes);
        bytes.saturating_add(inodes.saturating_mul(ENTRY_BYTES))
    }
}

impl DiskWatch {
    /// Looks at nothing yet. The folders are the project's workspace and home.
    pub fn new(dirs: Vec<PathBuf>, limit: u64) -> Self {
        Self { dirs, limit, allowance: 0, last: None }
    }

    /// So many bytes do not count: a folder that a person brought along may be as large as it is.
    pub fn allowing(mut self, bytes: u64) -> Self {
        self.allowance = bytes;
        self
    }

    /// The last walk's figure, with the allowance taken off.
    pub fn used(&self) -> Option<u64> {
        self.last.as_ref().map(|last| last.usage.bytes.saturating_sub(self.allowance))
    }

    /// To be called every 200 ms while something runs. `holders` names the project's processes; it is
    /// asked only when a walk is due. Blocks for as long as the walk takes, at most ten seconds.
    pub fn tick(&mut self, holders: impl FnOnce() -> Vec<u32>) -> Result<DiskState, DiskError> {
        let fills = self.fills()?;
        if self.is_due(&fills) {
            self.walk(fills, &holders())?;
        }
        Ok(match self.used() {
            Some(used) if used > self.limit => DiskState::Exceeded { used, limit: self.limit },
            _ => DiskState::Within,
        })
    }

    fn fills(&self) -> Result<Vec<Fill>, DiskError> {
        let fill = |path: &PathBuf| match rustix::fs::statvfs(path) {
            Ok(stat) => Ok(Fill::of(&stat)),
            Err(errno) => Err(DiskError::Fill { path: path.clone(), source: errno.into() }),
        };
        self.dirs.iter().map(fill).collect()
    }

    fn is_due(&self, fills: &[Fill]) -> bool {
        let Some(last) = &self.last else { return true };
        if fills == last.fills {
            return false;
        }
        let since = last.ended.elapsed();
        let pause = (last.took * WALK_SHARE).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        if since >= pause {
            return true;
        }
        let headroom = (self.limit + self.allowance).saturating_sub(last.usage.bytes);
        let grown =
            fills.iter().zip(&last.fills).any(|(now, before)| now.growth_since(*before) >= headroom.div_ceil(2));
        grown && since >= (last.took * URGENT_SHARE).min(LONGEST_PAUSE)
    }

    fn walk(&mut self, fills: Vec<Fill>, holders: &[u32]) -> Result<(), DiskError> {
        let began = Instant::now();
        let deadline = began + LONGEST_WALK;
        let enough = self.limit.saturating_add(self.allowance);
        let mut walk = Walk::over(&self.dirs, Some(enough), deadline)?;
        walk.usage.bytes += open_files::removed_bytes(holders, &walk.devices, deadline);
        let whole = self.last.as_mut().and_then(|last| last.whole.take());
        let whole = if walk.closed > 0 {
            // A folder that its own owner has closed to us hides what is in it: without a figure, it
            // is charged with what the file system has grown by since everything could be seen.
            if let Some((bytes, before)) = &whole {
                let growth = fills.iter().zip(before).map(|(now, before)| now.growth_since(*before)).max();
                walk.usage.bytes = walk.usage.bytes.max(bytes.saturating_add(growth.unwrap_or_default()));
            }
            whole
        } else if walk.usage.complete {
            Some((walk.usage.bytes, fills.clone()))
        } else {
            whole
        };
        self.last = Some(LastWalk { fills, ended: Instant::now(), took: began.elapsed(), usage: walk.usage, whole });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn nobody() -> Vec<u32> {
        Vec::new()
    }

    #[test]
    fn a_fill_is_seen_and_its_removal_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = DiskWatch::new(vec![dir.path().to_owned()], 1 << 20);
        assert_eq!(watch.tick(nobody).unwrap(), DiskState::Within);
        fs::write(dir.path().join("big"), vec![1; 3 << 20]).unwrap();
        let DiskState::Exceeded { used, limit } = until(&mut watch, |state| state != DiskState::Within) else {
            panic!("not seen")
        };
        assert_eq!(limit, 1 << 20);
        assert!(used > 1 << 20, "{used}");
        fs::remove_file(dir.path().join("big")).unwrap();
        assert_eq!(until(&mut watch, |state| state == DiskState::Within), DiskState::Within);
    }

    /// Ticks as the keeper does, for two seconds at most.
    fn until(watch: &mut DiskWatch, wanted: impl Fn(DiskState) -> bool) -> DiskState {
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            let state = watch.tick(nobody).unwrap();
            if wanted(state) || Instant::now() > deadline {
                return state;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[test]
    fn what_was_there_before_can_be_allowed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("brought"), vec![1; 4 << 20]).unwrap();
        let dirs = vec![dir.path().to_owned()];
        let before = usage(&dirs).unwrap();
        assert!(before.complete);
        let mut watch = DiskWatch::new(dirs, 1 << 20).allowing(before.bytes);
        assert_eq!(watch.tick(nobody).unwrap(), DiskState::Within);
        assert_eq!(watch.used(), Some(0));
    }

    #[test]
    fn a_removed_file_that_is_still_open_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ghost");
        let file = fs::File::create(&path).unwrap();
        fs::write(&path, vec![1; 2 << 20]).unwrap();
        fs::remove_file(&path).unwrap();
        let mut watch = DiskWatch::new(vec![dir.path().to_owned()], 1 << 20);
        let state = watch.tick(|| vec![std::process::id()]).unwrap();
        assert!(matches!(state, DiskState::Exceeded { .. }), "{state:?}");
        drop(file);
    }

    #[test]
    fn no_walk_is_due_while_nothing_changes() {
        let fill = Fill { bytes: 1000, inodes: 10 };
        let watch = |took: u64, usage: u64| DiskWatch {
            last: Some(LastWalk {
                fills: vec![fill],
                ended: Instant::now(),
                took: Duration::from_millis(took),
                usage: DiskUsage { bytes: usage, entries: 0, complete: true },
                whole: None,
            }),
            ..DiskWatch::new(vec![PathBuf::from("/")], 100_000)
        };
        let quick = watch(0, 50_000);
        assert!(!quick.is_due(&[fill]));
        assert!(!quick.is_due(&[Fill { bytes: 20_000, ..fill }]), "less than half of what is left");
        assert!(quick.is_due(&[Fill { bytes: 26_000, ..fill }]));
        assert!(quick.is_due(&[Fill { inodes: 70, ..fill }]), "empty files take room too");
        assert!(!watch(100, 50_000).is_due(&[Fill { bytes: 26_000, ..fill }]), "not more than a quarter of the time");
        assert!(watch(0, 200_000).is_due(&[Fill { bytes: 999, ..fill }]), "beyond the limit every change matters");
    }

    #[test]
    fn a_folder_that_is_gone_is_named() {
        let error = usage(&[PathBuf::from("/nonexistent/folder")]).unwrap_err();
        assert_eq!(error.to_string(), "cannot open /nonexistent/folder: No such file or directory (os error 2)");
    }
}
