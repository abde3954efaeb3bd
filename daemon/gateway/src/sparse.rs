//! Files whose holes stay holes: zeros are not written, and take no room on the disk.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

/// What is looked at together; filesystems have blocks of 4 KiB or more.
const BLOCK: usize = 16 << 10;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// An empty file that is written from its beginning to its end.
#[derive(Debug)]
pub(crate) struct SparseFile {
    file: File,
    length: u64,
}

impl SparseFile {
    pub(crate) const fn new(file: File) -> Self {
        Self { file, length: 0 }
    }

    /// The file, as long as all that was written.
    pub(crate) fn finish(self) -> io::Result<File> {
        self.file.set_len(self.length)?;
        Ok(self.file)
    }
}

impl Write for SparseFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let block = &bytes[..bytes.len().min(BLOCK)];
        if block == &ZEROS[..block.len()] {
            self.file.seek(SeekFrom::Current(i64::try_from(block.len()).map_err(io::Error::other)?))?;
        } else {
            self.file.write_all(block)?;
        }
        self.length += block.len() as u64;
        Ok(block.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_bytes_are_the_same_and_holes_take_no_room() {
        let folder = tempfile::tempdir().expect("a directory");
        for (index, (parts, full)) in [
            (vec![vec![1; 100_000], vec![0; 4 << 20], vec![2; 5]], 1),
            (vec![vec![0; 4 << 20]], 0),
            (vec![vec![0; 3], vec![7], vec![0; 70_000]], 1),
            (vec![], 0),
        ]
        .into_iter()
        .enumerate()
        {
            let path = folder.path().join(index.to_string());
            let mut file = SparseFile::new(File::create(&path).expect("a file"));
            parts.iter().for_each(|part| file.write_all(part).expect("written"));
            drop(file.finish().expect("its length is set"));
            assert_eq!(std::fs::read(&path).expect("the file"), parts.concat());
            let blocks = std::fs::metadata(&path).expect("the file").blocks();
            assert!(blocks * 512 < 1 << 20 && (blocks > 0) == (full > 0), "{index}: {blocks} blocks");
        }
    }
}
