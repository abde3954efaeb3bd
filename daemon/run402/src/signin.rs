//! Signing in with a wallet: the `SIGN-IN-WITH-X` header, made and checked.
//!
//! Input: a private key and the URL of a request; output: a header value. And back: a header value to
//! the address that signed it. Knows neither files nor HTTP. Follows EIP-4361 (the text), EIP-191
//! version 0x45 (what is hashed), EIP-55 (how addresses are written) and CAIP-2 (chain ids); curve and
//! nonces are those of RFC 6979 with a low s.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha3::{Digest, Keccak256};
use std::fmt;
use std::str::FromStr;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// What a wallet says when it signs a request.
pub const STATEMENT: &str = "Sign in to Run402";
/// The chain that sign-ins name, whatever network payments use: Base Sepolia.
pub const CHAIN_ID: u64 = 84532;
/// A header is good for so long after it was made.
pub const LIFETIME: Duration = Duration::minutes(5);
/// Longer headers are refused unread.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Keccak-256, as Ethereum uses it (not SHA3-256).
pub fn keccak256(bytes: &[u8]) -> [u8; 32] {
    Keccak256::digest(bytes).into()
}

/// An Ethereum address; displayed with the checksum of EIP-55.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address([u8; 20]);

impl Address {
    fn of(key: &VerifyingKey) -> Self {
        let point = key.to_sec1_point(false);
        // Without the first byte, which says that the point is not compressed.
        let hash = keccak256(&point.as_bytes()[1..]);
        let mut address = [0; 20];
        address.copy_from_slice(&hash[12..]);
        Self(address)
    }

    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// `0x` and forty lower-case digits, as wallet files have it.
    pub fn to_lower(&self) -> String {
        format!("0x{}", hex::encode(self.0))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = hex::encode(self.0);
        let hash = hex::encode(keccak256(digits.as_bytes()));
        f.write_str("0x")?;
        for (digit, nibble) in digits.chars().zip(hash.chars()) {
            let upper = nibble >= '8';
            write!(f, "{}", if upper { digit.to_ascii_uppercase() } else { digit })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `0x` and forty hexadecimal digits are wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an address: 0x and forty hexadecimal digits are wanted")]
pub struct AddressError;

impl FromStr for Address {
    type Err = AddressError;

    /// The case of the digits is not checked: wallet files have lower-case addresses.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let digits = text.strip_prefix("0x").ok_or(AddressError)?;
        let mut address = [0; 20];
        hex::decode_to_slice(digits, &mut address).map_err(|_| AddressError)?;
        Ok(Self(address))
    }
}

/// The bytes are no private key: zero, or not below the order of the curve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the private key is not a number between 0 and the order of secp256k1")]
pub struct SignerError;

/// A private key. Never shown.
#[derive(Clone)]
pub struct Signer {
    key: SigningKey,
    address: Address,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Signer {
    /// From the 32 bytes of the key, most significant first.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, SignerError> {
        let key = SigningKey::from_slice(bytes).map_err(|_| SignerError)?;
        let address = Address::of(key.verifying_key());
        Ok(Self { key, address })
    }

    pub const fn address(&self) -> Address {
        self.address
    }

    /// `0x`, then r, s and v (27 or 28) in hexadecimal digits.
    pub fn sign_digest(&self, digest: &[u8; 32]) -> String {
        let (signature, recovery) = self.key.sign_prehash_recoverable(digest);
        format!("0x{}{:02x}", hex::encode(signature.to_bytes()), 27 + recovery.to_byte())
    }

    /// A personal message of EIP-191.
    pub fn sign_message(&self, message: &str) -> String {
        self.sign_digest(&message_digest(message))
    }
}

fn message_digest(message: &str) -> [u8; 32] {
    let mut bytes = format!("\x19Ethereum Signed Message:\n{}", message.len()).into_bytes();
    bytes.extend_from_slice(message.as_bytes());
    keccak256(&bytes)
}

/// Who signed the message. `None` when the signature is malformed or of nobody.
fn recover(message: &str, signature: &str) -> Option<Address> {
    let bytes = hex::decode(signature.strip_prefix("0x")?).ok()?;
    let (v, rs) = bytes.split_last()?;
    let signature = Signature::from_slice(rs).ok()?;
    // A signature with a high s is the same signature written another way; only one is taken (EIP-2).
    if signature.normalize_s() != signature {
        return None;
    }
    let recovery = RecoveryId::from_byte(v.checked_sub(27)?)?;
    let key = VerifyingKey::recover_from_prehash(&message_digest(message), &signature, recovery).ok()?;
    Some(Address::of(&key))
}

/// What is signed, in the order in which the header has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// The host, without a port.
    pub domain: String,
    /// With checksum.
    pub address: String,
    pub statement: String,
    /// The URL with its query.
    pub uri: String,
    pub version: String,
    /// CAIP-2, such as `eip155:84532`.
    pub chain_id: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub nonce: String,
    /// ISO 8601 with milliseconds and `Z`.
    pub issued_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<String>>,
}

impl Message {
    /// For one request to `url`, good for [`LIFETIME`] from `now` on.
    pub fn new(address: Address, url: &url::Url, now: OffsetDateTime) -> Self {
        Self {
            domain: url.host_str().unwrap_or_default().to_owned(),
            address: address.to_string(),
            statement: STATEMENT.to_owned(),
            uri: url.as_str().to_owned(),
            version: "1".to_owned(),
            chain_id: format!("eip155:{CHAIN_ID}"),
            kind: "eip191".to_owned(),
            nonce: hex::encode(rand::random::<[u8; 16]>()),
            issued_at: iso(now),
            expiration_time: Some(iso(now + LIFETIME)),
            signature: None,
            resources: None,
        }
    }

    /// The text that is signed: EIP-4361, without a line end at its end.
    pub fn text(&self) -> String {
        let Self { domain, address, statement, uri, version, nonce, issued_at, .. } = self;
        let chain = self.chain_id.rsplit(':').next().unwrap_or_default();
        let mut text = format!(
            "{domain} wants you to sign in with your Ethereum account:\n{address}\n\n{statement}\n\nURI: {uri}\n\
             Version: {version}\nChain ID: {chain}\nNonce: {nonce}\nIssued At: {issued_at}"
        );
        if let Some(expiration) = &self.expiration_time {
            text.push_str(&format!("\nExpiration Time: {expiration}"));
        }
        if let Some(resources) = self.resources.as_ref().filter(|resources| !resources.is_empty()) {
            text.push_str("\nResources:");
            resources.iter().for_each(|resource| text.push_str(&format!("\n- {resource}")));
        }
        text
    }

    /// The header's value: base64 of compact JSON, signature included.
    pub fn sign(mut self, signer: &Signer) -> String {
        self.signature = Some(signer.sign_message(&self.text()));
        STANDARD.encode(serde_json::to_vec(&self).expect("strings can be written as JSON"))
    }
}

fn iso(time: OffsetDateTime) -> String {
    let utc = time.to_offset(time::UtcOffset::UTC);
    let (date, clock) = (utc.date(), utc.time());
    let (hour, minute, second, millisecond) = clock.as_hms_milli();
    format!("{date}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

/// A header that was signed by its address and is good now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub address: Address,
    pub domain: String,
    pub uri: String,
    pub nonce: String,
    pub statement: String,
    pub resources: Vec<String>,
}

/// Why a header says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("the sign-in header is longer than {MAX_HEADER_BYTES} bytes")]
    TooLong,
    #[error("the sign-in header is not the base64 of a JSON object with the fields of a sign-in")]
    Malformed,
    #[error("the sign-in header has no usable {0}")]
    Field(&'static str),
    #[error("the sign-in was not signed by the address that it names")]
    Signature,
    #[error("the sign-in has expired")]
    Expired,
    #[error("the sign-in is from the future: check the clock")]
    Future,
}

/// Clocks may be apart by this much.
const SKEW: Duration = Duration::minutes(1);

/// Checks the fields, the signature and the times of a header. Whether its URI is that of the request
/// is the caller's to decide: old clients sign another base than the one that they call.
pub fn verify(header: &str, now: OffsetDateTime) -> Result<Verified, VerifyError> {
    if header.len() > MAX_HEADER_BYTES {
        return Err(VerifyError::TooLong);
    }
    let json = STANDARD.decode(header.trim()).map_err(|_| VerifyError::Malformed)?;
    let message: Message = serde_json::from_slice(&json).map_err(|_| VerifyError::Malformed)?;
    let field = |name| move |_| VerifyError::Field(name);
    let address: Address = message.address.parse().map_err(|_: AddressError| VerifyError::Field("address"))?;
    let chain = message.chain_id.strip_prefix("eip155:").filter(|id| id.parse::<u64>().is_ok());
    chain.ok_or(VerifyError::Field("chainId"))?;
    for (name, ok) in [
        ("version", message.version == "1"),
        ("type", message.kind == "eip191"),
        ("domain", !message.domain.is_empty()),
        ("nonce", message.nonce.len() >= 8 && message.nonce.bytes().all(|byte| byte.is_ascii_alphanumeric())),
    ] {
        if !ok {
            return Err(VerifyError::Field(name));
        }
    }
    // A line end in a field would be another field in what was signed.
    let lines = [&message.domain, &message.statement, &message.uri, &message.issued_at];
    if lines.iter().chain(&message.expiration_time.as_ref()).any(|text| text.contains(['\n', '\r'])) {
        return Err(VerifyError::Malformed);
    }
    let signature = message.signature.as_deref().ok_or(VerifyError::Field("signature"))?;
    if recover(&message.text(), signature) != Some(address) {
        return Err(VerifyError::Signature);
    }
    let issued = OffsetDateTime::parse(&message.issued_at, &Rfc3339).map_err(field("issuedAt"))?;
    if issued > now + SKEW {
        return Err(VerifyError::Future);
    }
    let expires = match &message.expiration_time {
        Some(text) => OffsetDateTime::parse(text, &Rfc3339).map_err(field("expirationTime"))?,
        None => issued + LIFETIME,
    };
    if expires + SKEW < now {
        return Err(VerifyError::Expired);
    }
    Ok(Verified {
        address,
        domain: message.domain,
        uri: message.uri,
        nonce: message.nonce,
        statement: message.statement,
        resources: message.resources.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_at(now: OffsetDateTime) -> (Signer, String) {
        let signer = Signer::from_bytes(&[7; 32]).unwrap();
        let url = "http://127.0.0.1:7403/apply/v1/plans?dry_run=true".parse().unwrap();
        let header = Message::new(signer.address(), &url, now).sign(&signer);
        (signer, header)
    }

    #[test]
    fn what_was_made_can_be_verified_until_it_expires() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::days(20_000);
        let (signer, header) = header_at(now);
        let verified = verify(&header, now).unwrap();
        assert_eq!((verified.address, verified.domain.as_str()), (signer.address(), "127.0.0.1"));
        assert_eq!(verified.uri, "http://127.0.0.1:7403/apply/v1/plans?dry_run=true");
        assert!(verify(&header, now + LIFETIME).is_ok());
        assert_eq!(verify(&header, now + LIFETIME + SKEW + SKEW), Err(VerifyError::Expired));
        assert_eq!(verify(&header, now - SKEW - SKEW), Err(VerifyError::Future));
    }

    #[test]
    fn a_changed_field_is_another_signature() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let (_, header) = header_at(now);
        let json = String::from_utf8(STANDARD.decode(&header).unwrap()).unwrap();
        for (from, to, wanted) in [
            ("127.0.0.1", "127.0.0.2", VerifyError::Signature),
            ("Sign in", "Sign on", VerifyError::Signature),
            ("eip155:84532", "84532", VerifyError::Field("chainId")),
            ("eip191", "eip1271", VerifyError::Field("type")),
            (r#""version":"1""#, r#""version":"2""#, VerifyError::Field("version")),
            (r#""signature""#, r#""signatur""#, VerifyError::Field("signature")),
            ("Sign in", r"Sign\nin", VerifyError::Malformed),
        ] {
            assert!(json.contains(from), "{from}");
            assert_eq!(verify(&STANDARD.encode(json.replace(from, to)), now), Err(wanted), "{from}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let now = OffsetDateTime::UNIX_EPOCH;
        for text in ["", "%%%", "e30=", "bnVsbA==", &STANDARD.encode(r#"{"domain":1}"#)] {
            assert_eq!(verify(text, now), Err(VerifyError::Malformed), "{text}");
        }
        assert_eq!(verify(&"A".repeat(MAX_HEADER_BYTES + 1), now), Err(VerifyError::TooLong));
    }

    #[test]
    fn a_signature_written_with_a_high_s_is_refused() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let (_, header) = header_at(now);
        let mut message: Message = serde_json::from_slice(&STANDARD.decode(&header).unwrap()).unwrap();
        let bytes = hex::decode(&message.signature.clone().unwrap()[2..]).unwrap();
        let signature = Signature::from_slice(&bytes[..64]).unwrap();
        let (r, s) = signature.split_scalars();
        let other = Signature::from_scalars(r.to_bytes(), (-*s).to_bytes()).unwrap();
        message.signature = Some(format!("0x{}{:02x}", hex::encode(other.to_bytes()), 27 + (1 - (bytes[64] - 27))));
        let again = STANDARD.encode(serde_json::to_vec(&message).unwrap());
        assert_eq!(verify(&again, now), Err(VerifyError::Signature));
    }

    #[test]
    fn the_key_is_not_shown() {
        let signer = Signer::from_bytes(&[7; 32]).unwrap();
        assert!(!format!("{signer:?}").contains(&hex::encode([7; 32])));
    }
}
