//! What became of a payment, as far as an answer tells.
//!
//! Input: status and receipt header of the answer to the paid request, or that there was none; output: an
//! [`Outcome`]. Money may have moved whenever nobody says for certain that it did not.

use super::authorization::Network;
use super::challenge::short;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Where a receipt may be: version 2, then version 1.
pub const RECEIPT_HEADERS: [&str; 2] = ["payment-response", "x-payment-response"];
const MAX_HEADER_BYTES: usize = 16 << 10;
/// No transaction hash, network or address is longer.
const MAX_FIELD_BYTES: usize = 256;

/// The gateway's word on a payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub success: bool,
    pub network: String,
    pub transaction: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payer: Option<String>,
}

impl Receipt {
    /// A receipt that cannot be read is as good as none.
    pub fn read(header: &str) -> Option<Self> {
        if header.len() > MAX_HEADER_BYTES {
            return None;
        }
        let receipt: Self = serde_json::from_slice(&STANDARD.decode(header.trim()).ok()?).ok()?;
        let fields = [Some(&receipt.network), Some(&receipt.transaction), receipt.payer.as_ref()];
        let sane = |text: &String| text.len() <= MAX_FIELD_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic());
        let is_sane = fields.into_iter().flatten().all(sane);
        is_sane.then_some(receipt)
    }

    fn is_of(&self, network: Network) -> bool {
        self.network == network.caip2() || self.network == network.old_name()
    }
}

/// What came back after the signed request was given to the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<'a> {
    /// There was no connection: not one byte was sent.
    NotSent,
    /// No answer, or only a part of one.
    Broken,
    Complete {
        status: u16,
        receipt: Option<&'a Receipt>,
    },
}

/// What became of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The request was served. The transaction, when there was a receipt.
    Settled { transaction: Option<String> },
    /// The gateway says that it did not take the money, or never heard of it.
    Refused { reason: String },
    /// Nobody knows.
    Ambiguous { reason: String },
}

impl Outcome {
    pub fn of(answer: &Answer<'_>, network: Network) -> Self {
        let ambiguous = |reason: String| Self::Ambiguous { reason };
        let (status, receipt) = match answer {
            Answer::NotSent => return Self::Refused { reason: "the request was not sent".to_owned() },
            Answer::Broken => return ambiguous("there was no complete answer".to_owned()),
            Answer::Complete { status, receipt } => (*status, *receipt),
        };
        // What is said of another network is not about this payment.
        let receipt = receipt.filter(|receipt| receipt.is_of(network));
        match (status, receipt) {
            (200..=299, None) => Self::Settled { transaction: None },
            (200..=299, Some(receipt)) if receipt.success => {
                Self::Settled { transaction: Some(receipt.transaction.clone()).filter(|hash| !hash.is_empty()) }
            }
            (402, None) => Self::Refused { reason: "the gateway asked for payment again".to_owned() },
            (402, Some(receipt)) if !receipt.success => {
                Self::Refused { reason: "the gateway could not take the payment".to_owned() }
            }
            (status, Some(receipt)) if receipt.success => {
                ambiguous(format!("paid by {}, and answered with {status}", short(&receipt.transaction)))
            }
            (status, _) => ambiguous(format!("answered with {status}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn receipt(success: bool) -> Receipt {
        Receipt { success, network: "eip155:8453".into(), transaction: "0xabc".into(), payer: None }
    }

    fn read(value: &Value) -> Option<Receipt> {
        Receipt::read(&STANDARD.encode(value.to_string()))
    }

    #[test]
    fn a_malformed_receipt_is_none() {
        let good = json!({"success": true, "network": "eip155:8453", "transaction": "0xabc", "surprise": 1});
        assert_eq!(read(&good), Some(receipt(true)));
        for (name, value) in [
            ("success", json!("true")),
            ("network", json!(8453)),
            ("transaction", json!(null)),
            ("transaction", json!("line\nend")),
            ("transaction", json!("0".repeat(MAX_FIELD_BYTES + 1))),
            ("payer", json!({})),
        ] {
            let mut changed = good.clone();
            changed[name] = value;
            assert_eq!(read(&changed), None, "{changed}");
        }
        for text in ["", "%", "e30=", &"A".repeat(MAX_HEADER_BYTES + 1)] {
            assert_eq!(Receipt::read(text), None);
        }
    }

    #[test]
    fn only_a_clear_word_ends_the_doubt() {
        let of =
            |status, receipt: Option<&Receipt>| match Outcome::of(&Answer::Complete { status, receipt }, Network::Base)
            {
                Outcome::Settled { transaction } => format!("settled {}", transaction.unwrap_or_default()),
                Outcome::Refused { .. } => "refused".to_owned(),
                Outcome::Ambiguous { .. } => "ambiguous".to_owned(),
            };
        let (yes, no) = (receipt(true), receipt(false));
        assert_eq!([of(200, Some(&yes)), of(201, None)], ["settled 0xabc", "settled "]);
        assert_eq!([of(402, None), of(402, Some(&no))], ["refused", "refused"]);
        for (status, receipt) in [
            (200, Some(&no)),
            (402, Some(&yes)),
            (500, None),
            (500, Some(&yes)),
            (500, Some(&no)),
            (400, None),
            (401, None),
            (302, None),
            (409, None),
        ] {
            assert_eq!(of(status, receipt), "ambiguous", "{status} {receipt:?}");
        }
        let elsewhere = Receipt { network: "eip155:84532".into(), ..receipt(false) };
        assert_eq!(of(200, Some(&elsewhere)), "settled ");
        assert!(matches!(Outcome::of(&Answer::Broken, Network::Base), Outcome::Ambiguous { .. }));
        assert!(matches!(Outcome::of(&Answer::NotSent, Network::Base), Outcome::Refused { .. }));
    }
}
