//! A project's cgroup: its limits as a whole, the making of its leaves, and their removal.
//!
//! Input: [`Hierarchy`], the names of daemon and project, the policy's limits; output: directories
//! with limits in each tree. What it made, it removes, on drop at the latest; what a dead keeper
//! left in the project's own directory is removed when the next one starts.

use super::leaf::{Leaf, Part};
use super::precedence::Precedence;
use super::probe::{Hierarchy, Site};
use super::throttle::{self, Disk};
use super::{CgroupError, Controller, Version, cpu_quota_us, read, v2};
use sandbox_policy::Limits;
use sandbox_wire::ProjectId;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Processes a project may have beyond its limit: armed inits that wait, and those of its runs.
const WAITING_INITS: u64 = 64;
/// A cgroup can be busy for a moment after its last process has been waited for.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(5);
/// Numbers that may be taken by leaves of a dead keeper with something still running in them.
const MAX_TAKEN_NAMES: u32 = 1000;
/// Up to this much page cache is given back on removal, so that the kernel can forget the cgroup.
/// More is worth keeping: the next run of the project finds it, and under pressure the kernel takes it.
const RECLAIM_BELOW_BYTES: u64 = 32 * 1024 * 1024;

/// A project's directory in each tree, with the project's limits. Dropping it removes it.
#[derive(Debug)]
pub struct ProjectGroup {
    places: Vec<Place>,
    /// What is on the disks whose speed may be limited.
    folders: Vec<PathBuf>,
    /// The highest of all policies in use. A `disk_rate` of 0: no policy has said anything about it yet.
    limits: Mutex<Limits>,
    next_leaf: AtomicU32,
}

#[derive(Debug)]
struct Place {
    version: Version,
    controllers: Vec<Controller>,
    /// Shared by the projects of one daemon.
    base: PathBuf,
    dir: PathBuf,
}

impl ProjectGroup {
    /// Makes `<own cgroup>/<cgroup_name>/<project>` in every usable tree. Without any usable
    /// controller the group is empty: its leaves limit and count nothing. `folders` are those that the project
    /// writes to.
    pub fn create(
        hierarchy: &Hierarchy,
        cgroup_name: &str,
        project: &ProjectId,
        limits: &Limits,
        folders: Vec<PathBuf>,
    ) -> Result<Self, CgroupError> {
        let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=64).contains(&cgroup_name.len()) || !cgroup_name.bytes().all(word) {
            return Err(CgroupError::Name(cgroup_name.to_owned()));
        }
        hierarchy.settle()?;
        // Filled while it is made, so that dropping it after an error removes what there is.
        let present = Mutex::new(Limits { disk_rate: Some(0), ..limits.clone() });
        let mut group = Self { places: Vec::new(), folders, limits: present, next_leaf: AtomicU32::new(0) };
        for site in hierarchy.sites() {
            let place = Place::of(site, cgroup_name, project);
            place.make()?;
            group.places.push(place);
        }
        for place in &group.places {
            place.limit(limits)?;
            if place.controllers.contains(&Controller::Cpu) {
                place.version.driver().share_cpu_equally(&place.dir)?;
            }
        }
        Ok(group)
    }

    /// Raises the project's limits where `limits` are higher.
    pub(super) fn cover(&self, limits: &Limits) -> Result<(), CgroupError> {
        let mut present = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = Limits {
            memory_bytes: present.memory_bytes.max(limits.memory_bytes),
            cpu: present.cpu.max(limits.cpu),
            pids: present.pids.max(limits.pids),
            disk_rate: present.disk_rate.zip(limits.disk_rate).map(|(present, new)| present.max(new)),
            ..present.clone()
        };
        if highest == *present {
            return Ok(());
        }
        // All but the rate, which is written by itself and seldom there.
        if highest != (Limits { disk_rate: highest.disk_rate, ..present.clone() }) {
            self.places.iter().try_for_each(|place| place.limit(&highest))?;
        }
        // Where no policy has asked for a limit there is none to lift, and maybe none to be had.
        let lifts_nothing = (present.disk_rate, highest.disk_rate) == (Some(0), None);
        if highest.disk_rate != present.disk_rate && !lifts_nothing {
            let (place, disks) = self.throttled()?;
            throttle::limit(&place.dir, &disks, highest.disk_rate)?;
        }
        *present = highest;
        Ok(())
    }

    /// Where the speed of disks is limited, made ready for it, and the disks. It is the tree that counts memory, too:
    /// by it the kernel knows whose data it writes back.
    fn throttled(&self) -> Result<(&Place, Vec<Disk>), CgroupError> {
        let has_io = |place: &&Place| {
            place.version == Version::V2
                && place.controllers.contains(&Controller::Memory)
                && v2::available(place.parent()).iter().any(|name| name == Controller::Io.name())
        };
        let place = self.places.iter().find(has_io).ok_or(CgroupError::NoIo)?;
        let disks = throttle::disks_of(&self.folders)?;
        for dir in [place.parent(), &place.base, &place.dir] {
            v2::hand_down(dir, &[Controller::Io])?;
        }
        Ok((place, disks))
    }

    /// A new leaf with these limits, which must be covered by the project's.
    pub(super) fn new_leaf(&self, limits: &Limits) -> Result<Leaf, CgroupError> {
        for _ in 0..MAX_TAKEN_NAMES {
            let name = format!("run-{}", self.next_leaf.fetch_add(1, Ordering::Relaxed));
            let mut parts = Vec::new();
            match self.make_parts(&name, &mut parts) {
                Ok(true) => {
                    if limits.disk_rate.is_some() {
                        let (place, disks) = self.throttled()?;
                        throttle::limit(&place.dir.join(&name), &disks, limits.disk_rate)?;
                    }
                    return Leaf::equip(name, parts, limits);
                }
                // The name is taken in one of the trees.
                Ok(false) => parts.iter().try_for_each(|part: &Part| remove_dir(&part.dir))?,
                Err(error) => return Err(error),
            }
        }
        let path = self.places.first().map_or_else(PathBuf::new, |place| place.dir.clone());
        Err(CgroupError::Create { path, source: ErrorKind::AlreadyExists.into() })
    }

    fn make_parts(&self, name: &str, parts: &mut Vec<Part>) -> Result<bool, CgroupError> {
        for place in &self.places {
            let dir = place.dir.join(name);
            match std::fs::create_dir(&dir) {
                Ok(()) => {
                    parts.push(Part { version: place.version, controllers: place.controllers.clone(), dir });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
                Err(source) => return Err(CgroupError::Create { path: dir, source }),
            }
        }
        Ok(true)
    }

    /// What puts the project behind others that use less of the processors. `None` where the kernel
    /// does not know idle groups, or processor time is not weighed or not counted.
    pub fn precedence(&self) -> Result<Option<Precedence>, CgroupError> {
        let with = |controller| self.places.iter().find(|place| place.controllers.contains(&controller));
        let (Some(weighed), Some(counted)) = (with(Controller::Cpu), with(Controller::CpuAccounting)) else {
            return Ok(None);
        };
        let meter = counted.version.driver().cpu_meter(&counted.dir)?;
        Precedence::new(weighed.version, weighed.dir.clone(), meter)
    }

    /// Host pids of all processes in the project's leaves.
    pub fn pids(&self) -> Vec<u32> {
        let Some(place) = self.places.first() else { return Vec::new() };
        let mut pids = Vec::new();
        for leaf in directories_in(&place.dir) {
            for dir in directories_in(&leaf).into_iter().chain([leaf]) {
                let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                // 0 stands for a process of another pid namespace.
                pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0));
            }
        }
        pids
    }

    /// Removes all directories of the project, and the daemon's if this was its last project. Waits
    /// a quarter of a second at most for each to become empty. May be repeated.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let mut first_error = Ok(());
        for place in &self.places {
            first_error = first_error.and(place.remove());
        }
        first_error
    }
}

impl Drop for ProjectGroup {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "a cgroup stays behind");
        }
    }
}

impl Place {
    fn of(site: &Site, cgroup_name: &str, project: &ProjectId) -> Self {
        let base = site.parent.join(cgroup_name);
        let dir = base.join(project.to_string());
        Self { version: site.version, controllers: site.controllers.clone(), base, dir }
    }

    /// The daemon's own cgroup, or where its supervisor is.
    fn parent(&self) -> &Path {
        self.base.parent().expect("the base is below a parent")
    }

    fn make(&self) -> Result<(), CgroupError> {
        // Another keeper that ends may remove the base between our two steps.
        for _ in 0..REMOVE_TRIES {
            make_unless_there(&self.base)?;
            match self.make_below_base() {
                Err(error) if is_gone(&error) => {}
                other => return other,
            }
        }
        Err(CgroupError::Create { path: self.dir.clone(), source: ErrorKind::NotFound.into() })
    }

    fn make_below_base(&self) -> Result<(), CgroupError> {
        if self.version == Version::V2 {
            v2::hand_down(&self.base, &self.controllers)?;
        }
        make_unless_there(&self.dir)?;
        // Leftovers of a dead keeper; what is still in use stays and keeps its name.
        remove_below(&self.dir, 1);
        if self.version == Version::V2 {
            v2::hand_down(&self.dir, &self.controllers)?;
        }
        Ok(())
    }

    fn limit(&self, limits: &Limits) -> Result<(), CgroupError> {
        let driver = self.version.driver();
        for controller in &self.controllers {
            match controller {
                Controller::Memory => driver.limit_memory(&self.dir, limits.memory_bytes)?,
                Controller::Pids => driver.limit_pids(&self.dir, u64::from(limits.pids) + WAITING_INITS)?,
                Controller::Cpu => driver.limit_cpu(&self.dir, cpu_quota_us(limits.cpu))?,
                Controller::CpuAccounting | Controller::Io => {}
            }
        }
        Ok(())
    }

    fn remove(&self) -> Result<(), CgroupError> {
        if self.controllers.contains(&Controller::Memory) {
            for dir in directories_in(&self.dir) {
                self.give_memory_back(&dir);
            }
        }
        remove_below(&self.dir, REMOVE_TRIES);
        if self.controllers.contains(&Controller::Memory) {
            self.give_memory_back(&self.dir);
        }
        remove_dir(&self.dir)?;
        match std::fs::remove_dir(&self.base) {
            Ok(()) => Ok(()),
            // Another project is there (EBUSY on a cgroup file system), or its keeper was faster.
            Err(error) if matches!(error.kind(), ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(source) => Err(CgroupError::Remove { path: self.base.clone(), source }),
        }
    }

    fn give_memory_back(&self, dir: &Path) {
        let held = read(&dir.join(self.version.memory_held())).ok().and_then(|text| text.parse::<u64>().ok());
        if held.is_some_and(|held| (1..=RECLAIM_BELOW_BYTES).contains(&held)) {
            self.version.driver().reclaim(dir);
        }
    }
}

/// The base has gone while we worked below it.
fn is_gone(error: &CgroupError) -> bool {
    match error {
        CgroupError::Create { source, .. } | CgroupError::Read { source, .. } | CgroupError::Write { source, .. } => {
            source.kind() == ErrorKind::NotFound || source.raw_os_error() == Some(libc::ENODEV)
        }
        _ => false,
    }
}

fn make_unless_there(dir: &Path) -> Result<(), CgroupError> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(CgroupError::Create { path: dir.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

fn directories_in(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let is_dir = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.filter_map(Result::ok).filter(is_dir).map(|entry| entry.path()).collect()
}

/// Removes the leaves in `dir` with what is below them, as far as they are empty. Two levels is all
/// that we ever make.
fn remove_below(dir: &Path, tries: u32) {
    for leaf in directories_in(dir) {
        for below in directories_in(&leaf) {
            // A leaf that is in use cannot be removed; removing the project's directory says so.
            let _ = try_remove(&below, tries);
        }
        let _ = try_remove(&leaf, tries);
    }
}

/// Removes a directory that is or soon will be empty.
pub(super) fn remove_dir(dir: &Path) -> Result<(), CgroupError> {
    try_remove(dir, REMOVE_TRIES).map_err(|source| CgroupError::Remove { path: dir.to_owned(), source })
}

fn try_remove(dir: &Path, tries: u32) -> io::Result<()> {
    let mut tried = 1;
    loop {
        match std::fs::remove_dir(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ResourceBusy && tried < tries => {
                tried += 1;
                std::thread::sleep(REMOVE_PAUSE);
            }
            other => return other,
        }
    }
}
