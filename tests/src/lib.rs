//! Support for tests from outside: real programs, the real kernel, nothing in between.
//!
//! A test asks for a [`Project`] of the daemon that its test program shares, or starts a [`Daemon`]
//! of its own when it will stop, kill or count it. What a test needs of the host it says with
//! [`require!`]; what is missing is named, and counts as skipped unless `SANDBOX_REQUIRE` lists it.
//! `SANDBOX_BIN_DIR` names the folder of the programs under test; without it they are built.

pub mod cli;
pub mod daemon;
pub mod events;
pub mod features;
pub mod gateway;
pub mod host;
pub mod http;
pub mod mcp;
pub mod npm;
pub mod postgres;
pub mod probe;
pub mod programs;
pub mod project;
pub mod soak;

pub use daemon::{Daemon, Options};
pub use events::EventReader;
pub use http::{Client, Incoming, Reply};
pub use project::Project;

/// Ends the test, as skipped, when this host lacks one of the named features.
#[macro_export]
macro_rules! require {
    ($($feature:literal),+ $(,)?) => {
        if $crate::features::skip(&[$($feature),+]) {
            return;
        }
    };
}

/// A new project of the daemon that this test program shares.
pub fn project() -> Project {
    Daemon::shared().project()
}
