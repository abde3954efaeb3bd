//! Which project gets a processor first: one that computes for long steps behind those that do not.
//!
//! Input: a project's group and the passing of time; output: `cpu.idle` of the group. A short command
//! wakes up or starts half a dozen processes, and each of them may have to wait for the slice of
//! whoever has the processor to end, which is noticed at the next tick: up to 4 ms at 250 Hz. Beside
//! two busy loops of another project that made one run in ten last three times as long; a processor
//! taken from an idle group is given at once.
//!
//! So each project has an allowance of processor time that refills as time passes. While it is used
//! up the group is idle: it gets what projects in front of it leave over, which is all but their
//! allowances, and shares that equally with others that are behind. Towards processes outside of the
//! daemon's cgroups nothing changes, because only siblings are compared.
//!
//! Follows `cpu.idle` in the kernel's `admin-guide/cgroup-v2.rst`; v1 has the same file. Both have it
//! since 5.15, and without it every project has the same weight at all times.

use super::meter::CpuMeter;
use super::{CgroupError, Version, verify, write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Puts a project's group behind the others and in front again.
#[derive(Debug)]
pub struct Precedence {
    version: Version,
    dir: PathBuf,
    meter: CpuMeter,
    account: Account,
    used_us: u64,
    settled: Instant,
}

impl Precedence {
    /// `dir` has weights of processors, and `meter` counts what the project uses of them. `None` on
    /// kernels that have no idle groups.
    pub(super) fn new(version: Version, dir: PathBuf, meter: CpuMeter) -> Result<Option<Self>, CgroupError> {
        if !dir.join("cpu.idle").exists() {
            return Ok(None);
        }
        let used_us = meter.microseconds()?;
        let account = Account::default();
        Ok(Some(Self { version, dir, meter, account, used_us, settled: Instant::now() }))
    }

    /// Sets what the project has used since the last time against its allowance. To be called a few
    /// times a second while something runs, and until the project is in front again.
    pub fn settle(&mut self) -> Result<(), CgroupError> {
        let (used_us, now) = (self.meter.microseconds()?, Instant::now());
        let was_behind = self.is_behind();
        self.account.settle(used_us.saturating_sub(self.used_us), now.duration_since(self.settled));
        (self.used_us, self.settled) = (used_us, now);
        if self.is_behind() == was_behind { Ok(()) } else { self.apply() }
    }

    pub fn is_behind(&self) -> bool {
        self.account.behind
    }

    fn apply(&self) -> Result<(), CgroupError> {
        let (file, value) = (self.dir.join("cpu.idle"), if self.is_behind() { "1" } else { "0" });
        write(&file, value)?;
        verify(&file, value)?;
        // An idle group has lost its weight.
        if self.is_behind() { Ok(()) } else { self.version.driver().share_cpu_equally(&self.dir) }
    }
}

/// Processor time that a project may use before it steps behind.
const ALLOWANCE_US: u64 = 200_000;
/// It refills by one part in so many of the time that passes: a fifth of one processor.
const REFILL: u64 = 5;

/// What is left of the allowance, and on which side of it the project is.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    left_us: u64,
    behind: bool,
}

impl Default for Account {
    fn default() -> Self {
        Self { left_us: ALLOWANCE_US, behind: false }
    }
}

impl Account {
    /// Behind when nothing is left, in front again when half of it is back: not at once, or a project
    /// that computes all the time would be in front at every other look.
    fn settle(&mut self, used_us: u64, passed: Duration) {
        let refill = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX) / REFILL;
        self.left_us = self.left_us.saturating_add(refill).saturating_sub(used_us).min(ALLOWANCE_US);
        self.behind = if self.behind { self.left_us < ALLOWANCE_US / 2 } else { self.left_us == 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(200);

    #[test]
    fn a_project_steps_behind_when_its_allowance_is_used_up() {
        let mut account = Account::default();
        account.settle(200_000, TICK);
        assert_eq!(account, Account { left_us: 40_000, behind: false });
        account.settle(100_000, TICK);
        assert_eq!(account, Account { left_us: 0, behind: true });
    }

    #[test]
    fn it_stays_behind_while_it_computes_and_until_half_of_the_allowance_is_back() {
        let mut account = Account { left_us: 0, behind: true };
        account.settle(400_000, TICK);
        assert_eq!(account, Account { left_us: 0, behind: true }, "there are no debts");
        account.settle(0, 2 * TICK);
        assert_eq!(account, Account { left_us: 80_000, behind: true });
        account.settle(0, TICK);
        assert_eq!(account, Account { left_us: 120_000, behind: false });
    }

    #[test]
    fn who_uses_less_than_the_refill_stays_in_front_for_ever() {
        let mut account = Account::default();
        for _ in 0..1000 {
            account.settle(39_000, TICK);
            assert!(!account.behind);
        }
        account.settle(0, Duration::from_secs(u64::MAX));
        assert_eq!(account, Account::default());
    }
}
