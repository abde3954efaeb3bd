//! A request that is paid when the gateway asks for it and the policy allows it.
//!
//! `402 -> Challenge -> Decision -> Intent (on the disk) -> the same request once more -> Outcome (on the
//! disk)`. A second 402 is final. A request whose payment is in doubt is not sent again at all.

use crate::client::{Exchanged, Reply, Request};
use crate::error::Error;
use crate::payment::{
    Answer, Challenge, Journal, Nonce, Outcome, PAYMENT_REQUIRED, PaidRequest, Payer, RECEIPT_HEADERS, Receipt,
};
use time::OffsetDateTime;

/// Who pays, and where it is written down.
#[derive(Debug)]
pub struct Paying {
    payer: Payer,
    journal: Journal,
}

impl Paying {
    pub const fn new(payer: Payer, journal: Journal) -> Self {
        Self { payer, journal }
    }

    /// The answer to the paid request; the first one when it holds no challenge.
    pub(crate) async fn pay(&self, request: &Request<'_>, first: Reply) -> Result<Reply, Error> {
        let header = first.headers.get(PAYMENT_REQUIRED).and_then(|value| value.to_str().ok());
        let Some(challenge) = Challenge::read(header, &first.body)? else { return Ok(first) };
        let paid = PaidRequest::new(request.method(), &request.url(), request.body());
        let decision = self.payer.decide(&challenge, &paid, OffsetDateTime::now_utc(), Nonce::random())?;
        // From here on the money may be gone: the journal has it before the gateway does.
        let intent = self.journal.intend(decision, OffsetDateTime::now_utc()).await?;
        let network = intent.payment().network;
        let exchanged = request.exchange(Some(intent.header())).await;
        let receipt = match &exchanged {
            Exchanged::Answered(reply) => {
                let header = RECEIPT_HEADERS.iter().find_map(|name| reply.headers.get(*name)?.to_str().ok());
                header.and_then(Receipt::read)
            }
            Exchanged::NotSent(_) | Exchanged::Broken(_) => None,
        };
        let answer = match &exchanged {
            Exchanged::NotSent(_) => Answer::NotSent,
            Exchanged::Broken(_) => Answer::Broken,
            Exchanged::Answered(reply) => Answer::Complete { status: reply.status, receipt: receipt.as_ref() },
        };
        intent.finish(Outcome::of(&answer, network), OffsetDateTime::now_utc()).await?;
        match exchanged {
            Exchanged::Answered(reply) => Ok(reply),
            Exchanged::NotSent(error) | Exchanged::Broken(error) => Err(error),
        }
    }
}
