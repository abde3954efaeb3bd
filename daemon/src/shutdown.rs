//! The life of the daemon: start, wait for a signal or for nothing to do, drain or hand over, end.

use crate::activation::Given;
use crate::config::Config;
use crate::gateway::EmbeddedGateway;
use crate::host_ids::Slots;
use crate::http;
use crate::index::Index;
use crate::index::tokens::TokenRow;
use crate::keepers::Keepers;
use crate::listener::{Listener, Server};
use crate::mcp::Endpoint;
use crate::metrics::Metrics;
use crate::policies::Policies;
use crate::projects::Registry;
use crate::runs::ActiveRuns;
use crate::service::Service;
use crate::state::StateDir;
use crate::tokens::{self, ADMIN_TOKEN_ID, Tokens};
use crate::{clock, doctor, notify, reconcile, retention};
use anyhow::Context;
use sandbox_wire::Scope;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// For keepers to kill what runs and to end.
const STOP_TIME: Duration = Duration::from_secs(10);
/// For answers and ends of runs that are on their way.
const FAREWELL_TIME: Duration = Duration::from_secs(3);

/// Serves until told to stop; returns when everything has ended, or goes on without us.
pub(crate) async fn serve(config: Config, given: Vec<Given>, tools: Endpoint) -> anyhow::Result<()> {
    // First, so that a signal during the start is not lost.
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let state = StateDir::open(&config.state)?;
    let index = Arc::new(Index::open(state.path())?);
    // Before anybody can connect: a local client reads the token as soon as it sees the socket.
    let tokens = load_tokens(&state, &index).await?;
    let mut listeners = given.into_iter().map(Listener::adopt).collect::<Result<Vec<_>, _>>()?;
    for listen in &config.listen {
        listeners.push(Listener::bind(listen).await?);
    }
    let urls: Vec<String> = listeners.iter().map(Listener::url).collect();
    let service = build(&config, &state, index, tokens, &urls)?;
    reconcile::projects(&service, state.projects()).await.context("cannot load the projects")?;
    reconcile::runs(&service).await.context("cannot take up the runs")?;

    let stop = CancellationToken::new();
    let connections = TaskTracker::new();
    let metrics = Arc::clone(&service.metrics);
    let server = Server::new(
        http::router(Arc::clone(&service), &config, tools, stop.clone()),
        metrics,
        connections.clone(),
        stop.clone(),
    );
    for listener in listeners {
        connections.spawn(server.clone().serve(listener));
    }
    service.tasks.spawn(retention::keep_tidy(Arc::clone(&service), stop.clone()));
    state.announce(&urls)?;
    say_where(&urls).context("cannot write to standard output")?;
    notify::ready(&urls);
    tracing::info!(state = %state.path().display(), projects = service.registry.len(), "ready");

    let hand_over = tokio::select! {
        sign = signals.next() => {
            tracing::info!(signal = sign.name(), "stopping");
            sign == Sign::HandOver
        }
        () = idle(&service, config.idle_exit) => {
            tracing::info!("stopping: nothing to do");
            false
        }
    };
    service.draining.store(true, Relaxed);
    if hand_over {
        notify::stopping(2 * FAREWELL_TIME);
        state.retract();
        // Callers are cut off now, and that must not end their runs.
        service.leaving.store(true, Relaxed);
    } else {
        notify::stopping(config.drain + STOP_TIME + 4 * FAREWELL_TIME);
        drain(&service, config.drain, &mut signals).await;
        state.retract();
        service.keepers.stop_all(service.registry.all(), STOP_TIME).await;
        // Runs that were killed just now answer their callers and are recorded.
        wait_for_no_runs(&service, FAREWELL_TIME).await;
    }
    stop.cancel();
    connections.close();
    if tokio::time::timeout(FAREWELL_TIME, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "connections are cut off");
    }
    // From here on a caller that goes away was cut off by us, which says nothing about its run.
    service.leaving.store(true, Relaxed);
    service.tasks.close();
    // Those that wait for the ends of runs would wait until the runs end; the next daemon does it.
    if !hand_over && tokio::time::timeout(FAREWELL_TIME, service.tasks.wait()).await.is_err() {
        tracing::debug!(tasks = service.tasks.len(), "tasks are left behind");
    }
    let index = Arc::clone(&service.index);
    tokio::task::spawn_blocking(move || index.close()).await.context("cannot close the index")?;
    tracing::info!("stopped");
    Ok(())
}

fn build(
    config: &Config,
    state: &StateDir,
    index: Arc<Index>,
    tokens: Tokens,
    urls: &[String],
) -> anyhow::Result<Arc<Service>> {
    let policies = match Policies::load(config.policies.as_deref()) {
        Ok(policies) => policies,
        Err(error) => anyhow::bail!("the policies cannot be used:\n{}", error.report(false)),
    };
    let hash: [u8; 32] = Sha256::digest(state.path().as_os_str().as_bytes()).into();
    let seed = u64::from_le_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]);
    let metrics = Arc::new(Metrics::default());
    let tasks = TaskTracker::new();
    let cgroup_name = format!("sandboxd-{:08x}", seed as u32);
    let keepers = Keepers::new(cgroup_name, config.idle, tasks.clone(), Arc::clone(&metrics))?;
    let first_tcp = urls.iter().find(|url| url.starts_with("http://"));
    Ok(Arc::new(Service {
        base_url: config.public_url.clone().or(first_tcp.cloned()).unwrap_or_else(|| "http://localhost".to_owned()),
        policies,
        registry: Registry::default(),
        index,
        keepers,
        tokens,
        active: ActiveRuns::default(),
        places: Arc::new(Semaphore::new(config.max_runs)),
        metrics,
        tasks,
        state: state.path().to_owned(),
        slots: doctor::has_own_ids().then(|| Mutex::new(Slots::new(seed))),
        gateway: EmbeddedGateway::default(),
        draining: AtomicBool::new(false),
        leaving: AtomicBool::new(false),
        examining: tokio::sync::Mutex::default(),
        changing: tokio::sync::Mutex::new(()),
        config: config.clone(),
    }))
}

/// The tokens of the index; the one in the state directory is always good.
async fn load_tokens(state: &StateDir, index: &Index) -> anyhow::Result<Tokens> {
    let admin = tokens::hash(&state.token(tokens::fresh)?);
    let all = Tokens::default();
    let mut known = false;
    for row in index.tokens()? {
        if row.id == ADMIN_TOKEN_ID && row.hash != admin {
            continue;
        }
        known |= row.id == ADMIN_TOKEN_ID;
        all.insert(row);
    }
    if !known {
        let row = TokenRow {
            id: ADMIN_TOKEN_ID.to_owned(),
            hash: admin,
            name: "state directory".to_owned(),
            scopes: vec![Scope::Admin],
            projects: None,
            created_at_ms: clock::now_ms(),
        };
        index.put_token(row.clone()).await?;
        all.insert(row);
    }
    Ok(all)
}

/// One line per listener; whoever started us waits for them.
fn say_where(urls: &[String]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for url in urls {
        writeln!(out, "listening on {url}")?;
    }
    out.flush()
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Not SIGHUP, which nohup(1) has ignored: it must stay so.
    user2: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Sign {
        tokio::select! {
            _ = self.terminate.recv() => Sign::Terminate,
            _ = self.interrupt.recv() => Sign::Interrupt,
            _ = self.user2.recv() => Sign::HandOver,
        }
    }
}

/// What a signal tells us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Terminate,
    Interrupt,
    /// End, and leave keepers and runs to the daemon that comes next.
    HandOver,
}

impl Sign {
    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::HandOver => "SIGUSR2",
        }
    }
}

/// Completes when nothing has run and nobody has been connected for this long; never without a time.
async fn idle(service: &Service, after: Option<Duration>) {
    let Some(after) = after else { return std::future::pending().await };
    let step = (after / 10).clamp(Duration::from_millis(50), Duration::from_secs(1));
    let mut since = Instant::now();
    let mut seen = 0;
    loop {
        tokio::time::sleep(step).await;
        let accepted = service.metrics.connections_accepted.load(Relaxed);
        let open = service.metrics.connections_open.load(Relaxed);
        if open > 0 || service.active.len() > 0 || accepted != seen {
            seen = accepted;
            since = Instant::now();
        } else if since.elapsed() >= after {
            return;
        }
    }
}

/// Those that are active may end. A second signal ends the waiting.
async fn drain(service: &Service, at_most: Duration, signals: &mut Signals) {
    tokio::select! {
        () = wait_for_no_runs(service, at_most) => {}
        sign = signals.next() => tracing::info!(signal = sign.name(), "not waiting any longer"),
    }
    if service.active.len() > 0 {
        tracing::info!(runs = service.active.len(), "killing what still runs");
    }
}

async fn wait_for_no_runs(service: &Service, at_most: Duration) {
    let mut count = service.active.count();
    // The sender is in the service, so it is there; too late is as good as done.
    let _ = tokio::time::timeout(at_most, count.wait_for(|active| *active == 0)).await;
}
