//! A gateway that fails at one step: what is live afterwards is the old release or the new one, whole, and
//! the error is the documented one.

use crate::support::{self, Asked, Gateway, client, json, options, tagged};
use axum::body::Body;
use axum::http::Response;
use futures::StreamExt;
use run402::deploy::spec::{Manifest, ReleaseSpec};
use run402::deploy::{AllowWarnings, Deploy, Digest, Options, Polling, Released, Silent};
use run402::error::{Error, Kind};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Plan,
    ContentPlan,
    Put,
    ContentCommit,
    Commit,
    Poll,
}

const STEPS: [Step; 6] = [Step::Plan, Step::ContentPlan, Step::Put, Step::ContentCommit, Step::Commit, Step::Poll];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// An envelope with this status and code.
    Status(u16, &'static str),
    /// A body that is no envelope.
    Html(u16),
    /// The connection ends without an answer.
    Drop,
    /// The answer ends in its middle.
    Truncate,
}

const FAULTS: [Fault; 8] = [
    Fault::Status(409, "OPERATION_IN_PROGRESS"),
    Fault::Status(429, "RATE_LIMITED"),
    Fault::Status(500, "INTERNAL_ERROR"),
    Fault::Status(503, "STORAGE_UNAVAILABLE"),
    Fault::Status(403, "QUOTA_EXCEEDED"),
    Fault::Html(502),
    Fault::Drop,
    Fault::Truncate,
];

/// When the gateway fails at the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Instead of doing it, every time.
    Before,
    /// Once, instead of doing it.
    BeforeOnce,
    /// After it was done, every time.
    After,
}

#[derive(Debug, Default)]
struct State {
    store: BTreeSet<String>,
    staged: BTreeSet<String>,
    plans: BTreeMap<String, Value>,
    /// By idempotency key.
    done: BTreeMap<String, String>,
    live: Option<Value>,
    faults: usize,
    puts: usize,
}

#[derive(Debug, Clone)]
struct Faulty {
    state: Arc<Mutex<State>>,
    fault: Option<(Step, Fault, When)>,
    /// A commit only starts, and is followed by polling.
    slow: bool,
}

fn step(asked: &Asked) -> Step {
    match asked.path.split('?').next().unwrap_or_default() {
        "/apply/v1/plans" => Step::Plan,
        "/content/v1/plans" => Step::ContentPlan,
        path if path.starts_with("/put/") => Step::Put,
        path if path.starts_with("/content/v1/plans/") => Step::ContentCommit,
        path if path.starts_with("/apply/v1/plans/") => Step::Commit,
        path if path.starts_with("/apply/v1/operations/") => Step::Poll,
        path => panic!("nobody asks for {path}"),
    }
}

impl support::Script for Faulty {
    fn answer(&self, asked: &Asked, base: &str) -> Response<Body> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = step(asked);
        let due = self.fault.filter(|(at, _, when)| *at == now && (*when != When::BeforeOnce || state.faults == 0));
        if let Some((_, fault, When::Before | When::BeforeOnce)) = due {
            state.faults += 1;
            drop(state);
            return fail(fault);
        }
        let answered = self.perform(&mut state, now, asked, base);
        match due {
            Some((_, fault, _)) => {
                state.faults += 1;
                drop(state);
                fail(fault)
            }
            None => answered,
        }
    }
}

fn fail(fault: Fault) -> Response<Body> {
    match fault {
        Fault::Status(status, code) => {
            let body =
                json!({"code": code, "message": "it failed", "trace_id": "trc_1", "details": {"phase": "somewhere"}});
            json(status, body)
        }
        Fault::Html(status) => {
            Response::builder().status(status).body(Body::from("<html>no</html>")).expect("a response")
        }
        // Ends the connection's task without a word on standard error.
        Fault::Drop => std::panic::resume_unwind(Box::new("dropped")),
        Fault::Truncate => {
            let start = futures::stream::iter([Ok(bytes::Bytes::from_static(b"{\"plan_id\": \""))]);
            // Later, so that the start of the answer has gone out by then.
            let end = futures::stream::once(async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(io::Error::other("cut"))
            });
            let broken = start.chain(end);
            let response = Response::builder()
                .status(200)
                .header("content-type", "application/json")
                .header("content-length", "1000");
            response.body(Body::from_stream(broken)).expect("a response")
        }
    }
}

impl Faulty {
    fn perform(&self, state: &mut State, now: Step, asked: &Asked, base: &str) -> Response<Body> {
        match now {
            Step::Plan => {
                let body = asked.json();
                let id = format!("plan_{}", state.plans.len());
                let files = body["spec"]["site"]["replace"].as_object().cloned().unwrap_or_default();
                let digests: BTreeSet<_> =
                    files.values().map(|file| file["sha256"].as_str().expect("a digest").to_owned()).collect();
                let missing: Vec<_> = digests
                    .iter()
                    .map(|sha| json!({"sha256": sha, "size": 0, "present": state.store.contains(sha)}))
                    .collect();
                state.plans.insert(id.clone(), body);
                json(
                    200,
                    json!({"kind": "plan_response", "plan_id": id, "operation_id": format!("op_{id}"), "missing_content": missing}),
                )
            }
            Step::ContentPlan => {
                let wanted = asked.json()["content"].as_array().cloned().unwrap_or_default();
                let part = |content: &Value| {
                    let sha = content["sha256"].as_str().expect("a digest");
                    let end = content["size"].as_i64().expect("a size") - 1;
                    json!({"sha256": sha, "mode": "single", "parts": [{"part_number": 1, "url": format!("{base}/put/{sha}"), "byte_start": 0, "byte_end": end}]})
                };
                json(200, json!({"plan_id": "cplan", "missing": wanted.iter().map(part).collect::<Vec<_>>()}))
            }
            Step::Put => {
                state.puts += 1;
                let sha = asked.path.trim_start_matches("/put/").to_owned();
                // A store that verifies: wrong bytes are never staged.
                match Digest::of(&asked.body).to_string() == sha {
                    true => {
                        state.staged.insert(sha);
                        tagged(200)
                    }
                    false => json(400, json!({"code": "CHECKSUM_MISMATCH"})),
                }
            }
            Step::ContentCommit => {
                let staged = std::mem::take(&mut state.staged);
                state.store.extend(staged);
                json(200, json!({}))
            }
            Step::Commit => self.commit(state, asked),
            Step::Poll => json(200, ready(state.live.is_some())),
        }
    }

    fn commit(&self, state: &mut State, asked: &Asked) -> Response<Body> {
        let id = asked.path.split('/').nth(4).expect("a plan's id").to_owned();
        let files = state.plans[&id]["spec"]["site"]["replace"].clone();
        let here = |file: &Value| file["sha256"].as_str().is_some_and(|sha| state.store.contains(sha));
        if !files.as_object().expect("files").values().all(here) {
            return json(409, json!({"code": "CONTENT_MISSING", "message": "not everything was uploaded"}));
        }
        state.live = Some(files);
        if let Some(key) = asked.json()["idempotency_key"].as_str() {
            state.done.insert(key.to_owned(), id);
        }
        match self.slow {
            true => json(200, json!({"operation_id": "op_1", "status": "running"})),
            false => json(200, ready(true)),
        }
    }
}

fn ready(live: bool) -> Value {
    match live {
        true => json!({"operation_id": "op_1", "status": "ready", "release_id": "rel_1", "urls": {"site": "http://x"}}),
        false => json!({"operation_id": "op_1", "status": "staging"}),
    }
}

fn spec(version: &str) -> ReleaseSpec {
    let files =
        json!({"index.html": format!("<h1>{version}</h1>"), "app.js": format!("// {version}"), "same.txt": "same"});
    Manifest::from_json(json!({"project": "prj_demo", "site": {"replace": files}}), None).expect("a manifest").spec
}

async fn deploy(base: &str, version: &str, options: &Options) -> Result<Released, Error> {
    Deploy::new(spec(version), None).apply(&client(base), options, &Default::default(), &Silent).await
}

fn digests(version: &str) -> BTreeSet<String> {
    let texts = [format!("<h1>{version}</h1>"), format!("// {version}"), "same".to_owned()];
    texts.iter().map(|text| Digest::of(text.as_bytes()).to_string()).collect()
}

fn live(state: &State) -> BTreeSet<String> {
    let files = state.live.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
    files.values().map(|file| file["sha256"].as_str().expect("a digest").to_owned()).collect()
}

/// A gateway where version 1 is live, that will fail from now on.
async fn failing(fault: Option<(Step, Fault, When)>, slow: bool) -> (Gateway, Arc<Mutex<State>>) {
    let state = Arc::new(Mutex::new(State::default()));
    let healthy = Gateway::start(Faulty { state: state.clone(), fault: None, slow: false }).await;
    deploy(&healthy.base, "one", &options()).await.expect("the first deploy");
    state.lock().expect("no panic").puts = 0;
    (Gateway::start(Faulty { state: state.clone(), fault, slow }).await, state)
}

#[tokio::test]
async fn whatever_fails_wherever_the_old_or_the_new_release_is_live() {
    for when in [When::Before, When::After] {
        for at in STEPS {
            for fault in FAULTS {
                if at == Step::Put && fault == Fault::Truncate {
                    // Nothing is read of the answer to an upload but its status.
                    continue;
                }
                let case = format!("{fault:?} {when:?} {at:?}");
                let (gateway, state) = failing(Some((at, fault, when)), true).await;
                let error = deploy(&gateway.base, "two", &options()).await.expect_err(&case);
                check_error(&case, at, fault, &error);
                let state = state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let committed = at == Step::Poll || at == Step::Commit && when == When::After;
                assert_eq!(live(&state), digests(if committed { "two" } else { "one" }), "{case}");
                for sha in &state.store {
                    assert!(digests("one").contains(sha) || digests("two").contains(sha), "{case}");
                }
            }
        }
    }
}

fn check_error(case: &str, at: Step, fault: Fault, error: &Error) {
    let upload = at == Step::Put;
    let (kind, code) = match fault {
        Fault::Drop => (Kind::NetworkError, "NETWORK_ERROR"),
        Fault::Truncate => (Kind::NetworkError, "NETWORK_ERROR"),
        _ if upload => (Kind::DeployError, "CONTENT_UPLOAD_FAILED"),
        Fault::Status(403, code) => (Kind::Unauthorized, code),
        Fault::Status(_, code) => (Kind::DeployError, code),
        Fault::Html(_) => (Kind::DeployError, "INTERNAL_ERROR"),
    };
    assert_eq!((error.kind, error.code.as_str()), (kind, code), "{case}: {error}");
    let retryable = match fault {
        Fault::Drop | Fault::Truncate | Fault::Html(_) => true,
        Fault::Status(403, _) => upload,
        Fault::Status(429, _) => !upload,
        Fault::Status(status, _) => status >= 500,
    };
    assert_eq!(error.is_retryable(), retryable, "{case}");
}

#[tokio::test]
async fn an_upload_that_breaks_off_once_is_sent_again() {
    for fault in [Fault::Status(500, "X"), Fault::Status(403, "EXPIRED"), Fault::Html(502), Fault::Drop] {
        let (gateway, state) = failing(Some((Step::Put, fault, When::BeforeOnce)), false).await;
        deploy(&gateway.base, "two", &options()).await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        let state = state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        assert_eq!(live(&state), digests("two"), "{fault:?}");
    }
}

#[tokio::test]
async fn an_upload_that_is_refused_is_not_sent_again() {
    let (gateway, _) = failing(Some((Step::Put, Fault::Status(400, "BAD_DIGEST"), When::Before)), false).await;
    let error = deploy(&gateway.base, "two", &options()).await.expect_err("refused");
    assert_eq!((error.code.as_str(), error.status), ("CONTENT_UPLOAD_FAILED", Some(400)));
    let puts = gateway.asked().iter().filter(|asked| asked.path.starts_with("/put/")).count();
    assert_eq!(puts, 1);
}

#[tokio::test]
async fn a_lost_answer_to_a_commit_is_made_good_by_deploying_again() {
    let (gateway, state) = failing(Some((Step::Commit, Fault::Drop, When::After)), false).await;
    let keyed = Options { idempotency_key: Some("key".to_owned()), ..options() };
    let error = deploy(&gateway.base, "two", &keyed).await.expect_err("the answer is lost");
    assert_eq!(error.retry(), run402::error::Retry::WithSameKey);
    drop(gateway);
    let healthy = Gateway::start(Faulty { state: state.clone(), fault: None, slow: false }).await;
    deploy(&healthy.base, "two", &keyed).await.expect("the same deploy again");
    assert!(healthy.asked().iter().all(|asked| !asked.path.starts_with("/put/")), "nothing is sent twice");
    assert_eq!(live(&state.lock().expect("no panic")), digests("two"));
}

/// Always answers the same to everything.
async fn always(status: u16, body: Value) -> Gateway {
    Gateway::start(move |_: &Asked, _: &str| json(status, body.clone())).await
}

#[tokio::test]
async fn warnings_stop_a_deploy_before_anything_is_sent() {
    let warnings = json!([
        {"code": "PUBLIC_ROUTED_FUNCTION", "severity": "warn", "requires_confirmation": true, "message": "public"},
        {"code": "MISSING_REQUIRED_SECRET", "severity": "high", "requires_confirmation": false, "message": "no API_KEY"},
        {"code": "ROUTE_TABLE_NEAR_LIMIT", "severity": "info", "requires_confirmation": false, "message": "many routes"},
    ]);
    let plan = json!({"kind": "plan_response", "plan_id": "plan_1", "operation_id": "op_1", "warnings": warnings, "missing_content": [],
        "status": "failed", "error": {"code": "ACTIVATION_FAILED", "message": "not now"}});
    let gateway = always(200, plan).await;
    let error = deploy(&gateway.base, "one", &options()).await.expect_err("it stops");
    assert_eq!((error.kind, error.code.as_str()), (Kind::DeployError, "MISSING_REQUIRED_SECRET"));
    assert_eq!(
        error.details["unacknowledged_warning_codes"],
        json!(["MISSING_REQUIRED_SECRET", "PUBLIC_ROUTED_FUNCTION"])
    );
    let facts = error.deploy.as_deref().expect("facts");
    assert_eq!((facts.phase.as_deref(), facts.plan_id.as_deref()), (Some("plan"), Some("plan_1")));
    assert_eq!(facts.fix, Some(json!({"action": "review_warnings", "path": "warnings"})));
    assert_eq!(gateway.asked().len(), 1);
    let some = AllowWarnings::Codes(["MISSING_REQUIRED_SECRET".to_owned()].into());
    let error =
        deploy(&gateway.base, "one", &Options { allow_warnings: some, ..options() }).await.expect_err("one is left");
    assert_eq!(error.code, "PUBLIC_ROUTED_FUNCTION");
    // With consent it goes on to the commit.
    let allowed = Options { allow_warnings: AllowWarnings::Everything, ..options() };
    let error = deploy(&gateway.base, "one", &allowed).await.expect_err("the commit fails");
    assert_eq!(error.code, "ACTIVATION_FAILED");
    assert!(gateway.asked().iter().any(|asked| asked.path == "/apply/v1/plans/plan_1/commit"));
}

#[tokio::test]
async fn a_deploy_that_never_ends_is_given_up() {
    let answer = json!({"kind": "plan_response", "plan_id": "plan_1", "operation_id": "op_1", "status": "migrating"});
    let gateway = always(200, answer).await;
    let polling =
        Polling { interval: Duration::from_millis(2), give_up: Duration::from_millis(20), ..options().polling };
    let error = deploy(&gateway.base, "one", &Options { polling, ..options() }).await.expect_err("given up");
    assert_eq!((error.code.as_str(), error.status, error.is_retryable()), ("INTERNAL_ERROR", Some(504), true));
    let facts = error.deploy.as_deref().expect("facts");
    assert_eq!((facts.phase.as_deref(), facts.operation_id.as_deref()), (Some("migrating"), Some("op_1")));
}

#[tokio::test]
async fn answers_that_make_no_sense_are_errors() {
    for answer in [
        json!([]),
        json!({"kind": "plan_response", "missing_content": [{"sha256": "x"}]}),
        json!({"status": "ready"}),
        json!("ready"),
    ] {
        let gateway = always(200, answer.clone()).await;
        deploy(&gateway.base, "one", &options()).await.expect_err(&answer.to_string());
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = always(200, json!({})).await;
    let to = elsewhere.base.clone();
    let gateway = Gateway::start(move |_: &Asked, _: &str| {
        Response::builder()
            .status(307)
            .header("location", format!("{to}/steal"))
            .body(Body::empty())
            .expect("a response")
    })
    .await;
    deploy(&gateway.base, "one", &options()).await.expect_err("not an answer");
    assert!(elsewhere.asked().is_empty(), "a signature went elsewhere");
}

#[tokio::test]
async fn a_long_release_is_sent_by_reference() {
    let state = Arc::new(Mutex::new(State::default()));
    let gateway = Gateway::start(Faulty { state: state.clone(), fault: None, slow: false }).await;
    let files: serde_json::Map<String, Value> =
        (0..30_000).map(|index| (format!("{index:0>120}.html"), json!("x"))).collect();
    let manifest =
        Manifest::from_json(json!({"project": "prj_demo", "site": {"replace": files}}), None).expect("a manifest");
    let outcome =
        Deploy::new(manifest.spec, None).apply(&client(&gateway.base), &options(), &Default::default(), &Silent).await;
    // This gateway does not know manifests: what counts is what it was asked.
    drop(outcome);
    let asked = gateway.asked();
    let plan = asked.iter().find(|asked| asked.is("POST", "/apply/v1/plans")).expect("a plan").json();
    let put = asked.iter().find(|asked| asked.path.starts_with("/put/")).expect("an upload");
    assert_eq!(plan["spec"], json!({"project_id": "prj_demo"}));
    assert_eq!(plan["manifest_ref"]["sha256"], json!(Digest::of(&put.body).to_string()));
    assert_eq!(plan["manifest_ref"]["content_type"], json!("application/vnd.run402.deploy-manifest+json"));
    assert!(put.body.starts_with(b"{\"project_id\":\"prj_demo\",\"site\":{\"replace\":{\"000"));
    assert!(asked[0].is("POST", "/content/v1/plans") && put.body.len() > 5 << 20);
}
