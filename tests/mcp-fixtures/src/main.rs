//! The daemon with other tools: those that the public MCP conformance suite calls. Its router, its sign-in, its
//! sessions and its limits are the daemon's own, so that the suite tries these.
//!
//! Input: the command line of sandboxd. Output: what sandboxd answers, with the suite's fixtures at `/mcp`.
#![expect(deprecated, reason = "the suite tries what is deprecated for as long as there are clients that know it")]

mod asking;
mod contents;
mod prompts;
mod resources;
mod server;
mod skills;
mod tasks;
mod tools;

fn main() -> anyhow::Result<()> {
    sandboxd::start_with_tools(|| server::Fixtures)
}
