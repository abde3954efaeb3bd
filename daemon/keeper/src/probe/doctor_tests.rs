use super::*;
use crate::probe::Host;
use sandbox_launch::report::Step;

fn line(lines: &[DoctorLine], check: &str) -> DoctorLine {
    lines.iter().find(|line| line.check == check).cloned().unwrap_or_else(|| panic!("no line {check}: {lines:#?}"))
}

fn refused() -> Rehearsal {
    let problem = Problem::new(sandbox_wire::Code::LayerUnavailable, "this host does not let the sandbox be made");
    Rehearsal { receipt: Err(Box::new(problem.next("mend it"))), disk_rate: Err(CgroupError::NoIo) }
}

/// A host on which everything is allowed.
fn well() -> Examination {
    let mut host = Host::probe();
    host.kernel = "6.18.0".to_owned();
    host.privilege = Privilege::Host;
    host.user_namespaces = UserNamespaces::Allowed;
    host.container = None;
    host.filtered = false;
    host.apparmor = None;
    host.proc_masks = Vec::new();
    host.landlock_abi = Some(7);
    Examination::all_done(host)
}

#[test]
fn every_line_that_is_not_well_says_what_is_used_and_how_to_mend_it() {
    let mut examination = well();
    let host = &mut examination.host;
    host.kernel = "4.19.0".to_owned();
    host.privilege = Privilege::None;
    host.landlock_abi = None;
    host.user_namespaces = UserNamespaces::Forbidden { sysctl: "user.max_user_namespaces", allow: "15000" };
    host.proc_masks = vec!["/proc/kcore".into()];
    host.pressure = false;
    host.programs.iter_mut().for_each(|program| program.path = None);
    for trial in Trial::ALL {
        examination.refuse(trial, Step::EnterUserNamespace, libc::ENOSPC);
    }
    let lines = examination.doctor(&refused());
    for line in &lines {
        let well = line.status == DoctorStatus::Ok;
        assert_eq!(well, line.mend.is_empty() && line.meanwhile.is_empty(), "{line:?}");
    }
    for check in ["kernel", "Landlock", "user namespaces", "namespaces", "view", "/proc", "program sh", "sandbox"] {
        assert_eq!(line(&lines, check).status, DoctorStatus::Missing, "{check}");
    }
    assert_eq!(line(&lines, "user").status, DoctorStatus::Degraded);
    assert_eq!(line(&lines, "user namespaces").mend, "sudo sysctl -w user.max_user_namespaces=15000");
}

#[test]
fn what_was_done_counts_and_not_what_a_setting_says() {
    let mut examination = well();
    examination.host.user_namespaces =
        UserNamespaces::Forbidden { sysctl: "kernel.apparmor_restrict_unprivileged_userns", allow: "0" };
    examination.host.proc_masks = vec!["/proc/kcore".into()];
    assert!(examination.obstacle().is_none());
    // On such hosts the namespace can be made, and nothing can be done in it.
    examination.host.privilege = Privilege::None;
    examination.refuse(Trial::Mount, Step::Mount, libc::EACCES);
    let obstacle = examination.obstacle().expect("no mounts");
    assert_eq!(
        (obstacle.check.as_str(), obstacle.mend.as_str()),
        ("view", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
    );
}

#[test]
fn in_a_container_the_missing_option_is_named() {
    let container = || {
        let mut examination = well();
        examination.host.container = Some(crate::probe::Container { engine: "docker".to_owned() });
        examination.host.filtered = true;
        examination
    };
    let mend = |examination: &Examination| examination.obstacle().expect("an obstacle").mend;

    let mut examination = container();
    examination.refuse(Trial::Namespace(Layer::User), Step::EnterUserNamespace, libc::EPERM);
    assert!(mend(&examination).contains("--security-opt seccomp="), "{}", mend(&examination));

    let mut examination = container();
    examination.host.proc_masks = vec!["/proc/kcore".into()];
    examination.refuse(Trial::Proc, Step::Mount, libc::EPERM);
    assert!(mend(&examination).contains("systempaths=unconfined"), "{}", mend(&examination));

    let mut examination = container();
    examination.host.apparmor = Some("docker-default".to_owned());
    examination.refuse(Trial::Mount, Step::Mount, libc::EACCES);
    assert!(mend(&examination).contains("apparmor=unconfined"), "{}", mend(&examination));
}

#[test]
fn too_many_namespaces_are_told_from_forbidden_ones() {
    let mut examination = well();
    examination.refuse(Trial::Namespace(Layer::Net), Step::EnterNamespaces, libc::ENOSPC);
    assert_eq!(examination.obstacle().expect("no network").mend, "sudo sysctl -w user.max_net_namespaces=15000");
    let lines = examination.doctor(&refused());
    assert_eq!(line(&lines, "namespaces").status, DoctorStatus::Missing);
}

#[test]
fn an_older_landlock_is_told_by_what_it_lacks() {
    let mut examination = well();
    examination.host.landlock_abi = Some(2);
    let lines = examination.doctor(&refused());
    let line = line(&lines, "Landlock");
    assert_eq!(line.status, DoctorStatus::Degraded);
    assert_eq!(line.found, "ABI 2: without truncation, TCP ports, ioctl on devices, signals and abstract sockets");
}

#[test]
fn a_sentence_has_all_of_its_line() {
    let line = degraded("cgroup limits", "none by cpu: why", "rlimits", "do this");
    assert_eq!(sentence(&line), "cgroup limits: none by cpu: why; meanwhile rlimits; to mend it: do this");
}
