//! `sandboxctl project`: create, list, show, remove.

use crate::args::{Access, ProjectCommand};
use crate::client::Client;
use crate::failure::Failure;
use crate::render;
use sandbox_wire::project::ProjectList;
use sandbox_wire::{AccessType, Code, CreateProject, Problem, Project, ProjectId, UrlId};
use std::path::Path;

pub(crate) async fn dispatch(client: &Client, command: ProjectCommand, json: bool) -> Result<u8, Failure> {
    match command {
        ProjectCommand::Create { name, dir, policy, access } => {
            let dir = dir.as_deref().map(folder).transpose()?;
            let access_type = access.map(|access| match access {
                Access::Private => AccessType::Private,
                Access::Public => AccessType::Public,
            });
            let project: Project = client.post("/projects", &CreateProject { name, access_type, policy, dir }).await?;
            show(&project, json);
        }
        ProjectCommand::List => {
            let list: ProjectList = client.get("/projects").await?;
            if json {
                render::json(&list);
            } else {
                let rows = list.projects.iter().map(|project| {
                    let workspace = project.dir.clone().unwrap_or_else(|| "(the daemon's)".to_owned());
                    [project.url_id.to_string(), project.name.clone(), project.policy.clone(), workspace]
                });
                render::table(["PROJECT", "NAME", "POLICY", "WORKSPACE"], rows);
            }
        }
        ProjectCommand::Show { project } => {
            let project: Project = client.get(&format!("/projects/{}", reference(&project)?)).await?;
            show(&project, json);
        }
        ProjectCommand::Rm { projects } => return remove(client, &projects, json).await,
    }
    Ok(0)
}

fn show(project: &Project, json: bool) {
    if json {
        return render::json(project);
    }
    let access = match project.access_type {
        AccessType::Private => "private",
        AccessType::Public => "public",
    };
    let mut lines = vec![
        ("project", project.url_id.to_string()),
        ("id", project.id.to_string()),
        ("name", project.name.clone()),
        ("policy", project.policy.clone()),
        ("access", access.to_owned()),
        ("created", render::time(&project.created_at)),
    ];
    if let Some(dir) = &project.dir {
        lines.push(("workspace", dir.clone()));
    }
    if !project.preview_url.is_empty() {
        lines.push(("preview", project.preview_url.clone()));
    }
    render::text(
        &lines.iter().map(|(name, value)| format!("{name:<10} {}\n", render::plain(value))).collect::<String>(),
    );
}

/// Goes on after a project that cannot be removed; exit 1 then.
async fn remove(client: &Client, projects: &[String], json: bool) -> Result<u8, Failure> {
    let mut removed = Vec::new();
    let mut failures = Vec::new();
    for text in projects {
        let done = match reference(text) {
            Ok(project) => client.delete(&format!("/projects/{project}")).await.map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        match done {
            Ok(()) => removed.push(text),
            Err(failure) => failures.push(failure),
        }
    }
    if json {
        let problems: Vec<_> = failures.iter().map(Failure::problem).collect();
        render::json(&serde_json::json!({"removed": removed, "failed": problems}));
    } else {
        render::text(&removed.iter().map(|project| format!("{project}\n")).collect::<String>());
        failures.iter().for_each(|failure| eprint!("{}", failure.text()));
    }
    Ok(u8::from(!failures.is_empty()))
}

/// A project's id or url_id, safe to stand in a path.
pub(crate) fn reference(text: &str) -> Result<String, Failure> {
    if let Ok(id) = text.parse::<ProjectId>() {
        return Ok(id.to_string());
    }
    match text.parse::<UrlId>() {
        Ok(id) => Ok(id.to_string()),
        Err(error) => {
            let problem = Problem::new(Code::InvalidName, format!("'{text}' is not a project: {error}"));
            Err(problem.next("list them: sandboxctl project list").next("a folder goes with --dir").into())
        }
    }
}

/// A folder of this computer, absolute and without links, as the daemon wants it.
pub(crate) fn folder(path: &Path) -> Result<String, Failure> {
    let invalid = |reason: &str| {
        Failure::new(Code::InvalidDirectory, format!("cannot use the folder {}: {reason}", path.display()))
    };
    let absolute = std::fs::canonicalize(path).map_err(|error| invalid(&error.to_string()))?;
    if !absolute.is_dir() {
        return Err(invalid("it is not a folder"));
    }
    absolute.into_os_string().into_string().map_err(|_| invalid("its path is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_safe_in_paths() {
        assert_eq!(reference("my-site").expect("valid"), "my-site");
        let upper = "6F9619FF-8B86-D011-B42D-00CF4FC964FF";
        assert_eq!(reference(upper).expect("valid"), upper.to_lowercase());
        for bad in ["", "..", "a/b", "a?b", "My Site"] {
            assert!(reference(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn folders_are_absolute_and_exist() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let file = temporary.path().join("file");
        std::fs::write(&file, "").expect("written");
        assert!(folder(temporary.path()).expect("there").starts_with('/'));
        assert!(folder(&file).is_err());
        assert!(folder(&temporary.path().join("none")).is_err());
    }
}
