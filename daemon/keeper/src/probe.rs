//! What this kernel and this user may do.
