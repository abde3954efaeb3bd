//! Runs by any name that a person gives them: an id, or a part of one that no other run has.

use crate::client::{Client, ClientError};
use crate::failure::Failure;
use sandbox_wire::project::ProjectList;
use sandbox_wire::run::RunList;
use sandbox_wire::{Code, Problem, Project, ProjectId, RunId, RunSummary};

/// Runs of one project that are looked at for a part of an id.
const SEARCH_LIMIT: usize = 1000;
const PAGE: usize = 100;

/// One run, and the project that has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub(crate) project: ProjectId,
    pub(crate) run: RunId,
}

impl Found {
    /// The run in the HTTP interface.
    pub(crate) fn path(&self) -> String {
        format!("/projects/{}/runs/{}", self.project, self.run)
    }
}

pub(crate) async fn projects(client: &Client) -> Result<Vec<Project>, ClientError> {
    Ok(client.get::<ProjectList>("/projects").await?.projects)
}

/// A project's runs, newest first.
pub(crate) async fn of_project(
    client: &Client,
    project: &str,
    running: bool,
    limit: usize,
) -> Result<Vec<RunSummary>, ClientError> {
    let status = if running { "status=running&" } else { "" };
    let mut runs: Vec<RunSummary> = Vec::new();
    let mut cursor = String::new();
    while runs.len() < limit {
        let page = PAGE.min(limit - runs.len());
        let path = format!("/projects/{project}/runs?{status}limit={page}{cursor}");
        let list: RunList = client.get(&path).await?;
        let empty = list.runs.is_empty();
        runs.extend(list.runs);
        match list.next_cursor {
            Some(next) if !empty => cursor = format!("&cursor={next}"),
            _ => break,
        }
    }
    runs.truncate(limit);
    Ok(runs)
}

/// The run that a person means.
pub(crate) async fn find(client: &Client, text: &str) -> Result<Found, Failure> {
    let projects = projects(client).await?;
    if let Ok(run) = text.parse::<RunId>() {
        for project in &projects {
            let found = Found { project: project.id, run: run.clone() };
            match client.get::<RunSummary>(&found.path()).await {
                Ok(_) => return Ok(found),
                // The project may have been removed in this moment.
                Err(error) if matches!(error.code(), Some(Code::RunNotFound | Code::ProjectNotFound)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        return Err(not_found(text));
    }
    let mut found = Vec::new();
    for project in &projects {
        let runs = of_project(client, &project.id.to_string(), false, SEARCH_LIMIT).await?;
        let meant = runs.into_iter().filter(|run| is_part(text, run.run_id.as_str()));
        found.extend(meant.map(|run| Found { project: project.id, run: run.run_id }));
    }
    match found.len() {
        0 => Err(not_found(text)),
        1 => Ok(found.remove(0)),
        many => {
            let problem = Problem::new(Code::InvalidRequest, format!("'{text}' fits {many} runs"));
            let some = found.iter().take(5).map(|found| found.run.to_string()).collect::<Vec<_>>();
            Err(problem.next(format!("give more of the id: {}", some.join(", "))).into())
        }
    }
}

fn not_found(text: &str) -> Failure {
    Problem::new(Code::RunNotFound, format!("no run has '{text}' as its id or the beginning or end of it"))
        .next("list them: sandboxctl ps --all")
        .into()
}

/// Beginning (with or without `run_`) or end of an id, in any case.
fn is_part(text: &str, id: &str) -> bool {
    let text = text.to_ascii_uppercase();
    let id = id.to_ascii_uppercase();
    let ulid = id.strip_prefix("RUN_").unwrap_or(&id);
    !text.is_empty() && text != "RUN_" && (id.starts_with(&text) || ulid.starts_with(&text) || ulid.ends_with(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_ids_are_beginnings_and_ends() {
        let id = "run_01JD8Z5Q6W9J5Q0M3V7T2K4X8A";
        for part in ["run_01JD8", "01JD8Z", "4X8A", "4x8a", id] {
            assert!(is_part(part, id), "{part}");
        }
        for other in ["", "run_", "Z5Q6", "run_01JD9", "un_0"] {
            assert!(!is_part(other, id), "{other}");
        }
    }
}
