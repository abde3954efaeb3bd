//! Who may do what: every kind of credential at an endpoint of every kind.

use crate::support::{Server, User};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response};
use run402::signin::{Message, Signer};
use serde_json::{Value, json};

/// What is shown with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Nothing,
    Anon,
    Service,
    Wallet,
    /// With the wallet beside it, as clients send it.
    AnonAndWallet,
    ForeignAnon,
    ForeignService,
    ForeignWallet,
    UnknownKey,
    Tampered,
    Incomplete,
}

const ALL: [Shown; 11] = [
    Shown::Nothing,
    Shown::Anon,
    Shown::Service,
    Shown::Wallet,
    Shown::AnonAndWallet,
    Shown::ForeignAnon,
    Shown::ForeignService,
    Shown::ForeignWallet,
    Shown::UnknownKey,
    Shown::Tampered,
    Shown::Incomplete,
];

struct World {
    server: Server,
    user: User,
    other: User,
}

fn sign_in(seed: u8, base: &str, path: &str) -> String {
    let signer = Signer::from_bytes(&[seed; 32]).expect("a key");
    let url = format!("{base}{path}").parse().expect("a URL");
    Message::new(signer.address(), &url, time::OffsetDateTime::now_utc()).sign(&signer)
}

/// A field of the payload is another, or gone, and the signature is as it was.
fn altered(header: &str, alter: impl FnOnce(&mut Value)) -> String {
    let mut payload = serde_json::from_slice(&STANDARD.decode(header).expect("base64")).expect("JSON");
    alter(&mut payload);
    STANDARD.encode(payload.to_string())
}

impl World {
    async fn new() -> Self {
        let server = Server::start().await;
        let (user, other) = (server.user(1).await, server.user(2).await);
        user.deploy(json!({"site": {"replace": {"index.html": "x"}}})).await.expect("a release");
        Self { server, user, other }
    }

    fn headers(&self, shown: Shown, path: &str) -> HeaderMap {
        let base = &self.server.base;
        let (anon, service) = self.user.keys();
        let (foreign_anon, foreign_service) = self.other.keys();
        let wallet = || sign_in(1, base, path);
        let list: Vec<(&'static str, String)> = match shown {
            Shown::Nothing => vec![],
            Shown::Anon => vec![("apikey", anon)],
            Shown::Service => vec![("authorization", format!("Bearer {service}"))],
            Shown::Wallet => vec![("sign-in-with-x", wallet())],
            Shown::AnonAndWallet => {
                vec![("apikey", anon), ("sign-in-with-x", wallet()), ("run402-client", "surface=\"sdk\"".to_owned())]
            }
            Shown::ForeignAnon => vec![("apikey", foreign_anon)],
            Shown::ForeignService => vec![("authorization", format!("Bearer {foreign_service}"))],
            Shown::ForeignWallet => vec![("sign-in-with-x", sign_in(2, base, path))],
            Shown::UnknownKey => vec![("apikey", "anon_0123".to_owned())],
            Shown::Tampered => vec![("sign-in-with-x", altered(&wallet(), |payload| payload["nonce"] = json!("00")))],
            Shown::Incomplete => vec![(
                "sign-in-with-x",
                altered(&wallet(), |payload| drop(payload.as_object_mut().map(|fields| fields.remove("signature")))),
            )],
        };
        list.into_iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
    }

    async fn ask(&self, shown: Shown, method: Method, path: &str, body: Option<&Value>) -> Response {
        let url = format!("{}{path}", self.server.base);
        let mut request = reqwest::Client::new().request(method, url).headers(self.headers(shown, path));
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await.expect("an answer")
    }

    /// The status for every credential, in the order of [`ALL`].
    async fn statuses(&self, method: Method, path: &str, body: Option<Value>) -> Vec<u16> {
        let mut statuses = Vec::new();
        for shown in ALL {
            let response = self.ask(shown, method.clone(), path, body.as_ref()).await;
            let status = response.status().as_u16();
            if status >= 400 {
                check_envelope(shown, status, &response.json().await.expect("an envelope"));
            }
            statuses.push(status);
        }
        statuses
    }
}

fn check_envelope(shown: Shown, status: u16, body: &Value) {
    let code = body["code"].as_str().expect("a code");
    match status {
        401 => assert_eq!((code, body["next_actions"][0]["type"].as_str()), ("AUTH_REQUIRED", Some("authenticate"))),
        402 => assert_eq!(body["category"], "auth", "{shown:?}"),
        403 => assert!(code == "NOT_AUTHORIZED" && body["details"]["reason"].is_string(), "{shown:?}: {body}"),
        _ => {}
    }
    assert!(body["trace_id"].is_string() && body["message"].is_string(), "{body}");
}

#[tokio::test]
async fn every_endpoint_asks_for_what_it_needs() {
    let world = World::new().await;
    let project = &world.user.project;
    let (spec, site) = (json!({"project_id": project}), json!({"public_paths": {"mode": "implicit"}}));
    let mut planned = json!({"spec": spec});
    planned["spec"]["site"] = site;
    let wallet_only = [401, 401, 401, 200, 200, 401, 401, 403, 403, 402, 402];
    assert_eq!(world.statuses(Method::POST, "/apply/v1/plans?dry_run=true", Some(planned)).await, wallet_only);
    assert_eq!(world.statuses(Method::GET, &format!("/projects/v1/{project}"), None).await, wallet_only);
    // Anybody's wallet has a tier.
    let any_wallet = [401, 401, 401, 200, 200, 401, 401, 200, 403, 402, 402];
    assert_eq!(world.statuses(Method::GET, "/tiers/v1/status", None).await, any_wallet);
    // A key says by itself which project is meant.
    let any_key = [401, 200, 200, 401, 200, 200, 200, 401, 403, 402, 402];
    for path in ["/apply/v1/operations", "/apply/v1/releases/active"] {
        assert_eq!(world.statuses(Method::GET, path, None).await, any_key, "{path}");
    }
    assert_eq!(world.statuses(Method::POST, "/content/v1/plans", Some(json!({"content": []}))).await, any_key);
    let service = [401, 403, 200, 403, 403, 403, 403, 403, 403, 402, 402];
    for what in ["usage", "secrets", "functions"] {
        let path = format!("/projects/v1/admin/{project}/{what}");
        assert_eq!(world.statuses(Method::GET, &path, None).await, service, "{path}");
    }
    let any_service = [401, 403, 200, 403, 403, 403, 200, 403, 403, 402, 402];
    for path in ["/subdomains/v1", "/storage/v1/blobs"] {
        assert_eq!(world.statuses(Method::GET, path, None).await, any_service, "{path}");
    }
    let open = [200; 11];
    for path in ["/health", "/tiers/v1"] {
        assert_eq!(world.statuses(Method::GET, path, None).await, open, "{path}");
    }
}

#[tokio::test]
async fn what_is_somebody_elses_looks_as_if_it_were_not_there() {
    let world = World::new().await;
    let operations = world.user.get("/apply/v1/operations", run402::client::Auth::Anon(&world.user.project)).await;
    let operation = operations.expect("a list")["operations"][0]["operation_id"].as_str().expect("an id").to_owned();
    for path in [format!("/apply/v1/operations/{operation}"), format!("/apply/v1/operations/{operation}/events")] {
        for shown in [Shown::ForeignAnon, Shown::ForeignWallet] {
            let response = world.ask(shown, Method::GET, &path, None).await;
            assert_eq!(response.status(), 403, "{path} {shown:?}");
            let body: Value = response.json().await.expect("JSON");
            assert_eq!(body["details"]["reason"], "project_not_found");
        }
        // As the owner's wallet may, without a key: an operation names its project.
        assert_eq!(world.ask(Shown::Wallet, Method::GET, &path, None).await.status(), 200);
    }
    let admin = format!("/projects/v1/admin/{}/usage", world.user.project);
    let unknown = world.ask(Shown::Service, Method::GET, "/projects/v1/admin/prj_none/usage", None).await;
    let foreign = world.ask(Shown::ForeignService, Method::GET, &admin, None).await;
    let (unknown, foreign): (Value, Value) = (unknown.json().await.expect("JSON"), foreign.json().await.expect("JSON"));
    assert_eq!(
        (&unknown["code"], &unknown["message"], &unknown["details"]),
        (&foreign["code"], &foreign["message"], &foreign["details"])
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_in_an_envelope() {
    let world = World::new().await;
    for (method, path, status) in [
        (Method::GET, "/apply/v1/operations?limit=many", 400),
        (Method::DELETE, "/apply/v1/plans", 405),
        (Method::GET, "/nothing/here", 404),
        (Method::PUT, "/uploads/upl_none/x?token=1", 400),
        (Method::PUT, "/uploads/upl_none/1?token=1", 403),
        (Method::GET, "/rest/v1/table", 501),
        (Method::POST, "/functions/v1/hello", 401),
    ] {
        let response = world.ask(Shown::Nothing, method, path, None).await;
        assert_eq!(response.status(), status, "{path}");
        check_envelope(Shown::Nothing, status, &response.json().await.expect("an envelope"));
    }
    let not_json = reqwest::Client::new().post(format!("{}/faucet/v1", world.server.base)).body("{").send();
    assert_eq!(not_json.await.expect("an answer").status(), 400);
}
