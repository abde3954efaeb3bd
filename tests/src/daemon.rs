//! A daemon under test, with a state folder of its own.
//!
//! Whatever happens to the test program, nothing stays: a shell (the guard) waits for the end of a
//! pipe that only we hold, then ends the daemon, waits for its keepers and removes the folder.

use crate::features::is_root;
use crate::http::Client;
use crate::{Project, host, programs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// A variable of the daemon's environment that no sandbox may show.
pub const CANARY: &str = "SANDBOX_TESTS_CANARY";

/// The ordinary user that tests as root start a daemon as: nobody, by convention.
pub const NOBODY: u32 = 65534;

/// Names a version 2 cgroup that belongs to whoever runs the tests, which run in another one below it: each
/// daemon then starts in one of its own, as a unit of a service manager would.
const DELEGATED_CGROUP: &str = "SANDBOX_TESTS_CGROUP";

/// Becomes a program, in a cgroup: `$0` is its folder, the rest the program and its arguments.
const JOIN: &str = r#"echo $$ >"$0/cgroup.procs" && exec "$@""#;

/// Ends what is left. `$1` is the folder; `$1/pid` holds the daemon's process id, and `$1/cgroup` is its cgroup.
const GUARD: &str = r#"
cat >/dev/null
pid=$(cat "$1/pid" 2>/dev/null)
if [ -n "$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "$1"; then
    kill -TERM "$pid" 2>/dev/null
fi
i=0
while [ $i -lt 40 ] && [ -n "$(find /proc/[0-9]*/fd -lname "$1/*" -print -quit 2>/dev/null)" ]; do
    sleep 0.5
    i=$((i + 1))
done
[ ! -L "$1/cgroup" ] || find "$(readlink "$1/cgroup")" -depth -type d -exec rmdir {} \;
rm -rf -- "$1"
"#;

/// How a daemon is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Another program in place of sandboxd.
    pub program: Option<PathBuf>,
    /// Further arguments of `sandboxd serve`.
    pub args: Vec<String>,
    /// Further policy files: name and TOML.
    pub policies: Vec<(String, String)>,
    /// As [`NOBODY`]; only root can.
    pub as_nobody: bool,
    /// In a mount namespace of its own in which every mount is shared, as on a host with systemd; only root can.
    pub shared_mounts: bool,
    /// Further variables of its environment.
    pub variables: Vec<(String, String)>,
}

impl Options {
    pub fn program(mut self, path: PathBuf) -> Self {
        self.program = Some(path);
        self
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    pub fn policy(mut self, name: &str, toml: &str) -> Self {
        self.policies.push((name.to_owned(), toml.to_owned()));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn as_nobody(mut self) -> Self {
        self.as_nobody = true;
        self
    }

    pub fn with_shared_mounts(mut self) -> Self {
        self.shared_mounts = true;
        self
    }

    #[track_caller]
    pub fn start(self) -> Daemon {
        let home = Arc::new(Home::new(&self));
        Daemon::start_in(home, self)
    }
}

/// The folder of one or more daemons after another.
#[derive(Debug)]
struct Home {
    root: PathBuf,
    /// The end of its input is its sign.
    _guard: Child,
}

impl Home {
    fn new(options: &Options) -> Self {
        let root = tempfile::Builder::new().prefix("sandbox-test-").tempdir().expect("a temporary directory").keep();
        let root = root.canonicalize().expect("it was just made");
        for folder in ["state", "policies", "home"] {
            fs::create_dir(root.join(folder)).expect("the folder is ours");
        }
        for (name, toml) in &options.policies {
            fs::write(root.join("policies").join(format!("{name}.toml")), toml).expect("the folder is ours");
        }
        if options.as_nobody {
            let owner = |path: &Path| std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY));
            for path in ["", "state", "policies", "home"] {
                owner(&root.join(path)).expect("root may give files away");
            }
        }
        let mut guard = Command::new("/bin/sh");
        guard.args(["-c", GUARD, "sandbox-tests-guard"]).arg(&root).current_dir("/");
        // In a group of its own, so that Ctrl-C in a terminal does not reach it.
        guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Self { root, _guard: guard.spawn().expect("/bin/sh starts") }
    }
}

impl Home {
    /// The cgroup of the daemons of this folder, if they are to have one.
    fn cgroup(&self) -> Option<PathBuf> {
        let delegated = PathBuf::from(std::env::var_os(DELEGATED_CGROUP)?);
        let (own, link) = (delegated.join(self.root.file_name()?), self.root.join("cgroup"));
        if !own.exists() {
            fs::create_dir(&own).expect("the cgroup is ours");
            std::os::unix::fs::symlink(&own, link).expect("the folder is ours");
        }
        Some(own)
    }
}

/// Ended when it is dropped; its keepers follow as soon as they are idle.
#[derive(Debug)]
pub struct Daemon {
    home: Arc<Home>,
    options: Options,
    pub client: Client,
    pub pid: u32,
    child: Mutex<Child>,
}

impl Daemon {
    /// The one that all tests of this program share. Nobody may stop it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Daemon> = OnceLock::new();
        SHARED.get_or_init(|| Options::default().start())
    }

    pub fn options() -> Options {
        Options::default()
    }

    #[track_caller]
    pub fn start() -> Self {
        Options::default().start()
    }

    #[track_caller]
    fn start_in(home: Arc<Home>, options: Options) -> Self {
        let mut command = program(&options, home.cgroup());
        let given = |name: &str| options.args.iter().any(|arg| arg == name);
        command.args(["serve", "--listen", "127.0.0.1:0", "--state"]).arg(home.root.join("state"));
        command.arg("--policies").arg(home.root.join("policies"));
        let idle = format!("{}s", 5 * host::patience());
        for (name, value) in [("--idle", idle.as_str()), ("--drain", "2s"), ("--idle-exit", "10m")] {
            if !given(name) {
                command.args([name, value]);
            }
        }
        command.args(&options.args).env(CANARY, canary());
        for name in ["SANDBOXD_URL", "SANDBOXD_TOKEN", "SANDBOXD_STATE", "XDG_STATE_HOME"] {
            command.env_remove(name);
        }
        if options.as_nobody {
            command.env("HOME", home.root.join("home"));
        }
        command.envs(options.variables.iter().map(|(name, value)| (name, value)));
        let log = File::options().create(true).append(true).open(home.root.join("sandboxd.log"));
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.expect("the folder is ours"));
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        fs::write(home.root.join("pid"), child.id().to_string()).expect("the folder is ours");
        let address = listening(&mut child).unwrap_or_else(|| {
            let log = fs::read_to_string(home.root.join("sandboxd.log")).unwrap_or_default();
            panic!("the daemon did not get ready:\n{log}")
        });
        let token = fs::read_to_string(home.root.join("state/token")).expect("the first start makes a token");
        let client = Client { address, token: Some(token.trim().to_owned()) };
        let pid = child.id();
        Self { home, options, client, pid, child: Mutex::new(child) }
    }

    /// Another one on the same state, after this one has ended.
    #[track_caller]
    pub fn restart(&self) -> Self {
        assert!(self.ended(Duration::ZERO).is_some(), "the daemon still runs");
        Self::start_in(Arc::clone(&self.home), self.options.clone())
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.ended(Duration::from_secs(10)).expect("SIGKILL cannot be refused");
    }

    pub fn signal(&self, signal: Signal) {
        // It has not been waited for, so the number is its own; it may have ended.
        let _ = kill(raw(self.pid), signal);
    }

    /// How it ended, if it did in time.
    pub fn ended(&self, within: Duration) -> Option<ExitStatus> {
        let mut child = self.child.lock().expect("nobody panics with it");
        let mut status = None;
        host::eventually(within, || {
            status = child.try_wait().expect("it is our child");
            status.is_some()
        });
        status
    }

    pub fn state(&self) -> PathBuf {
        self.home.root.join("state")
    }

    /// The folder that holds state, policies and log.
    pub fn root(&self) -> &Path {
        &self.home.root
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.home.root.join("sandboxd.log")).unwrap_or_default()
    }

    /// Its keepers that are alive.
    pub fn keepers(&self) -> Vec<u32> {
        host::keepers(&self.home.root, self.pid)
    }

    /// Cgroups of its projects and all below them.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let projects = std::fs::read_dir(self.state().join("projects")).into_iter().flatten().flatten();
        let ids: Vec<String> = projects.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        host::cgroups(&ids)
    }

    /// Processes of its projects' sandboxes, known by the host ids that only they have. Empty for an
    /// ordinary user's daemon, whose sandboxes have that user's.
    pub fn inside(&self) -> Vec<u32> {
        let projects = fs::read_dir(self.state().join("projects")).into_iter().flatten().flatten();
        let owners = projects.filter_map(|project| Some(fs::metadata(project.path().join("home")).ok()?.uid()));
        // The user inside is 1000 of 65,536.
        let ranges: Vec<u32> = owners.filter(|uid| *uid > 1 << 16).map(|uid| uid - 1000).collect();
        let owner = |pid: u32| fs::metadata(format!("/proc/{pid}")).ok().map(|process| process.uid());
        let ours = |pid: &u32| {
            owner(*pid).is_some_and(|uid| ranges.iter().any(|first| (*first..=first + 65_535).contains(&uid)))
        };
        host::processes().into_iter().filter(ours).collect()
    }

    #[track_caller]
    pub fn project(&self) -> Project {
        self.project_with(&json!({}))
    }

    #[track_caller]
    pub fn project_with(&self, body: &Value) -> Project {
        let reply = self.client.post("/projects", body);
        let project = reply.ok();
        let text = |name: &str| project[name].as_str().unwrap_or_else(|| panic!("no {name}: {project}")).to_owned();
        Project {
            client: self.client.clone(),
            id: text("id"),
            url_id: text("url_id"),
            log: self.home.root.join("sandboxd.log"),
        }
    }

    #[track_caller]
    pub fn project_of(&self, policy: &str) -> Project {
        self.project_with(&json!({ "policy": policy }))
    }

    /// The same project, seen by a daemon that was started later.
    pub fn adopt(&self, project: &Project) -> Project {
        Project {
            client: self.client.clone(),
            id: project.id.clone(),
            url_id: project.url_id.clone(),
            log: self.home.root.join("sandboxd.log"),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.ended(Duration::ZERO).is_none() {
            self.signal(Signal::SIGTERM);
            if self.ended(Duration::from_secs(15)).is_none() {
                self.signal(Signal::SIGKILL);
                self.ended(Duration::from_secs(5));
            }
        }
    }
}

/// What [`CANARY`] is set to.
pub fn canary() -> &'static str {
    static VALUE: OnceLock<String> = OnceLock::new();
    VALUE.get_or_init(|| format!("canary-{}", host::unique()))
}

fn raw(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("process ids are positive and small"))
}

/// The command that becomes sandboxd: the process keeps its id through sh(1), unshare(1) and setpriv(1).
fn program(options: &Options, cgroup: Option<PathBuf>) -> Command {
    let path = || options.program.clone().unwrap_or_else(|| programs::path("sandboxd"));
    if options.shared_mounts {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "shared", "--"]).arg(path());
        return command;
    }
    if let Some(cgroup) = cgroup.filter(|_| !options.as_nobody) {
        let mut command = Command::new("sh");
        command.args(["-c", JOIN]).arg(cgroup).arg(path());
        return command;
    }
    if !options.as_nobody {
        return Command::new(path());
    }
    assert!(is_root(), "only root can become somebody else");
    let mut command = Command::new("setpriv");
    let path = options.program.clone().unwrap_or_else(|| readable("sandboxd"));
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(path);
    command
}

/// A program where nobody may execute it: where it is, or as a copy with its neighbours.
fn readable(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let there = programs::path("sandboxd");
        let mut test = Command::new("setpriv");
        test.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--", "test", "-x"]).arg(&there);
        if test.status().is_ok_and(|status| status.success()) {
            return programs::folder().to_owned();
        }
        let copy = tempfile::Builder::new().prefix("sandbox-test-bin-").tempdir().expect("a temporary directory");
        let copy = copy.keep();
        fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
        for name in programs::NAMES {
            fs::copy(programs::path(name), copy.join(name)).expect("programs can be copied");
        }
        copy
    });
    folder.join(name)
}

/// The address in the line `listening on http://…`; none when the daemon ended or was silent.
fn listening(child: &mut Child) -> Option<String> {
    let stdout = child.stdout.take()?;
    let (send, receive) = std::sync::mpsc::channel();
    // A thread, because a pipe's read has no timeout; it stays, so that the daemon's output has a reader.
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(address) = line.strip_prefix("listening on http://") {
                // The receiver is gone after the first line, or when it was too slow.
                let _ = send.send(address.to_owned());
            }
        }
    });
    receive.recv_timeout(Duration::from_secs(20)).ok()
}
