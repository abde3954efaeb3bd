//! Every unsafe block and raw system call of the project.
//!
//! Only what neither `rustix` nor `nix` offers as a safe function. Each function is a thin wrapper
//! that cannot be misused from safe code as long as the process is single-threaded where it says so.

use crate::plan::BpfInstruction;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::io::Errno;
use std::ffi::{CStr, CString};

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 {
        // SAFETY: __errno_location(3) returns the calling thread's errno, always valid to read.
        Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }))
    } else {
        Ok(result)
    }
}

/// In which of the two processes a [`fork`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    Child,
    /// The child's pid, as the caller's pid namespace sees it.
    Parent(i32),
}

#[repr(C)]
#[derive(Debug, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// clone3(2) without shared memory: a fork whose child starts in new namespaces (`CLONE_NEW*`).
///
/// Refused with `EINVAL` for flags that are not namespaces, and with `EBUSY` when the process has
/// more than one thread, because the child could then find locks held for ever.
pub fn fork(namespaces: u64) -> Result<Forked, Errno> {
    const NAMESPACES: u64 = (libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET) as u64;
    if namespaces & !NAMESPACES != 0 {
        return Err(Errno::INVAL);
    }
    if !single_threaded() {
        return Err(Errno::BUSY);
    }
    if namespaces == 0 {
        // clone3(2) itself is not allowed by the seccomp filter that an init is under by then.
        // SAFETY: the process is single-threaded (checked above), so the child may go on as an
        // ordinary program.
        let pid = check(libc::c_long::from(unsafe { libc::fork() }))?;
        return Ok(if pid == 0 { Forked::Child } else { Forked::Parent(pid as i32) });
    }
    let args = CloneArgs { flags: namespaces, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    // SAFETY: the arguments live through the call and their size is given; no memory is shared
    // (no CLONE_VM), no stack, tls or tid pointer is passed; the process is single-threaded
    // (checked above), so the child may go on as an ordinary program.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    Ok(if pid == 0 { Forked::Child } else { Forked::Parent(pid as i32) })
}

/// What the child of a [`spawn`] works with, and where it leaves its errno.
struct Spawn<'call> {
    program: &'call CStr,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    errno: libc::c_int,
}

/// Runs on a stack of its own in its parent's memory, while the parent stands still.
extern "C" fn spawned(call: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `spawn` passes its own `Spawn`, which nobody else touches until this child has called
    // execve(2) or ended. Everything called here is async-signal-safe; the arrays end with a null
    // pointer and their strings are terminated; the mask and the structure have their sizes.
    unsafe {
        let call = &mut *call.cast::<Spawn<'_>>();
        let none = 0_u64;
        let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, ..SchedAttr::default() };
        libc::setsid();
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0_usize, size_of::<u64>());
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0);
        libc::execve(call.program.as_ptr(), call.argv.as_ptr(), call.env.as_ptr());
        call.errno = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// A vfork(2) and execve(2): the child, in a session of its own, with no signal blocked and the
/// default slice, shares this process's memory until it executes the program. A fork would copy the
/// memory, and posix_spawn(3) would ask for the action of every signal and could not give the slice
/// back last, when the new process has got its processor. Refused with `EBUSY` like [`fork`], and with
/// the errno of execve(2).
pub fn spawn(program: &CStr, argv: &[CString], env: &[CString]) -> Result<i32, Errno> {
    const STACK_BYTES: usize = 64 * 1024;
    if !single_threaded() {
        return Err(Errno::BUSY);
    }
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let mut call = Spawn { program, argv: pointers(argv), env: pointers(env), errno: 0 };
    // Not zeroed: each page of it that is touched is one the kernel has to find first.
    let mut stack = Vec::<u128>::with_capacity(STACK_BYTES / size_of::<u128>());
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack's end is its highest address, 16-byte aligned as its elements are; stack and
    // call outlive the child's use of them, because CLONE_VFORK stops this, the only thread, until the
    // child has called execve(2) or ended. No signal handler of this process can run in the child: it
    // has none.
    let result = unsafe {
        let top = stack.as_mut_ptr().add(stack.capacity());
        libc::clone(spawned, top.cast(), flags, (&raw mut call).cast())
    };
    let pid = check(libc::c_long::from(result))? as i32;
    drop(stack);
    if call.errno == 0 {
        return Ok(pid);
    }
    // SAFETY: waits for the child that has just ended, by its pid; a null status is allowed.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    Err(Errno::from_raw_os_error(call.errno))
}

/// Whether this process has one thread: `/proc/self/task` has one entry. Without a `/proc` the
/// answer rests on the launcher never starting a thread.
fn single_threaded() -> bool {
    use std::sync::OnceLock;
    static AT_START: OnceLock<bool> = OnceLock::new();
    *AT_START.get_or_init(|| match std::fs::read_dir("/proc/self/task") {
        Ok(entries) => entries.count() == 1,
        Err(_) => true,
    })
}

/// _exit(2): ends the process at once, without destructors or buffers.
pub fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) takes any status and does not return.
    unsafe { libc::_exit(status) }
}

/// close_range(2) with `CLOSE_RANGE_CLOEXEC`: every descriptor from `first` on is closed by execve(2).
pub fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: only sets a flag on descriptors; no descriptor that Rust owns is closed here.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Properties of a mount, set by mount_setattr(2).
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAttributes<'fd> {
    pub read_only: bool,
    pub no_suid: bool,
    pub no_dev: bool,
    /// The user namespace whose maps translate the ids of files.
    pub idmap: Option<BorrowedFd<'fd>>,
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// mount_setattr(2) on the mount that `mount` is, recursively when `recursive`.
pub fn set_mount_attributes(mount: impl AsFd, attributes: MountAttributes<'_>, recursive: bool) -> Result<(), Errno> {
    let mut attr = MountAttr { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 };
    if attributes.read_only {
        attr.attr_set |= libc::MOUNT_ATTR_RDONLY;
    }
    if attributes.no_suid {
        attr.attr_set |= libc::MOUNT_ATTR_NOSUID;
    }
    if attributes.no_dev {
        attr.attr_set |= libc::MOUNT_ATTR_NODEV;
    }
    if let Some(userns) = attributes.idmap {
        attr.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attr.userns_fd = userns.as_raw_fd() as u64;
    }
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a terminated empty string, the structure lives through the call and its
    // size is given; the descriptors are borrowed and stay open.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

/// sched_setattr(2): `SCHED_OTHER` with this slice for the calling thread; 0 is the default slice.
///
/// A short slice (0.1 ms) gets a thread that runs briefly onto a busy processor at once, instead
/// of a 4 ms tick later. Needs no privilege. Kernels before 6.12 ignore it.
pub fn set_slice(slice_ns: u64) -> Result<(), Errno> {
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, runtime_ns: slice_ns, ..SchedAttr::default() };
    // SAFETY: the structure carries its own size and lives through the call; 0 is the calling thread.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// seccomp(2) `SECCOMP_SET_MODE_FILTER` for the calling thread. Needs no_new_privs or CAP_SYS_ADMIN.
pub fn load_seccomp(filter: &[BpfInstruction]) -> Result<(), Errno> {
    let instructions: Vec<libc::sock_filter> =
        filter.iter().map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
    let length = u16::try_from(instructions.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len: length, filter: instructions.as_ptr().cast_mut() };
    // SAFETY: the program points to `length` instructions that live through the call; the kernel
    // copies and checks them, and never writes through the pointer.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) }).map(drop)
}

/// The kernel's Landlock ABI; `None` without Landlock.
pub fn landlock_abi() -> Option<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with a null attribute of size 0 and this flag the call only returns a number.
    let abi = check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    });
    abi.ok().and_then(|abi| u32::try_from(abi).ok())
}

/// `struct pidfd_info`, as of its first version.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// How the process ended, as wait(2) would have told its parent; `None` while it is not reaped.
/// `PIDFD_GET_INFO` with `PIDFD_INFO_EXIT`, ioctl_pidfd(2), Linux 6.15; refused by older kernels.
pub fn exit_status(pidfd: impl AsFd) -> Result<Option<i32>, Errno> {
    const PIDFD_GET_INFO: libc::c_ulong = 0xC040_FF0B; // _IOWR(0xFF, 11, 64 bytes)
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the structure has the size that the request's number carries and lives through the
    // call; the descriptor is borrowed and open.
    let result = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    check(libc::c_long::from(result))?;
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code))
}

/// kill(2) with pid -1: a signal to every process of the pid namespace but the caller, if that is pid 1.
pub fn signal_all(signal: i32) -> Result<(), Errno> {
    // SAFETY: kill(2) takes plain numbers.
    check(libc::c_long::from(unsafe { libc::kill(-1, signal) })).map(drop)
}

/// `struct sigaction` as the kernel has it: all zero is the default action, no flags, no mask.
#[repr(C)]
#[derive(Default)]
struct KernelSigaction {
    handler: usize,
    flags: libc::c_ulong,
    restorer: usize,
    mask: u64,
}

/// Gives every signal its default action. Past the C library, which keeps two signals to itself and would leave them ignored.
pub fn reset_signals() {
    let default = KernelSigaction::default();
    for signal in 1..=64 {
        // SAFETY: the structure is the kernel's and lives through the call, the size is the mask's;
        // SIGKILL and SIGSTOP take no action and fail without effect.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                std::ptr::null_mut::<KernelSigaction>(),
                size_of::<u64>(),
            )
        };
    }
}

/// rt_sigprocmask(2): no signal is blocked.
pub fn unblock_signals() -> Result<(), Errno> {
    let none = 0_u64;
    // SAFETY: the mask lives through the call and its size is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    })
    .map(drop)
}

/// Lets the kernel reap this process's children: no zombies, no wait(2).
pub fn ignore_children() {
    // SAFETY: SIG_IGN is a valid action for SIGCHLD.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// The default again: children that have ended wait for wait(2).
pub fn await_children() {
    // SAFETY: SIG_DFL is a valid action for SIGCHLD.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// `TIOCSCTTY`: makes the terminal the controlling one of this session.
pub fn take_terminal(terminal: impl AsFd) -> Result<(), Errno> {
    // SAFETY: TIOCSCTTY takes an int by value; the descriptor is borrowed and open.
    check(libc::c_long::from(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) })).map(drop)
}

/// Brings the interface `lo` of the current network namespace up (netdevice(7), `SIOCSIFFLAGS`).
pub fn loopback_up(socket: impl AsFd) -> Result<(), Errno> {
    // SAFETY: an all-zero ifreq is valid: a name of NULs and an integer.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives through the call; the socket is borrowed.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    check(libc::c_long::from(result)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fork_takes_namespaces_only() {
        assert_eq!(fork(libc::CLONE_VM as u64), Err(Errno::INVAL));
    }

    #[test]
    fn fork_is_refused_with_threads() {
        // The test harness runs this on a second thread.
        assert_eq!(fork(0), Err(Errno::BUSY));
    }
}
