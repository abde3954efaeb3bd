//! Exchanges that were recorded with the vendor's own client, replayed: the same requests in the same
//! order with equal bodies, given the same answers; and the same events and results.

use crate::support::{self, Asked, Events, Gateway, client, options};
use axum::body::Body;
use axum::http::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use run402::api::functions::{self, NewFunction};
use run402::api::sites;
use run402::deploy::spec::Manifest;
use run402::deploy::walk::Root;
use run402::deploy::{Deploy, Options, Silent};
use run402::signin::verify;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Mutex;

fn recording(name: &str) -> Value {
    let path = format!("{}/tests/traffic/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("a recording")).expect("JSON")
}

/// Compares every request with the recorded one, and answers as it was answered.
struct Replay {
    exchanges: Vec<Value>,
    at: Mutex<usize>,
}

impl support::Script for Replay {
    fn answer(&self, asked: &Asked, base: &str) -> Response<Body> {
        let mut at = self.at.lock().expect("no panic");
        let Some(exchange) = self.exchanges.get(*at) else {
            return support::json(500, json!({"code": "ONE_TOO_MANY"}));
        };
        *at += 1;
        let wrong = differs(asked, &exchange["request"], base);
        if !wrong.is_empty() {
            // Not retried, and shown by the error.
            return support::json(
                422,
                json!({"code": "DIFFERS", "message": format!("request {at}: {wrong}"), "retryable": false}),
            );
        }
        let recorded = &exchange["response"];
        let mut response = Response::builder()
            .status(u16::try_from(recorded["status"].as_u64().expect("a status")).expect("a status"));
        for (name, value) in recorded["headers"].as_object().expect("headers") {
            response = response.header(name, value.as_str().expect("a text"));
        }
        let body = match &recorded["body"] {
            Value::String(text) => text.clone(),
            value => value.to_string().replace("{{gateway}}", base),
        };
        response.body(Body::from(body)).expect("a response")
    }
}

/// What is not as recorded, apart from times, nonces and signatures.
fn differs(asked: &Asked, recorded: &Value, base: &str) -> String {
    let mut wrong = Vec::new();
    let mut same = |what: &str, ours: Value, theirs: Value| {
        if ours != theirs {
            wrong.push(format!("{what} is {ours}, recorded {theirs}"));
        }
    };
    same("method", json!(asked.method.as_str()), recorded["method"].clone());
    same("path", json!(asked.path), recorded["path"].clone());
    let header = |name: &str| asked.headers.get(name).map(|value| value.to_str().expect("a text").to_owned());
    let recorded_headers = &recorded["headers"];
    let apikey = recorded_headers["apikey"].as_str().map(|_| "anon_demo_key".to_owned());
    same("apikey", json!(header("apikey")), json!(apikey));
    same("content type", json!(header("content-type")), recorded_headers["content-type"].clone());
    same("checksum", json!(header("x-amz-checksum-sha256")), recorded_headers["x-amz-checksum-sha256"].clone());
    same("authorization", json!(header("authorization")), recorded_headers["authorization"].clone());
    let siwx = &recorded_headers["sign-in-with-x"]["siwx"];
    match header("sign-in-with-x") {
        None => same("sign-in", Value::Null, siwx.clone()),
        Some(ours) => {
            verify(&ours, time::OffsetDateTime::now_utc()).expect("a good sign-in");
            let ours: Value = serde_json::from_slice(&STANDARD.decode(ours).expect("base64")).expect("JSON");
            for name in ["domain", "address", "statement", "version", "chainId", "type"] {
                same(name, ours[name].clone(), siwx[name].clone());
            }
            let uri = siwx["uri"].as_str().unwrap_or_default().replace("{{gateway}}", base);
            same("uri", ours["uri"].clone(), json!(uri));
            same(
                "fields",
                json!(ours.as_object().map(serde_json::Map::len)),
                json!(siwx.as_object().map(serde_json::Map::len)),
            );
        }
    }
    match &recorded["body"] {
        Value::Null => same("body", json!(asked.body.len()), json!(0)),
        body if body.get("json").is_some() => same("body", asked.json(), body["json"].clone()),
        body => same("bytes", json!(run402::deploy::Digest::of(&asked.body).to_string()), body["sha256"].clone()),
    }
    wrong.join("; ")
}

async fn replay(recorded: &Value) -> Gateway {
    let exchanges = recorded["exchanges"].as_array().expect("exchanges").clone();
    Gateway::start(Replay { exchanges, at: Mutex::new(0) }).await
}

fn write_inputs(root: &Path, recorded: &Value) {
    for (path, file) in recorded["inputs"].as_object().expect("inputs") {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        let bytes = STANDARD.decode(file["base64"].as_str().expect("base64")).expect("base64");
        std::fs::write(path, bytes).expect("a file");
    }
    // On disk there, and not in the release.
    for ignored in [".git/config", "node_modules/x/index.js", ".env", ".DS_Store"] {
        let path = root.join(ignored);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        std::fs::write(path, "not for deploy").expect("a file");
    }
}

/// Without the delay, which is partly chance.
fn comparable(events: &[Value]) -> Vec<Value> {
    let mut events = events.to_vec();
    for event in &mut events {
        if let Some(fields) = event.as_object_mut() {
            fields.remove("delayMs");
        }
    }
    events
}

async fn deploy_dir(base: &str, root: &Path, options: &Options, events: &Events) -> sites::DeployedSite {
    let root = Root::open(root).expect("the directory");
    let deployed = sites::release_dir(&client(base), "prj_demo", root, options, &Default::default(), events).await;
    sites::DeployedSite::from(&deployed.expect("the deploy is as recorded"))
}

#[tokio::test]
async fn a_directory_is_deployed_for_the_first_time() {
    let recorded = recording("site_dir_first");
    let gateway = replay(&recorded).await;
    let root = tempfile::tempdir().expect("a directory");
    write_inputs(root.path(), &recorded);
    let events = Events::default();
    let deployed = deploy_dir(&gateway.base, root.path(), &options(), &events).await;
    assert_eq!(json!(deployed), recorded["result"]);
    assert_eq!(gateway.asked().len(), recorded["exchanges"].as_array().expect("exchanges").len());
    let events = events.0.lock().expect("no panic");
    assert_eq!(comparable(&events), comparable(recorded["events"].as_array().expect("events")));
}

#[tokio::test]
async fn a_directory_is_deployed_again_unchanged_and_changed() {
    let recorded = recording("site_dir_again");
    let gateway = replay(&recorded).await;
    let root = tempfile::tempdir().expect("a directory");
    write_inputs(root.path(), &recorded);
    deploy_dir(&gateway.base, root.path(), &options(), &Events::default()).await;
    let events = Events::default();
    let unchanged = deploy_dir(&gateway.base, root.path(), &options(), &events).await;
    assert_eq!(json!(unchanged), recorded["result"]["unchanged"]);
    // What the recorded client's last plan names is what the directory holds then.
    let exchanges = recorded["exchanges"].as_array().expect("exchanges");
    let third = exchanges.iter().filter(|exchange| exchange["request"]["path"] == "/apply/v1/plans").nth(2);
    let files = third.expect("a third plan")["request"]["body"]["json"]["spec"]["site"]["replace"].clone();
    let files = files.as_object().expect("files");
    let put = exchanges.iter().rfind(|exchange| exchange["request"]["method"] == "PUT").expect("an upload");
    let (name, _) =
        files.iter().find(|(_, file)| file["sha256"] == put["request"]["body"]["sha256"]).expect("its name");
    std::fs::write(root.path().join(name), put["request"]["body"]["text"].as_str().expect("a text")).expect("a change");
    for gone in recorded["inputs"].as_object().expect("inputs").keys().filter(|name| !files.contains_key(*name)) {
        std::fs::remove_file(root.path().join(gone)).expect("removed");
    }
    let changed = deploy_dir(&gateway.base, root.path(), &options(), &events).await;
    assert_eq!(json!(changed), recorded["result"]["changed"]);
    assert_eq!(gateway.asked().len(), exchanges.len());
    let events = events.0.lock().expect("no panic");
    assert_eq!(comparable(&events), comparable(recorded["events"].as_array().expect("events")));
}

#[tokio::test]
async fn a_function_is_deployed() {
    let recorded = recording("function_deploy");
    let gateway = replay(&recorded).await;
    let code = recorded["exchanges"][2]["request"]["body"]["text"].as_str().expect("the code").to_owned();
    let function = NewFunction { name: "hello".to_owned(), code, ..NewFunction::default() };
    let deployed = functions::deploy(&client(&gateway.base), "prj_demo", function, &options(), &Silent).await;
    let mut deployed = json!(deployed.expect("the deploy is as recorded"));
    deployed["created_at"] = json!("<now>");
    assert_eq!(deployed, recorded["result"]);
    assert_eq!(gateway.asked().len(), recorded["exchanges"].as_array().expect("exchanges").len());
}

#[tokio::test]
async fn a_release_that_somebody_else_overtook_is_applied_again() {
    let recorded = recording("base_conflict_retry");
    let gateway = replay(&recorded).await;
    let manifest = json!({"project": "prj_demo", "site": {"replace": {"index.html": "x"}}, "idempotency_key": "same"});
    let manifest = Manifest::from_json(manifest, None).expect("a manifest");
    let options = Options { idempotency_key: manifest.idempotency_key, ..options() };
    let events = Events::default();
    let released =
        Deploy::new(manifest.spec, None).apply(&client(&gateway.base), &options, &Default::default(), &events).await;
    assert_eq!(json!(released.expect("the third attempt succeeds")), recorded["result"]);
    assert_eq!(gateway.asked().len(), recorded["exchanges"].as_array().expect("exchanges").len());
    let events = events.0.lock().expect("no panic");
    assert_eq!(comparable(&events), comparable(recorded["events"].as_array().expect("events")));
}
