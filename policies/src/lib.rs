//! Policies: what a project's commands may do.
//!
//! `PolicyFile` (what a person wrote) -> `Policy` (resolved, valid) -> `Admitted` (a request that the
//! policy allows). Everything here is pure: no kernel, no network, no clock.

mod admit;
mod policy;

pub use admit::{AdmitError, Admitted, RunSpec, admit};
pub use policy::*;
