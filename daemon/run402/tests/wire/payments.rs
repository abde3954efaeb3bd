//! Requests that cost something: paid once, within the policy, written down first.

use crate::support::{Asked, Gateway, client, json, signer};
use axum::body::Body;
use axum::http::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use run402::api::tiers;
use run402::client::Client;
use run402::environment::Environment;
use run402::paying::Paying;
use run402::payment::{Atomic, Journal, Network, Payees, Payer, PaymentPolicy};
use serde_json::{Value, json};
use std::path::Path;

const PAYEE: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

fn journal(folder: &Path) -> Journal {
    let config = folder.as_os_str().to_owned();
    let base = "http://127.0.0.1".parse().expect("a base");
    let look_up = move |name: &str| (name == "RUN402_CONFIG_DIR").then(|| config.clone());
    Journal::new(&Environment::resolve(&look_up, &base).expect("good"))
}

fn paying(base: &str, folder: &Path, most: u128) -> Client {
    let policy = PaymentPolicy {
        max_atomic: [(Network::BaseSepolia, Atomic(most))].into(),
        payees: Payees::Only(vec![PAYEE.parse().expect("an address")]),
    };
    client(base).with_payments(Paying::new(Payer::new(signer(), policy), journal(folder)))
}

fn challenge(url: &str) -> Response<Body> {
    let accepts = json!([{"scheme": "exact", "network": "eip155:84532", "asset": Network::BaseSepolia.usdc().to_string(),
        "amount": "30000", "payTo": PAYEE, "maxTimeoutSeconds": 300, "extra": {"name": "USDC", "version": "2"}}]);
    let challenge = json!({"x402Version": 2, "resource": {"url": url}, "accepts": accepts});
    let response = Response::builder().status(402).header("payment-required", STANDARD.encode(challenge.to_string()));
    let response = response.header("content-type", "application/json");
    response.body(Body::from(json!({"code": "PAYMENT_REQUIRED", "message": "pay"}).to_string())).expect("a response")
}

fn is_paid(asked: &Asked) -> bool {
    asked.headers.contains_key("payment-signature")
}

/// Asks for money, and answers a paid request as it is told to.
async fn selling(paid: impl Fn() -> Response<Body> + Send + Sync + 'static) -> Gateway {
    Gateway::start(move |asked: &Asked, base: &str| match is_paid(asked) {
        true => paid(),
        false => challenge(&format!("{base}{}", asked.path)),
    })
    .await
}

fn settled() -> Response<Body> {
    let receipt = json!({"success": true, "network": "eip155:84532", "transaction": "0xabc"});
    let mut response = json(200, json!({"tier": "hobby"}));
    response.headers_mut().insert("payment-response", STANDARD.encode(receipt.to_string()).parse().expect("a header"));
    response
}

fn lines(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(journal(folder).path()).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[tokio::test]
async fn what_the_policy_allows_is_paid_once() {
    let folder = tempfile::tempdir().expect("a directory");
    let gateway = selling(settled).await;
    let tier = tiers::set(&paying(&gateway.base, folder.path(), 30_000), "hobby").await.expect("it is paid");
    assert_eq!(tier, json!({"tier": "hobby"}));
    let asked = gateway.asked();
    assert_eq!(asked.iter().map(is_paid).collect::<Vec<_>>(), [false, true]);
    assert_eq!((&asked[0].path, &asked[0].body), (&asked[1].path, &asked[1].body));
    assert_eq!(lines(folder.path()).len(), 2, "intended, then settled");
    assert!(journal(folder.path()).open_payments().expect("readable").is_empty());
}

#[tokio::test]
async fn nothing_is_paid_beyond_the_policy_or_without_one() {
    let folder = tempfile::tempdir().expect("a directory");
    let gateway = selling(settled).await;
    let error = tiers::set(&paying(&gateway.base, folder.path(), 29_999), "hobby").await.expect_err("too much");
    assert_eq!(error.code, "PAYMENT_REFUSED_BY_POLICY");
    let error = tiers::set(&client(&gateway.base), "hobby").await.expect_err("nobody pays");
    assert_eq!((error.code.as_str(), error.status), ("PAYMENT_REQUIRED", Some(402)));
    assert!(gateway.asked().iter().all(|asked| !is_paid(asked)));
    assert!(lines(folder.path()).is_empty());
}

#[tokio::test]
async fn a_second_demand_is_final() {
    let folder = tempfile::tempdir().expect("a directory");
    let gateway = selling(|| json(402, json!({"code": "PAYMENT_REQUIRED", "message": "again"}))).await;
    let error = tiers::set(&paying(&gateway.base, folder.path(), 30_000), "hobby").await.expect_err("refused");
    assert_eq!(error.status, Some(402));
    assert_eq!(gateway.asked().len(), 2);
    assert!(journal(folder.path()).open_payments().expect("readable").is_empty());
}

#[tokio::test]
async fn a_payment_in_doubt_is_never_made_again() {
    let folder = tempfile::tempdir().expect("a directory");
    let gateway = selling(|| std::panic::resume_unwind(Box::new("dropped"))).await;
    let client = paying(&gateway.base, folder.path(), 30_000);
    let error = tiers::set(&client, "hobby").await.expect_err("no answer");
    assert_eq!((error.code.as_str(), error.safe_to_retry), ("X402_PAYMENT_OUTCOME_AMBIGUOUS", Some(false)));
    let error = tiers::set(&client, "hobby").await.expect_err("still in doubt");
    assert_eq!(error.code, "X402_PAYMENT_OUTCOME_AMBIGUOUS");
    assert_eq!(gateway.asked().iter().filter(|asked| is_paid(asked)).count(), 1);
    assert_eq!(journal(folder.path()).open_payments().expect("readable").len(), 1);
}
