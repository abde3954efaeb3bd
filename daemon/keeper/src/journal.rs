//! The on-disk record of a run.
