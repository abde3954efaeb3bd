//! Projects, as agents make and find them.

use super::answer::Answer;
use super::gateway::LIST_PROJECTS;
use super::tool::{Call, Effect, Tool};
use crate::service::{Created, Error};
use sandbox_wire::{Project, Scope};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct CreateProjectInput {
    /// What it is called, by people; its url_id is made from this. A made-up name when absent.
    name: Option<String>,
    /// Name of the policy for its commands, such as `default` (no network) or `node-build` (network, for installing
    /// packages). `default` when absent.
    policy: Option<String>,
}

pub(crate) struct CreateProject;

impl Tool for CreateProject {
    const NAME: &'static str = "create_project";
    const TITLE: &'static str = "Create a project";
    const DESCRIPTION: &'static str = "Makes an empty project: a folder, a sandbox and a policy of its own, apart from all \
        other projects. Use it once for each piece of work, then pass its id or url_id as project_id. Needs a token with \
        the scope `admin`. Answers with the project. \
        Example: {\"name\": \"shop\", \"policy\": \"node-build\"}";
    const EFFECT: Effect = Effect::Adds;
    type Input = CreateProjectInput;

    fn output() -> Value {
        project_schema()
    }

    async fn call(call: Call, input: CreateProjectInput) -> Result<Answer, Error> {
        let CreateProjectInput { name, policy } = input;
        let request = sandbox_wire::CreateProject { name, policy, ..sandbox_wire::CreateProject::default() };
        match call.service.create_project(&call.caller, request).await? {
            Created::Now(project) | Created::Before(project) => Ok(shown(&project)),
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct ListProjectsInput {
    /// Of the gateway's projects only those of this organisation.
    org_id: Option<String>,
    /// Of the gateway's projects all that an operator may see.
    all: Option<bool>,
    /// Of the gateway's projects at most so many.
    #[schemars(range(min = 1))]
    limit: Option<u32>,
    /// Where the gateway's answer before has ended: its next_cursor.
    cursor: Option<String>,
}

impl ListProjectsInput {
    /// As the gateway's tool of this name takes them.
    fn arguments(&self) -> Map<String, Value> {
        let fields = [
            ("org_id", self.org_id.clone().map(Value::from)),
            ("all", self.all.map(Value::from)),
            ("limit", self.limit.map(Value::from)),
            ("cursor", self.cursor.clone().map(Value::from)),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

pub(crate) struct ListProjects;

impl Tool for ListProjects {
    const NAME: &'static str = "list_projects";
    const TITLE: &'static str = "List projects";
    const DESCRIPTION: &'static str = "Lists the projects that this connection may use, oldest first, with id, url_id, name \
        and policy. Use it to find the project_id that the other tools take. Where a run402 gateway is configured, the \
        projects of its wallet are in `gateway`, in pages; org_id, all, limit and cursor are about those. Example: {}";
    const EFFECT: Effect = Effect::Reads;
    type Input = ListProjectsInput;

    fn output() -> Value {
        json!({
            "type": "object",
            "properties": {
                "projects": {"type": "array", "items": project_schema()},
                "gateway": {"type": "object", "description": "its projects, has_more and next_cursor; or why they are unavailable"}
            },
            "required": ["projects"]
        })
    }

    async fn call(call: Call, input: ListProjectsInput) -> Result<Answer, Error> {
        let list = call.service.list_projects(&call.caller);
        let lines: Vec<String> = list.projects.iter().map(line).collect();
        let mut text =
            if lines.is_empty() { "no projects; create_project makes one".to_owned() } else { lines.join("\n") };
        let mut data = json!(list);
        if let Some(gateway) = at_gateway(&call, input.arguments()).await? {
            text.push_str(&format!("\n\nAt the gateway: {gateway}"));
            data["gateway"] = gateway;
        }
        Ok(Answer::new(text, &data))
    }
}

/// The gateway's projects, for callers who may use it: when they are asked for, or when a gateway is configured. What it
/// does not answer does not keep anybody from our own.
async fn at_gateway(call: &Call, arguments: Map<String, Value>) -> Result<Option<Value>, Error> {
    let wanted = !arguments.is_empty();
    let may = call.caller.require_for_all_projects(Scope::Deploy);
    if !wanted && (may.is_err() || !call.service.has_named_gateway().await.unwrap_or(false)) {
        return Ok(None);
    }
    may?;
    let tool = run402::tools::named(LIST_PROJECTS).ok_or_else(|| Error::internal("a tool without an entry"))?;
    let asked = call.unless_cancelled(call.service.call_gateway(&call.caller, tool, &arguments, None, None)).await;
    let unavailable = |why: String| json!({ "unavailable": why });
    Ok(Some(match asked {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => unavailable(error.to_string()),
        Err(error) => unavailable(error.into_problem().to_string()),
    }))
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct GetProjectInput {
    /// The project's id or url_id.
    #[serde(default)]
    project_id: String,
}

pub(crate) struct GetProject;

impl Tool for GetProject {
    const NAME: &'static str = "get_project";
    const TITLE: &'static str = "Show a project";
    const DESCRIPTION: &'static str = "Shows one project: its ids, name, policy, when it was made and the address of its \
        preview. Example: {\"project_id\": \"shop\"}. Answers `Error: …` when there is no such project.";
    const EFFECT: Effect = Effect::Reads;
    type Input = GetProjectInput;

    fn output() -> Value {
        project_schema()
    }

    async fn call(call: Call, input: GetProjectInput) -> Result<Answer, Error> {
        let entry = call.project(&input.project_id)?;
        Ok(shown(&call.service.describe(&entry)))
    }
}

fn shown(project: &Project) -> Answer {
    Answer::new(line(project), project)
}

fn line(project: &Project) -> String {
    format!("{} (id {}): {}, policy {}", project.url_id, project.id, project.name, project.policy)
}

fn project_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": {"type": "string"}, "url_id": {"type": "string"}, "name": {"type": "string"},
            "created_at": {"type": "string"}, "preview_url": {"type": "string"}, "access_type": {"type": "string"},
            "policy": {"type": "string"}, "dir": {"type": "string"}
        },
        "required": ["id", "url_id", "name", "created_at", "preview_url", "access_type", "policy"]
    })
}
