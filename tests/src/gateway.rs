//! `sandboxctl gateway` as a test's own process.

use crate::cli::Person;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Listens where nobody else does.
pub const FREE_PORT: &str = "127.0.0.1:0";

/// Ends with its drop, if not before.
#[derive(Debug)]
pub struct Gateway {
    pub child: Child,
    /// `http://` and its address.
    pub base: String,
}

impl Gateway {
    pub fn start(person: &Person, state: &Path) -> Self {
        Self::start_at(person, state, FREE_PORT, None)
    }

    /// `fault` names the point at which it ends itself.
    pub fn start_at(person: &Person, state: &Path, address: &str, fault: Option<&str>) -> Self {
        let mut command = person.command(&["gateway", "--listen", address, "--state", &state.to_string_lossy()]);
        command.env("RUN402_GATEWAY_FAULT", fault.unwrap_or_default()).env_remove("SANDBOXD_STATE");
        Self::spawn(command)
    }

    /// Waits for the line that says where it listens.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::null()).stdout(Stdio::piped()).spawn().expect("sandboxctl starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let base = line.trim().strip_prefix("listening on ").expect("it listens").to_owned();
        Self { child, base }
    }

    pub fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Already gone is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
