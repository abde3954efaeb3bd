//! Packages that functions are deployed with.
//!
//! `<state>/functions/<project>/packages/<hash of their names>/`: installed once, in a sandbox, before the
//! release that wants them is live; whole or not at all. Every function of the project that names the same
//! packages has the same folder, as its `node_modules`.

use crate::error::{Refusal, Result};
use crate::gateway::Gateway;
use crate::ids;
use crate::rules::package_name;
use crate::spec::Function;
use axum::http::StatusCode;
use run402::deploy::Digest;
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A client waits two minutes for an answer to its commit.
const TIMEOUT: Duration = Duration::from_secs(100);
/// Of what the package manager said, the end.
const SAID_BYTES: usize = 2000;
const MANIFEST: &str = r#"{"private": true}"#;

/// Packages to be installed into a folder that nobody else uses.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Where commands start, and what is kept of it: its `node_modules`.
    pub folder: PathBuf,
    /// The program and its arguments.
    pub command: Vec<String>,
    pub timeout: Duration,
}

/// Where the packages of a function are, when it has any.
pub(super) fn folder(gateway: &Gateway, project: &str, function: &Function) -> Option<PathBuf> {
    if function.deps.is_empty() {
        return None;
    }
    let mut names = function.deps.clone();
    names.sort_unstable();
    let name = Digest::of(names.join("\0").as_bytes()).to_string();
    Some(gateway.config().state.join("functions").join(project).join("packages").join(&name[..32]))
}

/// Which version of each package that the function names is installed; null before it is.
pub(crate) fn resolved(gateway: &Gateway, project: &str, function: &Function) -> Value {
    let lock = folder(gateway, project, function).map(|folder| folder.join("node_modules/.package-lock.json"));
    let read = lock.and_then(|path| fs::read(path).ok());
    let Some(lock) = read.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) else { return Value::Null };
    let version = |dep: &String| {
        let name = package_name(dep);
        let version = lock["packages"].get(format!("node_modules/{name}"))?.get("version")?.clone();
        Some((name.to_owned(), version))
    };
    Value::Object(function.deps.iter().filter_map(version).collect::<Map<_, _>>())
}

impl Gateway {
    /// Installs what is not there yet. The project's commit lock is held.
    pub(crate) async fn install_packages(&self, project: &str, name: &str, function: &Function) -> Result<()> {
        let Some(folder) = folder(self, project, function) else { return Ok(()) };
        let place = format!("functions.{name}.deps");
        let failed = |message: String| {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            Refusal::deploy(status, "FUNCTION_BUILD_FAILED", "build", &place, &message)
        };
        if folder.is_dir() {
            return Ok(());
        }
        let Some(runner) = self.config().functions.clone() else {
            return Err(failed("this gateway was started without a way to install packages".to_owned()));
        };
        let beside = folder.with_file_name(format!(".{}", ids::random()));
        let made = beside.clone();
        self.blocking(move |_| {
            fs::create_dir_all(&made)?;
            Ok(fs::write(made.join("package.json"), MANIFEST)?)
        })
        .await?;
        let mut command: Vec<String> =
            ["npm", "install", "--no-audit", "--no-fund", "--omit=dev", "--loglevel=error", "--"]
                .map(str::to_owned)
                .into();
        command.extend(function.deps.iter().cloned());
        let ended = runner.install(Installation { folder: beside.clone(), command, timeout: TIMEOUT }).await;
        let kept = match &ended {
            Ok(ended) if ended.exit_code == Some(0) => {
                let (beside, folder) = (beside.clone(), folder.clone());
                self.blocking(move |_| keep(&beside, &folder)).await
            }
            Ok(ended) if ended.timed_out => {
                Err(failed(format!("the packages were not installed within {} s", TIMEOUT.as_secs())))
            }
            Ok(ended) => Err(failed(format!("npm could not install the packages: {}", said(&ended.stderr)))),
            Err(error) => Err(Refusal::unavailable("FUNCTION_BUILD_UNAVAILABLE", error.to_string())),
        };
        // Nothing refers to it; what cannot be removed now does no harm.
        let _ = self.blocking(move |_| Ok(fs::remove_dir_all(beside)?)).await;
        kept
    }
}

/// Under its name only when it is whole.
fn keep(beside: &Path, folder: &Path) -> Result<()> {
    // A package may have nothing to install.
    fs::create_dir_all(beside.join("node_modules"))?;
    match fs::rename(beside, folder) {
        Err(_) if folder.is_dir() => Ok(()),
        renamed => Ok(renamed?),
    }
}

/// The last words, as text.
fn said(log: &[u8]) -> String {
    let end = &log[log.len().saturating_sub(SAID_BYTES)..];
    String::from_utf8_lossy(end).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_log_the_end_is_told() {
        let log = [vec![b'x'; 5000], b"\nnpm error 404\n".to_vec()].concat();
        let text = said(&log);
        assert!(text.ends_with("npm error 404") && text.len() <= SAID_BYTES, "{text}");
    }
}
