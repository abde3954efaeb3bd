//! The on-disk record of a run: its output with offsets, and how it ended.
//!
//! A journal is a folder `<project>/runs/<run_id>/` of segment files `000000`, `000001`, …, each a
//! sequence of framed records ([`record`]): one start, chunks of output, one exit. One process
//! appends ([`Writer`], the keeper); any number of others read ([`Reader`], sandboxd). Bytes once
//! written never change, so a reader needs no lock and no message to stay correct: what is not yet
//! whole at the end of the last segment is "nothing more yet". The same rule makes a journal
//! readable after `kill -9` at any moment.
//!
//! Of a long run the first and the last half of the policy's `output` limit stay: segments 0 to 3
//! are kept, of the others the oldest is unlinked whenever a ninth would come to be. Readers see
//! the hole as a [`Item::Gap`] with the exact number of missing bytes of each stream.
//!
//! [`Chunker`] and [`HeadTail`] are the pure parts of output handling: where a stream may be cut,
//! and what of it a reply keeps. This module knows no process, no socket and no policy.

mod chunker;
mod output;
mod reader;
mod record;
mod segments;
mod spare;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

pub use chunker::{Chunker, MAX_CHUNK_BYTES};
pub use output::{Output, Then};
pub use reader::{Item, Reader, Seek, Select};
pub use record::StartRecord;
pub use segments::{outcome, start};
pub use spare::Spare;
pub use tail::{HALF_BYTES, HeadTail};
pub use writer::Writer;
