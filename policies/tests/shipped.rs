//! The shipped policies: each resolves, and says what its users rely on.

use sandbox_policy::{Expectation, Layer, NetworkMode, Origin, Policy, PolicySet, SyscallProfile};
use std::sync::Arc;

const NAMES: [&str; 6] = ["default", "function", "node-build", "offline", "python", "strict"];

fn shipped(name: &str) -> Arc<Policy> {
    PolicySet::shipped().get(name).unwrap_or_else(|error| panic!("{}", error.report(false)))
}

#[test]
fn all_shipped_policies_resolve_and_are_listed() {
    let set = PolicySet::shipped();
    if let Err(error) = set.check() {
        panic!("{}", error.report(false));
    }
    let listed = set.list();
    assert_eq!(listed.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), NAMES);
    for policy in listed {
        assert_eq!(policy.origin, Origin::Shipped);
        assert!(!policy.description.is_empty(), "{}", policy.name);
    }
}

#[test]
fn default_has_no_network_and_the_documented_limits() {
    let policy = shipped("default");
    let limits = policy.limits();
    assert_eq!(policy.network().mode, NetworkMode::None);
    assert_eq!(
        (limits.memory_bytes, limits.cpu, limits.pids, limits.disk_bytes, limits.tmp_bytes),
        (2 << 30, 2.0, 512, 8 << 30, 1 << 30)
    );
    assert_eq!(
        (limits.open_files, limits.output_bytes, limits.timeout_ms, limits.max_timeout_ms),
        (4096, 64 << 20, 120_000, 300_000)
    );
    assert_eq!(policy.filesystem().write, ["/home/user", "/tmp"]);
    assert_eq!(policy.syscalls(), SyscallProfile::Default);
    assert!(policy.require().contains(&Layer::Net));
}

#[test]
fn network_modes_are_none_or_host() {
    for (name, mode) in [
        ("default", NetworkMode::None),
        ("offline", NetworkMode::None),
        ("function", NetworkMode::None),
        ("strict", NetworkMode::None),
        ("node-build", NetworkMode::Host),
        ("python", NetworkMode::Host),
    ] {
        let policy = shipped(name);
        assert_eq!(policy.network().mode, mode, "{name}");
        assert_eq!(policy.require().contains(&Layer::Net), mode == NetworkMode::None, "{name}");
    }
}

#[test]
fn node_build_is_default_and_more() {
    let (default, build) = (shipped("default"), shipped("node-build"));
    assert_eq!(build.environment().set["CI"], "1");
    assert_eq!(build.filesystem().write, default.filesystem().write);
    assert!(default.filesystem().read.iter().all(|path| build.filesystem().read.contains(path)));
    assert!(build.limits().pids >= 1024 && build.limits().memory_bytes >= 4 << 30);
    assert_eq!(build.limits().timeout_ms, default.limits().timeout_ms);
}

#[test]
fn strict_requires_every_layer_and_leaves_the_home_folder_alone() {
    let policy = shipped("strict");
    assert_eq!(policy.require(), Layer::ALL);
    assert_eq!(policy.syscalls(), SyscallProfile::Strict);
    assert_eq!(policy.filesystem().write, ["/home/user/project", "/tmp"]);
}

#[test]
fn no_shipped_policy_opens_what_the_sandbox_writes_itself() {
    for name in NAMES {
        for file in sandbox_policy::COMPOSED {
            assert!(
                !shipped(name).filesystem().read.iter().any(|read| sandbox_policy::at_or_below(file, read)),
                "{name}"
            );
        }
    }
}

#[test]
fn every_shipped_policy_makes_claims_of_both_kinds() {
    for name in NAMES {
        let policy = shipped(name);
        for expect in [Expectation::Allowed, Expectation::Denied] {
            assert!(policy.tests().iter().any(|test| test.expect == expect), "{name}: {expect:?}");
        }
    }
}

#[test]
fn digests_tell_policies_apart_and_survive_a_wire() {
    let mut digests: Vec<String> = NAMES.iter().map(|name| shipped(name).digest()).collect();
    for name in NAMES {
        let policy = shipped(name);
        let text = serde_json::to_string(&*policy).expect("serialises");
        let copy: Policy = serde_json::from_str(&text).expect("deserialises");
        assert_eq!(copy, *policy);
        assert_eq!(copy.digest(), policy.digest());
        assert_eq!(copy.digest().len(), 32);
    }
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), NAMES.len());
}
