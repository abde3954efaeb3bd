//! Tools that ask the client: over its session where there is one, and otherwise by a result that says what is
//! missing, after which the client calls again with its answers.
//!
//! Input: questions, which are requests to the client by names of ours, as JSON. Output: the answers to all of them, or
//! the result that asks.

use crate::contents::{answer, of_json};
use crate::server::is_stateless;
use crate::tools::{plain, tool};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ClientCapabilities, InputRequiredResult, InputResponses, JsonObject,
    ServerRequest, Tool,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, PoisonError};

/// What a client sends back to go on with is only a name for it; these are the ones that have been given out.
static STATES: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

/// How far a call has come.
#[derive(Debug)]
pub(crate) enum Round {
    Answered(JsonObject),
    Asks(InputRequiredResult),
}

/// What a request brings from the rounds before it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Brought {
    pub(crate) responses: Option<InputResponses>,
    pub(crate) state: Option<String>,
}

impl Brought {
    pub(crate) fn by(request: &CallToolRequestParams) -> Self {
        Self { responses: request.input_responses.clone(), state: request.request_state.clone() }
    }

    fn has(&self, name: &str) -> bool {
        self.responses.as_ref().is_some_and(|responses| responses.get(name).is_some_and(Value::is_object))
    }
}

pub(crate) fn listed() -> Vec<Tool> {
    let one = |name: &str| json!({"type": "object", "properties": {name: {"type": "string"}}, "required": [name]});
    let with_argument = [
        tool("test_sampling", "Asks the client's model", one("prompt")),
        tool("test_elicitation", "Asks the user", one("message")),
    ];
    let without = [
        ("test_elicitation_sep1034_defaults", "Asks the user, with default values"),
        ("test_elicitation_sep1330_enums", "Asks the user to choose"),
        ("test_streaming_elicitation", "Asks the user"),
        ("test_missing_capability", "Asks the client's model, which a client may not have"),
        ("test_input_required_result_elicitation", "Asks the user"),
        ("test_input_required_result_sampling", "Asks the client's model"),
        ("test_input_required_result_list_roots", "Asks for the client's roots"),
        ("test_input_required_result_request_state", "Asks the user, and knows where it was"),
        ("test_input_required_result_tampered_state", "Asks the user, and knows a wrong state"),
        ("test_input_required_result_multiple_inputs", "Asks three things at once"),
        ("test_input_required_result_multi_round", "Asks one thing after another"),
        ("test_input_required_result_capabilities", "Asks what the client can answer"),
    ];
    with_argument.into_iter().chain(without.map(plain)).collect()
}

/// Nothing when it is not one of these.
pub(crate) async fn call(
    request: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Option<Result<CallToolResponse, ErrorData>> {
    let brought = Brought::by(request);
    let mut questions = questions(request, &brought)?;
    if request.name == "test_input_required_result_capabilities" {
        questions.retain(|_, question| undeclared(question, context).is_none());
    }
    Some(match round(questions, &brought, context).await {
        Ok(Round::Asks(result)) => Ok(result.into()),
        Ok(Round::Answered(answers)) => Ok(answer(format!("The client has answered: {}", Value::from(answers)))),
        Err(error) => Err(error),
    })
}

fn questions(request: &CallToolRequestParams, brought: &Brought) -> Option<JsonObject> {
    let given = |name: &str| request.arguments.as_ref().and_then(|given| given.get(name)?.as_str()).unwrap_or_default();
    let questions = match &*request.name {
        "test_sampling" => json!({"reply": model(given("prompt"), 100)}),
        "test_elicitation" => json!({"reply": user(given("message"), json!({
            "username": {"type": "string", "description": "User's response"},
            "email": {"type": "string", "description": "User's email address"}
        }))}),
        "test_elicitation_sep1034_defaults" => json!({"reply": user("Everything has a default", defaults())}),
        "test_elicitation_sep1330_enums" => json!({"reply": user("Please choose", choices())}),
        "test_missing_capability" => json!({"reply": model("Is there a model?", 100)}),
        "test_streaming_elicitation" | "test_input_required_result_elicitation" => json!({"user_name": user_name()}),
        "test_input_required_result_sampling" => {
            json!({"capital_question": model("What is the capital of France?", 100)})
        }
        "test_input_required_result_list_roots" => json!({"client_roots": {"method": "roots/list"}}),
        "test_input_required_result_request_state" | "test_input_required_result_tampered_state" => {
            json!({"confirm": user("Please confirm", json!({"ok": {"type": "boolean"}}))})
        }
        "test_input_required_result_multiple_inputs" => json!({
            "user_name": user_name(),
            "greeting": model("Generate a greeting", 50),
            "client_roots": {"method": "roots/list"}
        }),
        // Each round brings the answer of the one before it only.
        "test_input_required_result_multi_round" if brought.has("step1") || brought.has("step2") => {
            json!({"step2": user("Step 2: What is your favorite color?", json!({"color": {"type": "string"}}))})
        }
        "test_input_required_result_multi_round" => {
            json!({"step1": user("Step 1: What is your name?", json!({"name": {"type": "string"}}))})
        }
        "test_input_required_result_capabilities" => {
            json!({"user_name": user_name(), "greeting": model("Generate a greeting", 50)})
        }
        _ => return None,
    };
    Some(of_json(questions))
}

/// To the user. Each field has to be filled in, unless it has a default.
pub(crate) fn user(message: &str, fields: Value) -> Value {
    let fields: JsonObject = of_json(fields);
    let required: Vec<_> =
        fields.iter().filter(|(_, field)| field["default"].is_null()).map(|(name, _)| name).collect();
    let schema = json!({"type": "object", "properties": fields, "required": required});
    json!({"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}})
}

pub(crate) fn user_name() -> Value {
    user("What is your name?", json!({"name": {"type": "string"}}))
}

fn model(prompt: &str, max_tokens: u32) -> Value {
    let messages = json!([{"role": "user", "content": {"type": "text", "text": prompt}}]);
    json!({"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": max_tokens}})
}

fn defaults() -> Value {
    json!({
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": true}
    })
}

fn choices() -> Value {
    let options = json!(["option1", "option2", "option3"]);
    let titled = |noun: &str| {
        let titles = ["First", "Second", "Third"].iter().zip(1..);
        titles.map(|(title, n)| json!({"const": format!("value{n}"), "title": format!("{title} {noun}")})).collect()
    };
    let (options_of_one, choices_of_many): (Vec<Value>, Vec<Value>) = (titled("Option"), titled("Choice"));
    json!({
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": options_of_one},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"]
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": choices_of_many}}
    })
}

/// Asks what is not answered yet.
pub(crate) async fn round(
    questions: JsonObject,
    brought: &Brought,
    context: &RequestContext<RoleServer>,
) -> Result<Round, ErrorData> {
    if let Some(missing) = questions.values().find_map(|question| undeclared(question, context)) {
        return Err(ErrorData::missing_required_client_capability(missing));
    }
    if !is_stateless(context) {
        return over_session(questions, context).await.map(Round::Answered);
    }
    let known = |state: &String| STATES.lock().unwrap_or_else(PoisonError::into_inner).remove(state);
    if brought.state.as_ref().is_some_and(|state| !known(state)) {
        return Err(ErrorData::invalid_params("this state is none of ours", None));
    }
    if questions.keys().all(|name| brought.has(name)) && !questions.is_empty() {
        return Ok(Round::Answered(brought.responses.clone().unwrap_or_default().into_iter().collect()));
    }
    let state = uuid::Uuid::new_v4().to_string();
    STATES.lock().unwrap_or_else(PoisonError::into_inner).insert(state.clone());
    Ok(Round::Asks(InputRequiredResult::new(Some(of_json(questions.into())), Some(state))))
}

async fn over_session(questions: JsonObject, context: &RequestContext<RoleServer>) -> Result<JsonObject, ErrorData> {
    let mut answers = JsonObject::new();
    for (name, question) in questions {
        let reply = context.peer.send_request(of_json::<ServerRequest>(question)).await;
        let reply = reply.map_err(|error| ErrorData::internal_error(format!("no answer: {error}"), None))?;
        answers.insert(name, json!(reply));
    }
    Ok(answers)
}

/// What the client would have to be able to do, and has not said that it can.
fn undeclared(question: &Value, context: &RequestContext<RoleServer>) -> Option<ClientCapabilities> {
    let capability = match question["method"].as_str() {
        Some("elicitation/create") => "elicitation",
        Some("sampling/createMessage") => "sampling",
        _ => "roots",
    };
    let declared = json!(context.client_capabilities());
    declared[capability].is_null().then(|| of_json(json!({capability: {}})))
}
