//! Links the launcher statically, at a fixed address.
//!
//! Each init is a copy of the launcher, made and thrown away for one run. A dynamic program has some
//! thirty mappings that have to be copied and torn down each time, and pages with relocations that are
//! copied when they are touched; a static one has a dozen mappings and few such pages. That is a tenth
//! of the processor time that a run costs besides its command.
//!
//! `-C target-feature=+crt-static` cannot be given for one program of a workspace, so the
//! linker is told here: the names of the shared C libraries lead to the archives. Where
//! there is no static C library, the launcher is linked as any program is, and is only slower.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What rustc links a program with that is static in the compiler's own archives.
const LIBRARIES: [(&str, &[&str]); 6] = [
    ("gcc_s", &["libgcc_eh.a", "libgcc.a"]),
    ("c", &["libc.a"]),
    ("m", &["libm.a"]),
    ("dl", &["libdl.a"]),
    ("pthread", &["libpthread.a"]),
    ("rt", &["librt.a"]),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let native = variable("HOST") == variable("TARGET") && variable("CARGO_CFG_TARGET_ENV") == "gnu";
    let out = PathBuf::from(variable("OUT_DIR"));
    if native && point_to_archives(&out).is_some() {
        for argument in ["-static", "-no-pie", "-L", &out.display().to_string()] {
            println!("cargo::rustc-link-arg-bin=sandbox-launch={argument}");
        }
    }
}

/// Writes a linker script in the place of each shared library; none when an archive is missing.
fn point_to_archives(out: &Path) -> Option<()> {
    for (name, archives) in LIBRARIES {
        let paths = archives.iter().map(|archive| find(archive)).collect::<Option<Vec<_>>>()?;
        std::fs::write(out.join(format!("lib{name}.so")), format!("GROUP ( {} )\n", paths.join(" "))).ok()?;
    }
    Some(())
}

/// Where the C compiler has it; a name that it does not know it repeats.
fn find(archive: &str) -> Option<String> {
    let output = Command::new("cc").arg(format!("-print-file-name={archive}")).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    Path::new(&path).is_absolute().then_some(path)
}
