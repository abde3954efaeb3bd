//! `sandboxctl run`: one command in a sandbox, as if it ran here.
//!
//! `RunArgs -> RunRequest -> events -> our output and exit status`.

use super::follow::{Ended, Follower, Stop};
use super::place::Place;
use super::policy_file::{self, PolicyChoice};
use crate::args::{Globals, RunArgs};
use crate::client::Client;
use crate::connect;
use crate::exit::{self, Ending};
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::output::Output;
use crate::render;
use sandbox_wire::{Code, Command, Enforced, RunRequest, RunSummary};
use std::collections::BTreeMap;

pub(crate) async fn run(globals: &Globals, args: RunArgs) -> Result<u8, Failure> {
    let timeout_ms = args.timeout.map(|timeout| timeout.0);
    let verbose = args.verbose;
    let place = Place::of(args.project.as_deref(), args.dir.as_deref())?;
    let request = request(args)?;
    let client = connect::client(globals).await?;
    let mut interrupts = Interrupts::listen();
    let start = async {
        let project = place.project(&client).await?;
        let path = format!("/projects/{project}/run");
        let stream = client.post_stream(&path, &request).await?;
        Ok::<_, Failure>((project, stream))
    };
    let (project, stream) = tokio::select! {
        // Nothing runs yet, or the daemon ends it because we go away.
        signal = interrupts.next() => return Ok(signal.exit_code()),
        started = start => started?,
    };
    let output = match globals.json {
        true => None,
        false => Some(Output::open().map_err(|error| {
            Failure::new(Code::Internal, format!("cannot use standard output and standard error: {error}"))
        })?),
    };
    let mut follower = Follower::new(globals, client.clone(), project.clone(), output).feeding(request.interactive);
    let ended = follower.follow(stream, &mut interrupts).await?;
    finish(&client, &project, ended, timeout_ms, globals.json, verbose).await
}

/// Says how it ended; the exit status.
async fn finish(
    client: &Client,
    project: &str,
    ended: Ended,
    timeout_ms: Option<i64>,
    json: bool,
    verbose: bool,
) -> Result<u8, Failure> {
    let stopped = match ended.stop {
        Some(Stop::Signal(signal)) => Some(signal.exit_code()),
        Some(Stop::ReaderGone) => Some(render::EXIT_BROKEN_PIPE),
        None => None,
    };
    // Without an outcome nobody knows how it ended, and we were told not to wait for it.
    let Some(outcome) = ended.outcome else { return Ok(stopped.unwrap_or(crate::EXIT_RUN_FAILED)) };
    if json {
        let summary: RunSummary = client.get(&format!("/projects/{project}/runs/{}", outcome.run_id)).await?;
        match &summary.result {
            Some(result) => render::json(result),
            None => render::json(&outcome),
        }
    }
    let ending = Ending::from(&outcome);
    if stopped.is_none()
        && let Some(sentence) = exit::sentence(&ending, timeout_ms)
    {
        eprintln!("sandboxctl: {}", render::plain(&sentence));
    }
    if verbose {
        eprint!("{}", receipt(&outcome.run_id.to_string(), &outcome.enforced, outcome.duration_ms));
    }
    Ok(stopped.unwrap_or_else(|| exit::status(&ending)))
}

/// The receipt for people.
fn receipt(run_id: &str, enforced: &Enforced, duration_ms: f64) -> String {
    let landlock = enforced.landlock_abi.map_or("none".to_owned(), |abi| format!("ABI {abi}"));
    let mut lines = vec![
        format!("run {run_id}, {}", crate::duration::spoken(duration_ms)),
        format!("policy {}", enforced.policy),
        format!("namespaces {}", enforced.namespaces.join(" ")),
        format!("landlock {landlock}, seccomp {}", enforced.seccomp),
        format!("cgroup {}, disk {}", enforced.cgroup, enforced.disk),
        format!("network {}, ids {}", enforced.network, enforced.ids),
    ];
    lines.extend(enforced.missing.iter().map(|missing| format!("missing: {missing}")));
    lines.iter().map(|line| format!("sandboxctl: {}\n", render::plain(line))).collect()
}

fn request(args: RunArgs) -> Result<RunRequest, Failure> {
    let mut command = args.command;
    let command = match command.len() {
        1 => Command::Shell(command.remove(0)),
        _ => Command::Argv(command),
    };
    let (policy, policy_toml) = match args.policy.as_deref().map(policy_file::choose).transpose()? {
        Some(PolicyChoice::Named(name)) => (Some(name), None),
        Some(PolicyChoice::Text(text)) => (None, Some(text)),
        None => (None, None),
    };
    Ok(RunRequest {
        cwd: args.cwd,
        timeout_ms: args.timeout.map(|timeout| timeout.0),
        env: environment(&args.env, |name| std::env::var_os(name))?,
        interactive: args.stdin,
        policy,
        policy_toml,
        ..RunRequest::new(command)
    })
}

/// `NAME=VALUE`, or `NAME` for the value that it has here; a name without value here is not set.
fn environment(
    given: &[String],
    here: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut env = BTreeMap::new();
    for text in given {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (
                text.as_str(),
                here(text)
                    .map(|value| value.into_string())
                    .transpose()
                    .map_err(|_| Failure::new(Code::InvalidEnvironment, format!("the value of {text} is not UTF-8")))?,
            ),
        };
        if name.is_empty() {
            return Err(Failure::new(
                Code::InvalidEnvironment,
                format!("'{text}' has no name; write --env NAME=VALUE"),
            ));
        }
        if let Some(value) = value {
            env.insert(name.to_owned(), value);
        }
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn parse(words: &[&str]) -> RunRequest {
        let words = ["sandboxctl", "run"].iter().chain(words);
        match crate::args::Args::try_parse_from(words).expect("the words parse").command {
            crate::args::Command::Run(args) => request(args).expect("a request"),
            other => panic!("not a run: {other:?}"),
        }
    }

    #[test]
    fn one_word_is_a_line_and_several_are_an_argv() {
        assert_eq!(parse(&["echo hi | cat"]).command, Command::Shell("echo hi | cat".to_owned()));
        assert_eq!(parse(&["--", "echo", "a b"]).command, Command::Argv(vec!["echo".into(), "a b".into()]));
    }

    #[test]
    fn only_what_was_given_is_sent() {
        let body = serde_json::to_value(parse(&["--timeout", "2s", "--cwd", "sub", "true"])).expect("serialises");
        assert_eq!(body, serde_json::json!({"command": "true", "cwd": "sub", "timeout_ms": 2000}));
    }

    #[test]
    fn variables_come_from_the_flag_or_from_here() {
        let given = ["A=1".to_owned(), "B=x=y".to_owned(), "C".to_owned(), "D".to_owned(), "E=".to_owned()];
        let env = environment(&given, |name| (name == "C").then(|| "here".into())).expect("valid");
        let pairs: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("A", "1"), ("B", "x=y"), ("C", "here"), ("E", "")]);
        assert!(environment(&["=x".to_owned()], |_| None).is_err());
    }

    #[test]
    fn the_receipt_names_what_is_missing() {
        let enforced = Enforced { missing: vec!["no quota".to_owned()], ..Default::default() };
        let text = receipt("run_X", &enforced, 12.0);
        assert!(text.contains("sandboxctl: run run_X, 12 ms\n") && text.ends_with("sandboxctl: missing: no quota\n"));
    }
}
