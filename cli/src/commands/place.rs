//! A project, by its name or by the folder that is its workspace.
//!
//! Input: `--project`, `--dir`, or neither; output: the project's id, for which one is made when the folder has none.

use super::project;
use crate::client::{Client, ClientError};
use crate::failure::Failure;
use sandbox_wire::{Code, Problem, Project};
use std::path::Path;

/// Which project a command is about.
pub(super) enum Place {
    Project(String),
    /// Absolute, with links resolved.
    Dir {
        path: String,
        asked_for: bool,
    },
}

impl Place {
    /// Neither: the current directory.
    pub(super) fn of(project: Option<&str>, dir: Option<&Path>) -> Result<Self, Failure> {
        match (project, dir) {
            (Some(project), _) => Ok(Self::Project(project::reference(project)?)),
            (None, Some(dir)) => Ok(Self::Dir { path: project::folder(dir)?, asked_for: true }),
            (None, None) => Ok(Self::Dir { path: project::folder(Path::new("."))?, asked_for: false }),
        }
    }

    /// What stands for the project in paths of the HTTP interface.
    pub(super) async fn project(&self, client: &Client) -> Result<String, Failure> {
        match self {
            Self::Project(project) => Ok(project.clone()),
            // The folders of another computer are not ours, even if they have the same names.
            Self::Dir { asked_for: false, .. } if !client.endpoint().is_local() => {
                let problem = Problem::new(
                    Code::InvalidDirectory,
                    format!("the daemon at {} does not have this computer's folders", client.endpoint()),
                );
                Err(problem.next("name one of its projects with --project").into())
            }
            Self::Dir { path, .. } => {
                let body = sandbox_wire::CreateProject { dir: Some(path.clone()), ..Default::default() };
                let created = match client.post::<Project>("/projects", &body).await {
                    // A daemon that was about to end when we came: its successor answers. Asking twice
                    // makes no second project.
                    Err(ClientError::Broken { .. }) => client.post::<Project>("/projects", &body).await,
                    answer => answer,
                };
                Ok(created?.id.to_string())
            }
        }
    }
}
