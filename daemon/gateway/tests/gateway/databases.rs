//! The database slice: planned before anything is done, applied before anything is live, applied once.

use crate::support::{Server, options};
use crate::tables::Tables;
use run402::api::{projects, releases};
use run402::client::Auth;
use serde_json::{Value, json};
use std::sync::Arc;

async fn start() -> (Server, Arc<Tables>) {
    let state = tempfile::tempdir().expect("a directory");
    let tables = Arc::new(Tables::new(state.path().join("tables")));
    (Server::with(state, Some(tables.clone())).await, tables)
}

fn release(text: &str, migrations: Value) -> Value {
    json!({"site": {"replace": {"index.html": text}}, "database": {"migrations": migrations}})
}

/// What was done for the project, without its name.
fn done(tables: &Tables, project: &str) -> Vec<Value> {
    let lines = tables.lines().into_iter().filter(|line| line[0] == project);
    lines.map(|line| json!([line[1], line[2]])).collect()
}

#[tokio::test]
async fn migrations_are_applied_once_and_in_order() {
    let (server, tables) = start().await;
    let user = server.user(1).await;
    let first = json!([{"id": "1", "sql": "CREATE TABLE a ()"}, {"id": "2", "sql": "CREATE TABLE b ()", "transaction": "none"}]);
    let released = user.deploy(release("one", first.clone())).await.expect("the first");
    let names = json!([{"id": "1", "transaction": "default"}, {"id": "2", "transaction": "none"}]);
    let new = &released.diff["migrations"]["new"];
    assert_eq!(
        json!([{"id": new[0]["id"], "transaction": new[0]["transaction"]}, {"id": new[1]["id"], "transaction": new[1]["transaction"]}]),
        names
    );
    let applied = [json!(["created", null]), json!(["migration", "1"]), json!(["migration", "2"])];
    assert_eq!(done(&tables, &user.project), applied);
    assert_eq!(tables.lines()[1][4], "CREATE TABLE a ()");
    let again = user.deploy(release("two", first)).await.expect("again");
    assert_eq!(again.diff["migrations"]["new"], json!([]));
    assert_eq!(again.diff["migrations"]["noop"].as_array().map(Vec::len), Some(2));
    assert_eq!(done(&tables, &user.project), applied);
    let live = releases::get(&user.client, &user.project, "active", None).await.expect("a release");
    assert_eq!(live["migrations_applied"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_migration_that_was_changed_is_refused_when_planned() {
    let (server, tables) = start().await;
    let user = server.user(1).await;
    user.deploy(release("one", json!([{"id": "1", "sql": "CREATE TABLE a ()"}]))).await.expect("the first");
    let error =
        user.deploy(release("two", json!([{"id": "1", "sql": "CREATE TABLE z ()"}]))).await.expect_err("another text");
    assert_eq!(error.code, "MIGRATION_CHECKSUM_MISMATCH");
    assert_eq!(done(&tables, &user.project).len(), 2);
}

#[tokio::test]
async fn a_migration_that_fails_leaves_the_release_before() {
    let (server, tables) = start().await;
    let user = server.user(1).await;
    let first = user.deploy(release("one", json!([]))).await.expect("the first");
    let broken = release("two", json!([{"id": "1", "sql": "CREATE TABLE a ()"}, {"id": "2", "sql": "FAIL"}]));
    let error = user.deploy(broken).await.expect_err("it fails");
    assert_eq!(
        (error.code.as_str(), error.deploy.as_ref().and_then(|facts| facts.phase.as_deref())),
        ("MIGRATION_FAILED", Some("migrate"))
    );
    let live = releases::get(&user.client, &user.project, "active", None).await.expect("a release");
    assert_eq!(live["release_id"], first.release_id);
    let listed = releases::list(&user.client, &user.project, None, None).await.expect("a list");
    assert_eq!(listed.operations[0].status.as_deref(), Some("failed"));
    // The first of the two stays, and is known.
    let mended =
        release("two", json!([{"id": "1", "sql": "CREATE TABLE a ()"}, {"id": "2", "sql": "CREATE TABLE b ()"}]));
    user.deploy(mended).await.expect("mended");
    let names: Vec<Value> = done(&tables, &user.project).iter().map(|line| line[1].clone()).collect();
    assert_eq!(names, [json!(null), json!("1"), json!("2")]);
}

#[tokio::test]
async fn a_database_that_is_away_for_a_while_only_delays_a_deploy() {
    let (server, tables) = start().await;
    let user = server.user(1).await;
    let down = server.state.path().join("tables.down");
    std::fs::write(&down, "").expect("a file");
    let error =
        user.deploy(release("one", json!([{"id": "1", "sql": "CREATE TABLE a ()"}]))).await.expect_err("it is down");
    assert_eq!(error.code, "DATABASE_UNREACHABLE");
    let listed = releases::list(&user.client, &user.project, None, None).await.expect("a list");
    let operation = &listed.operations[0];
    assert_eq!(operation.status.as_deref(), Some("activation_pending"));
    std::fs::remove_file(&down).expect("removed");
    let id = operation.operation_id.clone();
    run402::deploy::resume(&user.client, Some(&user.project), &id, &options().polling, &run402::deploy::Silent)
        .await
        .expect("carried on");
    assert_eq!(user.live().await, ["index.html"]);
    assert_eq!(done(&tables, &user.project).len(), 2);
}

#[tokio::test]
async fn calls_about_tables_reach_the_database() {
    let (server, tables) = start().await;
    let user = server.user(1).await;
    let answer = projects::run_sql(&user.client, &user.project, "SELECT 1", &[]).await.expect("an answer");
    assert_eq!(answer.rows[0], json!({"sql": "SELECT 1", "params": []}));
    let answer = projects::run_sql(&user.client, &user.project, "SELECT $1", &[json!("x")]).await.expect("an answer");
    assert_eq!(answer.rows[0], json!({"sql": "SELECT $1", "params": ["x"]}));
    let error = projects::run_sql(&user.client, &user.project, "FAIL", &[]).await.expect_err("an error");
    assert_eq!((error.status, error.code.as_str()), (Some(400), "SQL_ERROR"));
    let admin = |rest: &str| format!("/projects/v1/admin/{}/{rest}", user.project);
    let get = async |path: String| {
        user.client.get(path, Auth::Service(&user.project)).receive::<Value>("reading").await.expect("an answer")
    };
    assert_eq!(get(admin("schema")).await["tables"], json!([]));
    let manifest = json!({"version": "1", "tables": [], "views": [], "rpcs": []});
    let request = user.client.post(admin("expose"), Auth::Service(&user.project)).json(&manifest).expect("a body");
    let exposed: Value = request.receive("exposing").await.expect("an answer");
    assert_eq!((exposed["status"].as_str(), exposed["project_id"].as_str()), (Some("ok"), Some(user.project.as_str())));
    assert_eq!(get(admin("expose")).await["manifest"], manifest);
    let request = user
        .client
        .post("/projects/v1/expose/validate", Auth::Wallet)
        .json(&json!({"manifest": manifest}))
        .expect("a body");
    assert_eq!(request.receive::<Value>("validating").await.expect("an answer")["alone"], true);
    projects::delete(&user.client, &user.project).await.expect("deleted");
    assert_eq!(done(&tables, &user.project).last().expect("a line")[0], "dropped");
}

#[tokio::test]
async fn a_release_that_is_live_again_exposes_its_tables_again() {
    let (server, tables) = start().await;
    let user = server.user(1).await;
    let expose =
        |name: &str| json!({"version": "1", "tables": [{"name": name, "expose": true}], "views": [], "rpcs": []});
    let first = user.deploy(json!({"database": {"expose": expose("a")}})).await.expect("the first");
    user.deploy(json!({"database": {"expose": expose("b")}})).await.expect("the second");
    let allow = run402::deploy::AllowWarnings::Nothing;
    run402::deploy::promote(&user.client, &user.project, &first.release_id, &allow).await.expect("promoted");
    let exposed: Vec<Value> =
        done(&tables, &user.project).iter().skip(1).map(|line| line[1]["tables"][0]["name"].clone()).collect();
    assert_eq!(exposed, ["a", "b", "a"]);
}
