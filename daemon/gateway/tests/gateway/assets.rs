//! Assets: read by key, by everybody, by a signed URL; taken away one by one and by sync.

use crate::support::{Server, User, get, options};
use run402::api::asset_dirs::{self, AssetDirectory, PruneConfirmation};
use run402::client::Auth;
use run402::deploy::walk::Root;
use run402::deploy::{Digest, Progress, Silent};
use serde_json::{Value, json};
use std::sync::Arc;

fn put(key: &str, text: &str, visibility: &str) -> Value {
    json!({"key": key, "source": text, "content_type": "text/plain", "visibility": visibility})
}

async fn with_assets(server: &Server) -> User {
    let user = server.user(1).await;
    let assets =
        [put("img/a b.txt", "a", "public"), put("img/c.txt", "c", "private"), put("img2/d.txt", "d", "public")];
    user.deploy(json!({"assets": {"put": assets}})).await.expect("a release");
    user
}

async fn keys(user: &User) -> Vec<String> {
    let listed = user.get("/storage/v1/blobs?limit=100", Auth::ServicePair(&user.project)).await.expect("a list");
    listed["blobs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|blob| blob["key"].as_str().expect("a key").to_owned())
        .collect()
}

#[tokio::test]
async fn an_asset_is_read_by_who_may() {
    let server = Server::start().await;
    let user = with_assets(&server).await;
    assert_eq!(keys(&user).await, ["img/a b.txt", "img/c.txt", "img2/d.txt"]);
    let page =
        user.get("/storage/v1/blobs?prefix=img/&limit=1", Auth::ServicePair(&user.project)).await.expect("a page");
    assert_eq!(
        (page["blobs"][0]["key"].as_str(), page["next_cursor"].as_str()),
        (Some("img/a b.txt"), Some("img/a b.txt"))
    );
    let (_, service) = user.keys();
    let own =
        reqwest::Client::new().get(format!("{}/storage/v1/blob/img/c.txt", server.base)).header("apikey", &service);
    let own = own.bearer_auth(&service).send().await.expect("an answer");
    assert_eq!(own.headers()["x-run402-sha256"], Digest::of(b"c").to_string());
    assert_eq!(own.text().await.expect("a text"), "c");
    let public = format!("{}/assets/{}/img/a%20b.txt", server.base, user.project);
    assert_eq!(get(&public).await.text().await.expect("a text"), "a");
    assert_eq!(get(&format!("{public}?sha256={}", Digest::of(b"z"))).await.status(), 404);
    let private = format!("{}/assets/{}/img/c.txt", server.base, user.project);
    assert_eq!(get(&private).await.status(), 404);
    let signed =
        user.post("/storage/v1/blob/img/c.txt/sign", Auth::ServicePair(&user.project), json!({"ttl_seconds": 60}));
    let signed = signed.await.expect("a URL")["signed_url"].as_str().expect("a URL").to_owned();
    assert_eq!(get(&signed).await.text().await.expect("a text"), "c");
    assert_eq!(get(&signed.replace("expires=", "expires=1")).await.status(), 404);
    assert_eq!(get(&signed.replace("c.txt", "d.txt")).await.status(), 404);
    let short =
        user.post("/storage/v1/blob/img/c.txt/sign", Auth::ServicePair(&user.project), json!({"ttl_seconds": 1}));
    assert_eq!(short.await.expect_err("too short").status, Some(400));
    let diagnosed =
        user.get(&format!("/storage/v1/blobs/diagnose?url={public}"), Auth::ServicePair(&user.project)).await;
    let diagnosed = diagnosed.expect("a diagnosis");
    assert_eq!((&diagnosed["key"], &diagnosed["observed_sha256"]), (&json!("img/a b.txt"), &json!(Digest::of(b"a"))));
    let foreign =
        user.get("/storage/v1/blobs/diagnose?url=https://example.com/x", Auth::ServicePair(&user.project)).await;
    assert_eq!(foreign.expect_err("not ours").status, Some(400));
}

#[tokio::test]
async fn an_asset_is_taken_away_by_a_release() {
    let server = Server::start().await;
    let user = with_assets(&server).await;
    let (_, service) = user.keys();
    let delete = || {
        let url = format!("{}/storage/v1/blob/img/c.txt", server.base);
        reqwest::Client::new().delete(url).header("apikey", &service).bearer_auth(&service).send()
    };
    assert_eq!(delete().await.expect("an answer").status(), 200);
    assert_eq!(delete().await.expect("an answer").status(), 404);
    assert_eq!(keys(&user).await, ["img/a b.txt", "img2/d.txt"]);
}

#[tokio::test]
async fn a_sync_takes_away_only_what_was_confirmed() {
    let server = Server::start().await;
    let user = with_assets(&server).await;
    let entry = json!({"key": "img/e.txt", "sha256": Digest::of(b"a"), "size_bytes": 1, "content_type": "text/plain",
        "visibility": "public", "immutable": true});
    let spec = |sync: Value| json!({"spec": {"project_id": user.project, "assets": {"put": [entry], "sync": sync}}});
    let plan =
        async |query: &str, sync: Value| user.post(&format!("/apply/v1/plans{query}"), Auth::Wallet, spec(sync)).await;
    let unconfirmed = json!({"prefix": "img", "prune": true});
    let refused = plan("", unconfirmed.clone()).await.expect_err("nothing was confirmed");
    assert_eq!(refused.code, "PRUNE_CONFIRMATION_REQUIRED");
    let seen = plan("?dry_run=true", unconfirmed).await.expect("a dry run")["asset_sync"].clone();
    // `img2` is another folder.
    assert_eq!(
        (&seen["expected_delete_count"], &seen["sample_keys"]),
        (&json!(2), &json!(["img/a b.txt", "img/c.txt"]))
    );
    let confirm = json!({"base_revision": seen["base_revision"], "delete_set_digest": seen["delete_set_digest"],
        "expected_delete_count": 2});
    let confirmed = json!({"prefix": "img", "prune": true, "confirm": confirm});
    let planned = plan("", confirmed.clone()).await.expect("a plan");
    assert_eq!(planned["asset_entries"][0]["status"], "satisfied_by_plan");
    let commit = format!("/apply/v1/plans/{}/commit", planned["plan_id"].as_str().expect("an id"));
    user.post(&commit, Auth::Wallet, json!({})).await.expect("committed");
    assert_eq!(keys(&user).await, ["img/e.txt", "img2/d.txt"]);
    assert_eq!(plan("", confirmed).await.expect_err("they are gone").code, "ASSET_SYNC_DRIFT");
}

#[tokio::test]
async fn a_directory_is_put_and_kept_equal() {
    let server = Server::start().await;
    let user = with_assets(&server).await;
    let folder = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = folder.path().join("media").join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        std::fs::write(path, text).expect("a file");
    };
    for (name, text) in [("x.png", "x"), ("deep/y.css", "y"), (".env", "secret")] {
        write(name, text);
    }
    let root = || Root::open(folder.path()).expect("a root");
    let progress = Arc::new(Progress::default());
    let (client, project) = (&user.client, user.project.as_str());
    let options = options();
    let upload = |directory| asset_dirs::upload_dir(client, project, directory, root(), &options, &progress, &Silent);
    let entries = upload(AssetDirectory::new("media", "/img/")).await.expect("put");
    let added: Vec<&str> = entries.iter().map(|entry| entry["key"].as_str().expect("a key")).collect();
    assert_eq!(added, ["img/deep/y.css", "img/x.png"]);
    let all = ["img/a b.txt", "img/c.txt", "img/deep/y.css", "img/x.png", "img2/d.txt"];
    assert_eq!(keys(&user).await, all);
    let styles = get(&format!("{}/assets/{}/img/deep/y.css", server.base, user.project)).await;
    assert!(styles.headers()["content-type"].to_str().expect("plain").starts_with("text/css"));
    // A sync says first what it would take away, and takes away exactly that.
    let sync = async |confirm: Option<&PruneConfirmation>, prefix: &str| {
        let directory = AssetDirectory::new("media", prefix);
        asset_dirs::sync_dir(client, project, directory, root(), confirm, &options, &progress, &Silent).await
    };
    assert_eq!(sync(None, "/").await.expect_err("everything").code, "LOCAL_ERROR");
    let error = sync(None, "img").await.expect_err("asked first");
    assert_eq!(
        (error.code.as_str(), &error.details["expected_delete_count"]),
        ("PRUNE_CONFIRMATION_REQUIRED", &json!(2))
    );
    assert_eq!(keys(&user).await, all);
    let confirm: PruneConfirmation = serde_json::from_value(error.details.clone()).expect("what is to be confirmed");
    write("new.txt", "new");
    let late = put("img/late.txt", "late", "public");
    user.deploy(json!({"assets": {"put": [late]}})).await.expect("somebody else's");
    assert_eq!(sync(Some(&confirm), "img").await.expect_err("it has changed").code, "ASSET_SYNC_DRIFT");
    let error = sync(None, "img").await.expect_err("asked again");
    let confirm: PruneConfirmation = serde_json::from_value(error.details.clone()).expect("what is to be confirmed");
    sync(Some(&confirm), "img").await.expect("synced");
    assert_eq!(keys(&user).await, ["img/deep/y.css", "img/new.txt", "img/x.png", "img2/d.txt"]);
    // Links lead nowhere.
    std::os::unix::fs::symlink("/etc", folder.path().join("media/out")).expect("a link");
    upload(AssetDirectory::new("media", "img")).await.expect_err("a link");
}
