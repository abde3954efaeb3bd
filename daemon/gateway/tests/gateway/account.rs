//! Projects, tiers and accounts of a wallet, none of which costs anything.

use crate::support::Server;
use run402::api::projects::{self, NewProject};
use run402::api::wallets::{self, Part};
use run402::client::{Auth, Client, Identity};
use run402::environment::{Base, Environment};
use run402::keys::KeyCache;
use run402::wallet::Wallet;
use serde_json::json;
use std::sync::Arc;

#[tokio::test]
async fn a_tier_is_the_wallets_and_its_projects() {
    let server = Server::start().await;
    let user = server.user(1).await;
    let before = user.get("/tiers/v1/status", Auth::Wallet).await.expect("a status");
    assert_eq!((before["tier"].as_str(), before["lease_started_at"].is_null()), (Some("prototype"), true));
    assert_eq!(before["function_limits"]["max_function_timeout_seconds"], 60);
    let set =
        async |tier: &str| user.post(&format!("/tiers/v1/{tier}"), Auth::Wallet, json!({})).await.expect("a tier");
    let first = set("hobby").await;
    assert_eq!((first["action"].as_str(), first["previous_tier"].is_null()), (Some("subscribe"), true));
    let next = set("team").await;
    assert_eq!((next["action"].as_str(), next["previous_tier"].as_str()), (Some("upgrade"), Some("hobby")));
    assert_eq!(set("team").await["action"], "renew");
    assert_eq!(set("prototype").await["action"], "downgrade");
    user.post("/tiers/v1/golden", Auth::Wallet, json!({})).await.expect_err("there is no such tier");
    set("team").await;
    let project = projects::get(&user.client, &user.project).await.expect("a project");
    assert_eq!(project.rest["tier"], "team");
    assert_eq!(user.get("/tiers/v1/status", Auth::Wallet).await.expect("a status")["tier"], "team");
}

#[tokio::test]
async fn an_account_is_seen_by_its_wallet_alone() {
    let server = Server::start().await;
    let (user, other) = (server.user(1).await, server.user(2).await);
    let wallet = user.client.address().expect("a wallet").to_string().to_lowercase();
    let lookup = format!("/orgs/v1/lookup?wallet={wallet}");
    let account = user.get(&lookup, Auth::Wallet).await.expect("an account");
    assert_eq!(account["available_usd_micros"], 0);
    let billing = format!("/orgs/v1/{}/billing", account["org_id"].as_str().expect("an id"));
    assert_eq!(user.get(&billing, Auth::Wallet).await.expect("the same"), account);
    assert_eq!(user.get(&format!("{billing}/history"), Auth::Wallet).await.expect("a history")["entries"], json!([]));
    assert_eq!(other.get(&lookup, Auth::Wallet).await.expect_err("not theirs").status, Some(403));
    assert_eq!(other.get(&billing, Auth::Wallet).await.expect_err("not theirs").status, Some(403));
    let funded = user.post("/faucet/v1", Auth::Public, json!({"address": wallet})).await.expect("funded");
    assert_eq!(funded["network"], "local");
}

#[tokio::test]
async fn projects_are_listed_page_by_page_renamed_and_deleted() {
    let server = Server::start().await;
    let user = server.user(1).await;
    for _ in 0..3 {
        user.post("/projects/v1", Auth::Wallet, json!({"name": "more"})).await.expect("a project");
    }
    let first = projects::list(&user.client, Some(3), None).await.expect("a page");
    assert_eq!((first.projects.len(), first.has_more), (3, true));
    let rest = projects::list(&user.client, Some(3), first.next_cursor.as_deref()).await.expect("the rest");
    assert_eq!((rest.projects.len(), rest.has_more), (1, false));
    projects::rename(&user.client, &user.project, "shop").await.expect("renamed");
    assert_eq!(projects::get(&user.client, &user.project).await.expect("a project").name.as_deref(), Some("shop"));
    projects::rename(&user.client, &user.project, "").await.expect_err("no name");
    user.deploy(json!({"site": {"replace": {"index.html": "x"}}})).await.expect("a release");
    projects::delete(&user.client, &user.project).await.expect("deleted");
    assert_eq!(projects::get(&user.client, &user.project).await.expect_err("gone").status, Some(403));
    assert_eq!(projects::list(&user.client, None, None).await.expect("a list").projects.len(), 3);
    // Its contents go when the gateway starts again.
    let state = server.stop().await;
    let server = Server::on(state).await;
    assert_eq!(crate::support::get(&format!("{}/health", server.base)).await.status(), 200);
    assert!(crate::support::files_below(&server.state.path().join("content")).is_empty());
}

#[tokio::test]
async fn a_wallet_is_set_up_once_and_shown_on_one_page() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().expect("a directory");
    let config = folder.path().as_os_str().to_owned();
    let look_up = move |name: &str| (name == "RUN402_CONFIG_DIR").then(|| config.clone());
    let base: Base = server.base.parse().expect("a base");
    let environment = Environment::resolve(&look_up, &base).expect("good");
    assert!(!wallets::local_status(&environment).expect("readable").configured);
    assert_eq!(wallets::export(&environment).expect_err("none yet").code, "NO_WALLET");
    let connect = |wallet: &Wallet| {
        let keys = KeyCache::new(&environment, &base, Some(&wallet.address().to_lower()));
        Client::new(base.as_str(), Identity::Wallet(wallet.signer()), Arc::new(keys))
    };
    let first = wallets::init(&environment, 0, connect).await.expect("set up");
    assert!(matches!((&first.faucet, &first.tier), (Part::Here(_), Part::Here(_))), "{first:?}");
    let local = wallets::local_status(&environment).expect("readable");
    assert_eq!((local.funded, local.address.as_ref()), (true, Some(&first.address)));
    assert_eq!(wallets::export(&environment).expect("an address"), first.address);
    wallets::create(&environment).expect_err("never in place of another");
    // Again: nothing is made, nothing is asked for.
    let again = wallets::init(&environment, 0, connect).await.expect("set up");
    assert_eq!(again.address, first.address);
    assert!(matches!(again.faucet, Part::NotNeeded), "{again:?}");
    let client = connect(&Wallet::load(&environment).expect("readable").expect("a wallet")).expect("a client");
    let made = projects::provision(&client, &NewProject::default()).await.expect("a project");
    let page = wallets::status(&client, &environment, Some(made.project_id)).await.expect("a page");
    let page = serde_json::to_value(page).expect("JSON");
    assert_eq!(page["projects"]["here"]["projects"].as_array().map(Vec::len), Some(1), "{page}");
    assert_eq!(page["tier"]["here"]["tier"], "prototype");
    assert_eq!(page["organization"]["here"]["available_usd_micros"], 0);
    // Without the gateway each part says that it is missing.
    server.stop().await;
    let page = wallets::status(&client, &environment, None).await.expect("a page all the same");
    let page = serde_json::to_value(page).expect("JSON");
    for part in ["tier", "organization", "projects"] {
        assert!(page[part]["unavailable"].is_string(), "{page}");
    }
}
