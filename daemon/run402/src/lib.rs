//! The client of run402: signs in with a wallet, plans and carries out deploys.
//!
//! It knows nothing of sandboxes; whatever holds a directory can use it.

pub mod signin;
