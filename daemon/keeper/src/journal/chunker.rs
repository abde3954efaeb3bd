//! Where a stream of bytes may be cut: never inside a character.
//!
//! Input: what single reads of a pipe returned. Output: the same bytes as chunks of at most
//! [`MAX_CHUNK_BYTES`]. Pure. Follows the table of well-formed byte sequences of the Unicode
//! standard, section 3.9 (table 3-7), which is also what `str::from_utf8` accepts.

/// The longest chunk.
pub const MAX_CHUNK_BYTES: usize = 128 * 1024;

/// Cuts one stream into chunks. Holds back at most three bytes: those of a character that has
/// begun and may still become valid. Bytes that cannot become a character are never held back.
#[derive(Debug, Default)]
pub struct Chunker {
    held: [u8; 4],
    held_len: usize,
}

impl Chunker {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the bytes of one read and gives out those that may be written, in order.
    pub fn push(&mut self, input: &[u8], mut emit: impl FnMut(&[u8])) {
        let mut rest = input;
        while self.held_len > 0 {
            let Some((&byte, after)) = rest.split_first() else { return };
            self.held[self.held_len] = byte;
            match sequence(&self.held[..=self.held_len]) {
                Sequence::Begun => {
                    self.held_len += 1;
                    rest = after;
                }
                Sequence::Whole => {
                    emit(&self.held[..=self.held_len]);
                    self.held_len = 0;
                    rest = after;
                }
                // The byte does not continue the character: what was held is not one.
                Sequence::Broken => {
                    emit(&self.held[..self.held_len]);
                    self.held_len = 0;
                }
            }
        }
        let (mut ready, begun) = rest.split_at(rest.len() - begun_at_end(rest));
        self.held[..begun.len()].copy_from_slice(begun);
        self.held_len = begun.len();
        while !ready.is_empty() {
            let mut cut = ready.len().min(MAX_CHUNK_BYTES);
            if cut < ready.len() {
                cut -= begun_at_end(&ready[..cut]);
            }
            let (chunk, after) = ready.split_at(cut);
            emit(chunk);
            ready = after;
        }
    }

    /// The stream has ended, or has been quiet for long: gives out what is held back.
    pub fn flush(&mut self, emit: impl FnOnce(&[u8])) {
        let held = std::mem::take(&mut self.held_len);
        if held > 0 {
            emit(&self.held[..held]);
        }
    }
}

enum Sequence {
    Begun,
    Whole,
    Broken,
}

/// What one to four bytes are, the first of which may begin a character of several bytes.
fn sequence(bytes: &[u8]) -> Sequence {
    let length = match bytes[0] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Sequence::Broken,
    };
    if let Some(second) = bytes.get(1) {
        let allowed = match bytes[0] {
            0xe0 => 0xa0..=0xbf,
            0xed => 0x80..=0x9f,
            0xf0 => 0x90..=0xbf,
            0xf4 => 0x80..=0x8f,
            _ => 0x80..=0xbf,
        };
        if !allowed.contains(second) || !bytes[2..].iter().all(|byte| is_continuation(*byte)) {
            return Sequence::Broken;
        }
    }
    if bytes.len() < length { Sequence::Begun } else { Sequence::Whole }
}

pub(super) fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// How many bytes at the end (0 to 3) are a character that has begun and may still become valid.
pub(super) fn begun_at_end(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let suffix = &bytes[bytes.len() - back..];
        if !is_continuation(suffix[0]) {
            return if matches!(sequence(suffix), Sequence::Begun) { back } else { 0 };
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunks(reads: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut chunker = Chunker::new();
        let mut chunks = Vec::new();
        for read in reads {
            chunker.push(read, |chunk| chunks.push(chunk.to_vec()));
        }
        chunker.flush(|chunk| chunks.push(chunk.to_vec()));
        chunks
    }

    /// Start and end of each character of several bytes, as the standard library decodes them.
    fn characters(bytes: &[u8]) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        let mut at = 0;
        for piece in bytes.utf8_chunks() {
            for (offset, character) in piece.valid().char_indices() {
                found.push((at + offset, at + offset + character.len_utf8()));
            }
            at += piece.valid().len() + piece.invalid().len();
        }
        found
    }

    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            "[a-z\u{e9}\u{20ac}\u{1f980}\u{d7ff}\u{10ffff}]{0,6}".prop_map(String::into_bytes),
            proptest::collection::vec(
                proptest::sample::select(vec![0u8, 0x80, 0xbf, 0xc0, 0xc3, 0xe0, 0xe2, 0xed, 0xf0, 0xf4, 0xff]),
                0..5
            ),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_character_is_split(
            bytes in texts(), cuts in proptest::collection::vec(0usize..80, 0..12)
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let mut from = 0;
            let mut reads = Vec::new();
            for cut in cuts {
                reads.push(bytes[from..cut].to_vec());
                from = cut;
            }
            let chunks = chunks(&reads);
            prop_assert_eq!(chunks.concat(), bytes.clone());
            prop_assert!(chunks.iter().all(|chunk| !chunk.is_empty()));
            let whole = characters(&bytes);
            let mut edge = 0;
            for chunk in &chunks {
                edge += chunk.len();
                prop_assert!(!whole.iter().any(|(from, to)| *from < edge && edge < *to), "cut at {}", edge);
            }
        }

        #[test]
        fn only_what_may_become_a_character_is_held_back(bytes in texts()) {
            let mut chunker = Chunker::new();
            let mut out = Vec::new();
            chunker.push(&bytes, |chunk| out.extend_from_slice(chunk));
            let held = &bytes[out.len()..];
            prop_assert!(held.len() <= 3);
            if let Err(error) = std::str::from_utf8(held) {
                prop_assert_eq!((error.valid_up_to(), error.error_len()), (0, None));
            }
        }
    }

    #[test]
    fn an_emoji_written_byte_by_byte_is_one_chunk() {
        let reads: Vec<Vec<u8>> = "🦀".bytes().map(|byte| vec![byte]).collect();
        assert_eq!(chunks(&reads), vec!["🦀".as_bytes().to_vec()]);
    }

    #[test]
    fn invalid_bytes_come_out_at_once() {
        let mut chunker = Chunker::new();
        let mut out = Vec::new();
        chunker.push(b"a\xff", |chunk| out.push(chunk.to_vec()));
        chunker.push(b"\xe2\x82", |chunk| out.push(chunk.to_vec()));
        chunker.push(b"\xe2", |chunk| out.push(chunk.to_vec()));
        assert_eq!(out, vec![b"a\xff".to_vec(), b"\xe2\x82".to_vec()]);
    }

    #[test]
    fn long_reads_become_several_chunks() {
        let text = "€".repeat(MAX_CHUNK_BYTES);
        let chunks = chunks(&[text.clone().into_bytes()]);
        assert_eq!(chunks.concat(), text.as_bytes());
        assert!(chunks.iter().all(|chunk| chunk.len() <= MAX_CHUNK_BYTES && std::str::from_utf8(chunk).is_ok()));
        assert_eq!(chunks.len(), 4);
    }
}
