//! Following a run's journal: reading what is there, waiting for more.
//!
//! Input: a run, active or ended; output: a journal reader and news. Readers pull: one that stalls holds a
//! descriptor and a connection to the keeper, no memory, and nobody up.

use crate::projects::Entry;
use crate::runs::End;
use crate::service::Service;
use sandbox_keeper::client::{KeeperError, Seen, Watch};
use sandbox_keeper::journal::Reader;
use sandbox_wire::RunId;
use sandbox_wire::event::RunOutcome;
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
    /// Fails when the run has no journal.
    pub(crate) fn open(service: &Arc<Service>, entry: &Arc<Entry>, run: &RunId) -> io::Result<Self> {
        let reader = Reader::open(&entry.run_dir(run))?;
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

    /// The end comes with the next wait: what was written last has to be read first.
    fn over(&mut self, ended: Ended) -> News {
        self.watch = None;
        self.ended = Some(ended);
        News::Grown
    }
}
