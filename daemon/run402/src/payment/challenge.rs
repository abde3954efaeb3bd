//! What a gateway asks for when it answers 402.
//!
//! Input: the header `PAYMENT-REQUIRED` or the body of the answer, both hostile; output: a [`Challenge`]
//! whose offers are parsed. An offer that we cannot read is kept as such, so that it can be named: others
//! beside it may be good. Versions 1 and 2 of x402. Decides nothing.

use super::authorization::{Atomic, Network};
use crate::signin::Address;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The header of version 2.
pub const PAYMENT_REQUIRED: &str = "payment-required";
const MAX_HEADER_BYTES: usize = 64 << 10;
const MAX_BODY_BYTES: usize = 256 << 10;
const MAX_OFFERS: usize = 32;

/// Why a 402 cannot be read as a challenge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    #[error("the payment challenge is longer than {0} bytes")]
    TooLong(usize),
    #[error("the header payment-required is not the base64 of a JSON object")]
    Header,
    #[error("the payment challenge is of x402 version {0}; 1 and 2 are known")]
    Version(u64),
    #[error("the payment challenge has no usable {0}")]
    Field(&'static str),
    #[error("the payment challenge has more than {MAX_OFFERS} offers")]
    TooMany,
}

/// What is paid for; sent back as it came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    pub url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, rename = "mimeType", skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Name and version that a token's contract signs with, as the gateway believes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenDomain {
    pub name: String,
    pub version: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// One member of `accepts` in version 2; sent back as it came, in the order in which other clients
/// write it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requirement {
    scheme: String,
    network: String,
    asset: String,
    amount: String,
    pay_to: String,
    max_timeout_seconds: u64,
    extra: TokenDomain,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// One member of `accepts` in version 1.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OldRequirement {
    scheme: String,
    network: String,
    asset: String,
    max_amount_required: String,
    pay_to: String,
    max_timeout_seconds: u64,
    extra: TokenDomain,
    resource: String,
}

/// An offer that can be judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    pub network: Network,
    pub asset: Address,
    pub amount: Atomic,
    pub pay_to: Address,
    pub timeout_seconds: u64,
    /// Name and version of the token's contract.
    pub domain: (String, String),
    /// The URL that is paid for.
    pub resource: String,
    pub(super) echo: Echo,
}

/// What the payment repeats of the challenge.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Echo {
    V1,
    V2(Box<(Resource, Requirement)>),
}

/// Why an offer cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    #[error("fields are missing or of another type")]
    Shape,
    #[error("scheme {0:?} is not \"exact\"")]
    Scheme(String),
    #[error("network {0:?} is not known")]
    Network(String),
    #[error("{0} is not an address")]
    Address(&'static str),
    #[error("the amount is not a decimal number")]
    Amount,
}

/// A challenge; offers in the gateway's order of preference.
#[derive(Debug, Clone, PartialEq)]
pub struct Challenge {
    pub offers: Vec<Result<Offer, OfferError>>,
}

impl Challenge {
    /// From the parts of an answer with status 402. `None` when there is no challenge in it. A header counts
    /// more than a body, and one that cannot be read is not made up for by the body.
    pub fn read(header: Option<&str>, body: &[u8]) -> Result<Option<Self>, ChallengeError> {
        if let Some(header) = header {
            if header.len() > MAX_HEADER_BYTES {
                return Err(ChallengeError::TooLong(MAX_HEADER_BYTES));
            }
            let json = STANDARD.decode(header.trim()).map_err(|_| ChallengeError::Header)?;
            let value: Map<String, Value> = serde_json::from_slice(&json).map_err(|_| ChallengeError::Header)?;
            return Self::of(&value).map(Some);
        }
        if body.len() > MAX_BODY_BYTES {
            return Err(ChallengeError::TooLong(MAX_BODY_BYTES));
        }
        let Ok(envelope) = serde_json::from_slice::<Map<String, Value>>(body) else { return Ok(None) };
        let challenge = match envelope.get("x402") {
            Some(Value::Object(inner)) => inner,
            _ if envelope.contains_key("x402Version") => &envelope,
            _ => return Ok(None),
        };
        Self::of(challenge).map(Some)
    }

    fn of(challenge: &Map<String, Value>) -> Result<Self, ChallengeError> {
        let version = challenge.get("x402Version").and_then(Value::as_u64);
        let version = version.ok_or(ChallengeError::Field("x402Version"))?;
        let accepts = challenge.get("accepts").and_then(Value::as_array).ok_or(ChallengeError::Field("accepts"))?;
        if accepts.len() > MAX_OFFERS {
            return Err(ChallengeError::TooMany);
        }
        let offers = match version {
            1 => accepts.iter().map(Offer::old).collect(),
            2 => {
                let resource = challenge.get("resource").and_then(|resource| Resource::deserialize(resource).ok());
                let resource = resource.ok_or(ChallengeError::Field("resource"))?;
                accepts.iter().map(|value| Offer::new(value, &resource)).collect()
            }
            other => return Err(ChallengeError::Version(other)),
        };
        Ok(Self { offers })
    }
}

impl Offer {
    fn new(value: &Value, resource: &Resource) -> Result<Self, OfferError> {
        let accepted = Requirement::deserialize(value).map_err(|_| unreadable(value))?;
        let known = Network::ALL.into_iter().find(|network| network.caip2() == accepted.network);
        let terms = Terms {
            scheme: &accepted.scheme,
            network: known.ok_or_else(|| OfferError::Network(short(&accepted.network)))?,
            asset: &accepted.asset,
            amount: &accepted.amount,
            pay_to: &accepted.pay_to,
            timeout_seconds: accepted.max_timeout_seconds,
            extra: &accepted.extra,
            resource: &resource.url,
        };
        terms.read(Echo::V2(Box::new((resource.clone(), accepted.clone()))))
    }

    fn old(value: &Value) -> Result<Self, OfferError> {
        let old = OldRequirement::deserialize(value).map_err(|_| unreadable(value))?;
        let known = Network::ALL.into_iter().find(|network| network.old_name() == old.network);
        let terms = Terms {
            scheme: &old.scheme,
            network: known.ok_or_else(|| OfferError::Network(short(&old.network)))?,
            asset: &old.asset,
            amount: &old.max_amount_required,
            pay_to: &old.pay_to,
            timeout_seconds: old.max_timeout_seconds,
            extra: &old.extra,
            resource: &old.resource,
        };
        terms.read(Echo::V1)
    }
}

/// What both versions say.
struct Terms<'a> {
    scheme: &'a str,
    network: Network,
    asset: &'a str,
    amount: &'a str,
    pay_to: &'a str,
    timeout_seconds: u64,
    extra: &'a TokenDomain,
    resource: &'a str,
}

impl Terms<'_> {
    fn read(self, echo: Echo) -> Result<Offer, OfferError> {
        if self.scheme != "exact" {
            return Err(OfferError::Scheme(short(self.scheme)));
        }
        Ok(Offer {
            network: self.network,
            asset: self.asset.parse().map_err(|_| OfferError::Address("asset"))?,
            amount: self.amount.parse().map_err(|_| OfferError::Amount)?,
            pay_to: self.pay_to.parse().map_err(|_| OfferError::Address("payTo"))?,
            timeout_seconds: self.timeout_seconds,
            domain: (self.extra.name.clone(), self.extra.version.clone()),
            resource: self.resource.to_owned(),
            echo,
        })
    }
}

/// Other schemes and networks have other fields; their names say more than "another shape".
fn unreadable(value: &Value) -> OfferError {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let known =
        |name: &&str| Network::ALL.iter().all(|network| network.caip2() != *name && network.old_name() != *name);
    match (text("scheme"), text("network").filter(known)) {
        (Some(scheme), _) if scheme != "exact" => OfferError::Scheme(short(scheme)),
        (_, Some(network)) => OfferError::Network(short(network)),
        _ => OfferError::Shape,
    }
}

/// A foreign text that goes into a message of ours.
pub(super) fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PAYEE: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

    fn requirement() -> Value {
        json!({"scheme": "exact", "network": "eip155:84532", "asset": Network::BaseSepolia.usdc().to_string(),
            "amount": "30000", "payTo": PAYEE, "maxTimeoutSeconds": 300, "extra": {"name": "USDC", "version": "2"}})
    }

    fn challenge(accepts: Value) -> Value {
        json!({"x402Version": 2, "resource": {"url": "http://a/x"}, "accepts": accepts})
    }

    fn read_header(challenge: &Value) -> Result<Option<Challenge>, ChallengeError> {
        Challenge::read(Some(&STANDARD.encode(challenge.to_string())), b"")
    }

    fn first(challenge: Result<Option<Challenge>, ChallengeError>) -> Result<Offer, OfferError> {
        challenge.expect("readable").expect("a challenge").offers.remove(0)
    }

    #[test]
    fn a_challenge_is_in_the_header_or_in_the_body() {
        let challenge = challenge(json!([requirement()]));
        let offer = first(read_header(&challenge)).expect("an offer");
        assert_eq!(
            (offer.network, offer.amount, offer.resource.as_str()),
            (Network::BaseSepolia, Atomic(30_000), "http://a/x")
        );
        let envelope = json!({"code": "PAYMENT_REQUIRED", "x402": challenge});
        for body in [challenge.to_string(), envelope.to_string()] {
            assert_eq!(first(Challenge::read(None, body.as_bytes())).as_ref(), Ok(&offer));
        }
        for body in ["", "payment required", "[]", "{}", r#"{"code":"PAYMENT_REQUIRED"}"#, r#"{"x402":7}"#] {
            assert_eq!(Challenge::read(None, body.as_bytes()), Ok(None), "{body}");
        }
    }

    #[test]
    fn a_header_that_cannot_be_read_is_not_made_up_for_by_the_body() {
        let body = challenge(json!([requirement()])).to_string();
        for header in ["", "%%%", "bnVsbA==", "W10="] {
            assert_eq!(Challenge::read(Some(header), body.as_bytes()), Err(ChallengeError::Header), "{header}");
        }
    }

    #[test]
    fn version_1_has_other_names() {
        let old = json!({"x402Version": 1, "error": "X-PAYMENT header is required", "accepts": [{
            "scheme": "exact", "network": "base", "maxAmountRequired": "5000000", "resource": "http://a/x",
            "description": "", "mimeType": "", "payTo": PAYEE, "maxTimeoutSeconds": 60,
            "asset": Network::Base.usdc().to_lower(), "extra": {"name": "USD Coin", "version": "2"}}]});
        let offer = first(Challenge::read(None, old.to_string().as_bytes())).expect("an offer");
        assert_eq!((offer.network, offer.amount, offer.echo.clone()), (Network::Base, Atomic(5_000_000), Echo::V1));
        assert_eq!((offer.resource.as_str(), offer.asset), ("http://a/x", Network::Base.usdc()));
    }

    #[test]
    fn an_offer_that_cannot_be_read_leaves_the_others() {
        let with = |name: &str, value: Value| {
            let mut changed = requirement();
            changed[name] = value;
            changed
        };
        let solana =
            json!({"scheme": "exact", "network": "solana:5eykt4", "asset": "EPjF", "amount": "1", "payTo": "x"});
        let cases = [
            (solana, OfferError::Network("solana:5eykt4".to_owned())),
            (with("scheme", json!("upto")), OfferError::Scheme("upto".to_owned())),
            (with("network", json!("base")), OfferError::Network("base".to_owned())),
            (with("asset", json!("USDC")), OfferError::Address("asset")),
            (with("payTo", json!("0x1")), OfferError::Address("payTo")),
            (with("amount", json!("-1")), OfferError::Amount),
            (with("amount", json!(30000)), OfferError::Shape),
            (with("maxTimeoutSeconds", json!(-1)), OfferError::Shape),
            (with("maxTimeoutSeconds", json!(1.5)), OfferError::Shape),
            (with("extra", json!(null)), OfferError::Shape),
            (json!("exact"), OfferError::Shape),
        ];
        for (offer, error) in cases {
            let offers =
                read_header(&challenge(json!([offer, requirement()]))).expect("readable").expect("a challenge").offers;
            assert_eq!(offers[0], Err(error), "{offer}");
            assert!(offers[1].is_ok());
        }
    }

    #[test]
    fn what_is_too_much_or_of_another_kind_is_refused() {
        let many: Vec<_> = (0..=MAX_OFFERS).map(|_| requirement()).collect();
        assert_eq!(read_header(&challenge(json!(many))), Err(ChallengeError::TooMany));
        let long = "A".repeat(MAX_HEADER_BYTES + 1);
        assert_eq!(Challenge::read(Some(&long), b""), Err(ChallengeError::TooLong(MAX_HEADER_BYTES)));
        let long = vec![b' '; MAX_BODY_BYTES + 1];
        assert_eq!(Challenge::read(None, &long), Err(ChallengeError::TooLong(MAX_BODY_BYTES)));
        let deep = "[".repeat(100_000);
        assert_eq!(Challenge::read(None, deep.as_bytes()), Ok(None));
        for (changed, error) in [
            (json!({"x402Version": 3, "accepts": []}), ChallengeError::Version(3)),
            (json!({"x402Version": "2", "accepts": []}), ChallengeError::Field("x402Version")),
            (json!({"x402Version": 2, "accepts": {}}), ChallengeError::Field("accepts")),
            (json!({"x402Version": 2, "accepts": []}), ChallengeError::Field("resource")),
            (json!({"x402Version": 2, "accepts": [], "resource": {"url": 1}}), ChallengeError::Field("resource")),
        ] {
            assert_eq!(read_header(&changed), Err(error), "{changed}");
        }
    }
}
