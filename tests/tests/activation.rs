//! A daemon that a service manager starts: with sockets that listen already, and with ears for it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandbox_tests::{Client, host, programs};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Descriptors 0 and 2 become 3 and 4, and the process, which stays the same, is told so.
const START: &str = r#"exec 3<&0 4<&2 0</dev/null 2>>"$LOG"; LISTEN_PID=$$; export LISTEN_PID; exec "$0" "$@""#;

struct Manager {
    folder: tempfile::TempDir,
    tcp: TcpListener,
    unix: UnixListener,
    notices: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("sandbox-test-").tempdir().expect("a temporary directory");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let unix = UnixListener::bind(folder.path().join("api.sock")).expect("the folder is ours");
        let notices = UnixDatagram::bind(folder.path().join("notify.sock")).expect("the folder is ours");
        notices.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        Self { folder, tcp, unix, notices }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, first: impl Into<Stdio>, second: impl Into<Stdio>, count: u32) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", START]).arg(programs::path("sandboxd"));
        command.args(["serve", "--idle", "1s", "--drain", "1s", "--state"]).arg(self.path("state"));
        command.env("LOG", self.path("log")).env("NOTIFY_SOCKET", self.path("notify.sock"));
        command.env("LISTEN_FDS", count.to_string()).env("LISTEN_FDNAMES", "web:api.socket");
        command.current_dir("/").stdin(first).stdout(Stdio::piped()).stderr(second);
        command
    }

    /// The lines in which it says where it listens, once it says that it is ready.
    fn start(&self) -> (Service, Vec<String>) {
        let copy = |socket: &dyn AsFd| socket.as_fd().try_clone_to_owned().expect("a descriptor is left");
        let child = self.command(copy(&self.tcp), copy(&self.unix), 2).spawn().expect("/bin/sh starts");
        let mut service = Service(child);
        assert!(self.notice().contains("READY=1"), "{}", self.log());
        let output = service.0.stdout.take().expect("it is piped");
        (service, BufReader::new(output).lines().take(2).map_while(Result::ok).collect())
    }

    fn notice(&self) -> String {
        let mut buffer = [0; 4096];
        let length =
            self.notices.recv(&mut buffer).unwrap_or_else(|error| panic!("no notice ({error}): {}", self.log()));
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn client(&self) -> Client {
        let token = fs::read_to_string(self.path("state/token")).expect("the first start makes a token");
        let address = self.tcp.local_addr().expect("it is bound").to_string();
        Client { address, token: Some(token.trim().to_owned()) }
    }
}

struct Service(Child);

impl Service {
    fn stop(&mut self) -> ExitStatus {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM).expect("it has not been waited for");
        self.0.wait().expect("it is our child")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Ended and waited for already, unless the test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("somebody listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n").expect("a request is small");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("an answer");
    reply
}

/// Whether the process has this socket open.
fn holds(pid: u32, socket: &impl AsFd) -> bool {
    let inode = rustix::fs::fstat(socket).expect("it is open").st_ino;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("the keeper runs").flatten();
    let mut links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.any(|link| link.as_os_str() == format!("socket:[{inode}]").as_str())
}

#[test]
fn sockets_that_were_handed_over_are_served_and_left_alone() {
    let manager = Manager::new();
    let socket = manager.path("api.sock");
    let (mut service, lines) = manager.start();
    let wanted = [
        format!("listening on http://{}", manager.client().address),
        format!("listening on unix:{}", socket.display()),
    ];
    assert_eq!(lines, wanted, "and on nothing else");
    let client = manager.client();
    assert_eq!(client.get("/healthz").ok()["service"], json!("sandboxd"));
    assert!(get(&socket, "/healthz").starts_with("HTTP/1.1 200"));
    let project: Value = client.post("/projects", &json!({})).ok();
    let path = format!("/projects/{}/run", project["id"].as_str().expect("an id"));
    let result: Value = client.post(&path, &json!({"command": "env; echo ran"})).ok();
    let output = result["stdout"].as_str().expect("text");
    assert!(output.ends_with("ran\n") && !output.contains("LISTEN") && !output.contains("NOTIFY"), "{output}");
    let keepers = host::keepers(manager.folder.path(), service.0.id());
    assert_eq!(keepers.len(), 1);
    for keeper in keepers {
        let environment = fs::read(format!("/proc/{keeper}/environ")).expect("the keeper runs");
        let environment = String::from_utf8_lossy(&environment);
        assert!(!environment.contains("LISTEN_") && !environment.contains("NOTIFY_SOCKET"), "{environment}");
        assert!(!holds(keeper, &manager.tcp) && !holds(keeper, &manager.unix));
    }
    assert!(service.stop().success());
    assert!(manager.notice().contains("STOPPING=1"));
    assert!(socket.exists(), "it was not made by the daemon");
    // The next one finds who has connected meanwhile.
    let early = std::thread::spawn(move || get(&socket, "/healthz"));
    let (mut next, _) = manager.start();
    assert!(early.join().expect("an answer").starts_with("HTTP/1.1 200"));
    assert_eq!(client.get("/healthz").status, 200);
    assert!(next.stop().success());
}

#[test]
fn what_is_no_listening_socket_is_named() {
    let manager = Manager::new();
    let (connected, _other) = UnixStream::pair().expect("a pair");
    let null = File::open("/dev/null").expect("it is there");
    for (wrong, reason) in [(OwnedFd::from(null), "neither a TCP nor a unix"), (connected.into(), "Accept=no")] {
        let tcp = OwnedFd::from(manager.tcp.try_clone().expect("a descriptor is left"));
        let status = manager.command(tcp, wrong, 2).status().expect("/bin/sh starts");
        let log = manager.log();
        assert!(!status.success() && log.contains("api.socket") && log.contains(reason), "{log}");
    }
}
