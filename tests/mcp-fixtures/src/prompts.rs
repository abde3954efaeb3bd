//! Prompts: plain, with arguments, with a resource, with an image, and one that asks the user first.

use crate::asking::{self, Brought, Round};
use crate::contents::{PNG, of_json, resource};
use rmcp::model::{
    ContentBlock, GetPromptRequestParams, GetPromptResponse, GetPromptResult, JsonObject, Prompt, PromptArgument,
    PromptMessage, Role,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::{Value, json};

pub(crate) fn listed() -> Vec<Prompt> {
    let prompts: [(&str, &str, &[&str]); 5] = [
        ("test_simple_prompt", "A text", &[]),
        ("test_prompt_with_arguments", "A text with two arguments in it", &["arg1", "arg2"]),
        ("test_prompt_with_embedded_resource", "A resource and a text", &["resourceUri"]),
        ("test_prompt_with_image", "An image and a text", &[]),
        ("test_input_required_result_prompt", "A text that the user is asked for", &[]),
    ];
    let argument = |name: &&str| PromptArgument::new(*name).with_required(true);
    let prompt = |(name, description, arguments): (&str, &str, &[&str])| {
        Prompt::new(name, Some(description), Some(arguments.iter().map(argument).collect()))
    };
    prompts.map(prompt).into()
}

pub(crate) async fn get(
    request: &GetPromptRequestParams,
    context: &RequestContext<RoleServer>,
) -> Result<GetPromptResponse, ErrorData> {
    let given = |name: &str| {
        let value = request.arguments.as_ref().and_then(|given| given.get(name)).and_then(Value::as_str);
        value.ok_or_else(|| ErrorData::invalid_params(format!("{name} is missing"), None))
    };
    let messages = match request.name.as_str() {
        "test_simple_prompt" => vec![said("This is a simple prompt for testing.")],
        "test_prompt_with_arguments" => {
            vec![said(&format!("Prompt with arguments: arg1='{}', arg2='{}'", given("arg1")?, given("arg2")?))]
        }
        "test_prompt_with_embedded_resource" => {
            let text = "Embedded resource content for testing.";
            let embedded = ContentBlock::resource(resource(given("resourceUri")?, "text/plain", text));
            vec![PromptMessage::new(Role::User, embedded), said("Please process the embedded resource above.")]
        }
        "test_prompt_with_image" => {
            let image = ContentBlock::image(PNG, "image/png");
            vec![PromptMessage::new(Role::User, image), said("Please analyze the image above.")]
        }
        "test_input_required_result_prompt" => {
            let question = asking::user("What context should the prompt use?", json!({"context": {"type": "string"}}));
            let questions: JsonObject = of_json(json!({"user_context": question}));
            let brought = Brought { responses: request.input_responses.clone(), state: request.request_state.clone() };
            match asking::round(questions, &brought, context).await? {
                Round::Asks(result) => return Ok(result.into()),
                Round::Answered(answers) => vec![said(&format!("The client has answered: {}", Value::from(answers)))],
            }
        }
        name => return Err(ErrorData::invalid_params(format!("there is no prompt named {name}"), None)),
    };
    Ok(GetPromptResult::new(messages).into())
}

fn said(text: &str) -> PromptMessage {
    PromptMessage::new_text(Role::User, text)
}
