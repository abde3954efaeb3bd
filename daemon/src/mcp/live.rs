//! The output of a run while it runs, as progress notifications.
//!
//! Input: a run that has been started; output: at most ten messages a second of at most 16 KiB, until it ends. What is
//! written faster is passed over and said to be: the journal has all of it.

use super::tool::Call;
use crate::output::begun_character;
use crate::projects::Entry;
use crate::service::Error;
use crate::tail::{News, Tail};
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use sandbox_keeper::journal::{Output, Select, Then};
use sandbox_wire::RunId;
use std::sync::Arc;
use std::time::Duration;

/// Even written as JSON escapes it is far below the mebibyte that clients take in one event.
const MESSAGE_BYTES: usize = 16 << 10;
/// Between two messages.
const PAUSE: Duration = Duration::from_millis(100);
/// Many clients give up a call of which they have not heard for a minute.
const SILENCE: Duration = Duration::from_secs(15);
/// What a run may be ahead of its messages before they skip what lies between.
const BACKLOG_BYTES: u64 = 4 * MESSAGE_BYTES as u64;

/// Returns when the run has ended and its last output was sent.
pub(crate) async fn follow(call: &Call, entry: &Arc<Entry>, run: &RunId, token: ProgressToken) -> Result<(), Error> {
    let mut messages = Messages { call, token, count: 0.0 };
    let mut tail = Tail::open(&call.service, entry, run)?;
    let mut next = 0;
    loop {
        let read = match tail.first(Select::All, next, MESSAGE_BYTES, Duration::ZERO).await {
            Ok(read) => read,
            // More was written than is kept.
            Err(Error::Problem(problem)) if oldest_kept(&problem).is_some_and(|oldest| oldest > next) => {
                next = oldest_kept(&problem).unwrap_or(next);
                continue;
            }
            Err(error) => return Err(error),
        };
        let (text, taken) = whole_characters(&read);
        if taken > 0 {
            messages.send(text).await;
            next += taken;
            tokio::time::sleep(PAUSE).await;
            next = skip_backlog(&mut tail, next, &mut messages).await?;
            continue;
        }
        match read.then {
            Then::End | Then::Expired { .. } => return Ok(()),
            Then::More => {}
            Then::Pending => match tail.wait(SILENCE).await {
                News::Grown => {}
                News::Nothing => messages.send("(running, without output)\n".to_owned()).await,
                News::Ended(_) => return Ok(()),
            },
        }
    }
}

fn oldest_kept(problem: &sandbox_wire::Problem) -> Option<u64> {
    problem.details.get("oldest_offset").and_then(serde_json::Value::as_u64)
}

/// Text up to the last whole character, and the bytes that it takes of the output.
fn whole_characters(read: &Output) -> (String, u64) {
    let bytes = read.data.concat();
    let whole = match read.then {
        // What is begun is not going to be finished.
        Then::End => bytes.len(),
        _ => bytes.len() - begun_character(&bytes),
    };
    (String::from_utf8_lossy(&bytes[..whole]).into_owned(), whole as u64)
}

/// Goes on near the end of what is there, when that is far ahead.
async fn skip_backlog(tail: &mut Tail, next: u64, messages: &mut Messages<'_>) -> Result<u64, Error> {
    let ahead = tail.length(Select::All)?.saturating_sub(next);
    if ahead <= BACKLOG_BYTES {
        return Ok(next);
    }
    let skipped = ahead - MESSAGE_BYTES as u64;
    messages.send(format!("\n[{skipped} bytes are left out here; run_output reads them]\n")).await;
    Ok(next + skipped)
}

struct Messages<'a> {
    call: &'a Call,
    token: ProgressToken,
    count: f64,
}

impl Messages<'_> {
    async fn send(&mut self, text: String) {
        self.count += 1.0;
        let progress = ProgressNotificationParam::new(self.token.clone(), self.count).with_message(text);
        // Whoever does not listen any more has no use for it; that the call is given up is heard elsewhere.
        if let Err(error) = self.call.context.peer.notify_progress(progress).await {
            tracing::debug!(%error, "a progress notification was not sent");
        }
    }
}
