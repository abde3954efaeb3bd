//! Tools whose work goes on after the call: a task, which the client looks after.
//!
//! Input: calls. Output: a task for clients that know them; for others the result, where waiting for it makes sense, or
//! an error that says what they would have to know.

use crate::asking::{self, Brought, Round};
use crate::contents::{answer, of_json, text};
use crate::tools::{plain, tool};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock, CreateTaskResult,
    JsonObject, Tool,
};
use rmcp::service::RequestContext;
use rmcp::task_manager::{TaskContext, TaskExit, TaskManager, TaskOptions};
use rmcp::{ErrorData, RoleServer};
use serde_json::json;
use std::sync::LazyLock;
use std::time::Duration;

const ASKS_FIRST: &str = "test_tool_with_task";

/// A request without a session finds the tasks of those before it.
static TASKS: LazyLock<TaskManager> = LazyLock::new(TaskManager::new);

pub(crate) fn all() -> &'static TaskManager {
    &TASKS
}

pub(crate) fn listed() -> Vec<Tool> {
    let seconds = json!({
        "type": "object",
        "properties": {"seconds": {"type": "number"}, "label": {"type": "string"}},
        "required": ["seconds"]
    });
    let filename = json!({"type": "object", "properties": {"filename": {"type": "string"}}, "required": ["filename"]});
    let with_argument = [
        tool("slow_compute", "Takes some seconds", seconds),
        tool("confirm_delete", "Asks the user while it is at work; deletes nothing", filename),
    ];
    let without = [
        ("failing_job", "Fails after a second, as a tool"),
        ("protocol_error_job", "Fails at once, as a request"),
        ("multi_input", "Asks the user two things while it is at work"),
        (ASKS_FIRST, "Asks the user before it goes to work"),
    ];
    with_argument.into_iter().chain(without.map(plain)).collect()
}

/// Nothing when it is not one of these.
pub(crate) async fn call(
    request: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Option<Result<CallToolResponse, ErrorData>> {
    let asks_first = request.name == ASKS_FIRST;
    let job = if asks_first { None } else { Some(Job::of(request)?) };
    let knows_tasks = context.client_capabilities().is_some_and(|capabilities| capabilities.supports_tasks());
    Some(match job {
        Some(Job::Compute(pause)) if !knows_tasks => {
            tokio::time::sleep(pause).await;
            Ok(answer(computed(pause)))
        }
        _ if !knows_tasks => {
            let tasks = ClientCapabilities::builder().enable_tasks().build();
            Err(ErrorData::missing_required_client_capability(tasks))
        }
        Some(job) => Ok(start(job)),
        None => ask_first(request, context).await,
    })
}

async fn ask_first(
    request: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let questions: JsonObject = of_json(json!({"user_name": asking::user_name()}));
    Ok(match asking::round(questions, &Brought::by(request), context).await? {
        Round::Asks(result) => result.into(),
        Round::Answered(answers) => start(Job::Say(format!("The client has answered: {}", json!(answers)))),
    })
}

#[derive(Debug)]
enum Job {
    Compute(Duration),
    Confirm(String),
    AskTwice,
    Fail,
    Break,
    Say(String),
}

impl Job {
    fn of(request: &CallToolRequestParams) -> Option<Self> {
        let given = |name: &str| request.arguments.as_ref().and_then(|given| given.get(name));
        Some(match &*request.name {
            "slow_compute" => {
                let seconds = given("seconds").and_then(|seconds| seconds.as_f64()).unwrap_or_default();
                Self::Compute(Duration::try_from_secs_f64(seconds).unwrap_or_default())
            }
            "confirm_delete" => {
                Self::Confirm(given("filename").and_then(|name| name.as_str()).unwrap_or_default().to_owned())
            }
            "multi_input" => Self::AskTwice,
            "failing_job" => Self::Fail,
            "protocol_error_job" => Self::Break,
            _ => return None,
        })
    }

    async fn run(self, task: TaskContext) -> Result<CallToolResult, TaskExit> {
        let ask = |name: &'static str, message: String| {
            let question = asking::user(&message, json!({"confirm": {"type": "boolean"}}));
            task.request_input(name, of_json(question))
        };
        match self {
            Self::Compute(pause) => tokio::select! {
                () = tokio::time::sleep(pause) => Ok(text(computed(pause))),
                () = task.cancelled() => Err(TaskExit::Cancelled),
            },
            Self::Confirm(filename) => {
                let reply = ask("confirm", format!("Delete {filename}?")).await?;
                Ok(text(format!("The user has answered: {reply}")))
            }
            Self::AskTwice => {
                let (first, second) =
                    tokio::try_join!(ask("first", "This?".to_owned()), ask("second", "And that?".to_owned()))?;
                Ok(text(format!("The user has answered: {first} and {second}")))
            }
            Self::Fail => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(CallToolResult::error(vec![ContentBlock::text("This job always fails.")]))
            }
            Self::Break => Err(ErrorData::internal_error("this job always breaks", None).into()),
            Self::Say(words) => Ok(text(words)),
        }
    }
}

fn start(job: Job) -> CallToolResponse {
    let task = TASKS.spawn(TaskOptions::new(), |context| Box::pin(job.run(context)));
    CreateTaskResult::new(task).into()
}

fn computed(pause: Duration) -> String {
    format!("That took {} s.", pause.as_secs_f64())
}
