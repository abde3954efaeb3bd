//! The host daemon: HTTP in front of one keeper per project.
//!
//! Input: requests of callers and a configuration. Output: checked orders for keepers, and their
//! journals as replies and streams. The edges (`http`, `mcp`) know no keeper and no SQLite; they talk to
//! [`service::Service`] only. The service knows no status code and no header.

mod activation;
mod clock;
mod config;
mod deploys;
mod doctor;
mod files;
mod gateway;
mod host_ids;
mod http;
mod index;
mod keepers;
mod kill_on_drop;
mod listener;
mod mcp;
mod metrics;
mod notify;
mod output;
mod policies;
mod projects;
mod reconcile;
mod retention;
mod runs;
mod service;
mod shutdown;
mod state;
mod tail;
mod tokens;
mod tree;

use activation::Given;
use anyhow::Context;
use clap::Parser;
use config::{Args, Command, Config, LogFormat};
use sandbox_keeper::{cgroup::Hierarchy, scheduling};
use tracing_subscriber::EnvFilter;

/// Reads the command line and does what it says; returns when the daemon has stopped.
pub fn start() -> anyhow::Result<()> {
    start_with(mcp::endpoint())
}

/// The same with other tools at `/mcp`: for tests of what is around them. No shipped program does this.
#[doc(hidden)]
pub fn start_with_tools<H: rmcp::ServerHandler>(make: fn() -> H) -> anyhow::Result<()> {
    start_with(mcp::endpoint_of(make))
}

fn start_with(tools: mcp::Endpoint) -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Version => {
            println!("sandboxd {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Command::Serve(flags) => {
            // First, while there is a single thread: this changes the environment.
            let given = Given::take()?;
            let config = Config::resolve(*flags, given.iter().map(Given::address).collect())?;
            log_to_stderr(config.log_format);
            raise_descriptor_limit();
            stay_when_memory_is_short();
            // Commands may keep all processors busy; requests must not wait for them.
            scheduling::wake_at_once();
            make_room_for_cgroups();
            // Half of the processors: the other half is for what runs. A second worker costs each request two
            // wake-ups, so on a small host there is one.
            let processors = std::thread::available_parallelism().map_or(2, usize::from);
            let workers = (processors / 2).clamp(1, 4);
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(workers)
                .thread_name("sandboxd")
                .on_thread_start(scheduling::wake_at_once)
                .enable_all()
                .build()
                .context("cannot start the runtime")?;
            runtime.block_on(shutdown::serve(config, given, tools))
        }
    }
}

/// Standard output carries only the lines `listening on …`.
fn log_to_stderr(format: LogFormat) {
    // The protocol's library says at every request that it has begun and ended.
    let filter = EnvFilter::try_from_env("SANDBOXD_LOG").unwrap_or_else(|_| EnvFilter::new("info,rmcp=error"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

/// Where cgroups of version 2 have no room beside this process, it moves into one of its own, before it
/// starts keepers there. Without cgroups there are no limits, and the receipts of runs say so.
fn make_room_for_cgroups() {
    if let Err(error) = Hierarchy::detect().settle() {
        let error = anyhow::Error::from(error);
        tracing::warn!(error = format!("{error:#}"), "cgroups cannot be prepared; see `sandboxctl doctor`");
    }
}

/// Daemon and keepers are the last that the kernel kills when memory runs out, if this process may say so; what runs
/// in a sandbox is the first, by its launcher. See proc_pid_oom_score_adj(5).
fn stay_when_memory_is_short() {
    const ALMOST_NEVER: &str = "-900";
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", ALMOST_NEVER) {
        tracing::debug!(%error, "when memory runs out, this daemon goes before root's services, but after commands");
    }
}

/// Connections, journals and keepers need descriptors: takes all that the hard limit allows.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => {
            if let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
                tracing::warn!(%errno, soft, hard, "the limit of open files stays as it is");
            }
        }
        Ok(_) => {}
        Err(errno) => tracing::warn!(%errno, "the limit of open files cannot be read"),
    }
}
