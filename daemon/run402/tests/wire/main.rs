//! The client on the wire: exchanges as they were recorded, and gateways that fail.

mod ci;
mod faults;
mod payments;
mod support;
mod traffic;
