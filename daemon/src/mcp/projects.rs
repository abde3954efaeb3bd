//! Projects, as agents make and find them.

use super::answer::Answer;
use super::tool::{Call, Effect, Tool};
use crate::service::{Created, Error};
use sandbox_wire::Project;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

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
pub(crate) struct ListProjectsInput {}

pub(crate) struct ListProjects;

impl Tool for ListProjects {
    const NAME: &'static str = "list_projects";
    const TITLE: &'static str = "List projects";
    const DESCRIPTION: &'static str = "Lists the projects that this connection may use, oldest first, with id, url_id, name \
        and policy. Use it to find the project_id that the other tools take. Example: {}";
    const EFFECT: Effect = Effect::Reads;
    type Input = ListProjectsInput;

    fn output() -> Value {
        json!({
            "type": "object",
            "properties": {"projects": {"type": "array", "items": project_schema()}},
            "required": ["projects"]
        })
    }

    async fn call(call: Call, _input: ListProjectsInput) -> Result<Answer, Error> {
        let list = call.service.list_projects(&call.caller);
        let lines: Vec<String> = list.projects.iter().map(line).collect();
        let text = if lines.is_empty() { "no projects; create_project makes one".to_owned() } else { lines.join("\n") };
        Ok(Answer::new(text, &list))
    }
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
