//! Paying for a request that was answered with 402.
//!
//! `Challenge -> Decision -> Intent -> Outcome`. A challenge is judged by a [`PaymentPolicy`], which allows
//! nothing unless somebody said so; a decision is written into the [`Journal`] before its header can be
//! sent; and what became of it is written there too. A request whose payment ended in doubt is not paid
//! again until a person has looked. Follows x402, scheme "exact". Sends nothing: that is the client's.

mod authorization;
mod challenge;
mod journal;
mod receipt;
mod replay;

pub use authorization::{Atomic, AtomicError, Authorization, Network, Nonce, NonceError, PaymentHeader};
pub use challenge::{
    Challenge, ChallengeError, Offer, OfferError, PAYMENT_REQUIRED, Requirement, Resource, TokenDomain,
};
pub use journal::{Intent, Journal, JournalError, Verdict};
pub use receipt::{Answer, Outcome, RECEIPT_HEADERS, Receipt};
pub use replay::{Damage, OpenPayment};

use crate::error::Error;
use crate::signin::{Address, Signer};
use challenge::Echo;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use time::OffsetDateTime;

/// An authorization is good from so long before it was made, since clocks differ.
const VALID_BEFORE_NOW_SECONDS: u64 = 600;
/// No request takes longer; until then the gateway can take the money.
const MAX_TIMEOUT_SECONDS: u64 = 3600;

/// Who may be paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payees {
    Any,
    Only(Vec<Address>),
}

/// How much may be paid to whom. The default allows nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentPolicy {
    /// The most that one request may cost, by network. Nothing is paid on a network that is not here. The
    /// token is always the network's USDC.
    pub max_atomic: BTreeMap<Network, Atomic>,
    pub payees: Payees,
}

impl Default for PaymentPolicy {
    fn default() -> Self {
        Self { max_atomic: BTreeMap::new(), payees: Payees::Only(Vec::new()) }
    }
}

/// Which request is paid: a second one with the same is the same purchase.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestIdentity([u8; 32]);

impl fmt::Display for RequestIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for RequestIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Sixty-four hexadecimal digits are wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the identity of a request: sixty-four hexadecimal digits are wanted")]
pub struct IdentityError;

impl FromStr for RequestIdentity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| IdentityError)?;
        Ok(Self(bytes))
    }
}

/// The request that was answered with 402, and would be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaidRequest {
    method: String,
    url: String,
    identity: RequestIdentity,
}

impl PaidRequest {
    /// `url` as it was sent, query included.
    pub fn new(method: &str, url: &str, body: &[u8]) -> Self {
        let method = method.to_ascii_uppercase();
        let mut hash = Sha256::new();
        // With lengths, so that no two requests run together into the same bytes.
        for part in [method.as_bytes(), url.as_bytes(), body] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self { method, url: url.to_owned(), identity: RequestIdentity(hash.finalize().into()) }
    }

    pub const fn identity(&self) -> RequestIdentity {
        self.identity
    }

    pub fn method(&self) -> &str {
        &self.method
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Why one offer is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Unreadable(#[from] OfferError),
    #[error("it asks money for {0:?}, which is not what was requested")]
    Resource(String),
    #[error("the policy allows no payments on {0}")]
    Network(Network),
    #[error("token {0} is not the USDC of {1}")]
    Asset(Address, Network),
    #[error("{0:?} version {1:?} is not how the USDC of {2} signs")]
    Domain(String, String, Network),
    #[error("an amount of nothing is asked for")]
    Nothing,
    #[error("{amount} on {network} is more than the {max} that the policy allows")]
    TooMuch { network: Network, amount: Atomic, max: Atomic },
    #[error("the policy does not allow paying {0}")]
    Payee(Address),
    #[error("{0} s to take the money in is not between 1 and {MAX_TIMEOUT_SECONDS}")]
    Timeout(u64),
    #[error("the wallet has {balance} on {network}, and {amount} is asked for")]
    Balance { network: Network, amount: Atomic, balance: Atomic },
}

/// Why a request is not paid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaymentError {
    #[error("the gateway wants money, and no offer of its {} is acceptable: {}", .0.len(), listed(.0))]
    Refused(Vec<Refusal>),
    #[error("the clock of this machine is not in the years after 1970, so no payment can be dated")]
    Clock,
}

fn listed(refusals: &[Refusal]) -> String {
    refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl From<PaymentError> for Error {
    fn from(error: PaymentError) -> Self {
        let code = match error {
            PaymentError::Refused(_) => "PAYMENT_REFUSED_BY_POLICY",
            PaymentError::Clock => "LOCAL_ERROR",
        };
        let details = match &error {
            PaymentError::Refused(refusals) => {
                json!({"refusals": refusals.iter().map(ToString::to_string).collect::<Vec<_>>()})
            }
            PaymentError::Clock => serde_json::Value::Null,
        };
        Self::local(code, error.to_string()).with_details(details)
    }
}

impl From<ChallengeError> for Error {
    fn from(error: ChallengeError) -> Self {
        Self::local("PAYMENT_CHALLENGE_INVALID", error.to_string())
    }
}

/// A payment that the policy allows. Its header comes out of [`Journal::intend`] only.
#[derive(Debug, Clone)]
#[must_use = "nothing is paid until the journal has it"]
pub struct Decision {
    request: PaidRequest,
    authorization: Authorization,
    header: PaymentHeader,
}

impl Decision {
    /// Who would be paid how much, to tell a user.
    pub const fn authorization(&self) -> &Authorization {
        &self.authorization
    }

    pub const fn request(&self) -> &PaidRequest {
        &self.request
    }
}

/// A wallet with a policy.
#[derive(Debug, Clone)]
pub struct Payer {
    signer: Signer,
    policy: PaymentPolicy,
    balances: BTreeMap<Network, Atomic>,
}

impl Payer {
    pub const fn new(signer: Signer, policy: PaymentPolicy) -> Self {
        Self { signer, policy, balances: BTreeMap::new() }
    }

    /// What the wallet has, where that was looked up. Counts only when there is something somewhere: a look-up
    /// that failed reads as zero.
    #[must_use]
    pub fn with_balances(mut self, balances: BTreeMap<Network, Atomic>) -> Self {
        self.balances = balances;
        self
    }

    /// Takes the first offer that is acceptable, and signs it. Refused when there is none, with a reason
    /// for each.
    pub fn decide(
        &self,
        challenge: &Challenge,
        request: &PaidRequest,
        now: OffsetDateTime,
        nonce: Nonce,
    ) -> Result<Decision, PaymentError> {
        let now = u64::try_from(now.unix_timestamp()).map_err(|_| PaymentError::Clock)?;
        let valid_after = now.checked_sub(VALID_BEFORE_NOW_SECONDS).ok_or(PaymentError::Clock)?;
        let mut refusals = Vec::new();
        for offer in &challenge.offers {
            let judged = match offer {
                Ok(offer) => self.judge(offer, request).map(|()| offer),
                Err(error) => Err(Refusal::Unreadable(error.clone())),
            };
            let offer = match judged {
                Ok(offer) => offer,
                Err(refusal) => {
                    refusals.push(refusal);
                    continue;
                }
            };
            let authorization = Authorization {
                network: offer.network,
                from: self.signer.address(),
                to: offer.pay_to,
                value: offer.amount,
                valid_after,
                valid_before: now.checked_add(offer.timeout_seconds).ok_or(PaymentError::Clock)?,
                nonce,
            };
            let header = match &offer.echo {
                Echo::V1 => authorization::header_v1(&authorization, &self.signer),
                Echo::V2(echo) => authorization::header_v2(&authorization, &self.signer, &echo.0, &echo.1),
            };
            return Ok(Decision { request: request.clone(), authorization, header });
        }
        Err(PaymentError::Refused(refusals))
    }

    fn judge(&self, offer: &Offer, request: &PaidRequest) -> Result<(), Refusal> {
        let Offer { network, asset, amount, pay_to, timeout_seconds, domain: (name, version), .. } = offer;
        let (network, amount) = (*network, *amount);
        if !is_same_url(&offer.resource, &request.url) {
            return Err(Refusal::Resource(challenge::short(&offer.resource)));
        }
        let max = *self.policy.max_atomic.get(&network).ok_or(Refusal::Network(network))?;
        if *asset != network.usdc() {
            return Err(Refusal::Asset(*asset, network));
        }
        if (name.as_str(), version.as_str()) != network.token_domain() {
            return Err(Refusal::Domain(challenge::short(name), challenge::short(version), network));
        }
        if amount == Atomic(0) {
            return Err(Refusal::Nothing);
        }
        if amount > max {
            return Err(Refusal::TooMuch { network, amount, max });
        }
        match &self.policy.payees {
            Payees::Any => {}
            Payees::Only(payees) if payees.contains(pay_to) => {}
            Payees::Only(_) => return Err(Refusal::Payee(*pay_to)),
        }
        if !(1..=MAX_TIMEOUT_SECONDS).contains(timeout_seconds) {
            return Err(Refusal::Timeout(*timeout_seconds));
        }
        if self.balances.values().any(|balance| *balance > Atomic(0)) {
            let balance = self.balances.get(&network).copied().unwrap_or(Atomic(0));
            if amount > balance {
                return Err(Refusal::Balance { network, amount, balance });
            }
        }
        Ok(())
    }
}

/// Compared as URLs: `http://a` is `http://a/`.
fn is_same_url(one: &str, other: &str) -> bool {
    match (url::Url::parse(one), url::Url::parse(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const URL: &str = "http://127.0.0.1:7403/generate-image/v1";
    const PAYEE: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_767_225_600).expect("a time")
    }

    fn requirement(network: Network) -> Value {
        let (name, version) = network.token_domain();
        json!({"scheme": "exact", "network": network.caip2(), "asset": network.usdc().to_lower(),
            "amount": "30000", "payTo": PAYEE, "maxTimeoutSeconds": 300, "extra": {"name": name, "version": version}})
    }

    fn challenge(accepts: &[Value]) -> Challenge {
        let body = json!({"x402Version": 2, "resource": {"url": URL}, "accepts": accepts}).to_string();
        Challenge::read(None, body.as_bytes()).expect("readable").expect("a challenge")
    }

    fn policy() -> PaymentPolicy {
        let max = [(Network::BaseSepolia, Atomic(30_000))];
        PaymentPolicy { max_atomic: max.into(), payees: Payees::Only(vec![PAYEE.parse().expect("an address")]) }
    }

    fn payer(policy: PaymentPolicy) -> Payer {
        Payer::new(Signer::from_bytes(&[7; 32]).expect("a key"), policy)
    }

    fn decide(payer: &Payer, accepts: &[Value]) -> Result<Decision, Vec<Refusal>> {
        let request = PaidRequest::new("POST", URL, b"{}");
        match payer.decide(&challenge(accepts), &request, now(), Nonce::new([1; 32])) {
            Ok(decision) => Ok(decision),
            Err(PaymentError::Refused(refusals)) => Err(refusals),
            Err(PaymentError::Clock) => panic!("the time is good"),
        }
    }

    #[test]
    fn nothing_is_paid_unless_somebody_allowed_it() {
        let both = Network::ALL.map(requirement);
        let refusals = decide(&payer(PaymentPolicy::default()), &both).expect_err("nothing is allowed");
        assert_eq!(refusals, Network::ALL.map(Refusal::Network));
        let no_payees = PaymentPolicy { payees: Payees::Only(vec![]), ..policy() };
        let refusals = decide(&payer(no_payees), &[requirement(Network::BaseSepolia)]).expect_err("nobody is allowed");
        assert_eq!(refusals, [Refusal::Payee(PAYEE.parse().expect("an address"))]);
        assert_eq!(decide(&payer(policy()), &[]).expect_err("there is no offer"), []);
    }

    #[test]
    fn the_first_acceptable_offer_is_taken() {
        let decision = decide(&payer(policy()), &Network::ALL.map(requirement)).expect("the second is good");
        let authorization = decision.authorization();
        assert_eq!((authorization.network, authorization.value), (Network::BaseSepolia, Atomic(30_000)));
        assert_eq!((authorization.valid_after, authorization.valid_before), (1_767_225_000, 1_767_225_900));
        assert_eq!(authorization.to, PAYEE.parse().expect("an address"));
        assert!(!format!("{decision:?}").contains(decision.header.value.reveal()));
    }

    #[test]
    fn whatever_is_not_as_expected_is_refused() {
        let sepolia = Network::BaseSepolia;
        let amount = |text: &str| text.parse::<Atomic>().expect("an amount");
        let wrong = Network::Base.usdc();
        let huge = "340282366920938463463374607431768211455";
        let cases = [
            ("asset", json!(wrong.to_string()), Refusal::Asset(wrong, sepolia)),
            (
                "amount",
                json!("30001"),
                Refusal::TooMuch { network: sepolia, amount: amount("30001"), max: amount("30000") },
            ),
            ("amount", json!(huge), Refusal::TooMuch { network: sepolia, amount: amount(huge), max: amount("30000") }),
            ("amount", json!("0"), Refusal::Nothing),
            ("amount", json!("030000"), Refusal::Unreadable(OfferError::Amount)),
            ("payTo", json!(wrong.to_string()), Refusal::Payee(wrong)),
            ("maxTimeoutSeconds", json!(0), Refusal::Timeout(0)),
            ("maxTimeoutSeconds", json!(u64::MAX), Refusal::Timeout(u64::MAX)),
            (
                "extra",
                json!({"name": "USD Coin", "version": "2"}),
                Refusal::Domain("USD Coin".into(), "2".into(), sepolia),
            ),
        ];
        for (name, value, refusal) in cases {
            let mut changed = requirement(sepolia);
            changed[name] = value.clone();
            assert_eq!(decide(&payer(policy()), &[changed]).expect_err(name), [refusal], "{name} {value}");
        }
    }

    #[test]
    fn only_what_was_requested_is_paid() {
        let payer = payer(policy());
        let challenge = challenge(&[requirement(Network::BaseSepolia)]);
        for url in [
            "http://127.0.0.1:7403/generate-image/v1?x=1",
            "https://127.0.0.1:7403/generate-image/v1",
            "http://127.0.0.1/generate-image/v1",
            "x",
        ] {
            let decided = payer.decide(&challenge, &PaidRequest::new("POST", url, b""), now(), Nonce::new([1; 32]));
            assert_eq!(decided.expect_err(url), PaymentError::Refused(vec![Refusal::Resource(URL.to_owned())]));
        }
    }

    #[test]
    fn a_known_balance_counts_when_there_is_any() {
        let offer = [requirement(Network::BaseSepolia)];
        let with = |base, sepolia| {
            let balances = [(Network::Base, Atomic(base)), (Network::BaseSepolia, Atomic(sepolia))];
            decide(&payer(policy()).with_balances(balances.into()), &offer).map(drop)
        };
        let poor = |balance| {
            vec![Refusal::Balance { network: Network::BaseSepolia, amount: Atomic(30_000), balance: Atomic(balance) }]
        };
        assert_eq!(with(0, 0), Ok(()));
        assert_eq!(with(0, 30_000), Ok(()));
        assert_eq!(with(0, 29_999), Err(poor(29_999)));
        assert_eq!(with(1, 0), Err(poor(0)));
    }

    #[test]
    fn a_clock_that_stands_at_the_beginning_dates_nothing() {
        let request = PaidRequest::new("POST", URL, b"");
        let challenge = challenge(&[requirement(Network::BaseSepolia)]);
        for time in [OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH - time::Duration::days(1)] {
            let decided = payer(policy()).decide(&challenge, &request, time, Nonce::new([1; 32]));
            assert_eq!(decided.expect_err("no time"), PaymentError::Clock);
        }
    }

    #[test]
    fn another_request_has_another_identity() {
        let identity = |method, url, body: &[u8]| PaidRequest::new(method, url, body).identity();
        let plain = identity("POST", "http://a/b", b"c");
        assert_eq!(identity("post", "http://a/b", b"c"), plain);
        assert_ne!(identity("PUT", "http://a/b", b"c"), plain);
        assert_ne!(identity("POST", "http://a/bc", b""), plain);
        assert_ne!(identity("POST", "http://a/b", b"d"), plain);
        assert_eq!(plain.to_string().parse(), Ok(plain));
    }
}
