//! A gateway that answers what it is told to, and remembers what it was asked.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response};
use run402::client::{Client, Identity, KeyPair, Keyring, Secret};
use run402::deploy::{Event, Observer, Options, Polling, Uploads};
use run402::error::Error;
use run402::signin::Signer;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// With the query.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    pub(crate) fn is(&self, method: &str, path: &str) -> bool {
        self.method.as_str() == method && self.path.split('?').next() == Some(path)
    }
}

/// Answers a request; `base` is the gateway's own URL.
pub(crate) trait Script: Send + Sync + 'static {
    fn answer(&self, asked: &Asked, base: &str) -> Response<Body>;
}

impl<F: Fn(&Asked, &str) -> Response<Body> + Send + Sync + 'static> Script for F {
    fn answer(&self, asked: &Asked, base: &str) -> Response<Body> {
        self(asked, base)
    }
}

#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) base: String,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Playing {
    script: Box<dyn Script>,
    asked: Arc<Mutex<Vec<Asked>>>,
    base: String,
}

impl Gateway {
    pub(crate) async fn start(script: impl Script) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let playing = Playing { script: Box::new(script), asked: asked.clone(), base: base.clone() };
        let router = Router::new().fallback(play).with_state(Arc::new(playing));
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("the gateway serves");
        });
        Self { base, asked, server }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic").clone()
    }
}

async fn play(State(playing): State<Arc<Playing>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    // A body that breaks off is what it is up to there.
    let body = to_bytes(body, 256 << 20).await.unwrap_or_default().to_vec();
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let asked = Asked { method: parts.method, path, headers: parts.headers, body };
    playing.asked.lock().expect("no panic").push(asked.clone());
    playing.script.answer(&asked, &playing.base)
}

pub(crate) fn json(status: u16, body: serde_json::Value) -> Response<Body> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Body::from(body.to_string())).expect("a response")
}

pub(crate) fn tagged(status: u16) -> Response<Body> {
    Response::builder().status(status).header("etag", "\"tag\"").body(Body::empty()).expect("a response")
}

/// The public development key of account 0.
pub(crate) fn signer() -> Signer {
    let key = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
    Signer::from_bytes(&hex::decode(key).expect("hexadecimal").try_into().expect("32 bytes")).expect("a key")
}

#[derive(Debug)]
struct Demo;

impl Keyring for Demo {
    fn keys(&self, project: &str) -> Result<Option<KeyPair>, Error> {
        let pair = || KeyPair { anon: Secret::new("anon_demo_key"), service: Secret::new("service_demo_key") };
        Ok((project == "prj_demo").then(pair))
    }
}

pub(crate) fn client(base: &str) -> Client {
    Client::new(base, Identity::Wallet(signer()), Arc::new(Demo)).expect("a client")
}

/// As the recorded client did it: one upload at a time, no reading of events; and without long pauses.
pub(crate) fn options() -> Options {
    let pauses = [Duration::from_millis(5), Duration::from_millis(5)];
    let polling = Polling { interval: Duration::from_millis(5), relay_events: false, ..Polling::default() };
    Options { uploads: Uploads { concurrency: 1, pauses }, polling, ..Options::default() }
}

#[derive(Debug, Default)]
pub(crate) struct Events(pub(crate) Mutex<Vec<serde_json::Value>>);

impl Observer for Events {
    fn observe(&self, event: Event) {
        let value = serde_json::to_value(event).expect("an event as JSON");
        self.0.lock().expect("no panic").push(value);
    }
}
