//! A run that stands still: its memory is full of what cannot be given back, and what is left for
//! files is too little for its own code.
//!
//! Input: a leaf's counters, a look a second; output: whether the run gets anywhere. The kernel kills
//! for memory only once it finds nothing to give back. As long as there are pages of files it takes
//! those, and if they are the code of the very command that wants more, it reads them again for every
//! few instructions, for ever: `node` with a growing heap, whose 95 MB were not in memory when
//! the run began, was seen to last until its deadline that way. Nothing but the deadline would end
//! it, and the command would be told that it was slow.
//!
//! All of this has to be so, look after look, before a run is said to stand still: its cgroup or its
//! project's is at the limit, and hardly any of it is pages of files; these are replaced altogether,
//! a part in each look, by ones that had just been taken away (`workingset_refault_file`), at least
//! partly to be mapped (`pgmajfault`); and its processes hardly compute (user time). A command that
//! reads large files, computes much, or starts slowly lacks one of these.
//!
//! Follows "Memory Interface Files" in the kernel's `admin-guide/cgroup-v2.rst` and section 5.2 of
//! `admin-guide/cgroup-v1/memory.rst`. Kernels before 5.9 do not tell refaults of files apart; there
//! nothing is said to stand still.

use super::meter::keyed;
use super::{CgroupError, Version, read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// So many looks one after the other.
const LOOKS: u32 = 5;
/// At the limit: so many percent of it are in use.
const FULL_PERCENT: u64 = 95;
/// Hardly any pages of files: at most so many percent of the limit.
const FILES_PERCENT: u64 = 20;
/// Hardly computing: user time is below so many percent of the time that passed.
const USER_PERCENT: u32 = 5;
/// Reads from disk for mapped pages, in each look.
const MAJOR_FAULTS: u64 = 5;

/// Looks at one run; made for each.
#[derive(Debug)]
pub(crate) struct Standstill {
    version: Version,
    /// The leaf, and the project around it.
    memory: [PathBuf; 2],
    user_time: PathBuf,
    last: Option<Sample>,
    looks: u32,
}

/// Counters that only grow, and what there was of files.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    refaults: u64,
    major_faults: u64,
    user: Duration,
}

impl Standstill {
    /// `memory` is the leaf's directory in the tree that counts memory, `processors` in the one that
    /// counts processor time.
    pub(super) fn new(version: Version, memory: &Path, processors: (Version, &Path)) -> Option<Self> {
        let user_time = processors.1.join(match processors.0 {
            Version::V1 => "cpuacct.usage_user",
            Version::V2 => "cpu.stat",
        });
        let memory = [memory.to_owned(), memory.parent()?.to_owned()];
        Some(Self { version, memory, user_time, last: None, looks: 0 })
    }

    /// To be called once a second. After it has said yes it begins anew.
    pub(crate) fn look(&mut self) -> Result<bool, CgroupError> {
        let Some(files) = self.files_if_full()? else {
            (self.last, self.looks) = (None, 0);
            return Ok(false);
        };
        let now = self.sample()?;
        let last = std::mem::replace(&mut self.last, now);
        let stands = last.zip(now).is_some_and(|(last, now)| now.stands_still_since(&last, files));
        self.looks = if stands { self.looks + 1 } else { 0 };
        let long = self.looks >= LOOKS;
        if long {
            self.looks = 0;
        }
        Ok(long)
    }

    /// Pages of files, in the leaf or the project, if that is at its limit and they are few.
    fn files_if_full(&self) -> Result<Option<u64>, CgroupError> {
        let (held, limit) = (self.version.memory_held(), self.version.memory_limit());
        let number = |dir: &Path, file| read(&dir.join(file)).map(|text| text.parse::<u64>().ok());
        for dir in &self.memory {
            let (Some(held), Some(limit)) = (number(dir, held)?, number(dir, limit)?) else { continue };
            if held < limit / 100 * FULL_PERCENT {
                continue;
            }
            let stat = read(&dir.join("memory.stat"))?;
            let of = |key| self.statistic(&stat, key).unwrap_or_default();
            let files = of("inactive_file") + of("active_file");
            if files <= limit / 100 * FILES_PERCENT {
                return Ok(Some(files / rustix::param::page_size() as u64));
            }
        }
        Ok(None)
    }

    fn sample(&self) -> Result<Option<Sample>, CgroupError> {
        let stat = read(&self.memory[0].join("memory.stat"))?;
        let user_time = read(&self.user_time)?;
        let user = match keyed(&user_time, "user_usec") {
            Some(user) => Duration::from_micros(user),
            None => Duration::from_nanos(user_time.parse().unwrap_or_default()),
        };
        let counted = self.statistic(&stat, "workingset_refault_file").zip(self.statistic(&stat, "pgmajfault"));
        Ok(counted.map(|(refaults, major_faults)| Sample { at: Instant::now(), refaults, major_faults, user }))
    }

    /// A line of `memory.stat`, with all that is below: on v1 that has a name of its own.
    fn statistic(&self, stat: &str, key: &str) -> Option<u64> {
        match self.version {
            Version::V1 => keyed(stat, &format!("total_{key}")),
            Version::V2 => keyed(stat, key),
        }
    }
}

impl Sample {
    /// `files`: pages of files that there are.
    fn stands_still_since(&self, before: &Self, files: u64) -> bool {
        let passed = self.at.duration_since(before.at);
        // A slow disk replaces few in a second.
        self.refaults.saturating_sub(before.refaults) * u64::from(LOOKS) > files
            && self.major_faults.saturating_sub(before.major_faults) >= MAJOR_FAULTS
            && self.user.saturating_sub(before.user) < passed * USER_PERCENT / 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::write;

    const MIB: u64 = 1 << 20;

    /// A leaf in its project, as one of the versions shows it.
    struct Leaf {
        project: tempfile::TempDir,
        version: Version,
    }

    impl Leaf {
        fn new(version: Version) -> Self {
            let leaf = Self { project: tempfile::tempdir().unwrap(), version };
            std::fs::create_dir(leaf.dir()).unwrap();
            leaf.holds(leaf.project.path(), 10 * MIB, 200 * MIB);
            leaf
        }

        fn dir(&self) -> PathBuf {
            self.project.path().join("run-0")
        }

        fn watch(&self) -> Standstill {
            Standstill::new(self.version, &self.dir(), (self.version, &self.dir())).unwrap()
        }

        fn holds(&self, dir: &Path, bytes: u64, limit: u64) {
            write(dir.join(self.version.memory_held()), format!("{bytes}\n")).unwrap();
            write(dir.join(self.version.memory_limit()), format!("{limit}\n")).unwrap();
        }

        fn counts(&self, files: u64, refaults: u64, major_faults: u64, user_us: u64) {
            let total = if self.version == Version::V1 { "total_" } else { "" };
            let stat = format!(
                "{total}inactive_file {files}\n{total}active_file 0\n{total}workingset_refault_file {refaults}\n\
                 {total}pgmajfault {major_faults}\n"
            );
            write(self.dir().join("memory.stat"), &stat).unwrap();
            write(self.project.path().join("memory.stat"), &stat).unwrap();
            match self.version {
                Version::V1 => write(self.dir().join("cpuacct.usage_user"), format!("{}\n", user_us * 1000)).unwrap(),
                Version::V2 => {
                    write(self.dir().join("cpu.stat"), format!("usage_usec 9\nuser_usec {user_us}\n")).unwrap()
                }
            }
        }
    }

    #[test]
    fn who_reads_the_same_code_again_and_again_stands_still_after_some_looks() {
        for version in [Version::V1, Version::V2] {
            let leaf = Leaf::new(version);
            let mut watch = leaf.watch();
            leaf.holds(&leaf.dir(), 100 * MIB, 100 * MIB);
            let said: Vec<_> = (0..12)
                .map(|look| {
                    leaf.counts(4 * MIB, look * 5000, look * 50, 0);
                    watch.look().unwrap()
                })
                .collect();
            // The first has nothing to compare with.
            let yes: Vec<_> = (0..12).filter(|look| said[*look]).collect();
            assert_eq!(yes, [LOOKS as usize, 2 * LOOKS as usize], "{version:?}");
        }
    }

    #[test]
    fn a_project_that_is_full_makes_its_runs_stand_still() {
        let leaf = Leaf::new(Version::V2);
        let mut watch = leaf.watch();
        leaf.holds(&leaf.dir(), 30 * MIB, 100 * MIB);
        leaf.holds(leaf.project.path(), 199 * MIB, 200 * MIB);
        let mut said = false;
        for look in 0..=u64::from(LOOKS) {
            leaf.counts(4 * MIB, look * 5000, look * 50, 0);
            said = watch.look().unwrap();
        }
        assert!(said);
    }

    #[test]
    fn whoever_lacks_one_of_the_signs_goes_on() {
        // Held, pages of files; refaults, major faults and user time for each look.
        for (why, held, files, [refaults, major, user]) in [
            ("there is room", 90, 4, [5000, 50, 0]),
            ("there are files to give back", 100, 30, [50_000, 50, 0]),
            ("it reads for the first time", 100, 4, [0, 50, 0]),
            ("it has what it reads again", 100, 4, [200, 50, 0]),
            ("it reads files, and its code is there", 100, 4, [50_000, 0, 0]),
            ("it computes", 100, 4, [5000, 50, 1_000_000]),
        ] {
            let leaf = Leaf::new(Version::V2);
            let mut watch = leaf.watch();
            leaf.holds(&leaf.dir(), held * MIB, 100 * MIB);
            for look in 0..10 {
                leaf.counts(files * MIB, look * refaults, look * major, look * user);
                assert!(!watch.look().unwrap(), "{why}");
            }
        }
    }

    #[test]
    fn an_older_kernel_never_says_so() {
        let leaf = Leaf::new(Version::V2);
        let mut watch = leaf.watch();
        leaf.holds(&leaf.dir(), 100 * MIB, 100 * MIB);
        for look in 0..10 {
            leaf.counts(0, 0, 0, 0);
            write(leaf.dir().join("memory.stat"), format!("workingset_refault {}\n", look * 9000)).unwrap();
            assert!(!watch.look().unwrap());
        }
    }
}
