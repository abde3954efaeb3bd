//! Tools that need nothing from the client: contents of each kind, messages on the way, schemas, changes of lists.

use crate::contents::{PNG, WAV, answer, of_json, resource};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, LoggingLevel,
    LoggingMessageNotificationParam, ProgressNotificationParam, Tool,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::{Value, json};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::sync::broadcast;

/// Between two messages, so that they arrive as two.
const PAUSE: Duration = Duration::from_millis(50);

/// A list that a tool says has changed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Changed {
    Tools,
    Prompts,
}

/// Those who listen may be on another connection than the one who calls.
static CHANGES: LazyLock<broadcast::Sender<Changed>> = LazyLock::new(|| broadcast::channel(8).0);

pub(crate) fn changes() -> broadcast::Receiver<Changed> {
    CHANGES.subscribe()
}

pub(crate) fn tool(name: &'static str, description: &'static str, schema: Value) -> Tool {
    Tool::new(name, description, of_json::<rmcp::model::JsonObject>(schema))
}

/// A tool without arguments.
pub(crate) fn plain((name, description): (&'static str, &'static str)) -> Tool {
    tool(name, description, json!({"type": "object", "properties": {}}))
}

pub(crate) fn listed() -> Vec<Tool> {
    let plain = [
        ("test_simple_text", "Answers with a text"),
        ("test_image_content", "Answers with an image"),
        ("test_audio_content", "Answers with a sound"),
        ("test_embedded_resource", "Answers with a resource"),
        ("test_multiple_content_types", "Answers with a text, an image and a resource"),
        ("test_error_handling", "Fails"),
        ("test_tool_with_logging", "Says in log messages how far it is"),
        ("test_logging_tool", "Says something in a log message"),
        ("test_tool_with_progress", "Says in progress notifications how far it is"),
        ("test_reconnection", "Answers after a while"),
        ("test_trigger_tool_change", "Says that the list of tools has changed"),
        ("test_trigger_prompt_change", "Says that the list of prompts has changed"),
    ]
    .map(plain);
    let name = json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]});
    let region = json!({"type": "string", "x-mcp-header": "Region"});
    let others = [
        tool("greet", "Greets somebody", name),
        tool(
            "test_custom_header",
            "Has an argument that is a header too",
            json!({"type": "object", "properties": {"region": region}}),
        ),
        tool("json_schema_2020_12_tool", "Has a schema with much of the vocabulary of 2020-12", schema_2020_12()),
    ];
    plain.into_iter().chain(others).collect()
}

fn schema_2020_12() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}}
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"}
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": false
    })
}

/// Nothing when it is not one of these.
pub(crate) async fn call(
    request: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Option<Result<CallToolResponse, ErrorData>> {
    let image = || ContentBlock::image(PNG, "image/png");
    let contents = match &*request.name {
        "test_simple_text" => vec![ContentBlock::text("This is a simple text response for testing.")],
        "test_image_content" => vec![image()],
        "test_audio_content" => vec![ContentBlock::audio(WAV, "audio/wav")],
        "test_embedded_resource" => {
            let text = "This is an embedded resource content.";
            vec![ContentBlock::resource(resource("test://embedded-resource", "text/plain", text))]
        }
        "test_multiple_content_types" => {
            let json = json!({"test": "data", "value": 123}).to_string();
            let mixed = resource("test://mixed-content-resource", "application/json", json);
            vec![ContentBlock::text("Multiple content types test:"), image(), ContentBlock::resource(mixed)]
        }
        "test_error_handling" => {
            let text = ContentBlock::text("This tool intentionally returns an error for testing");
            return Some(Ok(CallToolResult::error(vec![text]).into()));
        }
        "test_tool_with_logging" => {
            for text in ["Tool execution started", "Tool processing data", "Tool execution completed"] {
                log(context, text).await;
                tokio::time::sleep(PAUSE).await;
            }
            return Some(Ok(answer("It has said so three times.")));
        }
        "test_logging_tool" => {
            log(context, "Something has happened").await;
            return Some(Ok(answer("It has said so.")));
        }
        "test_tool_with_progress" => {
            for done in [0.0, 50.0, 100.0] {
                progress(context, done).await;
                tokio::time::sleep(PAUSE).await;
            }
            return Some(Ok(answer("It has said so three times.")));
        }
        // The suite would rather see its stream closed on the way and taken up again; the library does not tell a
        // handler which one it is.
        "test_reconnection" => {
            tokio::time::sleep(PAUSE).await;
            return Some(Ok(answer("It has taken its time.")));
        }
        "test_trigger_tool_change" => return Some(Ok(changed(Changed::Tools))),
        "test_trigger_prompt_change" => return Some(Ok(changed(Changed::Prompts))),
        "greet" => {
            let name = request.arguments.as_ref().and_then(|arguments| arguments.get("name")?.as_str());
            let Some(name) = name else { return Some(Err(ErrorData::invalid_params("name is missing", None))) };
            return Some(Ok(answer(format!("Hello, {name}!"))));
        }
        "test_custom_header" | "json_schema_2020_12_tool" => {
            vec![ContentBlock::text(json!(request.arguments).to_string())]
        }
        _ => return None,
    };
    Some(Ok(CallToolResult::success(contents).into()))
}

fn changed(list: Changed) -> CallToolResponse {
    // Nobody may be listening.
    let _ = CHANGES.send(list);
    answer("It has said so.")
}

/// Without a session only to those who have asked for it in this very request.
async fn log(context: &RequestContext<RoleServer>, text: &str) {
    if crate::server::is_stateless(context) && context.meta.log_level().is_none() {
        return;
    }
    let message = LoggingMessageNotificationParam::new(LoggingLevel::Info, json!(text)).with_logger("fixtures");
    // A client that has gone is told nothing more.
    let _ = context.peer.notify_logging_message(message).await;
}

async fn progress(context: &RequestContext<RoleServer>, done: f64) {
    if let Some(token) = context.meta.get_progress_token() {
        let _ = context.peer.notify_progress(ProgressNotificationParam::new(token, done).with_total(100.0)).await;
    }
}
