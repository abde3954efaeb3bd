//! `sandboxctl policy check`: are the files right, and, with `--run`, is what they claim true.
//!
//! A claim is a `[[test]]` of the policy: `allowed` means that the command ends with 0, `denied` that it
//! fails or is not admitted. Claims run in a project of their own, which is removed afterwards.

use super::policy_file;
use crate::args::{Globals, PolicyDirs};
use crate::client::{Client, ClientError};
use crate::connect;
use crate::exit;
use crate::failure::Failure;
use crate::render;
use sandbox_policy::{Expectation, Policy, PolicyError, PolicySet, PolicyTest, to_toml};
use sandbox_wire::{Code, Command, CreateProject, Project, RunRequest, RunResult, RunState};
use serde::Serialize;
use std::sync::Arc;

/// What became of one policy.
#[derive(Debug, Serialize)]
struct Checked {
    policy: String,
    valid: bool,
    mistakes: Vec<String>,
    /// None: the claims were not run.
    claims: Option<Vec<Claim>>,
}

/// What became of one claim.
#[derive(Debug, Serialize)]
struct Claim {
    command: String,
    expect: &'static str,
    holds: bool,
    found: String,
}

/// Exit 1 when a policy is wrong or a claim does not hold.
pub(crate) async fn check(globals: &Globals, names: &[String], run: bool, dirs: &PolicyDirs) -> Result<u8, Failure> {
    let set = policy_file::set(dirs.dir.as_deref())?;
    let found: Vec<(String, Result<Arc<Policy>, PolicyError>)> = match names {
        [] => set.list().into_iter().map(|listed| (listed.name, listed.policy)).collect(),
        names => names.iter().map(|name| (name.clone(), policy_file::find(&set, name))).collect(),
    };
    let claims = found.iter().filter_map(|(_, policy)| policy.as_ref().ok()).any(|policy| !policy.tests().is_empty());
    let bench = if run && claims { Some(Bench::open(globals).await?) } else { None };
    let checked = check_each(&set, found, run, bench.as_ref(), globals.json).await;
    if let Some(bench) = bench {
        bench.close().await?;
    }
    let checked = checked?;
    if globals.json {
        render::json(&serde_json::json!({"policies": checked}));
    }
    let wrong = |checked: &Checked| !checked.valid || checked.claims.iter().flatten().any(|claim| !claim.holds);
    Ok(u8::from(checked.iter().any(wrong)))
}

async fn check_each(
    set: &PolicySet,
    found: Vec<(String, Result<Arc<Policy>, PolicyError>)>,
    run: bool,
    bench: Option<&Bench>,
    json: bool,
) -> Result<Vec<Checked>, Failure> {
    let mut all = Vec::new();
    for (name, policy) in found {
        let checked = match policy {
            Ok(policy) => {
                let claims = match (run, bench) {
                    (true, Some(bench)) => Some(bench.claims(set, &policy).await?),
                    (true, None) => Some(Vec::new()),
                    (false, _) => None,
                };
                Checked { policy: name, valid: true, mistakes: Vec::new(), claims }
            }
            Err(error) => {
                if !json {
                    eprint!("{}", Failure::from(error.clone()).text());
                }
                let mistakes = match error.mistakes() {
                    [] => vec![error.to_string()],
                    mistakes => mistakes.iter().map(|mistake| format!("{mistake}; {}", mistake.fix())).collect(),
                };
                Checked { policy: name, valid: false, mistakes, claims: None }
            }
        };
        if !json {
            render::text(&render::plain(&text(&checked)));
        }
        all.push(checked);
    }
    Ok(all)
}

fn text(checked: &Checked) -> String {
    let mut text = match (checked.valid, &checked.claims) {
        (false, _) => format!("{}: not valid\n", checked.policy),
        (true, None) => format!("{}: valid\n", checked.policy),
        (true, Some(claims)) => {
            let held = claims.iter().filter(|claim| claim.holds).count();
            format!("{}: valid, {held} of {} claims hold\n", checked.policy, claims.len())
        }
    };
    for claim in checked.claims.iter().flatten().filter(|claim| !claim.holds) {
        text.push_str(&format!("  expected {}: {}\n    but {}\n", claim.expect, claim.command, claim.found));
    }
    text
}

/// A project in which claims run.
struct Bench {
    client: Client,
    project: Project,
}

impl Bench {
    async fn open(globals: &Globals) -> Result<Self, Failure> {
        let client = connect::client(globals).await?;
        let body = CreateProject { name: Some("policy check".to_owned()), ..Default::default() };
        let project = client.post("/projects", &body).await?;
        Ok(Self { client, project })
    }

    async fn close(self) -> Result<(), Failure> {
        Ok(self.client.delete(&format!("/projects/{}", self.project.id)).await?)
    }

    async fn claims(&self, set: &PolicySet, policy: &Policy) -> Result<Vec<Claim>, Failure> {
        let mut claims = Vec::new();
        for test in policy.tests() {
            claims.push(self.claim(set, policy, test).await?);
        }
        Ok(claims)
    }

    async fn claim(&self, set: &PolicySet, policy: &Policy, test: &PolicyTest) -> Result<Claim, Failure> {
        let path = format!("/projects/{}/run", self.project.id);
        let answer = self.client.post::<RunResult>(&path, &request(set, policy, test)).await;
        let (holds, found) = match answer {
            Ok(result) => judge(test.expect, &result),
            Err(ClientError::Problem(problem)) if problem.code == Code::PolicyRefused => {
                (test.expect == Expectation::Denied, format!("it was not admitted: {}", problem.error))
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Claim { command: test.command.clone(), expect: test.expect.name(), holds, found })
    }
}

fn request(set: &PolicySet, policy: &Policy, test: &PolicyTest) -> RunRequest {
    // The daemon has the shipped policies by name; of others it only gets the whole text.
    let shipped = set
        .list()
        .iter()
        .any(|listed| listed.name == policy.name() && matches!(listed.origin, sandbox_policy::Origin::Shipped));
    RunRequest {
        policy: shipped.then(|| policy.name().to_owned()),
        policy_toml: (!shipped).then(|| to_toml(policy)),
        ..RunRequest::new(Command::Shell(test.command.clone()))
    }
}

/// Whether the end of a run is what a claim expects, and what it was.
fn judge(expect: Expectation, result: &RunResult) -> (bool, String) {
    let ending = exit::Ending::from(result);
    let said = match result.stderr.trim().lines().last() {
        Some(line) => format!(": {line}"),
        None => String::new(),
    };
    let found = match exit::sentence(&ending, None) {
        Some(sentence) => format!("it was {sentence}"),
        None => format!("it ended with {}{said}", exit::status(&ending)),
    };
    let holds = match (expect, result.status) {
        // Nobody can say what would have become of these.
        (_, RunState::Running | RunState::Lost | RunState::Cancelled | RunState::TimedOut) => false,
        (Expectation::Allowed, _) => result.exit_code == Some(0),
        // 127: the command is not there, which is no denial.
        (Expectation::Denied, _) => result.exit_code.is_some_and(|code| code != 0 && code != 127),
    };
    (holds, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox_wire::{Enforced, RunId, Truncated, Usage};

    fn ended(status: RunState, exit_code: Option<i32>) -> RunResult {
        RunResult {
            exit_code,
            stdout: String::new(),
            stderr: "cat: no\n".to_owned(),
            run_id: RunId::generate(),
            status,
            signal: None,
            timed_out: false,
            oom_killed: false,
            killed_by: None,
            duration_ms: 1.0,
            stdout_bytes: 0,
            stderr_bytes: 0,
            truncated: Truncated::default(),
            encoding: sandbox_wire::Encoding::Utf8,
            usage: Usage::default(),
            lingering: 0,
            denials: Vec::new(),
            enforced: Enforced::default(),
        }
    }

    #[test]
    fn claims_are_judged_by_the_end_of_the_command() {
        let holds = |expect, status, code| judge(expect, &ended(status, code)).0;
        assert!(holds(Expectation::Allowed, RunState::Exited, Some(0)));
        assert!(!holds(Expectation::Allowed, RunState::Exited, Some(1)));
        assert!(holds(Expectation::Denied, RunState::Exited, Some(1)));
        assert!(holds(Expectation::Denied, RunState::Signaled, Some(159)));
        assert!(!holds(Expectation::Denied, RunState::Exited, Some(0)));
        assert!(!holds(Expectation::Denied, RunState::Exited, Some(127)));
        assert!(!holds(Expectation::Denied, RunState::TimedOut, Some(124)));
        assert!(!holds(Expectation::Denied, RunState::Lost, None));
    }

    #[test]
    fn a_claim_that_does_not_hold_says_what_happened() {
        let (holds, found) = judge(Expectation::Allowed, &ended(RunState::Exited, Some(1)));
        let claim = Claim { command: "cat x".to_owned(), expect: "allowed", holds, found };
        let checked = Checked { policy: "p".to_owned(), valid: true, mistakes: Vec::new(), claims: Some(vec![claim]) };
        assert_eq!(
            text(&checked),
            "p: valid, 0 of 1 claims hold\n  expected allowed: cat x\n    but it ended with 1: cat: no\n"
        );
    }

    #[test]
    fn shipped_policies_go_by_name_and_others_by_text() {
        let set = PolicySet::shipped();
        let test = PolicyTest { command: "true".to_owned(), expect: Expectation::Allowed };
        let default = set.get("default").expect("shipped");
        assert_eq!(request(&set, &default, &test).policy.as_deref(), Some("default"));
        let own = set.load_text("mine.toml", "name = \"mine\"\nextends = \"default\"\n").expect("valid");
        let own = request(&set, &own, &test);
        assert!(own.policy.is_none() && own.policy_toml.is_some_and(|text| text.starts_with("name = \"mine\"")));
    }
}
