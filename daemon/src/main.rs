//! `sandboxd`: reads the command line, starts the service and waits for its end.

use std::process::ExitCode;

fn main() -> ExitCode {
    match sandboxd::start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `{:#}` prints the chain of causes on one line.
            eprintln!("sandboxd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
