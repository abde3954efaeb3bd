//! Host id ranges: which 65,536 user and group ids belong to which project. Pure.
//!
//! Input: the slots that projects hold; output: a free one. Slot n is the range that starts at
//! 1,000,000,000 + n × 65,536. Where the search starts depends on the state directory, so that several
//! daemons on one host rarely hand out the same range.

use std::collections::HashSet;

const FIRST_ID: u32 = 1_000_000_000;
const IDS_PER_PROJECT: u32 = 65_536;
/// The last range ends below 2^32 - 2, which is no valid id.
const SLOTS: u32 = 50_000;

/// The slots in use; one is free again only when the caller says that no file has its ids any more.
#[derive(Debug)]
pub(crate) struct Slots {
    taken: HashSet<u32>,
    next: u32,
}

impl Slots {
    /// `seed` says where the search starts.
    pub(crate) fn new(seed: u64) -> Self {
        let next = u32::try_from(seed % u64::from(SLOTS)).expect("less than SLOTS, which is a u32");
        Self { taken: HashSet::new(), next }
    }

    /// A slot that a project already has.
    pub(crate) fn take(&mut self, slot: u32) {
        self.taken.insert(slot);
    }

    /// A free slot; none when all of them are taken.
    pub(crate) fn allocate(&mut self) -> Option<u32> {
        for _ in 0..SLOTS {
            let slot = self.next;
            self.next = (self.next + 1) % SLOTS;
            if self.taken.insert(slot) {
                return Some(slot);
            }
        }
        None
    }

    pub(crate) fn free(&mut self, slot: u32) {
        self.taken.remove(&slot);
    }
}

/// First host id of a slot's range; none for a number that is not a slot.
pub(crate) fn id_base(slot: u32) -> Option<u32> {
    (slot < SLOTS).then(|| FIRST_ID + slot * IDS_PER_PROJECT)
}

/// The slot whose range starts at this id.
pub(crate) fn slot_of(id_base: u32) -> Option<u32> {
    let offset = id_base.checked_sub(FIRST_ID)?;
    let slot = offset / IDS_PER_PROJECT;
    (offset % IDS_PER_PROJECT == 0 && slot < SLOTS).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_unique_and_come_back_when_freed() {
        let mut slots = Slots::new(u64::from(SLOTS) * 7 + 49_999);
        slots.take(0);
        assert_eq!(slots.allocate(), Some(49_999));
        assert_eq!(slots.allocate(), Some(1), "wraps and skips what is taken");
        for _ in 3..SLOTS {
            assert!(slots.allocate().is_some());
        }
        assert_eq!(slots.allocate(), None);
        slots.free(12);
        assert_eq!(slots.allocate(), Some(12));
    }

    #[test]
    fn ranges_are_valid_ids() {
        assert_eq!(id_base(0), Some(1_000_000_000));
        let last = id_base(SLOTS - 1).expect("a slot");
        assert!(last.checked_add(IDS_PER_PROJECT).is_some_and(|end| end < u32::MAX - 1));
        assert_eq!(id_base(SLOTS), None);
        assert_eq!(slot_of(last), Some(SLOTS - 1));
        assert_eq!(slot_of(last + 1), None);
        assert_eq!(slot_of(0), None);
    }
}
