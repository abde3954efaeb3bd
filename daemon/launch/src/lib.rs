//! What keeper and launcher share: the plan, the messages, the reports, and the system calls.
//!
//! The launcher itself (`main.rs` and the step modules) is a small single-threaded program. It
//! receives a complete [`plan::LaunchPlan`] over the socket on its descriptor 0, carries it out from
//! top to bottom, and then makes armed inits until the socket closes. It reads no argument and no
//! environment and decides nothing.

pub mod plan;
pub mod protocol;
pub mod report;
pub mod seccomp;
pub mod selftest;
pub mod syscalls;
pub mod trial;

#[allow(unsafe_code, reason = "the one place for system calls that no library wraps")]
pub mod sys;
