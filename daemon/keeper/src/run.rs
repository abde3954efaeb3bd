//! One run, from the order to its outcome: deadline, output, kill.
//!
//! Input: an armed [`Slot`], a [`RunOrder`], a [`Writer`]; output: [`Ended`]. States: running, then
//! (at the deadline or when somebody asks) asked to stop, then killed; ended. The clock is monotonic
//! and starts with the order.

use crate::api::RunOrder;
use crate::cgroup::LeafUsage;
use crate::input::Input;
use crate::journal::{Chunker, HeadTail, Writer};
use crate::slot::{End, Slot, input_pipe};
use crate::starving::Starving;
use sandbox_launch::plan::RunPlan;
use sandbox_launch::protocol::Enforcement;
use sandbox_wire::event::RunOutcome;
use sandbox_wire::{Denial, Enforced, RunState, Stream, Usage};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Between SIGTERM and SIGKILL. Less than the second that callers are promised: the kernel needs
/// the rest for dying.
const GRACE: Duration = Duration::from_millis(700);
/// After the command has ended, output of what it left behind is drained until it is quiet …
const QUIET: Duration = Duration::from_millis(50);
/// … but for no longer than this.
const DRAIN: Duration = Duration::from_millis(250);
/// The kernel's time to tear down what was killed, before the reply goes out regardless.
const TEARDOWN: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 256 * 1024;
/// A pipe that was once found full, as the kernel makes them, is made larger: that spares wake-ups.
const SMALL_PIPE_BYTES: usize = 64 * 1024;
const LARGE_PIPE_BYTES: usize = 1 << 20;

thread_local! {
    /// What a pipe is read into: one buffer for all runs, since the keeper reads on one thread.
    static SCRATCH: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Why a run is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Deadline,
    Caller,
    Shutdown,
    Disk,
}

/// What can be asked of a run that goes on.
#[derive(Debug, Clone, Copy)]
pub enum Ask {
    End(Cause),
    Signal(i32),
}

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub outcome: RunOutcome,
    pub stdout: HeadTail,
    pub stderr: HeadTail,
}

/// One of the two streams while the run goes on.
struct Output {
    stream: Stream,
    chunker: Chunker,
    kept: HeadTail,
    open: bool,
    large: bool,
}

impl Output {
    fn new(stream: Stream) -> Self {
        Self { stream, chunker: Chunker::new(), kept: HeadTail::new(), open: true, large: false }
    }
}

/// Where output goes: the journal, and whoever watches it.
struct Sink<'run> {
    journal: &'run mut Writer,
    grown: &'run watch::Sender<u64>,
    /// The journal could not take everything (disk full): said in the outcome.
    lost: Option<io::Error>,
}

impl Sink<'_> {
    /// Reads what is there, at most `READ_BYTES`, after the runtime has seen that there is something.
    fn take(&mut self, pipe: &pipe::Receiver, output: &mut Output) {
        let mut full = false;
        self.read(output, |buffer| pipe.try_read(buffer).inspect(|length| full = *length >= SMALL_PIPE_BYTES));
        if full && !output.large {
            output.large = true;
            // Limited for ordinary users; smaller is only slower.
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, LARGE_PIPE_BYTES);
        }
    }

    /// Reads all that is there, whether or not the runtime has seen it: nothing comes after this.
    fn take_all(&mut self, slot: &Slot, stdout: &mut Output, stderr: &mut Output) {
        for (pipe, output) in [(&slot.stdout, stdout), (&slot.stderr, stderr)] {
            while output.open && self.read(output, |buffer| Ok(rustix::io::read(pipe, buffer)?)) {}
        }
    }

    /// `false` when there is nothing now, or never will be again.
    fn read(&mut self, output: &mut Output, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> bool {
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.is_empty() {
                // Not `resize`: this way the kernel gives a page only once output reaches it.
                *scratch = vec![0; READ_BYTES];
            }
            match read(scratch) {
                Ok(length) if length > 0 => {
                    self.keep(&scratch[..length], output);
                    true
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
                Ok(_) | Err(_) => {
                    self.close(output);
                    false
                }
            }
        })
    }

    fn keep(&mut self, bytes: &[u8], output: &mut Output) {
        output.kept.push(bytes);
        let (journal, lost, stream) = (&mut *self.journal, &mut self.lost, output.stream);
        output.chunker.push(bytes, |chunk| {
            if let Err(error) = journal.append(stream, chunk) {
                lost.get_or_insert(error);
            }
        });
        self.grown.send_modify(|position| *position += 1);
    }

    fn close(&mut self, output: &mut Output) {
        output.open = false;
        let (journal, lost, stream) = (&mut *self.journal, &mut self.lost, output.stream);
        output.chunker.flush(|chunk| {
            if let Err(error) = journal.append(stream, chunk) {
                lost.get_or_insert(error);
            }
        });
    }
}

/// The words of an order as the init takes them.
pub(crate) fn run_plan(order: &RunOrder, environment: &BTreeMap<String, String>) -> RunPlan {
    let own = order.admitted.env();
    let inherited = environment.iter().filter(|(name, _)| own.iter().all(|(other, _)| other != *name));
    let env = inherited
        .map(|(name, value)| format!("{name}={value}"))
        .chain(own.iter().map(|(name, value)| format!("{name}={value}")))
        .collect();
    RunPlan { argv: order.admitted.argv().to_vec(), env, cwd: order.admitted.cwd().to_owned() }
}

/// A run that has its order.
pub(crate) struct Begun {
    pub at: Instant,
    pub input: Input,
}

/// Sends the order. An init that died while it waited answers `BrokenPipe`: take another.
pub(crate) fn begin(slot: &Slot, order: &RunOrder, plan: &RunPlan, owner: Option<u32>) -> io::Result<Begun> {
    let given = order.admitted.stdin();
    let mut open = None;
    if given.is_none() && !order.open_input {
        slot.order(plan.clone(), None)?;
    } else {
        let (sender, theirs) = input_pipe(owner)?;
        slot.order(plan.clone(), Some(&theirs))?;
        match given {
            Some(bytes) => drop(tokio::spawn(feed(sender, bytes.to_vec()))),
            None => open = Some(sender),
        }
    }
    Ok(Begun { at: Instant::now(), input: Input::new(open) })
}

/// Writes standard input. Ends with the run at the latest, because then nobody reads.
async fn feed(mut sender: pipe::Sender, bytes: Vec<u8>) {
    use tokio::io::AsyncWriteExt;
    // A command that does not read all of its input is nothing special.
    let _ = sender.write_all(&bytes).await;
}

/// Sees a run through to its end. Not cancel-safe: whoever starts it lets it finish.
pub(crate) async fn attend(
    slot: &mut Slot,
    order: &RunOrder,
    started: Instant,
    journal: &mut Writer,
    asks: &mut mpsc::Receiver<Ask>,
    grown: &watch::Sender<u64>,
    receipt: &Enforced,
) -> Ended {
    let mut sink = Sink { journal, grown, lost: None };
    let mut stdout = Output::new(Stream::Stdout);
    let mut stderr = Output::new(Stream::Stderr);
    let timeout = Duration::from_millis(order.admitted.timeout_ms());
    let mut alarm = started + timeout;
    let mut cause: Option<Cause> = None;
    let mut asked = false;
    let mut end: Option<End> = None;
    let mut starving = Starving::watch(started);

    // Until the command has ended, or was killed.
    loop {
        tokio::select! {
            biased;
            ended = slot.ended() => {
                end = ended;
                break; // without an end the init is dead, and everything with it
            }
            _ = slot.stdout.readable(), if stdout.open => sink.take(&slot.stdout, &mut stdout),
            _ = slot.stderr.readable(), if stderr.open => sink.take(&slot.stderr, &mut stderr),
            Some(ask) = asks.recv() => match ask {
                Ask::Signal(signal) => slot.signal(signal),
                Ask::End(why) if cause.is_none() => {
                    cause = Some(why);
                    alarm = Instant::now();
                }
                Ask::End(_) => {}
            },
            () = tokio::time::sleep_until(alarm) => {
                cause.get_or_insert(Cause::Deadline);
                if asked {
                    slot.pidfd.kill();
                    break;
                }
                asked = true;
                slot.signal(libc::SIGTERM);
                slot.signal(libc::SIGCONT); // what is stopped cannot end
                alarm = Instant::now() + GRACE;
            }
            () = starving.due() => starving.look(slot.leaf.as_ref(), &order.run),
        }
    }
    let duration = started.elapsed();
    sink.take_all(slot, &mut stdout, &mut stderr);

    let stragglers = end.map_or(0, |end| end.stragglers);
    if stragglers > 0 && cause.is_none() {
        drain(slot, &mut sink, &mut stdout, &mut stderr, asks).await;
    }
    let usage = slot.leaf.as_ref().and_then(|leaf| {
        leaf.usage().inspect_err(|error| tracing::warn!(run = %order.run, %error, "usage cannot be told")).ok()
    });
    let usage = usage.map(|usage| LeafUsage { oom_kills: usage.oom_kills + starving.ended, ..usage });
    if end.is_none() || (stragglers > 0 && !order.keep_background) {
        slot.pidfd.kill();
        // The promise is that nothing survives: the reply waits for it.
        if tokio::time::timeout(TEARDOWN, slot.pidfd.dead()).await.is_err() {
            tracing::error!(run = %order.run, "a killed run does not die; it is in the kernel's hands");
        }
        sink.take_all(slot, &mut stdout, &mut stderr);
    }
    sink.close(&mut stdout);
    sink.close(&mut stderr);
    let lost = sink.lost.take();

    let verdict = Verdict::of(cause, end.map(|end| end.status), usage.as_ref().map_or(0, |u| u.oom_kills));
    let mut denials = Vec::new();
    if let Some(usage) = &usage {
        if usage.oom_kills > 0 {
            denials.push(limit_denial("memory", usage.oom_kills));
        }
        if usage.pids_limit_hits > 0 {
            denials.push(limit_denial("pids", usage.pids_limit_hits));
        }
    }
    if cause == Some(Cause::Disk) {
        denials.push(limit_denial("disk", 1));
    }
    if let Some(error) = lost {
        tracing::error!(run = %order.run, %error, "the journal could not take all output");
        denials.push(Denial {
            kind: "limit".into(),
            subject: "journal".into(),
            rule: format!("the journal could not keep all output: {error}"),
            count: 1,
        });
    }
    let cpu_usec = usage.as_ref().and_then(|usage| usage.cpu_usec).or(end.and_then(|end| end.cpu_us)).unwrap_or(0);
    let outcome = RunOutcome {
        exit_code: verdict.exit_code,
        run_id: order.run.clone(),
        status: verdict.state,
        signal: verdict.signal,
        timed_out: cause == Some(Cause::Deadline),
        oom_killed: usage.as_ref().is_some_and(|usage| usage.oom_kills > 0),
        killed_by: match cause {
            Some(Cause::Disk) => Some("disk".to_owned()),
            Some(Cause::Caller) => Some("caller".to_owned()),
            Some(Cause::Shutdown) => Some("shutdown".to_owned()),
            Some(Cause::Deadline) | None => None,
        },
        duration_ms: round(duration.as_secs_f64() * 1e3),
        stdout_bytes: stdout.kept.total(),
        stderr_bytes: stderr.kept.total(),
        usage: Usage {
            cpu_ms: round(cpu_usec as f64 / 1e3),
            memory_peak_bytes: usage.as_ref().and_then(|usage| usage.memory_peak_bytes),
            read_bytes: None,
            write_bytes: None,
            pids_peak: usage.as_ref().and_then(|usage| usage.pids_peak),
        },
        lingering: stragglers,
        denials,
        enforced: Enforced {
            // What the init itself saw in force counts.
            landlock_abi: receipt.landlock_abi.filter(|_| slot.landlock != Enforcement::None),
            ..receipt.clone()
        },
    };
    Ended { outcome, stdout: stdout.kept, stderr: stderr.kept }
}

/// Output of what the command left behind, until it is quiet.
async fn drain(
    slot: &Slot,
    sink: &mut Sink<'_>,
    stdout: &mut Output,
    stderr: &mut Output,
    asks: &mut mpsc::Receiver<Ask>,
) {
    let last = Instant::now() + DRAIN;
    while stdout.open || stderr.open {
        let quiet = (Instant::now() + QUIET).min(last);
        tokio::select! {
            _ = slot.stdout.readable(), if stdout.open => sink.take(&slot.stdout, stdout),
            _ = slot.stderr.readable(), if stderr.open => sink.take(&slot.stderr, stderr),
            Some(Ask::End(_)) = asks.recv() => return,
            () = tokio::time::sleep_until(quiet) => return,
        }
        if Instant::now() >= last {
            return;
        }
    }
}

/// How the end is told.
struct Verdict {
    state: RunState,
    exit_code: Option<i32>,
    signal: Option<String>,
}

impl Verdict {
    /// `status` is wait(2)'s, and absent when the whole sandbox of the run was killed.
    fn of(cause: Option<Cause>, status: Option<i32>, oom_kills: u64) -> Self {
        let signal = match status {
            Some(status) => Some(status & 0x7F).filter(|signal| *signal != 0),
            None => Some(libc::SIGKILL),
        };
        let own = match (signal, status) {
            (Some(signal), _) => 128 + signal,
            (None, Some(status)) => (status >> 8) & 0xFF,
            (None, None) => 128 + libc::SIGKILL,
        };
        let (state, exit_code) = match cause {
            Some(Cause::Deadline) => (RunState::TimedOut, 124),
            Some(Cause::Caller | Cause::Shutdown) => (RunState::Cancelled, own),
            Some(Cause::Disk) => (RunState::Signaled, own),
            None if oom_kills > 0 && own != 0 => (RunState::OomKilled, 137),
            None if signal.is_some() => (RunState::Signaled, own),
            None => (RunState::Exited, own),
        };
        Self { state, exit_code: Some(exit_code), signal: signal.map(signal_name) }
    }
}

fn signal_name(number: i32) -> String {
    match nix::sys::signal::Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("SIG{number}"),
    }
}

fn limit_denial(limit: &str, count: u64) -> Denial {
    Denial { kind: "limit".into(), subject: limit.into(), rule: format!("limits.{limit}"), count }
}

/// To three decimals: more would be noise.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(cause: Option<Cause>, status: Option<i32>, oom: u64) -> (RunState, Option<i32>, Option<String>) {
        let verdict = Verdict::of(cause, status, oom);
        (verdict.state, verdict.exit_code, verdict.signal)
    }

    #[test]
    fn ends_are_told_apart() {
        let kill = Some("SIGKILL".to_owned());
        assert_eq!(verdict(None, Some(3 << 8), 0), (RunState::Exited, Some(3), None));
        assert_eq!(verdict(None, Some(137 << 8), 0), (RunState::Exited, Some(137), None));
        assert_eq!(verdict(None, Some(9), 0), (RunState::Signaled, Some(137), kill.clone()));
        assert_eq!(verdict(None, Some(9), 1), (RunState::OomKilled, Some(137), kill.clone()));
        assert_eq!(verdict(None, Some(137 << 8), 1), (RunState::OomKilled, Some(137), None));
        assert_eq!(verdict(None, Some(0), 1), (RunState::Exited, Some(0), None));
        assert_eq!(verdict(Some(Cause::Deadline), None, 0), (RunState::TimedOut, Some(124), kill.clone()));
        assert_eq!(verdict(Some(Cause::Deadline), Some(0), 0), (RunState::TimedOut, Some(124), None));
        assert_eq!(verdict(Some(Cause::Caller), Some(15), 0).1, Some(143));
        assert_eq!(verdict(Some(Cause::Disk), None, 0), (RunState::Signaled, Some(137), kill));
        assert_eq!(verdict(None, Some(11 | 0x80), 0).2, Some("SIGSEGV".to_owned()));
    }
}
