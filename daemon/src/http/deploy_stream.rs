//! A deploy as a stream of events: the build's, then how far the release is.
//!
//! Input: a checked request; output: a body. Whoever goes away ends it: the build is killed, and a release
//! that is not committed yet is not made.

use super::Shared;
use super::accept::Framing;
use super::events::{self, Events};
use super::frames::Frames;
use super::problem::Failure;
use crate::deploys::Watch;
use crate::projects::Entry;
use crate::runs::Prepared;
use crate::service::{Release, check_build};
use axum::body::Bytes;
use axum::response::Response;
use futures::future::BoxFuture;
use sandbox_wire::OnDisconnect;
use sandbox_wire::deploy::{Deploy, DeployProgress};
use std::sync::Arc;
use std::time::Duration;

/// Progress is told so often, when there is any.
const TELL_EVERY: Duration = Duration::from_millis(250);
const PING_EVERY: Duration = Duration::from_secs(15);

pub(crate) async fn start(
    service: Shared,
    entry: Arc<Entry>,
    build: Option<Prepared>,
    release: Release,
    framing: Framing,
) -> Result<Response, Failure> {
    let at = match build {
        Some(prepared) => {
            let run = service.start_run(&entry, prepared).await?.id;
            let events = events::live(&service, &entry, run, framing, OnDisconnect::Kill)?;
            At::Build(Box::new(events.ending_in("built")), release)
        }
        None => At::Release(Releasing::new(&service, &entry, release)),
    };
    let stream = DeployStream { service, entry, framing, at };
    let frames =
        futures::stream::unfold(stream, |mut stream| async move { Some((stream.next_frame().await?, stream)) });
    Ok(events::answer(framing, frames))
}

struct DeployStream {
    service: Shared,
    entry: Arc<Entry>,
    framing: Framing,
    at: At,
}

enum At {
    Build(Box<Events>, Release),
    Release(Releasing),
    Over,
}

/// A release that is being made.
struct Releasing {
    watch: Arc<Watch>,
    done: BoxFuture<'static, Result<Deploy, Failure>>,
    told: Option<DeployProgress>,
}

impl Releasing {
    fn new(service: &Shared, entry: &Arc<Entry>, release: Release) -> Self {
        let watch = Arc::new(Watch::default());
        let (service, entry, seen) = (service.clone(), entry.clone(), watch.clone());
        let done = Box::pin(async move { Ok(service.release(&entry, release, &seen).await?) });
        Self { watch, done, told: None }
    }
}

impl DeployStream {
    async fn next_frame(&mut self) -> Option<Bytes> {
        loop {
            match std::mem::replace(&mut self.at, At::Over) {
                At::Build(mut events, release) => match events.next_frame().await {
                    Some(frame) => {
                        self.at = At::Build(events, release);
                        return Some(frame);
                    }
                    None => {
                        // A stream that broke off has said why.
                        let outcome = events.into_outcome()?;
                        match check_build(outcome.status, outcome.exit_code) {
                            Ok(()) => self.at = At::Release(Releasing::new(&self.service, &self.entry, release)),
                            Err(problem) => return Some(self.frame(|frames| frames.problem(&problem))),
                        }
                    }
                },
                At::Release(releasing) => return Some(self.follow(releasing).await),
                At::Over => return None,
            }
        }
    }

    /// The next thing to tell of a release: news, its end, or that it still goes on.
    async fn follow(&mut self, mut releasing: Releasing) -> Bytes {
        let since = tokio::time::Instant::now();
        loop {
            tokio::select! {
                biased;
                done = &mut releasing.done => return self.frame(|frames| match done {
                    Ok(deploy) => frames.event("deployed", &deploy),
                    Err(failure) => frames.problem(&failure.into_problem()),
                }),
                () = tokio::time::sleep(TELL_EVERY) => {
                    let now = releasing.watch.progress();
                    let news = releasing.told.as_ref() != Some(&now);
                    if news || since.elapsed() >= PING_EVERY {
                        let frame = self.frame(|frames| if news { frames.event("progress", &now) } else { frames.ping() });
                        releasing.told = Some(now);
                        self.at = At::Release(releasing);
                        return frame;
                    }
                }
            }
        }
    }

    fn frame(&self, write: impl FnOnce(&mut Frames)) -> Bytes {
        let mut frames = Frames::new(self.framing);
        write(&mut frames);
        frames.take().into()
    }
}
