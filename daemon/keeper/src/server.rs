//! The keeper's end of its socket: one task per connection, one request at a time.
//!
//! Input: [`Request`]s; output: [`Reply`]s. A connection that breaks ends nothing but itself.

use crate::api::{Reply, Request, RunOrder};
use crate::frame::{Connection, FrameError};
use crate::journal;
use crate::project::{Answer, Done, Project};
use crate::run::Ask;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sandbox_wire::{Code, Problem, RunId, Truncated};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Serves until `stop`; a `Stop` request cancels it too.
pub async fn serve(listener: UnixListener, project: Arc<Project>, stop: CancellationToken, tasks: TaskTracker) {
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: what runs must go on, so wait and try again.
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (project, stop) = (Arc::clone(&project), stop.clone());
        tasks.spawn(async move {
            let connection = stream.into_std().and_then(Connection::new).map_err(FrameError::from);
            let conversed = match connection {
                Ok(mut connection) => converse(&mut connection, &project, &stop).await,
                Err(error) => Err(error),
            };
            if let Err(error) = conversed {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
}

async fn converse(
    connection: &mut Connection,
    project: &Arc<Project>,
    stop: &CancellationToken,
) -> Result<(), FrameError> {
    loop {
        let request = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            request = connection.receive::<Request>() => request?,
        };
        let Some(request) = request else { return Ok(()) };
        let _busy = project.busy();
        match request.head {
            Request::Run(order) => run(connection, project, order).await?,
            Request::Start(order) => start(connection, project, order).await?,
            Request::Policy { policy, order, wait } => {
                project.learn(*policy);
                if wait {
                    run(connection, project, order).await?;
                } else {
                    start(connection, project, order).await?;
                }
            }
            Request::Wait { run } => {
                let reply = wait(project, &run).await;
                answer(connection, reply).await?;
            }
            Request::Watch { run } => watch(connection, project, &run).await?,
            Request::Kill { run, cause } => {
                let reply = if project.end(&run, cause).await { Reply::Done } else { unknown(&run) };
                connection.send(&reply, &[]).await?;
            }
            Request::Signal { run, signal } => {
                let reply = if project.ask(&run, Ask::Signal(signal)).await { Reply::Done } else { unknown(&run) };
                connection.send(&reply, &[]).await?;
            }
            Request::Input { run, bytes, eof } => {
                let reply = input(project, &run, &bytes, eof).await;
                connection.send(&reply, &[]).await?;
            }
            Request::List => connection.send(&Reply::Runs { runs: project.running() }, &[]).await?,
            Request::Stop { cause } => {
                project.stop(cause).await;
                connection.send(&Reply::Done, &[]).await?;
                stop.cancel();
                return Ok(());
            }
        }
    }
}

async fn run(connection: &mut Connection, project: &Arc<Project>, order: Box<RunOrder>) -> Result<(), FrameError> {
    if !project.knows(&order.policy_digest) {
        return connection.send(&Reply::NeedPolicy, &[]).await;
    }
    let reply = Arc::clone(project).run(*order, None).await;
    answer(connection, reply).await
}

async fn start(connection: &mut Connection, project: &Arc<Project>, order: Box<RunOrder>) -> Result<(), FrameError> {
    if !project.knows(&order.policy_digest) {
        return connection.send(&Reply::NeedPolicy, &[]).await;
    }
    let run = order.run.clone();
    let (started, is_started) = oneshot::channel();
    let running = tokio::spawn(Arc::clone(project).run(*order, Some(started)));
    let reply = match is_started.await {
        Ok(()) => Reply::Started { run },
        // The sender is dropped when the run did not start; then the answer says why.
        Err(_) => match running.await {
            Ok(Err(problem)) => Reply::Refused(problem),
            Ok(Ok(_)) => Reply::Started { run },
            Err(error) => Reply::Refused(crate::project::internal(&error)),
        },
    };
    connection.send(&reply, &[]).await
}

/// The end of a run: of a live one when it comes, of one that has ended from its journal.
async fn wait(project: &Project, run: &RunId) -> Answer {
    if let Some(mut live) = project.live(run) {
        let done = live.done.wait_for(Option::is_some).await.ok().and_then(|done| done.clone());
        if let Some(done) = done {
            return Ok(done);
        }
    }
    match journal::outcome(&project.run_dir(run)) {
        Ok(Some(outcome)) => {
            Ok(Arc::new(Done { outcome, stdout: Vec::new(), stderr: Vec::new(), truncated: Truncated::default() }))
        }
        Ok(None) | Err(_) => Err(Box::new(not_found(run))),
    }
}

async fn watch(connection: &mut Connection, project: &Project, run: &RunId) -> Result<(), FrameError> {
    if let Some(mut live) = project.live(run) {
        // Whatever is in the journal by now has not been told to this watcher: `grown` is as it was when
        // the run was registered, before it had a journal.
        loop {
            tokio::select! {
                biased;
                grown = live.grown.changed() => {
                    if live.done.borrow().is_some() || grown.is_err() {
                        break;
                    }
                    connection.send(&Reply::Grown, &[]).await?;
                }
                // The other end speaks only when it goes away.
                _ = connection.receive::<Request>() => {
                    return Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into());
                }
            }
        }
    }
    let reply = wait(project, run).await;
    answer(connection, reply).await
}

async fn answer(connection: &mut Connection, answer: Answer) -> Result<(), FrameError> {
    match answer {
        Ok(done) => {
            let reply = Reply::Finished {
                outcome: Box::new(done.outcome.clone()),
                stdout_len: done.stdout.len() as u64,
                truncated: done.truncated.clone(),
            };
            connection.send(&reply, &[&done.stdout, &done.stderr]).await
        }
        Err(problem) => connection.send(&Reply::Refused(problem), &[]).await,
    }
}

async fn input(project: &Project, run: &RunId, bytes: &str, eof: bool) -> Reply {
    let Some(live) = project.live(run) else { return unknown(run) };
    let Ok(bytes) = STANDARD.decode(bytes) else {
        return Reply::Refused(Box::new(Problem::new(Code::InvalidRequest, "the input is not base64")));
    };
    match live.input.write(&bytes, eof).await {
        Ok(taken) => Reply::Taken { bytes: taken as u64 },
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            let mut problem = Problem::new(Code::ProjectBusy, format!("somebody else still writes to {run}"));
            problem.retryable = true;
            Reply::Refused(Box::new(problem.with("run_id", run.as_str())))
        }
        Err(error) => {
            tracing::debug!(%run, %error, "input nobody reads");
            let problem = Problem::new(Code::InputClosed, format!("the standard input of {run} is closed"));
            Reply::Refused(Box::new(problem.with("run_id", run.as_str())))
        }
    }
}

fn unknown(run: &RunId) -> Reply {
    Reply::Refused(Box::new(not_found(run)))
}

fn not_found(run: &RunId) -> Problem {
    Problem::new(Code::RunNotFound, format!("no run {run} is going on in this project")).with("run_id", run.as_str())
}
