//! What is found on hosts of several kinds, given as texts and plain directories.

use super::*;

fn mounts_of(lines: &[String]) -> Vec<Mount> {
    mounts::parse(lines.join("\n").as_bytes())
}

/// A directory that looks like version 2 to the probe.
fn v2_dir(dir: &Path, controllers: &str, processes: &str, root: bool) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("cgroup.controllers"), controllers).unwrap();
    std::fs::write(dir.join("cgroup.subtree_control"), "").unwrap();
    std::fs::write(dir.join("cgroup.procs"), processes).unwrap();
    if !root {
        std::fs::write(dir.join("cgroup.type"), "domain\n").unwrap();
    }
}

fn v2_mount(point: &Path, root: &str) -> Vec<Mount> {
    mounts_of(&[format!("41 31 0:38 {root} {} rw,relatime - cgroup2 cgroup2 rw", point.display())])
}

fn v1_mount(point: &Path, root: &str, controllers: &str) -> String {
    format!("32 31 0:29 {root} {} rw,relatime - cgroup cgroup rw,{controllers}", point.display())
}

fn detect(mounts: &[Mount], own: &str) -> Hierarchy {
    Hierarchy::from_texts(mounts, own, &|dir, _| dir.exists())
}

#[test]
fn own_cgroups_are_parsed() {
    assert_eq!(
        parse_own("4:memory:/process/a:b\n3:cpu,cpuacct:/\n9:name=systemd:/\n0::/init.scope\nbroken\n"),
        [
            Own { controllers: vec!["memory".into()], path: "/process/a:b".into() },
            Own { controllers: vec!["cpu".into(), "cpuacct".into()], path: "/".into() },
            Own { controllers: vec!["name=systemd".into()], path: "/".into() },
            Own { controllers: vec![], path: "/init.scope".into() },
        ]
    );
}

#[test]
fn a_mount_shows_only_what_is_below_its_root() {
    let mount = |root: &str| v2_mount(Path::new("/sys/fs/cgroup"), root).remove(0);
    let at = |text: &str| Some(PathBuf::from(text));
    assert_eq!(locate(&mount("/"), Path::new("/a/b")), at("/sys/fs/cgroup/a/b"));
    assert_eq!(locate(&mount("/docker/x"), Path::new("/docker/x")), at("/sys/fs/cgroup"));
    assert_eq!(locate(&mount("/docker/x"), Path::new("/docker/x/y")), at("/sys/fs/cgroup/y"));
    assert_eq!(locate(&mount("/docker/x"), Path::new("/docker/xy")), None);
    assert_eq!(locate(&mount("/"), Path::new("/../outside")), None);
}

#[test]
fn each_v1_controller_is_found_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["memory/process/1", "pids", "both"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    let mut lines = vec![
        v1_mount(&at("memory"), "/", "memory"),
        v1_mount(&at("pids"), "/", "pids"),
        v1_mount(&at("both"), "/", "cpu,cpuacct"),
    ];
    let own = "4:memory:/process/1\n8:pids:/\n1:cpu,cpuacct:/\n0::/\n";
    let found = detect(&mounts_of(&lines), own);
    let site = |dir: &str, controllers: &[Controller]| Site {
        version: Version::V1,
        parent: at(dir),
        controllers: controllers.to_vec(),
        crowded: false,
    };
    assert_eq!(
        found.sites,
        [
            site("memory/process/1", &[Controller::Memory]),
            site("pids", &[Controller::Pids]),
            site("both", &[Controller::Cpu, Controller::CpuAccounting]),
        ]
    );
    assert_eq!((found.kind(), found.missing(), found.is_complete()), (Kind::V1, &[][..], true));

    std::fs::create_dir_all(at("unified")).unwrap();
    lines.push(format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw", at("unified").display()));
    assert_eq!(detect(&mounts_of(&lines), own).kind(), Kind::Hybrid);
}

#[test]
fn a_delegated_v2_cgroup_with_only_us_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    v2_dir(dir.path(), "cpu memory pids", "", true);
    let own = dir.path().join("app.scope");
    v2_dir(&own, "cpu memory pids", &format!("{}\n", std::process::id()), false);
    let found = detect(&v2_mount(dir.path(), "/"), "0::/app.scope\n");
    assert_eq!(
        found.sites,
        [Site { version: Version::V2, parent: own.clone(), controllers: Controller::ALL.to_vec(), crowded: true }]
    );
    assert_eq!(found.kind(), Kind::V2);

    // The daemon has settled; a keeper starts beside it and uses the same parent.
    let supervisor = own.join("supervisor");
    v2_dir(&supervisor, "", &format!("{}\n1\n", std::process::id()), false);
    std::fs::write(own.join("cgroup.procs"), "").unwrap();
    let found = detect(&v2_mount(dir.path(), "/"), "0::/app.scope/supervisor\n");
    assert_eq!((found.sites[0].parent.clone(), found.sites[0].crowded), (own, false));
}

#[test]
fn others_in_the_same_v2_cgroup_are_never_moved() {
    let dir = tempfile::tempdir().unwrap();
    v2_dir(dir.path(), "cpu memory pids", &format!("{}\n1\n7\n", std::process::id()), false);
    let found = detect(&v2_mount(dir.path(), "/"), "0::/\n");
    assert_eq!(found.kind(), Kind::None);
    let missing = &found.missing()[0];
    assert_eq!(missing.controllers, Controller::ALL);
    assert_eq!(missing.why, format!("2 other processes are in cgroup {}", dir.path().display()));
    assert!(missing.mend.starts_with("systemd-run"));
}

#[test]
fn the_v2_root_may_hold_processes() {
    let dir = tempfile::tempdir().unwrap();
    v2_dir(dir.path(), "memory pids", "1\n2\n", true);
    let found = detect(&v2_mount(dir.path(), "/"), "0::/\n");
    assert!(found.has(Controller::Memory) && found.has(Controller::CpuAccounting) && !found.has(Controller::Cpu));
    assert!(!found.is_complete());
    assert_eq!(
        found.missing()[0].to_string(),
        format!(
            "no cgroup limits by cpu: cgroup {} has no cpu controller; to mend it: boot the kernel with cgroup_enable=cpu",
            dir.path().display()
        )
    );
}

#[test]
fn a_host_without_controllers_is_none() {
    let dir = tempfile::tempdir().unwrap();
    v2_dir(dir.path(), "", "", true);
    assert_eq!(detect(&v2_mount(dir.path(), "/"), "0::/\n").kind(), Kind::None);
    let nothing = detect(&[], "");
    assert_eq!((nothing.kind(), nothing.missing().len()), (Kind::None, 1));
}

#[test]
fn a_read_only_mount_says_so() {
    let dir = tempfile::tempdir().unwrap();
    v2_dir(dir.path(), "cpu memory pids", "", true);
    let mut mounts = v2_mount(dir.path(), "/");
    mounts[0].options = vec!["ro".into()];
    let found = detect(&mounts, "0::/\n");
    assert!(found.missing()[0].why.ends_with("is mounted read-only"), "{:?}", found.missing());
}

#[test]
fn settling_moves_this_process_and_hands_controllers_down() {
    let dir = tempfile::tempdir().unwrap();
    v2_dir(dir.path(), "memory", &format!("{}\n", std::process::id()), false);
    v2_dir(&dir.path().join("supervisor"), "", "", false);
    let found = detect(&v2_mount(dir.path(), "/"), "0::/\n");
    // A plain file keeps "+memory" as written, which is not what the kernel would answer.
    assert!(matches!(found.settle(), Err(CgroupError::Differs { .. })));
    assert_eq!(std::fs::read_to_string(dir.path().join("supervisor/cgroup.procs")).unwrap(), "0");
}

#[test]
fn this_host_is_one_kind_or_says_why_not() {
    let found = Hierarchy::detect();
    assert!(found.is_complete() || !found.missing().is_empty(), "{found:?}");
    println!("{}: {:?}", found.kind(), found.missing());
}
