//! Namespaces and ids: the user namespace first, then all others by one clone3(2).
//!
//! Follows user_namespaces(7), pid_namespaces(7). The maps are written by the keeper, from outside:
//! only it has the right to map a range.

use crate::fault;
use nix::sched::CloneFlags;
use rustix::process::{Gid, Uid};
use sandbox_launch::protocol::{FromLauncher, ToLauncher, receive, send};
use sandbox_launch::report::{Report, Step};
use sandbox_launch::sys;
use std::os::fd::OwnedFd;

/// Each init has its own; the rest it shares with its project.
pub(crate) fn of_init() -> u64 {
    let own_processes = if fault::omits("pid") { 0 } else { libc::CLONE_NEWPID };
    made(own_processes | libc::CLONE_NEWNS | libc::CLONE_NEWIPC)
}

/// Without the one that a faulty launcher leaves out.
fn made(mut flags: i32) -> u64 {
    for (name, flag) in [
        ("net", libc::CLONE_NEWNET),
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
        ("cgroup", libc::CLONE_NEWCGROUP),
    ] {
        if fault::omits(name) {
            flags &= !flag;
        }
    }
    flags as u64
}

/// Enters a new user namespace, waits until its maps are written, and becomes `uid`/`gid` there
/// with all capabilities that the namespace gives.
pub(crate) fn enter_user(control: &OwnedFd, uid: u32, gid: u32) -> Result<(), Report> {
    let failed = |errno: nix::errno::Errno| Report::new(Step::EnterUserNamespace, errno, "");
    if !fault::omits("user") {
        nix::sched::unshare(CloneFlags::CLONE_NEWUSER).map_err(failed)?;
    }
    let exchange = |error| Report::new(Step::MapIds, error, "this process");
    send(control, &FromLauncher::WantsIds, &[]).map_err(exchange)?;
    match receive(control).map_err(exchange)? {
        Some((ToLauncher::IdsMapped, _)) => {}
        _ => return Err(exchange(std::io::Error::from_raw_os_error(libc::EPROTO))),
    }
    // Keeping capabilities over the change of ids: the view is still to be made with them.
    rustix::thread::set_keep_capabilities(true).map_err(|e| Report::new(Step::SetIds, e, "keep capabilities"))?;
    let uid = Uid::from_raw(uid);
    let gid = Gid::from_raw(gid);
    // An ordinary user's namespace denies setgroups(2); then the caller's groups stay, unmapped.
    match rustix::thread::set_thread_groups(&[]) {
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(errno) => return Err(Report::new(Step::SetIds, errno, "no groups")),
    }
    if !fault::omits("ids") {
        rustix::thread::set_thread_res_gid(gid, gid, gid)
            .map_err(|errno| Report::new(Step::SetIds, errno, format!("group {}", gid.as_raw())))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)
            .map_err(|errno| Report::new(Step::SetIds, errno, format!("user {}", uid.as_raw())))?;
    }
    // A change of ids drops the effective set; keep-capabilities saves only the permitted one.
    capabilities_back().map_err(|errno| Report::new(Step::SetIds, errno, "capabilities"))?;
    // Nothing inside may trace or read the launcher and its inits.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|errno| Report::new(Step::SetIds, errno, "not dumpable"))
}

fn capabilities_back() -> Result<(), rustix::io::Errno> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets)
}

/// Forks into new mount, pid, ipc, uts, cgroup and, when wanted, network namespaces.
pub(crate) fn fork_into_others(own_network: bool) -> Result<sys::Forked, Report> {
    let mut flags =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
    if own_network {
        flags |= libc::CLONE_NEWNET;
    }
    sys::fork(made(flags))
        .map_err(|errno| Report::new(Step::EnterNamespaces, errno, if own_network { "with network" } else { "" }))
}

pub(crate) fn set_hostname(name: &str) -> Result<(), Report> {
    rustix::system::sethostname(name.as_bytes()).map_err(|errno| Report::new(Step::Hostname, errno, name))
}
