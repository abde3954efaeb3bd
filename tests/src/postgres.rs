//! A PostgreSQL server of a test's own: Debian's, installed when it is missing, in a temporary folder, on a
//! unix socket, as a user without rights.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PASSWORD: &str = "administrator";

#[derive(Debug)]
pub struct Postgres {
    child: Child,
    folder: tempfile::TempDir,
    programs: PathBuf,
}

/// Whether a server can be started: it is installed, or root can install it.
pub fn can_start() -> bool {
    programs().is_some() || crate::features::is_root() && Path::new("/usr/bin/apt-get").exists()
}

fn install() -> PathBuf {
    let command = "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql";
    let output = Command::new("sh").args(["-c", command]).output().expect("a shell");
    assert!(output.status.success(), "install postgresql: {}", String::from_utf8_lossy(&output.stderr));
    programs().expect("the package has them")
}

/// The folder of `initdb` and `postgres`, where they are installed.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    folders.into_iter().rfind(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
}

impl Postgres {
    /// Starts a server and waits until it takes connections.
    pub fn start() -> Self {
        let programs = programs().unwrap_or_else(install);
        let folder = tempfile::Builder::new().prefix("sandbox-test-postgres-").tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("ours");
        let user = crate::features::is_root().then(unprivileged);
        let own = |path: &Path| {
            if let Some((uid, gid)) = user {
                chown(path, Some(uid), Some(gid)).expect("root may give files away");
            }
        };
        let password = folder.path().join("password");
        fs::write(&password, PASSWORD).expect("written");
        own(&password);
        own(folder.path());
        let command = |program: &str| {
            let mut command = Command::new(programs.join(program));
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null());
            command
        };
        let data = folder.path().join("data");
        let mut initdb = command("initdb");
        initdb.args(["--no-sync", "--no-locale", "-E", "UTF8", "-U", "admin", "-A", "scram-sha-256", "--pwfile"]);
        let made = initdb.arg(&password).arg("-D").arg(&data).output().expect("initdb starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let log = fs::File::create(folder.path().join("log")).expect("made");
        let mut postgres = command("postgres");
        postgres
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-k"])
            .arg(folder.path());
        let child = postgres.stderr(log).spawn().expect("postgres starts");
        let server = Self { child, folder, programs };
        assert!(crate::host::eventually(Duration::from_secs(60), || server.is_ready()), "{}", server.log());
        server
    }

    fn is_ready(&self) -> bool {
        let mut ready = Command::new(self.programs.join("pg_isready"));
        ready.arg("-h").arg(self.folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        ready.status().is_ok_and(|status| status.success())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// As `--database-url` takes it.
    pub fn url(&self) -> String {
        let host = self.folder.path().to_str().expect("UTF-8").replace('/', "%2F");
        format!("postgres://admin:{PASSWORD}@{host}/postgres")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        // An immediate shutdown; a killed server would leave a piece of shared memory behind.
        if nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGQUIT).is_ok() {
            let _ = self.child.wait();
        }
    }
}

/// User and group that the server runs as; it refuses to be root.
fn unprivileged() -> (u32, u32) {
    let user = |name: &str| nix::unistd::User::from_name(name).ok().flatten();
    let found = user("postgres").or_else(|| user("nobody")).expect("a user without rights");
    (found.uid.as_raw(), found.gid.as_raw())
}
