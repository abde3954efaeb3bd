//! From a folder to a release: what to build, what of it to deploy, where to.
//!
//! `folder -> Recipe -> (build in the sandbox) -> release -> Target`. The wallet and the keys stay in this
//! process; nothing of them goes to the daemon or into a sandbox.

pub(crate) mod build;
pub(crate) mod functions;
pub(crate) mod progress;
pub(crate) mod recipe;
pub(crate) mod target;
