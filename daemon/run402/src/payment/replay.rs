//! The lines of the payment journal, and what they add up to.
//!
//! Input: the bytes of the journal; output: a [`Ledger`] that knows which payments are in doubt. One JSON
//! object per line. A last line without its line end was never acknowledged, so nothing was sent for it: it
//! is left out. Any other line that cannot be read stops everything, since it may be a payment.

use super::RequestIdentity;
use super::authorization::{Atomic, Network, Nonce};
use crate::signin::Address;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// A payment as it was written before its header was sent; in doubt until its outcome is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPayment {
    /// Seconds of Unix.
    pub at: i64,
    /// Names the authorization: the token's contract tells by payer and nonce whether it was used.
    #[serde(with = "text")]
    pub nonce: Nonce,
    #[serde(with = "text")]
    pub identity: RequestIdentity,
    pub method: String,
    pub url: String,
    pub network: Network,
    #[serde(with = "text")]
    pub asset: Address,
    #[serde(with = "text")]
    pub amount: Atomic,
    #[serde(with = "text")]
    pub from: Address,
    #[serde(with = "text")]
    pub pay_to: Address,
    /// Seconds of Unix; nobody can take the money from then on.
    pub valid_before: u64,
}

/// Who says what became of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Source {
    Answer,
    Reconciled,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Record {
    Intended(OpenPayment),
    Settled {
        at: i64,
        #[serde(with = "text")]
        nonce: Nonce,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        transaction: Option<String>,
        by: Source,
    },
    Refused {
        at: i64,
        #[serde(with = "text")]
        nonce: Nonce,
        reason: String,
        by: Source,
    },
    Ambiguous {
        at: i64,
        #[serde(with = "text")]
        nonce: Nonce,
        reason: String,
    },
}

impl Record {
    pub(super) fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("strings and numbers can be written as JSON");
        line.push(b'\n');
        line
    }
}

/// A line of the journal that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not a record of a payment")]
pub struct Damage {
    pub line: usize,
}

/// Every payment of the journal, and whether its end is known.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    payments: IndexMap<Nonce, (OpenPayment, Ended)>,
    /// Length of the lines that are whole.
    pub(super) whole_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Yes,
    InDoubt,
}

impl Ledger {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let whole_bytes = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let mut ledger = Self { whole_bytes, ..Self::default() };
        for (index, line) in bytes[..whole_bytes].split_inclusive(|byte| *byte == b'\n').enumerate() {
            let record = serde_json::from_slice(line).map_err(|_| Damage { line: index + 1 })?;
            ledger.add(record);
        }
        Ok(ledger)
    }

    fn add(&mut self, record: Record) {
        match record {
            // Written twice it is one payment: the doubt of the first must not be forgotten, nor its end.
            Record::Intended(payment) => {
                self.payments.entry(payment.nonce).or_insert((payment, Ended::InDoubt));
            }
            // An end counts whenever it comes; a doubt that comes after it does not.
            Record::Settled { nonce, .. } | Record::Refused { nonce, .. } => {
                if let Some((_, ended)) = self.payments.get_mut(&nonce) {
                    *ended = Ended::Yes;
                }
            }
            Record::Ambiguous { .. } => {}
        }
    }

    pub(super) fn open(&self) -> impl Iterator<Item = &OpenPayment> {
        self.payments.values().filter(|(_, ended)| *ended == Ended::InDoubt).map(|(payment, _)| payment)
    }

    pub(super) fn knows(&self, nonce: Nonce) -> bool {
        self.payments.contains_key(&nonce)
    }
}

/// Values that have one way of being written and read.
mod text {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::fmt::Display;
    use std::str::FromStr;

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payment::PaidRequest;

    fn payment(number: u8) -> OpenPayment {
        OpenPayment {
            at: 7,
            nonce: Nonce::new([number; 32]),
            identity: PaidRequest::new("POST", "http://a/b", &[number]).identity(),
            method: "POST".to_owned(),
            url: "http://a/b".to_owned(),
            network: Network::Base,
            asset: Network::Base.usdc(),
            amount: Atomic(u128::MAX),
            from: Network::Base.usdc(),
            pay_to: Network::BaseSepolia.usdc(),
            valid_before: 9,
        }
    }

    fn settled(number: u8) -> Record {
        Record::Settled { at: 8, nonce: Nonce::new([number; 32]), transaction: Some("0x1".into()), by: Source::Answer }
    }

    fn refused(number: u8) -> Record {
        Record::Refused { at: 8, nonce: Nonce::new([number; 32]), reason: "no".into(), by: Source::Reconciled }
    }

    fn ambiguous(number: u8) -> Record {
        Record::Ambiguous { at: 8, nonce: Nonce::new([number; 32]), reason: "?\n?".into() }
    }

    fn read(records: &[Record]) -> Ledger {
        Ledger::read(&records.iter().flat_map(Record::line).collect::<Vec<_>>()).expect("whole")
    }

    fn open(records: &[Record]) -> Vec<OpenPayment> {
        read(records).open().cloned().collect()
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        for record in [Record::Intended(payment(1)), settled(1), refused(2), ambiguous(3)] {
            let line = record.line();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(serde_json::from_slice::<Record>(&line).expect("a record"), record);
        }
    }

    #[test]
    fn a_payment_is_in_doubt_until_it_ended() {
        let intended = Record::Intended;
        assert_eq!(open(&[]), []);
        assert_eq!(open(&[intended(payment(1))]), [payment(1)]);
        assert_eq!(open(&[intended(payment(1)), ambiguous(1)]), [payment(1)]);
        for end in [settled(1), refused(1)] {
            assert_eq!(open(&[intended(payment(1)), end.clone()]), []);
            assert_eq!(open(&[intended(payment(1)), ambiguous(1), end.clone(), ambiguous(1)]), []);
            assert_eq!(open(&[intended(payment(1)), end.clone(), intended(payment(1))]), []);
            assert_eq!(open(&[intended(payment(2)), end, intended(payment(1))]), [payment(2), payment(1)]);
        }
    }

    #[test]
    fn a_torn_end_is_left_out_at_every_byte() {
        let (first, second) = (Record::Intended(payment(1)).line(), Record::Intended(payment(2)).line());
        let both = [first.clone(), second].concat();
        for length in first.len()..both.len() {
            let ledger = Ledger::read(&both[..length]).expect("whole up to there");
            assert_eq!(ledger.whole_bytes, first.len());
            assert_eq!(ledger.open().count(), 1);
        }
        assert_eq!(Ledger::read(&both).expect("whole").open().count(), 2);
        assert_eq!(Ledger::read(&first[..first.len() - 1]).expect("nothing").whole_bytes, 0);
    }

    #[test]
    fn damage_elsewhere_stops_everything() {
        let line = Record::Intended(payment(1)).line();
        for damaged in [&b"\n"[..], b"{}\n", b"{\"event\":\"unheard_of\"}\n", b"\0\0\0\n", b"{\"event\":\"intended\"\n"]
        {
            let bytes = [&line[..], damaged, &line].concat();
            assert_eq!(Ledger::read(&bytes).expect_err("damaged"), Damage { line: 2 });
        }
    }
}
