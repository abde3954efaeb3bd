//! Policies: what a project's commands may do.
//!
//! [`PolicyFile`] (what a person wrote) -> [`Policy`] (resolved, valid) -> [`Admitted`] (a request that
//! the policy allows). Only [`PolicySet`] reads files; everything else here is pure: no kernel, no
//! network, no clock. The format is described in `docs/policies.md`.

mod admit;
mod answer;
mod draft;
mod egress;
mod error;
mod explain;
mod fault;
mod file;
mod layers;
mod limits;
mod paths;
mod policy;
mod resolve;
mod set;
mod show;
mod source;
mod syscalls;
mod variables;

pub use admit::{AdmitError, Admitted, MAX_STRING_BYTES, MAX_TOTAL_BYTES, RunSpec, admit};
pub use answer::{Answer, InvalidQuestion, Question, Ruling, answer};
pub use egress::{EgressFault, EgressRule, RegistryGroup};
pub use error::{Mistake, PolicyError};
pub use explain::{ExplainedRule, Explanation, explain};
pub use fault::Fault;
pub use file::{
    EnvironmentFile, FilesystemFile, LimitsFile, MountFile, NetworkFile, PolicyFile, RequireFile, SyscallsFile,
    TestFile, schema,
};
pub use layers::Layer;
pub use limits::{Bytes, MAX_TIMEOUT_MS, Millis, Quantity, QuantityFault};
pub use paths::{COMPOSED, HOME, PROJECT, PathFault, SandboxPath, at_or_below};
pub use policy::*;
pub use set::{Listed, Origin, PolicySet};
pub use show::to_toml;
pub use source::{Place, Source};
pub use syscalls::SyscallProfile;
pub use variables::{BASE_ENVIRONMENT, CERTIFICATE_VARIABLES, environment, is_variable_name};
