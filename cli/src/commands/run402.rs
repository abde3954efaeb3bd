//! `sandboxctl run402`: any tool of the gateway, from the same table as an agent's.

use crate::args::{Globals, ToolArgs};
use crate::deployment::target::Target;
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::render;
use ::run402::tools::{self, Context, LocalFiles, Tool};
use sandbox_wire::{Code, Problem};
use serde_json::{Map, Value, json};
use std::io::Read;

/// Longer arguments are none.
const MAX_INPUT_BYTES: u64 = 16 << 20;

pub(crate) async fn run402(globals: &Globals, args: ToolArgs) -> Result<u8, Failure> {
    let Some((name, words)) = args.words.split_first() else {
        list(globals.json);
        return Ok(0);
    };
    let tool = tools::named(name).ok_or_else(|| {
        let problem = Problem::new(Code::NotFound, format!("there is no tool {name}"));
        Failure::from(problem.next("sandboxctl run402 lists them"))
    })?;
    if words.iter().any(|word| word == "--describe" || word == "--help") {
        render::json(&described(tool));
        return Ok(0);
    }
    let arguments = arguments(tool, words)?;
    let mut interrupts = Interrupts::listen();
    let called = async {
        if tool.is_local() {
            return Ok::<_, Failure>(tools::call_local(tool, &Target::environment(globals)?, &arguments).await?);
        }
        let target = Target::open(globals)?;
        let context = Context { account: &target.account, project: None, files: &LocalFiles };
        Ok(tools::call(tool, context, &arguments).await?)
    };
    tokio::select! {
        answer = called => render::json(&answer?),
        signal = interrupts.next() => return Ok(signal.exit_code()),
    }
    Ok(0)
}

fn list(json: bool) {
    if json {
        render::json(&tools::all().iter().map(described).collect::<Vec<_>>());
        return;
    }
    let lines = tools::all().iter().map(|tool| format!("{:<34} {:<10} {}\n", tool.name, tool.group, tool.title));
    render::text(&lines.collect::<String>());
}

fn described(tool: &Tool) -> Value {
    json!({
        "name": tool.name, "group": tool.group, "title": tool.title, "description": tool.about,
        "example": tool.example, "input_schema": tool.input_schema()
    })
}

/// `--NAME VALUE`, `--NAME=VALUE`, and `--NAME` alone for what is true. What stands in `--input` comes first.
fn arguments(tool: &Tool, words: &[String]) -> Result<Map<String, Value>, Failure> {
    let wrong = |why: String| {
        let problem = Problem::new(Code::InvalidRequest, format!("{}: {why}", tool.name));
        Failure::from(problem.next(format!("sandboxctl run402 {} --describe", tool.name)))
    };
    let (mut whole, mut named) = (Map::new(), Map::new());
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        // Which it is anyway.
        if word == "--json" {
            continue;
        }
        let Some(text) = word.strip_prefix("--") else { return Err(wrong(format!("{word:?} has no name before it"))) };
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, words.next_if(|next| !next.starts_with("--")).cloned()),
        };
        if name == "input" {
            whole = object(&value.ok_or_else(|| wrong("--input has no JSON".to_owned()))?)?;
            continue;
        }
        let name = name.replace('-', "_");
        let param = tool.params.iter().find(|param| param.name == name);
        let value = match (param, value) {
            (Some(param), Some(text)) => param.read(&text),
            // Whether it may be true is the table's to say.
            (_, None) => Value::Bool(true),
            (None, Some(text)) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        };
        named.insert(name, value);
    }
    whole.extend(named);
    Ok(whole)
}

fn object(input: &str) -> Result<Map<String, Value>, Failure> {
    let mut text = input.to_owned();
    if input == "-" {
        text.clear();
        let read = std::io::stdin().lock().take(MAX_INPUT_BYTES).read_to_string(&mut text);
        read.map_err(|error| Failure::new(Code::InvalidRequest, format!("cannot read standard input: {error}")))?;
    }
    serde_json::from_str(&text)
        .map_err(|error| Failure::new(Code::InvalidRequest, format!("--input is not a JSON object: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tool: &str, words: &[&str]) -> Map<String, Value> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        arguments(tools::named(tool).expect("a tool"), &words).expect("arguments")
    }

    #[test]
    fn input_is_an_object() {
        assert!(of("run_sql", &[]).is_empty());
        assert_eq!(of("run_sql", &["--input", "{\"sql\": \"SELECT 1\"}"])["sql"], "SELECT 1");
        for bad in ["", "[]", "1", "{"] {
            assert!(object(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_argument_may_have_a_name() {
        let given = of("run_sql", &["--sql", "SELECT $1", "--params=[1, \"x\"]", "--project-id", "prj_1"]);
        assert_eq!(Value::Object(given), json!({"sql": "SELECT $1", "params": [1, "x"], "project_id": "prj_1"}));
        let given = of("assets_put", &["--content", "12", "--immutable", "--metadata", "{\"a\": 1}"]);
        assert_eq!(Value::Object(given), json!({"content": "12", "immutable": true, "metadata": {"a": 1}}));
        let given = of("assets_ls", &["--input={\"limit\": 1, \"prefix\": \"a\"}", "--limit", "5"]);
        assert_eq!(Value::Object(given), json!({"limit": 5, "prefix": "a"}));
        assert_eq!(of("update_function", &["--schedule", "null"])["schedule"], Value::Null);
        // Names of ours are the tool's here.
        assert_eq!(of("diagnose_public_url", &["--url", "https://a.example"])["url"], "https://a.example");
        assert!(of("service_health", &["--json"]).is_empty());
        let words = ["SELECT 1".to_owned()];
        assert!(arguments(tools::named("run_sql").expect("a tool"), &words).is_err());
    }
}
