//! The bytes of a stream from an offset on, for callers that want no records.

use super::reader::{Reader, Seek, Select, cut_front};
use super::record::Kind;
use bytes::Bytes;
use std::io;

/// Consecutive bytes of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Slices of what was read, in order; not copied.
    pub data: Vec<Bytes>,
    /// Offset behind `data`: the next call's `after`.
    pub next: u64,
    pub then: Then,
}

/// What follows an [`Output`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// There may be more: the asked length was reached.
    More,
    /// Nothing yet.
    Pending,
    /// The run has ended and this was all.
    End,
    /// Bytes that are not kept any more; the first offset after them that is.
    Expired { oldest_kept: u64 },
}

impl Reader {
    /// At most `max` bytes of a stream from the offset `after` on. Continues without seeking when
    /// `after` is where the last call ended. `Then::Expired` with no data means that `after` itself
    /// is not kept; with data, that the next call will say so.
    pub fn read_stream(&mut self, select: Select, after: u64, max: usize) -> io::Result<Output> {
        let mut output = Output { data: Vec::new(), next: after, then: Then::More };
        if self.raw != Some((select, after)) {
            match self.seek_offset(select, after)? {
                Seek::Found => {}
                Seek::Expired { oldest_kept } => {
                    output.then = Then::Expired { oldest_kept };
                    return Ok(output);
                }
                Seek::Beyond { .. } => {
                    let ended = self.take()?.is_some_and(|record| record.header.kind == Kind::Exit);
                    output.then = if ended { Then::End } else { Then::Pending };
                    return Ok(output);
                }
            }
        }
        let mut room = max;
        while room > 0 {
            let Some(mut record) = self.take()? else {
                output.then = Then::Pending;
                break;
            };
            let from = select.of(record.header.at);
            if from > output.next {
                self.keep_back(record);
                output.then = Then::Expired { oldest_kept: from };
                break;
            }
            let stream = match record.header.kind {
                Kind::Chunk(stream) => stream,
                Kind::Start => continue,
                Kind::Exit => {
                    self.keep_back(record);
                    output.then = Then::End;
                    break;
                }
            };
            self.passed(&record);
            if !select.takes(stream) {
                continue;
            }
            let now = record.data.len().min(room);
            room -= now;
            output.next += now as u64;
            output.data.push(record.data.slice(..now));
            if now < record.data.len() {
                cut_front(&mut record, now as u64);
                self.keep_back(record);
            }
        }
        self.raw = Some((select, output.next));
        Ok(output)
    }
}
