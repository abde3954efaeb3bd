//! Sessions whose answers wait for a client that comes back.
//!
//! The library's own sessions forget an answer as soon as it is sent, whether or not anybody was there. Here each answer
//! is drained into a log, from which the client's stream is read, and with it every stream that resumes it
//! (`Last-Event-ID`): of the same session only, for some minutes, within a bound.

use futures::{Stream, StreamExt};
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::common::server_side_http::{ServerSseMessage, SessionId};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Of one answer: what came before its last messages is not told again.
const MAX_EVENTS: usize = 64;
/// Once it is whole: the answer itself, and a little of what came before it.
const TAIL: usize = 8;
/// An answer waits so long …
const KEEP: Duration = Duration::from_secs(300);
/// … unless so many came after it.
const MAX_KEPT: usize = 32;

type Inner = LocalSessionManager;

/// The library's sessions with our logs.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    inner: Inner,
    logs: Arc<Mutex<Logs>>,
}

/// A session, and the number of a request in it.
type Key = (SessionId, String);

#[derive(Debug, Default)]
struct Logs {
    all: HashMap<Key, Arc<Log>>,
    /// Those that are whole, in the order in which they became it.
    ended: VecDeque<(Instant, Key)>,
}

impl Logs {
    /// An answer is whole; older ones make room.
    fn end(&mut self, key: Key) {
        self.ended.push_back((Instant::now(), key));
        while self.ended.len() > MAX_KEPT || self.ended.front().is_some_and(|(at, _)| at.elapsed() > KEEP) {
            if let Some((_, key)) = self.ended.pop_front() {
                self.all.remove(&key);
            }
        }
    }

    fn forget(&mut self, session: &SessionId) {
        self.all.retain(|(of, _), _| of != session);
        self.ended.retain(|(_, (of, _))| of != session);
    }
}

/// One answer, with what comes before it.
#[derive(Debug, Default)]
struct Log {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<ServerSseMessage>,
    /// Position of the first of them.
    first: usize,
    ended: bool,
    /// The newest reader, and the position that it wants next; it makes those before it end.
    reader: Option<(u64, usize)>,
    readers: u64,
}

impl State {
    fn drop_first(&mut self) {
        self.events.pop_front();
        self.first += 1;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// Waits for a reader that is slow; without one, the oldest goes.
    async fn push(&self, event: ServerSseMessage) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = lock(&self.state);
                let full = state.events.len() >= MAX_EVENTS;
                if !full || state.reader.is_none_or(|(_, next)| next > state.first) {
                    if full {
                        state.drop_first();
                    }
                    state.events.push_back(event);
                    break;
                }
            }
            changed.await;
        }
        self.changed.notify_waiters();
    }

    fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        while state.events.len() > TAIL && state.reader.is_none_or(|(_, next)| next > state.first) {
            state.drop_first();
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// From what comes after an event on.
    fn read_after(self: &Arc<Self>, last: Option<&str>) -> impl Stream<Item = ServerSseMessage> + Send + Sync + use<> {
        let reader = {
            let mut state = lock(&self.state);
            let is_last = |event: &ServerSseMessage| last.is_some() && event.event_id.as_deref() == last;
            let next = state.events.iter().position(is_last).map_or(state.first, |at| state.first + at + 1);
            state.readers += 1;
            state.reader = Some((state.readers, next));
            Reader { log: Arc::clone(self), number: state.readers }
        };
        self.changed.notify_waiters();
        futures::stream::unfold(reader, |reader| async { Some((reader.next().await?, reader)) })
    }
}

/// A stream that a client reads.
#[derive(Debug)]
struct Reader {
    log: Arc<Log>,
    number: u64,
}

impl Reader {
    async fn next(&self) -> Option<ServerSseMessage> {
        loop {
            let mut changed = pin!(self.log.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = lock(&self.log.state);
                let (_, next) = state.reader.filter(|(number, _)| *number == self.number)?;
                if let Some(event) = state.events.get(next.saturating_sub(state.first)).cloned() {
                    state.reader = Some((self.number, next.max(state.first) + 1));
                    drop(state);
                    self.log.changed.notify_waiters();
                    return Some(event);
                }
                if state.ended {
                    return None;
                }
            }
            changed.await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = lock(&self.log.state);
        if state.reader.is_some_and(|(number, _)| number == self.number) {
            state.reader = None;
        }
        drop(state);
        self.log.changed.notify_waiters();
    }
}

/// The number of the request that an event belongs to; none for what the server says by itself.
fn request_of(event: &str) -> Option<&str> {
    event.split_once('/').map(|(_, request)| request)
}

/// Drains an answer, whoever reads it.
async fn drain(
    answer: impl Stream<Item = ServerSseMessage>,
    session: SessionId,
    log: Arc<Log>,
    logs: Arc<Mutex<Logs>>,
) {
    let mut answer = pin!(answer);
    let mut key = None;
    while let Some(event) = answer.next().await {
        if key.is_none()
            && let Some(request) = event.event_id.as_deref().and_then(request_of)
        {
            let new = (session.clone(), request.to_owned());
            lock(&logs).all.insert(new.clone(), Arc::clone(&log));
            key = Some(new);
        }
        log.push(event).await;
    }
    log.end();
    if let Some(key) = key {
        lock(&logs).end(key);
    }
}

impl SessionManager for Sessions {
    type Error = <Inner as SessionManager>::Error;
    type Transport = <Inner as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        self.inner.create_session().await
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.inner.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        self.inner.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        lock(&self.logs).forget(id);
        self.inner.close_session(id).await
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let answer = self.inner.create_stream(id, message).await?;
        let log = Arc::<Log>::default();
        let stream = log.read_after(None);
        tokio::spawn(drain(answer, id.clone(), log, Arc::clone(&self.logs)));
        Ok(stream)
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        self.inner.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.inner.create_standalone_stream(id).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let request = request_of(&last_event_id).map(|request| (id.clone(), request.to_owned()));
        let log = request.and_then(|key| lock(&self.logs).all.get(&key).cloned());
        match log {
            Some(log) => Ok(log.read_after(Some(&last_event_id)).left_stream()),
            None => Ok(self.inner.resume(id, last_event_id).await?.right_stream()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn event(number: usize) -> ServerSseMessage {
        ServerSseMessage::priming(format!("{number}/7"), Duration::ZERO)
    }

    fn ids(events: &[ServerSseMessage]) -> Vec<&str> {
        events.iter().filter_map(|event| event.event_id.as_deref()).collect()
    }

    #[tokio::test]
    async fn whoever_comes_back_reads_on_after_the_end_too() {
        let log = Arc::<Log>::default();
        let first = log.read_after(None);
        for number in 0..3 {
            log.push(event(number)).await;
        }
        let mut first = pin!(first);
        assert_eq!(first.next().await.expect("an event").event_id.as_deref(), Some("0/7"));
        let second = log.read_after(Some("0/7"));
        assert!(first.next().await.is_none(), "one reads at a time");
        log.push(event(3)).await;
        log.end();
        assert_eq!(ids(&second.collect::<Vec<_>>().await), ["1/7", "2/7", "3/7"]);
        let third = log.read_after(Some("2/7"));
        assert_eq!(ids(&third.collect::<Vec<_>>().await), ["3/7"]);
    }

    #[tokio::test]
    async fn a_slow_reader_is_waited_for_and_one_that_left_is_not() {
        let log = Arc::<Log>::default();
        let mut reader = Box::pin(log.read_after(None));
        for number in 0..MAX_EVENTS {
            log.push(event(number)).await;
        }
        assert!(log.push(event(MAX_EVENTS)).now_or_never().is_none(), "full, and nothing of it was read");
        reader.next().await.expect("the first");
        log.push(event(MAX_EVENTS)).now_or_never().expect("room");
        drop(reader);
        for number in 1..=MAX_EVENTS {
            log.push(event(MAX_EVENTS + number)).now_or_never().expect("nobody to wait for");
        }
        assert_eq!(lock(&log.state).first, MAX_EVENTS + 1);
        log.end();
        let rest: Vec<_> = log.read_after(Some("3/7")).collect().await;
        assert_eq!((rest.len(), rest[0].event_id.as_deref()), (TAIL, Some("121/7")), "what is left of it");
    }

    #[tokio::test]
    async fn answers_are_kept_within_a_bound_and_go_with_their_session() {
        let logs = Arc::<Mutex<Logs>>::default();
        let session = |name: &str| -> SessionId { name.to_owned().into() };
        for number in 0..2 * MAX_KEPT {
            let answer = futures::stream::iter([ServerSseMessage::priming(format!("0/{number}"), Duration::ZERO)]);
            let of = session(if number % 2 == 0 { "even" } else { "odd" });
            drain(answer, of, Arc::default(), Arc::clone(&logs)).await;
        }
        let mut logs = lock(&logs);
        assert_eq!((logs.all.len(), logs.ended.len()), (MAX_KEPT, MAX_KEPT));
        logs.forget(&session("even"));
        assert_eq!((logs.all.len(), logs.ended.len()), (MAX_KEPT / 2, MAX_KEPT / 2));
    }
}
