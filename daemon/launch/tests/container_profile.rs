//! `contrib/seccomp.json` lets a container's processes make the calls that a daemon, its launchers and their
//! commands make: what the table of system calls allows, and what launching takes. It is made from that table.

use sandbox_launch::seccomp::{ARMING, LAUNCHING, Profile};
use sandbox_launch::syscalls::{Entry, Rule, TABLE};
use serde_json::{Value, json};
use std::path::Path;

/// As container engines read it; see the OCI runtime specification, `config-linux.md`, "Seccomp".
fn profile() -> Value {
    let launching = |entry: &&Entry| ARMING.contains(&entry.name) || LAUNCHING.contains(&entry.name);
    let rule = |entry: &Entry| entry.rule(Profile::Default);
    let allowed = |entry: &&Entry| match rule(entry) {
        Rule::Forbid => launching(entry),
        // Sockets have a rule of their own; with other arguments the inner filter deals.
        Rule::AllowValues { .. } => !entry.name.starts_with("socket"),
        _ => true,
    };
    let names = |wanted: &dyn Fn(&&Entry) -> bool| -> Vec<&str> {
        TABLE.iter().filter(wanted).map(|entry| entry.name).collect()
    };
    let mut calls = vec![
        json!({ "names": names(&allowed), "action": "SCMP_ACT_ALLOW" }),
        json!({
            "names": names(&|entry| rule(entry) == Rule::Forbid && !launching(entry)),
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": libc::EPERM,
        }),
    ];
    for entry in TABLE.iter().filter(|entry| entry.name.starts_with("socket")) {
        let Rule::AllowValues { argument, values } = rule(entry) else { panic!("{}", entry.name) };
        calls.extend(values.iter().map(|value| {
            json!({
                "names": [entry.name],
                "action": "SCMP_ACT_ALLOW",
                "args": [{ "index": argument, "value": value, "op": "SCMP_CMP_EQ" }],
            })
        }));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::ENOSYS,
        "architectures": [
            "SCMP_ARCH_X86_64",
            // Else who uses these would be killed, where the inner filter says that there is no such call.
            "SCMP_ARCH_X86",
            "SCMP_ARCH_X32",
            "SCMP_ARCH_AARCH64",
            "SCMP_ARCH_ARM",
        ],
        "syscalls": calls,
    })
}

/// `SANDBOX_WRITE_PROFILE=1 cargo test -p sandbox-launch` writes it anew.
#[test]
fn the_profile_of_the_container_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib/seccomp.json");
    let text = serde_json::to_string_pretty(&profile()).expect("JSON") + "\n";
    if std::env::var_os("SANDBOX_WRITE_PROFILE").is_some() {
        std::fs::write(&path, &text).expect("the repository can be written");
    }
    assert_eq!(std::fs::read_to_string(&path).expect("it is there"), text);
}
