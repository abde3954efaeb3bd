//! The vendor's own client against this gateway. Installed by the ordinary package manager; without a
//! network the test says that it was not run.

use crate::support::{Server, User};
use run402::deploy::Silent;
use run402::deploy::walk::Root;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use tokio::process::Command;

const PROGRAM: &str = r#"
import { run402 } from '@run402/sdk/node';
const [directory, project] = process.argv.slice(2);
const client = run402();
const events = [];
const result = await client.sites.deployDir({ project, dir: directory, onEvent: (event) => events.push(event.type) });
console.log(JSON.stringify({ result, events }));
"#;

/// Any release, as an author writes it.
const APPLY: &str = r#"
import { run402 } from '@run402/sdk/node';
const engine = run402()._applyEngine;
for (const release of JSON.parse(process.argv[2])) await engine.apply(release);
"#;

async fn output(command: &mut Command) -> std::io::Result<std::process::Output> {
    command.stdin(Stdio::null()).kill_on_drop(true).output().await
}

/// `None` when it cannot be installed.
async fn install() -> Option<tempfile::TempDir> {
    let home = tempfile::tempdir().expect("a directory");
    std::fs::write(home.path().join("package.json"), r#"{"private": true, "type": "module"}"#).expect("a file");
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1", "@run402/sdk@3.3.3"])
        .current_dir(home.path());
    match output(&mut npm).await {
        Ok(done) if done.status.success() => {}
        Ok(done) => {
            println!("not run: the package cannot be installed: {}", String::from_utf8_lossy(&done.stderr));
            return None;
        }
        Err(error) => {
            println!("not run: there is no npm: {error}");
            return None;
        }
    }
    std::fs::write(home.path().join("deploy.mjs"), PROGRAM).expect("a file");
    Some(home)
}

async fn deploy(home: &Path, server: &Server, config: &Path, site: &Path, project: &str) -> Value {
    let mut node = Command::new("node");
    node.arg("deploy.mjs")
        .arg(site)
        .arg(project)
        .current_dir(home)
        .env("RUN402_API_BASE", &server.base)
        .env("RUN402_CONFIG_DIR", config);
    let done = output(&mut node).await.expect("node runs");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{text}{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_str(&text).expect("JSON")
}

/// The files that the vendor's client keeps its wallet and keys in.
async fn config(user: &User, seed: u8) -> tempfile::TempDir {
    let config = tempfile::tempdir().expect("a directory");
    let keys = user.client.keys(&user.project).expect("keys");
    let wallet = json!({"address": user.client.address(), "privateKey": format!("0x{}", hex::encode([seed; 32])), "funded": true});
    let projects = json!({"active_project_id": user.project, "projects": {(user.project.clone()):
        {"anon_key": keys.anon.reveal(), "service_key": keys.service.reveal()}}});
    std::fs::write(config.path().join("allowance.json"), wallet.to_string()).expect("a file");
    std::fs::write(config.path().join("projects.json"), projects.to_string()).expect("a file");
    config
}

#[tokio::test]
async fn the_vendors_client_leaves_the_same_release_as_ours() {
    let Some(home) = install().await else { return };
    let server = Server::start().await;
    let (theirs, ours) = (server.user(7).await, server.user(8).await);
    let config = config(&theirs, 7).await;
    let site = tempfile::tempdir().expect("a directory");
    for (path, text) in [
        ("index.html", "<h1>hi</h1>"),
        ("a b/ünï.txt", "x"),
        ("css/app.css", "body{}"),
        (".env", "no"),
        ("LICENSE", "none"),
    ] {
        let path = site.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        std::fs::write(path, text).expect("a file");
    }
    std::fs::write(site.path().join("large.bin"), vec![5; 1_500_000]).expect("a file");
    let deploy_ours = async || {
        let root = Root::open(site.path()).expect("a root");
        run402::api::sites::release_dir(
            &ours.client,
            &ours.project,
            root,
            &crate::support::options(),
            &Default::default(),
            &Silent,
        )
        .await
        .map(|released| run402::api::sites::DeployedSite::from(&released))
    };
    let first = deploy(home.path(), &server, config.path(), site.path(), &theirs.project).await;
    let ours_first = deploy_ours().await.expect("our deploy");
    let digest = async |user: &User| {
        let release = run402::api::releases::get(&user.client, &user.project, "active", None).await.expect("a release");
        release["manifest_digest"].clone()
    };
    assert_eq!(digest(&theirs).await, digest(&ours).await, "{first}");
    assert_eq!(first["result"]["bytes_total"], json!(ours_first.bytes_total));
    let url = first["result"]["url"].as_str().expect("a URL");
    assert_eq!(crate::support::get(url).await.text().await.expect("a text"), "<h1>hi</h1>");
    let unchanged = deploy(home.path(), &server, config.path(), site.path(), &theirs.project).await;
    assert!(!unchanged["events"].to_string().contains("content.upload.progress"), "{unchanged}");
    std::fs::write(site.path().join("index.html"), "<h1>changed</h1>").expect("a change");
    std::fs::remove_file(site.path().join("LICENSE")).expect("removed");
    let changed = deploy(home.path(), &server, config.path(), site.path(), &theirs.project).await;
    let sent = changed["events"]
        .as_array()
        .expect("events")
        .iter()
        .filter(|event| **event == json!("content.upload.progress"));
    assert_eq!(sent.count(), 1, "{changed}");
    deploy_ours().await.expect("our deploy");
    assert_eq!(digest(&theirs).await, digest(&ours).await);
    assert_eq!(crate::support::get(url).await.text().await.expect("a text"), "<h1>changed</h1>");
}

/// Every slice that needs no database, set first and changed then.
fn releases(project: &str) -> Value {
    let code = "export default async () => new Response('hello')";
    json!([
        {
            "project": project,
            "site": {"replace": {"index.html": "<h1>one</h1>", "data/a b.json": "{}", "gone.txt": "gone"}},
            "functions": {"replace": {
                "hello": {"source": code, "config": {"timeoutSeconds": 5, "memoryMb": 128}, "schedule": "0 3 * * *"},
                "other": {"source": format!("{code}; // other")},
            }},
            "secrets": {"require": ["API_KEY"]},
            "routes": {"replace": [
                {"pattern": "/api/*", "methods": ["GET", "POST"], "target": {"type": "function", "name": "hello"}},
                {"pattern": "/about", "methods": ["GET"], "target": {"type": "static", "file": "index.html"}},
            ]},
            "assets": {"put": [{"key": "img/a.txt", "source": "a"}, {"key": "img/b.txt", "source": "b"}]},
            "checks": [{"name": "home", "http": {"path": "/", "expect": {"status": 200}}}],
            "i18n": {"defaultLocale": "en", "locales": ["en", "de"], "detect": ["accept-language"]},
        },
        {
            "project": project,
            "site": {"patch": {"put": {"index.html": "<h1>two</h1>", "new.css": "body{}"}, "delete": ["gone.txt"]}},
            "functions": {"patch": {"set": {"hello": {"source": format!("{code}; // two")}}, "delete": ["other"]}},
            "assets": {"delete": ["img/b.txt"]},
            "routes": {"replace": [{"pattern": "/api/*", "target": {"type": "function", "name": "hello"}}]},
            "i18n": null,
        },
    ])
}

#[tokio::test]
async fn every_slice_leaves_the_same_release_by_either_client() {
    let Some(home) = install().await else { return };
    let server = Server::start().await;
    let (theirs, ours) = (server.user(17).await, server.user(18).await);
    for user in [&theirs, &ours] {
        run402::api::secrets::set(&user.client, &user.project, "API_KEY", "a value").await.expect("a secret");
    }
    let config = config(&theirs, 17).await;
    std::fs::write(home.path().join("apply.mjs"), APPLY).expect("a file");
    let live = async |user: &User| {
        run402::api::releases::get(&user.client, &user.project, "active", None).await.expect("a release")
    };
    let all = releases(&theirs.project);
    let all = all.as_array().expect("a list");
    for (index, release) in all.iter().enumerate() {
        let mut node = Command::new("node");
        let node = node.arg("apply.mjs").arg(json!([release]).to_string()).current_dir(home.path());
        let node = node.env("RUN402_API_BASE", &server.base).env("RUN402_CONFIG_DIR", config.path());
        let done = output(node).await.expect("node runs");
        assert!(done.status.success(), "{index}: {}", String::from_utf8_lossy(&done.stderr));
        let mut slices = release.clone();
        slices.as_object_mut().expect("an object").remove("project");
        ours.deploy(slices).await.expect("our deploy");
        let (one, other) = (live(&theirs).await, live(&ours).await);
        assert_eq!(one["manifest_digest"], other["manifest_digest"], "{one:#}\n{other:#}");
        for part in ["site", "functions", "routes", "secrets", "static_manifest_sha256", "i18n"] {
            assert_eq!(one[part], other[part], "{part}");
        }
    }
}

/// Every call of the vendor's client that this gateway answers, on one project from its beginning to its end.
#[tokio::test]
async fn the_vendors_client_finds_what_it_needs() {
    let Some(home) = install().await else { return };
    let server = Server::start().await;
    let config = tempfile::tempdir().expect("a directory");
    let address = run402::signin::Signer::from_bytes(&[9; 32]).expect("a key").address().to_lower();
    let wallet = json!({"address": address, "privateKey": format!("0x{}", hex::encode([9; 32])), "funded": true});
    let path = config.path().join("allowance.json");
    std::fs::write(&path, wallet.to_string()).expect("a file");
    std::fs::write(home.path().join("tour.mjs"), include_str!("../sdk/tour.mjs")).expect("a file");
    let mut node = Command::new("node");
    let node = node.arg("tour.mjs").arg(&address).current_dir(home.path());
    let done = output(node.env("RUN402_API_BASE", &server.base).env("RUN402_CONFIG_DIR", config.path()))
        .await
        .expect("node runs");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{text}{}", String::from_utf8_lossy(&done.stderr));
    let steps: Value = serde_json::from_str(&text).expect("JSON");
    let failed: Vec<_> =
        steps.as_object().expect("steps").iter().filter(|(_, step)| step.get("failed").is_some()).collect();
    // No runner, no database: said, not guessed.
    let names: Vec<&str> = failed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["function_invoke", "sql"], "{failed:#?}");
    assert!(failed.iter().all(|(_, step)| step["status"] == 501), "{failed:#?}");
    assert_eq!(steps["active"]["release_id"], steps["function_delete_release"]);
    assert_eq!(steps["resolve"]["match"], "static_index");
    assert_eq!(steps["asset_get"], json!([200, 3]));
    assert_eq!(steps["projects_after"], json!(0));
}
