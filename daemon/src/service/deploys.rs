//! Deploying what is in a workspace.

use super::{Error, Service};
use crate::deploys::{Done, Target, Wanted};
use crate::projects::Entry;
use crate::tokens::Caller;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sandbox_wire::deploy::{BuildRequest, Deploy, DeployList, DeployRequest, FilesDeploy, FilesDeployed};
use sandbox_wire::{Code, Encoding, Problem, RunRequest, RunResult, RunState, Scope};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
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

    async fn target(&self) -> Result<Target, Error> {
        let state = self.state.clone();
        let opened = tokio::task::spawn_blocking(move || Target::open(&state)).await.map_err(Error::internal)?;
        Ok(opened?)
    }

    /// Builds when that is asked for, and deploys when the build has succeeded.
    pub(crate) async fn deploy(
        self: &Arc<Self>,
        caller: &Caller,
        entry: &Arc<Entry>,
        request: DeployRequest,
    ) -> Result<Deploy, Error> {
        let build = match request.build {
            Some(build) => Some(self.build(caller, entry, build).await?),
            None => None,
        };
        let mut manifest = request.release;
        if let Some(site) = request.site {
            let replace = json!({"replace": {"__source": "local-dir", "path": site.dir}});
            if manifest.insert("site".to_owned(), replace).is_some() {
                let problem = Problem::new(Code::InvalidManifest, "site and release.site exclude each other");
                return Err(problem.with("field", "site").into());
            }
        }
        let wanted = Wanted {
            manifest: Value::Object(manifest),
            root: Some(workspace(entry)),
            allow_warnings: request.allow_warnings,
            idempotency_key: request.idempotency_key,
        };
        let (project, done) = self.make_live(entry, request.gateway_project, wanted).await?;
        Ok(Deploy {
            id: done.released.operation_id.clone(),
            gateway_project: project,
            release_id: done.released.release_id.clone(),
            status: "ready".to_owned(),
            url: done.released.url().unwrap_or_default().to_owned(),
            urls: done.released.urls,
            files_uploaded: done.sent,
            files_total: done.total,
            warnings: done.released.warnings,
            build,
        })
    }

    async fn make_live(
        &self,
        entry: &Entry,
        named: Option<String>,
        mut wanted: Wanted,
    ) -> Result<(String, Done), Error> {
        let target = self.target().await?;
        let name = entry.record().file.name.clone();
        let project = target.project(entry.id, named, &name).await?;
        if let Some(fields) = wanted.manifest.as_object_mut() {
            fields.insert("project".to_owned(), json!(project));
        }
        let done = target.deploy(&project, wanted).await?;
        Ok((project, done))
    }

    async fn build(
        self: &Arc<Self>,
        caller: &Caller,
        entry: &Arc<Entry>,
        build: BuildRequest,
    ) -> Result<RunResult, Error> {
        caller.require(Scope::Run)?;
        let BuildRequest { command, cwd, timeout_ms, env, policy } = build;
        let request = RunRequest {
            command,
            cwd,
            timeout_ms,
            env,
            stdin: None,
            stdin_encoding: Encoding::Utf8,
            policy,
            policy_toml: None,
            encoding: Encoding::Utf8,
            keep_background: false,
            on_disconnect: None,
            idempotency_key: None,
        };
        let prepared = self.prepare(caller, entry, request)?;
        let result = self.run(entry, prepared).await?;
        if result.status == RunState::Exited && result.exit_code == Some(0) {
            return Ok(result);
        }
        let how = match (result.status, result.exit_code) {
            (RunState::Exited, Some(code)) => format!("ended with {code}"),
            (status, _) => format!("ended as {}", json!(status).as_str().unwrap_or_default()),
        };
        let problem = Problem::new(Code::BuildFailed, format!("the build command {how}; nothing was deployed"));
        Err(problem.with("run", serde_json::to_value(&result).map_err(Error::internal)?).into())
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
            root: None,
            allow_warnings: Vec::new(),
            idempotency_key: None,
        };
        let (project, done) = self.make_live(entry, None, wanted).await?;
        let url = done.released.url().unwrap_or_default().to_owned();
        Ok(FilesDeployed {
            deploy_id: done.released.operation_id,
            site_id: project,
            netlify_url: url.clone(),
            url,
            status: "ready".to_owned(),
            files_uploaded: done.sent,
            files_total: done.total,
        })
    }
}

fn workspace(entry: &Entry) -> PathBuf {
    match &entry.record().file.dir {
        Some(dir) => PathBuf::from(dir),
        None => entry.folder.join("workspace"),
    }
}
