//! Deployed functions: each call in a sandbox of its own, whatever the function does.

use sandbox_tests::cli::{Person, assert_status, text};
use sandbox_tests::http::{Client, Reply};
use sandbox_tests::require;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const CODE: &str = r#"
import { existsSync, readFileSync, writeFileSync, writeSync, readdirSync } from 'node:fs';
const kept = {};
export default async (request) => {
    const url = new URL(request.url);
    const does = {
        echo: async () => Response.json({ method: request.method, path: url.pathname, said: await request.text(), key: request.headers.get('apikey') },
            { status: 201, headers: { 'x-made': 'yes', 'set-cookie': 'a=1' } }),
        binary: async () => new Response(new Uint8Array([0, 255, 10, 13]), { headers: { 'content-type': 'application/x-bytes' } }),
        large: async () => { console.log('x'.repeat(300000)); console.log('the end'); return new Response(new Uint8Array(3 << 20).fill(65)); },
        heap: async () => { const all = []; for (;;) all.push({ text: `${all.length}`.repeat(10) }); },
        secret: async () => new Response(process.env.API_KEY ?? 'none'),
        log: async () => { console.log('a line', 1); process.stdout.write('raw\n'); return new Response('ok'); },
        throw: async () => { throw new Error('a private reason'); },
        loop: async () => { for (;;); },
        memory: async () => { const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1)); },
        exit: async () => process.exit(0),
        forge: async () => { writeSync(1, '\nnonce {"response": {"status": 200, "headers": [], "body": ""}}\n'); return new Response('honest'); },
        nothing: async () => undefined,
        count: async () => { kept.count = (kept.count ?? 0) + 1; return new Response(`${kept.count}`); },
        change: async () => {
            try { writeFileSync(new URL(import.meta.url), 'export default () => new Response("changed")'); } catch (error) { return new Response(error.code); }
            return new Response('written');
        },
        api: async () => fetch(`${process.env.RUN402_API_BASE}/health`),
        network: async () => fetch(url.searchParams.get('url')).then(() => new Response('reached'), () => new Response('nothing there')),
        host: async () => new Response([...readdirSync('/'), existsSync('/root'), readFileSync('/proc/self/status', 'utf8')].join('\n')),
    };
    return does[url.searchParams.get('do')]();
};
"#;

/// A project with one function, routed from `/api/*`.
struct Site {
    person: Person,
    folder: PathBuf,
    address: String,
}

impl Site {
    fn new(config: &Value) -> Self {
        let person = Person::alone();
        let folder = person.folder("app");
        fs::create_dir(folder.join("www")).expect("the folder is ours");
        fs::write(folder.join("www/index.html"), "home").expect("ours");
        fs::write(folder.join("api.mjs"), CODE).expect("ours");
        let mut site = Self { person, folder, address: String::new() };
        site.deploy(config);
        site
    }

    #[track_caller]
    fn deploy(&mut self, config: &Value) {
        let release = json!({
            "site": {"replace": {"__source": "local-dir", "path": "www"}},
            "functions": {"replace": {"api": {"source": {"path": "api.mjs"}, "config": config}}},
            "routes": {"replace": [{"pattern": "/api/*", "target": {"type": "function", "name": "api"}}]},
        });
        fs::write(self.folder.join("release.json"), release.to_string()).expect("ours");
        if self.address.is_empty() {
            self.sandboxctl(&["init"]);
        }
        let path = self.folder.join("release.json").to_string_lossy().into_owned();
        let url = self.sandboxctl(&["release", &path])["url"].as_str().expect("a URL").to_owned();
        self.address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    }

    #[track_caller]
    fn sandboxctl(&self, words: &[&str]) -> Value {
        let output = self.person.run(&[&["--json", "deploy"], words].concat());
        assert_status(&output, 0);
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    #[track_caller]
    fn call(&self, what: &str) -> Reply {
        let client = Client { address: self.address.clone(), token: None };
        client.send("POST", &format!("/api/x?do={what}"), &[("apikey", "made-up")], b"hello")
    }

    fn log(&self) -> Vec<String> {
        let lines = self.sandboxctl(&["logs", "api"]);
        let message = |line: &Value| line["message"].as_str().expect("a message").to_owned();
        lines.as_array().expect("lines").iter().map(message).collect()
    }
}

#[test]
fn a_function_answers_requests_of_its_site() {
    require!("node");
    let site = Site::new(&json!({"timeout_seconds": 10}));
    let echoed = site.call("echo");
    assert_eq!((echoed.status, echoed.header("x-made"), echoed.header("set-cookie")), (201, Some("yes"), Some("a=1")));
    assert_eq!(echoed.json(), json!({"method": "POST", "path": "/api/x", "said": "hello", "key": null}));
    let binary = site.call("binary");
    assert_eq!(
        (binary.body.as_slice(), binary.header("content-type")),
        (&[0, 255, 10, 13][..], Some("application/x-bytes"))
    );
    // Every call starts afresh, and none changes what the next one runs.
    assert_eq!((site.call("count").text(), site.call("count").text()), ("1".to_owned(), "1".to_owned()));
    assert_ne!(site.call("change").text(), "written");
    assert_eq!(site.call("forge").text(), "honest");
    let large = site.call("large");
    assert_eq!((large.status, large.body.len()), (200, 3 << 20));
    assert_eq!(site.log().last().map(String::as_str), Some("the end"));
    site.call("log");
    let log = site.log();
    assert!(log.ends_with(&["a line 1".to_owned(), "raw".to_owned()]), "{log:?}");
}

#[test]
fn a_function_has_its_secrets_and_the_gateway_and_nothing_else() {
    require!("node");
    let mut site = Site::new(&json!({}));
    assert_eq!(site.call("secret").text(), "none");
    set_secret(&site, "API_KEY", "value");
    assert_eq!(site.call("secret").text(), "value");
    assert_eq!(site.call("api").json(), json!({"status": "ok"}));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    assert_eq!(site.call(&format!("network&url={url}")).text(), "nothing there");
    let seen = site.call("host").text();
    assert!(
        seen.contains("\nfalse\n") && seen.contains("NoNewPrivs:\t1") && seen.contains("CapEff:\t0000000000000000"),
        "{seen}"
    );
    assert!(!seen.contains(&*site.person.state().to_string_lossy()), "{seen}");
    // A new version is what is called from then on.
    fs::write(site.folder.join("api.mjs"), "export default { fetch: () => new Response('second') }").expect("ours");
    site.deploy(&json!({}));
    assert_eq!(site.call("echo").text(), "second");
}

fn set_secret(site: &Site, key: &str, value: &str) {
    use std::io::Write;
    let mut command = site.person.command(&["deploy", "secret", "set", key]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().expect("sandboxctl starts");
    child.stdin.take().expect("a pipe").write_all(value.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn a_function_that_misbehaves_is_an_error_of_its_own() {
    require!("node");
    // Each has the time to fail in its own way on a busy host: a heap near its limit is slow.
    let mut site = Site::new(&json!({"timeout_seconds": 60, "memory_mb": 64}));
    let failed = |what: &str| {
        let reply = site.call(what);
        (reply.status, reply.code(), reply.text())
    };
    let (status, code, said) = failed("throw");
    assert_eq!((status, code.as_str()), (500, "FUNCTION_ERROR"));
    assert!(!said.contains("private reason"), "{said}");
    assert!(site.log().iter().any(|line| line.contains("a private reason")));
    let (status, code, _) = failed("nothing");
    assert_eq!((status, code.as_str()), (500, "FUNCTION_ERROR"));
    let (status, code, _) = failed("exit");
    assert_eq!((status, code.as_str()), (502, "FUNCTION_BAD_REPLY"));
    if sandbox_tests::features::is_root() {
        let (status, code, _) = failed("memory");
        assert_eq!((status, code.as_str()), (502, "FUNCTION_OUT_OF_MEMORY"));
    }
    let (status, code, _) = failed("heap");
    assert_eq!((status, code.as_str()), (502, "FUNCTION_OUT_OF_MEMORY"));
    // The others go on.
    assert_eq!(site.call("echo").status, 201);
    site.deploy(&json!({"timeout_seconds": 1}));
    let endless = site.call("loop");
    assert_eq!((endless.status, endless.code().as_str()), (504, "FUNCTION_TIMEOUT"));
}

#[test]
fn a_function_that_wants_users_is_closed() {
    require!("node");
    let site = Site::new(&json!({}));
    let release =
        json!({"functions": {"patch": {"set": {"api": {"source": {"path": "api.mjs"}, "require_auth": true}}}}});
    let path: &Path = &site.folder.join("gate.json");
    fs::write(path, release.to_string()).expect("ours");
    site.sandboxctl(&["release", &path.to_string_lossy()]);
    assert_eq!(site.call("echo").status, 401);
    let unknown = site.person.run(&["deploy", "function", "Bad Name", &site.folder.join("api.mjs").to_string_lossy()]);
    assert_status(&unknown, 1);
    assert!(text(&unknown.stderr).contains("a function's name"), "{unknown:?}");
}

/// They come from where the host's own package manager gets them, into a sandbox.
#[test]
fn packages_are_there_before_the_release_is_live() {
    require!("node", "npm", "network");
    let mut site = Site::new(&json!({}));
    let deploy = |site: &Site, code: &str, version: &str| {
        fs::write(site.folder.join("api.mjs"), code).expect("ours");
        let package = format!("is-number@{version}");
        let path = site.folder.join("api.mjs").to_string_lossy().into_owned();
        site.person.run(&["--json", "deploy", "function", "api", &path, "--dep", &package])
    };
    let code = "import isNumber from 'is-number';
        export default async () => new Response(`${isNumber(42)} ${isNumber('x')}`);";
    assert_status(&deploy(&site, code, "7.0.0"), 0);
    assert_eq!(site.call("").text(), "true false");
    let installed = || {
        let all = fs::read_dir(site.person.state().with_file_name("sandboxd-gateway").join("functions"));
        let packages =
            all.expect("projects").flatten().map(|project| project.path().join("packages")).find(|path| path.exists());
        let entries = fs::read_dir(packages.expect("packages")).expect("a list").flatten();
        entries.map(|entry| entry.file_name()).collect::<Vec<_>>()
    };
    let before = installed();
    assert_eq!(before.len(), 1);
    // Other code with the same packages needs no other installation.
    let code = "import isNumber from 'is-number'; export default async () => new Response(`second ${isNumber(1)}`);";
    assert_status(&deploy(&site, code, "7.0.0"), 0);
    assert_eq!((site.call("").text().as_str(), installed()), ("second true", before.clone()));
    // What cannot be installed is never live, and leaves nothing.
    let failed = deploy(&site, "export default async () => new Response('third')", "0.0.999");
    assert_status(&failed, 1);
    let problem: Value = serde_json::from_slice(&failed.stdout).expect("JSON");
    let said = problem.to_string();
    assert!(said.contains("FUNCTION_BUILD_FAILED") && said.contains("is-number"), "{said}");
    assert_eq!((site.call("").text().as_str(), installed()), ("second true", before));
    // Without packages again.
    fs::write(site.folder.join("api.mjs"), "export default async () => new Response('plain')").expect("ours");
    site.deploy(&json!({}));
    assert_eq!(site.call("").text(), "plain");
}

/// Its script replaces the folder that functions are shown by a link to one of the host's.
#[test]
fn a_package_cannot_have_the_host_shown_in_its_place() {
    require!("node", "npm");
    let site = Site::new(&json!({}));
    let package = site.person.folder("package");
    let script = "cd /home/user/project && rm -rf node_modules && ln -s /etc node_modules";
    let manifest = json!({"name": "hostile", "version": "1.0.0", "scripts": {"postinstall": script}});
    fs::write(package.join("package.json"), manifest.to_string()).expect("ours");
    let mut npm = Command::new("npm");
    npm.args(["pack", "--silent"]).current_dir(&package).env("HOME", site.person.home());
    assert!(npm.output().expect("npm starts").status.success());
    let url = serve(fs::read(package.join("hostile-1.0.0.tgz")).expect("it was packed"));
    let before = site.call("echo").status;
    let path = site.folder.join("api.mjs").to_string_lossy().into_owned();
    let output = site.person.run(&["--json", "deploy", "function", "api", &path, "--dep", &url]);
    assert_status(&output, 1);
    let said = text(&output.stdout);
    assert!(said.contains("FUNCTION_BUILD_FAILED") && said.contains("in place of node_modules"), "{said}");
    assert_eq!(site.call("echo").status, before);
}

/// The same answer to every request, for as long as this program runs.
fn serve(bytes: Vec<u8>) -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/hostile-1.0.0.tgz", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // One read is all of a small request; whoever goes away asks again.
            let _ = stream.read(&mut [0; 4096]);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                bytes.len()
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bytes));
        }
    });
    url
}
