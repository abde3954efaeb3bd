//! The gateway dies at every point of a deploy, and comes back.
//!
//! A harness of its own: this program is the test and, started again with `RUN402_GATEWAY_TEST_STATE`, the
//! gateway that is to die. Whatever the point, the release before or the new one is live, the store holds no
//! bytes under a wrong name, what was begun is carried on, and the same deploy goes through afterwards.

// What is not needed here is needed by the other tests.
#[path = "../gateway/support.rs"]
mod support;
#[path = "../gateway/tables.rs"]
mod tables;

use libtest_mimic::{Arguments, Trial};
use run402::api::releases;
use run402::deploy::Digest;
use run402_gateway::Gateway;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use support::{User, config, files_below};
use tables::Tables;
use tokio_util::sync::CancellationToken;

const STATE: &str = "RUN402_GATEWAY_TEST_STATE";
const FAULT: &str = "RUN402_GATEWAY_FAULT";
const SIGABRT: i32 = 6;

/// Where it dies, and whether the release is live once it is back, without being deployed again.
const POINTS: [(&str, bool); 9] = [
    ("plan-stored", false),
    ("part-written", false),
    ("content-assembled", false),
    ("content-promoted", false),
    ("commit-recorded", true),
    ("migrated", true),
    ("release-written", true),
    ("activated", true),
    ("none", true),
];

fn main() -> ExitCode {
    if let Some(state) = std::env::var_os(STATE) {
        return serve(Path::new(&state));
    }
    let trial = |(point, live): (&'static str, bool)| {
        Trial::test(format!("a_deploy_survives_a_crash_at_{}", point.replace('-', "_")), move || {
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(survive(point, live));
            Ok(())
        })
    };
    libtest_mimic::run(&Arguments::from_args(), POINTS.into_iter().map(trial).collect()).exit_code()
}

/// The gateway; it says where it listens, and serves until it is killed.
fn serve(state: &Path) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let tables = Arc::new(Tables::new(state.join("tables")));
        let gateway = Gateway::open(config(state, Some(tables))).expect("a gateway");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("http://{}", listener.local_addr().expect("an address"));
        run402_gateway::run(listener, gateway, CancellationToken::new()).await.expect("it serves");
    });
    ExitCode::SUCCESS
}

struct Host {
    child: Child,
    base: String,
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may have died, as it was meant to.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(state: &Path, fault: &str) -> Host {
    let program = std::env::current_exe().expect("a program");
    let mut command = Command::new(program);
    command.env(STATE, state).env(FAULT, fault).stdout(Stdio::piped()).stderr(Stdio::null()).stdin(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    Host { child, base: line.trim().to_owned() }
}

fn release() -> Value {
    let large: String = "0123456789abcdef".repeat(100_000);
    json!({"site": {"replace": {"index.html": "two", "large.txt": large}}, "subdomains": {"set": ["shop"]},
        "secrets": {"delete": ["OLD"]}, "database": {"migrations": [{"id": "1", "sql": "CREATE TABLE a ()"}]}})
}

fn check_store(state: &Path) {
    for path in files_below(&state.join("content")) {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!(Digest::of(&std::fs::read(&path).expect("readable")).to_string(), name);
    }
}

async fn survive(point: &'static str, live_by_itself: bool) {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path();
    let user = {
        let host = start(state, "none");
        let user = User::new(&host.base, 1).await;
        user.deploy(json!({"site": {"replace": {"index.html": "one", "old.txt": "old"}}})).await.expect("the first");
        user
    };
    {
        let mut host = start(state, point);
        let deployed = user.at(&host.base).deploy(release()).await;
        if point == "none" {
            deployed.expect("nothing is in the way");
            host.child.kill().expect("it runs");
        } else {
            deployed.expect_err("it died");
            let status = host.child.wait().expect("it ends");
            assert_eq!(status.signal(), Some(SIGABRT), "{status}");
        }
    }
    check_store(state);
    let host = start(state, "none");
    let user = user.at(&host.base);
    let (before, after) = (["index.html", "old.txt"].as_slice(), ["index.html", "large.txt"].as_slice());
    assert_eq!(user.live().await, if live_by_itself { after } else { before });
    let listed = releases::list(&user.client, &user.project, None, None).await.expect("a list");
    let statuses: Vec<_> = listed.operations.iter().map(|operation| operation.status.as_deref()).collect();
    assert_eq!(statuses, vec![Some("ready"); if live_by_itself { 2 } else { 1 }]);
    let again = user.deploy(release()).await.expect("the same deploy");
    assert_eq!(again.diff["is_noop"], live_by_itself);
    assert_eq!(user.live().await, after);
    assert!(again.urls["site"].as_str().expect("a URL").starts_with("http://shop.localhost:"));
    check_store(state);
    // Migrated once, however often it was tried.
    let tables = Tables::new(state.join("tables"));
    assert_eq!(tables.lines().iter().filter(|line| line[1] == "migration").count(), 1);
    assert!(files_below(&state.join("staging")).is_empty() || !live_by_itself);
}
