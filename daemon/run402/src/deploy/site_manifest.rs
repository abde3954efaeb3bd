//! The digest by which early gateways named a static site.
//!
//! Input: the files of a site. Output: SHA-256 of their canonical JSON: keys sorted, no spaces, files in
//! the order of their paths. Gateways no longer ask for it; it still tells whether two sites are the same.

use super::digest::Digest;
use serde::Serialize;

/// One file as the manifest has it; the fields are in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ManifestFile {
    pub content_type: String,
    pub path: String,
    pub sha256: String,
    pub size: u64,
}

/// The canonical JSON of the files.
pub fn canonical(mut files: Vec<ManifestFile>) -> String {
    #[derive(Serialize)]
    struct Manifest {
        files: Vec<ManifestFile>,
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    serde_json::to_string(&Manifest { files }).expect("texts and numbers can be written as JSON")
}

/// The digest of the canonical JSON.
pub fn digest(files: Vec<ManifestFile>) -> Digest {
    Digest::of(canonical(files).as_bytes())
}
