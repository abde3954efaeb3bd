//! What a tool is: one type says its name, its words for the model, the shape of what it takes, and what it does.

use super::answer::Answer;
use super::profile::Profile;
use crate::projects::Entry;
use crate::service::{Error, Service};
use crate::tokens::Caller;
use futures::FutureExt;
use futures::future::BoxFuture;
use rmcp::RoleServer;
use rmcp::model::{JsonObject, ToolAnnotations};
use rmcp::service::RequestContext;
use sandbox_wire::{Code, Problem};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// What a tool may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    Reads,
    /// Only adds; a second call adds again.
    Adds,
    /// Nothing is lost, and a second call does no more than the first.
    Sets,
    /// May overwrite or remove; a second call does no more than the first.
    Replaces,
    /// Only adds, somewhere else than here.
    AddsElsewhere,
    /// Whatever the caller's command does.
    Anything,
}

impl Effect {
    pub(super) fn annotations(self, title: &str) -> ToolAnnotations {
        let hints = ToolAnnotations::with_title(title);
        match self {
            Self::Reads => hints.read_only(true).destructive(false).idempotent(true).open_world(false),
            Self::Adds => hints.read_only(false).destructive(false).idempotent(false).open_world(false),
            Self::Sets => hints.read_only(false).destructive(false).idempotent(true).open_world(false),
            Self::Replaces => hints.read_only(false).destructive(true).idempotent(true).open_world(false),
            Self::AddsElsewhere => hints.read_only(false).destructive(false).idempotent(false).open_world(true),
            Self::Anything => hints.read_only(false).destructive(true).idempotent(false).open_world(true),
        }
    }
}

pub(crate) trait Tool: 'static {
    const NAME: &'static str;
    const TITLE: &'static str;
    /// For a model: what it does, when to use it, what comes back, its limits, an example.
    const DESCRIPTION: &'static str;
    const EFFECT: Effect;
    /// Unknown fields have to be refused: a model that guesses a name must hear of it.
    type Input: DeserializeOwned + JsonSchema + Send;

    /// The shape of the structured result.
    fn output() -> Value;

    fn call(call: Call, input: Self::Input) -> impl Future<Output = Result<Answer, Error>> + Send;
}

/// One call of a tool: who calls, and how to tell them how far it is.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) service: Arc<Service>,
    pub(crate) caller: Caller,
    /// The project that is meant where a call names none.
    pub(crate) default_project: Option<String>,
    /// Which tools are listed.
    pub(crate) profile: Profile,
    pub(crate) context: RequestContext<RoleServer>,
}

impl Call {
    /// The project's name: the one that is given, or the connection's.
    fn project_name<'a>(&'a self, given: &'a str) -> Result<&'a str, Problem> {
        match (given, &self.default_project) {
            ("", None) => Err(Problem::new(Code::InvalidRequest, "project_id is missing")
                .with("field", "project_id")
                .next("list_projects names the projects; create_project makes one")),
            ("", Some(default)) => Ok(default),
            (given, _) => Ok(given),
        }
    }

    /// The connection's own project, where it has one that exists.
    pub(crate) fn own_project(&self) -> Option<Arc<Entry>> {
        self.project("").ok()
    }

    pub(crate) fn project(&self, given: &str) -> Result<Arc<Entry>, Problem> {
        self.service.project(&self.caller, self.project_name(given)?)
    }

    pub(crate) fn project_for_files(&self, given: &str) -> Result<Arc<Entry>, Problem> {
        self.service.project_for_files(&self.caller, self.project_name(given)?)
    }

    pub(crate) fn project_to_run(&self, given: &str) -> Result<Arc<Entry>, Problem> {
        self.service.project_to_run(&self.caller, self.project_name(given)?)
    }

    /// What was being done is dropped, and with it ended, when the caller gives up the call or goes away.
    pub(crate) async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            done = work => done,
            () = self.context.ct.cancelled() => Err(Problem::new(Code::InvalidRequest, "the call was cancelled").into()),
        }
    }

    pub(crate) fn project_to_deploy(&self, given: &str) -> Result<Arc<Entry>, Problem> {
        self.service.project_to_deploy(&self.caller, self.project_name(given)?)
    }
}

/// The field that names a project.
const PROJECT: &str = "project_id";
/// The same, as some of the gateway's tools call it.
const GATEWAYS_PROJECT: &str = "project";

/// The tool for a connection that has a project of its own.
pub(crate) fn with_default_project(mut tool: rmcp::model::Tool) -> rmcp::model::Tool {
    let mut schema = (*tool.input_schema).clone();
    if let Some(Value::Array(names)) = schema.get_mut("required") {
        names.retain(|name| name != PROJECT && name != GATEWAYS_PROJECT);
    }
    tool.input_schema = Arc::new(schema);
    tool
}

type Invoke = fn(Call, JsonObject) -> BoxFuture<'static, Result<Answer, Error>>;

/// A tool in the catalogue.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// Tools that are used together; a connection may ask for some groups only.
    pub(crate) group: &'static str,
    /// As `tools/list` shows it.
    pub(crate) tool: rmcp::model::Tool,
    pub(crate) action: Action,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Ours(Invoke),
    Gateway(&'static run402::tools::Tool),
}

impl Action {
    pub(crate) async fn take(self, call: Call, arguments: JsonObject) -> Result<Answer, Error> {
        match self {
            Self::Ours(invoke) => invoke(call, arguments).await,
            Self::Gateway(tool) => super::gateway::call(&call, tool, arguments).await,
        }
    }
}

pub(crate) fn listed<T: Tool>(group: &'static str) -> Listed {
    let tool = rmcp::model::Tool::new(T::NAME, T::DESCRIPTION, input_schema::<T::Input>())
        .with_title(T::TITLE)
        .with_raw_output_schema(Arc::new(object(T::output())))
        .with_annotations(T::EFFECT.annotations(T::TITLE));
    Listed { group, tool, action: Action::Ours(invoke::<T>) }
}

fn invoke<T: Tool>(call: Call, arguments: JsonObject) -> BoxFuture<'static, Result<Answer, Error>> {
    async move {
        let input = serde_path_to_error::deserialize::<_, T::Input>(Value::Object(arguments)).map_err(|error| {
            let place = error.path().to_string();
            let problem = Problem::new(Code::InvalidRequest, format!("{}: {}", T::NAME, error.inner()));
            match place.as_str() {
                "." => problem,
                place => problem.with("field", place),
            }
            .next(format!("see the input schema of {}", T::NAME))
        })?;
        T::call(call, input).await
    }
    .boxed()
}

/// JSON Schema as all clients take it: no `null` beside another type, since absent fields are left out.
fn input_schema<T: JsonSchema>() -> Arc<JsonObject> {
    let mut schema = serde_json::to_value(schemars::schema_for!(T)).expect("a schema is JSON");
    without_null(&mut schema);
    let mut schema = object(schema);
    for key in ["$schema", "title"] {
        schema.remove(key);
    }
    // Left out only where a connection has a project of its own.
    if schema.get("properties").is_some_and(|fields| fields.get(PROJECT).is_some()) {
        let required = schema.entry("required").or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(names) = required {
            names.insert(0, PROJECT.into());
        }
    }
    // An object without any field says so.
    schema.entry("properties").or_insert_with(|| Value::Object(JsonObject::new()));
    Arc::new(schema)
}

fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::Array(kinds)) = fields.get_mut("type") {
                kinds.retain(|kind| kind != "null");
                if let [only] = kinds.as_slice() {
                    let only = only.clone();
                    fields.insert("type".to_owned(), only);
                }
            }
            // What a field is when it is absent is said in words.
            fields.retain(|key, value| key != "default" || !value.is_null());
            fields.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

pub(crate) fn object(value: Value) -> JsonObject {
    match value {
        Value::Object(fields) => fields,
        _ => JsonObject::new(),
    }
}
