//! What of a stream a reply keeps: its first and its last half mebibyte. Pure.

use super::chunker::{begun_at_end, is_continuation};
use sandbox_wire::Omitted;

/// Bytes that are kept of either end.
pub const HALF_BYTES: usize = 512 * 1024;

/// Both ends of a stream and its exact length. Holds no more memory than twice what was written,
/// and never more than the two halves.
#[derive(Debug, Default)]
pub struct HeadTail {
    head: Vec<u8>,
    /// A ring once it is full: the oldest byte is at `oldest`.
    tail: Vec<u8>,
    oldest: usize,
    total: u64,
}

impl HeadTail {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let (head, rest) = bytes.split_at(bytes.len().min(HALF_BYTES - self.head.len()));
        extend(&mut self.head, head);
        let rest = &rest[rest.len().saturating_sub(HALF_BYTES)..];
        let (grow, mut over) = rest.split_at(rest.len().min(HALF_BYTES - self.tail.len()));
        extend(&mut self.tail, grow);
        while !over.is_empty() {
            let (now, later) = over.split_at(over.len().min(HALF_BYTES - self.oldest));
            self.tail[self.oldest..self.oldest + now.len()].copy_from_slice(now);
            self.oldest = (self.oldest + now.len()) % HALF_BYTES;
            over = later;
        }
    }

    /// Bytes of the stream, kept or not.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The kept bytes, and the range that lies between the two halves when anything does. The range
    /// is exact, and up to three bytes longer on either side than the halves require, so that no
    /// character is cut: `kept.len() + (omitted_to - omitted_from) == total`.
    pub fn into_parts(self) -> (Vec<u8>, Option<Omitted>) {
        let Self { mut head, mut tail, oldest, total } = self;
        if total == (head.len() + tail.len()) as u64 {
            head.append(&mut tail);
            return (head, None);
        }
        tail.rotate_left(oldest);
        head.truncate(head.len() - begun_at_end(&head));
        let cut = tail.iter().take(3).take_while(|byte| is_continuation(**byte)).count();
        let tail = &tail[cut..];
        let omitted = Omitted { omitted_from: head.len() as u64, omitted_to: total - tail.len() as u64 };
        head.extend_from_slice(tail);
        (head, Some(omitted))
    }
}

/// Grows by doubling, but never beyond the half.
fn extend(half: &mut Vec<u8>, bytes: &[u8]) {
    let needed = half.len() + bytes.len();
    if needed > half.capacity() {
        half.reserve_exact((needed * 2).min(HALF_BYTES) - half.len());
    }
    half.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(pieces: &[&[u8]]) -> (Vec<u8>, Option<Omitted>) {
        let mut ends = HeadTail::new();
        for piece in pieces {
            ends.push(piece);
        }
        ends.into_parts()
    }

    #[test]
    fn a_mebibyte_is_kept_whole_and_one_more_byte_is_not() {
        let bytes: Vec<u8> = (0..2 * HALF_BYTES + 1).map(|i| (i % 127) as u8).collect();
        assert_eq!(kept(&[&bytes[1..]]), (bytes[1..].to_vec(), None));
        let (all, omitted) = kept(&[&bytes]);
        assert_eq!(omitted, Some(Omitted { omitted_from: 524_288, omitted_to: 524_289 }));
        assert_eq!(all, [&bytes[..HALF_BYTES], &bytes[HALF_BYTES + 1..]].concat());
    }

    #[test]
    fn a_cut_splits_no_character() {
        // Three bytes each, and neither half is a multiple of three: both edges fall into a character.
        let text = "€".repeat(700_000);
        let (all, omitted) = kept(&[text.as_bytes()]);
        assert!(std::str::from_utf8(&all).is_ok());
        let omitted = omitted.expect("two mebibytes do not fit");
        assert_eq!(all.len() as u64 + omitted.omitted_to - omitted.omitted_from, text.len() as u64);
        assert!(all.len() > 2 * HALF_BYTES - 6);
    }

    #[test]
    fn small_streams_take_little_memory() {
        let mut ends = HeadTail::new();
        ends.push(b"hi\n");
        assert!(ends.head.capacity() < 64 && ends.tail.capacity() == 0);
        assert_eq!(ends.total(), 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn both_ends_are_exact(lengths in proptest::collection::vec(0usize..400_000, 0..12)) {
            let total: usize = lengths.iter().sum();
            let bytes: Vec<u8> = (0..total).map(|i| (i * 7 % 127) as u8).collect();
            let mut ends = HeadTail::new();
            let mut from = 0;
            for length in lengths {
                ends.push(&bytes[from..from + length]);
                from += length;
            }
            prop_assert_eq!(ends.total(), total as u64);
            let (all, omitted) = ends.into_parts();
            match omitted {
                None => prop_assert_eq!(all, bytes),
                Some(omitted) => {
                    let expected = [&bytes[..omitted.omitted_from as usize], &bytes[omitted.omitted_to as usize..]];
                    prop_assert_eq!(all, expected.concat());
                    prop_assert_eq!((omitted.omitted_to - omitted.omitted_from) as usize, total - 2 * HALF_BYTES);
                }
            }
        }
    }
}
