//! `sandboxctl policy`: list, show, check and explain policies. Needs no daemon, but for `check --run`.

use super::{policy_check, policy_file};
use crate::args::{Globals, PolicyCommand, PolicyDirs};
use crate::failure::Failure;
use crate::render;
use sandbox_policy::{Listed, Origin, Question, answer, explain, to_toml};
use sandbox_wire::{Code, Problem};

pub(crate) async fn dispatch(globals: &Globals, command: PolicyCommand) -> Result<u8, Failure> {
    match command {
        PolicyCommand::List(dirs) => list(&dirs, globals.json),
        PolicyCommand::Show { policy, dirs } => {
            let policy = policy_file::find(&policy_file::set(dirs.dir.as_deref())?, &policy)?;
            match globals.json {
                true => render::json(&*policy),
                false => render::text(&to_toml(&policy)),
            }
            Ok(0)
        }
        PolicyCommand::Explain { policy, about, dirs } => explained(&policy, &about, &dirs, globals.json),
        PolicyCommand::Check { policies, run, dirs } => policy_check::check(globals, &policies, run, &dirs).await,
    }
}

fn list(dirs: &PolicyDirs, json: bool) -> Result<u8, Failure> {
    let listed = policy_file::set(dirs.dir.as_deref())?.list();
    if json {
        let policies: Vec<_> = listed.iter().map(document).collect();
        render::json(&serde_json::json!({"policies": policies}));
    } else {
        let rows = listed
            .iter()
            .map(|policy| [policy.name.clone(), network(policy), origin(policy), policy.description.clone()]);
        render::table(["POLICY", "NETWORK", "FROM", "DESCRIPTION"], rows);
    }
    Ok(u8::from(listed.iter().any(|policy| policy.policy.is_err())))
}

fn document(listed: &Listed) -> serde_json::Value {
    serde_json::json!({
        "name": listed.name,
        "description": listed.description,
        "extends": listed.extends,
        "network": network(listed),
        "from": origin(listed),
        "valid": listed.policy.is_ok(),
    })
}

fn network(listed: &Listed) -> String {
    match &listed.policy {
        Ok(policy) => policy.network().mode.to_string(),
        Err(_) => "(not valid)".to_owned(),
    }
}

fn origin(listed: &Listed) -> String {
    match &listed.origin {
        Origin::Shipped => "shipped".to_owned(),
        Origin::File(path) => path.display().to_string(),
    }
}

/// The whole policy, or what it says about paths, hosts and variables.
fn explained(policy: &str, about: &[String], dirs: &PolicyDirs, json: bool) -> Result<u8, Failure> {
    let policy = policy_file::find(&policy_file::set(dirs.dir.as_deref())?, policy)?;
    if about.is_empty() {
        let explanation = explain(&policy);
        match json {
            true => render::json(&explanation),
            false => render::text(&render::plain(&explanation.to_string())),
        }
        return Ok(0);
    }
    let mut answers = Vec::new();
    for text in about {
        let question: Question =
            text.parse().map_err(|error| Problem::new(Code::InvalidRequest, format!("cannot answer: {error}")))?;
        answers.push(answer(&policy, &question));
    }
    match json {
        true => render::json(&serde_json::json!({"answers": answers})),
        false => render::text(&render::plain(&answers.iter().map(ToString::to_string).collect::<String>())),
    }
    Ok(0)
}
