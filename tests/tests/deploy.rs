//! From a folder to a URL: `sandboxctl up` and `sandboxctl deploy`, with nothing set up beforehand.

use sandbox_tests::cli::{Person, assert_status, text};
use sandbox_tests::http::{Client, Reply};
use sandbox_tests::postgres::Postgres;
use sandbox_tests::{Daemon, host, programs, require};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// A folder with these files.
fn site(person: &Person, files: &[(&str, &str)]) -> PathBuf {
    let folder = person.folder("site");
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("the folder is ours");
        fs::write(path, content).expect("the folder is ours");
    }
    folder
}

#[track_caller]
fn up(person: &Person, folder: &Path) -> Value {
    let output = person.run(&["up", "--json", &folder.to_string_lossy()]);
    assert_status(&output, 0);
    serde_json::from_slice(&output.stdout).expect("a JSON document alone on standard output")
}

#[track_caller]
fn refused(person: &Person, folder: &Path) -> String {
    let output = person.run(&["up", &folder.to_string_lossy()]);
    assert_status(&output, 1);
    assert_eq!(text(&output.stdout), "", "a URL was printed");
    text(&output.stderr)
}

fn get(url: &str, path: &str) -> Reply {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    Client { address: address.to_owned(), token: None }.get(path)
}

fn url(released: &Value) -> &str {
    released["url"].as_str().expect("a URL")
}

#[test]
fn the_example_is_built_deployed_and_shown_on_a_fresh_machine() {
    require!("node", "npm", "network");
    let person = Person::alone();
    let folder = person.folder("vite-site");
    programs::copy_example("vite-site", &folder);
    let output = person.run(&["up", &folder.to_string_lossy()]);
    assert_status(&output, 0);
    let url = text(&output.stdout).trim().to_owned();
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    let page = get(&url, "/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let html = page.text();
    let script = html.split('"').find(|word| word.ends_with(".js")).expect("a script").to_owned();
    let script = get(&url, &format!("/{}", script.trim_start_matches("./").trim_start_matches('/')));
    assert_eq!((script.status, script.header("content-type")), (200, Some("text/javascript; charset=utf-8")));
    show_in_a_browser(&url, &person);
    // Nothing changed: nothing is sent. One file: only that file. A file less: it is gone.
    let again = |_: &str| -> Value {
        let output = person.run(&["up", "--json", "--no-build", &folder.to_string_lossy()]);
        assert_status(&output, 0);
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    assert_eq!(again("unchanged")["files_uploaded"], 0);
    fs::write(folder.join("dist/robots.txt"), "User-agent: *\n").expect("the folder is ours");
    assert_eq!(again("one more")["files_uploaded"], 1);
    assert_eq!(get(&url, "/robots.txt").text(), "User-agent: *\n");
    fs::remove_file(folder.join("dist/robots.txt")).expect("it was there");
    assert_eq!(again("one less")["files_uploaded"], 0);
    assert_eq!(get(&url, "/robots.txt").status, 404);
}

/// What the page draws is there, and a picture of it is kept with the test's output.
fn show_in_a_browser(url: &str, person: &Person) {
    require!("chromium");
    let picture = programs::folder().join("up-vite-site.png");
    let profile = person.folder("profile");
    let chromium = |words: &[String]| -> Output {
        let quiet = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--hide-scrollbars",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--virtual-time-budget=5000",
        ];
        let mut command = Command::new("timeout");
        command
            .args(["60", "/usr/bin/chromium"])
            .args(quiet)
            .arg(format!("--user-data-dir={}", profile.display()))
            .args(words);
        command.env("HOME", person.home()).stdin(Stdio::null()).output().expect("chromium starts")
    };
    let drawn = text(&chromium(&["--dump-dom".to_owned(), url.to_owned()]).stdout);
    assert!(drawn.contains("<h1"), "the page drew nothing: {drawn}");
    let _ = fs::remove_file(&picture);
    let shot =
        chromium(&[format!("--screenshot={}", picture.display()), "--window-size=1024,768".to_owned(), url.to_owned()]);
    let bytes = fs::read(&picture).unwrap_or_default();
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 5_000, "no picture: {}", text(&shot.stderr));
    println!("the page as the browser drew it: {}", picture.display());
}

#[test]
fn a_folder_without_a_build_is_a_site_as_it_is() {
    let person = Person::alone();
    let folder =
        site(&person, &[("index.html", "<h1>one</h1>"), (".env", "SECRET=1"), ("a/.npmrc", "token"), ("a/b.txt", "b")]);
    let released = up(&person, &folder);
    assert_eq!(get(url(&released), "/").text(), "<h1>one</h1>");
    assert_eq!(get(url(&released), "/a/b.txt").text(), "b");
    assert_eq!((get(url(&released), "/.env").status, get(url(&released), "/a/.npmrc").status), (404, 404));
    // The same folder is the same project; another folder is another.
    fs::write(folder.join("index.html"), "<h1>two</h1>").expect("the folder is ours");
    let second = up(&person, &folder);
    assert_eq!((url(&second), get(url(&second), "/").text().as_str()), (url(&released), "<h1>two</h1>"));
    let other = person.folder("other");
    fs::write(other.join("index.html"), "other").expect("the folder is ours");
    assert_ne!(url(&up(&person, &other)), url(&released));
    assert_eq!(get(url(&released), "/").text(), "<h1>two</h1>");
}

#[test]
fn a_build_that_fails_deploys_nothing() {
    let person = Person::alone();
    let folder = site(&person, &[("dist/index.html", "old")]);
    fs::write(folder.join("sandbox.toml"), "build = \"echo working; exit 3\"\noutput = \"dist\"\n").expect("ours");
    let said = refused(&person, &folder);
    assert!(
        said.contains("working") && said.contains("the build command ended with 3; nothing was deployed"),
        "{said}"
    );
    let output = person.run(&["up", "--json", &folder.to_string_lossy()]);
    let problem: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((problem["code"].as_str(), problem["details"]["exit_code"].as_i64()), (Some("build_failed"), Some(3)));
    fs::write(folder.join("sandbox.toml"), "build = \"echo new > dist/index.html\"\noutput = \"dist\"\n")
        .expect("ours");
    assert_eq!(get(url(&up(&person, &folder)), "/").text(), "new\n");
    fs::write(folder.join("sandbox.toml"), "biuld = \"x\"\n").expect("ours");
    let said = refused(&person, &folder);
    assert!(said.contains("sandbox.toml") && said.contains("biuld"), "{said}");
}

#[test]
fn the_keys_of_a_deploy_are_never_in_the_sandbox() {
    let person = Person::alone();
    let folder = site(&person, &[("dist/index.html", "x")]);
    up(&person, &folder);
    let dump = "(env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; ls -la /proc/[0-9]*/fd; \
        find /home /tmp /etc /run /var /dev/shm -type f -size -1000k -not -path '*/dist/*' -exec cat {} +; \
        find / -xdev -maxdepth 6 -not -path '/usr/*') > dist/dump 2>/dev/null; true";
    fs::write(folder.join("sandbox.toml"), format!("build = {dump:?}\noutput = \"dist\"\n")).expect("ours");
    up(&person, &folder);
    let seen = fs::read(folder.join("dist/dump")).expect("the build wrote it");
    assert!(seen.len() > 1000);
    let state = person.state().join("run402");
    let wallet: Value =
        serde_json::from_slice(&fs::read(state.join("allowance.json")).expect("a wallet")).expect("JSON");
    let keys = fs::read_to_string(state.join("credentials/project-keys.v1.json")).expect("keys");
    let keys: Value = serde_json::from_str(&keys).expect("JSON");
    let mut secrets = vec![wallet["privateKey"].as_str().expect("a key").trim_start_matches("0x").to_owned()];
    for project in keys["projects"].as_object().expect("projects").values() {
        secrets.extend(["anon_key", "service_key"].map(|name| project[name].as_str().expect("a key").to_owned()));
    }
    secrets.push(person.state().to_string_lossy().into_owned());
    assert_eq!(secrets.len(), 4);
    for secret in secrets {
        let found = seen.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "a key or its place was seen in the sandbox");
    }
}

#[test]
fn hostile_output_is_refused_by_name_or_deployed_as_it_is() {
    let person = Person::alone();
    let folder = site(&person, &[("dist/index.html", "home")]);
    fs::write(folder.join("sandbox.toml"), "output = \"dist\"\n").expect("ours");
    let dist = folder.join("dist");
    fs::write(person.home().join("outside"), "not yours").expect("ours");
    // Links out, as a file, as a directory, and as the output itself.
    symlink(person.home().join("outside"), dist.join("link")).expect("a link");
    assert!(refused(&person, &folder).contains("dist/link is a symbolic link"));
    fs::remove_file(dist.join("link")).expect("it was there");
    symlink(person.home(), dist.join("folder")).expect("a link");
    assert!(refused(&person, &folder).contains("dist/folder is a symbolic link"));
    fs::remove_file(dist.join("folder")).expect("it was there");
    fs::rename(&dist, folder.join("real")).expect("renamed");
    symlink(person.home(), &dist).expect("a link");
    assert!(refused(&person, &folder).contains("symbolic link"));
    fs::remove_file(&dist).expect("it was there");
    fs::rename(folder.join("real"), &dist).expect("renamed");
    for output in ["../", "/etc", "dist/../.."] {
        fs::write(folder.join("sandbox.toml"), format!("output = {output:?}\n")).expect("ours");
        assert!(refused(&person, &folder).contains("not a relative path"), "{output}");
    }
    fs::write(folder.join("sandbox.toml"), "output = \"dist\"\n").expect("ours");
    fs::write(dist.join(std::ffi::OsStr::from_bytes(b"bad\xff")), "").expect("a file");
    assert!(refused(&person, &folder).contains("not UTF-8"));
    fs::remove_file(dist.join(std::ffi::OsStr::from_bytes(b"bad\xff"))).expect("it was there");
    // What is no file is left out; what is strange and harmless is served.
    nix::unistd::mkfifo(&dist.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let _socket = std::os::unix::net::UnixListener::bind(dist.join("socket")).expect("a socket");
    fs::write(dist.join("new\nline"), "newline").expect("a file");
    fs::hard_link(dist.join("index.html"), dist.join("same.html")).expect("a hard link");
    let long = "d".repeat(200);
    fs::create_dir_all(dist.join(&long).join(&long)).expect("long names");
    fs::write(dist.join(&long).join(&long).join("x"), "deep").expect("a file");
    let sparse = fs::File::create(dist.join("sparse.bin")).expect("a file");
    sparse.set_len(64 << 20).expect("a sparse file");
    let released = up(&person, &folder);
    assert_eq!(get(url(&released), "/new%0Aline").text(), "newline");
    assert_eq!(get(url(&released), "/same.html").text(), "home");
    assert_eq!(get(url(&released), &format!("/{long}/{long}/x")).text(), "deep");
    assert_eq!((get(url(&released), "/fifo").status, get(url(&released), "/socket").status), (404, 404));
}

const FREE_PORT: &str = "127.0.0.1:0";

/// A gateway that dies at a point.
struct Gateway {
    child: Child,
    base: String,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Already gone is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gateway(person: &Person, state: &Path, address: &str, fault: Option<&str>) -> Gateway {
    let mut command = person.command(&["gateway", "--listen", address, "--state", &state.to_string_lossy()]);
    command.env("RUN402_GATEWAY_FAULT", fault.unwrap_or_default()).env_remove("SANDBOXD_STATE");
    listening(command)
}

/// Waits for the line that says where it listens.
fn listening(mut command: Command) -> Gateway {
    let mut child = command.stderr(Stdio::null()).stdout(Stdio::piped()).spawn().expect("sandboxctl starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let base = line.trim().strip_prefix("listening on ").expect("it listens").to_owned();
    Gateway { child, base }
}

#[test]
fn a_gateway_that_dies_at_any_step_leaves_the_old_or_the_new_release() {
    let person = Person::alone();
    let folder = site(&person, &[("index.html", "one"), ("same.txt", "same")]);
    let (state, config) = (person.folder("gateway"), person.folder("config"));
    let deploy = |base: &str| -> Output {
        let mut command = person.command(&["up", "--json", "--idempotency-key", "key", &folder.to_string_lossy()]);
        command.env("RUN402_API_BASE", base).env("RUN402_CONFIG_DIR", &config).output().expect("sandboxctl starts")
    };
    let points =
        ["plan-stored", "part-written", "content-assembled", "content-promoted", "commit-recorded", "activated"];
    // It starts again where it was: another address would be another gateway.
    let address = {
        let healthy = gateway(&person, &state, FREE_PORT, None);
        assert_status(&deploy(&healthy.base), 0);
        healthy.base.trim_start_matches("http://").to_owned()
    };
    for (index, point) in points.iter().enumerate() {
        let (old, new) = (fs::read_to_string(folder.join("index.html")).expect("ours"), format!("version {index}"));
        fs::write(folder.join("index.html"), &new).expect("ours");
        {
            let mut faulty = gateway(&person, &state, &address, Some(point));
            let output = deploy(&faulty.base);
            assert_eq!(output.status.code(), Some(1), "{point}: {}", text(&output.stderr));
            assert!(
                host::eventually(Duration::from_secs(10), || faulty
                    .child
                    .try_wait()
                    .is_ok_and(|ended| ended.is_some())),
                "{point}"
            );
        }
        let healthy = gateway(&person, &state, &address, None);
        let live = served(&person, &healthy.base, &config);
        assert!(live == old || live == new, "{point}: {live}");
        if matches!(*point, "commit-recorded" | "activated") {
            assert_eq!(live, new, "{point}: what was begun was not carried on");
        }
        let output = deploy(&healthy.base);
        assert_status(&output, 0);
        assert_eq!(served(&person, &healthy.base, &config), new, "{point}");
        check_contents(&state.join("content"));
    }
}

#[test]
fn the_guestbook_has_a_site_a_function_and_a_table() {
    require!("node", "postgres");
    let person = Person::alone();
    let folder = person.folder("guestbook");
    programs::copy_example("guestbook", &folder);
    let said = refused(&person, &folder);
    assert!(said.contains("--database-url"), "{said}");
    let postgres = Postgres::start();
    let state = person.folder("gateway");
    let mut command = person.command(&["gateway", "--listen", "127.0.0.1:0", "--state", &state.to_string_lossy()]);
    command.env("RUN402_DATABASE_URL", postgres.url());
    let gateway = listening(command);
    let deploy = || {
        let mut command = person.command(&["up", "--json", &folder.to_string_lossy()]);
        command.env("RUN402_API_BASE", &gateway.base).env("RUN402_CONFIG_DIR", person.folder("config"));
        let output = command.output().expect("sandboxctl starts");
        assert_status(&output, 0);
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let released = deploy();
    assert!(get(url(&released), "/").text().contains("<h1>Guestbook</h1>"));
    assert_eq!(get(url(&released), "/api/entries").json(), json!([]));
    let client =
        Client { address: url(&released).trim_start_matches("http://").trim_end_matches('/').to_owned(), token: None };
    let signed = client.post("/api/entries", &json!({"name": "Ada'; DROP TABLE entries; --", "message": "<b>hi</b>"}));
    assert_eq!(signed.status, 201, "{}", signed.text());
    assert_eq!(client.post("/api/entries", &json!({"name": ""})).status, 400);
    let entries = client.get("/api/entries").json();
    assert_eq!(entries[0]["name"], "Ada'; DROP TABLE entries; --");
    assert_eq!(client.delete("/api/entries").status, 405);
    // The migration is not applied again, and its text must not change.
    let again = deploy();
    assert_eq!(again["diff"]["migrations"]["noop"][0]["id"], "001-entries");
    assert_eq!(client.get("/api/entries").json().as_array().map(Vec::len), Some(1));
    fs::write(folder.join("migrations/001-entries.sql"), "CREATE TABLE others (n int)").expect("ours");
    let mut changed = person.command(&["up", "--json", &folder.to_string_lossy()]);
    changed.env("RUN402_API_BASE", &gateway.base).env("RUN402_CONFIG_DIR", person.folder("config"));
    let output = changed.output().expect("sandboxctl starts");
    assert_status(&output, 1);
    let problem: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(problem["details"]["gateway"]["code"], "MIGRATION_CHECKSUM_MISMATCH");
}

#[test]
fn a_workspace_is_built_and_deployed_over_http() {
    let person = Person::alone();
    let state = person.folder("gateway");
    let gateway = gateway(&person, &state, FREE_PORT, None);
    let config = person.folder("config").to_string_lossy().into_owned();
    let daemon = Daemon::options().env("RUN402_API_BASE", &gateway.base).env("RUN402_CONFIG_DIR", &config).start();
    let project = daemon.project();
    assert_eq!(daemon.client.get(&project.path("/deploys")).ok(), json!({"deploys": []}));
    let build = "mkdir -p dist && echo '<h1>built</h1>' > dist/index.html && echo done";
    let body = json!({"build": {"command": build}, "site": {"dir": "dist"}});
    let reply = daemon.client.post(&project.path("/deploys"), &body);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let deployed = reply.json();
    assert_eq!((&deployed["files_uploaded"], &deployed["files_total"]), (&json!(1), &json!(1)));
    assert_eq!(deployed["build"]["stdout"], "done\n");
    assert_eq!(get(url(&deployed), "/").text(), "<h1>built</h1>\n");
    // The same again sends nothing; a build that fails and output that leads out change nothing.
    assert_eq!(daemon.client.post(&project.path("/deploys"), &body).ok()["files_uploaded"], 0);
    let failed = json!({"build": {"command": "echo broken; exit 9"}, "site": {"dir": "dist"}});
    let problem = daemon.client.post(&project.path("/deploys"), &failed).refused(422, "build_failed");
    assert_eq!(
        (&problem["details"]["run"]["stdout"], &problem["details"]["run"]["exit_code"]),
        (&json!("broken\n"), &json!(9))
    );
    project.ok("ln -s /etc out; ln -s /etc/passwd dist/link");
    for dir in ["out", "dist", "../..", "/etc"] {
        let reply = daemon.client.post(&project.path("/deploys"), &json!({"site": {"dir": dir}}));
        let problem = reply.refused(502, "deploy_failed");
        assert_eq!(problem["details"]["gateway"]["kind"], "local_error", "{dir}: {problem}");
    }
    assert_eq!(get(url(&deployed), "/").text(), "<h1>built</h1>\n");
    let listed = daemon.client.get(&project.path("/deploys")).ok();
    assert_eq!(listed["deploys"].as_array().map(Vec::len), Some(2));
    // Files that come with the request.
    let files = json!({"files": {"index.html": "sent", "a/b.bin": "__b64__AP8="}});
    let sent = daemon.client.post(&project.path("/deploy"), &files).ok();
    assert_eq!(
        (&sent["status"], &sent["files_total"], &sent["url"]),
        (&json!("ready"), &json!(2), &sent["netlify_url"])
    );
    assert_eq!((get(url(&sent), "/").text(), get(url(&sent), "/a/b.bin").body), ("sent".to_owned(), vec![0, 255]));
    let wrong = json!({"files": {"index.html": "__b64__?"}});
    daemon.client.post(&project.path("/deploy"), &wrong).refused(400, "invalid_request");
    // A caller needs the scope; a gateway that is gone is said to be.
    let token = daemon.client.post("/tokens", &json!({"name": "runner", "scopes": ["run"]})).ok();
    let runner = daemon.client.with_token(token["token"].as_str());
    runner.post(&project.path("/deploys"), &body).refused(403, "forbidden");
    drop(gateway);
    let problem = daemon.client.post(&project.path("/deploy"), &files).refused(502, "deploy_failed");
    assert!(problem["next_actions"].to_string().contains("sandboxctl gateway"), "{problem}");
    assert_eq!(problem["retryable"], true);
}

/// The first page of the only project.
fn served(person: &Person, base: &str, config: &Path) -> String {
    let keys = fs::read_to_string(config.join("credentials/project-keys.v1.json")).expect("keys");
    let keys: Value = serde_json::from_str(&keys).expect("JSON");
    let project = keys["projects"].as_object().expect("projects").keys().next().expect("a project").clone();
    // It answers once what was interrupted has been carried on.
    assert!(
        host::eventually(Duration::from_secs(10), || get(base, "/health").status == 200),
        "{}",
        person.home().display()
    );
    get(base, &format!("/sites/{project}/")).text()
}

/// Every content has the name of its bytes.
fn check_contents(folder: &Path) {
    let mut seen = 0;
    for shelf in fs::read_dir(folder).expect("a store").flatten() {
        for content in fs::read_dir(shelf.path()).expect("a shelf").flatten() {
            let sum = Command::new("sha256sum").arg(content.path()).output().expect("sha256sum starts");
            assert!(text(&sum.stdout).starts_with(&*content.file_name().to_string_lossy()), "{:?}", content.path());
            seen += 1;
        }
    }
    assert!(seen > 0);
}

#[test]
fn parts_of_a_release_are_deployed_listed_and_compared() {
    let person = Person::alone();
    let folder = site(&person, &[("index.html", "one")]);
    let run = |words: &[&str]| -> Value {
        let output = person.run(&[&["--json", "deploy"], words].concat());
        assert_status(&output, 0);
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let made = run(&["init", "--name", "parts"]);
    let project = made["project_id"].as_str().expect("an id").to_owned();
    run(&["site", &folder.to_string_lossy(), "--project", &project]);
    fs::write(folder.join("hello.mjs"), "export default () => new Response('hi')").expect("ours");
    let function = run(&["function", "hello", &folder.join("hello.mjs").to_string_lossy(), "--timeout", "5"]);
    assert_eq!((function["name"].as_str(), function["timeout"].as_i64()), (Some("hello"), Some(5)));
    let manifest =
        json!({"site": {"patch": {"put": {"more.txt": {"path": "index.html"}}}}, "secrets": {"require": ["API_KEY"]}});
    fs::write(folder.join("release.json"), manifest.to_string()).expect("ours");
    let path = folder.join("release.json").to_string_lossy().into_owned();
    let planned = run(&["release", &path, "--dry-run"]);
    assert_eq!(planned["site"]["added"][0]["path"], "more.txt");
    let stopped = person.run(&["deploy", "release", &path]);
    assert_status(&stopped, 1);
    assert!(text(&stopped.stderr).contains("API_KEY") && text(&stopped.stderr).contains("secret set"), "{stopped:?}");
    let mut set = person.command(&["deploy", "secret", "set", "API_KEY"]);
    let mut child = set.stdin(Stdio::piped()).spawn().expect("sandboxctl starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), b"value\n").expect("it reads");
    assert!(child.wait().expect("it ends").success());
    assert_eq!(run(&["secret", "list"])[0]["key"], "API_KEY");
    let released = run(&["release", &path]);
    assert_eq!(get(url(&released), "/more.txt").text(), "one");
    assert_eq!(run(&["list"])["operations"].as_array().map(Vec::len), Some(3));
    let difference = run(&["diff"]);
    assert_eq!(difference["site"]["totals"]["added"], 2);
    assert_eq!(difference["functions"]["added"][0], "hello");
    let operation = released["operation_id"].as_str().expect("an id").to_owned();
    assert_eq!(run(&["resume", &operation])["release_id"], released["release_id"]);
    let unknown = person.run(&["--json", "deploy", "resume", "op_none"]);
    let problem: Value = serde_json::from_slice(&unknown.stdout).expect("JSON");
    assert_eq!(
        (problem["code"].as_str(), problem["details"]["gateway"]["code"].as_str()),
        (Some("deploy_failed"), Some("OPERATION_NOT_FOUND"))
    );
}
