//! Many runs, a third of them hostile, and what a daemon holds of the host before and after.

use crate::{Daemon, Project, host};
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// What a daemon and everything that it started hold of the host.
#[derive(Debug, Clone)]
pub struct Holdings {
    pub processes: usize,
    pub descriptors: usize,
    pub namespaces: usize,
    pub mounts: usize,
    pub cgroups: usize,
    pub resident_kib: u64,
    /// Of the whole host: memory groups that the kernel knows, removed ones that still hold pages too.
    pub memory_groups: u64,
    /// Of the whole host: kernel memory that cannot be given back.
    pub slab_kib: u64,
}

impl Holdings {
    pub fn of(daemon: &Daemon) -> Self {
        let family = family(daemon);
        let servers: Vec<u32> = daemon.keepers().into_iter().chain([daemon.pid]).collect();
        Self {
            processes: family.len(),
            descriptors: servers.iter().filter_map(|pid| host::descriptors(*pid)).map(|fds| fds.len()).sum(),
            namespaces: namespaces(&family).len(),
            mounts: host::mounts().iter().filter(|line| line.contains(&*daemon.root().to_string_lossy())).count(),
            cgroups: daemon.cgroups().len(),
            resident_kib: servers.iter().filter_map(|pid| host::status_kib(*pid, "VmRSS")).sum(),
            memory_groups: memory_groups(),
            slab_kib: host::meminfo_kib("SUnreclaim").unwrap_or_default(),
        }
    }

    /// What has grown by more than runs at the same time explain. Pools grow to the largest number of runs at
    /// once, a dozen descriptors and four cgroups for each; a leak grows with the runs.
    pub fn grown_since(&self, before: &Self) -> Vec<&'static str> {
        let grown = [
            ("processes", self.processes > before.processes + 12),
            ("descriptors", self.descriptors > before.descriptors + 120),
            ("namespaces", self.namespaces > before.namespaces + 40),
            ("mounts", self.mounts > before.mounts),
            ("cgroups", self.cgroups > before.cgroups + 48),
            ("resident memory", self.resident_kib > before.resident_kib + 24 * 1024),
        ];
        grown.into_iter().filter(|(_, grown)| *grown).map(|(name, _)| name).collect()
    }

    /// The same of what the kernel holds for all of its host, which counts only where nobody else is busy meanwhile.
    /// A group that is removed but still held costs some 50 KiB.
    pub fn host_grown_since(&self, before: &Self) -> Vec<&'static str> {
        let grown = [
            ("memory groups of the host", self.memory_groups > before.memory_groups + 100),
            ("slab of the host", self.slab_kib > before.slab_kib + 24 * 1024),
        ];
        grown.into_iter().filter(|(_, grown)| *grown).map(|(name, _)| name).collect()
    }
}

impl fmt::Display for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} processes, {} descriptors, {} namespaces, {} mounts, {} cgroups, {} KiB resident; \
             host: {} memory groups, {} KiB slab",
            self.processes,
            self.descriptors,
            self.namespaces,
            self.mounts,
            self.cgroups,
            self.resident_kib,
            self.memory_groups,
            self.slab_kib
        )
    }
}

/// The daemon, its keepers, everything below them, and what is in their sandboxes.
pub fn family(daemon: &Daemon) -> Vec<u32> {
    let mut family = host::family(daemon.pid);
    family.extend(daemon.inside());
    for keeper in daemon.keepers() {
        family.extend(host::family(keeper));
    }
    family.sort_unstable();
    family.dedup();
    family
}

fn namespaces(processes: &[u32]) -> BTreeSet<PathBuf> {
    let of = |pid: &u32| fs::read_dir(format!("/proc/{pid}/ns")).into_iter().flatten().flatten();
    processes.iter().flat_map(of).filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

/// `/proc/cgroups` counts them whatever the version of the hierarchy.
fn memory_groups() -> u64 {
    let text = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let memory = text.lines().find_map(|line| line.strip_prefix("memory\t"));
    memory.and_then(|rest| rest.split('\t').nth(1)?.parse().ok()).unwrap_or_default()
}

/// `count` runs, shared among the projects, at the same time.
pub fn runs(projects: &[Project], count: usize, marker: &str) {
    std::thread::scope(|scope| {
        for (thread, project) in projects.iter().enumerate() {
            scope.spawn(move || (0..count / projects.len()).for_each(|number| run(project, number + thread, marker)));
        }
    });
    // What was left behind on purpose has its time to go.
    std::thread::sleep(Duration::from_millis(1500));
}

/// Every third run is up to something.
fn run(project: &Project, number: usize, marker: &str) {
    let hostile = [
        format!("i=0; while [ $i -lt 30 ]; do sleep {marker} & i=$((i+1)); done; exit 1"),
        format!(
            "(setsid sleep {marker} >/dev/null 2>&1 </dev/null &) ; (setsid sh -c 'trap \"\" TERM HUP; sleep {marker}' &)"
        ),
        "kill -STOP -1; kill -9 -1; kill -9 $$".to_owned(),
        format!("exec <&- >&- 2>&-; sleep {marker} & :"),
        format!("trap '' TERM INT; sleep {marker} & while :; do sleep {marker}; done"),
        "head -c 3000000 /dev/zero; kill -SEGV $$".to_owned(),
        format!("i=0; while [ $i -lt 200 ]; do : > /tmp/f$i; i=$((i+1)); done; rm -f /tmp/f*; sleep {marker} &"),
    ];
    let body = if number.is_multiple_of(3) {
        json!({"command": hostile[(number / 3) % hostile.len()], "timeout_ms": 250})
    } else if number % 3 == 1 {
        json!({"command": "echo hi; exit 3"})
    } else {
        json!({"command": ["true"], "cwd": "/tmp", "env": {"A": "b"}, "stdin": "input"})
    };
    let reply = project.call(&body);
    assert_eq!(reply.status, 200, "{body}: {}", reply.text());
    // Some go away before the answer comes.
    if number % 25 == 7 {
        let text = json!({"command": format!("sleep {marker}")}).to_string();
        let request = project.client.request("POST", &project.path("/run"), &[], text.as_bytes());
        let mut connection = crate::http::Connection::open(&project.client.address).expect("it listens");
        connection.send(&request).expect("sent");
    }
}
