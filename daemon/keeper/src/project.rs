//! The project as the keeper keeps it: its sandboxes, and the runs in them.
//!
//! Input: [`RunOrder`]s from the server; output: [`Done`] or a [`Problem`]. A sandbox is made when the
//! first order for its policy comes, and again when it has died or a denied path came or went.

use crate::api::{KeeperSpec, KillCause, RunOrder};
use crate::input::Input;
use crate::journal::{Spare, StartRecord, Writer};
use crate::pool::Sandbox;
use crate::run::{Ask, Begun, Cause, attend, begin, run_plan};
use crate::slot::Slot;
use crate::spawn::Program;
use crate::{factory, monitor, selftest, view};
use sandbox_launch::report::{Report, Step};
use sandbox_policy::Policy;
use sandbox_wire::event::RunOutcome;
use sandbox_wire::{Code, Problem, RunId, Truncated};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Questions that wait for one run; more than a few at a time are not sensible.
const ASKS: usize = 16;
/// An init may have died while it waited; so many are tried.
const ATTEMPTS: usize = 3;

/// Journals made ahead of time: on a filesystem that is busy with deletions, making a folder and a
/// file can take a millisecond.
#[derive(Debug, Default)]
struct Spares {
    ready: Vec<Spare>,
    making: usize,
    next: u32,
}

/// So many are there after they have been made; more are made when half of them are used.
const SPARES: usize = 8;

/// An init starts its command within this, or something is wrong with it.
const START: Duration = Duration::from_millis(100);

/// A run that has ended, with what its reply keeps.
#[derive(Debug)]
pub struct Done {
    pub outcome: RunOutcome,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub truncated: Truncated,
}

/// A run that goes on, as others see it.
#[derive(Debug, Clone)]
pub struct Live {
    asks: mpsc::Sender<Ask>,
    pub input: Arc<Input>,
    pub grown: watch::Receiver<u64>,
    pub done: watch::Receiver<Option<Arc<Done>>>,
}

/// What an order came to.
pub type Answer = Result<Arc<Done>, Box<Problem>>;

#[derive(Debug)]
pub struct Project {
    pub spec: KeeperSpec,
    program: Program,
    pub(crate) ground: factory::Ground,
    /// Whether its use of the processors is looked at.
    weighed: AtomicBool,
    policies: Mutex<HashMap<String, Arc<Policy>>>,
    sandboxes: Mutex<HashMap<String, Arc<Sandbox>>>,
    making: tokio::sync::Mutex<()>,
    runs: Mutex<HashMap<RunId, Live>>,
    spares: Mutex<Spares>,
    /// Runs and requests in work; and when the last of them ended.
    pub(crate) active: watch::Sender<usize>,
    last_active: Mutex<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds one of the project's tables")
}

/// Counts something that keeps the keeper from being idle.
#[derive(Debug)]
pub struct Busy(Arc<Project>);

impl Drop for Busy {
    fn drop(&mut self) {
        *lock(&self.0.last_active) = Instant::now();
        self.0.active.send_modify(|active| *active -= 1);
    }
}

impl Project {
    pub fn new(spec: KeeperSpec, program: Program) -> Arc<Self> {
        Arc::new(Self {
            spec,
            program,
            ground: factory::Ground::survey(),
            weighed: AtomicBool::new(false),
            policies: Mutex::default(),
            sandboxes: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            runs: Mutex::default(),
            spares: Mutex::default(),
            active: watch::Sender::new(0),
            last_active: Mutex::new(Instant::now()),
        })
    }

    pub fn busy(self: &Arc<Self>) -> Busy {
        self.active.send_modify(|active| *active += 1);
        Busy(Arc::clone(self))
    }

    /// Completes when nothing has happened for `idle`.
    pub async fn idle(&self, idle: Duration) {
        let mut active = self.active.subscribe();
        loop {
            if active.wait_for(|active| *active == 0).await.is_err() {
                return;
            }
            let since = *lock(&self.last_active);
            let still = || *active.borrow() == 0 && *lock(&self.last_active) == since;
            tokio::time::sleep_until(since + idle.min(REST)).await;
            if !still() {
                continue;
            }
            lock(&self.sandboxes).values().for_each(|sandbox| sandbox.rest());
            tokio::time::sleep_until(since + idle).await;
            if still() {
                return;
            }
        }
    }

    /// Makes a policy known; orders name it by its digest.
    pub fn learn(&self, policy: Policy) {
        lock(&self.policies).insert(policy.digest(), Arc::new(policy));
    }

    pub fn knows(&self, digest: &str) -> bool {
        lock(&self.policies).contains_key(digest)
    }

    pub fn run_dir(&self, run: &RunId) -> PathBuf {
        self.spec.project_dir.join("runs").join(run.as_str())
    }

    pub fn live(&self, run: &RunId) -> Option<Live> {
        lock(&self.runs).get(run).cloned()
    }

    /// Runs whose command has not ended.
    pub fn running(&self) -> Vec<RunId> {
        lock(&self.runs).iter().filter(|(_, live)| live.done.borrow().is_none()).map(|(run, _)| run.clone()).collect()
    }

    /// Ends a run, or what it left in the background.
    pub async fn end(&self, run: &RunId, cause: KillCause) -> bool {
        let cause = match cause {
            KillCause::Caller => Cause::Caller,
            KillCause::Shutdown => Cause::Shutdown,
        };
        self.ask(run, Ask::End(cause)).await
    }

    pub async fn ask(&self, run: &RunId, ask: Ask) -> bool {
        let Some(live) = self.live(run) else { return false };
        live.asks.send(ask).await.is_ok()
    }

    /// Runs an order to its end. `started` hears as soon as the command runs, or why it does not.
    pub async fn run(self: Arc<Self>, order: RunOrder, started: Option<oneshot::Sender<()>>) -> Answer {
        let _busy = self.busy();
        let sandbox = self.sandbox(&order.policy_digest).await?;
        let words = run_plan(&order, &sandbox.environment);
        let (mut slot, Begun { at: begun, input }) = self.dispatch(&sandbox, &order, &words).await?;

        let (asks, mut asked) = mpsc::channel(ASKS);
        let (grown, grows) = watch::channel(0);
        let (done, is_done) = watch::channel(None);
        let live = Live { asks: asks.clone(), input: Arc::new(input), grown: grows, done: is_done };
        lock(&self.runs).insert(order.run.clone(), live);
        let registered = Registered { project: &self, run: &order.run };
        // Until then the init needs this very processor more than the journal does. One that does not
        // get that far is seen to by the deadline, like any that hangs.
        let _ = tokio::time::timeout(START, slot.started()).await;
        let mut journal = match self.journal(&order, &sandbox) {
            Ok(journal) => journal,
            Err(problem) => {
                drop(registered);
                slot.pidfd.kill();
                sandbox.recycle(slot);
                return Err(problem);
            }
        };
        grown.send_modify(|position| *position += 1); // there is a journal to be read
        if let Some(started) = started {
            slot.started().await;
            if slot.refusal().is_none() {
                let _ = started.send(()); // whoever asked may be gone
            }
        }
        let ended = attend(&mut slot, &order, begun, &mut journal, &mut asked, &grown, &sandbox.receipt).await;
        if let Some(report) = slot.refusal().cloned() {
            drop(registered);
            return Err(self.not_started(slot, &sandbox, &order, &report));
        }
        if let Err(error) = journal.finish(&ended.outcome) {
            tracing::error!(run = %order.run, %error, "the journal could not take the outcome");
        }
        let (stdout, omitted_stdout) = ended.stdout.into_parts();
        let (stderr, omitted_stderr) = ended.stderr.into_parts();
        let truncated = Truncated { stdout: omitted_stdout, stderr: omitted_stderr };
        let answer = Arc::new(Done { outcome: ended.outcome, stdout, stderr, truncated });
        done.send_replace(Some(Arc::clone(&answer)));
        grown.send_modify(|position| *position += 1);
        if order.keep_background && answer.outcome.lingering > 0 {
            std::mem::forget(registered); // unregistered when the background ends
            slot.linger();
            tokio::spawn(Arc::clone(&self).restock());
            tokio::spawn(background(Arc::clone(&self), sandbox, slot, order.run, asked, done));
        } else {
            drop(registered);
            let project = Arc::clone(&self);
            tokio::spawn(async move {
                // After the reply, which waits for nothing of this; and after whoever it has woken,
                // who mostly waits for this very processor.
                std::thread::yield_now();
                drop(journal);
                slot.pidfd.kill();
                sandbox.recycle(slot);
                sandbox.refill();
                project.restock().await;
            });
        }
        Ok(answer)
    }

    /// Finds an init that takes the order.
    async fn dispatch(
        &self,
        sandbox: &Arc<Sandbox>,
        order: &RunOrder,
        words: &sandbox_launch::plan::RunPlan,
    ) -> Result<(Slot, Begun), Box<Problem>> {
        for _ in 0..ATTEMPTS {
            let slot = sandbox.take().await.map_err(|error| internal(&error))?;
            match begin(&slot, order, words, sandbox.owner()) {
                Ok(begun) => return Ok((slot, begun)),
                Err(error) if error.raw_os_error() == Some(libc::E2BIG) => {
                    sandbox.recycle(slot);
                    return Err(Box::new(too_long()));
                }
                Err(error) => {
                    tracing::warn!(%error, "an armed init was dead");
                    slot.pidfd.kill();
                    sandbox.recycle(slot);
                }
            }
        }
        lock(&self.sandboxes).remove(&order.policy_digest);
        sandbox.kill();
        Err(Box::new(Problem::new(Code::Unavailable, "the sandbox died; the next run gets a new one")))
    }

    fn journal(&self, order: &RunOrder, sandbox: &Sandbox) -> Result<Writer, Box<Problem>> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let start = StartRecord {
            run: order.run.clone(),
            project: self.spec.project,
            command: order.admitted.argv().to_vec(),
            cwd: order.admitted.cwd().to_owned(),
            policy: sandbox.policy.name().to_owned(),
            timeout_ms: order.admitted.timeout_ms(),
            started_at: now.as_millis() as u64,
        };
        let (dir, limit) = (self.run_dir(&order.run), sandbox.policy.limits().output_bytes);
        let spare = lock(&self.spares).ready.pop();
        let journal = match spare {
            Some(spare) => spare.begin(&dir, limit, &start),
            None => Writer::create(&dir, limit, &start),
        };
        journal.map_err(|error| {
            let code = match error.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => Code::DiskFull,
                _ => Code::Internal,
            };
            tracing::error!(%error, "no journal");
            let problem = Problem::new(code, format!("cannot keep a journal of the run: {error}"));
            Box::new(problem.next("free space on the filesystem that holds the daemon's state"))
        })
    }

    /// Makes journals for later runs.
    async fn restock(self: Arc<Self>) {
        let numbers = {
            let mut spares = lock(&self.spares);
            let missing = SPARES.saturating_sub(spares.ready.len() + spares.making);
            if missing < SPARES / 2 {
                return;
            }
            spares.making += missing;
            let first = spares.next;
            spares.next += missing as u32;
            first..spares.next
        };
        let count = numbers.len();
        let runs = self.spec.project_dir.join("runs");
        let making = tokio::task::spawn_blocking(move || {
            numbers.map(|number| Spare::make(&runs, number)).collect::<Result<Vec<_>, _>>()
        });
        let made = making.await;
        let mut spares = lock(&self.spares);
        spares.making -= count;
        match made {
            Ok(Ok(made)) => spares.ready.extend(made),
            // Then the next run makes its own, or says why it cannot.
            Ok(Err(error)) => tracing::warn!(%error, "no journals could be made ahead of time"),
            Err(error) => tracing::error!(%error, "no journals could be made ahead of time"),
        }
    }

    /// The order was refused inside: nothing has run, and nothing of it stays.
    fn not_started(&self, slot: Slot, sandbox: &Arc<Sandbox>, order: &RunOrder, report: &Report) -> Box<Problem> {
        slot.pidfd.kill();
        sandbox.recycle(slot);
        sandbox.refill();
        if let Err(error) = std::fs::remove_dir_all(self.run_dir(&order.run)) {
            tracing::warn!(%error, "the journal of a run that did not start stays");
        }
        let cwd = order.admitted.cwd();
        Box::new(match report.step {
            Step::CwdNotFound => {
                Problem::new(Code::CwdNotFound, format!("the working directory {cwd} is not there, or not a directory"))
                    .with("cwd", cwd)
                    .next("create it first, or start in /home/user/project")
            }
            Step::CwdOutside => Problem::new(
                Code::CwdOutsideProject,
                format!("the working directory {cwd} is outside of what the policy makes writable"),
            )
            .with("cwd", cwd)
            .next("start in /home/user/project or below"),
            Step::Exec if report.errno == libc::E2BIG => too_long(),
            _ => internal(report).as_ref().clone(),
        })
    }

    /// The sandbox of a policy, made if need be.
    async fn sandbox(self: &Arc<Self>, digest: &str) -> Result<Arc<Sandbox>, Box<Problem>> {
        if let Some(sandbox) = self.standing(digest) {
            return Ok(sandbox);
        }
        let _making = self.making.lock().await;
        if let Some(sandbox) = self.standing(digest) {
            return Ok(sandbox);
        }
        let policy = lock(&self.policies).get(digest).cloned();
        let policy = policy.ok_or_else(|| internal(&"the policy of an order is not known"))?;
        let project = Arc::clone(self);
        let made = tokio::task::spawn_blocking(move || {
            factory::make(&project.ground, &project.program, policy, &project.spec)
        });
        let sandbox = made.await.map_err(|error| internal(&error))??;
        sandbox.bury_when_dead();
        if let Err(problem) = selftest::pass(&sandbox, &self.spec).await {
            sandbox.kill();
            return Err(problem);
        }
        let old = lock(&self.sandboxes).insert(digest.to_owned(), Arc::clone(&sandbox));
        if let Some(old) = old {
            // Its runs go on in what they have; no new ones start in it.
            tracing::info!(policy = old.policy.name(), "the sandbox was made again");
        }
        tokio::spawn(monitor::disk(Arc::clone(self), Arc::clone(&sandbox)));
        // The cgroup is the project's, whatever its sandboxes.
        if !self.weighed.swap(true, Ordering::Relaxed)
            && let Some(precedence) = self.ground.precedence()
        {
            tokio::spawn(monitor::processors(Arc::clone(self), precedence));
        }
        Ok(sandbox)
    }

    fn standing(&self, digest: &str) -> Option<Arc<Sandbox>> {
        let sandbox = lock(&self.sandboxes).get(digest).cloned()?;
        let current = sandbox.denied.is_empty() || view::denied_now(&sandbox.policy, &self.spec) == sandbox.denied;
        current.then_some(sandbox)
    }

    /// Ends everything: runs first, so that each gets its outcome, then the sandboxes.
    pub async fn stop(self: &Arc<Self>, cause: KillCause) {
        for run in self.running() {
            self.end(&run, cause).await;
        }
        let deadline = Instant::now() + Duration::from_secs(8);
        while !self.running().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let sandboxes: Vec<_> = lock(&self.sandboxes).drain().map(|(_, sandbox)| sandbox).collect();
        let gone = tokio::task::spawn_blocking(move || {
            for sandbox in &sandboxes {
                sandbox.kill();
            }
            for sandbox in &sandboxes {
                if !sandbox.wait_dead(Duration::from_secs(5)) {
                    tracing::error!("a killed sandbox does not die");
                }
            }
        });
        if let Err(error) = gone.await {
            tracing::error!(%error, "the sandboxes were not taken down");
        }
    }
}

impl Project {
    /// Removes what the kernel holds for this project, once all is dead.
    pub fn clear(&self) {
        lock(&self.spares).ready.clear();
        self.ground.clear();
    }
}

/// Takes a run off the list when it is dropped.
struct Registered<'run> {
    project: &'run Project,
    run: &'run RunId,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        lock(&self.project.runs).remove(self.run);
    }
}

/// Keeps what a run left behind until it ends or is ended; its output is thrown away.
async fn background(
    project: Arc<Project>,
    sandbox: Arc<Sandbox>,
    slot: Slot,
    run: RunId,
    mut asked: mpsc::Receiver<Ask>,
    done: watch::Sender<Option<Arc<Done>>>,
) {
    let _busy = project.busy();
    let mut nowhere = vec![0; 64 * 1024];
    let (mut stdout_open, mut stderr_open) = (true, true);
    loop {
        tokio::select! {
            () = slot.pidfd.dead() => break,
            _ = slot.stdout.readable(), if stdout_open => stdout_open = discard(&slot.stdout, &mut nowhere),
            _ = slot.stderr.readable(), if stderr_open => stderr_open = discard(&slot.stderr, &mut nowhere),
            Some(ask) = asked.recv() => match ask {
                Ask::Signal(signal) => slot.signal(signal),
                Ask::End(_) => slot.pidfd.kill(),
            },
        }
    }
    lock(&project.runs).remove(&run);
    drop(done);
    sandbox.recycle(slot);
    sandbox.refill();
}

fn discard(pipe: &tokio::net::unix::pipe::Receiver, nowhere: &mut [u8]) -> bool {
    match pipe.try_read(nowhere) {
        Ok(length) => length > 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

/// After so long without a run a project keeps less in readiness.
const REST: Duration = Duration::from_millis(500);

fn too_long() -> Problem {
    Problem::new(Code::CommandTooLong, "the command and its environment are longer than the kernel can take")
        .next("write the script to a file in the workspace and run that")
}

/// Something that the caller cannot mend; the log has the whole of it.
pub fn internal(error: &impl std::fmt::Display) -> Box<Problem> {
    tracing::error!(%error, "a run could not be started");
    let problem = Problem::new(Code::Internal, format!("the sandbox could not run the command: {error}"));
    Box::new(problem.next("run `sandboxctl doctor` on the daemon's host"))
}
