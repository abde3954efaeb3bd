//! The filter of system calls as the kernel answers it, entry by entry of its table, from inside a sandbox.

use sandbox_launch::seccomp::Profile;
use sandbox_launch::syscalls::{Rule, TABLE};
use sandbox_tests::probe::{all_answered, probe};
use sandbox_tests::{Options, Project, require};
use serde_json::json;

/// Makes each of these calls, with these arguments.
fn answers(project: &Project, calls: &[(String, u32, [u64; 6])]) -> serde_json::Value {
    let calls: Vec<_> = calls.iter().map(|(name, number, arguments)| json!([name, number, arguments])).collect();
    assert!(!calls.is_empty());
    let calls = serde_json::to_string(&calls).expect("JSON");
    probe(
        project,
        &format!("for name, number, arguments in json.loads('{calls}'): seen[name] = call(number, *arguments)"),
    )
}

/// Entries of the table that exist on this processor.
fn entries(profile: Profile) -> impl Iterator<Item = (&'static str, u32, Rule)> {
    TABLE.iter().filter_map(move |entry| Some((entry.name, entry.number()?, entry.rule(profile))))
}

#[test]
fn every_forbidden_call_gives_eperm() {
    require!("python3", "seccomp");
    let tight = "name = 'tight'\nextends = 'default'\n[syscalls]\nprofile = 'strict'\n";
    let daemon = Options::default().policy("tight", tight).start();
    for (policy, profile) in [("default", Profile::Default), ("tight", Profile::Strict)] {
        let forbidden = entries(profile).filter(|(_, _, rule)| *rule == Rule::Forbid);
        let calls: Vec<_> = forbidden.map(|(name, number, _)| (name.to_owned(), number, [0; 6])).collect();
        assert!(calls.len() > 50, "{}", calls.len());
        all_answered(&answers(&daemon.project_of(policy), &calls), &["EPERM"]);
    }
}

#[test]
fn every_forbidden_argument_gives_eperm() {
    require!("python3", "seccomp");
    let with = |index: u32, value: u64| {
        let mut arguments = [0; 6];
        arguments[index as usize] = value;
        arguments
    };
    let mut calls = Vec::new();
    for (name, number, rule) in entries(Profile::Default) {
        let mut add = |arguments: [u64; 6]| calls.push((format!("{name} {arguments:x?}"), number, arguments));
        match rule {
            Rule::Allow | Rule::Forbid | Rule::Unknown => {}
            // Each of the bits by itself.
            Rule::ForbidBits { argument, mask } => {
                (0..32)
                    .map(|bit| 1 << bit)
                    .filter(|bit| mask & bit != 0)
                    .for_each(|bit| add(with(argument, bit.into())));
            }
            Rule::ForbidBitsIf { argument, mask, when, bits } => {
                for bit in (0..32).map(|bit| 1 << bit).filter(|bit| mask & bit != 0) {
                    let mut arguments = with(argument, u64::from(bit));
                    arguments[when as usize] = u64::from(bits);
                    add(arguments);
                }
            }
            Rule::AllowValues { argument, values } => {
                let others = (0..64).filter(|value| !values.contains(value));
                others.chain([0x7FFF_FFFF]).for_each(|value| add(with(argument, value.into())));
            }
            // The kernel looks at the lower half only, so the upper one must not hide it.
            Rule::ForbidValues { argument, values } => {
                values.iter().flat_map(|value| [u64::from(*value), u64::from(*value) | 1 << 40]).for_each(|value| {
                    add(with(argument, value));
                });
            }
        }
    }
    assert!(calls.iter().any(|(name, ..)| name.starts_with("clone ")), "{calls:?}");
    all_answered(&answers(&sandbox_tests::project(), &calls), &["EPERM"]);
}

#[test]
fn unknown_calls_give_enosys() {
    require!("python3", "seccomp");
    let known: Vec<u32> = entries(Profile::Default).map(|(_, number, _)| number).collect();
    // The kernel lets its own two calls for probes past every filter, and kills who makes them anywhere else.
    let probes = if cfg!(target_arch = "x86_64") { 335..337 } else { 0..0 };
    let unknown = (0..1_000).chain([1 << 16, 1 << 29]);
    let unknown = unknown.filter(|number| !known.contains(number) && !probes.contains(number));
    let mut calls: Vec<_> = unknown.map(|number| (number.to_string(), number, [0; 6])).collect();
    let fall_back = entries(Profile::Default).filter(|(_, _, rule)| *rule == Rule::Unknown);
    calls.extend(fall_back.map(|(name, number, _)| (name.to_owned(), number, [0; 6])));
    assert!(calls.iter().any(|(name, ..)| name == "clone3"));
    all_answered(&answers(&sandbox_tests::project(), &calls), &["ENOSYS"]);
}

#[test]
fn every_call_by_the_x32_interface_is_refused() {
    require!("python3", "seccomp", "x86_64");
    let calls: Vec<_> = (0..600).map(|number| (number.to_string(), 0x4000_0000 | number, [0; 6])).collect();
    all_answered(&answers(&sandbox_tests::project(), &calls), &["EPERM"]);
}
