//! A PostgreSQL server of a test's own: Debian's, installed when it is missing, in a temporary folder, on a
//! unix socket, as a user without rights. It ends with its drop.

use run402_gateway::database::{Database, Limits};
use rustix::process::{Pid, Signal, getuid, kill_process};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const READY: Duration = Duration::from_secs(120);
const PASSWORD: &str = "administrator";

#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    folder: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        let programs = programs();
        let folder = tempfile::Builder::new().prefix("gateway-postgres-").tempdir().expect("a temporary folder");
        let user = getuid().is_root().then(unprivileged);
        let own = |path: &Path| {
            if let Some((uid, gid)) = user {
                chown(path, Some(uid), Some(gid)).expect("root may give files away");
            }
        };
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("ours");
        let pwfile = folder.path().join("password");
        fs::write(&pwfile, PASSWORD).expect("written");
        own(&pwfile);
        own(folder.path());
        let data = folder.path().join("data");
        let command = |program: &str| {
            let mut command = Command::new(programs.join(program));
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null());
            command
        };
        let made = command("initdb")
            .args(["--no-sync", "--no-locale", "-E", "UTF8", "-U", "admin", "-A", "scram-sha-256", "--pwfile"])
            .arg(&pwfile)
            .arg("-D")
            .arg(&data)
            .output()
            .expect("initdb starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let log = fs::File::create(folder.path().join("log")).expect("made");
        let child = command("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-k"])
            .arg(folder.path())
            .stderr(log)
            .spawn()
            .expect("postgres starts");
        Self { child, folder }
    }

    pub(crate) fn url(&self) -> String {
        let host = self.folder.path().to_str().expect("UTF-8").replace('/', "%2F");
        format!("postgres://admin:{PASSWORD}@{host}/postgres")
    }

    /// Connected, as soon as the server takes connections.
    pub(crate) async fn database(&self, limits: Limits) -> Database {
        let until = Instant::now() + READY;
        loop {
            match Database::with_limits(&self.url(), limits.clone()).await {
                Ok(database) => return database,
                Err(error) if Instant::now() > until => {
                    let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                    panic!("{error}\n{log}");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An immediate shutdown; a killed server would leave a piece of shared memory behind.
        let pid = Pid::from_child(&self.child);
        if kill_process(pid, Signal::QUIT).is_ok() {
            let _ = self.child.wait();
        }
    }
}

/// The folder of `initdb` and `postgres`.
fn programs() -> PathBuf {
    find_programs().unwrap_or_else(|| {
        let install = "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql";
        let output = Command::new("sh").args(["-c", install]).output().expect("a shell");
        assert!(output.status.success(), "install postgresql: {}", String::from_utf8_lossy(&output.stderr));
        find_programs().expect("the package has them")
    })
}

fn find_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.sort();
    folders.extend(std::env::split_paths(&path));
    // The links of some systems lead where the server's other files are not found.
    folders.into_iter().find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
}

/// User and group that the server runs as; it refuses to be root.
fn unprivileged() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").expect("every system has it");
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody")).expect("a user without rights")
}
