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
use std::net::SocketAddr;
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
    if args.embedded {
        return embedded(globals, &args).await;
    }
    if !args.listen.ip().is_loopback() {
        let problem = Problem::new(Code::InvalidRequest, format!("{} can be reached from elsewhere", args.listen));
        return Err(problem.next("the gateway serves this computer only: listen on 127.0.0.1 or [::1]").into());
    }
    let serving = Serving::open(globals, &args, &directory(globals)?, &[args.listen]).await?;
    let mut interrupts = Interrupts::listen();
    let interrupted = async move {
        interrupts.next().await;
    };
    serving.until(interrupted).await
}

/// The gateway of a daemon: it serves as long as the daemon holds the other end of standard input.
async fn embedded(globals: &Globals, args: &GatewayArgs) -> Result<u8, Failure> {
    let state = StateDir::open(globals.state.as_deref()).map_err(crate::daemon::StartError::from)?;
    let claim = gateway::claim(&state)?;
    if let Some(running) = gateway::running(claim.directory()) {
        crate::render::text(&format!("found on http://{}\n", running.address));
        return Ok(0);
    }
    let globals = Globals { state: Some(state.path().to_owned()), ..globals.clone() };
    let serving = Serving::open(&globals, args, claim.directory(), &[args.listen, gateway::FREE_PORT]).await?;
    drop(claim);
    serving.until(end_of_input()).await
}

/// Asked for on a thread of its own, which nobody waits for: a read cannot be given up.
async fn end_of_input() {
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // An error is an end too.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = ended.send(());
    });
    let mut interrupts = Interrupts::listen();
    tokio::select! {
        _ = end => {}
        _ = interrupts.next() => {}
    }
}

/// A gateway that listens and has said so.
struct Serving {
    listener: TcpListener,
    gateway: Gateway,
}

fn failed(what: String) -> impl FnOnce(std::io::Error) -> Failure {
    move |error| Failure::new(Code::Unavailable, format!("{what}: {error}"))
}

impl Serving {
    /// On the first of the addresses that is free.
    async fn open(
        globals: &Globals,
        args: &GatewayArgs,
        directory: &Path,
        addresses: &[SocketAddr],
    ) -> Result<Self, Failure> {
        // The lines of the log go where its caller put standard error; `RUST_LOG` chooses them.
        let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
        // `--state` is the gateway's; functions run by the daemon that everything else uses.
        let state = match args.embedded {
            true => globals.state.clone(),
            false => std::env::var_os("SANDBOXD_STATE").map(PathBuf::from),
        };
        let functions: Arc<dyn FunctionRunner> =
            Arc::new(SandboxedFunctions::new(Globals { state, ..globals.clone() }));
        let database: Option<Arc<dyn Database>> = match &args.database_url {
            Some(url) => {
                let tables = Tables::connect(&url.0).await;
                Some(Arc::new(tables.map_err(|error| Failure::new(Code::Unavailable, error.to_string()))?))
            }
            None => None,
        };
        let opened = Gateway::open(Config { functions: Some(functions), database, ..Config::new(directory) });
        let gateway = opened.map_err(|error| Failure::new(Code::Unavailable, error.to_string()))?;
        let shown = addresses.first().map(ToString::to_string).unwrap_or_default();
        let listener = TcpListener::bind(addresses).await.map_err(failed(format!("cannot listen on {shown}")))?;
        let address = listener.local_addr().map_err(failed("cannot tell where the gateway listens".to_owned()))?;
        gateway::announce(directory, address).map_err(failed(format!("cannot write to {}", directory.display())))?;
        crate::render::text(&format!("listening on http://{address}\n"));
        Ok(Self { listener, gateway })
    }

    async fn until(self, told: impl Future<Output = ()>) -> Result<u8, Failure> {
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let running = run402_gateway::run(self.listener, self.gateway, shutdown);
        tokio::pin!(running);
        let served = tokio::select! {
            served = &mut running => served,
            () = told => {
                stop.cancel();
                let mut interrupts = Interrupts::listen();
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
