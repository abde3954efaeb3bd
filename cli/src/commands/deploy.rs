//! `sandboxctl deploy`: releases, by parts or whole.

use crate::args::{DeployCommand, Globals, IntoArgs, SecretCommand};
use crate::deployment::progress::Display;
use crate::deployment::target::Target;
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::render;
use run402::api::functions::{self, DeployedFunction, NewFunction};
use run402::api::{releases, secrets};
use run402::deploy::spec::Manifest;
use run402::deploy::walk::Root;
use run402::deploy::{AllowWarnings, Deploy, Options, Polling, Silent};
use run402::error::Error;
use run402::keys::Field;
use sandbox_wire::{Code, Problem};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longer files are not manifests or functions.
const MAX_FILE_BYTES: u64 = 16 << 20;
const MAX_SECRET_BYTES: u64 = 4096;

pub(crate) async fn dispatch(globals: &Globals, command: DeployCommand) -> Result<u8, Failure> {
    let mut interrupts = Interrupts::listen();
    tokio::select! {
        done = perform(globals, command) => done.map(|()| 0),
        signal = interrupts.next() => Ok(signal.exit_code()),
    }
}

async fn perform(globals: &Globals, command: DeployCommand) -> Result<(), Failure> {
    match command {
        DeployCommand::Init { name, new_wallet } => init(globals, name, new_wallet).await,
        DeployCommand::Site { dir, into } => site(globals, &dir, &into).await,
        DeployCommand::Function { name, file, timeout, memory, schedule, deps, into } => {
            let code = String::from_utf8(read(&file)?)
                .map_err(|_| Failure::new(Code::InvalidManifest, format!("{} is not UTF-8", file.display())))?;
            let function = NewFunction {
                name,
                code,
                timeout_seconds: timeout,
                memory_mb: memory,
                deps,
                schedule: schedule.map(Some),
            };
            let mut target = Target::open(globals)?;
            let project = target.project(into.project.as_deref()).await?;
            let options = options(&into);
            let deployed = functions::deploy(&target.account.client, &project, function, &options, &Silent).await?;
            show_function(&deployed, globals.json);
            Ok(())
        }
        DeployCommand::Release { manifest, into } => release(globals, &manifest, &into).await,
        DeployCommand::List { project, limit } => list(globals, project.as_deref(), limit).await,
        DeployCommand::Diff { from, to, project } => {
            let mut target = Target::open(globals)?;
            let project = target.project(project.as_deref()).await?;
            let difference = releases::diff(&target.account.client, &project, &from, &to, None).await?;
            match globals.json {
                true => render::json(&difference),
                false => render::text(&difference_lines(&difference)),
            }
            Ok(())
        }
        DeployCommand::Resume { operation, project } => {
            let mut target = Target::open(globals)?;
            let project = target.project(project.as_deref()).await.ok();
            let polling = Polling::default();
            let released =
                run402::deploy::resume(&target.account.client, project.as_deref(), &operation, &polling, &Silent)
                    .await?;
            show_release(
                &Outcome::Released {
                    url: released.url().unwrap_or_default().to_owned(),
                    released: Box::new(json!(released)),
                    sent: 0,
                    kept: 0,
                },
                globals.json,
            );
            Ok(())
        }
        DeployCommand::Logs { name, tail, project } => {
            let mut target = Target::open(globals)?;
            let project = target.project(project.as_deref()).await?;
            let wanted = functions::LogQuery { tail: Some(tail), ..functions::LogQuery::default() };
            let lines = functions::logs(&target.account.client, &project, &name, &wanted).await?;
            match globals.json {
                true => render::json(&lines),
                false => {
                    let line = |line: &functions::LogLine| {
                        let at = line.timestamp.as_str().unwrap_or_default();
                        format!("{} {}\n", render::plain(at), render::plain(&line.message))
                    };
                    render::text(&lines.iter().map(line).collect::<String>());
                }
            }
            Ok(())
        }
        DeployCommand::Secret(command) => secret(globals, command).await,
    }
}

async fn init(globals: &Globals, name: Option<String>, new_wallet: bool) -> Result<(), Failure> {
    if new_wallet {
        Target::make_wallet(globals)?;
    }
    let target = Target::open(globals)?;
    let project = target.account.provision(name.as_deref()).await?;
    match globals.json {
        true => render::json(
            &json!({"project_id": project, "gateway": target.account.client.base(), "wallet": target.account.client.address()}),
        ),
        false => render::text(&format!("{project}\n")),
    }
    Ok(())
}

async fn site(globals: &Globals, dir: &Path, into: &IntoArgs) -> Result<(), Failure> {
    let folder = PathBuf::from(super::project::folder(dir)?);
    let mut target = Target::open(globals)?;
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let project = target.project_of(&folder, into.project.as_deref(), &name).await?;
    let manifest = json!({"project": project, "site": {"replace": {"__source": "local-dir", "path": "."}}});
    let plan = Plan { target: &target, project: &project, folder: &folder, into, quiet: globals.json };
    show_release(&plan.release(manifest).await?, globals.json);
    Ok(())
}

async fn release(globals: &Globals, path: &Path, into: &IntoArgs) -> Result<(), Failure> {
    let value: Value = serde_json::from_slice(&read(path)?)
        .map_err(|error| Failure::new(Code::InvalidManifest, format!("{}: {error}", path.display())))?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = PathBuf::from(super::project::folder(folder)?);
    let mut target = Target::open(globals)?;
    let named = value.get("project").or_else(|| value.get("project_id")).and_then(Value::as_str).map(str::to_owned);
    let project = target.project(into.project.as_deref().or(named.as_deref())).await?;
    let plan = Plan { target: &target, project: &project, folder: &folder, into, quiet: globals.json };
    show_release(&plan.release(value).await?, globals.json);
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(Code::InvalidManifest, format!("cannot read {}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > MAX_FILE_BYTES {
        true => Err(Failure::new(Code::InvalidManifest, format!("{} is longer than 16 MiB", path.display()))),
        false => Ok(bytes),
    }
}

fn options(into: &IntoArgs) -> Options {
    let allow_warnings = match into.allow_warnings.as_slice() {
        [] => AllowWarnings::Nothing,
        codes => AllowWarnings::Codes(codes.iter().cloned().collect()),
    };
    Options { allow_warnings, idempotency_key: into.idempotency_key.clone(), ..Options::default() }
}

/// A release of a folder on its way.
pub(crate) struct Plan<'a> {
    pub(crate) target: &'a Target,
    pub(crate) project: &'a str,
    /// File names start here.
    pub(crate) folder: &'a Path,
    pub(crate) into: &'a IntoArgs,
    pub(crate) quiet: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Outcome {
    Released {
        /// Where the site is.
        url: String,
        #[serde(flatten)]
        released: Box<Value>,
        #[serde(rename = "files_uploaded")]
        sent: usize,
        #[serde(rename = "files_unchanged")]
        kept: usize,
    },
    Planned(Box<Value>),
}

impl Plan<'_> {
    pub(crate) async fn release(&self, manifest: Value) -> Result<Outcome, Failure> {
        let manifest = Manifest::from_json(manifest, Some(self.project))?;
        let root = Root::open(self.folder)?;
        let mut options = options(self.into);
        options.idempotency_key = options.idempotency_key.or(manifest.idempotency_key);
        options.cache = Some(self.target.hash_cache(self.folder));
        let display = Display::new(self.quiet);
        let deploy = Deploy::new(manifest.spec, Some(root));
        let client = &self.target.account.client;
        let outcome = match self.into.dry_run {
            true => {
                let plan = deploy.dry_run(client, &options, display.hashing()).await;
                plan.map(|plan| Outcome::Planned(Box::new(plan.to_json())))
            }
            false => match deploy.apply(client, &options, display.hashing(), &display).await {
                Ok(released) => {
                    let kept = self.target.account.keys.update(self.project, |entry| {
                        entry.set(Field::LastDeploymentId, Some(released.deployment_id()));
                    });
                    // A project whose keys are not here is not remembered either.
                    kept.await.map_err(Error::from).map(|_| Outcome::Released {
                        url: released.url().unwrap_or_default().to_owned(),
                        released: Box::new(json!(released)),
                        sent: display.sent(),
                        kept: display.skipped(),
                    })
                }
                Err(error) => Err(error),
            },
        };
        display.finish();
        Ok(outcome?)
    }
}

/// For people: what happened on standard error, the URL alone on standard output.
pub(crate) fn show_release(outcome: &Outcome, json: bool) {
    if json {
        return render::json(outcome);
    }
    match outcome {
        Outcome::Planned(plan) => render::text(&difference_lines(plan)),
        Outcome::Released { url, released, sent, kept } => {
            let field = |name: &str| released[name].as_str().unwrap_or_default().to_owned();
            let totals = &released["diff"]["site"]["totals"];
            let mut lines = vec![("release", field("release_id")), ("operation", field("operation_id"))];
            if totals.is_object() {
                let text =
                    format!("{} added, {} changed, {} removed", totals["added"], totals["changed"], totals["removed"]);
                lines.push(("files", text));
            }
            lines.push(("uploaded", format!("{sent}, {kept} were there")));
            if let Some((new, all)) = bytes(&released["diff"]) {
                lines.push(("bytes", format!("{new} of {all}")));
            }
            for (name, value) in released["urls"].as_object().into_iter().flatten() {
                if let Some(url) = value.as_str().filter(|url| url.starts_with("http")) {
                    lines.push((name, url.to_owned()));
                }
            }
            for warning in released["warnings"].as_array().into_iter().flatten() {
                lines.push(("warning", warning["message"].as_str().unwrap_or_default().to_owned()));
            }
            for (name, value) in &lines {
                eprintln!("{:<10} {}", render::plain(name), render::plain(value));
            }
            render::text(&format!("{}\n", render::plain(url)));
        }
    }
}

fn bytes(diff: &Value) -> Option<(u64, u64)> {
    let assets = &diff["static_assets"];
    let new = assets["newly_uploaded_cas_bytes"].as_u64()?;
    Some((new, new + assets["reused_cas_bytes"].as_u64()?))
}

/// One line for each file or function that differs.
fn difference_lines(difference: &Value) -> String {
    let mut lines = Vec::new();
    for (sign, bucket) in [("+", "added"), ("-", "removed"), ("~", "changed")] {
        for (kind, name) in [("site", "path"), ("functions", "name"), ("routes", "pattern")] {
            for entry in difference[kind][bucket].as_array().into_iter().flatten() {
                let text = entry.as_str().or_else(|| entry[name].as_str()).unwrap_or_default();
                lines.push(format!("{sign} {kind} {}\n", render::plain(text)));
            }
        }
    }
    // Long lists are cut; the totals are not.
    for (sign, bucket) in [("+", "added"), ("-", "removed"), ("~", "changed")] {
        let listed = difference["site"][bucket].as_array().map_or(0, Vec::len) as u64;
        let total = difference["site"]["totals"][bucket].as_u64().unwrap_or(listed);
        if total > listed {
            lines.push(format!("{sign} site and {} more\n", total - listed));
        }
    }
    match lines.is_empty() {
        true => "nothing differs\n".to_owned(),
        false => lines.concat(),
    }
}

fn show_function(deployed: &DeployedFunction, json: bool) {
    match json {
        true => render::json(deployed),
        false => render::text(&format!("{}\n", render::plain(&deployed.url))),
    }
}

async fn list(globals: &Globals, project: Option<&str>, limit: u32) -> Result<(), Failure> {
    let mut target = Target::open(globals)?;
    let project = target.project(project).await?;
    let page = releases::list(&target.account.client, &project, Some(limit), None).await?;
    if globals.json {
        render::json(&page);
        return Ok(());
    }
    let rows = page.operations.iter().map(|operation| {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        [
            operation.operation_id.clone(),
            text(&operation.status),
            text(&operation.release_id),
            text(&operation.created_at),
        ]
    });
    render::table(["OPERATION", "STATUS", "RELEASE", "CREATED"], rows);
    Ok(())
}

async fn secret(globals: &Globals, command: SecretCommand) -> Result<(), Failure> {
    let mut target = Target::open(globals)?;
    match command {
        SecretCommand::Set { key, project } => {
            let project = target.project(project.as_deref()).await?;
            let mut value = String::new();
            let read = std::io::stdin().lock().take(MAX_SECRET_BYTES + 2).read_to_string(&mut value);
            read.map_err(|error| Failure::new(Code::InvalidRequest, format!("cannot read standard input: {error}")))?;
            // The line end of an `echo` is not meant.
            let value = value.strip_suffix('\n').unwrap_or(&value);
            if value.is_empty() {
                let problem = Problem::new(Code::InvalidRequest, "the value is empty");
                return Err(problem.next(format!("echo VALUE | sandboxctl deploy secret set {key}")).into());
            }
            secrets::set(&target.account.client, &project, &key, value).await?;
        }
        SecretCommand::List { project } => {
            let project = target.project(project.as_deref()).await?;
            let listed = secrets::list(&target.account.client, &project).await?;
            match globals.json {
                true => render::json(&listed),
                false => render::text(
                    &listed.iter().map(|secret| format!("{}\n", render::plain(&secret.key))).collect::<String>(),
                ),
            }
        }
        SecretCommand::Rm { key, project } => {
            let project = target.project(project.as_deref()).await?;
            secrets::delete(&target.account.client, &project, &key).await?;
        }
    }
    Ok(())
}
