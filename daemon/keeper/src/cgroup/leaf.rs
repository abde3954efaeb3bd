//! One run's cgroup: how its init joins, and what the run used.
//!
//! Input: a leaf directory in each tree of the project; output: descriptors to join through and
//! [`LeafUsage`]. A leaf serves one run after another, so every figure is a difference to when the
//! run began; a figure that cannot be told from those of earlier runs is `None`.
//!
//! A removed memory cgroup stays in the kernel while page cache is charged to it, which is why
//! leaves are used again. A pids cgroup has nothing charged to it once it is empty, and its peak
//! cannot be reset; so the part of a leaf that counts processes is made anew after a run that had
//! more than one. On v2 that part is a directory of its own, `tasks`, below the limits on memory.

use super::meter::{Counter, CpuMeter, MemoryCounts, MemoryMeter, PeakSince};
use super::{CgroupError, Controller, Driver, Standstill, Version, cpu_quota_us, v2};
use rustix::fd::OwnedFd;
use sandbox_policy::Limits;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

/// The init is in the leaf too and counts as a process, but not as one of the run's.
const INIT: u64 = 1;
/// Fewer processes than an init and its command no run has.
const LEAST: u64 = INIT + 1;

/// What a run used, since [`Leaf::begin`]. `None`: this host cannot tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeafUsage {
    /// Of all processes that were in the leaf, ended or not.
    pub cpu_usec: Option<u64>,
    /// Including the run's page cache and files on tmpfs, excluding what earlier runs left charged.
    pub memory_peak_bytes: Option<u64>,
    /// The run's processes and threads, without its init.
    pub pids_peak: Option<u64>,
    /// Processes the kernel killed because a memory limit was reached.
    pub oom_kills: u64,
    /// Forks the kernel refused because the limit on processes was reached.
    pub pids_limit_hits: u64,
}

/// A leaf's directory in one tree.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) version: Version,
    pub(super) controllers: Vec<Controller>,
    pub(super) dir: PathBuf,
}

impl Part {
    fn has(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }

    /// Where processes are: on v2 a directory below, so that it can be replaced.
    fn tasks_dir(&self) -> PathBuf {
        match self.version {
            Version::V2 if self.has(Controller::Pids) => self.dir.join("tasks"),
            _ => self.dir.clone(),
        }
    }

    /// Nothing but the number of processes is kept in the tasks directory.
    fn is_replaceable(&self) -> bool {
        self.version == Version::V2 || self.controllers == [Controller::Pids]
    }

    fn driver(&self) -> &'static dyn Driver {
        self.version.driver()
    }
}

/// The cgroup of one run at a time.
#[derive(Debug)]
pub struct Leaf {
    name: String,
    parts: Vec<Part>,
    /// One for each part, in the same order.
    joins: Vec<OwnedFd>,
    cpu: Option<CpuMeter>,
    memory: Option<MemoryMeter>,
    pids: Option<PidsMeter>,
    /// Charged before the present run, by earlier ones.
    left_behind: u64,
    began: Began,
}

#[derive(Debug)]
struct PidsMeter {
    part: usize,
    limit: u64,
    now: Counter,
    peak: Option<Counter>,
    events: Counter,
}

#[derive(Debug)]
struct Began {
    cpu_usec: u64,
    memory: MemoryCounts,
    memory_peak: PeakSince,
    pids_peak: Option<u64>,
    pids_limit_hits: u64,
}

impl Leaf {
    /// The directories exist, are empty of processes, and belong to the leaf.
    pub(super) fn equip(name: String, parts: Vec<Part>, limits: &Limits) -> Result<Self, CgroupError> {
        let mut leaf = Self {
            name,
            parts,
            joins: Vec::new(),
            cpu: None,
            memory: None,
            pids: None,
            left_behind: 0,
            began: Began {
                cpu_usec: 0,
                memory: MemoryCounts::default(),
                memory_peak: PeakSince::Unknown,
                pids_peak: None,
                pids_limit_hits: 0,
            },
        };
        for (index, part) in leaf.parts.iter().enumerate() {
            let driver = part.driver();
            if part.has(Controller::Memory) {
                driver.limit_memory(&part.dir, limits.memory_bytes)?;
                leaf.memory = Some(driver.memory_meter(&part.dir)?);
            }
            if part.has(Controller::Cpu) {
                driver.limit_cpu(&part.dir, cpu_quota_us(limits.cpu))?;
            }
            if part.has(Controller::CpuAccounting) {
                leaf.cpu = Some(driver.cpu_meter(&part.dir)?);
            }
            if part.has(Controller::Pids) {
                leaf.pids = Some(PidsMeter::make(part, index, u64::from(limits.pids) + INIT)?);
            }
            leaf.joins.push(open_join(part)?);
        }
        Ok(leaf)
    }

    /// Such as `run-3`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Write-only, close-on-exec: a process that writes `0` into each is in the leaf, and so is
    /// whatever it starts. The writer must have one thread. The rights are those of whoever opened
    /// them, so a process with other ids, in a user namespace of its own, can use them. Valid until
    /// the leaf goes back to its pool. Empty when the host has no usable controller.
    pub fn join_fds(&self) -> &[OwnedFd] {
        &self.joins
    }

    /// From here on usage counts. Called when the init waits for its command, or as late as when
    /// the command starts.
    pub fn begin(&mut self) -> Result<(), CgroupError> {
        if let Some(memory) = &mut self.memory {
            self.began.memory = memory.counts()?;
            self.began.memory_peak = memory.begin_peak()?;
        }
        if let Some(cpu) = &self.cpu {
            self.began.cpu_usec = cpu.microseconds()?;
        }
        if let Some(pids) = &self.pids {
            self.began.pids_peak = pids.peak()?;
            self.began.pids_limit_hits = pids.limit_hits()?;
        }
        Ok(())
    }

    /// What was used since [`begin`](Self::begin): a handful of reads, no allocation.
    pub fn usage(&self) -> Result<LeafUsage, CgroupError> {
        let mut usage = LeafUsage::default();
        if let Some(cpu) = &self.cpu {
            usage.cpu_usec = Some(cpu.microseconds()?.saturating_sub(self.began.cpu_usec));
        }
        if let Some(memory) = &self.memory {
            let counts = memory.counts()?;
            usage.oom_kills = counts.oom_kills.saturating_sub(self.began.memory.oom_kills);
            // At its limit the leaf gave up page cache of earlier runs to make room, and then all
            // that it holds is the run's; below the limit that cache is still there.
            let limit_was_hit = counts.limit_hits > self.began.memory.limit_hits;
            let left_behind = if limit_was_hit { 0 } else { self.left_behind };
            let peak = memory.peak(self.began.memory_peak)?;
            usage.memory_peak_bytes = peak.map(|peak| peak.saturating_sub(left_behind));
        }
        if let Some(pids) = &self.pids {
            usage.pids_limit_hits = pids.limit_hits()?.saturating_sub(self.began.pids_limit_hits);
            usage.pids_peak = self.own_pids_peak(pids.peak()?);
        }
        Ok(usage)
    }

    /// Watches whether the run gets anywhere; `None` where memory or processor time is not counted.
    pub(crate) fn standstill(&self) -> Option<Standstill> {
        let with = |controller| self.parts.iter().find(|part| part.has(controller));
        let (memory, processors) = (with(Controller::Memory)?, with(Controller::CpuAccounting)?);
        Standstill::new(memory.version, &memory.dir, (processors.version, &processors.dir))
    }

    /// The peak of the directory's life is the run's if it rose during the run, or if it never was
    /// higher than what every run has: the init and the command.
    fn own_pids_peak(&self, now: Option<u64>) -> Option<u64> {
        let (now, before) = (now?, self.began.pids_peak?);
        (now > before || before <= LEAST).then(|| now.saturating_sub(INIT).max(1))
    }

    /// No process is in it, not even an ended one that nobody has waited for.
    pub fn is_empty(&self) -> Result<bool, CgroupError> {
        match &self.pids {
            Some(pids) => Ok(pids.now.number()? == 0),
            None => Ok(self.pids()?.is_empty()),
        }
    }

    /// Processes and threads in it besides its init; `None` without the controller that counts them.
    pub fn others(&self) -> Option<u64> {
        self.pids.as_ref()?.now.number().ok().map(|now| now.saturating_sub(INIT))
    }

    /// Its processes, as the keeper's own pid namespace numbers them.
    pub fn pids(&self) -> Result<Vec<u32>, CgroupError> {
        let Some(part) = self.parts.first() else { return Ok(Vec::new()) };
        let path = part.tasks_dir().join("cgroup.procs");
        // Opened each time: on v1 a descriptor that stays open may answer from a list a second old.
        let text = super::read(&path)?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect())
    }

    /// Makes the empty leaf ready for the next run. On an error the leaf must not be used again.
    pub(super) fn renew(&mut self) -> Result<(), CgroupError> {
        if let Some(pids) = &self.pids {
            let part = &self.parts[pids.part];
            // A peak higher than what every run has would hide the next run's.
            let hides_next = |peak| peak > LEAST;
            if part.is_replaceable() && pids.peak()?.is_some_and(hides_next) {
                super::group::remove_dir(&part.tasks_dir())?;
                make_dir(&part.tasks_dir())?;
                let (index, limit) = (pids.part, pids.limit);
                self.pids = Some(PidsMeter::make(&self.parts[index], index, limit)?);
                self.joins[index] = open_join(&self.parts[index])?;
            }
        }
        if let Some(memory) = &self.memory {
            self.left_behind = memory.held()?;
        }
        Ok(())
    }
}

impl PidsMeter {
    fn make(part: &Part, index: usize, limit: u64) -> Result<Self, CgroupError> {
        let dir = part.tasks_dir();
        if dir != part.dir && !dir.exists() {
            v2::hand_down(&part.dir, &[Controller::Pids])?;
            make_dir(&dir)?;
        }
        part.driver().limit_pids(&dir, limit)?;
        Ok(Self {
            part: index,
            limit,
            now: Counter::open(&dir.join("pids.current"))?,
            peak: Counter::open_if_present(&dir.join("pids.peak"))?,
            events: Counter::open(&dir.join("pids.events"))?,
        })
    }

    fn peak(&self) -> Result<Option<u64>, CgroupError> {
        self.peak.as_ref().map(Counter::number).transpose()
    }

    fn limit_hits(&self) -> Result<u64, CgroupError> {
        Ok(self.events.keys(["max"])?[0].unwrap_or_default())
    }
}

fn open_join(part: &Part) -> Result<OwnedFd, CgroupError> {
    let path = part.tasks_dir().join(part.driver().join_file());
    match OpenOptions::new().write(true).open(&path) {
        Ok(file) => Ok(file.into()),
        Err(source) => Err(CgroupError::Open { path, source }),
    }
}

fn make_dir(dir: &Path) -> Result<(), CgroupError> {
    std::fs::create_dir(dir).map_err(|source| CgroupError::Create { path: dir.to_owned(), source })
}
