//! One file per group of commands: wire types in and out of the client, text or JSON out.

mod deploy;
mod doctor;
mod feed;
pub(crate) mod follow;
mod gateway;
mod kill;
mod logs;
mod mcp;
mod place;
mod policy;
mod policy_check;
mod policy_file;
mod project;
mod ps;
mod run;
mod run402;
mod runs;
mod token;
mod up;
mod version;

use crate::args::{Args, Command};
use crate::connect;
use crate::failure::Failure;
use clap::CommandFactory;
use std::process::ExitCode;

/// Does what the arguments say; the exit status.
pub(crate) async fn dispatch(args: Args) -> Result<u8, Failure> {
    let globals = &args.globals;
    match args.command {
        Command::Run(run) => run::run(globals, run).await,
        Command::Up(up) => up::up(globals, up).await,
        Command::Deploy(deploy) => deploy::dispatch(globals, deploy).await,
        Command::Tool(tool) => run402::run402(globals, tool).await,
        Command::Mcp(mcp) => mcp::mcp(globals, mcp).await,
        Command::Gateway(gateway) => gateway::gateway(globals, gateway).await,
        Command::Policy(policy) => policy::dispatch(globals, policy).await,
        Command::Version { client } => version::version(globals, client).await,
        Command::Ps(ps) => ps::ps(&connect::client(globals).await?, &ps, globals.json).await,
        Command::Logs(logs) => logs::logs(&connect::client(globals).await?, &logs, globals.json).await,
        Command::Kill(kill) => kill::kill(&connect::client(globals).await?, &kill, globals.json).await,
        Command::Project(project) => project::dispatch(&connect::client(globals).await?, project, globals.json).await,
        Command::Doctor => doctor::doctor(&connect::client(globals).await?, globals.json).await,
        Command::Token(token) => token::dispatch(&connect::client(globals).await?, token, globals.json).await,
        Command::Completions { .. } | Command::Detach { .. } => {
            unreachable!("main does these without the event loop")
        }
    }
}

/// Prints the completion script.
pub(crate) fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "sandboxctl", &mut script);
    crate::render::text(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}
