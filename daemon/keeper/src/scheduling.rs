//! How the scheduler treats threads that run briefly and often.
//!
//! A thread with a short slice gets a busy processor at once when it wakes up, not at the end of a
//! slice of whoever keeps the processor busy: sched_setattr(2), and the kernel's
//! `scheduler/sched-eevdf.rst`. Its share of the processors stays the same.

const SHORT_SLICE_NS: u64 = 100_000;

/// Gives the calling thread a short slice; threads and processes that it starts inherit it.
pub fn wake_at_once() {
    // Kernels before 6.12 have no slices, and a filter may refuse the call: it works, only later.
    let _ = sandbox_launch::sys::set_slice(SHORT_SLICE_NS);
}
