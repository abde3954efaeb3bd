//! Prompts that people choose in their client: how to go about a whole piece of work with these tools.

use rmcp::model::{GetPromptRequestParams, GetPromptResult, Prompt, PromptArgument, PromptMessage, Role};
use rmcp::{ErrorData, model::JsonObject};
use serde_json::Value;

const BUILD_FIX_DEPLOY: &str = "build_fix_deploy";
const DESCRIPTION: &str = "Build a project, mend what breaks, and put it on the web";

pub(crate) fn listed() -> Vec<Prompt> {
    let argument = |name: &str, description: &str, required: bool| {
        PromptArgument::new(name).with_description(description).with_required(required)
    };
    let arguments = vec![
        argument("project_id", "The project, by id or url_id", true),
        argument("command", "What builds it; found out when absent", false),
        argument("dir", "The folder that the build leaves; found out when absent", false),
    ];
    vec![Prompt::new(BUILD_FIX_DEPLOY, Some(DESCRIPTION), Some(arguments))]
}

pub(crate) fn get(request: &GetPromptRequestParams) -> Result<GetPromptResult, ErrorData> {
    if request.name != BUILD_FIX_DEPLOY {
        let name: String = request.name.chars().take(64).collect();
        return Err(ErrorData::invalid_params(format!("there is no prompt named {name}; see prompts/list"), None));
    }
    let none = JsonObject::new();
    let arguments = request.arguments.as_ref().unwrap_or(&none);
    let given = |name: &str| arguments.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let project = given("project_id").ok_or_else(|| ErrorData::invalid_params("project_id is missing", None))?;
    let command = given("command").map_or_else(
        || "Find out how it is built (list_files, read_file package.json or the README).".to_owned(),
        |command| format!("It is built by `{command}`."),
    );
    let dir = given("dir").map_or_else(
        || "Find out which folder the build leaves, such as dist, build or out.".to_owned(),
        |dir| format!("The build leaves the folder {dir}."),
    );
    let text = format!(
        "Build the project `{project}` and put it on the web.\n\n\
         1. {command} {dir}\n\
         2. Call build_and_deploy with the command and the folder. Give it a timeout_ms of 300000 when it installs packages.\n\
         3. When the build fails, read its STDERR, mend the cause with read_file and write_file, and call build_and_deploy \
         again. Mend causes, not symptoms: leave tests and checks on. After five failures stop and say what is in the way.\n\
         4. When it is live, fetch nothing from inside the sandbox: answer with the release's url, and with what you changed."
    );
    Ok(GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)]).with_description(DESCRIPTION))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(value: Value) -> Result<GetPromptResult, ErrorData> {
        get(&serde_json::from_value(value).expect("a request"))
    }

    #[test]
    fn what_is_given_stands_in_the_text() {
        let arguments = serde_json::json!({"project_id": "shop", "command": "make site"});
        let result = ask(serde_json::json!({"name": BUILD_FIX_DEPLOY, "arguments": arguments})).expect("a prompt");
        let text = serde_json::to_string(&result.messages).expect("JSON");
        assert!(
            text.contains("`shop`") && text.contains("`make site`") && text.contains("dist, build or out"),
            "{text}"
        );
        assert!(ask(serde_json::json!({"name": BUILD_FIX_DEPLOY})).is_err());
        assert!(ask(serde_json::json!({"name": "other"})).is_err());
    }
}
