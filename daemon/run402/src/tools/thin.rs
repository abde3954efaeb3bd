//! Thin tools: arguments -> one request -> the gateway's answer.

use super::table::{Body, Format, Kind, Param, Tool};
use crate::api::encoded_path;
use crate::client::{Auth, Client, Reply};
use crate::deploy::encoded;
use crate::error::Error;
use reqwest::Method;
use reqwest::header::HeaderName;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `active` is the project that is meant where the tool may leave it out.
pub(super) async fn call(
    tool: &Tool,
    client: &Client,
    arguments: &Map<String, Value>,
    active: Option<&str>,
) -> Result<Reply, Error> {
    let mut made = Made::of(tool, arguments, active)?;
    if let Some(name) = MAILBOX.into_iter().find(|name| made.path.contains(&place_of(name))) {
        let selector = arguments.get(name).and_then(Value::as_str);
        let mailbox = mailbox(client, &made.project, selector).await?;
        made.path = made.path.replace(&place_of(name), &encoded(&mailbox).to_string());
    }
    let mut request = client.request(made.method, made.path, tool.auth.auth(&made.project, &made.user));
    for (name, value) in &made.headers {
        let name: HeaderName = name.parse().map_err(|_| bad(tool, format!("{name} is no header")))?;
        request = request.header(name, value)?;
    }
    if tool.body == Some(Body::Job) {
        let key = format!("job-{}", uuid::Uuid::new_v4());
        request = request.header(HeaderName::from_static("idempotency-key"), &key)?;
    }
    match made.body {
        Some(Content::Json(body)) => request = request.json(&body)?,
        Some(Content::Text(text)) => request = request.bytes(text.into_bytes(), Some("text/plain")),
        None => {}
    }
    request.send(&format!("calling {}", tool.name)).await
}

/// Parameters by which a mailbox is chosen.
const MAILBOX: [&str; 2] = ["mailbox", "mailbox_id"];

fn place_of(name: &str) -> String {
    format!("{{{name}}}")
}

/// The id of a mailbox: as it is given, by the part before the @, or the project's only one.
async fn mailbox(client: &Client, project: &str, selector: Option<&str>) -> Result<String, Error> {
    if let Some(id) = selector.filter(|selector| selector.starts_with("mbx_")) {
        return Ok(id.to_owned());
    }
    let found = client.get("/mailboxes/v1", Auth::Service(project)).send("looking for the mailbox").await?.value();
    pick_mailbox(&found, selector).map(|mailbox| plain(&mailbox["mailbox_id"]))
}

/// One of those that the gateway has listed.
pub(super) fn pick_mailbox(found: &Value, selector: Option<&str>) -> Result<Value, Error> {
    let all: Vec<&Value> = found["mailboxes"].as_array().into_iter().flatten().collect();
    let named = |mailbox: &&&Value| {
        selector.is_none_or(|selector| ["mailbox_id", "slug", "address"].iter().any(|key| mailbox[*key] == selector))
    };
    let chosen: Vec<&&Value> = all.iter().filter(named).collect();
    match (chosen.as_slice(), selector) {
        ([only], _) => Ok((**only).clone()),
        ([], None) => Err(Error::local("MAILBOX_NOT_FOUND", "the project has no mailbox; create_mailbox makes one")),
        ([], Some(selector)) => {
            Err(Error::local("MAILBOX_NOT_FOUND", format!("the project has no mailbox {selector}")))
        }
        (several, _) => {
            let names: Vec<String> = several.iter().map(|mailbox| plain(&mailbox["slug"])).collect();
            let message = format!("the project has several mailboxes; name one of {}", names.join(", "));
            Err(Error::local("MAILBOX_AMBIGUOUS", message))
        }
    }
}

#[derive(Debug, PartialEq)]
enum Content {
    Json(Value),
    Text(String),
}

/// A request, but for its headers.
#[derive(Debug, PartialEq)]
struct Made {
    method: Method,
    path: String,
    body: Option<Content>,
    /// Whose keys are sent; empty where none are.
    project: String,
    /// Whose session is sent, where a user of the app is meant.
    user: String,
    headers: Vec<(String, String)>,
}

enum Place<'a> {
    Path,
    Query(&'a str),
    Body,
    Whole,
    /// It only chooses the keys.
    Keys,
}

/// A mailbox that nobody names is found all the same.
fn place<'a>(tool: &Tool, param: &'a Param, method: &Method, template: &str) -> Place<'a> {
    match param.place.as_deref() {
        Some("keys") => return Place::Keys,
        Some("whole") => return Place::Whole,
        Some("body") => return Place::Body,
        Some(other) => return Place::Query(other.strip_prefix("query:").unwrap_or(other)),
        None => {}
    }
    if template.contains(&format!("{{{}}}", param.name)) {
        Place::Path
    } else if param.name == "project_id" && tool.auth.needs_project() {
        Place::Keys
    } else if *method == Method::GET || *method == Method::DELETE {
        Place::Query(&param.name)
    } else {
        Place::Body
    }
}

impl Made {
    fn of(tool: &Tool, arguments: &Map<String, Value>, active: Option<&str>) -> Result<Self, Error> {
        let by_hand = || Error::local("LOCAL_ERROR", format!("{} is not one request", tool.name));
        let (method, template) = tool.request.as_deref().and_then(|text| text.split_once(' ')).ok_or_else(by_hand)?;
        let method: Method = method.parse().map_err(|_| by_hand())?;
        check(tool, arguments)?;
        let mut path = template.to_owned();
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let (mut fields, mut whole) = (Map::new(), None);
        let project = match arguments.get("project_id").and_then(Value::as_str).or(active) {
            Some(project) => project.to_owned(),
            None if tool.auth.needs_project() => return Err(missing(tool, "project_id")),
            None => String::new(),
        };
        for param in &tool.params {
            let given = arguments.get(&param.name).or(param.default.as_ref());
            let given = match (given, param.name.as_str()) {
                (None, "project_id") if !project.is_empty() => Some(Value::String(project.clone())),
                (None, _) if param.always => Some(Value::Null),
                (given, _) => given.cloned(),
            };
            let Some(value) = given else { continue };
            let value = converted(tool, param, value)?;
            match place(tool, param, &method, template) {
                Place::Keys => {}
                // Looked up when it is sent.
                Place::Path if MAILBOX.contains(&param.name.as_str()) => {}
                Place::Path => {
                    let text = plain(&value);
                    let text = if param.name == "key" { encoded_path(&text) } else { encoded(&text).to_string() };
                    path = path.replace(&format!("{{{}}}", param.name), &text);
                }
                Place::Query(name) => append(&mut query, name, &value),
                Place::Body => {
                    fields.insert(param.name.clone(), value);
                }
                Place::Whole => whole = Some(value),
            }
        }
        match query.finish() {
            text if text.is_empty() => {}
            text => path = format!("{path}?{text}"),
        }
        let body = match tool.body {
            Some(Body::Sql) => Some(sql(&fields)),
            Some(Body::Settings) => Some(Content::Json(settings(tool, fields)?)),
            Some(Body::Empty) => Some(Content::Json(json!({}))),
            Some(Body::Some) if fields.is_empty() => return Err(bad(tool, "name at least one field".to_owned())),
            Some(Body::Some) => Some(Content::Json(fields.into())),
            Some(Body::Job) => Some(Content::Json(job(tool, whole.unwrap_or_default())?)),
            None if whole.is_some() => whole.map(Content::Json),
            None if fields.is_empty() => None,
            None => Some(Content::Json(fields.into())),
        };
        let user = arguments.get("access_token").map(plain).unwrap_or_default();
        let given = |(name, param): (&String, &String)| Some((name.clone(), arguments.get(param).map(plain)?));
        let headers = tool.headers.iter().filter_map(given).collect();
        Ok(Self { method, path, body, project, user, headers })
    }
}

pub(super) fn check(tool: &Tool, arguments: &Map<String, Value>) -> Result<(), Error> {
    for (name, value) in arguments {
        let param = match tool.param(name) {
            Some(param) => param,
            None if name == "confirm" && tool.has_to_be_confirmed() => continue,
            None => return Err(bad(tool, format!("there is no parameter {name}"))),
        };
        if value.is_null() && param.nullable {
            continue;
        }
        if !param.kind.takes(value) {
            return Err(bad(tool, format!("{name} has to be {}", param.kind.name())));
        }
        if let Some(text) = value.as_str() {
            if !param.choices.is_empty() && !param.choices.iter().any(|choice| choice == text) {
                return Err(bad(tool, format!("{name} has to be one of {}", param.choices.join(", "))));
            }
            if param.required && text.is_empty() {
                return Err(missing(tool, name));
            }
            if param.max_length.is_some_and(|most| text.chars().count() > most) {
                return Err(bad(tool, format!("{name} is longer than {} characters", param.max_length.unwrap_or(0))));
            }
        }
        if let Some(number) = value.as_i64()
            && (param.minimum.is_some_and(|least| number < least) || param.maximum.is_some_and(|most| number > most))
        {
            let (least, most) = (param.minimum.unwrap_or(i64::MIN), param.maximum.unwrap_or(i64::MAX));
            return Err(bad(tool, format!("{name} is outside {least} to {most}")));
        }
    }
    if let Some(param) = tool.params.iter().find(|param| param.required && !arguments.contains_key(&param.name)) {
        return Err(missing(tool, &param.name));
    }
    if tool.has_to_be_confirmed() && arguments.get("confirm") != Some(&Value::Bool(true)) {
        return Err(bad(tool, "this cannot be taken back; call it again with \"confirm\": true".to_owned()));
    }
    Ok(())
}

fn bad(tool: &Tool, why: String) -> Error {
    Error::local("BAD_ARGUMENT", format!("{}: {why}", tool.name))
}

fn missing(tool: &Tool, name: &str) -> Error {
    bad(tool, format!("{name} is missing"))
}

/// As the gateway wants to have it.
fn converted(tool: &Tool, param: &Param, value: Value) -> Result<Value, Error> {
    let Some(Format::Time) = param.format else { return Ok(value) };
    let text = plain(&value);
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return Ok(text.into());
    }
    let time = OffsetDateTime::parse(&text, &Rfc3339)
        .map_err(|_| bad(tool, format!("{} is not a time such as 2026-01-31T12:00:00Z", param.name)))?;
    Ok((time.unix_timestamp_nanos() / 1_000_000).to_string().into())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A list repeats its name, an object has each field as `name[field]`.
fn append(query: &mut url::form_urlencoded::Serializer<'_, String>, name: &str, value: &Value) {
    match value {
        Value::Null => {}
        Value::Array(items) => {
            for item in items {
                query.append_pair(name, &plain(item));
            }
        }
        Value::Object(fields) => {
            for (field, value) in fields {
                query.append_pair(&format!("{name}[{field}]"), &plain(value));
            }
        }
        other => {
            query.append_pair(name, &plain(other));
        }
    }
}

fn sql(fields: &Map<String, Value>) -> Content {
    let sql = fields.get("sql").map(plain).unwrap_or_default();
    match fields.get("params").and_then(Value::as_array) {
        Some(params) if !params.is_empty() => Content::Json(json!({"sql": sql, "params": params})),
        _ => Content::Text(sql),
    }
}

fn job(tool: &Tool, mut job: Value) -> Result<Value, Error> {
    for (name, kind) in [("job_type", Kind::String), ("input", Kind::Object), ("max_cost_usd_micros", Kind::Integer)] {
        if !kind.takes(&job[name]) {
            return Err(bad(tool, format!("request.{name} has to be {}", kind.name())));
        }
    }
    job["input"] = json!({"input_json": job["input"]});
    Ok(job)
}

fn settings(tool: &Tool, mut fields: Map<String, Value>) -> Result<Value, Error> {
    if fields.is_empty() {
        return Err(bad(tool, "name at least one setting".to_owned()));
    }
    let config: Map<String, Value> =
        ["timeout", "memory"].into_iter().filter_map(|name| fields.remove_entry(name)).collect();
    if !config.is_empty() {
        fields.insert("config".to_owned(), config.into());
    }
    Ok(fields.into())
}

#[cfg(test)]
mod tests {
    use super::super::{all, named};
    use super::*;

    fn made(name: &str, arguments: Value) -> Result<Made, String> {
        let tool = named(name).unwrap_or_else(|| panic!("no {name}"));
        Made::of(tool, arguments.as_object().expect("arguments"), None).map_err(|error| error.message.clone())
    }

    fn request(name: &str, arguments: Value) -> (String, Option<Content>) {
        let made = made(name, arguments).unwrap_or_else(|error| panic!("{name}: {error}"));
        (format!("{} {}", made.method, made.path), made.body)
    }

    #[test]
    fn arguments_go_where_the_request_has_them() {
        let (line, body) = request("get_schema", json!({"project_id": "prj a/b"}));
        assert_eq!((line.as_str(), body), ("GET /projects/v1/admin/prj%20a%2Fb/schema", None));
        let (line, body) = request("set_secret", json!({"project_id": "p", "key": "A", "value": "b"}));
        assert_eq!(line, "POST /projects/v1/admin/p/secrets");
        assert_eq!(body, Some(Content::Json(json!({"key": "A", "value": "b"}))));
        let (line, _) = request("assets_rm", json!({"project_id": "p", "key": "a b/ü.png", "confirm": true}));
        assert_eq!(line, "DELETE /storage/v1/blob/a%20b/%C3%BC.png");
        let arguments = json!({"project_id": "p", "prefix": "i/", "filter": {"tag": "x", "min_width": 10}});
        let (line, _) = request("assets_ls", arguments);
        assert_eq!(line, "GET /storage/v1/blobs?prefix=i%2F&filter%5Bmin_width%5D=10&filter%5Btag%5D=x");
        assert_eq!(request("browse_apps", json!({"tags": ["a", "b"]})).0, "GET /apps/v1?tag=a&tag=b");
        assert_eq!(request("ci_list_bindings", json!({"project_id": "p"})).0, "GET /ci/v1/bindings?project=p");
        assert_eq!(request("list_subdomains", json!({"project_id": "p"})).0, "GET /subdomains/v1");
    }

    #[test]
    fn bodies_are_what_the_gateway_wants() {
        assert_eq!(
            request("run_sql", json!({"project_id": "p", "sql": "SELECT 1"})).1,
            Some(Content::Text("SELECT 1".to_owned()))
        );
        let with = request("run_sql", json!({"project_id": "p", "sql": "SELECT $1", "params": [null, 1]})).1;
        assert_eq!(with, Some(Content::Json(json!({"sql": "SELECT $1", "params": [null, 1]}))));
        let manifest = json!({"version": "1", "tables": []});
        let whole = request("apply_expose", json!({"project_id": "p", "manifest": manifest})).1;
        assert_eq!(whole, Some(Content::Json(manifest)));
        assert_eq!(
            request("set_tier", json!({"tier": "hobby"})),
            ("POST /tiers/v1/hobby".to_owned(), Some(Content::Json(json!({}))))
        );
        let settings =
            request("update_function", json!({"project_id": "p", "name": "f", "schedule": null, "timeout": 3})).1;
        assert_eq!(settings, Some(Content::Json(json!({"schedule": null, "config": {"timeout": 3}}))));
        assert!(made("update_function", json!({"project_id": "p", "name": "f"})).is_err());
        let image = request("generate_image", json!({"prompt": "x"})).1;
        assert_eq!(image, Some(Content::Json(json!({"prompt": "x", "aspect": "square"}))));
        let binding = named("ci_create_binding").expect("there").example.clone();
        let Some(Content::Json(body)) = request("ci_create_binding", binding.into()).1 else { panic!("no body") };
        assert_eq!((&body["github_repository_id"], &body["expires_at"]), (&Value::Null, &Value::Null));
        assert_eq!((&body["provider"], &body["project_id"]), (&json!("github-actions"), &json!("prj_1")));
        assert!(body.get("route_scopes").is_none());
    }

    #[test]
    fn times_become_milliseconds() {
        let logs = |since: &str| made("get_function_logs", json!({"project_id": "p", "name": "f", "since": since}));
        let path = |since: &str| logs(since).expect("a time").path;
        assert_eq!(path("1970-01-01T00:00:01.5Z"), "/projects/v1/admin/p/functions/f/logs?tail=50&since=1500");
        assert!(path("1700000000000").ends_with("since=1700000000000"));
        assert!(logs("yesterday").is_err());
    }

    #[test]
    fn what_the_table_does_not_say_is_refused() {
        let refused = |name: &str, arguments: Value| made(name, arguments).expect_err("refused");
        assert!(refused("get_schema", json!({})).contains("project_id is missing"));
        assert!(refused("get_schema", json!({"project_id": 1})).contains("a text"));
        assert!(refused("get_schema", json!({"project_id": "p", "colour": 1})).contains("colour"));
        assert!(refused("set_secret", json!({"project_id": "p", "key": "", "value": "x"})).contains("key is missing"));
        assert!(refused("set_tier", json!({"tier": "golden"})).contains("prototype"));
        assert!(refused("assets_ls", json!({"project_id": "p", "limit": 0})).contains("outside"));
        let delete = json!({"project_id": "p", "name": "f"});
        assert!(refused("delete_function", delete).contains("confirm"));
        assert!(
            refused("delete_function", json!({"project_id": "p", "name": "f", "confirm": false})).contains("confirm")
        );
    }

    #[test]
    fn every_example_is_a_request() {
        for tool in all().iter().filter(|tool| tool.request.is_some()) {
            let made = Made::of(tool, &tool.example, Some("prj_active"));
            let made = made.unwrap_or_else(|error| panic!("{}: {}", tool.name, error.message));
            let path = MAILBOX.iter().fold(made.path, |path, name| path.replace(&place_of(name), "mbx"));
            assert!(!path.contains('{') && path.starts_with('/'), "{}: {path}", tool.name);
        }
    }

    #[test]
    fn a_mailbox_is_named_or_the_only_one() {
        let one = json!({"mailboxes": [{"mailbox_id": "mbx_1", "slug": "hello"}]});
        let two = json!({"mailboxes": [{"mailbox_id": "mbx_1", "slug": "a"}, {"mailbox_id": "mbx_2", "slug": "b"}]});
        let id = |found: &Value, selector| pick_mailbox(found, selector).map(|mailbox| mailbox["mailbox_id"].clone());
        assert_eq!(id(&one, None).expect("the only one"), "mbx_1");
        assert_eq!(id(&two, Some("b")).expect("by its slug"), "mbx_2");
        assert!(id(&two, None).is_err() && id(&one, Some("x")).is_err() && id(&json!({}), None).is_err());
    }

    #[test]
    fn jobs_have_their_input_one_level_deeper() {
        let request = json!({"job_type": "t", "input": {"n": 1}, "max_cost_usd_micros": 5});
        let (_, body) = self::request("jobs_submit", json!({"project_id": "p", "request": request}));
        let expected = json!({"job_type": "t", "input": {"input_json": {"n": 1}}, "max_cost_usd_micros": 5});
        assert_eq!(body, Some(Content::Json(expected)));
        assert!(made("jobs_submit", json!({"project_id": "p", "request": {"job_type": "t"}})).is_err());
        assert!(made("update_mailbox_webhook", json!({"project_id": "p", "webhook_id": "w"})).is_err());
    }

    #[test]
    fn the_kinds_tell_values_apart() {
        assert!(
            Kind::Integer.takes(&json!(1)) && !Kind::Integer.takes(&json!(1.5)) && !Kind::Integer.takes(&json!("1"))
        );
        assert!(Kind::Any.takes(&json!(null)) && !Kind::Object.takes(&json!([])));
    }
}
