//! Tries what no command may do, as the init of a new sandbox. See `selftest.rs` for why.
//!
//! An act that fails for another reason than the layer's own counts as a breach: what is refused by luck
//! today may not be tomorrow.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid};
use sandbox_launch::selftest::{Breach, Layer, SelfTest};
use sandbox_launch::sys;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

/// Every act that was possible. Ends with acts that change the process: it must do nothing afterwards.
pub(crate) fn all(test: &SelfTest) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut tried = |layer, act: &str, refused: bool| {
        if !refused {
            breaches.push(Breach::new(layer, act));
        }
    };
    for (layer, outside) in &test.namespaces {
        let own = std::fs::read_link(format!("/proc/self/ns/{}", layer.name()));
        let other = own.is_ok_and(|own| own.as_os_str() != outside.as_str());
        tried(*layer, "share a namespace with the host", other);
    }
    let hidden = rustix::fs::lstat(test.hidden.as_str());
    tried(Layer::Mnt, &format!("see {} of the host", test.hidden), matches!(hidden, Err(Errno::NOENT)));
    let outsider = Pid::from_raw(test.outsider);
    let signalled = outsider.map_or(Err(Errno::INVAL), rustix::process::test_kill_process);
    tried(Layer::Pid, "name a process of the host", signalled == Err(Errno::SRCH));
    tried(Layer::Pid, "be another process than the first", rustix::process::getpid() == Pid::INIT);
    if let Some(name) = &test.listener {
        let connected = SocketAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address));
        let refused = connected.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
        tried(Layer::Net, "reach a socket of the host", refused);
    }
    let places = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // A kernel without any says nothing here, and the file is empty.
    tried(Layer::Cgroup, "see its place among the host's cgroups", places.lines().all(|line| line.ends_with(":/")));
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let own = (uid, gid) == (test.uid, test.gid) && rustix::process::geteuid().as_raw() == uid;
    tried(Layer::Ids, "be somebody else than the user", own);
    tried(Layer::Capabilities, "hold a capability, or get one by a program", has_no_capability());
    for rlimit in &test.rlimits {
        let now = rustix::process::getrlimit(rlimit.resource.into());
        let held = [now.current, now.maximum].into_iter().all(|value| value.is_some_and(|value| value <= rlimit.limit));
        tried(Layer::Rlimits, &format!("use more than {:?} = {}", rlimit.resource, rlimit.limit), held);
    }
    if test.landlock {
        // As a command is; an init's own files are root's.
        let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable);
        let opened = std::fs::OpenOptions::new().write(true).open("/proc/self/comm");
        let refused = opened.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
        tried(Layer::Landlock, "write to a file that the policy does not make writable", refused);
    }
    // A call that only our own filter refuses: a container's may refuse others. To a file that is no terminal the
    // kernel's own answer is another.
    let forged = sys::forge_terminal_input(rustix::stdio::stdin());
    tried(Layer::Seccomp, "push input into a terminal", forged == Err(Errno::PERM));
    let inner = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER);
    tried(Layer::Seccomp, "make a user namespace", inner == Err(nix::errno::Errno::EPERM));
    breaches
}

fn has_no_capability() -> bool {
    let held = rustix::thread::capabilities(None);
    let none = held.is_ok_and(|held| held.effective.is_empty() && held.permitted.is_empty());
    let all = rustix::thread::CapabilitySet::all();
    let bounded = all.iter().all(|one| !rustix::thread::capability_is_in_bounding_set(one).unwrap_or(false));
    none && bounded && rustix::thread::no_new_privs().unwrap_or(false)
}
