//! The per-project daemon: owns a project's sandbox, its runs, their deadlines and their journal.
//!
//! Input: [`api::Request`]s on a unix socket in the project's folder. Output: journals on disk and
//! [`api::Reply`]s. The keeper knows no HTTP, no token and no other project. [`client`] is the
//! other end of the socket, [`journal`] is read by whoever wants a run's output.

pub mod api;
pub mod cgroup;
pub mod client;
pub mod disk;
mod factory;
pub mod frame;
pub mod home;
mod input;
pub mod journal;
mod monitor;
mod mounts;
pub mod plan;
mod pool;
pub mod probe;
pub mod project;
pub mod rehearsal;
mod run;
pub mod scheduling;
mod selftest;
pub mod server;
mod slot;
pub mod socket;
pub mod spawn;
mod starving;
pub mod subordinate;
mod view;
