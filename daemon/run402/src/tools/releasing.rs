//! Tools that make releases, or put and get stored files.

use super::by_hand::Call;
use super::value;
use crate::api::assets::{self, NewAsset};
use crate::api::functions::{self, NewFunction};
use crate::api::sites;
use crate::deploy::spec::{ExifPolicy, Manifest, Source, Visibility};
use crate::deploy::walk::is_ignored;
use crate::deploy::{self, AllowWarnings, Deploy, Event, Observer, Options, Polling, Progress};
use crate::error::Error;
use indexmap::IndexMap;
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Events of a deploy in its answer.
const MAX_STEPS: usize = 100;
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(1);
const FRESH_TIME_MS: u64 = 60_000;

impl Call<'_> {
    pub(super) async fn deploy(&self) -> Result<Value, Error> {
        let mut manifest = self.arguments.clone();
        let everything = manifest.remove("allow_warnings") == Some(Value::Bool(true));
        let codes = manifest.remove("allow_warning_codes");
        let codes = codes.as_ref().and_then(Value::as_array).into_iter().flatten();
        let codes = codes.filter_map(|code| code.as_str().map(str::to_owned)).collect();
        let allow_warnings = if everything { AllowWarnings::Everything } else { AllowWarnings::Codes(codes) };
        let Manifest { spec, idempotency_key } = Manifest::from_json(manifest.into(), None)?;
        let options = Options { idempotency_key, allow_warnings, ..Options::default() };
        // A release may well do without files.
        let root = self.files.locate(".").ok().map(|(root, _)| root);
        let steps = Steps::default();
        let released = Deploy::new(spec, root).apply(self.client(), &options, &Arc::default(), &steps).await?;
        steps.answer(&released)
    }

    pub(super) async fn deploy_resume(&self) -> Result<Value, Error> {
        let operation = self.text("operation_id").unwrap_or_default();
        if !operation.starts_with("op_") {
            return Err(self.bad("operation_id begins with op_"));
        }
        let steps = Steps::default();
        // Whose deploy it is, and so whose key reads its record, is not said.
        let polling = Polling { relay_events: false, ..Polling::default() };
        let released = deploy::resume(self.client(), None, operation, &polling, &steps).await?;
        steps.answer(&released)
    }

    pub(super) async fn deploy_site(&self) -> Result<Value, Error> {
        let project = self.text("project").unwrap_or_default();
        let mut files = IndexMap::new();
        for entry in self.arguments.get("files").and_then(Value::as_array).into_iter().flatten() {
            let mut entry = entry.clone();
            let name = entry.as_object_mut().and_then(|fields| fields.remove("file"));
            let Some(Value::String(name)) = name else { return Err(self.bad("each of files has to have a file")) };
            let source: Source =
                serde_json::from_value(entry).map_err(|error| self.bad(&format!("files: {name}: {error}")))?;
            if !matches!(source, Source::Text { .. } | Source::Bytes { .. }) {
                return Err(self.bad(&format!("files: {name}: data is missing")));
            }
            if !name.split('/').any(is_ignored) {
                files.insert(name, source);
            }
        }
        let steps = Steps::default();
        let released = sites::release(self.client(), project, files, &Options::default(), &steps).await?;
        steps.answer(&sites::DeployedSite::from(&released))
    }

    pub(super) async fn deploy_site_dir(&self) -> Result<Value, Error> {
        let project = self.text("project").unwrap_or_default();
        let (root, within) = self.files.locate(self.text("dir").unwrap_or_default())?;
        let root = root.beneath(&within)?;
        let progress = Arc::<Progress>::default();
        let (options, steps) = (Options::default(), Steps::default());
        let released = sites::release_dir(self.client(), project, root, &options, &progress, &steps).await?;
        steps.answer(&sites::DeployedSite::from(&released))
    }

    pub(super) async fn deploy_function(&self) -> Result<Value, Error> {
        let own = |name: &str| self.text(name).unwrap_or_default().to_owned();
        let config = |name: &str| {
            let given =
                self.arguments.get("config").and_then(|config| config.get(name)).filter(|given| !given.is_null());
            let number = |given: &Value| given.as_u64().and_then(|number| u32::try_from(number).ok());
            given
                .map(|given| number(given).ok_or_else(|| self.bad(&format!("config.{name} is no whole number"))))
                .transpose()
        };
        let deps = self.arguments.get("deps").and_then(Value::as_array).into_iter().flatten();
        let function = NewFunction {
            name: own("name"),
            code: own("code"),
            timeout_seconds: config("timeout")?,
            memory_mb: config("memory")?,
            deps: deps.filter_map(|dep| dep.as_str().map(str::to_owned)).collect(),
            schedule: self.arguments.get("schedule").map(|schedule| schedule.as_str().map(str::to_owned)),
        };
        let project = self.project()?;
        let steps = Steps::default();
        let deployed = functions::deploy(self.client(), project, function, &Options::default(), &steps).await?;
        steps.answer(&deployed)
    }

    pub(super) async fn assets_put(&self) -> Result<Value, Error> {
        let content_type = self.text("content_type").map(str::to_owned);
        let (source, root) = match (self.text("local_path"), self.text("content")) {
            (Some(name), None) => {
                let (root, path) = self.files.locate(name)?;
                (Source::File { path, content_type: content_type.clone() }, Some(root))
            }
            (None, Some(text)) => (Source::Text { text: text.to_owned(), content_type: content_type.clone() }, None),
            _ => return Err(self.bad("exactly one of local_path and content is wanted")),
        };
        let asset = NewAsset {
            key: self.text("key").unwrap_or_default().to_owned(),
            source,
            content_type,
            visibility: if self.text("visibility") == Some("private") {
                Visibility::Private
            } else {
                Visibility::Public
            },
            immutable: self.arguments.get("immutable").and_then(Value::as_bool).unwrap_or(true),
            metadata: self.arguments.get("metadata").cloned(),
            exif_policy: self.text("exif_policy").map(|policy| match policy {
                "strip" => ExifPolicy::Strip,
                _ => ExifPolicy::Keep,
            }),
        };
        let (project, key) = (self.project()?, asset.key.clone());
        let (progress, steps) = (Arc::<Progress>::default(), Steps::default());
        let released =
            assets::release(self.client(), project, asset, root, &Options::default(), &progress, &steps).await?;
        let mut reference = assets::reference(&released, &key);
        if reference.is_null() {
            reference = json!({"key": key, "release_id": released.release_id});
        }
        steps.answer(&reference)
    }

    pub(super) async fn assets_get(&self) -> Result<Value, Error> {
        let (key, output) = (self.text("key").unwrap_or_default(), self.text("output_path").unwrap_or_default());
        let reply = assets::get(self.client(), self.project()?, key).await?;
        let digest = deploy::Digest::of(&reply.body);
        let told = reply.headers.get("x-run402-sha256").and_then(|told| told.to_str().ok());
        if told.is_some_and(|told| !told.eq_ignore_ascii_case(&digest.to_string())) {
            return Err(Error::local("DIGEST_MISMATCH", format!("{key} did not arrive as it is stored; try again")));
        }
        let size = reply.body.len();
        self.files.write(output, reply.body).await?;
        Ok(json!({"key": key, "output_path": output, "size_bytes": size, "sha256": digest.to_string()}))
    }

    /// Asks again and again what the URL shows; what is not answered is asked once more.
    pub(super) async fn wait_for_cdn_freshness(&self) -> Result<Value, Error> {
        let (url, wanted) = (self.text("url").unwrap_or_default(), self.text("sha256").unwrap_or_default());
        let timeout = self.arguments.get("timeout_ms").and_then(Value::as_u64).unwrap_or(FRESH_TIME_MS);
        let (began, project) = (Instant::now(), self.project()?);
        let (mut pause, mut attempts) = (FIRST_LOOK, 0);
        let mut seen = Value::Null;
        loop {
            attempts += 1;
            if let Ok(found) = assets::diagnose(self.client(), project, url).await {
                seen = found;
            }
            let observed = ["observed_sha256", "observedSha256"].iter().find_map(|name| seen[*name].as_str());
            let fresh = observed.is_some_and(|observed| observed.eq_ignore_ascii_case(wanted));
            let elapsed = began.elapsed();
            if fresh {
                return Ok(json!({
                    "fresh": true, "observedSha256": observed, "attempts": attempts,
                    "elapsedMs": elapsed.as_millis() as u64, "vantage": seen["vantage"]
                }));
            }
            let left = Duration::from_millis(timeout).saturating_sub(elapsed);
            if left.is_zero() {
                let message = format!(
                    "{url} still shows {} after {} ms and {attempts} looks",
                    observed.unwrap_or("nothing known"),
                    elapsed.as_millis()
                );
                return Err(Error::local("NOT_FRESH", message));
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }
}

/// What happens in a deploy, for its answer: all but how far each content is.
#[derive(Debug, Default)]
struct Steps(Mutex<Vec<Event>>);

impl Observer for Steps {
    fn observe(&self, event: Event) {
        let told =
            !matches!(event, Event::UploadProgress { .. } | Event::UploadSkipped { .. } | Event::PlanDiff { .. });
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told && steps.len() < MAX_STEPS {
            steps.push(event);
        }
    }
}

impl Steps {
    fn answer(self, answer: &impl Serialize) -> Result<Value, Error> {
        let mut answer = value(answer)?;
        let steps = value(self.0.into_inner().unwrap_or_else(PoisonError::into_inner))?;
        if let Some(fields) = answer.as_object_mut() {
            fields.insert("events".to_owned(), steps);
        }
        Ok(answer)
    }
}
