//! A whole session of an agent, as `docs/agent-session.md` tells it, through other people's client.

use sandbox_tests::cli::Person;
use sandbox_tests::gateway::{FREE_PORT, Gateway};
use sandbox_tests::http::fetch;
use sandbox_tests::mcp::{TYPESCRIPT, TYPESCRIPT_SDK};
use sandbox_tests::npm::{Packages, done_with};
use sandbox_tests::postgres::Postgres;
use sandbox_tests::{Daemon, require};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../docs/agent-session.md");

/// A call, and what its answer has to have.
#[derive(Debug)]
struct Step {
    call: Value,
    expected: Vec<String>,
}

/// The page's blocks: `json` is a call, `text` are lines of its answer.
fn steps() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut blocks = PAGE.split("```");
    // What is between two fences.
    while let (Some(_), Some(block)) = (blocks.next(), blocks.next()) {
        if let Some(call) = block.strip_prefix("json\n") {
            let call = serde_json::from_str(call).unwrap_or_else(|error| panic!("{error}: {call}"));
            steps.push(Step { call, expected: Vec::new() });
        } else if let Some(text) = block.strip_prefix("text\n") {
            steps.last_mut().expect("a call comes first").expected = text.lines().map(str::to_owned).collect();
        }
    }
    steps
}

#[test]
fn an_agent_goes_from_nothing_to_a_running_app() {
    require!("node", "npm", "network", "x86_64", "postgres", "python3");
    let postgres = Postgres::start();
    let person = Person::alone();
    let state = person.folder("gateway");
    let (state, database) = (state.to_string_lossy(), postgres.url());
    let command = person.command(&["gateway", "--listen", FREE_PORT, "--state", &state, "--database-url", &database]);
    let gateway = Gateway::spawn(command);
    let config = person.folder("config").to_string_lossy().into_owned();
    let daemon = Daemon::options()
        .arg("--no-auth")
        .env("RUN402_API_BASE", &gateway.base)
        .env("RUN402_CONFIG_DIR", &config)
        .start();
    let steps = steps();
    assert!(steps.len() >= 14, "{steps:?}");
    let calls: Vec<&Value> = steps.iter().map(|step| &step.call).collect();
    let packages = Packages::install(&[TYPESCRIPT_SDK]);
    let url = format!("http://{}/mcp", daemon.client.address);
    let mut client = packages.module(TYPESCRIPT);
    let said = done_with(client.args(["session", &url]), json!(calls).to_string().as_bytes());
    let answers: Vec<Value> = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(answers.len(), steps.len());
    for (step, answer) in steps.iter().zip(&answers) {
        let text = answer["text"].as_str().expect("a text");
        for line in &step.expected {
            assert!(text.contains(line.as_str()), "{}: {line:?} is not in {text}", step.call);
        }
        let fails = step.expected.iter().any(|line| line.contains("nothing was deployed"));
        assert_eq!(answer["failed"], fails, "{}: {text}", step.call);
    }
    let live = answers.iter().filter_map(|answer| answer["data"]["release"]["url"].as_str()).next_back();
    let live = live.expect("it went live");
    assert!(fetch(live, "/").text().contains("<h1>Guestbook</h1>"));
    assert!(fetch(live, "/main.js").text().contains("hello"), "the bundle has both files");
}
