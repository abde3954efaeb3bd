//! Leaves made ahead of time and used again.
//!
//! Input: a [`ProjectGroup`] and a policy's limits; output: [`Leaf`]s, each for one run. A leaf that
//! comes back while something is still in it waits until it is empty. The pool grows to the number
//! of runs there ever were at once and never shrinks: an empty leaf costs the kernel some 50 KB, a
//! removed one may cost the same without being of use.

use super::{CgroupError, Leaf, ProjectGroup};
use sandbox_policy::Limits;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The leaves of one project with the limits of one policy.
#[derive(Debug)]
pub struct LeafPool {
    group: Arc<ProjectGroup>,
    limits: Limits,
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    /// Ready for a run.
    ready: Vec<Leaf>,
    /// Given back, but not yet found empty.
    draining: Vec<Leaf>,
}

impl LeafPool {
    /// The project's own limits are raised where these are higher: a project as a whole gets the
    /// highest limits of the policies in use, each run its own policy's.
    pub fn new(group: Arc<ProjectGroup>, limits: &Limits) -> Result<Self, CgroupError> {
        group.cover(limits)?;
        Ok(Self { group, limits: limits.clone(), shelf: Mutex::default() })
    }

    /// Has at least so many leaves ready.
    pub fn prepare(&self, count: usize) -> Result<(), CgroupError> {
        self.collect();
        while self.shelf().ready.len() < count {
            let leaf = self.group.new_leaf(&self.limits)?;
            self.shelf().ready.push(leaf);
        }
        Ok(())
    }

    /// An empty leaf; a new one when none is ready. Call [`Leaf::begin`] once its init has joined.
    pub fn take(&self) -> Result<Leaf, CgroupError> {
        self.collect();
        let ready = self.shelf().ready.pop();
        ready.map_or_else(|| self.group.new_leaf(&self.limits), Ok)
    }

    /// For the next run, once nothing is left in it.
    pub fn give_back(&self, leaf: Leaf) {
        self.shelf().draining.push(leaf);
        self.collect();
    }

    /// Leaves that still had processes when last looked at.
    pub fn draining(&self) -> usize {
        self.shelf().draining.len()
    }

    /// Moves what has become empty to the ready ones.
    fn collect(&self) {
        let draining = std::mem::take(&mut self.shelf().draining);
        for mut leaf in draining {
            let renewed = match leaf.is_empty() {
                Ok(true) => leaf.renew(),
                Ok(false) => {
                    self.shelf().draining.push(leaf);
                    continue;
                }
                Err(error) => Err(error),
            };
            match renewed {
                Ok(()) => self.shelf().ready.push(leaf),
                // Its directories go when the project's group goes.
                Err(error) => tracing::warn!(leaf = leaf.name(), %error, "a cgroup leaf is given up"),
            }
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // No code that can panic runs while it is held.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod kernel_tests;
