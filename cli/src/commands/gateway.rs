//! `sandboxctl gateway`: the run402 API on this computer.

use crate::args::{GatewayArgs, Globals};
use crate::deployment::functions::SandboxedFunctions;
use crate::failure::Failure;
use crate::gateway;
use crate::interrupt::Interrupts;
use crate::state::StateDir;
use run402_gateway::slices::Database;
use run402_gateway::{Config, FunctionRunner, Gateway, Tables};
use sandbox_wire::{Code, Problem};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long the embedded gateway may take to end.
const STOP_TIME: Duration = Duration::from_secs(10);

pub(crate) async fn gateway(globals: &Globals, args: GatewayArgs) -> Result<u8, Failure> {
    if args.stop {
        return stop(globals).await;
    }
    if !args.listen.ip().is_loopback() {
        let problem = Problem::new(Code::InvalidRequest, format!("{} can be reached from elsewhere", args.listen));
        return Err(problem.next("the gateway serves this computer only: listen on 127.0.0.1 or [::1]").into());
    }
    // The lines of the log go where its caller put standard error; `RUST_LOG` chooses them.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let directory = directory(globals)?;
    let failed =
        |what: String| move |error: std::io::Error| Failure::new(Code::Unavailable, format!("{what}: {error}"));
    // `--state` is the gateway's; functions run by the daemon that everything else uses.
    let daemon = Globals { state: std::env::var_os("SANDBOXD_STATE").map(PathBuf::from), ..globals.clone() };
    let functions: Arc<dyn FunctionRunner> = Arc::new(SandboxedFunctions::new(daemon));
    let database: Option<Arc<dyn Database>> = match &args.database_url {
        Some(url) => {
            let tables = Tables::connect(&url.0).await;
            Some(Arc::new(tables.map_err(|error| Failure::new(Code::Unavailable, error.to_string()))?))
        }
        None => None,
    };
    let opened = Gateway::open(Config { functions: Some(functions), database, ..Config::new(&directory) });
    let gateway = opened.map_err(|error| Failure::new(Code::Unavailable, error.to_string()))?;
    let listener = TcpListener::bind(args.listen).await.map_err(failed(format!("cannot listen on {}", args.listen)))?;
    let address = listener.local_addr().map_err(failed("cannot tell where the gateway listens".to_owned()))?;
    gateway::announce(&directory, address).map_err(failed(format!("cannot write to {}", directory.display())))?;
    crate::render::text(&format!("listening on http://{address}\n"));
    let shutdown = CancellationToken::new();
    let mut interrupts = Interrupts::listen();
    let stop = shutdown.clone();
    let running = run402_gateway::run(listener, gateway, shutdown);
    tokio::pin!(running);
    let served = tokio::select! {
        served = &mut running => served,
        _ = interrupts.next() => {
            stop.cancel();
            // A second signal ends it at once; what was acknowledged is on the disk.
            tokio::select! {
                served = &mut running => served,
                signal = interrupts.next() => return Ok(signal.exit_code()),
            }
        }
    };
    served.map_err(failed("the gateway cannot go on".to_owned()))?;
    Ok(0)
}

/// `--state`, or the embedded gateway's.
fn directory(globals: &Globals) -> Result<PathBuf, Failure> {
    if let Some(state) = &globals.state {
        return Ok(std::path::absolute(state).unwrap_or_else(|_| state.clone()));
    }
    let state = StateDir::open(None).map_err(crate::daemon::StartError::from)?;
    Ok(gateway::directory(&state))
}

async fn stop(globals: &Globals) -> Result<u8, Failure> {
    // `--state` is the gateway's own, or that of the daemon that it was started beside.
    let own = globals.state.as_deref().filter(|state| state.join("gateway.json").is_file());
    let directory = match own {
        Some(own) => own.to_owned(),
        None => {
            let state = StateDir::open(globals.state.as_deref()).map_err(crate::daemon::StartError::from)?;
            gateway::directory(&state)
        }
    };
    let Some(running) = gateway::running(&directory) else {
        crate::render::text("no gateway is running\n");
        return Ok(0);
    };
    let pid = rustix::process::Pid::from_raw(running.pid);
    let signal = rustix::process::Signal::TERM;
    let sent = pid.map_or(Err(rustix::io::Errno::SRCH), |pid| rustix::process::kill_process(pid, signal));
    sent.map_err(|errno| {
        Failure::new(Code::Internal, format!("cannot end the gateway, process {}: {errno}", running.pid))
    })?;
    wait_for_end(&directory).await
}

async fn wait_for_end(directory: &Path) -> Result<u8, Failure> {
    let give_up = tokio::time::Instant::now() + STOP_TIME;
    while gateway::running(directory).is_some() {
        if tokio::time::Instant::now() >= give_up {
            return Err(Failure::new(Code::Internal, "the gateway does not end"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    crate::render::text("the gateway has ended\n");
    Ok(0)
}
