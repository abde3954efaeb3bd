//! Manifests that were read lately: one is asked for with every request to its site, and may be long.
//!
//! A release's manifest never changes, so that nothing here is ever out of date.

use crate::release::Manifest;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Files of all manifests together, but for the newest.
const MAX_FILES: usize = 400_000;
const MAX_MANIFESTS: usize = 256;

/// The one that was asked for last is the last.
#[derive(Debug, Default)]
pub(super) struct Manifests(Mutex<VecDeque<(String, Arc<Manifest>)>>);

fn files(manifest: &Manifest) -> usize {
    1 + manifest.site.len() + manifest.assets.len()
}

impl Manifests {
    pub(super) fn get(&self, release: &str) -> Option<Arc<Manifest>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(id, _)| id == release)?;
        let found = kept.remove(at)?;
        let manifest = found.1.clone();
        kept.push_back(found);
        Some(manifest)
    }

    pub(super) fn put(&self, release: &str, manifest: &Arc<Manifest>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(id, _)| id != release);
        kept.push_back((release.to_owned(), manifest.clone()));
        let mut total: usize = kept.iter().map(|(_, manifest)| files(manifest)).sum();
        while kept.len() > 1 && (total > MAX_FILES || kept.len() > MAX_MANIFESTS) {
            total -= kept.pop_front().map_or(0, |(_, oldest)| files(&oldest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ContentRef;
    use run402::deploy::Digest;

    #[test]
    fn the_newest_stay_while_there_is_room() {
        let kept = Manifests::default();
        let content = ContentRef::new(Digest::of(b""), 0, None);
        let site = |count: usize| (0..count).map(|index| (index.to_string(), content.clone())).collect();
        let manifest = |count| Arc::new(Manifest { site: site(count), ..Manifest::default() });
        for id in ["a", "b", "c"] {
            kept.put(id, &manifest(150_000));
            kept.get("a").expect("it was asked for last");
        }
        assert!(kept.get("b").is_none());
        assert!(kept.get("c").is_some());
        // One that fills everything is kept all the same.
        kept.put("large", &manifest(500_000));
        assert!(kept.get("large").is_some() && kept.get("a").is_none());
    }
}
