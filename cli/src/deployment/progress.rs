//! What a deploy shows while it goes on: a bar on a terminal, nothing in a pipe.

use indicatif::{ProgressBar, ProgressStyle};
use run402::deploy::{Event, Observer, Progress};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Follows one deploy.
#[derive(Debug)]
pub(crate) struct Display {
    hashing: Arc<Progress>,
    bar: Mutex<ProgressBar>,
    skipped: AtomicUsize,
    sent: AtomicUsize,
}

impl Display {
    pub(crate) fn new(quiet: bool) -> Self {
        let bar =
            if quiet || !std::io::stderr().is_terminal() { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("the template is well-formed"));
        bar.set_message("hashing");
        bar.enable_steady_tick(Duration::from_millis(100));
        let (skipped, sent) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { hashing: Arc::new(Progress::default()), bar: Mutex::new(bar), skipped, sent }
    }

    /// What the hashing threads count.
    pub(crate) fn hashing(&self) -> &Arc<Progress> {
        &self.hashing
    }

    /// Contents that were sent.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Contents that the gateway had.
    pub(crate) fn skipped(&self) -> usize {
        self.skipped.load(Ordering::Relaxed)
    }

    pub(crate) fn finish(&self) {
        self.with(ProgressBar::finish_and_clear);
    }

    fn with(&self, show: impl FnOnce(&ProgressBar)) {
        show(&self.bar.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Observer for Display {
    fn observe(&self, event: Event) {
        match event {
            Event::PlanStarted {} => {
                let files = self.hashing.files();
                self.with(|bar| bar.set_message(format!("planning: {files} files")));
            }
            Event::UploadSkipped { .. } => {
                self.skipped.fetch_add(1, Ordering::Relaxed);
            }
            Event::UploadProgress { label, done, total, .. } => {
                self.sent.fetch_add(1, Ordering::Relaxed);
                self.with(|bar| {
                    let style = ProgressStyle::with_template("{spinner} uploading {bar:30} {pos}/{len} {wide_msg}");
                    bar.set_style(style.expect("the template is well-formed"));
                    bar.set_length(total as u64);
                    bar.set_position(done as u64);
                    bar.set_message(crate::render::plain(&label));
                });
            }
            Event::CommitPhase { phase, .. } => self.with(|bar| {
                bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("the template is well-formed"));
                bar.set_message(format!("committing: {}", crate::render::plain(&phase)));
            }),
            Event::Retry { attempt, message, .. } => {
                let text = format!("sandboxctl: {}; attempt {attempt} is repeated", crate::render::plain(&message));
                self.with(|bar| bar.println(text));
            }
            _ => {}
        }
    }
}
