//! Contents: verified, promoted only when they are what was promised, kept under no wrong name.

use crate::support::{Server, User, files_below, options};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Body, StatusCode};
use run402::client::Auth;
use run402::deploy::spec::Manifest;
use run402::deploy::walk::Root;
use run402::deploy::{Deploy, Digest, Silent};
use serde_json::{Value, json};

async fn plan(user: &User, content: &[u8]) -> Value {
    let body = json!({"content": [{"sha256": Digest::of(content), "size": content.len()}]});
    let request = user.client.post("/content/v1/plans", Auth::Anon(&user.project)).json(&body).expect("a body");
    request.receive("planning").await.expect("a plan")
}

async fn put(url: &str, body: impl Into<Body>, claimed: &[u8]) -> StatusCode {
    let checksum = STANDARD.encode(Digest::of(claimed).as_bytes());
    let request = reqwest::Client::new().put(url).header("x-amz-checksum-sha256", checksum).body(body);
    request.send().await.expect("an answer").status()
}

fn part(plan: &Value, index: usize) -> String {
    plan["missing"][0]["parts"][index]["url"].as_str().expect("a URL").to_owned()
}

async fn commit(user: &User, plan: &Value) -> Result<Value, run402::error::Error> {
    let path = format!("/content/v1/plans/{}/commit", plan["plan_id"].as_str().expect("an id"));
    let request = user.client.post(path, Auth::Anon(&user.project)).json(&json!({})).expect("a body");
    request.send("committing").await.map(|reply| reply.value())
}

/// Every stored content has the name of its bytes.
fn check_store(server: &Server) -> usize {
    let stored = files_below(&server.state.path().join("content"));
    for path in &stored {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!(Digest::of(&std::fs::read(path).expect("readable")).to_string(), name);
    }
    stored.len()
}

#[tokio::test]
async fn wrong_bytes_are_never_taken() {
    let server = Server::start().await;
    let user = server.user(1).await;
    let planned = plan(&user, b"hello").await;
    let url = part(&planned, 0);
    assert_eq!(put(&url, "world", b"hello").await, 400);
    assert_eq!(put(&url, "world", b"world").await, 400);
    assert_eq!(put(&url, "hello!", b"hello").await, 400);
    assert_eq!(put(&url, "hell", b"hello").await, 400);
    assert_eq!(reqwest::Client::new().put(&url).body("hello").send().await.expect("an answer").status(), 400);
    assert_eq!(put(&format!("{url}0"), "hello", b"hello").await, 403);
    assert_eq!(commit(&user, &planned).await.expect_err("nothing was sent").code, "CONTENT_MISSING");
    assert_eq!(check_store(&server), 0);
    assert_eq!(put(&url, "hello", b"hello").await, 200);
    commit(&user, &planned).await.expect("it is complete");
    commit(&user, &planned).await.expect("and stays so");
    assert_eq!(check_store(&server), 1);
    assert!(files_below(&server.state.path().join("staging")).is_empty());
}

#[tokio::test]
async fn parts_that_are_in_the_wrong_order_are_not_put_together() {
    let server = Server::start().await;
    let user = server.user(1).await;
    let content: Vec<u8> =
        (0..(1 << 20) + 1000_u32).flat_map(|at| (at % 251).to_le_bytes().into_iter().take(1)).collect();
    let planned = plan(&user, &content).await;
    assert_eq!(
        (planned["missing"][0]["mode"].as_str(), planned["missing"][0]["part_count"].as_u64()),
        (Some("multipart"), Some(5))
    );
    let slice = |index: usize| content[index << 18..content.len().min((index + 1) << 18)].to_vec();
    for (index, from) in [(0, 1), (1, 0), (2, 2), (3, 3), (4, 4)] {
        assert_eq!(put(&part(&planned, index), slice(from), &slice(from)).await, 200);
    }
    assert_eq!(commit(&user, &planned).await.expect_err("it is something else").code, "BAD_DIGEST");
    assert_eq!(check_store(&server), 0);
    for index in [0, 1] {
        assert_eq!(put(&part(&planned, index), slice(index), &slice(index)).await, 200);
    }
    commit(&user, &planned).await.expect("now it is right");
    assert_eq!(check_store(&server), 1);
}

#[tokio::test]
async fn what_one_project_has_another_has_to_send() {
    let server = Server::start().await;
    let (one, two) = (server.user(1).await, server.user(2).await);
    one.deploy(json!({"site": {"replace": {"a": "secret"}}})).await.expect("a release");
    let planned = plan(&two, b"secret").await;
    assert_eq!(planned["entries"][0]["missing"], true);
    assert_eq!(
        commit(&two, &planned).await.map(|_| ()).map_err(|error| error.code.clone()),
        Err("CONTENT_MISSING".to_owned())
    );
    let reference = json!({"site": {"replace": {"a": {"sha256": Digest::of(b"secret"), "size": 6}}}});
    assert_eq!(two.deploy(reference).await.expect_err("not theirs").code, "CONTENT_UPLOAD_FAILED");
}

#[tokio::test]
async fn large_and_many_files_arrive_as_they_are() {
    let server = Server::start().await;
    let user = server.user(1).await;
    let root = tempfile::tempdir().expect("a directory");
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(root.path().join("large.bin"), &large).expect("a file");
    std::fs::write(root.path().join("empty"), "").expect("a file");
    std::fs::write(root.path().join("new\nline ü"), "name").expect("a file");
    for index in 0..300 {
        std::fs::write(root.path().join(format!("f{index}")), format!("{index}")).expect("a file");
    }
    let sparse = std::fs::File::create(root.path().join("sparse")).expect("a file");
    sparse.set_len(40 << 20).expect("a sparse file");
    let spec = json!({"project": user.project, "site": {"replace": {"__source": "local-dir", "path": "."}}});
    let spec = Manifest::from_json(spec, None).expect("a manifest").spec;
    let deploy = Deploy::new(spec, Some(Root::open(root.path()).expect("a root")));
    let released = deploy.apply(&user.client, &options(), &Default::default(), &Silent).await.expect("a release");
    assert_eq!(user.live().await.len(), 304);
    let url = released.url().expect("a URL");
    let got = crate::support::get(&format!("{url}large.bin")).await.bytes().await.expect("bytes");
    assert!(got == large, "the bytes are others");
    let named = crate::support::get(&format!("{url}new%0Aline%20%C3%BC")).await;
    assert_eq!(named.text().await.expect("a text"), "name");
    assert_eq!(check_store(&server), 304);
}

#[tokio::test]
async fn a_release_by_reference_is_read_from_the_contents() {
    let server = Server::start().await;
    let user = server.user(1).await;
    let files: serde_json::Map<String, Value> =
        (0..30_000).map(|index| (format!("{index:0>120}.html"), json!("x"))).collect();
    user.deploy(json!({"site": {"replace": files}})).await.expect("a long release");
    assert_eq!(user.live().await.len(), 5000, "the list is cut");
    let body =
        json!({"spec": {"project_id": user.project}, "manifest_ref": {"sha256": Digest::of(b"none"), "size": 4}});
    let request = user.client.post("/apply/v1/plans", Auth::Wallet).json(&body).expect("a body");
    assert_eq!(request.send("planning").await.expect_err("not there").code, "CONTENT_MISSING");
}

#[tokio::test]
async fn what_was_sent_before_a_restart_is_looked_at_again() {
    let server = Server::start().await;
    let user = server.user(1).await;
    let (good, torn) = (plan(&user, b"hello").await, plan(&user, b"world").await);
    assert_eq!(put(&part(&good, 0), "hello", b"hello").await, 200);
    assert_eq!(put(&part(&torn, 0), "world", b"world").await, 200);
    let state = server.stop().await;
    let upload = torn["missing"][0]["upload_id"].as_str().expect("an id");
    std::fs::write(state.path().join("staging").join(format!("{upload}.1")), [0; 5]).expect("as a power cut would");
    let server = Server::on(state).await;
    let user = user.at(&server.base);
    commit(&user, &good).await.expect("it is complete");
    assert_eq!(commit(&user, &torn).await.expect_err("it is torn").code, "BAD_DIGEST");
    assert_eq!(check_store(&server), 1);
}
