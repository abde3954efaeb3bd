//! The journal of payments: what was to be paid, before it is, and what became of it.
//!
//! Input: a [`Decision`]; output: an [`Intent`], with the header that pays, once a line is on the disk.
//! `payments.v1.jsonl` in the profile's directory; other clients do not have it. A payment without an
//! outcome may have been made: the process may have been killed at any moment, or be at it now. The same
//! request is not paid again until [`Journal::reconcile`] says what happened.

use super::Decision;
use super::authorization::{Nonce, PaymentHeader};
use super::receipt::Outcome;
use super::replay::{Damage, Ledger, OpenPayment, Record, Source};
use crate::environment::Environment;
use crate::error::Error;
use crate::files::{self, FileError, Queue};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

const FILE: &str = "payments.v1.jsonl";
/// A longer journal is put aside, as soon as nothing in it is in doubt.
const ROTATE_BYTES: usize = 4 << 20;
/// Longer than that nothing is read. A payment has less than 2 KiB, but for its URL.
const MAX_BYTES: u64 = 64 << 20;
/// The clocks of this machine and of the network may be apart by so much.
const SKEW_SECONDS: i64 = 60;

/// Why a payment cannot be begun or ended.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the payment journal {path} is damaged: {damage}; see what was paid, then move it away")]
    Damaged { path: PathBuf, damage: Damage },
    #[error(
        "whether {} {} was paid before is not known ({} of {} to {}, nonce {}); it is not paid again until that is reconciled",
        .0.method, .0.url, .0.amount, .0.network, .0.pay_to, .0.nonce
    )]
    Ambiguous(Box<OpenPayment>),
    #[error("nonce {0} has been used for a payment")]
    NonceUsed(Nonce),
    #[error("no payment with nonce {0} is in doubt")]
    NotOpen(Nonce),
    #[error("the money can be taken until {until} s after 1970; only then can a payment be known not to be made")]
    StillValid { until: i64 },
}

impl From<JournalError> for Error {
    fn from(error: JournalError) -> Self {
        let message = error.to_string();
        match error {
            JournalError::Ambiguous(payment) => {
                let mut error = Self::local("X402_PAYMENT_OUTCOME_AMBIGUOUS", message);
                error.safe_to_retry = Some(false);
                error.mutation_state = Some("unknown".to_owned());
                error.with_details(serde_json::to_value(payment).expect("strings and numbers can be written as JSON"))
            }
            JournalError::File(error) => error.into(),
            JournalError::Damaged { .. } => Self::local("PAYMENT_JOURNAL_DAMAGED", message),
            JournalError::NonceUsed(_) | JournalError::NotOpen(_) | JournalError::StillValid { .. } => {
                Self::local("LOCAL_ERROR", message)
            }
        }
    }
}

/// What a person found out about a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Paid { transaction: Option<String> },
    NotPaid,
}

/// The journal of one profile. Clones share one queue; other processes are kept out by a lock. File work
/// is done where it is called: a few short reads and writes.
#[derive(Debug, Clone)]
pub struct Journal {
    path: PathBuf,
    queue: Queue,
}

impl Journal {
    pub fn new(environment: &Environment) -> Self {
        Self { path: environment.profile_dir().join(FILE), queue: Queue::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes down what is about to be paid, on the disk before it returns. Refused when the same request
    /// may have been paid before. When this is cancelled or fails, nothing may be sent.
    pub async fn intend(&self, decision: Decision, now: OffsetDateTime) -> Result<Intent, JournalError> {
        let _turn = self.queue.enter(&self.path).await?;
        let ledger = self.ledger()?;
        let payment = open_payment(&decision, now);
        if let Some(open) = ledger.open().find(|open| open.identity == payment.identity) {
            return Err(JournalError::Ambiguous(Box::new(open.clone())));
        }
        if ledger.knows(payment.nonce) {
            return Err(JournalError::NonceUsed(payment.nonce));
        }
        let mut keep_bytes = ledger.whole_bytes;
        if keep_bytes > ROTATE_BYTES && ledger.open().next().is_none() {
            let aside = self.path.with_file_name(format!("payments.v1.{}.jsonl", now.unix_timestamp_nanos()));
            files::rename_new(&self.path, &aside)?;
            keep_bytes = 0;
        }
        files::append_private(&self.path, keep_bytes as u64, &Record::Intended(payment.clone()).line())?;
        Ok(Intent { journal: self.clone(), payment, header: decision.header })
    }

    /// The payments that nobody knows the outcome of: those of killed processes, and those being made now.
    pub fn open_payments(&self) -> Result<Vec<OpenPayment>, JournalError> {
        Ok(self.ledger()?.open().cloned().collect())
    }

    /// Ends the doubt about a payment. Refused when there is none, and when it is said not to be made while
    /// it still can be.
    pub async fn reconcile(&self, nonce: Nonce, verdict: Verdict, now: OffsetDateTime) -> Result<(), JournalError> {
        let _turn = self.queue.enter(&self.path).await?;
        let ledger = self.ledger()?;
        let payment = ledger.open().find(|open| open.nonce == nonce).ok_or(JournalError::NotOpen(nonce))?;
        let (at, by) = (now.unix_timestamp(), Source::Reconciled);
        let record = match verdict {
            Verdict::Paid { transaction } => Record::Settled { at, nonce, transaction, by },
            Verdict::NotPaid => {
                let until = i64::try_from(payment.valid_before).unwrap_or(i64::MAX).saturating_add(SKEW_SECONDS);
                if at <= until {
                    return Err(JournalError::StillValid { until });
                }
                Record::Refused { at, nonce, reason: "looked up: not paid".to_owned(), by }
            }
        };
        Ok(files::append_private(&self.path, ledger.whole_bytes as u64, &record.line())?)
    }

    async fn append(&self, record: &Record) -> Result<(), JournalError> {
        let _turn = self.queue.enter(&self.path).await?;
        let ledger = self.ledger()?;
        Ok(files::append_private(&self.path, ledger.whole_bytes as u64, &record.line())?)
    }

    fn ledger(&self) -> Result<Ledger, JournalError> {
        let bytes = files::read_bounded(&self.path, MAX_BYTES)?.unwrap_or_default();
        Ledger::read(&bytes).map_err(|damage| JournalError::Damaged { path: self.path.clone(), damage })
    }
}

fn open_payment(decision: &Decision, now: OffsetDateTime) -> OpenPayment {
    let (request, authorization) = (decision.request(), decision.authorization());
    OpenPayment {
        at: now.unix_timestamp(),
        nonce: authorization.nonce,
        identity: request.identity(),
        method: request.method().to_owned(),
        url: request.url().to_owned(),
        network: authorization.network,
        asset: authorization.network.usdc(),
        amount: authorization.value,
        from: authorization.from,
        pay_to: authorization.to,
        valid_before: authorization.valid_before,
    }
}

/// A payment that is written down and may be sent, once. Dropped without an outcome it stays in doubt.
#[derive(Debug)]
#[must_use = "the payment is in doubt until its outcome is written down"]
pub struct Intent {
    journal: Journal,
    payment: OpenPayment,
    header: PaymentHeader,
}

impl Intent {
    /// What to add to the request.
    pub const fn header(&self) -> &PaymentHeader {
        &self.header
    }

    pub const fn payment(&self) -> &OpenPayment {
        &self.payment
    }

    /// Writes down what became of it. An outcome in doubt is written down and is an error as well, for
    /// whoever made the request. When the writing fails, the payment stays in doubt.
    pub async fn finish(self, outcome: Outcome, now: OffsetDateTime) -> Result<(), JournalError> {
        let (at, nonce, by) = (now.unix_timestamp(), self.payment.nonce, Source::Answer);
        match outcome {
            Outcome::Settled { transaction } => {
                self.journal.append(&Record::Settled { at, nonce, transaction, by }).await
            }
            Outcome::Refused { reason } => self.journal.append(&Record::Refused { at, nonce, reason, by }).await,
            Outcome::Ambiguous { reason } => {
                self.journal.append(&Record::Ambiguous { at, nonce, reason }).await?;
                Err(JournalError::Ambiguous(Box::new(self.payment)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payment::{Atomic, Challenge, Network, PaidRequest, Payees, Payer, PaymentPolicy};
    use crate::signin::Signer;
    use serde_json::json;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const URL: &str = "http://127.0.0.1:7403/projects/v1";

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_767_225_600 + seconds).expect("a time")
    }

    fn decision(body: &[u8], nonce: u8) -> Decision {
        let network = Network::Base;
        let (name, version) = network.token_domain();
        let challenge = json!({"x402Version": 2, "resource": {"url": URL}, "accepts": [{"scheme": "exact",
            "network": network.caip2(), "asset": network.usdc().to_lower(), "amount": "5", "maxTimeoutSeconds": 300,
            "payTo": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "extra": {"name": name, "version": version}}]});
        let challenge = Challenge::read(None, challenge.to_string().as_bytes()).expect("readable").expect("there");
        let policy = PaymentPolicy { max_atomic: [(network, Atomic(5))].into(), payees: Payees::Any };
        let payer = Payer::new(Signer::from_bytes(&[7; 32]).expect("a key"), policy);
        let request = PaidRequest::new("POST", URL, body);
        payer.decide(&challenge, &request, at(0), Nonce::new([nonce; 32])).expect("allowed")
    }

    fn journal(directory: &tempfile::TempDir) -> Journal {
        Journal { path: directory.path().join("profile").join(FILE), queue: Queue::default() }
    }

    fn lines(journal: &Journal) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(journal.path()).expect("a journal");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn settled() -> Outcome {
        Outcome::Settled { transaction: Some("0xabc".to_owned()) }
    }

    #[tokio::test]
    async fn a_payment_is_written_down_before_its_header_is_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let journal = journal(&directory);
        let intent = journal.intend(decision(b"a", 1), at(0)).await.expect("the first");
        let mode = fs::metadata(journal.path()).expect("a journal").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let written = lines(&journal);
        assert_eq!((written.len(), &written[0]["event"], &written[0]["amount"]), (1, &json!("intended"), &json!("5")));
        assert!(!fs::read_to_string(journal.path()).expect("text").contains(intent.header().value.reveal()));
        assert_eq!(journal.open_payments().expect("readable"), [intent.payment().clone()]);
        intent.finish(settled(), at(1)).await.expect("written");
        assert_eq!(lines(&journal)[1]["transaction"], json!("0xabc"));
        assert_eq!(journal.open_payments().expect("readable"), []);
        // What was settled is done; the same again is another purchase.
        let again = journal.intend(decision(b"a", 2), at(2)).await.expect("another purchase");
        again.finish(Outcome::Refused { reason: "no".into() }, at(3)).await.expect("written");
        let _third = journal.intend(decision(b"a", 3), at(4)).await.expect("the second was not paid");
    }

    #[tokio::test]
    async fn a_payment_in_doubt_is_not_made_again() {
        for outcome in [None, Some(Outcome::Ambiguous { reason: "?".to_owned() })] {
            let directory = tempfile::tempdir().expect("a directory");
            let journal = journal(&directory);
            let intent = journal.intend(decision(b"a", 1), at(0)).await.expect("the first");
            let payment = intent.payment().clone();
            match outcome {
                None => drop(intent),
                Some(outcome) => {
                    let error: Error = intent.finish(outcome, at(1)).await.expect_err("in doubt").into();
                    assert_eq!(error.code, "X402_PAYMENT_OUTCOME_AMBIGUOUS");
                    assert_eq!(error.retry(), crate::error::Retry::Never);
                    assert_eq!(error.details["nonce"], json!(payment.nonce.to_string()));
                }
            }
            // Another process has no memory of it but the file.
            let journal = Journal { queue: Queue::default(), ..journal };
            let refused = journal.intend(decision(b"a", 2), at(9999)).await.expect_err("in doubt");
            assert!(matches!(&refused, JournalError::Ambiguous(open) if **open == payment), "{refused}");
            let other = journal.intend(decision(b"b", 3), at(2)).await.expect("another request");
            other.finish(settled(), at(2)).await.expect("written");

            let until = 1_767_225_600 + 300 + SKEW_SECONDS;
            let early = journal.reconcile(payment.nonce, Verdict::NotPaid, at(360)).await.expect_err("too early");
            assert!(matches!(early, JournalError::StillValid { until: found } if found == until), "{early}");
            journal.reconcile(payment.nonce, Verdict::NotPaid, at(361)).await.expect("late enough");
            let twice = journal.reconcile(payment.nonce, Verdict::NotPaid, at(361)).await.expect_err("done");
            assert!(matches!(twice, JournalError::NotOpen(nonce) if nonce == payment.nonce));
            let _again = journal.intend(decision(b"a", 4), at(362)).await.expect("reconciled");
        }
    }

    #[tokio::test]
    async fn a_payment_found_paid_can_be_reconciled_at_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let journal = journal(&directory);
        let nonce = journal.intend(decision(b"a", 1), at(0)).await.expect("the first").payment().nonce;
        journal.reconcile(nonce, Verdict::Paid { transaction: None }, at(1)).await.expect("known");
        assert_eq!(journal.open_payments().expect("readable"), []);
        assert_eq!(lines(&journal)[1]["by"], json!("reconciled"));
        let reused = journal.intend(decision(b"b", 1), at(2)).await.expect_err("the nonce again");
        assert!(matches!(reused, JournalError::NonceUsed(_)), "{reused}");
    }

    #[tokio::test]
    async fn of_many_at_once_one_pays() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut tasks = tokio::task::JoinSet::new();
        for nonce in 1..=8 {
            // Each has a queue of its own, as another process would.
            let journal = journal(&directory);
            tasks.spawn(async move { journal.intend(decision(b"a", nonce), at(0)).await.map(drop) });
        }
        let results = tasks.join_all().await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        let doubtful = |error: &JournalError| matches!(error, JournalError::Ambiguous(_));
        assert_eq!(
            results.iter().filter_map(|result| result.as_ref().err()).filter(|error| doubtful(error)).count(),
            7
        );
        assert_eq!(lines(&journal(&directory)).len(), 1);
    }

    #[tokio::test]
    async fn a_torn_line_is_cut_off_and_damage_stops_paying() {
        let directory = tempfile::tempdir().expect("a directory");
        let journal = journal(&directory);
        let first = journal.intend(decision(b"a", 1), at(0)).await.expect("the first");
        first.finish(settled(), at(1)).await.expect("written");
        let whole = fs::read(journal.path()).expect("a journal");
        fs::write(journal.path(), [&whole[..], b"{\"event\":\"intend"].concat()).expect("torn");
        drop(journal.intend(decision(b"b", 2), at(2)).await.expect("the torn line was never sent"));
        assert_eq!(lines(&journal).len(), 3);
        fs::write(journal.path(), [b"garbage\n", &whole[..]].concat()).expect("damaged");
        let error = journal.intend(decision(b"c", 3), at(3)).await.expect_err("damaged");
        assert!(matches!(error, JournalError::Damaged { damage: Damage { line: 1 }, .. }), "{error}");
        assert!(journal.open_payments().is_err());
    }

    #[tokio::test]
    async fn a_long_journal_is_put_aside_when_nothing_in_it_is_in_doubt() {
        let directory = tempfile::tempdir().expect("a directory");
        let journal = journal(&directory);
        let doubtful = journal.intend(decision(b"a", 1), at(0)).await.expect("the first");
        let end = Record::Refused { at: 0, nonce: Nonce::new([9; 32]), reason: "x".repeat(1000), by: Source::Answer };
        let length = fs::metadata(journal.path()).expect("a journal").len();
        files::append_private(journal.path(), length, &end.line().repeat(ROTATE_BYTES / 1000)).expect("long");
        drop(journal.intend(decision(b"b", 2), at(0)).await.expect("allowed"));
        assert!(lines(&journal).len() > 4000, "the first is in doubt");
        doubtful.finish(settled(), at(1)).await.expect("written");
        journal.reconcile(Nonce::new([2; 32]), Verdict::Paid { transaction: None }, at(1)).await.expect("known");
        drop(journal.intend(decision(b"c", 3), at(1)).await.expect("allowed"));
        assert_eq!(lines(&journal).len(), 1);
        assert_eq!(fs::read_dir(journal.path().parent().expect("a parent")).expect("a list").count(), 2);
    }

    #[tokio::test]
    async fn hostile_files_in_its_place_stop_paying() {
        for kind in ["directory", "fifo", "link", "huge"] {
            let directory = tempfile::tempdir().expect("a directory");
            let journal = journal(&directory);
            fs::create_dir(journal.path().parent().expect("a parent")).expect("a directory");
            let outside = directory.path().join("outside");
            fs::write(&outside, b"").expect("a file");
            match kind {
                "directory" => fs::create_dir(journal.path()).expect("a directory"),
                "fifo" => {
                    rustix::fs::mkfifoat(rustix::fs::CWD, journal.path(), rustix::fs::Mode::RWXU).expect("a FIFO")
                }
                "link" => symlink(&outside, journal.path()).expect("a link"),
                _ => fs::File::create(journal.path()).and_then(|file| file.set_len(MAX_BYTES + 1)).expect("sparse"),
            }
            let error = journal.intend(decision(b"a", 1), at(0)).await.expect_err(kind);
            assert!(matches!(error, JournalError::File(_)), "{kind}: {error}");
            assert_eq!(fs::read(&outside).expect("untouched"), b"");
        }
    }
}
