//! From a project's files to a site on the web.

use super::answer::{self, Answer};
use super::runs::{self, PATIENCE, Patience, result_schema};
use super::tool::{Call, Effect, Tool};
use crate::projects::Entry;
use crate::service::{Error, check_build};
use sandbox_wire::deploy::{Deploy, DeployRequest, SiteRequest};
use sandbox_wire::{Code, Command, Problem, RunResult};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct BuildAndDeployInput {
    /// The project that is built: its id or url_id.
    #[serde(default)]
    project_id: String,
    /// The line for /bin/sh that builds it, such as `npm ci && npm run build`.
    command: String,
    /// Where the command starts; the project's own folder when absent.
    cwd: Option<String>,
    /// Milliseconds after which the command is killed: 1 to 300000, 120000 when absent.
    #[schemars(range(min = 1, max = 300_000))]
    timeout_ms: Option<i64>,
    /// The folder that the build leaves and that becomes the site, relative to the project's folder, such as `dist`.
    /// No site when absent.
    dir: Option<String>,
    /// Functions that go live: from their names to files of the project, such as {"hello": "functions/hello.mjs"}.
    #[serde(default)]
    functions: BTreeMap<String, String>,
}

pub(crate) struct BuildAndDeploy;

impl Tool for BuildAndDeploy {
    const NAME: &'static str = "build_and_deploy";
    const TITLE: &'static str = "Build and deploy";
    const DESCRIPTION: &'static str = "Runs the build command in the project's sandbox and, when it ends with 0, makes what \
        it leaves live: a folder as the site, files as functions. Answers with the run and the release, whose `url` is \
        where the site is. When the build fails nothing is deployed, and the answer has its output: mend it and call \
        again. Only files that changed are sent. Needs a token with the scopes `run` and `deploy`. \
        Example: {\"project_id\": \"shop\", \"command\": \"npm ci && npm run build\", \"dir\": \"dist\"}";
    const EFFECT: Effect = Effect::Anything;
    type Input = BuildAndDeployInput;

    fn output() -> Value {
        json!({
            "type": "object",
            "properties": {"build": result_schema(), "release": release_schema()}
        })
    }

    async fn call(call: Call, input: BuildAndDeployInput) -> Result<Answer, Error> {
        let entry = call.project_to_deploy(&input.project_id)?;
        call.project_to_run(&input.project_id)?;
        if input.dir.is_none() && input.functions.is_empty() {
            let sentence = "there is nothing to deploy: name the folder that becomes the site, or functions";
            return Err(Problem::new(Code::InvalidRequest, sentence).with("field", "dir").into());
        }
        // All that can be found wrong without the build is found before it.
        let release = request(input.dir, input.functions);
        call.service.prepare_deploy(&call.caller, &entry, release.clone())?;
        let build = runs::request(Command::Shell(input.command), input.cwd, input.timeout_ms);
        let prepared = call.service.prepare(&call.caller, &entry, build)?;
        let run = prepared.order.run.clone();
        let Some(built) =
            call.unless_cancelled(runs::finish(&call, &entry, prepared, Patience::UnlessItListens(PATIENCE))).await?
        else {
            let text = format!(
                "The build goes on in the background as {run}. Wait for its end with run_output {{\"run_id\": \"{run}\", \
                 \"wait_ms\": 45000}}; when it has exited with 0, deploy_project makes what it left live."
            );
            return Ok(Answer::new(text, &json!({"build": {"run_id": run, "status": "running"}})));
        };
        if let Err(problem) = check_build(built.status, built.exit_code) {
            return Ok(unbuilt(&problem, &built));
        }
        let deploy = deploy(&call, &entry, release).await?;
        Ok(Answer::new(live(&deploy), &json!({"build": built, "release": deploy})))
    }
}

/// What the command wrote says what is to be mended.
fn unbuilt(problem: &Problem, built: &RunResult) -> Answer {
    answer::of_run(built).within("build").note(format!("Error: {problem}")).failing()
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct DeployProjectInput {
    /// The project whose files go live: its id or url_id.
    #[serde(default)]
    project_id: String,
    /// The folder that becomes the site, relative to the project's folder; `dist` when absent.
    dir: Option<String>,
}

pub(crate) struct DeployProject;

impl Tool for DeployProject {
    const NAME: &'static str = "deploy_project";
    const TITLE: &'static str = "Deploy a project's site";
    const DESCRIPTION: &'static str = "Makes a folder of the project live as its site, as it is: for what needs no build, \
        or was built already. It replaces the site that was live before. Answers with the release; its `url` is where the \
        site is. Use build_and_deploy to build first. Needs a token with the scope `deploy`. \
        Example: {\"project_id\": \"shop\", \"dir\": \"public\"}";
    const EFFECT: Effect = Effect::Replaces;
    type Input = DeployProjectInput;

    fn output() -> Value {
        release_schema()
    }

    async fn call(call: Call, input: DeployProjectInput) -> Result<Answer, Error> {
        let entry = call.project_to_deploy(&input.project_id)?;
        let dir = input.dir.unwrap_or_else(|| "dist".to_owned());
        let deploy = deploy(&call, &entry, request(Some(dir), BTreeMap::new())).await?;
        Ok(Answer::new(live(&deploy), &deploy))
    }
}

fn request(dir: Option<String>, functions: BTreeMap<String, String>) -> DeployRequest {
    let functions: Map<String, Value> = functions.into_iter().map(|(name, file)| (name, file.into())).collect();
    DeployRequest { site: dir.map(|dir| SiteRequest { dir }), functions, ..DeployRequest::default() }
}

async fn deploy(call: &Call, entry: &Entry, request: DeployRequest) -> Result<Deploy, Error> {
    let (_no_build, release) = call.service.prepare_deploy(&call.caller, entry, request)?;
    let watch = crate::deploys::Watch::default();
    call.unless_cancelled(call.service.release(entry, release, &watch)).await
}

fn live(deploy: &Deploy) -> String {
    let at = if deploy.url.is_empty() { "without a site".to_owned() } else { format!("at {}", deploy.url) };
    format!(
        "Live {at}: release {}, {} files, of which {} were new",
        deploy.release_id, deploy.files_total, deploy.files_uploaded
    )
}

fn release_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": {"type": "string", "description": "the gateway's operation"},
            "gateway_project": {"type": "string"},
            "release_id": {"type": "string"},
            "status": {"type": "string"},
            "url": {"type": "string", "description": "where the site is; empty when there is none"},
            "urls": {"type": "object"},
            "files_uploaded": {"type": "integer"},
            "files_total": {"type": "integer"},
            "warnings": {"type": "array", "items": {"type": "object"}}
        },
        "required": ["id", "gateway_project", "release_id", "status", "url"]
    })
}
