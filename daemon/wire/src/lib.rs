//! The types that callers see: requests, results, stream events, projects, problems.
//!
//! Input: JSON from a caller or a keeper; output: JSON for a caller. This crate knows no
//! sandbox, no socket and no status code; both ends of every connection share it, so that
//! client and server cannot disagree. Shapes follow `docs/api.md`.

pub mod deploy;
pub mod doctor;
pub mod event;
pub mod health;
pub mod id;
pub mod policy;
pub mod problem;
pub mod project;
pub mod run;
pub mod token;

pub use doctor::{DoctorLine, DoctorReport, DoctorStatus};
pub use event::Event;
pub use health::{Health, Ready};
pub use id::{ProjectId, RunId, UrlId};
pub use policy::{PolicyDocument, PolicyList, PolicySummary};
pub use problem::{Code, Problem};
pub use project::{AccessType, CreateProject, PatchProject, Project};
pub use run::{
    Command, Denial, Encoding, Enforced, Omitted, OnDisconnect, RunRequest, RunResult, RunState, RunSummary, Signal,
    SignalRequest, Stream, Truncated, Usage,
};
pub use token::{CreateToken, Scope, Token};
