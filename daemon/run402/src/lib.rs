//! A client of the run402 API: sign-in, keys, deploys and typed calls.
//!
//! It knows nothing of sandboxes; whatever has a directory can use it.

pub mod account;
pub mod api;
pub mod client;
pub mod deploy;
pub mod environment;
pub mod error;
pub mod keys;
pub mod paying;
pub mod payment;
pub mod signin;
pub mod tools;
pub mod wallet;

mod files;
pub use files::FileError;
