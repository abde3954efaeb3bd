//! Every unsafe block and raw system call of the project.
//!
//! Only what neither `rustix` nor `nix` offers as a safe function. Each function is a thin wrapper
//! that cannot be misused from safe code as long as the process is single-threaded where it says so.

use crate::plan::BpfInstruction;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use std::ffi::CString;
use std::io::IoSlice;

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

/// A command to be started: everything that the child of a [`spawn`] needs.
#[derive(Debug)]
pub struct Command {
    /// Tried one after the other, as a shell does with `PATH`.
    pub candidates: Vec<CString>,
    pub argv: Vec<CString>,
    pub env: Vec<CString>,
    /// What the child says before the reason when nothing can be executed.
    pub name: Vec<u8>,
}

/// What becomes a command's first three descriptors.
#[derive(Debug)]
pub struct Stdio {
    /// Left as it is when absent.
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// A [`Command`] with the arrays that execve(2) takes. Never freed: the child uses it while this
/// process goes on.
struct Spawn {
    command: Command,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    /// Numbers, because each of the two processes has its own table of descriptors.
    stdio: [Option<RawFd>; 3],
}

impl Spawn {
    fn leak(command: Command, stdio: &Stdio) -> &'static Self {
        let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
            strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv, env) = (pointers(&command.argv), pointers(&command.env));
        let Stdio { stdin, stdout, stderr } = stdio;
        let stdio = [stdin.as_ref(), Some(stdout), Some(stderr)].map(|fd| fd.map(AsRawFd::as_raw_fd));
        Box::leak(Box::new(Self { command, argv, env, stdio }))
    }
}

/// The child of a [`spawn`]. It shares its parent's memory and thread-local storage while the parent
/// runs, so it allocates nothing and makes its system calls past the C library, which would write
/// their errors where the parent's are (`rustix` makes them itself).
extern "C" fn spawned(spawn: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `spawn` passes a `Spawn` that lives for ever and that nobody writes to.
    let spawn = unsafe { &*spawn.cast::<Spawn>() };
    let command = &spawn.command;
    // SAFETY: the descriptors were open when the parent made this child, which has had a copy of its
    // table since then and has closed nothing.
    let [stdin, stdout, stderr] = spawn.stdio.map(|fd| fd.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) }));
    let attached = stdin
        .map_or(Ok(()), rustix::stdio::dup2_stdin)
        .and_then(|()| stdout.map_or(Ok(()), rustix::stdio::dup2_stdout))
        .and_then(|()| stderr.map_or(Ok(()), rustix::stdio::dup2_stderr))
        .and_then(|()| rustix::process::setsid());
    let mut result = attached.map_or_else(|errno| errno, |_| Errno::NOENT);
    if result == Errno::NOENT {
        let (none, default) = (0_u64, KernelSigaction::default());
        let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, ..SchedAttr::default() };
        let size = size_of::<u64>();
        // SAFETY: the structures are the kernel's and live through the calls; the sizes are those of a
        // signal mask. What fails leaves things as they were.
        unsafe {
            raw_call(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK as usize, &raw const none as usize, 0, size);
            raw_call(libc::SYS_rt_sigaction, libc::SIGCHLD as usize, &raw const default as usize, 0, size);
            raw_call(libc::SYS_sched_setattr, 0, &raw const attr as usize, 0, 0);
        }
        for candidate in &command.candidates {
            let (argv, env) = (spawn.argv.as_ptr() as usize, spawn.env.as_ptr() as usize);
            // SAFETY: the string is terminated, and the arrays end with a null pointer.
            let error = unsafe { raw_call(libc::SYS_execve, candidate.as_ptr() as usize, argv, env, 0) };
            match Errno::from_raw_os_error(-error as i32) {
                Errno::NOENT | Errno::NOTDIR => {}
                errno => result = errno,
            }
        }
    }
    exit(say_why(&command.name, result))
}

/// Writes what a shell would say of a command that cannot be executed, and returns the status that it
/// would end with.
fn say_why(name: &[u8], errno: Errno) -> i32 {
    let not_found = errno == Errno::NOENT;
    let mut line = [0; 64];
    let reason = if not_found { "not found" } else { nix::errno::Errno::from_raw(errno.raw_os_error()).desc() };
    let length = reason.len().min(line.len() - 1);
    line[..length].copy_from_slice(&reason.as_bytes()[..length]);
    line[..length].make_ascii_lowercase();
    line[length] = b'\n';
    let parts = [IoSlice::new(name), IoSlice::new(b": "), IoSlice::new(&line[..=length])];
    // A pipe that nobody reads any more needs no message.
    let _ = rustix::io::writev(rustix::stdio::stderr(), &parts);
    if not_found { 127 } else { 126 }
}

/// A system call past the C library: the result, or minus the errno.
///
/// # Safety
/// As for the call itself.
#[cfg(target_arch = "x86_64")]
unsafe fn raw_call(number: libc::c_long, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result;
    // SAFETY: the registers are those of the kernel's calling convention, syscall(2); it changes rcx and r11.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// A system call past the C library: the result, or minus the errno.
///
/// # Safety
/// As for the call itself.
#[cfg(target_arch = "aarch64")]
unsafe fn raw_call(number: libc::c_long, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result;
    // SAFETY: the registers are those of the kernel's calling convention, syscall(2).
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d,
            options(nostack),
        );
    }
    result
}

/// Starts a command in a session of its own, with no signal blocked, SIGCHLD not ignored and the
/// default slice. Returns its pid and a pidfd at once; that it cannot be executed it says itself, on its
/// standard error, and ends with 127 (not found) or 126.
///
/// The child shares this process's memory until it executes the program: a fork would copy it,
/// vfork(2) would wake this process between the child's last step and the program's first, and
/// posix_spawn(3) would ask for the action of every signal and could not give the slice back last, when
/// the new process has got its processor. What the child uses is never freed, so a process should do
/// this once. Refused with `EBUSY` like [`fork`].
pub fn spawn(command: Command, stdio: Stdio) -> Result<(i32, OwnedFd), Errno> {
    const STACK_UNITS: usize = 64 * 1024 / size_of::<u128>();
    if !single_threaded() {
        return Err(Errno::BUSY);
    }
    let spawn = Spawn::leak(command, &stdio);
    // Not zeroed: each page of it that is touched is one the kernel has to find first.
    let stack = Box::leak(Box::<[u128]>::new_uninit_slice(STACK_UNITS));
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_VM | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: the stack's end is its highest address, 16-byte aligned as its elements are; stack and
    // command live for ever. The child writes to its stack only (see `spawned`), and no signal handler
    // of this process can run in it: there is none. With CLONE_PIDFD the kernel writes a descriptor to
    // where the fifth argument points, before the call returns.
    let result = unsafe {
        let top = stack.as_mut_ptr().add(STACK_UNITS);
        libc::clone(spawned, top.cast(), flags, std::ptr::from_ref(spawn).cast_mut().cast(), &raw mut pidfd)
    };
    let pid = check(libc::c_long::from(result))? as i32;
    // SAFETY: the kernel has just made the descriptor, and nobody else knows of it.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
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
    /// What is mounted below shows nowhere else, and nothing shows here that is mounted elsewhere.
    pub private: bool,
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
    if attributes.private {
        attr.propagation = libc::MS_PRIVATE;
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
    // The kernel looks for the end first and for the process then. One that is reaped in between has neither, which
    // is ESRCH; by then its end has been kept, and the next look finds it.
    match exit_information(pidfd.as_fd()) {
        Err(Errno::SRCH) => exit_information(pidfd.as_fd()),
        told => told,
    }
}

fn exit_information(pidfd: BorrowedFd<'_>) -> Result<Option<i32>, Errno> {
    const PIDFD_GET_INFO: libc::c_ulong = 0xC040_FF0B; // _IOWR(0xFF, 11, 64 bytes)
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the structure has the size that the request's number carries and lives through the
    // call; the descriptor is borrowed and open.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    check(libc::c_long::from(result))?;
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code))
}

/// `TIOCSTI`: pushes a byte into a terminal's input, as if it had been typed there; ioctl_tty(2).
pub fn forge_terminal_input(terminal: impl AsFd) -> Result<(), Errno> {
    let byte = b' ';
    // SAFETY: TIOCSTI reads one byte, which lives through the call; the descriptor is borrowed and open.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSTI, &raw const byte) };
    check(libc::c_long::from(result)).map(drop)
}

/// quotactl_fd(2), `Q_GETINFO` for projects: whether the file system that this file is on keeps project quotas.
pub fn keeps_project_quotas(file: impl AsFd) -> Result<(), Errno> {
    const Q_GETINFO: libc::c_uint = 0x80_0005;
    const PRJQUOTA: libc::c_uint = 2;
    // `struct if_dqinfo`: two times, flags and which of them are valid.
    let mut info = [0_u64; 3];
    // SAFETY: the kernel writes one `struct if_dqinfo` (24 bytes) to where the last argument points, which lives
    // through the call; the descriptor is borrowed and open.
    let result = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, file.as_fd().as_raw_fd(), Q_GETINFO << 8 | PRJQUOTA, 0, info.as_mut_ptr())
    };
    check(result).map(drop)
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

    #[test]
    fn an_end_is_told_while_the_process_is_reaped() {
        for round in 0..3000 {
            let mut child = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().expect("a shell");
            let pid = rustix::process::Pid::from_raw(child.id().try_into().expect("a pid")).expect("a pid");
            let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("a pidfd");
            if round == 0 && exit_status(&pidfd).is_err_and(|error| error != Errno::SRCH) {
                child.wait().expect("its end");
                return; // an older kernel
            }
            let reaping = std::thread::spawn(move || child.wait());
            let status = loop {
                match exit_status(&pidfd) {
                    Ok(Some(status)) => break status,
                    Ok(None) => std::hint::spin_loop(),
                    Err(error) => panic!("{error} in round {round}"),
                }
            };
            assert_eq!(status, 7 << 8);
            reaping.join().expect("no panic").expect("its end");
        }
    }
}
