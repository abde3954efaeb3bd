//! `sandboxctl` as a person runs it, with a home and a state of its own.

use crate::{host, programs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// An empty home, and the environment of somebody who has just installed the programs.
#[derive(Debug)]
pub struct Person {
    folder: Option<tempfile::TempDir>,
    home: PathBuf,
    /// A daemon to use; without it sandboxctl starts its own.
    daemon: Option<(String, String)>,
}

impl Person {
    /// Nothing is set up: sandboxctl has to start a daemon by itself.
    pub fn alone() -> Self {
        let folder = tempfile::Builder::new().prefix("sandbox-test-cli-").tempdir().expect("a temporary directory");
        let home = folder.path().canonicalize().expect("it was just made");
        Self { folder: Some(folder), home, daemon: None }
    }

    /// With a daemon that is named by variables.
    pub fn of(daemon: &crate::Daemon) -> Self {
        let token = daemon.client.token.clone().unwrap_or_default();
        let mut person = Self::alone();
        person.daemon = Some((format!("http://{}", daemon.client.address), token));
        person
    }

    /// The person's home; also a fine place for projects.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A folder in the home.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.home.join(name);
        fs::create_dir_all(&folder).expect("the home is ours");
        folder
    }

    /// Where a daemon of this person's has its state.
    pub fn state(&self) -> PathBuf {
        self.home.join("xdg/sandboxd")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(programs::path("sandboxctl"));
        command.args(args).current_dir(&self.home).env("HOME", &self.home).stdin(Stdio::null());
        let deploys = ["RUN402_API_BASE", "RUN402_CONFIG_DIR", "RUN402_WALLET", "RUN402_DELEGATE_TOKEN"];
        for name in ["SANDBOXD_URL", "SANDBOXD_TOKEN", "SANDBOXD_STATE"].iter().chain(&deploys) {
            command.env_remove(name);
        }
        command.env("XDG_STATE_HOME", self.home.join("xdg")).env("XDG_RUNTIME_DIR", self.home.join("run"));
        match &self.daemon {
            Some((url, token)) => {
                command.env("SANDBOXD_URL", url).env("SANDBOXD_TOKEN", token);
            }
            // Root's own daemon has its state elsewhere; tests leave that alone.
            None if crate::features::is_root() => {
                command.env("SANDBOXD_STATE", self.state());
            }
            None => {}
        }
        command
    }

    /// Runs to the end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("sandboxctl starts")
    }

    /// Runs to the end in a folder.
    #[track_caller]
    pub fn run_in(&self, folder: &Path, args: &[&str]) -> Output {
        self.command(args).current_dir(folder).output().expect("sandboxctl starts")
    }

    /// Starts, with its output in pipes.
    #[track_caller]
    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sandboxctl starts")
    }
}

impl Drop for Person {
    /// Ends the daemon and the gateway that sandboxctl started for this person, and waits until the
    /// daemon's keepers are gone.
    fn drop(&mut self) {
        let daemon = fs::read(self.state().join("daemon.json"))
            .ok()
            .and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
            .and_then(|running| i32::try_from(running["pid"].as_i64()?).ok())
            .filter(|pid| *pid > 1 && host::comm(pid.unsigned_abs()) == "sandboxd");
        if let Some(pid) = daemon {
            let keepers = host::keepers(&self.home, pid.unsigned_abs());
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            host::eventually(Duration::from_secs(15), || host::comm(pid.unsigned_abs()) != "sandboxd");
            // Keepers of such a daemon stay for a minute; nobody will need these again.
            for keeper in keepers.into_iter().filter(|keeper| host::comm(*keeper) == "sandbox-keeper") {
                let _ = kill(Pid::from_raw(keeper.cast_signed()), Signal::SIGTERM);
            }
            host::eventually(Duration::from_secs(5), || host::keepers(&self.home, pid.unsigned_abs()).is_empty());
        }
        let gateway = fs::read(self.home.join("xdg/sandboxd-gateway/gateway.json"))
            .ok()
            .and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
            .and_then(|running| i32::try_from(running["pid"].as_i64()?).ok())
            .filter(|pid| *pid > 1 && host::comm(pid.unsigned_abs()) == "sandboxctl");
        if let Some(pid) = gateway {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            host::eventually(Duration::from_secs(10), || host::comm(pid.unsigned_abs()) != "sandboxctl");
        }
        if let Some(folder) = self.folder.take() {
            // Files of a project's own ids may be left when not root.
            let _ = folder.close();
        }
    }
}

/// What a program printed, as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts an exit status, and shows what was printed when it is another.
#[track_caller]
pub fn assert_status(output: &Output, status: i32) {
    assert_eq!(
        output.status.code(),
        Some(status),
        "\nstdout: {}\nstderr: {}",
        text(&output.stdout),
        text(&output.stderr)
    );
}
