//! The table: what each field of an entry means, and that all of it makes sense.

use crate::client::Auth;
use crate::error::Error;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// One file for each group.
const GROUPS: [(&str, &str); 17] = [
    ("projects", include_str!("../../tools/projects.toml")),
    ("deploy", include_str!("../../tools/deploy.toml")),
    ("database", include_str!("../../tools/database.toml")),
    ("functions", include_str!("../../tools/functions.toml")),
    ("secrets", include_str!("../../tools/secrets.toml")),
    ("assets", include_str!("../../tools/assets.toml")),
    ("names", include_str!("../../tools/names.toml")),
    ("jobs", include_str!("../../tools/jobs.toml")),
    ("auth", include_str!("../../tools/auth.toml")),
    ("email", include_str!("../../tools/email.toml")),
    ("ai", include_str!("../../tools/ai.toml")),
    ("apps", include_str!("../../tools/apps.toml")),
    ("ci", include_str!("../../tools/ci.toml")),
    ("billing", include_str!("../../tools/billing.toml")),
    ("wallet", include_str!("../../tools/wallet.toml")),
    ("contracts", include_str!("../../tools/contracts.toml")),
    ("agent", include_str!("../../tools/agent.toml")),
];

/// What a tool may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    Reads,
    /// A second call does it a second time.
    Adds,
    /// Nothing is lost, and a second call changes nothing more.
    Sets,
    /// May overwrite; a second call changes nothing more.
    Replaces,
    /// Whatever the arguments say.
    Anything,
    /// Cannot be taken back, so it has to be confirmed.
    Removes,
}

/// What is sent as proof of who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Proof {
    Public,
    Wallet,
    Service,
    ServicePair,
    Anon,
    AnonPair,
    AnonService,
    /// The app's key, and the session of a user of the app, which is the parameter `access_token`.
    User,
    Invoke,
    /// Nothing: what is asked for is on this machine, wallet included.
    Local,
}

impl Proof {
    /// `user` is the session of a user of the app.
    pub(super) fn auth<'a>(self, project: &'a str, user: &'a str) -> Auth<'a> {
        match self {
            Self::Public | Self::Local => Auth::Public,
            Self::Wallet => Auth::Wallet,
            Self::Service => Auth::Service(project),
            Self::ServicePair => Auth::ServicePair(project),
            Self::Anon => Auth::Anon(project),
            Self::AnonPair => Auth::AnonPair(project),
            Self::User => Auth::AnonUser(project, user),
            Self::AnonService => Auth::AnonService(project),
            Self::Invoke => Auth::Invoke(project),
        }
    }

    pub(super) fn needs_project(self) -> bool {
        !matches!(self, Self::Public | Self::Wallet | Self::Local)
    }
}

/// Bodies that are not simply the parameters by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Body {
    /// `sql` as text, or with `params` as JSON.
    Sql,
    /// `schedule`, and `timeout` and `memory` as `config`; one of them at least.
    Settings,
    /// An object without fields.
    Empty,
    /// One field at least.
    Some,
    /// A job, whose input goes one level deeper, with a key of its own against doing it twice.
    Job,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    String,
    Integer,
    Boolean,
    Array,
    Object,
    Any,
}

impl Kind {
    pub(super) fn takes(self, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Boolean => value.is_boolean(),
            Self::Array => value.is_array(),
            Self::Object => value.is_object(),
            Self::Any => true,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::String => "a text",
            Self::Integer => "a whole number",
            Self::Boolean => "true or false",
            Self::Array => "a list",
            Self::Object => "an object",
            Self::Any => "anything",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// RFC 3339, or milliseconds since 1970; sent as the latter.
    Time,
}

/// One parameter. Where it goes is said by `place`, or else by the request: into its path where that names it, into the
/// query of GET and DELETE, into the body otherwise. A `project_id` that is not in the path only chooses the keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Param {
    pub name: String,
    #[serde(rename = "type")]
    pub(super) kind: Kind,
    #[serde(default)]
    pub required: bool,
    #[serde(default, rename = "enum")]
    pub(super) choices: Vec<String>,
    /// Sent when it is absent.
    pub(super) default: Option<Value>,
    #[serde(default)]
    pub(super) nullable: bool,
    /// Sent as null when it is absent.
    #[serde(default)]
    pub(super) always: bool,
    pub(super) minimum: Option<i64>,
    pub(super) maximum: Option<i64>,
    pub(super) max_length: Option<usize>,
    /// What a list has.
    pub(super) items: Option<Kind>,
    pub(super) format: Option<Format>,
    /// `body`, `whole` (it is the body), `query:NAME`.
    pub(super) place: Option<String>,
    pub about: String,
}

/// One tool.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    pub name: String,
    pub title: String,
    pub effect: Effect,
    /// What it does, when to use it, what comes back.
    pub about: String,
    pub example: Map<String, Value>,
    /// Method and path. Absent: it is more than one request, and made by hand. `{mailbox}` in it is looked up.
    pub(super) request: Option<String>,
    /// What has taken its place at the gateway, which has it no more.
    pub(super) replaced_by: Option<String>,
    pub(super) auth: Proof,
    pub(super) body: Option<Body>,
    /// A header that repeats a parameter, for what must not happen by mistake.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// Some parameter is the name of a file or directory.
    #[serde(default)]
    pub files: bool,
    #[serde(default)]
    pub params: Vec<Param>,
    #[serde(skip)]
    pub group: &'static str,
}

impl Tool {
    /// Made by hand, from more than one request.
    pub fn is_by_hand(&self) -> bool {
        self.request.is_none() && self.replaced_by.is_none()
    }

    /// Needs no way to the gateway, or makes it.
    pub fn is_local(&self) -> bool {
        self.auth == Proof::Local && self.replaced_by.is_none()
    }

    /// The parameter that names the gateway's project.
    pub fn project_param(&self) -> Option<&Param> {
        self.param("project_id").or_else(|| self.param("project"))
    }

    /// Whether `confirm` has to be true.
    pub fn has_to_be_confirmed(&self) -> bool {
        self.effect == Effect::Removes
    }

    /// Refuses arguments that are missing, unknown, or not what the table says.
    pub fn check(&self, arguments: &Map<String, Value>) -> Result<(), Error> {
        super::thin::check(self, arguments)
    }

    pub(super) fn param(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|param| param.name == name)
    }

    /// JSON Schema of its arguments.
    pub fn input_schema(&self) -> Value {
        let mut properties = Map::new();
        for param in &self.params {
            properties.insert(param.name.clone(), param.schema());
        }
        let mut required: Vec<&str> =
            self.params.iter().filter(|param| param.required).map(|param| param.name.as_str()).collect();
        if self.has_to_be_confirmed() {
            let about = "Has to be true: this cannot be taken back";
            properties.insert("confirm".to_owned(), json!({"type": "boolean", "description": about}));
            required.push("confirm");
        }
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
    }
}

impl Param {
    /// A text of a command line as a value of this parameter; as a text where it is none, for the check to refuse.
    pub fn read(&self, text: &str) -> Value {
        match self.kind {
            Kind::String if self.nullable && text == "null" => Value::Null,
            Kind::String => text.into(),
            _ => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        }
    }

    fn schema(&self) -> Value {
        let mut schema = Map::new();
        let kind = match self.kind {
            Kind::String => Some("string"),
            Kind::Integer => Some("integer"),
            Kind::Boolean => Some("boolean"),
            Kind::Array => Some("array"),
            Kind::Object => Some("object"),
            Kind::Any => None,
        };
        match kind {
            Some(kind) => {
                schema.insert("type".to_owned(), kind.into());
            }
            None => {
                schema =
                    any_of(&["object", "array", "string", "number", "boolean"]).as_object().cloned().unwrap_or_default()
            }
        }
        schema.insert("description".to_owned(), self.about.clone().into());
        if !self.choices.is_empty() {
            schema.insert("enum".to_owned(), json!(self.choices));
        }
        if self.kind == Kind::Array {
            // What a list without a kind has is whatever SQL or the gateway takes.
            let items = match self.items {
                Some(Kind::Object) => json!({"type": "object"}),
                Some(_) => json!({"type": "string"}),
                None => any_of(&["object", "array", "string", "number", "boolean", "null"]),
            };
            schema.insert("items".to_owned(), items);
        }
        let bounds = [("minimum", self.minimum), ("maximum", self.maximum)];
        schema.extend(bounds.into_iter().filter_map(|(name, bound)| Some((name.to_owned(), bound?.into()))));
        schema.extend(self.max_length.map(|length| ("maxLength".to_owned(), length.into())));
        schema.extend(self.default.clone().map(|value| ("default".to_owned(), value)));
        schema.into()
    }
}

/// Said in full, since an empty schema is what some clients refuse.
fn any_of(kinds: &[&str]) -> Value {
    let kinds: Vec<Value> = kinds.iter().map(|kind| json!({ "type": kind })).collect();
    json!({ "anyOf": kinds })
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "tool")]
    tools: Vec<Tool>,
}

static ALL: LazyLock<Vec<Tool>> = LazyLock::new(|| {
    let of = |(group, text): (&'static str, &str)| {
        let file: File = toml::from_str(text).unwrap_or_else(|error| panic!("tools/{group}.toml: {error}"));
        file.tools.into_iter().map(move |tool| Tool { group, ..tool })
    };
    GROUPS.into_iter().flat_map(of).collect()
});

/// All tools, group by group.
pub fn all() -> &'static [Tool] {
    &ALL
}

pub fn named(name: &str) -> Option<&'static Tool> {
    ALL.iter().find(|tool| tool.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn entries_make_sense() {
        let names: BTreeSet<&str> = all().iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names.len(), all().len(), "a name is there twice");
        for tool in all() {
            let name = &tool.name;
            assert!(tool.about.len() > 60 && tool.about.contains("Answers"), "{name}: {}", tool.about);
            let Some(request) = &tool.request else { continue };
            let (method, path) = request.split_once(' ').expect("method and path");
            assert!(["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&method), "{name}");
            for named in path.split('{').skip(1).filter_map(|rest| rest.split_once('}')) {
                assert!(tool.param(named.0).is_some(), "{name}: {} is no parameter", named.0);
            }
            assert_eq!(
                tool.effect == Effect::Reads,
                method == "GET"
                    || ["assets_sign", "ai_translate", "ai_moderate", "contract_read"].contains(&name.as_str()),
                "{name}"
            );
            if tool.auth.needs_project() {
                assert!(tool.param("project_id").is_some(), "{name}: whose keys?");
            }
        }
    }

    #[test]
    fn examples_are_arguments() {
        for tool in all() {
            let schema = tool.input_schema();
            let known = schema["properties"].as_object().expect("fields");
            for name in tool.example.keys() {
                assert!(known.contains_key(name), "{}: the example has {name}", tool.name);
            }
            for name in schema["required"].as_array().expect("names") {
                assert!(
                    tool.example.contains_key(name.as_str().expect("a name")),
                    "{}: the example lacks {name}",
                    tool.name
                );
            }
        }
    }
}
