//! `sandboxctl token`: who may do what to which projects.

use super::project;
use crate::args::{ScopeName, TokenCommand};
use crate::client::Client;
use crate::failure::Failure;
use crate::render;
use sandbox_wire::token::TokenList;
use sandbox_wire::{Code, CreateToken, Problem, Project, Scope, Token};

pub(crate) async fn dispatch(client: &Client, command: TokenCommand, json: bool) -> Result<u8, Failure> {
    match command {
        TokenCommand::Create { name, scopes, projects } => create(client, name, &scopes, &projects, json).await,
        TokenCommand::List => {
            let list: TokenList = client.get("/tokens").await?;
            if json {
                render::json(&list);
            } else {
                render::table(["ID", "NAME", "SCOPES", "PROJECTS", "CREATED"], list.tokens.iter().map(row));
            }
            Ok(0)
        }
        TokenCommand::Revoke { ids } => revoke(client, &ids, json).await,
    }
}

async fn create(
    client: &Client,
    name: Option<String>,
    scopes: &[ScopeName],
    projects: &[String],
    json: bool,
) -> Result<u8, Failure> {
    let mut ids = Vec::new();
    for text in projects {
        // Tokens carry ids: a url_id could later belong to another project.
        ids.push(client.get::<Project>(&format!("/projects/{}", project::reference(text)?)).await?.id);
    }
    let scopes = scopes.iter().map(|scope| match scope {
        ScopeName::Run => Scope::Run,
        ScopeName::Files => Scope::Files,
        ScopeName::Deploy => Scope::Deploy,
        ScopeName::Admin => Scope::Admin,
    });
    let body = CreateToken {
        name: name.unwrap_or_default(),
        scopes: scopes.collect(),
        projects: (!ids.is_empty()).then_some(ids),
    };
    let token: Token = client.post("/tokens", &body).await?;
    if json {
        render::json(&token);
    } else {
        render::text(&format!("{}\n", token.token.as_deref().unwrap_or_default()));
        eprintln!("sandboxctl: this token cannot be shown again; revoke it with: sandboxctl token revoke {}", token.id);
    }
    Ok(0)
}

fn row(token: &Token) -> [String; 5] {
    let scopes = token.scopes.iter().map(|scope| match scope {
        Scope::Run => "run",
        Scope::Files => "files",
        Scope::Deploy => "deploy",
        Scope::Admin => "admin",
    });
    let projects = match &token.projects {
        Some(projects) => projects.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        None => "all".to_owned(),
    };
    let scopes = scopes.collect::<Vec<_>>().join(",");
    [token.id.clone(), token.name.clone(), scopes, projects, render::time(&token.created_at)]
}

/// Goes on after a token that cannot be revoked; exit 1 then.
async fn revoke(client: &Client, ids: &[String], json: bool) -> Result<u8, Failure> {
    let mut revoked = Vec::new();
    let mut failures = Vec::new();
    for id in ids {
        let safe = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let done = match safe {
            true => client.delete(&format!("/tokens/{id}")).await.map_err(Failure::from),
            false => Err(Problem::new(Code::InvalidName, "that is not the id of a token")
                .next("list them: sandboxctl token list")
                .into()),
        };
        match done {
            Ok(()) => revoked.push(id),
            Err(failure) => failures.push(failure),
        }
    }
    if json {
        let problems: Vec<_> = failures.iter().map(Failure::problem).collect();
        render::json(&serde_json::json!({"revoked": revoked, "failed": problems}));
    } else {
        render::text(&revoked.iter().map(|id| format!("{id}\n")).collect::<String>());
        failures.iter().for_each(|failure| eprint!("{}", failure.text()));
    }
    Ok(u8::from(!failures.is_empty()))
}
