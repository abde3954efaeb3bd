//! What can be read without a tool: what a run wrote, the policies, what this host can enforce.
//!
//! | address | content |
//! | --- | --- |
//! | `sandbox://doctor` | the doctor's table |
//! | `sandbox://policies/{name}` | a policy with all that it extends |
//! | `sandbox://runs/{run}` | a run, with its result once it has ended |
//! | `sandbox://runs/{run}/stdout`, `/stderr` | what it wrote, both ends of it when it is long |

use super::answer::HALF_BYTES;
use super::runs::run_of;
use super::tool::Call;
use crate::service::Error;
use rmcp::ErrorData;
use rmcp::model::{ReadResourceResult, Resource, ResourceContents, ResourceTemplate};
use sandbox_wire::{Code, Encoding, Problem};
use serde::Serialize;

const SCHEME: &str = "sandbox://";

pub(crate) fn listed() -> Vec<Resource> {
    let doctor = Resource::new("sandbox://doctor", "doctor")
        .with_title("What this host can enforce")
        .with_description("One line for each layer of isolation: what was tried, what is used instead, how to mend it")
        .with_mime_type("application/json");
    vec![doctor]
}

pub(crate) fn templates() -> Vec<ResourceTemplate> {
    let template = |at: &str, name: &str, description: &str, kind: &str| {
        ResourceTemplate::new(at, name).with_description(description).with_mime_type(kind)
    };
    vec![
        template("sandbox://runs/{run}", "run", "A run, with its result once it has ended", "application/json"),
        template("sandbox://runs/{run}/stdout", "stdout", "Standard output of a run", "text/plain"),
        template("sandbox://runs/{run}/stderr", "stderr", "Standard error of a run", "text/plain"),
        template("sandbox://policies/{name}", "policy", "What the commands of a policy may do", "application/json"),
    ]
}

pub(crate) async fn read(call: &Call, uri: &str) -> Result<ReadResourceResult, Error> {
    let path = uri.strip_prefix(SCHEME).unwrap_or_default();
    let mut words = path.split('/');
    let text = match (words.next(), words.next(), words.next(), words.next()) {
        (Some("doctor"), None, ..) => json(uri, &call.service.doctor().await?),
        (Some("policies"), Some(name), None, _) => json(uri, &call.service.policies.document(name)?),
        (Some("runs"), Some(run), stream, None) => {
            let (entry, run) = run_of(call, run).await?;
            let summary = call.service.show_run_briefly(&entry, &run, Encoding::Utf8, HALF_BYTES).await?;
            match (stream, summary.result.as_ref()) {
                (None, _) => json(uri, &summary),
                (Some("stdout"), Some(result)) => ResourceContents::text(&result.stdout, uri),
                (Some("stderr"), Some(result)) => ResourceContents::text(&result.stderr, uri),
                (Some("stdout" | "stderr"), None) => return Err(still_runs(&run.to_string()).into()),
                (Some(_), _) => return Err(unknown(uri).into()),
            }
        }
        _ => return Err(unknown(uri).into()),
    };
    Ok(ReadResourceResult::new(vec![text]))
}

fn json(uri: &str, value: &impl Serialize) -> ResourceContents {
    let text = serde_json::to_string_pretty(value).expect("texts, numbers and maps of texts are JSON");
    ResourceContents::text(text, uri).with_mime_type("application/json")
}

fn unknown(uri: &str) -> Problem {
    let uri: String = uri.chars().take(200).collect();
    Problem::new(Code::NotFound, format!("there is no resource {uri}"))
        .next("resources/list and resources/templates/list name what there is")
}

fn still_runs(run: &str) -> Problem {
    Problem::new(Code::NotFound, format!("the run {run} has not ended"))
        .next("run_output reads what it has written so far")
}

/// A resource cannot say why it is not there but by an error of the protocol.
pub(crate) fn refused(problem: Problem, uri: &str) -> ErrorData {
    let data = serde_json::json!({"uri": uri, "code": problem.code, "next_actions": problem.next_actions});
    match problem.code {
        Code::Internal | Code::Unavailable | Code::DiskFull => ErrorData::internal_error(problem.error, Some(data)),
        _ => ErrorData::resource_not_found(problem.error, Some(data)),
    }
}
