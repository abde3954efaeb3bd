//! Why a command of ours did not do its work: a problem that a daemon or we state, or a policy error
//! with its place in the file.
//!
//! One type for every command, so that text, JSON and exit status are decided in one place.

use crate::render::plain;
use sandbox_policy::PolicyError;
use sandbox_wire::{Code, Problem};
use std::fmt::Write;
use std::io::IsTerminal;

#[derive(Debug)]
pub(crate) enum Failure {
    Problem(Box<Problem>),
    /// Shown with the lines of the file that it is about.
    Policy(PolicyError),
    /// What the gateway of a deploy said.
    Deploy(run402::error::Error),
}

impl Failure {
    pub(crate) fn new(code: Code, error: impl Into<String>) -> Self {
        Problem::new(code, error).into()
    }

    /// The document for `--json`.
    pub(crate) fn problem(&self) -> Problem {
        match self {
            Self::Problem(problem) => (**problem).clone(),
            Self::Deploy(error) => {
                let said = serde_json::to_value(error).unwrap_or_default();
                let mut problem = Problem::new(Code::DeployFailed, error.to_string()).with("gateway", said);
                problem.retryable = error.is_retryable();
                hints(error).into_iter().fold(problem, Problem::next)
            }
            Self::Policy(error) => {
                let code = match error {
                    PolicyError::Unknown { .. } => Code::PolicyNotFound,
                    _ => Code::InvalidPolicy,
                };
                let problem = Problem::new(code, error.to_string());
                match error.mistakes() {
                    [] => problem,
                    mistakes => {
                        let texts: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
                        mistakes
                            .iter()
                            .fold(problem.with("mistakes", texts), |problem, mistake| problem.next(mistake.fix()))
                    }
                }
            }
        }
    }

    /// The text for people: one prefixed sentence and a line for each thing to try.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Problem(problem) => {
                let mut text = format!("sandboxctl: {}\n", plain(&problem.error));
                for action in &problem.next_actions {
                    // Writing to a String cannot fail.
                    let _ = writeln!(text, "sandboxctl: hint: {}", plain(action));
                }
                if problem.code == Code::Internal && !problem.request_id.is_empty() {
                    let _ = writeln!(text, "sandboxctl: the daemon's log knows it as {}", plain(&problem.request_id));
                }
                text
            }
            Self::Deploy(error) => {
                let mut text = format!("sandboxctl: {}\n", plain(&error.to_string()));
                for hint in hints(error) {
                    // Writing to a String cannot fail.
                    let _ = writeln!(text, "sandboxctl: hint: {}", plain(&hint));
                }
                text
            }
            Self::Policy(error) if error.mistakes().is_empty() => format!("sandboxctl: {}", error.report(false)),
            Self::Policy(error) => match colourful() {
                true => format!("sandboxctl: the policy is not valid\n{}", error.report(true)),
                false => format!("sandboxctl: the policy is not valid\n{}", plain(&error.report(false))),
            },
        }
    }
}

/// What to try after a deploy that did not succeed.
fn hints(error: &run402::error::Error) -> Vec<String> {
    let mut hints: Vec<String> = error.hint.iter().cloned().collect();
    let facts = error.deploy.as_deref();
    match error.code.as_str() {
        "MISSING_REQUIRED_SECRET" => hints.push("set it first: sandboxctl deploy secret set KEY".to_owned()),
        "NO_WALLET" => hints.push("make one: sandboxctl deploy init --new-wallet".to_owned()),
        "NETWORK_ERROR" => hints.push("is the gateway running? RUN402_API_BASE names it".to_owned()),
        _ if facts.is_some_and(|facts| facts.resource.as_deref() == Some("warnings")) => {
            hints.push(format!("go on in spite of it: --allow-warning {}", error.code));
        }
        _ => {}
    }
    if let Some(operation) = facts.and_then(|facts| facts.operation_id.as_deref())
        && error.mutation_state.as_deref() == Some("partial")
    {
        hints.push(format!("carry it on: sandboxctl deploy resume {operation}"));
    }
    hints
}

/// Whether standard error is a terminal whose user wants colours: no-color.org.
fn colourful() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !refused
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl From<PolicyError> for Failure {
    fn from(error: PolicyError) -> Self {
        Self::Policy(error)
    }
}

impl From<run402::error::Error> for Failure {
    fn from(error: run402::error::Error) -> Self {
        Self::Deploy(error)
    }
}

impl From<crate::client::ClientError> for Failure {
    fn from(error: crate::client::ClientError) -> Self {
        error.into_problem().into()
    }
}

impl From<crate::daemon::StartError> for Failure {
    fn from(error: crate::daemon::StartError) -> Self {
        error.into_problem().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_a_prefix_hints_and_no_control_characters() {
        let problem =
            Problem::new(Code::ProjectNotFound, "no project 'a\x1b[31m'").next("list them: sandboxctl project list");
        assert_eq!(
            Failure::from(problem).text(),
            "sandboxctl: no project 'a\u{fffd}[31m'\nsandboxctl: hint: list them: sandboxctl project list\n"
        );
    }
}
