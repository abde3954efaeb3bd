//! An authorization to move USDC, and its signature.
//!
//! Input: who pays whom how much and until when; output: the digest of EIP-712 and the value of the
//! payment header. Follows EIP-3009 (`TransferWithAuthorization`), EIP-712 (what is hashed) and CAIP-2
//! (names of networks). Decides nothing.

use super::challenge::{Requirement, Resource};
use crate::client::Secret;
use crate::signin::{Address, Signer, keccak256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Networks on which we know the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Network {
    #[serde(rename = "eip155:8453")]
    Base,
    #[serde(rename = "eip155:84532")]
    BaseSepolia,
}

impl Network {
    pub const ALL: [Self; 2] = [Self::Base, Self::BaseSepolia];

    pub const fn chain_id(self) -> u64 {
        match self {
            Self::Base => 8453,
            Self::BaseSepolia => 84532,
        }
    }

    /// The name of CAIP-2, which version 2 of x402 uses.
    pub const fn caip2(self) -> &'static str {
        match self {
            Self::Base => "eip155:8453",
            Self::BaseSepolia => "eip155:84532",
        }
    }

    /// The name that version 1 uses.
    pub const fn old_name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::BaseSepolia => "base-sepolia",
        }
    }

    /// The contract of USDC, the one token that is paid with.
    pub fn usdc(self) -> Address {
        let text = match self {
            Self::Base => "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
            Self::BaseSepolia => "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        };
        text.parse().expect("forty digits are written above")
    }

    /// Name and version that the contract signs with.
    pub const fn token_domain(self) -> (&'static str, &'static str) {
        match self {
            Self::Base => ("USD Coin", "2"),
            Self::BaseSepolia => ("USDC", "2"),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.caip2())
    }
}

/// An amount in the token's smallest unit; USDC has a million of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Atomic(pub u128);

/// Digits without a sign, a space or a leading zero are wanted, below 2^128.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an amount: decimal digits without a leading zero are wanted")]
pub struct AtomicError;

impl FromStr for Atomic {
    type Err = AtomicError;

    fn from_str(text: &str) -> Result<Self, AtomicError> {
        // `u128::from_str` would take `+1` and `007`, which others may read differently.
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse().ok().filter(|_| plain).map(Self).ok_or(AtomicError)
    }
}

impl fmt::Display for Atomic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What makes an authorization good for one transfer only, and names it afterwards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce([u8; 32]);

impl Nonce {
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `0x` and sixty-four hexadecimal digits are wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a nonce: 0x and sixty-four hexadecimal digits are wanted")]
pub struct NonceError;

impl FromStr for Nonce {
    type Err = NonceError;

    fn from_str(text: &str) -> Result<Self, NonceError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.strip_prefix("0x").ok_or(NonceError)?, &mut bytes).map_err(|_| NonceError)?;
        Ok(Self(bytes))
    }
}

/// One transfer of USDC that its owner agrees to; times are seconds of Unix, both exclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    pub network: Network,
    pub from: Address,
    pub to: Address,
    pub value: Atomic,
    pub valid_after: u64,
    pub valid_before: u64,
    pub nonce: Nonce,
}

impl Authorization {
    /// What is signed.
    pub fn digest(&self) -> [u8; 32] {
        let (name, version) = self.network.token_domain();
        let domain = hash_words(&[
            keccak256(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
            keccak256(name.as_bytes()),
            keccak256(version.as_bytes()),
            number(self.network.chain_id().into()),
            address(self.network.usdc()),
        ]);
        let transfer = hash_words(&[
            keccak256(
                b"TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,\
                  uint256 validBefore,bytes32 nonce)",
            ),
            address(self.from),
            address(self.to),
            number(self.value.0),
            number(self.valid_after.into()),
            number(self.valid_before.into()),
            self.nonce.0,
        ]);
        let mut bytes = b"\x19\x01".to_vec();
        bytes.extend_from_slice(&domain);
        bytes.extend_from_slice(&transfer);
        keccak256(&bytes)
    }

    fn exact(&self, signer: &Signer) -> Exact {
        let authorization = WireAuthorization {
            from: self.from.to_string(),
            to: self.to.to_string(),
            value: self.value.to_string(),
            valid_after: self.valid_after.to_string(),
            valid_before: self.valid_before.to_string(),
            nonce: self.nonce.to_string(),
        };
        Exact { authorization, signature: signer.sign_digest(&self.digest()) }
    }
}

/// The values of a structure as the ABI writes them, hashed.
fn hash_words(words: &[[u8; 32]]) -> [u8; 32] {
    keccak256(words.as_flattened())
}

fn number(value: u128) -> [u8; 32] {
    let mut word = [0; 32];
    word[16..].copy_from_slice(&value.to_be_bytes());
    word
}

fn address(address: Address) -> [u8; 32] {
    let mut word = [0; 32];
    word[12..].copy_from_slice(address.as_bytes());
    word
}

/// In the order in which other clients write it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireAuthorization {
    from: String,
    to: String,
    value: String,
    valid_after: String,
    valid_before: String,
    nonce: String,
}

#[derive(Serialize)]
struct Exact {
    authorization: WireAuthorization,
    signature: String,
}

#[derive(Serialize)]
struct PaymentV2<'a> {
    #[serde(rename = "x402Version")]
    version: u8,
    payload: Exact,
    resource: &'a Resource,
    accepted: &'a Requirement,
}

#[derive(Serialize)]
struct PaymentV1 {
    #[serde(rename = "x402Version")]
    version: u8,
    scheme: &'static str,
    network: &'static str,
    payload: Exact,
}

/// The header with which a request is paid. Whoever has its value can take the money, until the
/// authorization ends.
#[derive(Debug, Clone)]
pub struct PaymentHeader {
    pub name: &'static str,
    pub value: Secret,
}

/// Version 2 repeats what it accepts, as the gateway wrote it.
pub(super) fn header_v2(
    authorization: &Authorization,
    signer: &Signer,
    resource: &Resource,
    accepted: &Requirement,
) -> PaymentHeader {
    let payment = PaymentV2 { version: 2, payload: authorization.exact(signer), resource, accepted };
    PaymentHeader { name: "payment-signature", value: encode(&payment) }
}

pub(super) fn header_v1(authorization: &Authorization, signer: &Signer) -> PaymentHeader {
    let network = authorization.network.old_name();
    let payment = PaymentV1 { version: 1, scheme: "exact", network, payload: authorization.exact(signer) };
    PaymentHeader { name: "x-payment", value: encode(&payment) }
}

fn encode(payment: &impl Serialize) -> Secret {
    Secret::new(STANDARD.encode(serde_json::to_vec(payment).expect("strings can be written as JSON")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_plain_digits() {
        assert_eq!("30000".parse(), Ok(Atomic(30_000)));
        assert_eq!("0".parse(), Ok(Atomic(0)));
        let largest = u128::MAX.to_string();
        assert_eq!(largest.parse(), Ok(Atomic(u128::MAX)));
        for bad in ["", "+1", "-1", "007", "00", "1.0", "1e3", " 1", "0x1", "١", &format!("{largest}0")] {
            assert_eq!(bad.parse::<Atomic>(), Err(AtomicError), "{bad}");
        }
    }

    #[test]
    fn every_field_is_signed() {
        let plain = Authorization {
            network: Network::Base,
            from: Network::Base.usdc(),
            to: Network::BaseSepolia.usdc(),
            value: Atomic(1),
            valid_after: 2,
            valid_before: 3,
            nonce: Nonce::new([4; 32]),
        };
        let changed = [
            Authorization { network: Network::BaseSepolia, ..plain.clone() },
            Authorization { from: plain.to, ..plain.clone() },
            Authorization { to: plain.from, ..plain.clone() },
            Authorization { value: Atomic(2), ..plain.clone() },
            Authorization { valid_after: 1, ..plain.clone() },
            Authorization { valid_before: 4, ..plain.clone() },
            Authorization { nonce: Nonce::new([5; 32]), ..plain.clone() },
        ];
        let mut digests: Vec<_> = changed.iter().chain([&plain]).map(Authorization::digest).collect();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), changed.len() + 1);
    }

    #[test]
    fn nonces_are_written_as_they_are_read() {
        let nonce = Nonce::random();
        assert_eq!(nonce.to_string().parse(), Ok(nonce));
        assert_ne!(nonce, Nonce::random());
        assert_eq!("0x11".parse::<Nonce>(), Err(NonceError));
    }
}
