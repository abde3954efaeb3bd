//! Releases: carried forward, replaced, patched, refused, made live once.

use crate::support::{Server, options};
use run402::api::{releases, secrets, subdomains};
use run402::deploy::{AllowWarnings, Options};
use run402::error::Kind;
use serde_json::json;

#[tokio::test]
async fn slices_that_are_left_out_stay_and_replace_takes_away() {
    let server = Server::start().await;
    let user = server.user(1).await;
    user.deploy(json!({"site": {"replace": {"index.html": "one", "a.txt": "a"}},
        "functions": {"replace": {"hello": {"source": "export default () => new Response('x')"}}}}))
        .await
        .expect("the first");
    user.deploy(json!({"site": {"patch": {"put": {"b.txt": "b"}, "delete": ["a.txt"]}}})).await.expect("the second");
    assert_eq!(user.live().await, ["b.txt", "index.html"]);
    let active = releases::get(&user.client, &user.project, "active", None).await.expect("a release");
    assert_eq!(active["functions"][0]["name"], "hello");
    user.deploy(json!({"site": {"replace": {"only.txt": "x"}}})).await.expect("the third");
    assert_eq!(user.live().await, ["only.txt"]);
    let listed = releases::list(&user.client, &user.project, Some(2), None).await.expect("a list");
    assert_eq!((listed.operations.len(), listed.operations[0].status.as_deref()), (2, Some("ready")));
    let cursor = listed.cursor.expect("there is more");
    let rest = releases::list(&user.client, &user.project, None, cursor.as_str()).await.expect("the rest");
    assert_eq!(rest.operations.len(), 1);
}

#[tokio::test]
async fn the_same_release_again_changes_nothing_and_the_same_key_is_one_deploy() {
    let server = Server::start().await;
    let user = server.user(1).await;
    let site = json!({"site": {"replace": {"index.html": "one"}}});
    let keyed = Options { idempotency_key: Some("k".to_owned()), ..options() };
    let first = user.deploy_with(site.clone(), &keyed).await.expect("the first");
    let again = user.deploy_with(site.clone(), &keyed).await.expect("again");
    assert_eq!((&first.release_id, &first.operation_id), (&again.release_id, &again.operation_id));
    let other = user.deploy(site).await.expect("without a key");
    assert_eq!(other.diff["is_noop"], true);
    let difference =
        releases::diff(&user.client, &user.project, &first.release_id, "active", None).await.expect("a difference");
    assert_eq!(difference["is_noop"], true);
}

#[tokio::test]
async fn somebody_elses_release_in_between_is_a_conflict() {
    let server = Server::start().await;
    let user = server.user(1).await;
    let first = user.deploy(json!({"site": {"replace": {"index.html": "one"}}})).await.expect("the first");
    let error = user.deploy(json!({"base": {"release": "empty"}, "site": {"replace": {"index.html": "two"}}})).await;
    assert_eq!(error.expect_err("there is a release").code, "BASE_RELEASE_CONFLICT");
    user.deploy(json!({"base": {"release_id": first.release_id}, "site": {"patch": {"put": {"b": "b"}}}}))
        .await
        .expect("on the first");
    // Eight at once: each is planned on what is live, and applied again when it was overtaken.
    let many = Options { max_retries: Some(20), ..options() };
    let deploys =
        (0..8).map(|index| user.deploy_with(json!({"site": {"patch": {"put": {(format!("f{index}")): "x"}}}}), &many));
    let deploys: Vec<_> = deploys.collect();
    for done in futures::future::join_all(deploys).await {
        done.expect("each goes live in the end");
    }
    let live = user.live().await;
    assert!((0..8).all(|index| live.contains(&format!("f{index}"))), "{live:?}");
}

#[tokio::test]
async fn a_release_that_was_live_can_be_live_again() {
    let server = Server::start().await;
    let user = server.user(1).await;
    let first = user.deploy(json!({"site": {"replace": {"index.html": "one"}}})).await.expect("the first");
    user.deploy(json!({"site": {"replace": {"other.html": "two"}}})).await.expect("the second");
    let promoted =
        run402::deploy::promote(&user.client, &user.project, &first.release_id, &AllowWarnings::Nothing).await;
    assert_eq!(promoted.expect("promoted")["status"], "ok");
    assert_eq!(user.live().await, ["index.html"]);
    let again = run402::deploy::promote(&user.client, &user.project, &first.release_id, &AllowWarnings::Nothing).await;
    assert_eq!(again.expect_err("it is live").code, "PROMOTE_NO_OP");
}

#[tokio::test]
async fn a_secret_that_is_missing_stops_a_deploy_until_it_is_set() {
    let server = Server::start().await;
    let user = server.user(1).await;
    let release = json!({"site": {"replace": {"index.html": "x"}}, "secrets": {"require": ["API_KEY"]}});
    let careful = Options { allow_warnings: AllowWarnings::Nothing, ..options() };
    let error = user.deploy_with(release.clone(), &careful).await.expect_err("no API_KEY");
    assert_eq!((error.kind, error.code.as_str()), (Kind::DeployError, "MISSING_REQUIRED_SECRET"));
    secrets::set(&user.client, &user.project, "API_KEY", "very-secret-value").await.expect("set");
    user.deploy_with(release, &careful).await.expect("it is there");
    let listed = secrets::list(&user.client, &user.project).await.expect("a list");
    assert_eq!(listed.len(), 1);
    assert!(!format!("{listed:?}").contains("very-secret-value"));
    secrets::delete(&user.client, &user.project, "API_KEY").await.expect("deleted");
    assert!(secrets::list(&user.client, &user.project).await.expect("a list").is_empty());
}

#[tokio::test]
async fn what_this_gateway_cannot_do_is_refused_whole() {
    let server = Server::start().await;
    let user = server.user(1).await;
    let release =
        json!({"site": {"replace": {"index.html": "x"}}, "database": {"migrations": [{"id": "1", "sql": "SELECT 1"}]}});
    let error = user.deploy(release).await.expect_err("no database");
    assert_eq!(error.code, "DATABASE_UNAVAILABLE");
    assert!(error.message.contains("--database-url"), "{error}");
    assert!(user.live().await.is_empty());
    let error =
        run402::api::projects::run_sql(&user.client, &user.project, "SELECT 1", &[]).await.expect_err("no database");
    assert_eq!(error.status, Some(501));
}

#[tokio::test]
async fn names_belong_to_who_came_first() {
    let server = Server::start().await;
    let (one, two) = (server.user(1).await, server.user(2).await);
    let deployed = one
        .deploy(json!({"site": {"replace": {"index.html": "one"}}, "subdomains": {"set": ["shop"]}}))
        .await
        .expect("a name");
    assert!(deployed.urls["site"].as_str().expect("a URL").starts_with("http://shop.localhost:"));
    let error = two
        .deploy(json!({"site": {"replace": {"index.html": "two"}}, "subdomains": {"set": ["shop"]}}))
        .await
        .expect_err("taken");
    assert_eq!(error.code, "SUBDOMAIN_TAKEN");
    assert!(two.live().await.is_empty(), "the release did not become live without its name");
    let claimed =
        subdomains::claim(&one.client, &one.project, "store", deployed.deployment_id()).await.expect("a second name");
    assert_eq!(claimed.name, "store");
    one.deploy(json!({"subdomains": {"remove": ["shop"]}})).await.expect("given back");
    two.deploy(json!({"subdomains": {"add": ["shop"]}, "site": {"replace": {"index.html": "two"}}}))
        .await
        .expect("free again");
}

#[tokio::test]
async fn others_projects_look_as_if_they_were_not_there() {
    let server = Server::start().await;
    let (one, two) = (server.user(1).await, server.user(2).await);
    let spec = json!({"project": one.project, "site": {"replace": {"index.html": "x"}}});
    let manifest = run402::deploy::spec::Manifest::from_json(spec, None).expect("a manifest").spec;
    let deploy = run402::deploy::Deploy::new(manifest, None);
    let error = deploy
        .apply(&two.client, &options(), &Default::default(), &run402::deploy::Silent)
        .await
        .expect_err("not theirs");
    assert_eq!((error.kind, error.details["reason"].as_str()), (Kind::NotAuthorized, Some("project_not_found")));
    let bare = reqwest::Client::new();
    let plan =
        || bare.post(format!("{}/apply/v1/plans", server.base)).json(&json!({"spec": {"project_id": one.project}}));
    assert_eq!(plan().send().await.expect("an answer").status(), 401);
    assert_eq!(plan().header("sign-in-with-x", "nonsense").send().await.expect("an answer").status(), 402);
    let foreign = bare.get(format!("{}/apply/v1/releases/active", server.base)).header("apikey", "anon_unknown");
    assert_eq!(foreign.send().await.expect("an answer").status(), 403);
    let rebound = bare.get(format!("{}/health", server.base)).header("host", "evil.example");
    assert_eq!(rebound.send().await.expect("an answer").status(), 400);
}

#[tokio::test]
async fn a_restart_changes_nothing() {
    let server = Server::start().await;
    let user = server.user(1).await;
    let released = user.deploy(json!({"site": {"replace": {"index.html": "one"}}})).await.expect("a release");
    let own = released.urls["project"].as_str().expect("a URL").to_owned();
    let base = server.base.clone();
    let state = server.stop().await;
    let again = Server::on(state).await;
    assert_ne!(again.base, base);
    // It answers once everything is open again.
    assert_eq!(crate::support::get(&format!("{}/health", again.base)).await.status(), 200);
    assert_eq!(crate::support::get(&own).await.text().await.expect("a text"), "one");
}

#[tokio::test]
async fn a_release_that_is_live_again_has_its_names_again() {
    let server = Server::start().await;
    let (one, two) = (server.user(1).await, server.user(2).await);
    let first = one
        .deploy(json!({"site": {"replace": {"index.html": "one"}}, "subdomains": {"set": ["shop"]}}))
        .await
        .expect("the first");
    one.deploy(json!({"subdomains": {"remove": ["shop"]}})).await.expect("the second");
    let promote = || run402::deploy::promote(&one.client, &one.project, &first.release_id, &AllowWarnings::Nothing);
    two.deploy(json!({"site": {"replace": {"index.html": "two"}}, "subdomains": {"set": ["shop"]}}))
        .await
        .expect("free");
    assert_eq!(promote().await.expect_err("another has the name").code, "SUBDOMAIN_TAKEN");
    two.deploy(json!({"subdomains": {"remove": ["shop"]}})).await.expect("given back");
    promote().await.expect("promoted");
    let shown =
        reqwest::Client::new().get(&server.base).header("host", "shop.localhost").send().await.expect("an answer");
    assert_eq!(shown.text().await.expect("a text"), "one");
}

#[tokio::test]
async fn another_projects_own_name_cannot_be_taken() {
    let server = Server::start().await;
    let (one, two) = (server.user(1).await, server.user(2).await);
    let label = one.project.replace('_', "-");
    let body = json!({"spec": {"project_id": two.project, "subdomains": {"add": [label]}}});
    let refused = two.post("/apply/v1/plans", run402::client::Auth::Wallet, body).await;
    assert_eq!(refused.expect_err("it is the project's own").code, "INVALID_SPEC");
}
