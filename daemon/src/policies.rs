//! The policies that this daemon offers, and a policy's answers as problems.
//!
//! Read once at the start: each run costs a look at an `Arc`, no file and no resolving.

use sandbox_policy::{AdmitError, NetworkMode, Policy, PolicyError, PolicySet};
use sandbox_wire::{Code, PolicyDocument, PolicyList, PolicySummary, Problem};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

pub(crate) const DEFAULT_POLICY: &str = "default";

/// A policy and what names it between sandboxd and its keepers.
#[derive(Debug)]
pub(crate) struct NamedPolicy {
    pub(crate) policy: Arc<Policy>,
    pub(crate) digest: String,
}

impl NamedPolicy {
    fn new(policy: Arc<Policy>) -> Arc<Self> {
        Arc::new(Self { digest: policy.digest(), policy })
    }
}

#[derive(Debug)]
pub(crate) struct Policies {
    set: PolicySet,
    by_name: HashMap<String, Arc<NamedPolicy>>,
}

impl Policies {
    /// The shipped policies and those of a folder. Fails when one of them cannot be used.
    pub(crate) fn load(dir: Option<&Path>) -> Result<Self, PolicyError> {
        let mut set = PolicySet::shipped();
        if let Some(dir) = dir {
            set = set.with_dir(dir)?;
        }
        set.check()?;
        let listed = set.list();
        let by_name = listed.into_iter().map(|listed| Ok((listed.name, NamedPolicy::new(listed.policy?))));
        let by_name = by_name.collect::<Result<_, PolicyError>>()?;
        Ok(Self { set, by_name })
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<NamedPolicy>> {
        self.by_name.get(name).cloned()
    }

    /// A policy that a request names.
    pub(crate) fn require(&self, name: &str) -> Result<Arc<NamedPolicy>, Problem> {
        self.get(name).ok_or_else(|| match self.set.get(name) {
            Err(error) => invalid(&error),
            Ok(_) => Problem::new(Code::PolicyNotFound, format!("there is no policy `{name}`")),
        })
    }

    /// A policy that a request carries.
    pub(crate) fn parse(&self, text: &str) -> Result<Arc<NamedPolicy>, Problem> {
        self.set.load_text("policy_toml", text).map(NamedPolicy::new).map_err(|error| invalid(&error))
    }

    pub(crate) fn list(&self) -> PolicyList {
        let listed = self.set.list().into_iter().filter_map(|listed| {
            let network = network_name(listed.policy.ok()?.network().mode).to_owned();
            Some(PolicySummary { name: listed.name, description: listed.description, network })
        });
        PolicyList { policies: listed.collect() }
    }

    pub(crate) fn document(&self, name: &str) -> Result<PolicyDocument, Problem> {
        let Some(named) = self.get(name) else {
            return Err(Problem::new(Code::NotFound, format!("there is no policy `{}`", shortened(name)))
                .next("GET /policies lists them"));
        };
        Ok(PolicyDocument {
            name: named.policy.name().to_owned(),
            description: named.policy.description().to_owned(),
            digest: named.digest.clone(),
            policy: serde_json::to_value(&*named.policy).expect("a policy is made of texts, numbers and lists"),
        })
    }
}

fn network_name(mode: NetworkMode) -> &'static str {
    match mode {
        NetworkMode::None => "none",
        NetworkMode::Filtered => "filtered",
        NetworkMode::Host => "host",
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

fn invalid(error: &PolicyError) -> Problem {
    match error {
        PolicyError::Unknown { name, fix } => {
            Problem::new(Code::PolicyNotFound, format!("there is no policy `{name}`; {fix}"))
                .with("policy", name.as_str())
        }
        PolicyError::Invalid(mistakes) => {
            let lines: Vec<String> = mistakes.iter().map(|mistake| format!("{mistake}; {}", mistake.fix())).collect();
            let first = lines.first().cloned().unwrap_or_default();
            Problem::new(Code::InvalidPolicy, first).with("mistakes", lines)
        }
        other => Problem::new(Code::InvalidPolicy, other.to_string()),
    }
}

/// What a caller is told about a request that its policy does not admit.
pub(crate) fn refusal(error: &AdmitError, policy: &str) -> Problem {
    let said = error.to_string();
    match error {
        AdmitError::EmptyCommand => Problem::new(Code::EmptyCommand, said).with("field", "command"),
        AdmitError::NulByte { what } => Problem::new(Code::NulByte, said).with("field", *what),
        AdmitError::CommandTooLong { what, len, max } => {
            let problem = Problem::new(Code::CommandTooLong, said).with("field", *what);
            problem.with("bytes", *len).with("max_bytes", *max)
        }
        AdmitError::InvalidEnvironment { name, .. } => {
            Problem::new(Code::InvalidEnvironment, said).with("field", "env").with("name", name.as_str())
        }
        AdmitError::TimeoutOutOfRange { given, min, max } => {
            let problem = Problem::new(Code::TimeoutOutOfRange, said).with("field", "timeout_ms");
            problem.with("given", *given).with("min", *min).with("max", *max)
        }
        AdmitError::PolicyRefused { rule, .. } => {
            let problem = Problem::new(Code::PolicyRefused, said).with("rule", *rule).with("policy", policy);
            problem.next(format!("read the rule: sandboxctl policy show {policy}"))
        }
    }
}
