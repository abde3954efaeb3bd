//! The build, in the sandbox.
//!
//! Input: a folder and its recipe. Output: nothing, when the command ended with 0; its output has been
//! shown on standard error. Anything else is a failure, and nothing is deployed.

use super::recipe::Recipe;
use crate::args::Globals;
use crate::client::ClientError;
use crate::commands::follow::{Follower, Stop};
use crate::connect;
use crate::exit::{self, Ending};
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::output::Output;
use sandbox_wire::{Code, Command, CreateProject, Problem, Project, RunRequest};
use std::path::Path;

/// Ended by a signal of the user's: the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interrupted(pub(crate) u8);

pub(crate) async fn build(globals: &Globals, folder: &Path, recipe: &Recipe) -> Result<Option<Interrupted>, Failure> {
    let Some(command) = &recipe.build else { return Ok(None) };
    let path = folder
        .to_str()
        .ok_or_else(|| Failure::new(Code::InvalidDirectory, format!("the path {} is not UTF-8", folder.display())))?;
    let client = connect::client(globals).await?;
    if !client.endpoint().is_local() {
        let message = format!("the daemon at {} does not have this computer's folders", client.endpoint());
        return Err(Failure::new(Code::InvalidDirectory, message));
    }
    eprintln!("sandboxctl: building: {}", crate::render::plain(command));
    let body = CreateProject { dir: Some(path.to_owned()), ..CreateProject::default() };
    let project = match client.post::<Project>("/projects", &body).await {
        // A daemon that was about to end when we came: its successor answers.
        Err(ClientError::Broken { .. }) => client.post::<Project>("/projects", &body).await?,
        answer => answer?,
    };
    let request = RunRequest {
        timeout_ms: recipe.timeout_ms,
        policy: recipe.policy.clone(),
        ..RunRequest::new(Command::Shell(command.clone()))
    };
    let mut interrupts = Interrupts::listen();
    let id = project.id.to_string();
    let stream = client.post_stream(&format!("/projects/{id}/run"), &request).await?;
    let output = Output::on_stderr()
        .map_err(|error| Failure::new(Code::Internal, format!("cannot use standard error: {error}")))?;
    let mut follower = Follower::new(globals, client, id, Some(output));
    let ended = follower.follow(stream, &mut interrupts).await?;
    match ended.stop {
        Some(Stop::Signal(signal)) => return Ok(Some(Interrupted(signal.exit_code()))),
        Some(Stop::ReaderGone) => return Ok(Some(Interrupted(crate::render::EXIT_BROKEN_PIPE))),
        None => {}
    }
    let Some(outcome) = ended.outcome else {
        return Err(Failure::new(Code::BuildFailed, "nobody knows how the build ended; nothing was deployed"));
    };
    let ending = Ending::from(&outcome);
    match exit::status(&ending) {
        0 => Ok(None),
        status => {
            let sentence = exit::sentence(&ending, recipe.timeout_ms)
                .unwrap_or_else(|| format!("the build command ended with {status}"));
            let problem = Problem::new(Code::BuildFailed, format!("{sentence}; nothing was deployed"));
            Err(problem.with("run_id", outcome.run_id.to_string()).with("exit_code", status).into())
        }
    }
}
