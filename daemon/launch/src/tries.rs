//! Carries the trials of a doctor out, each in a process of its own. See `trial.rs`.

use crate::{landlock, mounts, namespaces, network};
use nix::sched::CloneFlags;
use rustix::process::{Pid, WaitOptions};
use sandbox_launch::plan::LandlockPlan;
use sandbox_launch::protocol;
use sandbox_launch::report::{Report, Step};
use sandbox_launch::seccomp::{self, Profile};
use sandbox_launch::selftest::Layer;
use sandbox_launch::sys::{self, Forked};
use sandbox_launch::trial::{Outcome, Trial};
use std::fs::File;
use std::io::{Read, Write};

/// One answer for each, in their order.
pub(crate) fn all(trials: &[Trial]) -> Vec<Outcome> {
    trials.iter().map(|trial| Outcome { trial: *trial, refused: refused(*trial) }).collect()
}

fn refused(trial: Trial) -> Option<Report> {
    let failed = |error: std::io::Error| Some(Report::new(Step::Try, error, ""));
    let (reader, writer) = match rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) {
        Ok(pipe) => pipe,
        Err(errno) => return failed(errno.into()),
    };
    let child = match sys::fork(0) {
        Ok(Forked::Child) => {
            drop(reader);
            // Whoever returns from this may be a child of that child, in other namespaces.
            let outcome = carry_out(trial).err();
            // Nobody to tell when the reader is gone.
            let _ = protocol::encode(&outcome).map(|bytes| File::from(writer).write_all(&bytes));
            sys::exit(0)
        }
        Ok(Forked::Parent(pid)) => pid,
        Err(errno) => return failed(errno.into()),
    };
    drop(writer);
    let mut said = Vec::new();
    let read = File::from(reader).read_to_end(&mut said);
    wait_for(child);
    match read.and_then(|_| protocol::decode(&said)) {
        Ok(outcome) => outcome,
        // Killed by whoever filters system calls, most likely.
        Err(_) => Some(Report::new(Step::Try, 0, "without being killed")),
    }
}

fn wait_for(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty()); // reaped, or gone
    }
}

fn carry_out(trial: Trial) -> Result<(), Report> {
    match trial {
        Trial::Namespace(Layer::User) => enter_user(),
        Trial::Namespace(Layer::Uts) => {
            inside(libc::CLONE_NEWUTS, "uts")?;
            namespaces::set_hostname("trial")
        }
        Trial::Namespace(layer) => inside(flag(layer), layer.name()),
        Trial::Mount => {
            inside(libc::CLONE_NEWNS, "mnt")?;
            mounts::try_view()
        }
        Trial::Proc => {
            inside(libc::CLONE_NEWNS | libc::CLONE_NEWPID, "mnt, pid")?;
            mounts::try_filesystem("proc", &[])
        }
        Trial::Loopback => {
            inside(libc::CLONE_NEWNET, "net")?;
            network::bring_up_loopback()
        }
        Trial::Overlay => {
            inside(libc::CLONE_NEWNS, "mnt")?;
            mounts::try_filesystem("overlay", &[("lowerdir", "/usr:/etc")])
        }
        Trial::NfTables => {
            inside(libc::CLONE_NEWNET, "net")?;
            network::ask_nf_tables()
        }
        Trial::Landlock => {
            let none = landlock::prepare(&LandlockPlan { rules: Vec::new() })?;
            no_new_privileges(Step::Landlock)?;
            landlock::restrict(none)?;
            match File::open("/").err().and_then(|error| error.raw_os_error()) {
                Some(libc::EACCES) => Ok(()),
                _ => Err(Report::new(Step::Landlock, libc::EOPNOTSUPP, "")),
            }
        }
        Trial::Seccomp => {
            no_new_privileges(Step::Seccomp)?;
            sys::load_seccomp(&seccomp::compile(Profile::Default).launcher)
                .map_err(|errno| Report::new(Step::Seccomp, errno, ""))?;
            // As in the self-test: a container's filter does not refuse this one.
            match sys::forge_terminal_input(rustix::stdio::stdin()) {
                Err(rustix::io::Errno::PERM) => Ok(()),
                _ => Err(Report::new(Step::Seccomp, libc::EOPNOTSUPP, "")),
            }
        }
    }
}

fn no_new_privileges(step: Step) -> Result<(), Report> {
    rustix::thread::set_no_new_privs(true).map_err(|errno| Report::new(step, errno, "no_new_privs"))
}

/// A new user namespace in which this process's own id is root: whoever makes one may map that.
fn enter_user() -> Result<(), Report> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| Report::new(Step::EnterUserNamespace, errno, ""))?;
    let write = |file: &str, text: String| {
        std::fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| Report::new(Step::MapIds, error, "this process"))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {uid} 1"))?;
    write("gid_map", format!("0 {gid} 1"))
}

/// Goes on as a child of this process in new namespaces; this process waits for it and ends.
fn inside(flags: i32, names: &str) -> Result<(), Report> {
    enter_user()?;
    match sys::fork(flags as u64) {
        Ok(Forked::Child) => Ok(()),
        Ok(Forked::Parent(pid)) => {
            wait_for(pid);
            sys::exit(0)
        }
        Err(errno) => Err(Report::new(Step::EnterNamespaces, errno, names)),
    }
}

fn flag(layer: Layer) -> i32 {
    match layer {
        Layer::Mnt => libc::CLONE_NEWNS,
        Layer::Pid => libc::CLONE_NEWPID,
        Layer::Net => libc::CLONE_NEWNET,
        Layer::Ipc => libc::CLONE_NEWIPC,
        Layer::Uts => libc::CLONE_NEWUTS,
        Layer::Cgroup => libc::CLONE_NEWCGROUP,
        _ => libc::CLONE_NEWUSER,
    }
}
