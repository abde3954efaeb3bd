//! From a folder to a URL: `sandboxctl up` and `sandboxctl deploy`, with nothing set up beforehand.

use sandbox_tests::cli::{Person, assert_status, text};
use sandbox_tests::gateway::Gateway;
use sandbox_tests::http::{Client, fetch};
use sandbox_tests::postgres::Postgres;
use sandbox_tests::{host, programs, require};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
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
    let page = fetch(&url, "/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let html = page.text();
    let script = html.split('"').find(|word| word.ends_with(".js")).expect("a script").to_owned();
    let script = fetch(&url, &format!("/{}", script.trim_start_matches("./").trim_start_matches('/')));
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
    assert_eq!(fetch(&url, "/robots.txt").text(), "User-agent: *\n");
    fs::remove_file(folder.join("dist/robots.txt")).expect("it was there");
    assert_eq!(again("one less")["files_uploaded"], 0);
    assert_eq!(fetch(&url, "/robots.txt").status, 404);
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
    assert_eq!(fetch(url(&released), "/").text(), "<h1>one</h1>");
    assert_eq!(fetch(url(&released), "/a/b.txt").text(), "b");
    assert_eq!((fetch(url(&released), "/.env").status, fetch(url(&released), "/a/.npmrc").status), (404, 404));
    // The same folder is the same project; another folder is another.
    fs::write(folder.join("index.html"), "<h1>two</h1>").expect("the folder is ours");
    let second = up(&person, &folder);
    assert_eq!((url(&second), fetch(url(&second), "/").text().as_str()), (url(&released), "<h1>two</h1>"));
    let other = person.folder("other");
    fs::write(other.join("index.html"), "other").expect("the folder is ours");
    assert_ne!(url(&up(&person, &other)), url(&released));
    assert_eq!(fetch(url(&released), "/").text(), "<h1>two</h1>");
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
    assert_eq!(fetch(url(&up(&person, &folder)), "/").text(), "new\n");
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
    // Only root can make one; whoever else finds none to leave out.
    let device = nix::sys::stat::makedev(1, 5);
    let character = nix::sys::stat::SFlag::S_IFCHR;
    let _ = nix::sys::stat::mknod(&dist.join("device"), character, nix::sys::stat::Mode::S_IRWXU, device);
    let _socket = std::os::unix::net::UnixListener::bind(dist.join("socket")).expect("a socket");
    fs::write(dist.join("new\nline"), "newline").expect("a file");
    fs::hard_link(dist.join("index.html"), dist.join("same.html")).expect("a hard link");
    let long = "d".repeat(200);
    fs::create_dir_all(dist.join(&long).join(&long)).expect("long names");
    fs::write(dist.join(&long).join(&long).join("x"), "deep").expect("a file");
    let sparse = fs::File::create(dist.join("sparse.bin")).expect("a file");
    sparse.set_len(64 << 20).expect("a sparse file");
    let released = up(&person, &folder);
    assert_eq!(fetch(url(&released), "/new%0Aline").text(), "newline");
    assert_eq!(fetch(url(&released), "/same.html").text(), "home");
    assert_eq!(fetch(url(&released), &format!("/{long}/{long}/x")).text(), "deep");
    for name in ["/fifo", "/socket", "/device"] {
        assert_eq!(fetch(url(&released), name).status, 404, "{name}");
    }
}

/// A hundred thousand names of one content, and a file that is larger than memory and mostly hole.
#[test]
fn output_without_measure_is_deployed_without_measure_of_time_or_memory() {
    let person = Person::alone();
    let folder = site(&person, &[("many/0", "the same")]);
    for number in 1..100_000 {
        if number % 1000 == 0 {
            fs::create_dir(folder.join(format!("many/{number}"))).expect("ours");
        }
        let thousand = number / 1000 * 1000;
        let parent = if thousand == 0 { "many".to_owned() } else { format!("many/{thousand}") };
        let name = folder.join(parent).join(format!("file-{number}"));
        fs::hard_link(folder.join("many/0"), &name).or_else(|_| fs::write(&name, "the same")).expect("ours");
    }
    let huge = fs::File::create(folder.join("huge.bin")).expect("ours");
    huge.set_len(5 << 30).expect("a sparse file");
    std::os::unix::fs::FileExt::write_all_at(&huge, b"the end", (5 << 30) - 7).expect("ours");
    let state = person.folder("gateway");
    let gateway = Gateway::start(&person, &state);
    let deploy = || {
        let mut command = person.command(&["deploy", "site", "--json", &folder.to_string_lossy()]);
        command.env("RUN402_API_BASE", &gateway.base).env("RUN402_CONFIG_DIR", person.folder("config"));
        // A file takes the answer whole while nobody reads.
        let answer = person.folder("config").join("answer.json");
        command.stdout(fs::File::create(&answer).expect("ours")).stderr(Stdio::null());
        let mut child = command.spawn().expect("sandboxctl starts");
        let (pid, mut peak) = (child.id(), 0);
        let status = loop {
            peak = peak.max(host::status_kib(pid, "VmHWM").unwrap_or_default());
            match child.try_wait().expect("it is our child") {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        let said = fs::read(&answer).expect("ours");
        assert!(status.success(), "{}", text(&said));
        let released: Value = serde_json::from_slice(&said).expect("JSON");
        (released, peak)
    };
    let (released, peak) = deploy();
    assert_eq!(released["files_uploaded"], 2, "{released:.300}");
    assert_eq!(released["diff"]["site"]["totals"]["added"], 100_001);
    assert!(peak < 256 << 10, "{peak} KiB");
    let peak = host::status_kib(gateway.child.id(), "VmHWM").expect("it runs");
    assert!(peak < 512 << 10, "{peak} KiB");
    let client =
        Client { address: url(&released).trim_start_matches("http://").trim_end_matches('/').to_owned(), token: None };
    assert_eq!(fetch(url(&released), "/many/99000/file-99999").text(), "the same");
    let range = [("Range", "bytes=-9")];
    assert_eq!(client.send("GET", "/huge.bin", &range, &[]).body, b"\0\0the end");
    // Its holes are holes in the store too.
    let du = Command::new("du").args(["-sk"]).arg(state.join("content")).output().expect("du starts");
    let kib: u64 = text(&du.stdout).split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number");
    assert!(kib < 100 << 10, "{kib} KiB");
    let (again, _) = deploy();
    assert_eq!((&again["files_uploaded"], &again["release_id"]), (&json!(0), &again["release_id"]));
}

/// While a deploy walks, a directory is one moment a directory and the next a link to somebody else's.
#[test]
fn a_directory_that_is_swapped_during_the_walk_leads_nowhere() {
    let person = Person::alone();
    let folder = site(&person, &[("index.html", "home"), ("swapped/secret.txt", "inside")]);
    for number in 0..300 {
        let name = folder.join(format!("a{number}/b/c"));
        fs::create_dir_all(&name).expect("ours");
        fs::write(name.join("file"), "filler").expect("ours");
    }
    let outside = person.folder("outside");
    fs::write(outside.join("secret.txt"), "outside").expect("ours");
    let other = person.home().join("other");
    symlink(&outside, &other).expect("a link");
    let state = person.folder("gateway");
    let gateway = Gateway::start(&person, &state);
    let stop = AtomicBool::new(false);
    let (mut deployed, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                let here = nix::fcntl::AT_FDCWD;
                nix::fcntl::renameat2(here, &folder.join("swapped"), here, &other, flags).expect("both are there");
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        for _ in 0..20 {
            let mut command = person.command(&["deploy", "site", "--json", &folder.to_string_lossy()]);
            command.env("RUN402_API_BASE", &gateway.base).env("RUN402_CONFIG_DIR", person.folder("config"));
            let output = command.output().expect("sandboxctl starts");
            match output.status.code() {
                Some(0) => deployed += 1,
                Some(1) => {
                    let said = text(&output.stderr) + &text(&output.stdout);
                    assert!(said.contains("swapped"), "{said}");
                    refused += 1;
                }
                other => panic!("{other:?}: {}", text(&output.stderr)),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(deployed + refused, 20);
    let contents = fs::read_dir(state.join("content")).expect("the store").flatten();
    for content in contents.flat_map(|folder| fs::read_dir(folder.path()).expect("a folder").flatten()) {
        assert_ne!(fs::read(content.path()).expect("ours"), b"outside");
    }
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
        let healthy = Gateway::start(&person, &state);
        assert_status(&deploy(&healthy.base), 0);
        healthy.address().to_owned()
    };
    for (index, point) in points.iter().enumerate() {
        let (old, new) = (fs::read_to_string(folder.join("index.html")).expect("ours"), format!("version {index}"));
        fs::write(folder.join("index.html"), &new).expect("ours");
        {
            let mut faulty = Gateway::start_at(&person, &state, &address, Some(point));
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
        let healthy = Gateway::start_at(&person, &state, &address, None);
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
    let gateway = Gateway::spawn(command);
    let deploy = || {
        let mut command = person.command(&["up", "--json", &folder.to_string_lossy()]);
        command.env("RUN402_API_BASE", &gateway.base).env("RUN402_CONFIG_DIR", person.folder("config"));
        let output = command.output().expect("sandboxctl starts");
        assert_status(&output, 0);
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let released = deploy();
    assert!(fetch(url(&released), "/").text().contains("<h1>Guestbook</h1>"));
    assert_eq!(fetch(url(&released), "/api/entries").json(), json!([]));
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

/// The first page of the only project.
fn served(person: &Person, base: &str, config: &Path) -> String {
    let keys = fs::read_to_string(config.join("credentials/project-keys.v1.json")).expect("keys");
    let keys: Value = serde_json::from_str(&keys).expect("JSON");
    let project = keys["projects"].as_object().expect("projects").keys().next().expect("a project").clone();
    // It answers once what was interrupted has been carried on.
    assert!(
        host::eventually(Duration::from_secs(10), || fetch(base, "/health").status == 200),
        "{}",
        person.home().display()
    );
    fetch(base, &format!("/sites/{project}/")).text()
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
    assert_eq!(fetch(url(&released), "/more.txt").text(), "one");
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
