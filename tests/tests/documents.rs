//! What the documents say is so: commands exist, tests exist, links lead somewhere.

use sandbox_tests::programs;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    fs::read_to_string(programs::repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Lines of the fenced `sh` blocks of a document.
fn shell_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("```") {
            inside = !inside && line.trim() == "```sh";
        } else if inside && !line.trim().is_empty() {
            match lines.last_mut() {
                Some(last) if last.ends_with('\\') => {
                    last.pop();
                    last.push_str(line.trim_start());
                }
                _ => lines.push(line.to_owned()),
            }
        }
    }
    lines
}

#[test]
fn the_two_commands_of_the_readme_are_there() {
    let lines = shell_lines(&read("README.md"));
    let main = "cargo build --release && target/release/sandboxctl up examples/vite-site";
    assert!(lines.iter().any(|line| line == main), "{lines:?}");
    assert!(lines.iter().any(|line| line == "cargo test"), "{lines:?}");
    assert!(programs::repository().join("examples/vite-site/package-lock.json").exists());
}

#[test]
fn commands_in_the_readme_parse() {
    let mut checked = 0;
    for line in shell_lines(&read("README.md")) {
        let words = words(line.split(" #").next().unwrap_or_default());
        let at = words.iter().position(|word| word == "sandboxctl" || word.ends_with("/sandboxctl"));
        let Some(at) = at else { continue };
        let ours: Vec<&str> = words[at + 1..].iter().map(String::as_str).take_while(|word| *word != "--").collect();
        // Asking for help instead of doing it: an unknown flag before it is still an error.
        let output = Command::new(programs::path("sandboxctl")).args(&ours).arg("--help").output().expect("it starts");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        checked += 1;
    }
    assert!(checked >= 5, "only {checked} commands were found");
}

/// Words as a shell would split them, quotes taken off.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some(_), _) => word.push(character),
            (None, '\'' | '"') => quote = Some(character),
            (None, ' ') => words.push(std::mem::take(&mut word)),
            (None, _) => word.push(character),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn the_http_calls_of_the_readme_work() {
    let daemon = sandbox_tests::Daemon::start();
    let made = daemon.client.post("/projects", &serde_json::json!({"name": "demo"}));
    assert_eq!((made.status, made.json()["url_id"].as_str()), (201, Some("demo")), "{}", made.text());
    let body = r#"{"command": "echo hello from $(whoami); exit 3"}"#;
    assert!(read("README.md").contains(body));
    let result = daemon.client.send("POST", "/projects/demo/run", &[], body.as_bytes()).ok();
    assert_eq!((result["exit_code"].as_i64(), result["stdout"].as_str()), (Some(3), Some("hello from user\n")));
}

#[test]
fn every_promise_of_the_threat_model_names_a_test_that_exists() {
    let model = read("docs/threat-model.md");
    let mut named = BTreeSet::new();
    for row in model.lines().filter(|line| line.starts_with("| ")) {
        let last = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        for name in last.split('`').filter(|part| part.contains("::")) {
            named.insert(name.to_owned());
        }
    }
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        let (file, test) = name.split_once("::").expect("file and test");
        let path = programs::repository().join(format!("tests/tests/{file}.rs"));
        let source = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            source.contains(&format!("#[test]\nfn {test}(")),
            "the threat model names {name}, which does not exist"
        );
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = programs::repository();
    let mut documents = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    for folder in ["docs", "docs/adr"] {
        let entries = fs::read_dir(root.join(folder)).expect("the documents are there").flatten();
        documents
            .extend(entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|name| name == "md")));
    }
    let mut broken = Vec::new();
    for document in documents {
        let text = fs::read_to_string(&document).expect("readable");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            let external = target.contains("://") || target.starts_with("mailto:") || path.is_empty();
            if !external && !document.parent().unwrap_or(Path::new("/")).join(path).exists() {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}
