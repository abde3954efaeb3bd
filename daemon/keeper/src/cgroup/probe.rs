//! Which controllers this process can use, and where.
//!
//! Input: `/proc/self/mountinfo`, `/proc/self/cgroup` and the cgroup file systems they name; output:
//! [`Hierarchy`]. Only looks: the one thing that changes the host, [`Hierarchy::settle`], is called
//! when a cgroup is really wanted. Follows cgroups(7), cgroup_namespaces(7) and the kernel's
//! `admin-guide/cgroup-v2.rst`.

use super::{CgroupError, Controller, Version, v2};
use crate::mounts::{self, Mount};
use rustix::fs::{Access, AtFlags};
use std::fmt;
use std::path::{Path, PathBuf};

/// What a host has, in one word for the receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    V1,
    V2,
    /// Version 1 controllers beside a mounted version 2 tree.
    Hybrid,
    /// No limit can be set by cgroup.
    None,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Controllers that cannot be used, for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub controllers: Vec<Controller>,
    /// Such as `cgroup /user.slice belongs to another user`.
    pub why: String,
    /// The command that mends it.
    pub mend: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.controllers.iter().map(|controller| controller.name()).collect();
        write!(f, "no cgroup limits by {}: {}; to mend it: {}", names.join(", "), self.why, self.mend)
    }
}

/// One tree in which cgroups will be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) version: Version,
    /// The directory below which the daemon's own sub-tree goes.
    pub(super) parent: PathBuf,
    pub(super) controllers: Vec<Controller>,
    /// This process is in `parent` itself and has to make room first (v2 only).
    crowded: bool,
}

/// The controllers this process can use, each where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    sites: Vec<Site>,
    missing: Vec<Missing>,
    unified_mounted: bool,
}

impl Hierarchy {
    /// Looks at this process's own cgroups. Changes nothing.
    pub fn detect() -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::from_texts(&mounts::own_mounts(), &own, &is_cgroup)
    }

    fn from_texts(mounts: &[Mount], own: &str, is_cgroup: &dyn Fn(&Path, Version) -> bool) -> Self {
        let places = Places { mounts, own: parse_own(own), is_cgroup };
        let mut found = Self {
            sites: Vec::new(),
            missing: Vec::new(),
            unified_mounted: mounts.iter().any(|mount| mount.filesystem == "cgroup2"),
        };
        for controller in Controller::ALL {
            match places.find(controller) {
                Ok((version, parent, crowded)) => found.add(controller, version, parent, crowded),
                Err((why, mend)) => found.lack(controller, why, mend),
            }
        }
        // Counting alone limits nothing.
        if found.sites.iter().all(|site| site.controllers == [Controller::CpuAccounting]) {
            found.sites.clear();
        }
        found
    }

    fn add(&mut self, controller: Controller, version: Version, parent: PathBuf, crowded: bool) {
        // Version 1 controllers that are mounted together share their directories.
        match self.sites.iter_mut().find(|site| site.version == version && site.parent == parent) {
            Some(site) => site.controllers.push(controller),
            None => self.sites.push(Site { version, parent, controllers: vec![controller], crowded }),
        }
    }

    fn lack(&mut self, controller: Controller, why: String, mend: String) {
        match self.missing.iter_mut().find(|missing| missing.why == why) {
            Some(missing) => missing.controllers.push(controller),
            None => self.missing.push(Missing { controllers: vec![controller], why, mend }),
        }
    }

    pub fn kind(&self) -> Kind {
        let has = |version| self.sites.iter().any(|site| site.version == version);
        match (has(Version::V1), has(Version::V2)) {
            (false, false) => Kind::None,
            (false, true) => Kind::V2,
            (true, false) if !self.unified_mounted => Kind::V1,
            (true, _) => Kind::Hybrid,
        }
    }

    pub fn has(&self, controller: Controller) -> bool {
        self.sites.iter().any(|site| site.controllers.contains(&controller))
    }

    /// What cannot be used, with the reason and its mend; empty when all is well.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// Memory, pids and cpu can all be limited.
    pub fn is_complete(&self) -> bool {
        [Controller::Memory, Controller::Pids, Controller::Cpu].into_iter().all(|controller| self.has(controller))
    }

    pub(super) fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Makes the parents ready for cgroups below them; may be repeated. On v2 this process, and no
    /// other, moves into `supervisor` below its own cgroup if it must make room. The daemon calls it
    /// once before it starts keepers, which then start in `supervisor` too.
    pub fn settle(&self) -> Result<(), CgroupError> {
        for site in self.sites.iter().filter(|site| site.version == Version::V2) {
            if site.crowded {
                v2::make_room(&site.parent)?;
            }
            v2::hand_down(&site.parent, &site.controllers)?;
            v2::pass_reserve_on(&site.parent);
        }
        Ok(())
    }
}

/// One line of `/proc/self/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Own {
    /// Empty for version 2.
    controllers: Vec<String>,
    path: PathBuf,
}

fn parse_own(text: &str) -> Vec<Own> {
    let parse_line = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let controllers = controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Some(Own { controllers, path: PathBuf::from(path) })
    };
    text.lines().filter_map(parse_line).collect()
}

/// Where a mount shows the cgroup `own`, if it shows it.
fn locate(mount: &Mount, own: &Path) -> Option<PathBuf> {
    let below = own.strip_prefix(&mount.root).ok()?;
    // A path with `..` starts outside this cgroup namespace.
    let inside = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    inside.then(|| if below.as_os_str().is_empty() { mount.point.clone() } else { mount.point.join(below) })
}

type Why = (String, String);

struct Places<'a> {
    mounts: &'a [Mount],
    own: Vec<Own>,
    is_cgroup: &'a dyn Fn(&Path, Version) -> bool,
}

impl Places<'_> {
    /// The version, parent directory and whether it is crowded; or why not, with the mend.
    fn find(&self, controller: Controller) -> Result<(Version, PathBuf, bool), Why> {
        let name = controller.name();
        let on_v1 = |mount: &Mount| mount.filesystem == "cgroup" && mount.has_super_option(name);
        if self.mounts.iter().any(&on_v1) {
            let own = self.own.iter().find(|own| own.controllers.iter().any(|have| have == name));
            let (dir, read_only) = self.visible(&on_v1, own, Version::V1)?;
            writable(&dir, read_only, Version::V1)?;
            return Ok((Version::V1, dir, false));
        }
        let on_v2 = |mount: &Mount| mount.filesystem == "cgroup2";
        if !self.mounts.iter().any(on_v2) {
            return Err((
                "no cgroup file system with it is mounted".to_owned(),
                "mount -t cgroup2 cgroup2 /sys/fs/cgroup".to_owned(),
            ));
        }
        let own = self.own.iter().find(|own| own.controllers.is_empty());
        let (dir, read_only) = self.visible(&on_v2, own, Version::V2)?;
        let (parent, crowded) = room(&dir)?;
        // Every cgroup of version 2 counts its cpu time.
        let offered = controller == Controller::CpuAccounting || v2::available(&parent).iter().any(|have| have == name);
        if !offered {
            return Err(not_offered(controller, &parent));
        }
        writable(&parent, read_only, Version::V2)?;
        Ok((Version::V2, parent, crowded))
    }

    /// The directory of this process's own cgroup; preferably in a mount that can be written.
    fn visible(
        &self,
        wanted: &dyn Fn(&Mount) -> bool,
        own: Option<&Own>,
        version: Version,
    ) -> Result<(PathBuf, bool), Why> {
        let own = own.map_or_else(|| PathBuf::from("/"), |own| own.path.clone());
        let mut candidates: Vec<_> = self
            .mounts
            .iter()
            .filter(|mount| wanted(mount))
            .filter_map(|mount| Some((locate(mount, &own)?, mount.is_read_only())))
            .filter(|(dir, _)| (self.is_cgroup)(dir, version))
            .collect();
        candidates.sort_by_key(|(_, read_only)| *read_only);
        candidates.into_iter().next().ok_or_else(|| {
            (
                format!("this process's own cgroup {} is not visible in any mount", own.display()),
                "start the container with its own cgroup namespace (docker run --cgroupns=private)".to_owned(),
            )
        })
    }
}

/// The cgroup below which ours go, and whether this process has to leave it first.
fn room(own: &Path) -> Result<(PathBuf, bool), Why> {
    let above = own.parent().filter(|above| above.join("cgroup.subtree_control").exists());
    let (parent, crowded) = match above {
        Some(above) if own.file_name().is_some_and(|name| name == v2::SUPERVISOR) => (above.to_owned(), false),
        _ if v2::is_root(own) => return Ok((own.to_owned(), false)),
        _ => (own.to_owned(), true),
    };
    if v2::is_root(&parent) {
        return Ok((parent, false));
    }
    match v2::others_in(&parent) {
        0 => Ok((parent, crowded)),
        others => {
            Err((format!("{others} other processes are in cgroup {}", parent.display()), scope_command().to_owned()))
        }
    }
}

fn not_offered(controller: Controller, parent: &Path) -> Why {
    let why = format!("cgroup {} has no {controller} controller", parent.display());
    let mend = match parent.parent().filter(|above| above.join("cgroup.subtree_control").exists()) {
        Some(above) if v2::available(above).iter().any(|have| have == controller.name()) => {
            format!("echo +{controller} | sudo tee {}/cgroup.subtree_control", above.display())
        }
        Some(_) => delegate("cpu memory pids"),
        None => format!("boot the kernel with cgroup_enable={controller}"),
    };
    (why, mend)
}

/// How systemd is told to hand controllers to users.
pub(crate) fn delegate(controllers: &str) -> String {
    format!(
        "sudo mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate={controllers}\\n' \
            | sudo tee /etc/systemd/system/user@.service.d/delegate.conf && sudo systemctl daemon-reload, then log in anew"
    )
}

fn scope_command() -> &'static str {
    if rustix::process::geteuid().is_root() {
        "systemd-run --scope -p Delegate=yes sandboxd serve"
    } else {
        "systemd-run --user --scope -p Delegate=yes sandboxd serve"
    }
}

fn writable(dir: &Path, read_only_mount: bool, version: Version) -> Result<(), Why> {
    let allowed = rustix::fs::accessat(rustix::fs::CWD, dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
    match allowed {
        Ok(()) if !read_only_mount => Ok(()),
        Ok(()) | Err(rustix::io::Errno::ROFS) => Err((
            format!("cgroup {} is mounted read-only", dir.display()),
            "start the container with --security-opt writable-cgroups=true (podman: unmask=/sys/fs/cgroup); \
                on a plain host: sudo mount -o remount,rw /sys/fs/cgroup"
                .to_owned(),
        )),
        Err(_) => Err((
            // The same words for every v1 hierarchy, so that one sentence tells them all.
            match version {
                Version::V1 => "this process's own cgroups belong to another user".to_owned(),
                Version::V2 => format!("cgroup {} belongs to another user", dir.display()),
            },
            match version {
                Version::V1 => "for c in memory pids cpu cpuacct; do d=/sys/fs/cgroup/$c/sandboxd; sudo mkdir -p $d; \
                    sudo chown -R $USER $d; echo $$ | sudo tee $d/cgroup.procs; done; sandboxd serve"
                    .to_owned(),
                Version::V2 => scope_command().to_owned(),
            },
        )),
    }
}

/// The directory is really of that file system and not hidden by something mounted on top.
fn is_cgroup(dir: &Path, version: Version) -> bool {
    const CGROUP_SUPER_MAGIC: u64 = 0x0027_e0eb;
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    let magic = match version {
        Version::V1 => CGROUP_SUPER_MAGIC,
        Version::V2 => CGROUP2_SUPER_MAGIC,
    };
    rustix::fs::statfs(dir).is_ok_and(|found| found.f_type as u64 == magic)
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
