//! The caller's end of a keeper's socket.
//!
//! Input: orders and run ids; output: how runs end, or why there is no answer. Connections are made
//! when needed and used again; nothing here spawns a task or blocks a thread. Knows no HTTP and
//! starts no keeper: that is what [`KeeperError::Absent`] asks the caller for.
//!
//! # When a connection breaks before the reply
//!
//! A keeper that has read a request answers it unless it dies, and closes connections only by
//! exiting (it was idle, or died). So a break before the first byte of a reply means that the
//! keeper of this connection is gone, and what it did for the request it did before. For an order
//! the question is whether the run began, and the run's journal folder answers it, because the
//! keeper makes that folder before it hands the command out: no folder, no run. Then the request is
//! sent once more on a fresh connection; with a folder the call is [`KeeperError::Broken`]. Other
//! requests name runs, and runs end with their keeper: sending those again cannot do anything twice.
//! [`Keeper::exchange`] is the only place that decides this.

#[cfg(test)]
mod tests;

use crate::api::{KillCause, Reply, Request, RunOrder};
use crate::frame::{Connection, Frame, FrameError};
use crate::socket;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sandbox_policy::Policy;
use sandbox_wire::{Code, Problem, RunId, Truncated, event::RunOutcome};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Idle connections that are kept. One more is closed: the next caller makes a new one (50 µs).
const MAX_IDLE: usize = 32;

/// A keeper as its callers see it: connections that are made when needed and used again.
#[derive(Debug, Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    project_dir: PathBuf,
    /// The one used last is at the end and is used next.
    idle: Mutex<Vec<Connection>>,
}

/// Why a call got no answer from the keeper.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// No keeper listens (it was idle, or died): start one and repeat the call. Nothing was started.
    #[error("no keeper listens in {0}")]
    Absent(PathBuf),
    /// The connection broke after the order was sent: the journal tells whether the run started.
    #[error("the keeper's connection broke")]
    Broken(#[source] io::Error),
    #[error(transparent)]
    Refused(#[from] Box<Problem>),
}

/// A run that has ended, with what its reply keeps of the output.
#[derive(Debug, Clone)]
pub struct Finished {
    pub outcome: RunOutcome,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub truncated: Truncated,
}

impl Keeper {
    /// The keeper of the project whose folder this is; does not connect yet.
    pub fn at(project_dir: &Path) -> Self {
        let inner = Inner { project_dir: project_dir.to_owned(), idle: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Runs to the end. Dropping the future does not end the run.
    pub async fn run(&self, order: RunOrder, policy: &Policy) -> Result<Finished, KeeperError> {
        let (reply, tail) = self.order(Request::Run(Box::new(order)), policy).await?;
        finished(reply, &tail)
    }

    /// Starts; returns when the command runs. Dropping the future does not end the run.
    pub async fn start(&self, order: RunOrder, policy: &Policy) -> Result<(), KeeperError> {
        match self.order(Request::Start(Box::new(order)), policy).await? {
            (Reply::Started { .. }, _) => Ok(()),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    /// Waits for the end of a run that was started before. The texts are empty when it had ended.
    pub async fn wait(&self, run: &RunId) -> Result<Finished, KeeperError> {
        let (reply, tail) = self.call(&Request::Wait { run: run.clone() }).await?;
        finished(reply, &tail)
    }

    /// Watches a run. To miss nothing, open the watch before reading the journal to its end.
    /// That the keeper does not know the run is said by the first [`Watch::next`].
    pub async fn watch(&self, run: &RunId) -> Result<Watch, KeeperError> {
        let request = Request::Watch { run: run.clone() };
        let mut connection = self.connection().await?;
        if connection.send(&request, &[]).await.is_err() {
            connection = self.fresh_connection().await?;
            connection.send(&request, &[]).await.map_err(broken)?;
        }
        Ok(Watch { keeper: self.clone(), request, connection: Some(connection), state: WatchState::Silent })
    }

    pub async fn kill(&self, run: &RunId, cause: KillCause) -> Result<(), KeeperError> {
        self.done(&Request::Kill { run: run.clone(), cause }).await
    }

    pub async fn signal(&self, run: &RunId, signal: i32) -> Result<(), KeeperError> {
        self.done(&Request::Signal { run: run.clone(), signal }).await
    }

    /// Sends bytes to a run's standard input, then closes it if `eof` is set. How many were taken.
    pub async fn input(&self, run: &RunId, bytes: &[u8], eof: bool) -> Result<u64, KeeperError> {
        let request = Request::Input { run: run.clone(), bytes: STANDARD.encode(bytes), eof };
        match self.call(&request).await? {
            (Reply::Taken { bytes }, _) => Ok(bytes),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    /// Runs that have not ended.
    pub async fn list(&self) -> Result<Vec<RunId>, KeeperError> {
        match self.call(&Request::List).await? {
            (Reply::Runs { runs }, _) => Ok(runs),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    /// Ends the keeper and all that it runs.
    pub async fn stop(&self, cause: KillCause) -> Result<(), KeeperError> {
        self.done(&Request::Stop { cause }).await
    }

    async fn done(&self, request: &Request) -> Result<(), KeeperError> {
        match self.call(request).await? {
            (Reply::Done, _) => Ok(()),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    /// Sends an order, and the policy with it when the keeper asks for that.
    async fn order(&self, request: Request, policy: &Policy) -> Result<(Reply, Bytes), KeeperError> {
        let (reply, tail) = self.call(&request).await?;
        if !matches!(reply, Reply::NeedPolicy) {
            return Ok((reply, tail));
        }
        let (order, wait) = match request {
            Request::Run(order) => (order, true),
            Request::Start(order) => (order, false),
            _ => return Err(unexpected(&reply)),
        };
        self.call(&Request::Policy { policy: Box::new(policy.clone()), order, wait }).await
    }

    /// One request, its one reply, and the connection back to where it came from.
    async fn call(&self, request: &Request) -> Result<(Reply, Bytes), KeeperError> {
        let (frame, connection) = self.exchange(request).await?;
        self.keep(connection);
        match frame.head {
            Reply::Refused(problem) => Err(KeeperError::Refused(problem)),
            reply => Ok((reply, frame.tail)),
        }
    }

    /// One request and its first reply; see the module's text for what happens when the connection
    /// breaks in between.
    async fn exchange(&self, request: &Request) -> Result<(Frame<Reply>, Connection), KeeperError> {
        let mut connection = self.connection().await?;
        let mut repeated = false;
        loop {
            let error = match ask(&mut connection, request).await {
                Ok(frame) => return Ok((frame, connection)),
                Err(error) => error,
            };
            if let FrameError::TooLong { length, limit, .. } = error {
                let text = format!("the order takes {length} bytes, {limit} are allowed: shorten the input");
                return Err(KeeperError::Refused(Box::new(Problem::new(Code::BodyTooLarge, text))));
            }
            if !is_break(&error, &connection) || self.may_have_begun(request) {
                return Err(broken(error));
            }
            if repeated {
                return Err(self.absent());
            }
            connection = self.fresh_connection().await?;
            repeated = true;
        }
    }

    /// Whether the run of an order may have begun at a keeper that is gone. What cannot be known counts.
    fn may_have_begun(&self, request: &Request) -> bool {
        let order = match request {
            Request::Run(order) | Request::Start(order) | Request::Policy { order, .. } => order,
            _ => return false,
        };
        let journal = self.inner.project_dir.join("runs").join(order.run.as_str());
        !matches!(journal.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// An idle connection that is still alive, or a new one.
    async fn connection(&self) -> Result<Connection, KeeperError> {
        while let Some(connection) = self.idle().pop() {
            if connection.is_idle() {
                return Ok(connection);
            }
        }
        self.connect().await
    }

    /// A new connection, after one broke: those that are idle belonged to the same keeper.
    async fn fresh_connection(&self) -> Result<Connection, KeeperError> {
        self.idle().clear();
        self.connect().await
    }

    async fn connect(&self) -> Result<Connection, KeeperError> {
        match socket::connect(&self.inner.project_dir).await.and_then(Connection::new) {
            Ok(connection) => Ok(connection),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => self.absent(),
                _ => KeeperError::Broken(error),
            }),
        }
    }

    fn absent(&self) -> KeeperError {
        KeeperError::Absent(self.inner.project_dir.clone())
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle();
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(connection: &mut Connection, request: &Request) -> Result<Frame<Reply>, FrameError> {
    connection.send(request, &[]).await?;
    match connection.receive().await? {
        Some(frame) => Ok(frame),
        None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

/// The connection failed, and no byte of a reply had come.
fn is_break(error: &FrameError, connection: &Connection) -> bool {
    matches!(error, FrameError::Io(_)) && !connection.has_received()
}

fn broken(error: FrameError) -> KeeperError {
    KeeperError::Broken(error.into())
}

fn unexpected(reply: &Reply) -> KeeperError {
    let text = format!("the keeper answered what was not asked: {reply:?}");
    KeeperError::Broken(io::Error::new(io::ErrorKind::InvalidData, text))
}

fn finished(reply: Reply, tail: &[u8]) -> Result<Finished, KeeperError> {
    match reply {
        Reply::Finished { outcome, stdout_len, truncated } => {
            let Some((stdout, stderr)) = usize::try_from(stdout_len).ok().and_then(|len| tail.split_at_checked(len))
            else {
                let text = "the keeper's reply is shorter than it says";
                return Err(KeeperError::Broken(io::Error::new(io::ErrorKind::InvalidData, text)));
            };
            Ok(Finished { outcome: *outcome, stdout: stdout.to_vec(), stderr: stderr.to_vec(), truncated })
        }
        reply => Err(unexpected(&reply)),
    }
}

/// Tells when the journal of a run has grown.
#[derive(Debug)]
pub struct Watch {
    keeper: Keeper,
    request: Request,
    connection: Option<Connection>,
    state: WatchState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WatchState {
    /// No reply yet; the connection may be one that a keeper left behind by exiting.
    Silent,
    /// No reply yet, on a second connection.
    Repeated,
    Heard,
    /// The last reply has been given out.
    Over,
}

/// What a [`Watch`] saw.
#[derive(Debug, Clone)]
pub enum Seen {
    Grown,
    Finished(Box<RunOutcome>),
}

impl Watch {
    /// Next change; after `Finished` there is none, and asking is an error. Cancel-safe.
    pub async fn next(&mut self) -> Result<Seen, KeeperError> {
        if self.state == WatchState::Over {
            return Err(KeeperError::Broken(io::ErrorKind::NotConnected.into()));
        }
        loop {
            let connection = match &mut self.connection {
                Some(connection) => connection,
                none => {
                    let mut fresh = self.keeper.fresh_connection().await?;
                    fresh.send(&self.request, &[]).await.map_err(broken)?;
                    none.insert(fresh)
                }
            };
            let error = match connection.receive().await {
                Ok(Some(frame)) => return self.heard(frame.head),
                Ok(None) => io::Error::from(io::ErrorKind::UnexpectedEof).into(),
                Err(error) => error,
            };
            if self.state != WatchState::Silent || !is_break(&error, connection) {
                self.state = WatchState::Over;
                return Err(broken(error));
            }
            self.state = WatchState::Repeated;
            self.connection = None;
        }
    }

    fn heard(&mut self, reply: Reply) -> Result<Seen, KeeperError> {
        self.state = WatchState::Heard;
        let last = match reply {
            Reply::Grown => return Ok(Seen::Grown),
            Reply::Finished { outcome, .. } => Ok(Seen::Finished(outcome)),
            Reply::Refused(problem) => Err(KeeperError::Refused(problem)),
            other => Err(unexpected(&other)),
        };
        self.state = WatchState::Over;
        if let Some(connection) = self.connection.take() {
            self.keeper.keep(connection);
        }
        last
    }
}
