//! Functions: deploying one, and what is done with those that are live.

use super::{Rest, query};
use crate::client::{Auth, Client};
use crate::deploy::spec::{Function, FunctionConfig, Functions, FunctionsPatch, ReleaseSpec, Source};
use crate::deploy::{Deploy, Observer, Options};
use crate::error::Error;
use indexmap::IndexMap;
use reqwest::Method;
use reqwest::header::HeaderName;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const SOURCE_TYPE: &str = "text/javascript; charset=utf-8";
const RUNTIME: &str = "node22";
/// What a function has when it names nothing.
const DEFAULT_TIMEOUT_SECONDS: u32 = 15;
const DEFAULT_MEMORY_MB: u32 = 128;
const MAX_DEPS: usize = 30;
const MAX_DEP_CHARS: usize = 200;
/// Cannot be installed beside a function: there already, or native code.
const FORBIDDEN_DEPS: [&str; 5] = ["@run402/functions", "run402-functions", "sharp", "canvas", "bcrypt"];

/// A function of one source.
#[derive(Debug, Clone, Default)]
pub struct NewFunction {
    pub name: String,
    pub code: String,
    pub timeout_seconds: Option<u32>,
    pub memory_mb: Option<u32>,
    pub deps: Vec<String>,
    /// Null removes the schedule, absence leaves it.
    pub schedule: Option<Option<String>>,
}

/// What the client knows after a deploy; how it was built is read with [`list`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeployedFunction {
    pub name: String,
    pub url: String,
    pub status: &'static str,
    pub runtime: &'static str,
    pub timeout: u32,
    pub memory: u32,
    pub schedule: Option<String>,
    pub created_at: String,
    pub runtime_version: Option<String>,
    pub deps_resolved: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// `^[a-z0-9][a-z0-9_-]{0,127}$`
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 128
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|byte| plain(byte) || matches!(byte, b'_' | b'-'))
}

fn bad(message: impl Into<String>) -> Error {
    Error::local("LOCAL_ERROR", message).context("checking the function")
}

/// The name of a package without its version.
fn package(dep: &str) -> &str {
    match dep.get(1..).and_then(|rest| rest.find('@')) {
        Some(at) => &dep[..at + 1],
        None => dep,
    }
}

fn check(function: &NewFunction) -> Result<(), Error> {
    if !is_name(&function.name) {
        return Err(bad("a function's name is 1 to 128 lower-case letters, digits, _ and -, a letter or digit first"));
    }
    if function.code.is_empty() {
        return Err(bad("the function has no code"));
    }
    if function.timeout_seconds == Some(0) || function.memory_mb == Some(0) {
        return Err(bad("timeout and memory are positive whole numbers"));
    }
    if function.deps.len() > MAX_DEPS {
        return Err(bad(format!("a function has at most {MAX_DEPS} dependencies")));
    }
    for dep in &function.deps {
        let count = dep.chars().count();
        if count == 0 || count > MAX_DEP_CHARS || dep.contains(char::is_whitespace) {
            return Err(bad(format!("{dep:?} is not a package: 1 to {MAX_DEP_CHARS} characters without white space")));
        }
        if FORBIDDEN_DEPS.contains(&package(dep)) {
            return Err(bad(format!("{dep} cannot be a dependency of a function")));
        }
    }
    match &function.schedule {
        Some(Some(schedule)) if schedule.split_whitespace().count() != 5 => {
            Err(bad("a schedule has five fields, as in 0 3 * * *"))
        }
        _ => Ok(()),
    }
}

/// Deploys one function and leaves everything else as it is.
pub async fn deploy(
    client: &Client,
    project: &str,
    function: NewFunction,
    options: &Options,
    observer: &dyn Observer,
) -> Result<DeployedFunction, Error> {
    check(&function)?;
    let NewFunction { name, code, timeout_seconds, memory_mb, deps, schedule } = function;
    let config =
        (timeout_seconds.is_some() || memory_mb.is_some()).then_some(FunctionConfig { timeout_seconds, memory_mb });
    let wire = Function {
        source: Some(Source::Text { text: code, content_type: Some(SOURCE_TYPE.to_owned()) }),
        config,
        deps: (!deps.is_empty()).then_some(deps),
        schedule: schedule.clone(),
        ..Function::default()
    };
    let patch = FunctionsPatch { set: Some(IndexMap::from([(name.clone(), wire)])), delete: None };
    let functions = Functions { replace: None, patch: Some(patch) };
    let spec = ReleaseSpec { project: project.to_owned(), functions: Some(functions), ..ReleaseSpec::default() };
    let released = Deploy::new(spec, None).apply(client, options, &Arc::default(), observer).await?;
    let url = released.urls.get(&name).and_then(Value::as_str).map(str::to_owned);
    let said = |warning: &Value| warning.get("message").and_then(Value::as_str).map(str::to_owned);
    Ok(DeployedFunction {
        url: url.unwrap_or_else(|| format!("{}/functions/v1/{name}", client.base())),
        name,
        status: "deployed",
        runtime: RUNTIME,
        timeout: timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS),
        memory: memory_mb.unwrap_or(DEFAULT_MEMORY_MB),
        schedule: schedule.flatten(),
        created_at: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
        runtime_version: None,
        deps_resolved: None,
        warnings: released.warnings.iter().filter_map(said).collect(),
    })
}

/// A function as the gateway describes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FunctionRecord {
    pub name: String,
    #[serde(default)]
    pub url: Option<String>,
    #[serde(default)]
    pub runtime: Option<String>,
    #[serde(default)]
    pub timeout: Option<u64>,
    #[serde(default)]
    pub memory: Option<u64>,
    #[serde(default)]
    pub schedule: Option<String>,
    #[serde(flatten)]
    pub rest: Rest,
}

fn admin(project: &str, rest: &str) -> String {
    format!("/projects/v1/admin/{}/functions{rest}", crate::deploy::encoded(project))
}

pub async fn list(client: &Client, project: &str) -> Result<Vec<FunctionRecord>, Error> {
    #[derive(Deserialize)]
    struct Answer {
        functions: Vec<FunctionRecord>,
    }
    let answer: Answer = client.get(admin(project, ""), Auth::Service(project)).receive("listing functions").await?;
    Ok(answer.functions)
}

/// What of a function is changed without a deploy; at least one.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FunctionChange {
    /// Null removes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigChange>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct ConfigChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u32>,
}

pub async fn update(
    client: &Client,
    project: &str,
    name: &str,
    change: &FunctionChange,
) -> Result<FunctionRecord, Error> {
    if change.schedule.is_none() && change.config.is_none() {
        return Err(bad("nothing to change: give a schedule, a timeout or a memory"));
    }
    let path = admin(project, &format!("/{}", crate::deploy::encoded(name)));
    client.request(Method::PATCH, path, Auth::Service(project)).json(change)?.receive("changing the function").await
}

pub async fn delete(client: &Client, project: &str, name: &str) -> Result<Value, Error> {
    let path = admin(project, &format!("/{}", crate::deploy::encoded(name)));
    Ok(client.delete(path, Auth::Service(project)).send("deleting the function").await?.value())
}

/// Which lines of a function's log are read.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// 1 to 1000; 50 when `None`.
    pub tail: Option<u32>,
    /// Milliseconds since 1970.
    pub since_ms: Option<i64>,
    pub request_id: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogLine {
    pub timestamp: Value,
    pub message: String,
    #[serde(flatten)]
    pub rest: Rest,
}

fn is_request_id(id: &str) -> bool {
    let rest = ["req_", "fnrun_", "fnatt_"].iter().find_map(|prefix| id.strip_prefix(prefix));
    rest.is_some_and(|rest| {
        (4..=128).contains(&rest.len())
            && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    })
}

pub async fn logs(client: &Client, project: &str, name: &str, wanted: &LogQuery) -> Result<Vec<LogLine>, Error> {
    #[derive(Deserialize)]
    struct Answer {
        logs: Vec<LogLine>,
    }
    let tail = wanted.tail.unwrap_or(50);
    if !(1..=1000).contains(&tail) {
        return Err(bad("tail is 1 to 1000 lines"));
    }
    if wanted.request_id.as_deref().is_some_and(|id| !is_request_id(id)) {
        return Err(bad("a request id starts with req_, fnrun_ or fnatt_"));
    }
    let query = query(&[
        ("tail", Some(tail.to_string())),
        ("since", wanted.since_ms.map(|since| since.to_string())),
        ("request_id", wanted.request_id.clone()),
    ]);
    let path = admin(project, &format!("/{}/logs{query}", crate::deploy::encoded(name)));
    let answer: Answer = client.get(path, Auth::Service(project)).receive("reading the function's log").await?;
    Ok(answer.logs)
}

/// What a function is called with.
#[derive(Debug, Clone)]
pub enum InvokeBody {
    None,
    Text(String),
    Json(Value),
}

#[derive(Debug, Clone, Serialize)]
pub struct Invoked {
    pub status: u16,
    pub body: Value,
    pub duration_ms: u64,
}

pub async fn invoke(
    client: &Client,
    project: &str,
    name: &str,
    method: Method,
    body: InvokeBody,
) -> Result<Invoked, Error> {
    invoke_with(client, project, name, method, body, &[]).await
}

/// The same, with headers of the caller's.
pub async fn invoke_with(
    client: &Client,
    project: &str,
    name: &str,
    method: Method,
    body: InvokeBody,
    headers: &[(HeaderName, String)],
) -> Result<Invoked, Error> {
    if !is_name(name) {
        return Err(bad(format!("{name:?} is not the name of a function")));
    }
    let reads = method == Method::GET || method == Method::HEAD;
    let request = client.request(method, format!("/functions/v1/{name}"), Auth::Invoke(project));
    let request = match body {
        InvokeBody::Text(text) if !reads => request.bytes(text, Some("text/plain;charset=UTF-8")),
        InvokeBody::Json(value) if !reads => request.json(&value)?,
        _ => request,
    };
    let request = headers.iter().try_fold(request, |request, (name, value)| request.header(name.clone(), value))?;
    let began = Instant::now();
    let reply = request.send("invoking the function").await?;
    let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Invoked { status: reply.status, body: reply.value(), duration_ms })
}

impl From<Value> for InvokeBody {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::None,
            Value::String(text) => Self::Text(text),
            value => Self::Json(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function() -> NewFunction {
        NewFunction { name: "hello".to_owned(), code: "x".to_owned(), ..NewFunction::default() }
    }

    #[test]
    fn names_have_one_form() {
        for name in ["a", "0", "a-b_c", &"a".repeat(128)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "A", "-a", "_a", "a.b", "a/b", "ü", &"a".repeat(129)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn dependencies_are_compared_without_their_versions() {
        assert_eq!(package("@run402/functions@1.0"), "@run402/functions");
        assert_eq!(package("sharp@^0.33"), "sharp");
        assert_eq!(package("zod"), "zod");
        for dep in ["sharp@1", "@run402/functions", "", "a b", &"a".repeat(201)] {
            check(&NewFunction { deps: vec![dep.to_owned()], ..function() }).expect_err(dep);
        }
        check(&NewFunction { deps: vec!["zod@3".to_owned(); 30], ..function() }).expect("thirty are allowed");
        check(&NewFunction { deps: vec!["zod@3".to_owned(); 31], ..function() }).expect_err("thirty-one are not");
    }

    #[test]
    fn what_cannot_be_right_is_refused_before_it_is_sent() {
        check(&NewFunction { code: String::new(), ..function() }).expect_err("no code");
        check(&NewFunction { timeout_seconds: Some(0), ..function() }).expect_err("no time");
        check(&NewFunction { schedule: Some(Some("daily".to_owned())), ..function() }).expect_err("no cron");
        check(&NewFunction { schedule: Some(None), ..function() }).expect("a schedule can be removed");
        assert!(is_request_id("req_abcd") && !is_request_id("req_a") && !is_request_id("x_abcdef"));
    }
}
