//! Packages that functions are deployed with.
//!
//! `<state>/functions/<project>/packages/<hash of their names>/`: installed once, in a sandbox, before the
//! release that wants them is live; whole or not at all. Every function of the project that names the same
//! packages has the same folder, as its `node_modules`. Their scripts have had that folder to themselves:
//! nothing in it is opened through a link, and `node_modules` is a directory or the installation has failed.

use crate::error::{Refusal, Result};
use crate::gateway::Gateway;
use crate::ids;
use crate::rules::package_name;
use crate::spec::Function;
use axum::http::StatusCode;
use run402::deploy::Digest;
use run402::deploy::walk::Root;
use serde_json::{Map, Value};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A client waits two minutes for an answer to its commit.
const TIMEOUT: Duration = Duration::from_secs(100);
/// Of what the package manager said, the end.
const SAID_BYTES: usize = 2000;
/// Longer ones are not npm's.
const MAX_LOCK_BYTES: u64 = 16 << 20;
const PACKAGES: &str = "node_modules";
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
fn folder(gateway: &Gateway, project: &str, function: &Function) -> Option<PathBuf> {
    if function.deps.is_empty() {
        return None;
    }
    let mut names = function.deps.clone();
    names.sort_unstable();
    let name = Digest::of(names.join("\0").as_bytes()).to_string();
    Some(gateway.config().state.join("functions").join(project).join("packages").join(&name[..32]))
}

/// What a function sees of them, when it has any.
pub(super) fn mounted(gateway: &Gateway, project: &str, function: &Function) -> Option<PathBuf> {
    folder(gateway, project, function).map(|folder| folder.join(PACKAGES))
}

/// Which version of each package that the function names is installed; null before it is.
pub(crate) fn resolved(gateway: &Gateway, project: &str, function: &Function) -> Value {
    let folder = folder(gateway, project, function);
    let Some(lock) = folder.and_then(|folder| read_lock(&folder)) else { return Value::Null };
    let version = |dep: &String| {
        let name = package_name(dep);
        let version = lock["packages"].get(format!("node_modules/{name}"))?.get("version")?.clone();
        Some((name.to_owned(), version))
    };
    Value::Object(function.deps.iter().filter_map(version).collect::<Map<_, _>>())
}

/// What npm has written down of its work; anything may have been put in its place.
fn read_lock(folder: &Path) -> Option<Value> {
    let file = Root::open(folder).ok()?.file(Path::new("node_modules/.package-lock.json")).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_LOCK_BYTES).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
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
    match fs::create_dir(beside.join(PACKAGES)) {
        // A package may have nothing to install.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.into()),
    }
    // It will be mounted: a link would show a function whatever it leads to. No script runs any more.
    Root::open(beside).and_then(|root| root.beneath(Path::new(PACKAGES))).map_err(|_| {
        let message = "a package's own script has put something else in place of node_modules";
        Refusal::deploy(StatusCode::UNPROCESSABLE_ENTITY, "FUNCTION_BUILD_FAILED", "build", "functions", message)
    })?;
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
    fn a_link_in_place_of_the_packages_is_refused() {
        use std::os::unix::fs::symlink;
        let state = tempfile::tempdir().expect("a directory");
        let (beside, folder) = (state.path().join("beside"), state.path().join("kept"));
        for target in ["/etc", "elsewhere", "."] {
            fs::create_dir(&beside).expect("ours");
            symlink(target, beside.join(PACKAGES)).expect("a link");
            keep(&beside, &folder).expect_err(target);
            assert!(!folder.exists(), "{target}");
            fs::remove_dir_all(&beside).expect("ours");
        }
        fs::create_dir(&beside).expect("ours");
        fs::write(beside.join(PACKAGES), "a file").expect("ours");
        keep(&beside, &folder).expect_err("a file");
        fs::remove_file(beside.join(PACKAGES)).expect("ours");
        keep(&beside, &folder).expect("nothing to install");
        assert!(folder.join(PACKAGES).is_dir());
    }

    #[test]
    fn what_stands_in_place_of_npms_record_is_not_followed() {
        let state = tempfile::tempdir().expect("a directory");
        let lock = state.path().join("node_modules/.package-lock.json");
        fs::create_dir(state.path().join(PACKAGES)).expect("ours");
        assert!(read_lock(state.path()).is_none());
        fs::write(state.path().join("other"), "{}").expect("ours");
        std::os::unix::fs::symlink("../other", &lock).expect("a link");
        assert!(read_lock(state.path()).is_none());
        fs::remove_file(&lock).expect("ours");
        // Reading one would wait for a writer for ever.
        rustix::fs::mkfifoat(rustix::fs::CWD, &lock, rustix::fs::Mode::RUSR).expect("a FIFO");
        assert!(read_lock(state.path()).is_none());
        fs::remove_file(&lock).expect("ours");
        fs::write(&lock, "{\"packages\": {}}").expect("ours");
        assert!(read_lock(state.path()).is_some());
    }

    #[test]
    fn of_a_long_log_the_end_is_told() {
        let log = [vec![b'x'; 5000], b"\nnpm error 404\n".to_vec()].concat();
        let text = said(&log);
        assert!(text.ends_with("npm error 404") && text.len() <= SAID_BYTES, "{text}");
    }
}
