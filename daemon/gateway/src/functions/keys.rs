//! Keys that a function has for the time of one call.
//!
//! The gateway does not know a project's own keys, only their hashes. A call is lent keys of its own with
//! the same rights; they are worth nothing once it has ended.

use crate::ids;
use crate::store::hash;
use crate::store::projects::KeyKind;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

type Lent = HashMap<[u8; 32], (String, KeyKind)>;

/// Every key that is lent at the moment, by its hash.
#[derive(Debug, Default)]
pub(crate) struct LentKeys(Mutex<Lent>);

/// The keys of one call; taken back when it is dropped.
#[derive(Debug)]
pub(super) struct CallKeys<'a> {
    all: &'a LentKeys,
    pub(super) anon: String,
    pub(super) service: String,
}

impl LentKeys {
    pub(super) fn lend(&self, project: &str) -> CallKeys<'_> {
        let keys = CallKeys { all: self, anon: ids::secret("anon_call_"), service: ids::secret("service_call_") };
        self.with(|lent| {
            lent.insert(hash(&keys.anon), (project.to_owned(), KeyKind::Anon));
            lent.insert(hash(&keys.service), (project.to_owned(), KeyKind::Service));
        });
        keys
    }

    /// Whose key this is, while it is lent.
    pub(crate) fn owner(&self, key: &str) -> Option<(String, KeyKind)> {
        self.with(|lent| lent.get(&hash(key)).cloned())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Lent) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for CallKeys<'_> {
    fn drop(&mut self) {
        self.all.with(|lent| {
            lent.remove(&hash(&self.anon));
            lent.remove(&hash(&self.service));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_good_for_its_call_only() {
        let keys = LentKeys::default();
        let (one, two) = (keys.lend("prj_1"), keys.lend("prj_2"));
        assert_eq!(keys.owner(&one.service), Some(("prj_1".to_owned(), KeyKind::Service)));
        assert_eq!(keys.owner(&two.anon), Some(("prj_2".to_owned(), KeyKind::Anon)));
        let key = one.service.clone();
        drop(one);
        assert_eq!((keys.owner(&key), keys.owner("service_call_")), (None, None));
        assert!(keys.owner(&two.service).is_some());
    }
}
