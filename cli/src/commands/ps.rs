//! `sandboxctl ps`: the runs of all projects.

use super::runs;
use crate::args::PsArgs;
use crate::client::Client;
use crate::duration::spoken;
use crate::failure::Failure;
use crate::render;
use sandbox_wire::run::RunList;
use sandbox_wire::{Code, ProjectId, RunState, RunSummary};
use std::collections::HashMap;

pub(crate) async fn ps(client: &Client, args: &PsArgs, json: bool) -> Result<u8, Failure> {
    let mut names = HashMap::new();
    let mut found: Vec<RunSummary> = Vec::new();
    let projects: Vec<String> = match &args.project {
        Some(project) => vec![super::project::reference(project)?],
        None => {
            let projects = runs::projects(client).await?;
            names.extend(projects.iter().map(|project| (project.id, project.url_id.to_string())));
            projects.iter().map(|project| project.id.to_string()).collect()
        }
    };
    for project in projects {
        match runs::of_project(client, &project, !args.all, args.limit).await {
            Ok(runs) => found.extend(runs),
            // Removed while we looked; a project that was asked for has to be there.
            Err(error) if args.project.is_none() && error.code() == Some(Code::ProjectNotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // Ids sort by time.
    found.sort_by(|a, b| b.run_id.cmp(&a.run_id));
    found.truncate(args.limit);
    if json {
        render::json(&RunList { runs: found, next_cursor: None });
        return Ok(0);
    }
    let rows = found.iter().map(|run| row(run, &names));
    render::table(["RUN", "PROJECT", "STATUS", "EXIT", "STARTED", "DURATION", "COMMAND"], rows);
    Ok(0)
}

fn row(run: &RunSummary, names: &HashMap<ProjectId, String>) -> [String; 7] {
    [
        run.run_id.to_string(),
        names.get(&run.project_id).cloned().unwrap_or_else(|| run.project_id.to_string()),
        status(run.status).to_owned(),
        run.exit_code.map(|code| code.to_string()).unwrap_or_default(),
        render::time(&run.started_at),
        run.duration_ms.map(spoken).unwrap_or_default(),
        render::command(&run.command, 60),
    ]
}

fn status(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Exited => "exited",
        RunState::Signaled => "signaled",
        RunState::TimedOut => "timed out",
        RunState::OomKilled => "out of memory",
        RunState::Cancelled => "cancelled",
        RunState::Lost => "lost",
    }
}
