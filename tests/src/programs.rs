//! Where the programs under test are: `SANDBOX_BIN_DIR`, or built here and now.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The programs, each of a crate of the same name; they find each other as neighbours.
pub const NAMES: [&str; 4] = ["sandboxd", "sandbox-keeper", "sandbox-launch", "sandboxctl"];

/// The launcher with a switch that leaves one layer out.
pub const FAULTY_LAUNCHER: &str = "sandbox-launch-faulty";

/// The path of one of [`NAMES`].
pub fn path(name: &str) -> PathBuf {
    folder().join(name)
}

/// The daemon with the tools that the conformance suite of the Model Context Protocol calls. Only who asks for it waits
/// until it is built, which takes as long as the daemon.
pub fn mcp_fixtures() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let name = "sandbox-mcp-fixtures";
    FOLDER.get_or_init(|| given_or_built(&[name])).join(name)
}

/// The folder that holds all of them.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| given_or_built(&[]))
}

fn given_or_built(others: &[&str]) -> PathBuf {
    match std::env::var_os("SANDBOX_BIN_DIR") {
        Some(folder) => std::path::absolute(folder).expect("SANDBOX_BIN_DIR is a path"),
        None => build(others),
    }
}

/// The root of this repository.
pub fn repository() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).parent().expect("the tests have a folder of their own").to_owned()
}

/// Builds what is stale, in the profile of this test program.
fn build(others: &[&str]) -> PathBuf {
    let own = std::env::current_exe().expect("this program has a path");
    // target/<profile>/deps/<test program>, or target/<profile>/<program>
    let beside = own.parent().expect("a program is in a folder");
    let folder = if beside.ends_with("deps") { beside.parent().unwrap_or(beside) } else { beside }.to_owned();
    let target = folder.parent().expect("profiles are below target");
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--bins", "--profile", profile, "--target-dir"]).arg(target);
    for name in NAMES.iter().chain(&[FAULTY_LAUNCHER]).chain(others) {
        cargo.args(["-p", name]);
    }
    let status = cargo.current_dir(repository()).stdin(Stdio::null()).status().expect("cargo starts");
    assert!(status.success(), "the programs under test do not build: {status}");
    folder
}

/// Copies an example of the repository, without what earlier builds left in it.
pub fn copy_example(name: &str, to: &Path) {
    copy(&repository().join("examples").join(name), to);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the folder is ours");
    for entry in std::fs::read_dir(from).expect("the example is part of the repository").flatten() {
        let (name, kind) = (entry.file_name(), entry.file_type().expect("an entry has a type"));
        if name == "node_modules" || name == "dist" {
            continue;
        }
        if kind.is_dir() {
            copy(&entry.path(), &to.join(name));
        } else {
            std::fs::copy(entry.path(), to.join(name)).expect("the folder is ours");
        }
    }
}
