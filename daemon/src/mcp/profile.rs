//! Which tools a connection is shown: some groups, by its address, and more when the model asks for them.
//!
//! Showing is all that it is about: a tool that is not listed can be called all the same, and what a caller may do is
//! up to the token.

use super::answer::Answer;
use super::catalogue;
use super::tool::{Call, Effect, Listed, Tool};
use crate::service::Error;
use sandbox_wire::{Code, Problem};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The group of the tool that shows others; never asked for by name.
pub(crate) const GROUP: &str = "more";

/// What a session has been shown beyond its address.
pub(crate) type Shown = Arc<Mutex<BTreeSet<String>>>;

/// The groups of a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Profile {
    /// By its address; all when absent.
    pub(crate) groups: Option<Vec<String>>,
    /// None without a session, which could not remember.
    pub(crate) shown: Option<Shown>,
}

impl Profile {
    pub(crate) fn lists(&self, listed: &Listed) -> bool {
        let Some(groups) = &self.groups else { return listed.group != GROUP };
        let Some(shown) = &self.shown else { return groups.iter().any(|group| group == listed.group) };
        listed.group == GROUP
            || groups.iter().any(|group| group == listed.group)
            || shown.lock().unwrap_or_else(PoisonError::into_inner).contains(listed.group)
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct MoreToolsInput {
    /// Which groups of tools, such as ["database", "functions"].
    groups: Vec<String>,
}

pub(crate) struct MoreTools;

impl Tool for MoreTools {
    const NAME: &'static str = "more_tools";
    const TITLE: &'static str = "Show more tools";
    const DESCRIPTION: &'static str = "Adds groups of tools to the list of this session, which shows only some. Use it when \
        no tool that is listed does what is needed. The groups: run, files, deploy (of our own); projects, deploy, \
        database, functions, secrets, assets, names, jobs, auth, email, ai, apps, ci, billing, wallet, contracts, agent \
        (of the run402 gateway). Answers with the names of the tools that are new in the list. \
        Example: {\"groups\": [\"database\", \"functions\"]}";
    const EFFECT: Effect = Effect::Reads;
    type Input = MoreToolsInput;

    fn output() -> Value {
        json!({
            "type": "object",
            "properties": {"tools": {"type": "array", "items": {"type": "string"}}},
            "required": ["tools"]
        })
    }

    async fn call(call: Call, input: MoreToolsInput) -> Result<Answer, Error> {
        let known: BTreeSet<&str> = catalogue::all().iter().map(|listed| listed.group).collect();
        if let Some(unknown) = input.groups.iter().find(|group| !known.contains(group.as_str())) {
            let problem = Problem::new(Code::InvalidRequest, format!("there is no group {unknown:.40}"));
            let names: Vec<&str> = known.into_iter().filter(|group| *group != GROUP).collect();
            return Err(problem.with("field", "groups").next(format!("the groups are {}", names.join(", "))).into());
        }
        let Some(shown) = &call.profile.shown else {
            let problem = Problem::new(Code::InvalidRequest, "without a session there is no list to add to");
            return Err(problem.next("name the groups in the address: /mcp?tools=run,files,database").into());
        };
        let names = |profile: &Profile| -> BTreeSet<String> {
            let listed = catalogue::all().iter().filter(|listed| profile.lists(listed));
            listed.map(|listed| listed.tool.name.to_string()).collect()
        };
        let before = names(&call.profile);
        shown.lock().unwrap_or_else(PoisonError::into_inner).extend(input.groups);
        let new: Vec<String> = names(&call.profile).difference(&before).cloned().collect();
        if !new.is_empty() {
            // Who does not listen asks for the list again when it wants to.
            let _ = call.context.peer.notify_tool_list_changed().await;
        }
        let text =
            if new.is_empty() { "They were listed already.".to_owned() } else { format!("New: {}", new.join(", ")) };
        Ok(Answer::new(text, &json!({ "tools": new })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(profile: &Profile) -> Vec<&'static str> {
        let groups: BTreeSet<&str> =
            catalogue::all().iter().filter(|listed| profile.lists(listed)).map(|listed| listed.group).collect();
        groups.into_iter().collect()
    }

    #[test]
    fn a_profile_is_what_was_asked_for_and_a_way_to_more() {
        let all = Profile::default();
        assert!(names(&all).len() > 15 && !names(&all).contains(&GROUP));
        let groups = Some(vec!["run".to_owned()]);
        assert_eq!(names(&Profile { groups: groups.clone(), shown: None }), ["run"]);
        let profile = Profile { groups, shown: Some(Shown::default()) };
        assert_eq!(names(&profile), [GROUP, "run"]);
        profile.shown.as_ref().expect("a session").lock().expect("no panic").insert("email".to_owned());
        assert_eq!(names(&profile), ["email", GROUP, "run"]);
    }

    #[test]
    fn every_group_is_named_to_the_model() {
        for listed in catalogue::all().iter().filter(|listed| listed.group != GROUP) {
            assert!(MoreTools::DESCRIPTION.contains(listed.group), "{}", listed.group);
        }
    }
}
