//! Deploys from CI: a job's identity becomes a session, and the session deploys.

use crate::support::{Asked, Gateway, client, json, options, tagged};
use axum::body::Body;
use axum::http::Response;
use run402::api::ci::{self, NewBinding, Runner, Sessions};
use run402::client::{Client, Identity, KeyPair, Keyring, Secret};
use run402::deploy::spec::Manifest;
use run402::deploy::{Deploy, Progress, Silent};
use run402::error::Error;
use serde_json::json;
use std::sync::Arc;

#[derive(Debug)]
struct NoKeys;

impl Keyring for NoKeys {
    fn keys(&self, _: &str) -> Result<Option<KeyPair>, Error> {
        Ok(None)
    }
}

/// Runner and gateway in one; a session lives `seconds`.
async fn ci(seconds: u64) -> Gateway {
    Gateway::start(move |asked: &Asked, base: &str| answer(asked, base, seconds)).await
}

fn answer(asked: &Asked, base: &str, seconds: u64) -> Response<Body> {
    let path = asked.path.split('?').next().unwrap_or_default();
    match path {
        "/runner" => json(200, json!({"value": "identity"})),
        "/ci/v1/token-exchange" => {
            json(200, json!({"access_token": "session", "token_type": "Bearer", "expires_in": seconds}))
        }
        "/apply/v1/plans" => {
            let spec = &asked.json()["spec"];
            let file = &spec["site"]["replace"]["index.html"];
            json(
                200,
                json!({"kind": "plan_response", "plan_id": "plan_1", "operation_id": "op_1", "warnings": [],
                "missing_content": [{"sha256": file["sha256"], "size": file["size"], "present": false}]}),
            )
        }
        "/content/v1/plans" => {
            let content = &asked.json()["content"][0];
            let part = json!({"part_number": 1, "url": format!("{base}/put"), "byte_start": 0,
                "byte_end": content["size"].as_u64().expect("a size") - 1});
            json(
                200,
                json!({"plan_id": "content_1", "missing": [{"sha256": content["sha256"], "mode": "single",
                "parts": [part], "upload_id": "upload_1", "staging_key": "key", "part_count": 1}]}),
            )
        }
        "/put" => tagged(200),
        "/content/v1/plans/content_1/commit" => json(200, json!({"status": "committed"})),
        "/apply/v1/plans/plan_1/commit" => json(
            200,
            json!({"operation_id": "op_1", "status": "ready",
            "release_id": "rel_1", "urls": {"site": "http://site.example"}}),
        ),
        _ => json(404, json!({"code": "NOT_FOUND", "message": "not part of this play"})),
    }
}

fn runner(gateway: &Gateway) -> Runner {
    let base = gateway.base.clone();
    let look_up = move |name: &str| match name {
        "ACTIONS_ID_TOKEN_REQUEST_URL" => Some(format!("{base}/runner?api-version=2&audience=other").into()),
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN" => Some("of the runner".into()),
        _ => None,
    };
    Runner::from_variables(&look_up).expect("good").expect("it is there")
}

fn nobody(base: &str) -> Client {
    Client::new(base, Identity::Nobody, Arc::new(NoKeys)).expect("a client")
}

#[tokio::test]
async fn a_session_deploys_with_nothing_but_its_bearer() {
    let gateway = ci(300).await;
    let client = nobody(&gateway.base);
    let session = ci::sign_in(&client, &runner(&gateway), ci::AUDIENCE, "prj_demo").await.expect("a session");
    let client = client.with_identity(Identity::Bearer(session.bearer));
    let manifest = json!({"project_id": "prj_demo", "site": {"replace": {"index.html": {"data": "<h1>ci</h1>"}}}});
    let spec = Manifest::from_json(manifest, None).expect("a manifest").spec;
    let progress = Arc::new(Progress::default());
    let released = Deploy::new(spec, None).apply(&client, &options(), &progress, &Silent).await.expect("it is live");
    assert_eq!(released.release_id, "rel_1");
    let asked = gateway.asked();
    let paths: Vec<&str> = asked.iter().map(|asked| asked.path.as_str()).collect();
    // No look at the tier: that takes a wallet.
    assert_eq!(
        paths,
        [
            "/runner?api-version=2&audience=https%3A%2F%2Fapi.run402.com",
            "/ci/v1/token-exchange",
            "/apply/v1/plans",
            "/content/v1/plans",
            "/put",
            "/content/v1/plans/content_1/commit",
            "/apply/v1/plans/plan_1/commit",
        ]
    );
    let bearer = |at: usize| asked[at].headers.get("authorization").map(|value| value.to_str().expect("plain"));
    assert_eq!((bearer(0), bearer(1)), (Some("Bearer of the runner"), None));
    for at in [2, 3, 5, 6] {
        assert_eq!(bearer(at), Some("Bearer session"), "{}", paths[at]);
        assert!(!asked[at].headers.contains_key("apikey") && !asked[at].headers.contains_key("sign-in-with-x"));
    }
    assert_eq!(bearer(4), None, "an upload goes to where the gateway says, without a key");
    assert_eq!(
        asked[1].json(),
        json!({"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": "identity", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "project_id": "prj_demo"})
    );
    assert_eq!(asked[3].json()["project_id"], "prj_demo");
}

#[tokio::test]
async fn a_session_is_kept_until_its_last_minute() {
    for (seconds, exchanges) in [(3600, 1), (61, 1), (60, 2)] {
        let gateway = ci(seconds).await;
        let sessions = Sessions::new(nobody(&gateway.base), runner(&gateway), ci::AUDIENCE, "prj_demo");
        for _ in 0..2 {
            assert_eq!(sessions.bearer().await.expect("a session"), Secret::new("session"));
        }
        let asked = gateway.asked();
        assert_eq!(asked.iter().filter(|asked| asked.is("POST", "/ci/v1/token-exchange")).count(), exchanges);
    }
}

#[tokio::test]
async fn a_refusal_keeps_its_reason() {
    let gateway = Gateway::start(|asked: &Asked, _: &str| match asked.path.starts_with("/runner") {
        true => json(200, json!({"value": "identity"})),
        false => json(403, json!({"error": "event_not_allowed", "error_description": "not for pull requests"})),
    })
    .await;
    let refused = ci::sign_in(&nobody(&gateway.base), &runner(&gateway), ci::AUDIENCE, "prj_demo").await;
    let error = refused.expect_err("refused");
    assert_eq!((error.code.as_str(), error.status), ("event_not_allowed", Some(403)));
    assert_eq!(error.message, "not for pull requests");
    let gateway = Gateway::start(|_: &Asked, _: &str| json(401, json!({"message": "no"}))).await;
    let refused = ci::sign_in(&nobody(&gateway.base), &runner(&gateway), ci::AUDIENCE, "prj_demo").await;
    assert_eq!(refused.expect_err("refused").code, "CI_IDENTITY_UNAVAILABLE");
}

#[tokio::test]
async fn a_binding_is_sent_sorted_and_once_each() {
    let row = json!({"id": "ci_1", "project_id": "prj_demo", "allowed_events": ["push"], "use_count": 0});
    let gateway = {
        let row = row.clone();
        Gateway::start(move |asked: &Asked, _: &str| match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/ci/v1/bindings?project=prj_demo") => json(200, json!({"bindings": [row]})),
            ("POST", "/ci/v1/bindings/ci_1/revoke") => json(200, json!({"status": "revoked"})),
            _ => json(200, row.clone()),
        })
        .await
    };
    let client = client(&gateway.base);
    let set = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    let binding = NewBinding {
        project_id: "prj_demo".to_owned(),
        subject_match: "repo:us/it:*".to_owned(),
        allowed_actions: set(&["deploy", "deploy"]),
        allowed_events: set(&["workflow_dispatch", "push", "push"]),
        nonce: "0123456789abcdef".to_owned(),
        signed_delegation: "signed".to_owned(),
        ..NewBinding::default()
    };
    assert_eq!(ci::create_binding(&client, &binding).await.expect("made").id, "ci_1");
    assert_eq!(ci::list_bindings(&client, "prj_demo").await.expect("listed").len(), 1);
    assert_eq!(ci::get_binding(&client, "ci_1").await.expect("read").rest["use_count"], 0);
    assert_eq!(ci::revoke_binding(&client, "ci_1").await.expect("revoked")["status"], "revoked");
    let asked = gateway.asked();
    assert_eq!(
        asked[0].json(),
        json!({"project_id": "prj_demo", "provider": "github-actions",
        "subject_match": "repo:us/it:*", "allowed_actions": ["deploy"], "allowed_events": ["push", "workflow_dispatch"],
        "github_repository_id": null, "expires_at": null, "nonce": "0123456789abcdef", "signed_delegation": "signed"})
    );
    assert!(asked.iter().all(|asked| asked.headers.contains_key("sign-in-with-x")));
    // What the rules forbid is never sent.
    let wrong = NewBinding { subject_match: "*".to_owned(), ..binding };
    ci::create_binding(&client, &wrong).await.expect_err("not alone");
    assert_eq!(gateway.asked().len(), 4);
}
