//! Functions that are live, between one release and the next.

use crate::support::{Server, User};
use run402::api::functions::{self, ConfigChange, FunctionChange, LogQuery};
use run402::api::releases;
use serde_json::{Value, json};

const CODE: &str = "export default () => new Response('x')";

async fn with_function(server: &Server) -> User {
    let user = server.user(1).await;
    let function = json!({"source": CODE, "schedule": "0 3 * * *", "config": {"timeoutSeconds": 20}});
    user.deploy(json!({"functions": {"replace": {"hello": function}}})).await.expect("a release");
    user
}

async fn live(user: &User) -> Value {
    releases::get(&user.client, &user.project, "active", None).await.expect("a release")
}

#[tokio::test]
async fn a_change_is_a_release_of_its_own() {
    let server = Server::start().await;
    let user = with_function(&server).await;
    let before = live(&user).await;
    let change = FunctionChange { schedule: Some(None), ..FunctionChange::default() };
    functions::update(&user.client, &user.project, "hello", &change).await.expect("changed");
    let after = live(&user).await;
    assert_ne!(before["release_id"], after["release_id"]);
    assert_eq!(after["parent_id"], before["release_id"]);
    assert_eq!(
        (&after["functions"][0]["schedule"], &after["functions"][0]["timeout_seconds"]),
        (&json!(null), &json!(20))
    );
    let config = ConfigChange { timeout: Some(30), ..ConfigChange::default() };
    let change = FunctionChange { config: Some(config), ..FunctionChange::default() };
    functions::update(&user.client, &user.project, "hello", &change).await.expect("changed");
    assert_eq!(live(&user).await["functions"][0]["timeout_seconds"], 30);
    let config = ConfigChange { timeout: Some(3000), ..ConfigChange::default() };
    let change = FunctionChange { config: Some(config), ..FunctionChange::default() };
    let error = functions::update(&user.client, &user.project, "hello", &change).await.expect_err("too long");
    assert_eq!(error.code, "FUNCTION_TIMEOUT_EXCEEDS_TIER");
    functions::delete(&user.client, &user.project, "hello").await.expect("deleted");
    assert!(functions::list(&user.client, &user.project).await.expect("a list").is_empty());
    functions::delete(&user.client, &user.project, "hello").await.expect_err("gone");
}

#[tokio::test]
async fn a_schedule_stays_until_it_is_taken_away() {
    let server = Server::start().await;
    let user = with_function(&server).await;
    let patch = async |function: Value| {
        user.deploy(json!({"functions": {"patch": {"set": {"hello": function}}}})).await.expect("a release");
        live(&user).await["functions"][0]["schedule"].clone()
    };
    assert_eq!(patch(json!({"source": "export default 1"})).await, "0 3 * * *");
    assert_eq!(patch(json!({"source": CODE, "schedule": null})).await, json!(null));
}

#[tokio::test]
async fn a_function_that_a_route_needs_cannot_go() {
    let server = Server::start().await;
    let user = with_function(&server).await;
    let route = json!({"pattern": "/api/*", "target": {"type": "function", "name": "hello"}});
    user.deploy(json!({"routes": {"replace": [route]}})).await.expect("a release");
    let error = functions::delete(&user.client, &user.project, "hello").await.expect_err("it is needed");
    assert_eq!(error.code, "INVALID_SPEC");
    assert_eq!(functions::list(&user.client, &user.project).await.expect("a list").len(), 1);
}

#[tokio::test]
async fn what_never_ran_has_no_logs() {
    let server = Server::start().await;
    let user = with_function(&server).await;
    let logs = functions::logs(&user.client, &user.project, "hello", &LogQuery::default()).await.expect("logs");
    assert!(logs.is_empty());
}
