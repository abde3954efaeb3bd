//! Which tools a connection is shown: few for a small model, and more when it asks for them.

use sandbox_tests::cli::Person;
use sandbox_tests::mcp::{Pipes, Session};
use sandbox_tests::{Daemon, project};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::time::Duration;

fn names(tools: &Value) -> Vec<&str> {
    tools["tools"].as_array().expect("a list").iter().filter_map(|tool| tool["name"].as_str()).collect()
}

#[test]
fn a_connection_may_ask_for_some_tools_only() {
    let daemon = Daemon::shared();
    let list = |path: &str| Session::open_at(&daemon.client, path).send("tools/list", json!({})).result().clone();
    let few = list("/mcp?tools=run,files");
    assert!(names(&few).contains(&"run_command") && names(&few).contains(&"read_file"), "{few}");
    assert!(!names(&few).contains(&"run_sql") && !names(&few).contains(&"deploy_project"), "{few}");
    let (all, named) = (list("/mcp"), list("/mcp?tools=all"));
    assert!(names(&all).len() > 130 && names(&all) == names(&named), "{}", names(&all).len());
    // There is nothing more to show.
    assert!(!names(&all).contains(&"more_tools") && names(&few).contains(&"more_tools"));
    assert!(names(&list("/mcp?tools=database")).contains(&"run_sql"));
}

#[test]
fn a_session_is_shown_more_and_told_that_its_list_has_changed() {
    let project = project();
    let session = Session::open_at(&project.client, "/mcp?tools=run");
    let news = session.listen();
    let refused = session.call("more_tools", &json!({"groups": ["magic"]}));
    assert!(refused.refused().contains("magic") && refused.refused().contains("database"), "{refused:?}");
    let shown = session.call("more_tools", &json!({"groups": ["database", "run"]}));
    assert!(shown.data()["tools"].as_array().expect("names").contains(&json!("run_sql")), "{shown:?}");
    let told = BufReader::new(news).lines().map_while(Result::ok).find(|line| line.contains("list_changed"));
    assert!(told.is_some_and(|line| line.contains("notifications/tools/list_changed")));
    let list = session.send("tools/list", json!({})).result().clone();
    assert!(names(&list).contains(&"run_sql") && !names(&list).contains(&"send_email"), "{list}");
    // Once more is nothing new; another session has its own list.
    assert_eq!(session.call("more_tools", &json!({"groups": ["database"]})).data()["tools"], json!([]));
    let other = Session::open_at(&project.client, "/mcp?tools=run").send("tools/list", json!({})).result().clone();
    assert!(!names(&other).contains(&"run_sql"), "{other}");
    // Without sessions the address says it.
    let stateless = Session::without(&project.client).call("more_tools", &json!({"groups": ["database"]}));
    assert!(stateless.refused().contains("/mcp?tools="), "{stateless:?}");
}

#[test]
fn pipes_tell_it_too() {
    let person = Person::of(Daemon::shared());
    let project = Daemon::shared().project();
    let mut pipes = Pipes::start(person.command(&["mcp", "--project", &project.id, "--tools", "run,files"]));
    pipes.shake_hands();
    let list = pipes.send("tools/list", json!({})).result().clone();
    assert!(names(&list).contains(&"list_files") && !names(&list).contains(&"run_sql"), "{list}");
    let mut heard = pipes.call("more_tools", &json!({"groups": ["database"]})).notifications;
    for _ in 0..100 {
        if heard.iter().any(|message| message["method"] == "notifications/tools/list_changed") {
            let list = pipes.send("tools/list", json!({})).result().clone();
            assert!(names(&list).contains(&"run_sql"), "{list}");
            return;
        }
        // It comes by a way of its own.
        std::thread::sleep(Duration::from_millis(50));
        heard = pipes.send("ping", json!({})).notifications;
    }
    panic!("nobody said that the list has changed");
}
