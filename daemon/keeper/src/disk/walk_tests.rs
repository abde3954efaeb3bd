//! Walks over trees that are plain, linked, deep, closed, or changing.

use super::*;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn walk(dirs: &[&Path], enough: Option<u64>) -> Walk {
    let dirs: Vec<_> = dirs.iter().map(|dir| dir.to_path_buf()).collect();
    Walk::over(&dirs, enough, Instant::now() + Duration::from_secs(60)).unwrap()
}

/// What `path` itself takes, as the walk counts it.
fn own(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).unwrap().blocks() * 512 + ENTRY_BYTES
}

#[test]
fn files_folders_and_links_are_counted_once_each() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("a/b")).unwrap();
    fs::write(at("a/file"), vec![1; 100_000]).unwrap();
    fs::hard_link(at("a/file"), at("a/b/again")).unwrap();
    fs::write(at("empty"), "").unwrap();
    std::os::unix::fs::symlink("/usr", at("link")).unwrap();
    let expected: u64 =
        ["", "a", "a/b", "a/file", "empty", "link"].iter().map(|name| own(&at(name))).sum::<u64>() + ENTRY_BYTES;
    let found = walk(&[dir.path()], None);
    assert_eq!(found.usage, DiskUsage { bytes: expected, entries: 7, complete: true });
    assert_eq!(found.closed, 0);
}

#[test]
fn a_folder_within_another_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("file"), vec![1; 50_000]).unwrap();
    let whole = walk(&[dir.path()], None).usage;
    assert_eq!(walk(&[dir.path(), &inner], None).usage, whole);
    assert_eq!(walk(&[&inner, dir.path(), dir.path()], None).usage, whole);
}

#[test]
fn a_flood_of_empty_files_counts() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..1000 {
        fs::write(dir.path().join(number.to_string()), "").unwrap();
    }
    assert!(walk(&[dir.path()], None).usage.bytes >= 1000 * ENTRY_BYTES);
}

#[test]
fn holes_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    fs::File::create(dir.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
    assert!(walk(&[dir.path()], None).usage.bytes < 1 << 20);
}

#[test]
fn enough_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..100 {
        fs::write(dir.path().join(number.to_string()), vec![1; 8192]).unwrap();
    }
    let found = walk(&[dir.path()], Some(50_000)).usage;
    assert!(!found.complete && found.bytes > 50_000 && found.entries < 20, "{found:?}");
}

#[test]
fn a_walk_ends_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..1000 {
        fs::write(dir.path().join(number.to_string()), "").unwrap();
    }
    let found = Walk::over(&[dir.path().to_owned()], None, Instant::now()).unwrap().usage;
    assert!(!found.complete && found.entries < 1000, "{found:?}");
}

#[test]
fn closed_folders_of_our_own_are_noticed() {
    if rustix::process::geteuid().is_root() {
        println!("skipped: root can look into every folder");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let shut = dir.path().join("shut");
    fs::create_dir(&shut).unwrap();
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(walk(&[dir.path()], None).closed, 1);
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o700)).unwrap();
}

/// A chain of folders `d`, each with a sibling `e`, and how to take it away again: no path reaches
/// its end.
struct Chain<'a>(&'a Path);

impl Chain<'_> {
    fn make(&self, depth: usize) {
        let mut here = open(rustix::fs::CWD, self.0, OFlags::empty()).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&here, c"e", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&here, c"d", Mode::RWXU).unwrap();
            here = open(&here, c"d", OFlags::empty()).unwrap();
        }
    }

    /// Each round lifts the second folder of the chain to the place of the first.
    fn remove(&self) {
        let at = |name: &str| self.0.join(name);
        while at("d").exists() {
            let _ = fs::remove_dir(at("e"));
            let _ = fs::rename(at("d/e"), at("e"));
            let lifted = fs::rename(at("d/d"), at("next")).is_ok();
            fs::remove_dir(at("d")).unwrap();
            if lifted {
                fs::rename(at("next"), at("d")).unwrap();
            }
        }
    }
}

#[test]
fn a_deep_chain_costs_neither_stack_nor_descriptors() {
    let depth = std::env::var("SANDBOX_TEST_DEPTH").ok().and_then(|depth| depth.parse().ok()).unwrap_or(5_000);
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain(dir.path());
    chain.make(depth);
    let began = Instant::now();
    let found = walk(&[dir.path()], None).usage;
    println!("{depth} deep: {:?}", began.elapsed());
    chain.remove();
    assert_eq!((found.entries, found.complete), (2 * depth as u64 + 1, true));
}

#[test]
fn a_tree_that_changes_under_the_walk_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("not ours"), vec![1; 8 << 20]).unwrap();
    let chain = Chain(dir.path());
    chain.make(300);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Deep parts move up and down, and a folder is exchanged for a link out of the tree.
            let deep: PathBuf = dir.path().join("d/".repeat(100));
            while !done.load(Ordering::Relaxed) {
                let _ = fs::rename(deep.join("d"), dir.path().join("up"));
                let _ = std::os::unix::fs::symlink(outside.path(), deep.join("d"));
                let _ = fs::remove_file(deep.join("d"));
                let _ = fs::rename(dir.path().join("up"), deep.join("d"));
                let _ = fs::create_dir(dir.path().join("e/new"));
                let _ = fs::remove_dir(dir.path().join("e/new"));
            }
        });
        for _ in 0..300 {
            let found = walk(&[dir.path()], None).usage;
            assert!(found.bytes < 8 << 20, "the link was followed: {found:?}");
            assert!(found.entries <= 2 * 600 + 4, "{found:?}");
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(walk(&[dir.path()], None).usage.entries, 601);
    chain.remove();
}
