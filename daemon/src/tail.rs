//! Following a run's journal: reading what is there, waiting for more.
//!
//! Input: a run, active or ended; output: a journal reader and news. Readers pull: one that stalls holds a
//! descriptor and a connection to the keeper, no memory, and nobody up.

use crate::output;
use crate::projects::Entry;
use crate::runs::End;
use crate::service::{Error, Service};
use sandbox_keeper::client::{KeeperError, Seen, Watch};
use sandbox_keeper::journal::{self, Output, Reader, Select, Then};
use sandbox_wire::event::RunOutcome;
use sandbox_wire::{Code, Problem, RunId, RunState};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between attempts to reach the keeper again.
const RETRY: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Tail {
    service: Arc<Service>,
    entry: Arc<Entry>,
    run: RunId,
    reader: Reader,
    watch: Option<Watch>,
    ended: Option<Ended>,
}

/// Nothing more will be written.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    /// As the keeper said; the journal says the same unless its disk was full.
    Outcome(Box<RunOutcome>),
    /// The journal has the result, or the run is lost.
    Unknown,
}

/// What [`Tail::wait`] saw.
#[derive(Debug, Clone)]
pub(crate) enum News {
    /// Read again.
    Grown,
    /// Nothing, for as long as the caller wanted to wait.
    Nothing,
    /// The journal was complete before it was last read.
    Ended(Ended),
}

impl Tail {
    /// Refused when the run's journal is not kept any more.
    pub(crate) fn open(service: &Arc<Service>, entry: &Arc<Entry>, run: &RunId) -> Result<Self, Error> {
        let reader = Reader::open(&entry.run_dir(run)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Problem::new(Code::OutputExpired, format!("the output of the run {run} is not kept any more")).into()
            }
            _ => unreadable(error),
        })?;
        Ok(Self {
            service: Arc::clone(service),
            entry: Arc::clone(entry),
            run: run.clone(),
            reader,
            watch: None,
            ended: None,
        })
    }

    /// Reads. What a run that goes on has written is in memory still; what an old one has written may have
    /// to come from the disk, and other requests go on meanwhile.
    pub(crate) fn read<T>(&mut self, read: impl FnOnce(&mut Reader) -> T) -> T {
        if self.service.active.get(&self.run).is_some() {
            read(&mut self.reader)
        } else {
            tokio::task::block_in_place(|| read(&mut self.reader))
        }
    }

    /// Waits until the journal may have grown. To be called when it has been read to its end.
    pub(crate) async fn wait(&mut self, at_most: Duration) -> News {
        if let Some(ended) = self.ended.clone() {
            return News::Ended(ended);
        }
        let until = Instant::now() + at_most;
        loop {
            let Some(watch) = &mut self.watch else {
                if self.service.active.get(&self.run).is_none() {
                    return self.over(Ended::Unknown);
                }
                match self.entry.keeper.watch(&self.run).await {
                    Ok(watch) => self.watch = Some(watch),
                    // The run is ending; whoever records it takes it off the list of active runs.
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
                // What came before the watch began is not announced.
                return News::Grown;
            };
            match tokio::time::timeout_at(until, watch.next()).await {
                Err(_) => return News::Nothing,
                Ok(Ok(Seen::Grown)) => return News::Grown,
                Ok(Ok(Seen::Finished(outcome))) => {
                    if let Some(active) = self.service.active.get(&self.run) {
                        active.ends(End::from(&*outcome));
                    }
                    return self.over(Ended::Outcome(outcome));
                }
                Ok(Err(KeeperError::Refused(_))) => {
                    self.watch = None;
                    // The keeper knows nothing of it; whoever records the end finds out what became of it.
                    if let Some(active) = self.service.active.get(&self.run)
                        && tokio::time::timeout_at(until, active.ended.cancelled()).await.is_err()
                    {
                        return News::Nothing;
                    }
                    return self.over(Ended::Unknown);
                }
                Ok(Err(KeeperError::Absent(_) | KeeperError::Broken(_))) => {
                    self.watch = None;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// How far the output has come.
    pub(crate) fn length(&mut self, select: Select) -> Result<u64, Error> {
        self.read(|reader| output::length(reader, select)).map_err(unreadable)
    }

    /// What is there from an offset on, or comes in time. Refused when the first byte wanted is not kept.
    pub(crate) async fn first(
        &mut self,
        select: Select,
        after: u64,
        max: usize,
        wait: Duration,
    ) -> Result<Output, Error> {
        let until = Instant::now() + wait;
        loop {
            let output = self.read(|reader| reader.read_stream(select, after, max)).map_err(unreadable)?;
            if !output.data.is_empty() {
                return Ok(output);
            }
            match output.then {
                Then::Expired { oldest_kept } => {
                    let sentence = format!(
                        "the output from {after} on is not kept any more; the oldest kept offset is {oldest_kept}"
                    );
                    let problem = Problem::new(Code::OutputExpired, sentence).with("oldest_offset", oldest_kept);
                    return Err(problem.next(format!("ask again with after={oldest_kept}")).into());
                }
                Then::End | Then::More => return Ok(output),
                Then::Pending => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(output);
            }
            match self.wait(left).await {
                News::Grown => {}
                News::Nothing | News::Ended(_) => return Ok(output),
            }
        }
    }

    /// The end comes with the next wait: what was written last has to be read first.
    fn over(&mut self, ended: Ended) -> News {
        self.watch = None;
        self.ended = Some(ended);
        News::Grown
    }
}

/// The status that stands beside an output. Never a final one beside bytes that may not be the last: what
/// was known before the output was read, unless the output came to the end of the journal.
pub(crate) fn status_after(before: RunState, then: Then, entry: &Entry, run: &RunId) -> RunState {
    let ended = if then == Then::End { journal::outcome(&entry.run_dir(run)).ok().flatten() } else { None };
    ended.map_or(before, |outcome| outcome.status)
}

fn unreadable(source: io::Error) -> Error {
    Error::Disk { what: "cannot read a journal", source }
}
