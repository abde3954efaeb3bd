//! Reads what to keep, takes the project's lock, serves until idle or told to stop.
//!
//! Started by sandboxd with a [`KeeperSpec`] as JSON on standard input; prints `ready` when its
//! socket listens. Goes on when sandboxd dies. Logs to standard error.

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use sandbox_keeper::api::{KeeperSpec, KillCause};
use sandbox_keeper::project::Project;
use sandbox_keeper::spawn::Program;
use sandbox_keeper::{server, socket};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Keeper and launcher run briefly and should get a processor at once.
const SLICE_NS: u64 = 100_000;
/// Connections have this long to send their last reply.
const FAREWELL: Duration = Duration::from_secs(1);

fn main() -> anyhow::Result<()> {
    let logs = tracing_subscriber::fmt().with_writer(LossyStderr::new);
    logs.with_ansi(false).without_time().with_target(false).with_max_level(tracing::Level::INFO).init();
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the specification on standard input")?;
    let spec: KeeperSpec = serde_json::from_str(&text).context("the specification is not valid")?;
    // Out of sandboxd's session, so that what ends it does not end this. Fails for a group leader,
    // who has a group of its own already.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/").context("cannot change to /")?;
    let _ = sandbox_launch::sys::set_slice(SLICE_NS); // kernels before 6.12 have none
    // Launchers leave their parent. Whoever is pid 1 of a container may not reap what it does not know.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("cannot become a subreaper")?;
    prepare_folders(&spec)?;

    let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(spec.project_dir.join("keeper.lock"));
    let lock = match Flock::lock(lock.context("cannot open keeper.lock")?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            // Another keeper has the project: whoever started this one can talk to that one.
            return announce();
        }
        Err((_, errno)) => return Err(errno).context("cannot lock keeper.lock"),
    };
    let program = Program::beside_this()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_millis(500))
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(keep(spec, program))?;
    drop(lock);
    Ok(())
}

async fn keep(spec: KeeperSpec, program: Program) -> anyhow::Result<()> {
    let socket_path = spec.project_dir.join(socket::FILE_NAME);
    match std::fs::remove_file(&socket_path) {
        Ok(()) => tracing::info!("took over from a keeper that died"),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("cannot remove an old socket"),
    }
    let listener = socket::bind(&spec.project_dir).context("cannot listen")?;
    let idle = Duration::from_millis(spec.idle_ms);
    let project = Project::new(spec, program);
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let serving = tokio::spawn(server::serve(listener, project.clone(), stop.clone(), tasks.clone()));
    announce()?;

    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::select! {
        () = stop.cancelled() => {}
        () = project.idle(idle) => tracing::info!("idle"),
        _ = terminate.recv() => tracing::info!("told to stop"),
    }
    // From here on nobody finds this keeper; a request that came in meanwhile is still answered.
    if let Err(error) = std::fs::remove_file(&socket_path) {
        tracing::warn!(%error, "the socket stays behind");
    }
    stop.cancel();
    tasks.close();
    project.stop(KillCause::Shutdown).await;
    if tokio::time::timeout(FAREWELL, tasks.wait()).await.is_err() {
        tracing::warn!("a caller did not take its reply");
    }
    serving.await.context("the server failed")?;
    project.clear();
    Ok(())
}

/// Home and journals are there, and the mount point of the workspace is.
fn prepare_folders(spec: &KeeperSpec) -> anyhow::Result<()> {
    for name in ["home", "runs"] {
        let path = spec.project_dir.join(name);
        match std::fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
        }
    }
    sandbox_keeper::home::prepare(spec).context("cannot prepare the project's home")
}

fn announce() -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "ready").and_then(|()| stdout.flush()).context("nobody waits for this keeper")
}

/// Standard error that may be closed: sandboxd reads it, and dies before its keepers do.
struct LossyStderr;

impl LossyStderr {
    fn new() -> Self {
        Self
    }
}

impl Write for LossyStderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = std::io::stderr().write_all(bytes); // nobody is left to be told
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
