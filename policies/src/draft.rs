//! The values of a chain of policy files, merged: later files replace single values and add to lists.
//!
//! Input: [`Written`] files, the root of `extends` first; output: a [`Draft`] in which every value is
//! well-formed, in range, and knows its place. Contradictions between values are judged in `resolve`,
//! except those of grants and denials, which depend on who said what first.

use crate::file::{EnvironmentFile, FilesystemFile, LimitsFile, NetworkFile, Written};
use crate::limits::{CPU_MAX, CPU_MIN, Limit, Range};
use crate::paths::{SandboxPath, at_or_below, kept_by_sandbox, kept_from_host, overlap};
use crate::source::{At, Place, Source};
use crate::variables::{is_reserved, is_variable_name, looks_secret};
use crate::{EgressRule, Fault, Layer, Mistake, Mount, MountMode, NetworkMode, PathFault, PolicyTest, SyscallProfile};
use std::collections::BTreeMap;
use std::sync::Arc;
use toml::Spanned;

/// Kernel limit of one argument or variable with its NUL (MAX_ARG_STRLEN, execve(2)).
const MAX_VALUE: usize = 131_072;

#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) description: Option<At<String>>,
    pub(crate) read: Vec<At<String>>,
    pub(crate) write: Vec<At<String>>,
    pub(crate) deny: Vec<At<String>>,
    pub(crate) mount: Vec<At<Mount>>,
    pub(crate) mode: Option<At<NetworkMode>>,
    pub(crate) allow: Vec<At<String>>,
    pub(crate) limits: BTreeMap<Limit, At<u64>>,
    pub(crate) cpu: Option<At<f64>>,
    pub(crate) profile: Option<At<SyscallProfile>>,
    pub(crate) set: BTreeMap<String, At<String>>,
    pub(crate) pass: Vec<At<String>>,
    pub(crate) require: Vec<At<Layer>>,
    pub(crate) tests: Vec<PolicyTest>,
}

/// One file while it is added: where it stands, and what is wrong with it.
struct Reader<'a> {
    source: &'a Arc<Source>,
    depth: usize,
    mistakes: &'a mut Vec<Mistake>,
}

impl Reader<'_> {
    fn at<S, T>(&self, written: &Spanned<S>, value: T) -> At<T> {
        At { value, place: Place::new(self.source, written.span()), depth: self.depth }
    }

    fn fail<S>(&mut self, written: &Spanned<S>, fault: Fault) {
        self.mistakes.push(Mistake::new(Place::new(self.source, written.span()), fault));
    }

    fn path(&mut self, written: &Spanned<String>, parsed: Result<SandboxPath, PathFault>) -> Option<At<String>> {
        match parsed {
            Ok(path) => Some(self.at(written, path.into())),
            Err(why) => {
                self.fail(written, Fault::Path { path: written.get_ref().clone(), why });
                None
            }
        }
    }

    /// Well-formed paths that `judge` has nothing against.
    fn paths(&mut self, list: &[Spanned<String>], judge: impl Fn(&str) -> Option<Fault>) -> Vec<At<String>> {
        let mut good = Vec::with_capacity(list.len());
        for written in list {
            let Some(path) = self.path(written, SandboxPath::parse(written.get_ref())) else { continue };
            match judge(&path.value) {
                Some(fault) => self.fail(written, fault),
                None => good.push(path),
            }
        }
        good
    }
}

impl Draft {
    /// Adds a file that extends all files added before.
    pub(crate) fn add(&mut self, written: &Written, depth: usize, mistakes: &mut Vec<Mistake>) {
        let file = &written.file;
        let mut reader = Reader { source: &written.source, depth, mistakes };
        // A child's description is its own: the parent's would be wrong.
        self.description = file.description.as_ref().map(|text| reader.at(text, text.get_ref().clone()));
        self.add_filesystem(&file.filesystem, &mut reader);
        self.add_network(&file.network, &mut reader);
        self.add_limits(&file.limits, &mut reader);
        if let Some(profile) = &file.syscalls.profile {
            self.profile = Some(reader.at(profile, *profile.get_ref()));
        }
        self.add_environment(&file.environment, &mut reader);
        for layer in &file.require.layers {
            let layer = reader.at(layer, *layer.get_ref());
            push_new(&mut self.require, layer);
        }
        self.tests.clear();
        for test in &file.tests {
            let command = test.command.get_ref();
            if command.trim().is_empty() || command.contains('\0') {
                reader.fail(&test.command, Fault::TestCommand);
            }
            self.tests.push(PolicyTest { command: command.clone(), expect: test.expect });
        }
    }

    fn add_filesystem(&mut self, file: &FilesystemFile, reader: &mut Reader<'_>) {
        let reads = reader.paths(&file.read, |path| {
            let why = kept_from_host(path).or_else(|| kept_by_sandbox(path))?;
            Some(Fault::Reserved { list: "read", path: path.to_owned(), why })
        });
        let writes = reader.paths(&file.write, |path| {
            let inside = at_or_below(path, crate::HOME) || at_or_below(path, "/tmp");
            (!inside).then(|| Fault::WriteOutside { path: path.to_owned() })
        });
        let mounts: Vec<At<Mount>> = file.mount.iter().filter_map(|written| mount(written, reader)).collect();
        let denies = reader.paths(&file.deny, |_| None);

        for (list, grants) in [("read", &reads), ("write", &writes)] {
            for grant in grants {
                self.refuse_below_deny(list, grant, &denies, reader);
            }
        }
        for grant in &mounts {
            let at = At { value: grant.value.at.clone(), place: grant.place.clone(), depth: grant.depth };
            self.refuse_below_deny("mount", &at, &denies, reader);
        }
        reads.into_iter().for_each(|path| push_new(&mut self.read, path));
        writes.into_iter().for_each(|path| push_new(&mut self.write, path));
        for mount in mounts {
            self.add_mount(mount, reader);
        }
        for deny in denies {
            self.add_deny(deny, reader);
        }
    }

    /// A grant below a denial of this or an earlier file has no effect; whoever wrote it expects one.
    fn refuse_below_deny(&self, list: &'static str, grant: &At<String>, own: &[At<String>], reader: &mut Reader<'_>) {
        let Some(deny) = self.deny.iter().chain(own).find(|deny| at_or_below(&grant.value, &deny.value)) else {
            return;
        };
        let fault = if deny.depth == grant.depth && deny.value == grant.value {
            Fault::GrantedAndDenied { path: grant.value.clone() }
        } else {
            let (path, deny, at) = (grant.value.clone(), deny.value.clone(), deny.place.short());
            Fault::GrantBelowDeny { list, path, deny, at }
        };
        reader.mistakes.push(Mistake::new(grant.place.clone(), fault));
    }

    fn add_mount(&mut self, mount: At<Mount>, reader: &mut Reader<'_>) {
        let other = self.mount.iter().find(|other| overlap(&other.value.at, &mount.value.at));
        if let Some(other) = other.filter(|other| other.value != mount.value) {
            let (at, other) = (mount.value.at, format!("the mount at {}", other.value.at));
            reader.mistakes.push(Mistake::new(mount.place, Fault::MountOverlap { at, other }));
        } else if other.is_none() {
            self.mount.push(mount);
        }
    }

    /// Grants of earlier files at or below the denied path end here: that is how a file narrows what it
    /// extends.
    fn add_deny(&mut self, deny: At<String>, reader: &mut Reader<'_>) {
        let grants = self.read.iter().chain(&self.write).map(|grant| &grant.value);
        let mut granted = grants.chain(self.mount.iter().map(|mount| &mount.value.at));
        if !granted.any(|grant| overlap(grant, &deny.value)) {
            reader.mistakes.push(Mistake::new(deny.place, Fault::DenyUngranted { path: deny.value }));
            return;
        }
        let stays = |path: &str, depth: usize| depth == deny.depth || !at_or_below(path, &deny.value);
        self.read.retain(|grant| stays(&grant.value, grant.depth));
        self.write.retain(|grant| stays(&grant.value, grant.depth));
        self.mount.retain(|mount| stays(&mount.value.at, mount.depth));
        push_new(&mut self.deny, deny);
    }

    fn add_network(&mut self, file: &NetworkFile, reader: &mut Reader<'_>) {
        if let Some(mode) = &file.mode {
            self.mode = Some(reader.at(mode, *mode.get_ref()));
            // What an earlier file allowed has no meaning in a mode without a filter.
            if *mode.get_ref() != NetworkMode::Filtered {
                self.allow.clear();
            }
        }
        for written in &file.allow {
            match written.get_ref().parse::<EgressRule>() {
                Ok(rule) => {
                    let rule = reader.at(written, rule.to_string());
                    push_new(&mut self.allow, rule);
                }
                Err(why) => reader.fail(written, Fault::Egress { rule: written.get_ref().clone(), why }),
            }
        }
    }

    fn add_limits(&mut self, file: &LimitsFile, reader: &mut Reader<'_>) {
        let written = [
            (Limit::Memory, &file.memory),
            (Limit::Pids, &file.pids),
            (Limit::Disk, &file.disk),
            (Limit::DiskRate, &file.disk_rate),
            (Limit::Tmp, &file.tmp),
            (Limit::OpenFiles, &file.open_files),
            (Limit::Output, &file.output),
            (Limit::Timeout, &file.timeout),
            (Limit::MaxTimeout, &file.max_timeout),
        ];
        for (limit, quantity) in written {
            let Some(quantity) = quantity else { continue };
            let (key, unit, Range { min, max, .. }) = (limit.key(), limit.unit(), limit.range());
            let given = quantity.get_ref().to_string();
            match unit.read(quantity.get_ref()) {
                Err(why) => reader.fail(quantity, Fault::Quantity { key, given, why, example: unit.example() }),
                Ok(value) if !(min..=max).contains(&value) => {
                    reader.fail(quantity, Fault::Range { key, given, min: unit.show(min), max: unit.show(max) });
                }
                Ok(value) => {
                    self.limits.insert(limit, reader.at(quantity, value));
                }
            }
        }
        if let Some(cpu) = &file.cpu {
            // Also refuses NaN, which lies in no range.
            if (CPU_MIN..=CPU_MAX).contains(cpu.get_ref()) {
                self.cpu = Some(reader.at(cpu, *cpu.get_ref()));
            } else {
                let (min, max) = (CPU_MIN.to_string(), CPU_MAX.to_string());
                reader.fail(cpu, Fault::Range { key: "cpu", given: cpu.get_ref().to_string(), min, max });
            }
        }
    }

    fn add_environment(&mut self, file: &EnvironmentFile, reader: &mut Reader<'_>) {
        for (name, value) in &file.set {
            let key = name.get_ref();
            if !is_variable_name(key) {
                reader.fail(name, Fault::VariableName { name: key.clone() });
            } else if is_reserved(key) {
                reader.fail(name, Fault::VariableReserved { name: key.clone() });
            } else if value.get_ref().contains('\0') {
                reader.fail(value, Fault::VariableValue { name: key.clone(), why: "contains a NUL byte" });
            } else if key.len() + value.get_ref().len() + 2 > MAX_VALUE {
                reader.fail(value, Fault::VariableValue { name: key.clone(), why: "is longer than the kernel takes" });
            } else {
                self.pass.retain(|passed| passed.value != *key);
                self.set.insert(key.clone(), reader.at(name, value.get_ref().clone()));
            }
        }
        for name in &file.pass {
            let key = name.get_ref();
            if !is_variable_name(key) {
                reader.fail(name, Fault::VariableName { name: key.clone() });
            } else if is_reserved(key) {
                reader.fail(name, Fault::VariableReserved { name: key.clone() });
            } else if looks_secret(key) {
                reader.fail(name, Fault::VariableSecret { name: key.clone() });
            } else if file.set.keys().any(|set| set.get_ref() == key) {
                reader.fail(name, Fault::SetAndPassed { name: key.clone() });
            } else {
                self.set.remove(key);
                let name = reader.at(name, key.clone());
                push_new(&mut self.pass, name);
            }
        }
    }
}

fn mount(written: &Spanned<crate::MountFile>, reader: &mut Reader<'_>) -> Option<At<Mount>> {
    let file = written.get_ref();
    let host = reader.path(&file.host, SandboxPath::parse_host(file.host.get_ref()));
    let at = reader.path(&file.at, SandboxPath::parse(file.at.get_ref()));
    let (host, at) = (host?.value, at?.value);
    if let Some(mode) = &file.mode
        && *mode.get_ref() == MountMode::Rw
    {
        reader.fail(mode, Fault::MountWritable { at });
        return None;
    }
    if let Some(why) = kept_from_host(&host) {
        reader.fail(&file.host, Fault::Reserved { list: "mount.host", path: host, why });
        return None;
    }
    if let Some(why) = kept_from_host(&at).map(|_| "it belongs to the sandbox").or_else(|| kept_by_sandbox(&at)) {
        reader.fail(&file.at, Fault::Reserved { list: "mount.at", path: at, why });
        return None;
    }
    Some(reader.at(written, Mount { host, at, mode: MountMode::Ro }))
}

/// The first place that says something is its origin.
fn push_new<T: PartialEq>(list: &mut Vec<At<T>>, item: At<T>) {
    if !list.iter().any(|known| known.value == item.value) {
        list.push(item);
    }
}
