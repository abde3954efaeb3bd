//! The gateway's own tools, from the table of the run402 client.

use super::answer::{Answer, HALF_BYTES};
use super::tool::{Action, Call, Effect, Listed, object};
use crate::deploys;
use crate::projects::Entry;
use crate::service::Error;
use rmcp::model::JsonObject;
use run402::error::Kind;
use run402::tools::{self, Tool};
use sandbox_wire::{Code, Problem};
use serde_json::{Value, json};
use std::sync::Arc;

/// The parameter that names whose files are meant.
const SANDBOX: &str = "sandbox_project";
pub(crate) const LIST_PROJECTS: &str = "list_projects";
/// Of an answer, as text and as data.
const MAX_BYTES: usize = 4 * HALF_BYTES;

pub(crate) fn listed() -> impl Iterator<Item = Listed> {
    // Our own tool of that name asks for both.
    tools::all().iter().filter(|tool| tool.name != LIST_PROJECTS).map(|tool| {
        let effect = match tool.effect {
            tools::Effect::Reads => Effect::Reads,
            tools::Effect::Adds => Effect::AddsElsewhere,
            tools::Effect::Sets => Effect::Sets,
            tools::Effect::Replaces | tools::Effect::Removes => Effect::Replaces,
            tools::Effect::Anything => Effect::Anything,
        };
        let output = json!({"type": "object", "additionalProperties": true});
        let shown = rmcp::model::Tool::new(tool.name.as_str(), description(tool), Arc::new(object(input_schema(tool))))
            .with_title(tool.title.as_str())
            .with_raw_output_schema(Arc::new(object(output)))
            .with_annotations(effect.annotations(&tool.title).open_world(true));
        Listed { group: tool.group, tool: shown, action: Action::Gateway(tool) }
    })
}

/// Where a tool names files, whose files these are is one parameter more.
fn input_schema(tool: &Tool) -> Value {
    let mut schema = tool.input_schema();
    if tool.files {
        schema["properties"][SANDBOX] = json!({
            "type": "string",
            "description": "The sandbox project in whose folder files are: its id or url_id. The connection's project when absent"
        });
    }
    schema
}

fn description(tool: &Tool) -> String {
    let example = Value::Object(tool.example.clone());
    format!("{} A tool of the run402 gateway. Example: {example}", tool.about)
}

pub(crate) async fn call(call: &Call, tool: &Tool, mut arguments: JsonObject) -> Result<Answer, Error> {
    let files = match tool.files {
        true => files(call, arguments.remove(SANDBOX))?,
        false => None,
    };
    let project = files.clone().or_else(|| call.own_project());
    let asked = async { call.service.call_gateway(&call.caller, tool, &arguments, project.as_deref(), files).await };
    match call.unless_cancelled(asked).await? {
        Ok(value) => Ok(answer(value)),
        // What it costs is what was to be found out.
        Err(error) if error.kind == Kind::PaymentRequired => {
            let details = serde_json::to_value(&error).map_err(Error::internal)?;
            let text = format!("The gateway wants to be paid first; nothing was done. {error}\n\n{}", pretty(&details));
            Ok(Answer::new(text, &json!({ "payment_required": details })))
        }
        Err(error) if error.code == "BAD_ARGUMENT" => {
            let problem = Problem::new(Code::InvalidRequest, &error.message);
            Err(problem.next(format!("see the input schema of {}", tool.name)).into())
        }
        Err(error) => Err(deploys::refused(&error).into()),
    }
}

/// The project whose files a call means, for a caller who may read and write them.
fn files(call: &Call, named: Option<Value>) -> Result<Option<Arc<Entry>>, Error> {
    match named {
        Some(Value::String(name)) => Ok(Some(call.project_for_files(&name)?)),
        Some(_) => {
            Err(Problem::new(Code::InvalidRequest, "sandbox_project has to be a text").with("field", SANDBOX).into())
        }
        None if call.default_project.is_some() => Ok(Some(call.project_for_files("")?)),
        None => Ok(None),
    }
}

fn answer(value: Value) -> Answer {
    let text = match &value {
        Value::Null => "Done.".to_owned(),
        Value::String(text) => text.clone(),
        value => pretty(value),
    };
    if text.len() > MAX_BYTES {
        let cut = (0..=MAX_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        let data = json!({"truncated": true, "bytes": text.len()});
        return Answer::new(&text[..cut], &data).note(format!("Only the first {cut} of {} bytes.", text.len()));
    }
    match value {
        Value::Object(_) => Answer::new(text, &value),
        value => Answer::new(text, &json!({ "value": value })),
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("JSON is text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_answers_are_cut_between_characters() {
        let long = json!({"rows": "é".repeat(MAX_BYTES)});
        let result = answer(long).into_result();
        let text = &result.content[0].as_text().expect("a text").text;
        assert!(text.len() <= MAX_BYTES && text.len() > MAX_BYTES - 4);
        assert_eq!(result.structured_content.expect("data")["truncated"], true);
    }

    #[test]
    fn what_is_no_object_is_wrapped_in_one() {
        let data = |value: Value| answer(value).into_result().structured_content.expect("data");
        assert_eq!(data(json!([1])), json!({"value": [1]}));
        assert_eq!(data(json!({"a": 1})), json!({"a": 1}));
        assert_eq!(data(Value::Null), json!({}));
    }
}
