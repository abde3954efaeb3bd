//! The one thread that writes the index.
//!
//! Input: finished runs, which nobody waits for, and jobs, whose callers do. Everything that has come
//! together is one transaction. A finished run alone waits up to [`GATHER`] for company, so that a run
//! costs its caller a push onto a queue and no wake-up.

use super::IndexError;
use super::runs::{RunRow, put_run};
use rusqlite::Connection;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Queued items; a caller that finds the queue full waits for room.
const CAPACITY: usize = 8192;
const GATHER: Duration = Duration::from_millis(50);
/// After a failed commit (disk full), before the next attempt.
const RETRY: Duration = Duration::from_secs(1);

/// Tells the caller how the commit went.
pub(super) type AfterCommit = Box<dyn FnOnce(Result<(), String>) + Send>;
type Job = Box<dyn FnOnce(&Connection) -> AfterCommit + Send>;

pub(super) enum Item {
    Run(Box<RunRow>),
    Job(Job),
}

#[derive(Debug)]
pub(super) struct Writer {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    /// Somebody waits for a reply.
    urgent: bool,
    closed: bool,
    /// The thread waits without a timeout and has to be woken.
    asleep: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("length", &self.lock().items.len()).finish()
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the item back when there is no room.
    fn try_push(&self, item: Item) -> Result<(), (Item, Full)> {
        let mut state = self.lock();
        if state.closed {
            return Err((item, Full::Closed));
        }
        if state.items.len() >= CAPACITY {
            return Err((item, Full::ForNow));
        }
        let wake = matches!(item, Item::Job(_)) && !std::mem::replace(&mut state.urgent, true) || state.asleep;
        state.asleep = false;
        state.items.push_back(item);
        drop(state);
        if wake {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Waits for work; nothing when closed and empty.
    fn take(&self) -> Option<VecDeque<Item>> {
        let mut state = self.lock();
        while state.items.is_empty() {
            if state.closed {
                return None;
            }
            state.asleep = true;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep = false;
        }
        if !state.urgent && !state.closed {
            let gathering = |state: &mut State| !state.urgent && !state.closed && state.items.len() < CAPACITY / 2;
            let waited = self.changed.wait_timeout_while(state, GATHER, gathering);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.urgent = false;
        Some(std::mem::take(&mut state.items))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    ForNow,
    Closed,
}

impl Writer {
    pub(super) fn start(connection: Connection) -> Self {
        let queue = Arc::new(Queue::default());
        let of_thread = Arc::clone(&queue);
        let thread = std::thread::Builder::new().name("index".to_owned()).spawn(move || {
            sandbox_keeper::scheduling::wake_at_once();
            write_all(connection, &of_thread);
        });
        match thread {
            Ok(thread) => Self { queue, thread: Mutex::new(Some(thread)) },
            Err(error) => {
                // Every push is refused from now on, and says why.
                tracing::error!(%error, "cannot start the thread that writes the index");
                queue.lock().closed = true;
                Self { queue, thread: Mutex::new(None) }
            }
        }
    }

    /// Waits while the queue is full.
    pub(super) async fn push(&self, item: Item) -> Result<(), IndexError> {
        let mut item = item;
        loop {
            match self.queue.try_push(item) {
                Ok(()) => return Ok(()),
                Err((_, Full::Closed)) => return Err(IndexError::Closed),
                Err((back, Full::ForNow)) => {
                    item = back;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }

    /// Returns when everything pushed before has been written.
    pub(super) async fn flush(&self) -> Result<(), IndexError> {
        {
            let state = self.queue.lock();
            if state.closed {
                return Err(IndexError::Closed);
            }
            if state.items.is_empty() && state.asleep {
                return Ok(());
            }
        }
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |_| {
            Box::new(move |_| {
                // The reader may have gone away.
                let _ = reply.send(());
            })
        });
        self.push(Item::Job(job)).await?;
        answer.await.map_err(|_| IndexError::Closed)
    }

    /// Writes what is queued and ends the thread; blocks for as long as that takes.
    pub(super) fn close(&self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the index has panicked");
        }
    }
}

fn write_all(connection: Connection, queue: &Queue) {
    // Runs whose commit failed; written with the next batch.
    let mut runs: Vec<Box<RunRow>> = Vec::new();
    while let Some(batch) = queue.take() {
        let mut jobs = Vec::new();
        for item in batch {
            match item {
                Item::Run(row) => runs.push(row),
                Item::Job(job) => jobs.push(job),
            }
        }
        let (committed, replies) = commit(&connection, &runs, jobs);
        match &committed {
            Ok(()) => runs.clear(),
            Err(error) => {
                tracing::error!(error, waiting = runs.len(), "cannot write the index");
                runs.truncate(CAPACITY);
            }
        }
        for reply in replies {
            reply(committed.clone());
        }
        if committed.is_err() {
            if queue.lock().closed {
                return;
            }
            std::thread::sleep(RETRY);
        }
    }
}

fn commit(connection: &Connection, runs: &[Box<RunRow>], jobs: Vec<Job>) -> (Result<(), String>, Vec<AfterCommit>) {
    let mut replies = Vec::with_capacity(jobs.len());
    let work = || -> Result<(), rusqlite::Error> {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for row in runs {
            put_run(connection, row)?;
        }
        for job in jobs {
            replies.push(job(connection));
        }
        connection.execute_batch("COMMIT")
    };
    let result = work().map_err(|error| error.to_string());
    if result.is_err() && !connection.is_autocommit() {
        // The transaction is still open; when even this fails, the next BEGIN says so.
        let _ = connection.execute_batch("ROLLBACK");
    }
    (result, replies)
}
