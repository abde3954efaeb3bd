//! Resource limits and processors of the commands (getrlimit(2), sched_setaffinity(2)).

use rustix::process::Rlimit as Values;
use sandbox_launch::plan::Rlimit;
use sandbox_launch::report::{Report, Step};

pub(crate) fn set(rlimits: &[Rlimit]) -> Result<(), Report> {
    for rlimit in rlimits {
        let resource = rlimit.resource.into();
        // Never above what was inherited: an ordinary user cannot raise a hard limit.
        let hard = rustix::process::getrlimit(resource).maximum;
        let limit = hard.map_or(rlimit.limit, |hard| hard.min(rlimit.limit));
        rustix::process::setrlimit(resource, Values { current: Some(limit), maximum: Some(limit) })
            .map_err(|errno| Report::new(Step::Rlimit, errno, format!("{:?} = {limit}", rlimit.resource)))?;
    }
    Ok(())
}

/// So that `nproc` and thread pools see the processors that the quota pays for.
pub(crate) fn set_processors(cpus: &[u32]) -> Result<(), Report> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = rustix::thread::CpuSet::new();
    for cpu in cpus {
        set.set(*cpu as usize);
    }
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|errno| Report::new(Step::Affinity, errno, format!("{cpus:?}")))
}
