//! Compiles the table of system calls into one BPF program.
//!
//! Input: a [`Profile`] and the table in `syscalls.rs`; output: instructions that the launcher loads
//! as they are. One filter gives three answers: allowed, `EPERM` for what is known and forbidden, and
//! `ENOSYS` for what nobody has judged, so that C libraries fall back as on an older kernel. Numbers
//! are found by binary search over ranges of equal answer, because the kernel runs the filter once
//! per number when it is loaded. Loading still costs 0.3 ms, so the program is loaded once, by the
//! launcher, and whatever an init needs to get ready is left open in it; a second, tiny program
//! closes that in each init. The kernel takes the stricter answer of the two. Follows seccomp(2) and
//! the kernel's `userspace-api/seccomp_filter`.

use crate::plan::BpfInstruction;
use crate::syscalls::{Rule, TABLE};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    Default,
    /// Without ptrace, other processes' memory, and user-made filters of packets.
    Strict,
}

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    X86_64,
    Aarch64,
}

impl Architecture {
    pub const THIS: Self = if cfg!(target_arch = "x86_64") { Self::X86_64 } else { Self::Aarch64 };

    /// `AUDIT_ARCH_X86_64`, `AUDIT_ARCH_AARCH64`.
    const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xC000_003E,
            Self::Aarch64 => 0xC000_00B7,
        }
    }
}

/// Forbidden calls that a launcher makes before any program is loaded: the view and the namespaces.
pub const LAUNCHING: &[&str] = &["mount", "umount2", "pivot_root", "sethostname", "clone3", "unshare"];

/// Calls that an init still makes after the launcher's program is loaded: its namespaces and mounts.
pub const ARMING: &[&str] =
    &["unshare", "clone3", "openat2", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "mount_setattr"];

/// The two programs of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// For the launcher; its inits and their commands inherit it.
    pub launcher: Vec<BpfInstruction>,
    /// For each init, on top.
    pub init: Vec<BpfInstruction>,
}

/// x32 calls carry this bit, under the same architecture.
const X32_BIT: u32 = 0x4000_0000;

const RET_ALLOW: u32 = 0x7FFF_0000;
const RET_ERRNO: u32 = 0x0005_0000;

const EPERM: u32 = RET_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = RET_ERRNO | libc::ENOSYS as u32;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;

/// Offset in `struct seccomp_data` of an argument's lower half (both architectures are little-endian).
const fn offset_low(argument: u32) -> u32 {
    16 + 8 * argument
}

/// The programs for a profile on this architecture.
pub fn compile(profile: Profile) -> Programs {
    compile_for(Architecture::THIS, profile)
}

fn compile_for(architecture: Architecture, profile: Profile) -> Programs {
    let needed = |name: &str| ARMING.contains(&name);
    let launcher = TABLE.iter().filter_map(|entry| {
        let rule = if needed(entry.name) { Rule::Allow } else { entry.rule(profile) };
        Some((entry.number_on(architecture)?, rule))
    });
    let init = TABLE.iter().filter(|entry| needed(entry.name));
    let init = init.filter_map(|entry| Some((entry.number_on(architecture)?, entry.rule(profile))));
    Programs {
        launcher: program(architecture, &ranges(launcher.collect(), Rule::Unknown)),
        init: program(architecture, &ranges(init.collect(), Rule::Allow)),
    }
}

/// Refuses other architectures and x32, then searches.
fn program(architecture: Architecture, ranges: &[Range]) -> Vec<BpfInstruction> {
    let mut program = vec![
        op(LOAD, OFFSET_ARCH),
        branch(IF_EQUAL, architecture.audit(), 1, 0),
        op(RETURN, EPERM),
        op(LOAD, OFFSET_NUMBER),
        branch(IF_AT_LEAST, X32_BIT, 0, 1),
        op(RETURN, EPERM),
    ];
    program.extend(search(ranges));
    program
}

/// Consecutive numbers with one answer: from this number up to the next range's.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Range {
    from: u32,
    rule: Rule,
}

fn ranges(mut calls: Vec<(u32, Rule)>, otherwise: Rule) -> Vec<Range> {
    calls.sort_by_key(|call| call.0);
    let mut ranges = vec![Range { from: 0, rule: otherwise }];
    let mut next = 0;
    let mut push = |from: u32, rule: Rule| match ranges.last_mut() {
        Some(last) if last.rule == rule => {}
        Some(last) if last.from == from => last.rule = rule,
        _ => ranges.push(Range { from, rule }),
    };
    for (number, rule) in calls {
        if number > next {
            push(next, otherwise);
        }
        push(number, rule);
        next = number + 1;
    }
    push(next, otherwise);
    ranges
}

/// A binary search; the accumulator holds the number.
fn search(ranges: &[Range]) -> Vec<BpfInstruction> {
    if let [range] = ranges {
        return answer(range.rule);
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let (low, high) = (search(left), search(right));
    let mut code = match u8::try_from(low.len()) {
        Ok(skip) => vec![branch(IF_AT_LEAST, right[0].from, skip, 0)],
        Err(_) => vec![branch(IF_AT_LEAST, right[0].from, 0, 1), op(JUMP, low.len() as u32)],
    };
    code.extend(low);
    code.extend(high);
    code
}

/// The instructions that answer for one rule.
fn answer(rule: Rule) -> Vec<BpfInstruction> {
    match rule {
        Rule::Allow => vec![op(RETURN, RET_ALLOW)],
        Rule::Forbid => vec![op(RETURN, EPERM)],
        Rule::Unknown => vec![op(RETURN, ENOSYS)],
        Rule::ForbidBits { argument, mask } => vec![
            op(LOAD, offset_low(argument)),
            op(AND, mask),
            branch(IF_EQUAL, 0, 0, 1),
            op(RETURN, RET_ALLOW),
            op(RETURN, EPERM),
        ],
        Rule::ForbidBitsIf { argument, mask, when, bits } => vec![
            op(LOAD, offset_low(when)),
            op(AND, bits),
            branch(IF_EQUAL, 0, 3, 0),
            op(LOAD, offset_low(argument)),
            op(AND, mask),
            branch(IF_EQUAL, 0, 0, 1),
            op(RETURN, RET_ALLOW),
            op(RETURN, EPERM),
        ],
        Rule::AllowValues { argument, values } => {
            let mut code = vec![op(LOAD, offset_low(argument))];
            for (index, value) in values.iter().enumerate() {
                let to_allow = (values.len() - index) as u8;
                code.push(branch(IF_EQUAL, *value, to_allow, 0));
            }
            code.extend([op(RETURN, EPERM), op(RETURN, RET_ALLOW)]);
            code
        }
        Rule::ForbidValues { argument, values } => {
            let mut code = vec![op(LOAD, offset_low(argument))];
            for (index, value) in values.iter().enumerate() {
                let to_forbid = (values.len() - index) as u8;
                code.push(branch(IF_EQUAL, *value, to_forbid, 0));
            }
            code.extend([op(RETURN, RET_ALLOW), op(RETURN, EPERM)]);
            code
        }
    }
}

fn op(code: u16, k: u32) -> BpfInstruction {
    BpfInstruction { code, jt: 0, jf: 0, k }
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> BpfInstruction {
    BpfInstruction { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Architecture; 2] = [Architecture::X86_64, Architecture::Aarch64];
    const ARCH: u32 = Architecture::THIS.audit();

    /// What the kernel would answer: a BPF interpreter for the instructions used here.
    fn run(program: &[BpfInstruction], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let load = |offset: u32| match offset {
            OFFSET_NUMBER => number,
            OFFSET_ARCH => arch,
            offset => {
                let argument = arguments[((offset - 16) / 8) as usize];
                if (offset - 16) % 8 == 0 { argument as u32 } else { (argument >> 32) as u32 }
            }
        };
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let i = program[at];
            at += 1;
            match i.code {
                LOAD => accumulator = load(i.k),
                AND => accumulator &= i.k,
                JUMP => at += i.k as usize,
                IF_EQUAL => at += usize::from(if accumulator == i.k { i.jt } else { i.jf }),
                IF_AT_LEAST => at += usize::from(if accumulator >= i.k { i.jt } else { i.jf }),
                RETURN => return i.k,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    /// The kernel takes the stricter answer: of errno and allow, errno.
    fn both(programs: &Programs, arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let launcher = run(&programs.launcher, arch, number, arguments);
        let init = run(&programs.init, arch, number, arguments);
        // Of two errnos the last loaded filter's counts.
        if init == RET_ALLOW { launcher } else { init }
    }

    fn call(profile: Profile, number: libc::c_long, arguments: [u64; 6]) -> u32 {
        both(&compile(profile), ARCH, number as u32, arguments)
    }

    #[test]
    fn every_entry_of_the_table_answers_as_it_says() {
        let profiles = [Profile::Default, Profile::Strict];
        for (on, profile) in BOTH.into_iter().flat_map(|on| profiles.map(|profile| (on, profile))) {
            let program = compile_for(on, profile);
            let both = |program, number, arguments| both(program, on.audit(), number, arguments);
            for entry in TABLE {
                let Some(number) = entry.number_on(on) else { continue };
                let answer = both(&program, number, [0; 6]);
                match entry.rule(profile) {
                    Rule::Allow => assert_eq!(answer, RET_ALLOW, "{}", entry.name),
                    Rule::Forbid => assert_eq!(answer, EPERM, "{}", entry.name),
                    Rule::Unknown => assert_eq!(answer, ENOSYS, "{}", entry.name),
                    Rule::ForbidBits { argument, mask } => {
                        let mut with = [0; 6];
                        with[argument as usize] = u64::from(mask & mask.wrapping_neg());
                        assert_eq!(answer, RET_ALLOW, "{}", entry.name);
                        assert_eq!(both(&program, number, with), EPERM, "{}", entry.name);
                    }
                    Rule::ForbidBitsIf { argument, mask, when, bits } => {
                        let mut with = [0; 6];
                        with[argument as usize] = u64::from(mask);
                        assert_eq!(both(&program, number, with), RET_ALLOW, "{}", entry.name);
                        with[when as usize] = u64::from(bits & bits.wrapping_neg());
                        assert_eq!(both(&program, number, with), EPERM, "{}", entry.name);
                    }
                    Rule::AllowValues { argument, values } => {
                        let mut with = [0; 6];
                        for value in values {
                            with[argument as usize] = u64::from(*value);
                            assert_eq!(both(&program, number, with), RET_ALLOW, "{}", entry.name);
                        }
                        with[argument as usize] = 0x1234_5678;
                        assert_eq!(both(&program, number, with), EPERM, "{}", entry.name);
                    }
                    Rule::ForbidValues { argument, values } => {
                        let mut with = [0; 6];
                        for value in values {
                            // The upper half must not matter: the kernel drops it.
                            with[argument as usize] = u64::from(*value) | 1 << 40;
                            assert_eq!(both(&program, number, with), EPERM, "{}", entry.name);
                        }
                        with[argument as usize] = 0x5401;
                        assert_eq!(both(&program, number, with), RET_ALLOW, "{}", entry.name);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_enosys() {
        for on in BOTH {
            let program = compile_for(on, Profile::Default);
            for number in 0..2_000 {
                if TABLE.iter().all(|entry| entry.number_on(on) != Some(number)) {
                    assert_eq!(both(&program, on.audit(), number, [0; 6]), ENOSYS, "{on:?} {number}");
                }
            }
        }
    }

    #[test]
    fn foreign_architectures_and_x32_are_refused() {
        let program = compile(Profile::Default);
        assert_eq!(both(&program, 0x4000_0003, 1, [0; 6]), EPERM);
        let other =
            if Architecture::THIS == Architecture::X86_64 { Architecture::Aarch64 } else { Architecture::X86_64 };
        assert_eq!(both(&program, other.audit(), 1, [0; 6]), EPERM);
        assert_eq!(both(&program, ARCH, X32_BIT, [0; 6]), EPERM);
        assert_eq!(both(&program, ARCH, X32_BIT | 520, [0; 6]), EPERM);
        assert_eq!(both(&program, ARCH, u32::MAX, [0; 6]), EPERM);
    }

    #[test]
    fn a_setuid_file_cannot_be_made() {
        let create = (libc::O_CREAT | libc::O_WRONLY) as u64;
        assert_eq!(call(Profile::Default, libc::SYS_openat, [0, 0, create, 0o644, 0, 0]), RET_ALLOW);
        assert_eq!(call(Profile::Default, libc::SYS_openat, [0, 0, create, 0o4755, 0, 0]), EPERM);
        assert_eq!(call(Profile::Default, libc::SYS_openat, [0, 0, 0, 0o4755, 0, 0]), RET_ALLOW);
        assert_eq!(call(Profile::Default, libc::SYS_fchmodat, [0, 0, 0o2755, 0, 0, 0]), EPERM);
        assert_eq!(call(Profile::Default, libc::SYS_fchmod, [0, 0o755, 0, 0, 0, 0]), RET_ALLOW);
    }

    #[test]
    fn the_launchers_program_leaves_only_arming_open() {
        let programs = compile(Profile::Default);
        for name in ARMING.iter().chain(LAUNCHING) {
            assert!(TABLE.iter().any(|entry| entry.name == *name), "{name}");
        }
        for entry in TABLE.iter().filter(|entry| !ARMING.contains(&entry.name)) {
            let Some(number) = entry.number() else { continue };
            assert_eq!(run(&programs.init, ARCH, number, [0; 6]), RET_ALLOW, "{}", entry.name);
        }
    }

    #[test]
    fn no_entry_stands_twice_and_each_says_why() {
        for (index, entry) in TABLE.iter().enumerate() {
            assert!(
                TABLE[..index].iter().all(|other| other.name != entry.name
                    && BOTH
                        .iter()
                        .all(|on| other.number_on(*on).is_none() || other.number_on(*on) != entry.number_on(*on))),
                "{}",
                entry.name
            );
            assert!(!entry.why.is_empty(), "{}", entry.name);
        }
    }

    #[test]
    fn the_program_is_small_and_every_path_short() {
        for on in BOTH {
            let program = compile_for(on, Profile::Default);
            assert!(program.launcher.len() < 600, "{on:?} {}", program.launcher.len());
            assert!(program.init.len() < 40, "{on:?} {}", program.init.len());
        }
    }
}
