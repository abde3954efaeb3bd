//! What a folder says about how it is built and deployed.
//!
//! Input: `sandbox.toml`, or, without one, what is in the folder. Output: [`Recipe`]. Nothing that was
//! written by a build is read before the build; the output directory is chosen after it.

use crate::failure::Failure;
use sandbox_wire::{Code, Problem};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const FILE: &str = "sandbox.toml";
const MAX_BYTES: u64 = 1 << 20;
/// Where the usual tools put what they have built, the most telling first.
const OUTPUTS: [&str; 5] = ["dist", "build", "out", "public", "_site"];

/// How a folder becomes a release.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recipe {
    /// What the project is called at the gateway.
    pub(crate) name: String,
    /// The project at the gateway, when the folder names one.
    pub(crate) project: Option<String>,
    /// A shell line.
    pub(crate) build: Option<String>,
    pub(crate) policy: Option<String>,
    pub(crate) timeout_ms: Option<i64>,
    /// Relative to the folder; found after the build when it is not named.
    output: Option<PathBuf>,
    /// Slices of the release besides the site, as in a deploy manifest.
    release: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Option<String>,
    project: Option<String>,
    build: Option<String>,
    policy: Option<String>,
    timeout: Option<String>,
    output: Option<PathBuf>,
    #[serde(default)]
    release: Map<String, Value>,
}

fn wrong(path: &Path, what: impl std::fmt::Display) -> Failure {
    Failure::new(Code::InvalidManifest, format!("{}: {what}", path.display()))
}

impl Recipe {
    /// Of the folder; `sandbox.toml` counts alone when it is there.
    pub(crate) fn of(folder: &Path) -> Result<Self, Failure> {
        let name = folder.file_name().map_or_else(|| "site".to_owned(), |name| name.to_string_lossy().into_owned());
        let path = folder.join(FILE);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_BYTES => Self::read(&path, name),
            Ok(_) => Err(wrong(&path, "a regular file of at most 1 MiB is wanted")),
            Err(_) => Ok(Self::guess(folder, name)),
        }
    }

    fn read(path: &Path, name: String) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(|error| wrong(path, error))?;
        let file: File = toml::from_str(&text).map_err(|error| wrong(path, error))?;
        let timeout =
            file.timeout.map(|text| text.parse::<crate::duration::Millis>().map_err(|error| wrong(path, error)));
        Ok(Self {
            name: file.name.unwrap_or(name),
            project: file.project,
            build: file.build,
            policy: file.policy,
            timeout_ms: timeout.transpose()?.map(|timeout| timeout.0),
            output: file.output,
            release: file.release,
        })
    }

    /// A package with a build script, or a site as it is.
    fn guess(folder: &Path, name: String) -> Self {
        let has = |name: &str| folder.join(name).is_file();
        let scripted = fs::read(folder.join("package.json")).ok().and_then(|bytes| {
            let package: Value = serde_json::from_slice(&bytes).ok()?;
            package.get("scripts")?.get("build").map(drop)
        });
        let install = match () {
            () if has("pnpm-lock.yaml") => "corepack pnpm install --frozen-lockfile && corepack pnpm run build",
            () if has("yarn.lock") => "corepack yarn install --frozen-lockfile && corepack yarn run build",
            () if has("package-lock.json") || has("npm-shrinkwrap.json") => "npm ci && npm run build",
            () => "npm install && npm run build",
        };
        let build = scripted.map(|()| install.to_owned());
        let policy = build.as_ref().map(|_| "node-build".to_owned());
        // Installing takes its time; the longest that there is.
        let timeout_ms = build.as_ref().map(|_| 300_000);
        // What is not built is the site itself.
        let output = build.is_none().then(|| PathBuf::from("."));
        Self { name, project: None, build, policy, timeout_ms, output, release: Map::new() }
    }

    /// The release, after the build: the slices that the folder names, and the site.
    pub(crate) fn manifest(&self, folder: &Path, project: &str) -> Result<Value, Failure> {
        let mut manifest = self.release.clone();
        manifest.remove("project_id");
        manifest.insert("project".to_owned(), json!(project));
        if !manifest.contains_key("site")
            && let Some(output) = self.output(folder)?
        {
            let site = json!({"replace": {"__source": "local-dir", "path": output, "ignore": [FILE]}});
            manifest.insert("site".to_owned(), site);
        }
        Ok(Value::Object(manifest))
    }

    /// Where the build left the site.
    fn output(&self, folder: &Path) -> Result<Option<PathBuf>, Failure> {
        if let Some(output) = &self.output {
            return Ok(Some(output.clone()));
        }
        let found = OUTPUTS.iter().find(|name| folder.join(name).join("index.html").is_file());
        match found {
            Some(name) => Ok(Some(PathBuf::from(name))),
            // Functions or a database alone are a release, too.
            None if !self.release.is_empty() => Ok(None),
            None => {
                let tried = OUTPUTS.join(", ");
                let message = format!("no index.html in {tried} of {}: nothing to deploy", folder.display());
                Err(Problem::new(Code::InvalidManifest, message)
                    .next("name the directory that the build writes: output = \"…\" in sandbox.toml")
                    .into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        }
        folder
    }

    #[test]
    fn a_package_is_built_with_its_own_manager_and_a_plain_site_is_not() {
        let package = ("package.json", r#"{"scripts": {"build": "x"}}"#);
        let build = |files: &[(&str, &str)]| Recipe::of(folder(files).path()).expect("a recipe").build;
        assert_eq!(build(&[package, ("package-lock.json", "")]).as_deref(), Some("npm ci && npm run build"));
        assert!(build(&[package, ("pnpm-lock.yaml", "")]).expect("a build").starts_with("corepack pnpm"));
        assert_eq!(build(&[package]).as_deref(), Some("npm install && npm run build"));
        assert_eq!(build(&[("package.json", "{}"), ("index.html", "")]), None);
        assert_eq!(build(&[("package.json", "not json")]), None);
    }

    #[test]
    fn the_output_is_found_after_the_build() {
        let folder = folder(&[("package.json", r#"{"scripts": {"build": "x"}}"#)]);
        let recipe = Recipe::of(folder.path()).expect("a recipe");
        assert!(recipe.manifest(folder.path(), "prj_1").is_err());
        fs::create_dir(folder.path().join("build")).expect("made");
        fs::write(folder.path().join("build/index.html"), "").expect("written");
        let manifest = recipe.manifest(folder.path(), "prj_1").expect("a manifest");
        assert_eq!((&manifest["project"], &manifest["site"]["replace"]["path"]), (&json!("prj_1"), &json!("build")));
    }

    #[test]
    fn a_file_counts_alone_and_is_read_strictly() {
        let text = "name = \"shop\"\nbuild = \"make\"\ntimeout = \"90s\"\noutput = \"www\"\n[release.secrets]\nrequire = [\"KEY\"]\n";
        let given = folder(&[("sandbox.toml", text), ("package.json", r#"{"scripts": {"build": "x"}}"#)]);
        let recipe = Recipe::of(given.path()).expect("a recipe");
        assert_eq!(
            (recipe.build.as_deref(), recipe.timeout_ms, recipe.policy.as_deref()),
            (Some("make"), Some(90_000), None)
        );
        let manifest = recipe.manifest(given.path(), "prj_1").expect("a manifest");
        assert_eq!(
            (&manifest["secrets"]["require"], &manifest["site"]["replace"]["path"]),
            (&json!(["KEY"]), &json!("www"))
        );
        for wrong in ["nme = \"x\"", "build = 1", "timeout = \"soon\"", "="] {
            Recipe::of(folder(&[("sandbox.toml", wrong)]).path()).expect_err(wrong);
        }
    }
}
