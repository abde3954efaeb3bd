//! The gateway from outside: over HTTP, by our own client, by bare requests, and by the vendor's client.

mod contents;
mod databases;
mod deploys;
mod sdk;
mod sites;
mod support;
mod tables;
