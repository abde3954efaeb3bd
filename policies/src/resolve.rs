//! A chain of policy files -> [`Policy`].
//!
//! Input: the files from the root of `extends` to the one that is asked for; output: a policy in which
//! no rule contradicts another, or every mistake of all files. Does not know where files are kept.

use crate::draft::Draft;
use crate::file::Written;
use crate::limits::{CPU_DEFAULT, Limit, UNLIMITED_DISK_RATE};
use crate::paths::{PROJECT, at_or_below, overlap};
use crate::policy::{Provenance, Rules};
use crate::source::{At, Place};
use crate::{
    Environment, Fault, Filesystem, Layer, Limits, Mistake, Network, NetworkMode, Policy, PolicyError, SyscallProfile,
};
use std::collections::BTreeMap;

/// Variables that policies set take part in the kernel's limit for arguments and environment together.
const MAX_SET_BYTES: usize = 256 << 10;

/// Resolves the last file of `chain`, which extends the one before it, and so on.
///
/// Refused with all mistakes found, in the order of the chain. A network mode `filtered` is one of them.
pub(crate) fn resolve(chain: &[&Written]) -> Result<Policy, PolicyError> {
    let mut draft = Draft::default();
    let mut mistakes = Vec::new();
    for (depth, written) in chain.iter().enumerate() {
        draft.add(written, depth, &mut mistakes);
    }
    let own = chain.last().expect("a chain has at least the file itself");
    // A value that was refused above is missing here, and what is missing contradicts nothing.
    check_filesystem(&draft, own, mistakes.is_empty(), &mut mistakes);
    check_network(&draft, &mut mistakes);
    check_limits(&draft, &mut mistakes);
    let set_bytes: usize = draft.set.iter().map(|(name, value)| name.len() + value.value.len() + 2).sum();
    if set_bytes > MAX_SET_BYTES {
        mistakes.push(own.mistake(Fault::EnvironmentTooLarge { max: MAX_SET_BYTES }));
    }
    if mistakes.is_empty() { Ok(finish(draft, own.name())) } else { Err(PolicyError::Invalid(mistakes)) }
}

fn check_filesystem(draft: &Draft, own: &Written, complete: bool, mistakes: &mut Vec<Mistake>) {
    for mount in &draft.mount {
        if let Some(read) = draft.read.iter().find(|read| overlap(&read.value, &mount.value.at)) {
            let place = later(&mount.place, mount.depth, &read.place, read.depth);
            let fault = Fault::MountOverlap { at: mount.value.at.clone(), other: format!("`read` {}", read.value) };
            mistakes.push(Mistake::new(place, fault));
        }
    }
    if let Some(deny) = draft.deny.iter().find(|deny| at_or_below(PROJECT, &deny.value)) {
        mistakes.push(Mistake::new(deny.place.clone(), Fault::ProjectNotWritable));
    } else if complete && !draft.write.iter().any(|write| at_or_below(PROJECT, &write.value)) {
        mistakes.push(own.mistake(Fault::ProjectNotWritable));
    }
}

fn check_network(draft: &Draft, mistakes: &mut Vec<Mistake>) {
    let mode = draft.mode.as_ref().map_or(NetworkMode::None, |mode| mode.value);
    match &draft.mode {
        Some(at) if mode == NetworkMode::Filtered => {
            mistakes.push(Mistake::new(at.place.clone(), Fault::FilteredUnavailable));
        }
        _ => {
            if let Some(allow) = draft.allow.first() {
                mistakes.push(Mistake::new(allow.place.clone(), Fault::AllowWithoutFilter { mode }));
            }
        }
    }
    let net = draft.require.iter().find(|layer| layer.value == Layer::Net);
    if let (Some(net), Some(mode)) = (net, &draft.mode)
        && mode.value == NetworkMode::Host
    {
        let place = later(&net.place, net.depth, &mode.place, mode.depth);
        mistakes.push(Mistake::new(place, Fault::NetRequiredOnHost));
    }
}

fn check_limits(draft: &Draft, mistakes: &mut Vec<Mistake>) {
    let mut ordered = |small: Limit, large: Limit, fault: fn(String, String) -> Fault| {
        if limit(draft, small) > limit(draft, large) {
            let place = match (draft.limits.get(&small), draft.limits.get(&large)) {
                (Some(a), Some(b)) => later(&a.place, a.depth, &b.place, b.depth),
                (Some(only), None) | (None, Some(only)) => only.place.clone(),
                // The defaults do not contradict each other.
                (None, None) => return,
            };
            let show = |which: Limit| which.unit().show(limit(draft, which));
            mistakes.push(Mistake::new(place, fault(show(small), show(large))));
        }
    };
    ordered(Limit::Timeout, Limit::MaxTimeout, |timeout, max| Fault::TimeoutAboveMax { timeout, max });
    ordered(Limit::Tmp, Limit::Memory, |tmp, memory| Fault::TmpAboveMemory { tmp, memory });
}

/// Where to mend a contradiction: in the file that extends the other one.
fn later(a: &Place, a_depth: usize, b: &Place, b_depth: usize) -> Place {
    if a_depth >= b_depth { a.clone() } else { b.clone() }
}

fn limit(draft: &Draft, which: Limit) -> u64 {
    draft.limits.get(&which).map_or(which.range().default, |at| at.value)
}

fn finish(mut draft: Draft, name: &str) -> Policy {
    // A denial outside of all that is granted any more says nothing.
    let granted: Vec<String> = draft
        .read
        .iter()
        .chain(&draft.write)
        .map(|grant| grant.value.clone())
        .chain(draft.mount.iter().map(|mount| mount.value.at.clone()))
        .collect();
    draft.deny.retain(|deny| granted.iter().any(|grant| at_or_below(&deny.value, grant)));

    let provenance = provenance(&draft);
    let mode = draft.mode.as_ref().map_or(NetworkMode::None, |mode| mode.value);
    let mut require: Vec<Layer> = draft.require.iter().map(|layer| layer.value).collect();
    if mode == NetworkMode::None {
        // Without a network namespace there is no "none", only the host's network.
        require.push(Layer::Net);
    }
    require.sort_unstable();
    require.dedup();
    let count = |which| u32::try_from(limit(&draft, which)).expect("the range of counts lies within u32");
    let rules = Rules {
        name: name.to_owned(),
        description: draft.description.as_ref().map(|text| text.value.clone()).unwrap_or_default(),
        limits: Limits {
            memory_bytes: limit(&draft, Limit::Memory),
            cpu: draft.cpu.as_ref().map_or(CPU_DEFAULT, |cpu| cpu.value),
            pids: count(Limit::Pids),
            disk_bytes: limit(&draft, Limit::Disk),
            disk_rate: Some(limit(&draft, Limit::DiskRate)).filter(|rate| *rate < UNLIMITED_DISK_RATE),
            tmp_bytes: limit(&draft, Limit::Tmp),
            open_files: count(Limit::OpenFiles),
            output_bytes: limit(&draft, Limit::Output),
            timeout_ms: limit(&draft, Limit::Timeout),
            max_timeout_ms: limit(&draft, Limit::MaxTimeout),
        },
        filesystem: Filesystem {
            read: values(draft.read),
            write: values(draft.write),
            deny: values(draft.deny),
            mount: values(draft.mount),
        },
        network: Network { mode, allow: values(draft.allow) },
        syscalls: draft.profile.map_or(SyscallProfile::Default, |profile| profile.value),
        environment: Environment {
            set: draft.set.into_iter().map(|(name, at)| (name, at.value)).collect(),
            pass: values(draft.pass),
        },
        require,
        tests: draft.tests,
    };
    Policy::new(rules, provenance)
}

fn values<T>(list: Vec<At<T>>) -> Vec<T> {
    list.into_iter().map(|at| at.value).collect()
}

fn provenance(draft: &Draft) -> Provenance {
    let mut places = BTreeMap::new();
    let lists = [
        ("filesystem.read", &draft.read),
        ("filesystem.write", &draft.write),
        ("filesystem.deny", &draft.deny),
        ("network.allow", &draft.allow),
        ("environment.pass", &draft.pass),
    ];
    for (rule, list) in lists {
        places.extend(list.iter().map(|at| ((rule, at.value.clone()), at.place.clone())));
    }
    places.extend(draft.mount.iter().map(|mount| (("filesystem.mount", mount.value.at.clone()), mount.place.clone())));
    places.extend(draft.set.iter().map(|(name, at)| (("environment.set", name.clone()), at.place.clone())));
    places.extend(draft.require.iter().map(|at| (("require.layers", at.value.name().to_owned()), at.place.clone())));
    places.extend(draft.limits.iter().map(|(limit, at)| ((limit.rule(), String::new()), at.place.clone())));
    let mut single = |rule, place: Option<&Place>| {
        places.extend(place.map(|place| ((rule, String::new()), place.clone())));
    };
    single("limits.cpu", draft.cpu.as_ref().map(|at| &at.place));
    single("network.mode", draft.mode.as_ref().map(|at| &at.place));
    single("syscalls.profile", draft.profile.as_ref().map(|at| &at.place));
    Provenance::new(places)
}
