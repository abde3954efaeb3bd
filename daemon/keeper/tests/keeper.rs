//! A real keeper, launcher and sandbox, without a daemon.

use sandbox_keeper::api::{KeeperSpec, KillCause, RunOrder};
use sandbox_keeper::client::{Finished, Keeper};
use sandbox_policy::{Policy, PolicySet, RunSpec, admit};
use sandbox_wire::{ProjectId, RunId, RunState};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

struct Kept {
    _folder: tempfile::TempDir,
    process: Child,
    keeper: Keeper,
    policy: Arc<Policy>,
}

impl Kept {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path().join("project");
        std::fs::create_dir_all(dir.join("workspace")).expect("workspace");
        let root = rustix::process::geteuid().is_root();
        if root {
            let id = 1_900_001_000;
            std::os::unix::fs::chown(dir.join("workspace"), Some(id), Some(id)).expect("chown");
        }
        let spec = KeeperSpec {
            project: ProjectId::random(),
            hostname: "test".into(),
            project_dir: dir.clone(),
            dir: None,
            id_base: root.then_some(1_900_000_000),
            cgroup_name: format!("keeper-test-{}", std::process::id()),
            idle_ms: 60_000,
        };
        let process = spawn(&spec);
        let policy = PolicySet::shipped().get("default").expect("shipped");
        Self { keeper: Keeper::at(&dir), _folder: folder, process, policy }
    }

    fn order(&self, line: &str) -> RunOrder {
        RunOrder {
            run: RunId::generate(),
            policy_digest: self.policy.digest(),
            admitted: admit(&self.policy, RunSpec::shell(line)).expect("admitted"),
            keep_background: false,
            open_input: false,
        }
    }

    async fn sh(&self, line: &str) -> Finished {
        self.keeper.run(self.order(line), &self.policy).await.expect("the keeper answers")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

fn spawn(spec: &KeeperSpec) -> Child {
    let mut process = Command::new(Path::new(env!("CARGO_BIN_EXE_sandbox-keeper")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sandbox-keeper starts");
    let mut stdin = process.stdin.take().expect("piped");
    stdin.write_all(&serde_json::to_vec(spec).expect("JSON")).expect("the specification is taken");
    drop(stdin);
    let mut line = String::new();
    BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    process
}

/// The launcher belongs to another crate, whose program Cargo does not build for this test.
fn launcher_is_built() -> bool {
    let built = Path::new(env!("CARGO_BIN_EXE_sandbox-keeper")).with_file_name("sandbox-launch").exists();
    if !built {
        println!("skipped: needs sandbox-launch beside sandbox-keeper (cargo build -p sandbox-launch)");
    }
    built
}

#[tokio::test]
async fn a_keeper_runs_commands_until_it_is_stopped() {
    if !launcher_is_built() {
        return;
    }
    let mut kept = Kept::start();
    let done = kept.sh("echo hi; echo oh >&2; exit 3").await;
    assert_eq!((done.outcome.status, done.outcome.exit_code), (RunState::Exited, Some(3)));
    assert_eq!((done.stdout.as_slice(), done.stderr.as_slice()), (&b"hi\n"[..], &b"oh\n"[..]));

    let first = kept.sh("id -u; pwd; echo kept > file; echo $$").await;
    assert_eq!(String::from_utf8_lossy(&first.stdout), "1000\n/home/user/project\n2\n");
    assert_eq!(kept.sh("cat file").await.stdout, b"kept\n");

    kept.keeper.stop(KillCause::Shutdown).await.expect("it stops");
    assert!(kept.process.wait().expect("it ends").success());
}
