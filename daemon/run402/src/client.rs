//! One request to the gateway: authentication, sending, reading the answer.
//!
//! Input: method, path, body and the kind of authentication that the endpoint wants. Output: a `Reply`, or
//! an `Error` with everything that the gateway said. Sends once and never again: whether a call may be
//! repeated is known to who makes it. Knows no endpoint.

use crate::error::Error;
use crate::paying::Paying;
use crate::payment::PaymentHeader;
use crate::signin::{Message, Signer};
use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// Longer answers are refused: a gateway is not trusted with our memory.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Silence of the gateway, not the length of the whole answer.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const SIGN_IN: HeaderName = HeaderName::from_static("sign-in-with-x");
const API_KEY: HeaderName = HeaderName::from_static("apikey");
const CLIENT: HeaderName = HeaderName::from_static("run402-client");

/// A secret text: erased from memory when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(text.into())))
    }

    /// The text itself, for who has to send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Who makes the calls.
#[derive(Debug, Clone)]
pub enum Identity {
    /// Nobody: only public calls work, and those that a project's key is enough for.
    Nobody,
    /// A wallet signs every request.
    Wallet(Signer),
    /// A bearer in place of the wallet and of every key: a delegate's token or a session of CI.
    Bearer(Secret),
}

/// The two keys of a project.
#[derive(Debug, Clone)]
pub struct KeyPair {
    pub anon: Secret,
    pub service: Secret,
}

/// Where the keys of projects come from.
pub trait Keyring: Send + Sync + fmt::Debug {
    /// `None` when there are no keys of that project here.
    fn keys(&self, project: &str) -> Result<Option<KeyPair>, Error>;
}

/// What an endpoint wants to see (section "auth kinds" of the protocol).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth<'a> {
    /// Anybody may.
    Public,
    /// The wallet's signature.
    Wallet,
    /// `Authorization: Bearer <service key>`.
    Service(&'a str),
    /// `apikey: <anon key>` beside the wallet; left out when the key is not known here.
    Anon(&'a str),
    /// `apikey` and bearer, both the service key.
    ServicePair(&'a str),
    /// `apikey: <service key>` beside the wallet.
    Invoke(&'a str),
    /// `apikey` and bearer, both the anon key.
    AnonPair(&'a str),
    /// `apikey: <anon key>` and the service key as bearer.
    AnonService(&'a str),
    /// `apikey: <anon key>` and the session of a user of the project's app as bearer.
    AnonUser(&'a str, &'a str),
}

/// What was answered with 2xx.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON when it says that it is JSON, as text otherwise; unreadable JSON is null.
    pub fn value(&self) -> Value {
        let json = self
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|kind| kind.contains("application/json"));
        match json {
            true => serde_json::from_slice(&self.body).unwrap_or(Value::Null),
            false => Value::String(String::from_utf8_lossy(&self.body).into_owned()),
        }
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Error::network(format!("the gateway's answer cannot be understood: {error}"), error))
    }
}

/// How an exchange ended.
#[derive(Debug)]
pub(crate) enum Exchanged {
    /// Not one byte has left.
    NotSent(Error),
    /// It may have arrived; no complete answer came.
    Broken(Error),
    /// With whatever status.
    Answered(Reply),
}

/// A connection to one gateway as one caller. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Arc<str>,
    parsed: Arc<url::Url>,
    identity: Identity,
    keys: Arc<dyn Keyring>,
    /// `Run402-Client`: which program this is.
    surface: Arc<str>,
    /// Without it nothing is ever paid.
    paying: Option<Arc<Paying>>,
}

impl Client {
    /// `base` is the gateway's URL; paths are appended as they are.
    pub fn new(base: &str, identity: Identity, keys: Arc<dyn Keyring>) -> Result<Self, Error> {
        let parsed = url::Url::parse(base)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some())
            .ok_or_else(|| Error::local("LOCAL_ERROR", format!("{base:?} is not an http or https URL")))?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(Error::local("LOCAL_ERROR", "the gateway's URL must not hold a user name or a password"));
        }
        let http = reqwest::Client::builder()
            // An answer that points elsewhere would take our signature and keys there.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| Error::network("cannot set up an HTTP client", error))?;
        let surface = format!("surface=\"sdk\", sdk=\"rust-{}\"", env!("CARGO_PKG_VERSION"));
        let base = base.trim_end_matches('/').into();
        Ok(Self { http, base, parsed: Arc::new(parsed), identity, keys, surface: surface.into(), paying: None })
    }

    /// Pays what the policy allows when the gateway asks for it.
    #[must_use]
    pub fn with_payments(self, paying: Paying) -> Self {
        Self { paying: Some(Arc::new(paying)), ..self }
    }

    /// The same way to the gateway, as somebody else.
    #[must_use]
    pub fn with_identity(self, identity: Identity) -> Self {
        Self { identity, ..self }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The wallet's address, lower case.
    pub fn address(&self) -> Option<String> {
        match &self.identity {
            Identity::Wallet(signer) => Some(signer.address().to_lower()),
            Identity::Nobody | Identity::Bearer(_) => None,
        }
    }

    /// A session of CI or a delegate makes the calls: no keys are sent.
    pub fn is_bearer(&self) -> bool {
        matches!(self.identity, Identity::Bearer(_))
    }

    /// For requests outside the gateway: uploads to where it says.
    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    pub fn get<'a>(&self, path: impl Into<String>, auth: Auth<'a>) -> Request<'a> {
        self.request(Method::GET, path, auth)
    }

    pub fn post<'a>(&self, path: impl Into<String>, auth: Auth<'a>) -> Request<'a> {
        self.request(Method::POST, path, auth)
    }

    pub fn delete<'a>(&self, path: impl Into<String>, auth: Auth<'a>) -> Request<'a> {
        self.request(Method::DELETE, path, auth)
    }

    pub fn request<'a>(&self, method: Method, path: impl Into<String>, auth: Auth<'a>) -> Request<'a> {
        Request { client: self.clone(), method, path: path.into(), auth, headers: HeaderMap::new(), body: None }
    }

    /// The keys of a project, or the error that every call says that needs them.
    pub fn keys(&self, project: &str) -> Result<KeyPair, Error> {
        self.keys.keys(project)?.ok_or_else(|| {
            let message = format!(
                "there are no keys of project {project} on this machine; provision it here, or import its keys"
            );
            let details = serde_json::json!({"project_id": project, "source": "local_cache"});
            Error::local("PROJECT_CREDENTIAL_NOT_FOUND", message).with_details(details)
        })
    }

    fn authenticate(&self, headers: &mut HeaderMap, path: &str, auth: Auth<'_>) -> Result<(), Error> {
        if auth == Auth::Public {
            return Ok(());
        }
        if let Identity::Bearer(token) = &self.identity {
            headers.insert(reqwest::header::AUTHORIZATION, secret_header(&format!("Bearer {}", token.reveal()))?);
            return Ok(());
        }
        let bearer = |key: &Secret| secret_header(&format!("Bearer {}", key.reveal()));
        match auth {
            Auth::Public => {}
            Auth::Wallet => self.sign_in(headers, path)?,
            Auth::Service(project) => {
                headers.insert(reqwest::header::AUTHORIZATION, bearer(&self.keys(project)?.service)?);
            }
            Auth::ServicePair(project) => {
                let keys = self.keys(project)?;
                headers.insert(API_KEY, secret_header(keys.service.reveal())?);
                headers.insert(reqwest::header::AUTHORIZATION, bearer(&keys.service)?);
            }
            Auth::AnonPair(project) => {
                let keys = self.keys(project)?;
                headers.insert(API_KEY, secret_header(keys.anon.reveal())?);
                headers.insert(reqwest::header::AUTHORIZATION, bearer(&keys.anon)?);
            }
            Auth::AnonService(project) => {
                let keys = self.keys(project)?;
                headers.insert(API_KEY, secret_header(keys.anon.reveal())?);
                headers.insert(reqwest::header::AUTHORIZATION, bearer(&keys.service)?);
            }
            Auth::AnonUser(project, session) => {
                headers.insert(API_KEY, secret_header(self.keys(project)?.anon.reveal())?);
                headers.insert(reqwest::header::AUTHORIZATION, bearer(&Secret::new(session))?);
            }
            Auth::Anon(project) => {
                if let Some(keys) = self.keys.keys(project)? {
                    headers.insert(API_KEY, secret_header(keys.anon.reveal())?);
                }
                self.sign_in(headers, path)?;
            }
            Auth::Invoke(project) => {
                headers.insert(API_KEY, secret_header(self.keys(project)?.service.reveal())?);
                self.sign_in(headers, path)?;
            }
        }
        Ok(())
    }

    /// A fresh signature for each request. Without a wallet the gateway says what it wants.
    fn sign_in(&self, headers: &mut HeaderMap, path: &str) -> Result<(), Error> {
        if let Identity::Wallet(signer) = &self.identity {
            let mut message = Message::new(signer.address(), &self.parsed, OffsetDateTime::now_utc());
            // As it is sent, not as a parser would write it.
            message.uri = format!("{}{path}", self.base);
            headers.insert(SIGN_IN, secret_header(&message.sign(signer))?);
        }
        Ok(())
    }
}

fn secret_header(text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Error::local("LOCAL_ERROR", "a key or token holds characters that no header may have"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A request that has not been sent.
#[derive(Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request<'a> {
    client: Client,
    method: Method,
    path: String,
    auth: Auth<'a>,
    headers: HeaderMap,
    body: Option<(Bytes, Option<&'static str>)>,
}

impl Request<'_> {
    pub fn json(mut self, body: &impl Serialize) -> Result<Self, Error> {
        let bytes = serde_json::to_vec(body)
            .map_err(|error| Error::local("LOCAL_ERROR", format!("the request cannot be written: {error}")))?;
        self.body = Some((bytes.into(), Some("application/json")));
        Ok(self)
    }

    pub fn bytes(mut self, body: impl Into<Bytes>, content_type: Option<&'static str>) -> Self {
        self.body = Some((body.into(), content_type));
        self
    }

    pub fn header(mut self, name: HeaderName, value: &str) -> Result<Self, Error> {
        let value = HeaderValue::from_str(value).map_err(|_| {
            Error::local("LOCAL_ERROR", format!("the value of header {name} holds forbidden characters"))
        })?;
        self.headers.insert(name, value);
        Ok(self)
    }

    /// `context` completes "… while": `planning the deploy`.
    pub async fn send(self, context: &str) -> Result<Reply, Error> {
        let reply = match self.exchange(None).await {
            Exchanged::Answered(reply) => reply,
            Exchanged::NotSent(error) | Exchanged::Broken(error) => return Err(error.context(context)),
        };
        let reply = match &self.client.paying {
            Some(paying) if reply.status == StatusCode::PAYMENT_REQUIRED.as_u16() => {
                paying.pay(&self, reply).await.map_err(|error| error.context(context))?
            }
            _ => reply,
        };
        match (200..300).contains(&reply.status) {
            true => Ok(reply),
            false => Err(Error::answered(reply.status, reply.value()).context(context)),
        }
    }

    pub(crate) fn method(&self) -> &str {
        self.method.as_str()
    }

    pub(crate) fn url(&self) -> String {
        format!("{}{}", self.client.base, self.path)
    }

    pub(crate) fn body(&self) -> &[u8] {
        self.body.as_ref().map_or(&[], |(body, _)| body)
    }

    /// Once there and back, with a fresh signature.
    pub(crate) async fn exchange(&self, payment: Option<&PaymentHeader>) -> Exchanged {
        let headers = match self.make_headers(payment) {
            Ok(headers) => headers,
            Err(error) => return Exchanged::NotSent(error),
        };
        let mut request = self.client.http.request(self.method.clone(), self.url()).headers(headers);
        if let Some((body, _)) = &self.body {
            request = request.body(body.clone());
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                let sent = !error.is_connect() && !error.is_builder();
                let message = format!("cannot reach the gateway at {}: {}", self.client.base, why(&error));
                let error = Error::network(message, error.without_url());
                return if sent { Exchanged::Broken(error) } else { Exchanged::NotSent(error) };
            }
        };
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        match read(response, MAX_ANSWER_BYTES).await {
            Ok(body) => Exchanged::Answered(Reply { status, headers, body }),
            Err(error) => Exchanged::Broken(error),
        }
    }

    fn make_headers(&self, payment: Option<&PaymentHeader>) -> Result<HeaderMap, Error> {
        let mut headers = self.headers.clone();
        self.client.authenticate(&mut headers, &self.path, self.auth)?;
        headers.insert(CLIENT, HeaderValue::from_str(&self.client.surface).expect("made of plain characters"));
        if let Some((_, Some(content_type))) = &self.body
            && !headers.contains_key(CONTENT_TYPE)
        {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if let Some(payment) = payment {
            let name = HeaderName::from_bytes(payment.name.as_bytes()).expect("the name of a payment's header");
            headers.insert(name, secret_header(payment.value.reveal())?);
            // Browsers' clients of the same protocol say so, and gateways may wait for it.
            let exposed = HeaderValue::from_static("PAYMENT-RESPONSE,X-PAYMENT-RESPONSE");
            headers.insert(reqwest::header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
        Ok(headers)
    }

    /// Sends, and reads the answer as JSON.
    pub async fn receive<T: DeserializeOwned>(self, context: &str) -> Result<T, Error> {
        self.send(context).await?.read().map_err(|error: Error| error.context(context))
    }
}

/// The whole body, but never more than `limit` bytes.
pub(crate) async fn read(mut response: reqwest::Response, limit: usize) -> Result<Bytes, Error> {
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > limit => {
                return Err(Error::local("ANSWER_TOO_LARGE", format!("the answer is longer than {limit} bytes")));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body.freeze()),
            Err(error) => {
                let message = format!("the gateway's answer broke off: {}", why(&error));
                return Err(Error::network(message, error.without_url()));
            }
        }
    }
}

/// The innermost reason: `connection refused` says more than `error sending request`.
pub(crate) fn why(error: &reqwest::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}
