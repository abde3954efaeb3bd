//! `sandboxctl`: sandboxed commands for people.
//!
//! Arguments become wire types, wire types go over HTTP to a daemon, and what comes back becomes text
//! or JSON. This program knows no namespace, no policy decision and no file of the daemon but its
//! socket, its token and `daemon.json`; everything else is behind the HTTP interface.

mod args;
mod client;
mod commands;
mod connect;
mod daemon;
mod deployment;
mod duration;
mod exit;
mod failure;
mod gateway;
mod interrupt;
mod listener;
mod ndjson;
mod output;
mod render;
mod state;

use args::{Args, Command};
use clap::Parser;
use failure::Failure;
use std::process::ExitCode;

/// Our own failures, where a command's exit status must stay apart from them.
const EXIT_RUN_FAILED: u8 = 125;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    // Both stay free of the runtime: the first becomes another program, the second writes a script.
    match &args.command {
        Command::Detach { program } => return daemon::detach(program),
        Command::Completions { shell } => return commands::completions(*shell),
        _ => {}
    }
    // Everything but the server waits for one thing at a time.
    let mut builder = match &args.command {
        Command::Gateway(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sandboxctl: cannot start the event loop: {error}");
            return ExitCode::from(EXIT_RUN_FAILED);
        }
    };
    let is_run = matches!(args.command, Command::Run(_));
    let json = args.globals.json;
    let code = match runtime.block_on(commands::dispatch(args)) {
        Ok(code) => code,
        Err(failure) => {
            report(&failure, json);
            if is_run { EXIT_RUN_FAILED } else { 1 }
        }
    };
    // A reader that hangs in the terminal must not hold the end up.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// A wrong command line: clap's text, and for `run` a status that no command of the user's is taken for.
fn usage(error: &clap::Error) -> ExitCode {
    // What cannot be printed here has no other place to go.
    let _ = error.print();
    let run = std::env::args().skip(1).find(|word| args::is_subcommand(word)).is_some_and(|word| word == "run");
    match error.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if run => ExitCode::from(EXIT_RUN_FAILED),
        _ => ExitCode::from(2),
    }
}

fn report(failure: &Failure, json: bool) {
    if json {
        render::json(&failure.problem());
    } else {
        eprint!("{}", failure.text());
    }
}
