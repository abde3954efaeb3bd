//! Deploying what is in a workspace.

use super::{Error, Service};
use crate::deploys::{self, Gateway, Sources, Target, Wanted, Watch};
use crate::projects::Entry;
use crate::runs::Prepared;
use crate::tokens::Caller;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use run402::deploy::walk::Root;
use run402::environment::Settings;
use run402::tools::{self, Files, NoFiles, Tool, Written};
use sandbox_policy::PROJECT;
use sandbox_wire::deploy::{BuildRequest, Deploy, DeployList, DeployRequest, FilesDeploy, FilesDeployed};
use sandbox_wire::{Code, Problem, RunRequest, RunState, Scope};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What marks a file of `POST …/deploy` that is not text.
const BASE64: &str = "__b64__";

impl Service {
    /// The project, for a caller with the scope `deploy`.
    pub(crate) fn project_to_deploy(&self, caller: &Caller, name: &str) -> Result<Arc<Entry>, Problem> {
        let entry = self.project(caller, name)?;
        caller.require(Scope::Deploy)?;
        Ok(entry)
    }

    /// Which gateway the environment names.
    async fn settings(&self) -> Result<Settings, Error> {
        let state = self.state.clone();
        Ok(tokio::task::spawn_blocking(move || deploys::settings(&state)).await.map_err(Error::internal)??)
    }

    async fn gateway(&self) -> Result<Gateway, Error> {
        let settings = self.settings().await?;
        let embedded = match settings.deploy_base() {
            Some(_) => None,
            None => Some(self.gateway.base(&self.state).await?),
        };
        Ok(Gateway::new(settings, embedded.as_ref())?)
    }

    async fn target(&self) -> Result<Target, Error> {
        let (state, gateway) = (self.state.clone(), self.gateway().await?);
        let open = move || Target::open(&state, &gateway);
        Ok(tokio::task::spawn_blocking(open).await.map_err(Error::internal)??)
    }

    /// Whether a gateway is named, and not just the embedded one started when it is needed.
    pub(crate) async fn has_named_gateway(&self) -> Result<bool, Error> {
        Ok(self.settings().await?.deploy_base().is_some())
    }

    /// Calls one of the gateway's tools with the daemon's own wallet and keys, which are good for all projects.
    /// `entry` is whose project there is meant where none is named, and `files` whose files.
    pub(crate) async fn call_gateway(
        self: &Arc<Self>,
        caller: &Caller,
        tool: &Tool,
        arguments: &Map<String, Value>,
        entry: Option<&Entry>,
        files: Option<Arc<Entry>>,
    ) -> Result<Result<Value, run402::error::Error>, Error> {
        caller.require_for_all_projects(Scope::Deploy)?;
        if tool.is_local() {
            return Ok(tools::call_local(tool, &self.gateway().await?.environment, arguments).await);
        }
        let files: Box<dyn Files> = match files {
            Some(entry) => Box::new(WorkspaceFiles { service: Arc::clone(self), entry }),
            None => Box::new(NoFiles),
        };
        Ok(self.target().await?.call(tool, arguments, entry.map(|entry| entry.id), &*files).await)
    }

    /// Checks all of a request that can be checked before its build has run.
    pub(crate) fn prepare_deploy(
        &self,
        caller: &Caller,
        entry: &Entry,
        request: DeployRequest,
    ) -> Result<(Option<Prepared>, Release), Problem> {
        let build = request.build.map(|build| self.prepare_build(caller, entry, build)).transpose()?;
        let mut manifest = request.release;
        let site = request.site.map(|site| json!({"replace": {"__source": "local-dir", "path": site.dir}}));
        let functions = (!request.functions.is_empty()).then(|| functions(request.functions));
        for (name, slice) in [("site", site), ("functions", functions)] {
            let Some(slice) = slice else { continue };
            if manifest.insert(name.to_owned(), slice).is_some() {
                let sentence = format!("{name} and release.{name} exclude each other");
                return Err(Problem::new(Code::InvalidManifest, sentence).with("field", name));
            }
        }
        let wanted = Wanted {
            manifest: Value::Object(manifest),
            sources: Some(sources(entry)?),
            allow_warnings: request.allow_warnings,
            idempotency_key: request.idempotency_key,
        };
        Ok((build, Release { wanted, gateway_project: request.gateway_project }))
    }

    /// Builds when that is asked for, and deploys when the build has succeeded.
    pub(crate) async fn deploy(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        build: Option<Prepared>,
        release: Release,
    ) -> Result<Deploy, Error> {
        let mut built = None;
        if let Some(prepared) = build {
            let result = self.run(entry, prepared).await?;
            let shown = serde_json::to_value(&result).map_err(Error::internal)?;
            check_build(result.status, result.exit_code).map_err(|problem| problem.with("run", shown))?;
            built = Some(result);
        }
        Ok(Deploy { build: built, ..self.release(entry, release, &Watch::default()).await? })
    }

    /// Makes a release live; `watch` is told how far it is.
    pub(crate) async fn release(&self, entry: &Entry, release: Release, watch: &Watch) -> Result<Deploy, Error> {
        let Release { mut wanted, gateway_project } = release;
        let target = self.target().await?;
        let name = entry.record().file.name.clone();
        let project = target.project(entry.id, gateway_project, &name).await?;
        if let Some(fields) = wanted.manifest.as_object_mut() {
            fields.insert("project".to_owned(), json!(project));
        }
        let released = target.deploy(&project, wanted, watch).await?;
        let progress = watch.progress();
        Ok(Deploy {
            id: released.operation_id.clone(),
            gateway_project: project,
            release_id: released.release_id.clone(),
            status: "ready".to_owned(),
            url: released.url().unwrap_or_default().to_owned(),
            urls: released.urls,
            files_uploaded: progress.files_uploaded,
            files_total: progress.files_uploaded + progress.files_unchanged,
            warnings: released.warnings,
            build: None,
        })
    }

    fn prepare_build(&self, caller: &Caller, entry: &Entry, build: BuildRequest) -> Result<Prepared, Problem> {
        caller.require(Scope::Run)?;
        let BuildRequest { command, cwd, timeout_ms, env, policy } = build;
        let request = RunRequest { cwd, timeout_ms, env, policy, ..RunRequest::new(command) };
        self.prepare(caller, entry, request)
    }

    pub(crate) async fn list_deploys(&self, entry: &Entry) -> Result<DeployList, Error> {
        let target = self.target().await?;
        let deploys = match target.linked(entry.id) {
            Some(project) => target.list(&project).await?,
            None => Vec::new(),
        };
        Ok(DeployList { deploys })
    }

    /// Files that the caller sends become the site.
    pub(crate) async fn deploy_files(&self, entry: &Entry, request: FilesDeploy) -> Result<FilesDeployed, Error> {
        let source = |(path, text): (String, String)| match text.strip_prefix(BASE64) {
            None => Ok((path, json!({"data": STANDARD.encode(text), "encoding": "base64"}))),
            Some(encoded) if STANDARD.decode(encoded).is_ok() => {
                Ok((path, json!({"data": encoded, "encoding": "base64"})))
            }
            Some(_) => {
                let problem = Problem::new(Code::InvalidRequest, format!("{path} is not base64 after {BASE64}"));
                Err(problem.with("field", format!("files.{path}")))
            }
        };
        let files = request.files.into_iter().map(source).collect::<Result<Map<String, Value>, Problem>>()?;
        let wanted = Wanted {
            manifest: json!({"site": {"replace": files}}),
            sources: None,
            allow_warnings: Vec::new(),
            idempotency_key: None,
        };
        let release = Release { wanted, gateway_project: None };
        let deploy = self.release(entry, release, &Watch::default()).await?;
        Ok(FilesDeployed {
            deploy_id: deploy.id,
            site_id: deploy.gateway_project,
            netlify_url: deploy.url.clone(),
            url: deploy.url,
            status: deploy.status,
            files_uploaded: deploy.files_uploaded,
            files_total: deploy.files_total,
        })
    }
}

/// A project's files, as the gateway's tools name them.
#[derive(Debug)]
struct WorkspaceFiles {
    service: Arc<Service>,
    entry: Arc<Entry>,
}

fn no_file(name: &str, why: impl std::fmt::Display) -> run402::error::Error {
    run402::error::Error::local("BAD_ARGUMENT", format!("{name}: {why}"))
}

impl Files for WorkspaceFiles {
    fn locate(&self, name: &str) -> Result<(Root, PathBuf), run402::error::Error> {
        let within = beneath(name).ok_or_else(|| no_file(name, "that is outside of the project"))?;
        Ok((sources(&self.entry).map_err(|problem| no_file(name, problem))?.open()?, within))
    }

    fn write<'a>(&'a self, name: &'a str, bytes: Bytes) -> Written<'a> {
        Box::pin(async move {
            let written = self.service.write_file(&self.entry, name, bytes.to_vec()).await;
            written.map(drop).map_err(|error| no_file(name, error.into_problem()))
        })
    }
}

/// A name as it is beneath the workspace.
fn beneath(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    match path.is_absolute() {
        true => path.strip_prefix(PROJECT).ok().map(Path::to_owned),
        false => Some(path.to_owned()),
    }
}

/// A release of a workspace, as far as this daemon checks it.
#[derive(Debug)]
pub(crate) struct Release {
    wanted: Wanted,
    gateway_project: Option<String>,
}

/// Only what a successful build has left is deployed.
pub(crate) fn check_build(status: RunState, exit_code: Option<i32>) -> Result<(), Problem> {
    let how = match (status, exit_code) {
        (RunState::Exited, Some(0)) => return Ok(()),
        (RunState::Exited, Some(code)) => format!("ended with {code}"),
        (status, _) => format!("ended as {}", json!(status).as_str().unwrap_or_default()),
    };
    Err(Problem::new(Code::BuildFailed, format!("the build command {how}; nothing was deployed")))
}

/// The slice of a manifest. Names alone touch only the functions that they name.
fn functions(given: Map<String, Value>) -> Value {
    if given.keys().all(|name| name == "replace" || name == "patch") {
        return Value::Object(given);
    }
    let function = |(name, function): (String, Value)| match function {
        Value::String(path) => (name, json!({"source": {"path": path}})),
        other => (name, other),
    };
    let set: Map<String, Value> = given.into_iter().map(function).collect();
    json!({"patch": {"set": set}})
}

fn sources(entry: &Entry) -> Result<Sources, Problem> {
    let record = entry.record();
    let Some(policy) = &record.policy else {
        let sentence = format!("the project's policy `{}` does not exist", record.file.policy);
        return Err(Problem::new(Code::PolicyNotFound, sentence));
    };
    let within = |denied: &String| Path::new(denied).strip_prefix(PROJECT).ok().map(Path::to_owned);
    Ok(Sources {
        folder: entry.workspace(),
        denied: policy.policy.filesystem().deny.iter().filter_map(within).collect(),
    })
}
