//! Runs as tasks, for clients that declare the extension `io.modelcontextprotocol/tasks` (SEP-2663).
//!
//! A command that goes on after a few seconds answers with a task; its id is the run's. What becomes of it is asked
//! of the run, so a task outlives sessions and daemons, and only who may use the project may ask.

use super::answer;
use super::answer::HALF_BYTES;
use super::runs::run_of;
use super::tool::Call;
use crate::clock;
use crate::index::runs::RunRow;
use crate::service::Error;
use rmcp::model::{DetailedTask, GetTaskResult, Task, TaskPayload, TaskStatus};
use rmcp::{ErrorData, RoleServer, service::RequestContext};
use sandbox_wire::RunState;
use serde_json::Value;
use std::time::Duration;

/// Until then a command is waited for like any other.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
const POLL_INTERVAL_MS: u64 = 1000;

/// Whether the client takes tasks.
pub(crate) fn declared(context: &RequestContext<RoleServer>) -> bool {
    context.client_capabilities().is_some_and(|capabilities| capabilities.supports_tasks())
}

/// A run as the task that it is. Its record is kept as long as the run's.
pub(crate) fn of_run(row: &RunRow) -> Task {
    let ended_ms = row.duration_ms.map(|duration| row.started_at_ms + duration as i64);
    let created = clock::rfc3339(row.started_at_ms);
    let updated = clock::rfc3339(ended_ms.unwrap_or_else(clock::now_ms));
    Task::new(row.id.as_str(), TaskStatus::Working, created, updated).with_poll_interval_ms(POLL_INTERVAL_MS)
}

/// `tasks/get`
pub(crate) async fn get(call: &Call, id: &str) -> Result<GetTaskResult, ErrorData> {
    let shown = async {
        let (entry, run) = run_of(call, id).await?;
        let row = call.service.run_row(&entry, &run).await?;
        let payload = match row.status {
            RunState::Running => TaskPayload::Working,
            RunState::Cancelled => TaskPayload::Cancelled,
            _ => {
                let result = call.service.result_of_ended(&entry, &run, HALF_BYTES).await?;
                let result = serde_json::to_value(answer::of_run(&result).into_result()).map_err(Error::internal)?;
                TaskPayload::Completed { result: super::tool::object(result) }
            }
        };
        Ok::<_, Error>(DetailedTask::new(of_run(&row), payload))
    };
    shown.await.map(GetTaskResult::new).map_err(|error| refused(error, id))
}

/// `tasks/cancel`
pub(crate) async fn cancel(call: &Call, id: &str) -> Result<(), ErrorData> {
    let killed = async {
        let (entry, run) = run_of(call, id).await?;
        call.service.kill_run(&entry, &run).await.map(drop)
    };
    killed.await.map_err(|error| refused(error, id))
}

/// `tasks/update`: commands ask nothing this way, so there is nothing to answer.
pub(crate) async fn update(call: &Call, id: &str) -> Result<(), ErrorData> {
    run_of(call, id).await.map(drop).map_err(|error| refused(error, id))
}

fn refused(error: Error, id: &str) -> ErrorData {
    let problem = error.into_problem();
    let shown: String = id.chars().take(64).collect();
    ErrorData::invalid_params(format!("task {shown}: {}", problem.error), Some(Value::String(problem.error.clone())))
}
