//! The table of system calls: each with its answer and the reason.
//!
//! Data only; `seccomp.rs` compiles it. What is not here is `ENOSYS`. Sources: the manual pages of
//! section 2, and the kernel's `syscall_64.tbl` and `syscall.tbl`.

use crate::seccomp::{Architecture, Profile};

/// How a call is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    Allow,
    /// `EPERM`.
    Forbid,
    /// `ENOSYS`, though the call is known: callers fall back to an older one that can be filtered.
    Unknown,
    /// `EPERM` when the argument has any of these bits.
    ForbidBits {
        argument: u32,
        mask: u32,
    },
    /// `EPERM` when the argument has any of `mask` and the argument `when` any of `bits`.
    ForbidBitsIf {
        argument: u32,
        mask: u32,
        when: u32,
        bits: u32,
    },
    /// `EPERM` unless the argument is one of these.
    AllowValues {
        argument: u32,
        values: &'static [u32],
    },
    /// `EPERM` when the argument is one of these.
    ForbidValues {
        argument: u32,
        values: &'static [u32],
    },
}

/// One system call.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub name: &'static str,
    x86_64: Option<u32>,
    aarch64: Option<u32>,
    default: Rule,
    strict: Rule,
    /// Who needs it, or what it could do.
    pub why: &'static str,
}

impl Entry {
    /// Its number on this architecture, where it exists there.
    pub fn number(&self) -> Option<u32> {
        self.number_on(Architecture::THIS)
    }

    /// Its number on an architecture, where it exists there.
    pub fn number_on(&self, architecture: Architecture) -> Option<u32> {
        match architecture {
            Architecture::X86_64 => self.x86_64,
            Architecture::Aarch64 => self.aarch64,
        }
    }

    pub fn rule(&self, profile: Profile) -> Rule {
        match profile {
            Profile::Default => self.default,
            Profile::Strict => self.strict,
        }
    }
}

/// Set-user-ID and set-group-ID bits: a file on a host folder must not carry its owner's rights out.
const SET_ID: u32 = 0o6000;

/// Every `CLONE_NEW*` flag, time included: no nested namespaces, no new attack surface.
const NEW_NAMESPACES: u32 = 0x7E02_0080;

/// unix, inet, inet6, netlink: no packet, vsock (reaches a hypervisor), alg, bluetooth and the rest.
const FAMILIES: &[u32] = &[1, 2, 10, 16];

/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, `ADDR_NO_RANDOMIZE` (debuggers), and the query.
const PERSONALITIES: &[u32] = &[0, 0x8, 0x2_0000, 0x2_0008, 0x4_0000, 0xFFFF_FFFF];

/// Requests that push input into a terminal: `TIOCSTI`, `TIOCLINUX`.
const TERMINAL_INPUT: &[u32] = &[0x5412, 0x541C];

/// `name(number on x86_64, number on aarch64): answer => "why"`; `-` where it does not exist.
macro_rules! table {
    ($($name:ident($x86_64:tt, $aarch64:tt): $default:expr $(, strict $strict:expr)? => $why:literal;)*) => {
        &[$(Entry {
            name: stringify!($name),
            x86_64: table!(@number $x86_64),
            aarch64: table!(@number $aarch64),
            default: $default,
            strict: table!(@strict $default $(, $strict)?),
            why: $why,
        }),*]
    };
    (@number -) => { None };
    (@number $number:literal) => { Some($number) };
    (@strict $default:expr) => { $default };
    (@strict $default:expr, $strict:expr) => { $strict };
}

use Rule::{Allow, AllowValues, Forbid, ForbidBits, ForbidBitsIf, ForbidValues, Unknown};

/// Every call that has been judged.
pub const TABLE: &[Entry] = table! {
    // Files.
    read(0, 63): Allow => "reads files and pipes";
    write(1, 64): Allow => "writes files and pipes";
    close(3, 57): Allow => "closes descriptors";
    fstat(5, 80): Allow => "file facts";
    lseek(8, 62): Allow => "positions";
    pread64(17, 67): Allow => "reads at an offset";
    pwrite64(18, 68): Allow => "writes at an offset";
    readv(19, 65): Allow => "scattered reads";
    writev(20, 66): Allow => "gathered writes";
    preadv(295, 69): Allow => "scattered reads at an offset";
    pwritev(296, 70): Allow => "gathered writes at an offset";
    preadv2(327, 286): Allow => "as preadv with flags";
    pwritev2(328, 287): Allow => "as pwritev with flags";
    truncate(76, 45): Allow => "file sizes";
    ftruncate(77, 46): Allow => "file sizes";
    fallocate(285, 47): Allow => "reserves blocks; databases";
    fadvise64(221, 223): Allow => "read-ahead hints";
    readahead(187, 213): Allow => "read-ahead hints";
    fsync(74, 82): Allow => "databases";
    fdatasync(75, 83): Allow => "databases";
    sync_file_range(277, 84): Allow => "databases";
    sync(162, 81): Allow => "package managers";
    syncfs(306, 267): Allow => "package managers";
    copy_file_range(326, 285): Allow => "cp";
    sendfile(40, 71): Allow => "servers and cp";
    splice(275, 76): Allow => "pipes without copies";
    tee(276, 77): Allow => "pipes without copies";
    vmsplice(278, 75): Allow => "pipes without copies";
    fcntl(72, 25): Allow => "locks and flags";
    flock(73, 32): Allow => "locks";
    dup(32, 23): Allow => "descriptors";
    dup3(292, 24): Allow => "descriptors";
    close_range(436, 436): Allow => "descriptors before exec";
    cachestat(451, 451): Allow => "page cache facts; databases";
    openat(257, 56): ForbidBitsIf { argument: 3, mask: SET_ID, when: 2, bits: libc::O_CREAT as u32 } => "opens files; none may be made set-user-ID";
    openat2(437, 437): Unknown => "its mode is behind a pointer that no filter can read; callers fall back to openat";
    statx(332, 291): Allow => "file facts";
    newfstatat(262, 79): Allow => "file facts";
    statfs(137, 43): Allow => "file system facts; df";
    fstatfs(138, 44): Allow => "file system facts";
    readlinkat(267, 78): Allow => "symbolic links";
    getdents64(217, 61): Allow => "lists folders";
    faccessat(269, 48): Allow => "access checks";
    faccessat2(439, 439): Allow => "access checks";
    fchmod(91, 52): ForbidBits { argument: 1, mask: SET_ID } => "modes, none of them set-user-ID";
    fchmodat(268, 53): ForbidBits { argument: 2, mask: SET_ID } => "modes, none of them set-user-ID";
    fchmodat2(452, -): ForbidBits { argument: 2, mask: SET_ID } => "modes, none of them set-user-ID";
    fchown(93, 55): Allow => "tar and cp; changes nothing without a capability";
    fchownat(260, 54): Allow => "tar and cp; changes nothing without a capability";
    linkat(265, 37): Allow => "hard links";
    symlinkat(266, 36): Allow => "symbolic links";
    unlinkat(263, 35): Allow => "removes";
    mkdirat(258, 34): Allow => "folders";
    mknodat(259, 33): ForbidBits { argument: 2, mask: SET_ID } => "FIFOs and sockets; devices need a capability";
    renameat(264, 38): Allow => "moves";
    renameat2(316, 276): Allow => "moves without overwriting";
    utimensat(280, 88): Allow => "times";
    getcwd(79, 17): Allow => "the working directory";
    chdir(80, 49): Allow => "the working directory";
    fchdir(81, 50): Allow => "the working directory";
    umask(95, 166): Allow => "modes of new files";
    chroot(161, 51): Forbid => "needs a capability anyway";
    name_to_handle_at(303, 264): Allow => "compares files; the way back, open_by_handle_at, is forbidden";
    open_by_handle_at(304, 265): Forbid => "opens files that no path leads to";
    setxattr(188, 5): Allow => "extended attributes; cp -a";
    lsetxattr(189, 6): Allow => "extended attributes";
    fsetxattr(190, 7): Allow => "extended attributes";
    getxattr(191, 8): Allow => "extended attributes";
    lgetxattr(192, 9): Allow => "extended attributes";
    fgetxattr(193, 10): Allow => "extended attributes";
    listxattr(194, 11): Allow => "extended attributes";
    llistxattr(195, 12): Allow => "extended attributes";
    flistxattr(196, 13): Allow => "extended attributes";
    removexattr(197, 14): Allow => "extended attributes";
    lremovexattr(198, 15): Allow => "extended attributes";
    fremovexattr(199, 16): Allow => "extended attributes";
    inotify_init1(294, 26): Allow => "file watchers of build tools";
    inotify_add_watch(254, 27): Allow => "file watchers of build tools";
    inotify_rm_watch(255, 28): Allow => "file watchers of build tools";
    fanotify_init(300, 262): Forbid => "watches whole mounts";
    fanotify_mark(301, 263): Forbid => "watches whole mounts";
    io_setup(206, 0): Allow => "kernel aio; databases";
    io_destroy(207, 1): Allow => "kernel aio";
    io_submit(209, 2): Allow => "kernel aio";
    io_cancel(210, 3): Allow => "kernel aio";
    io_getevents(208, 4): Allow => "kernel aio";
    io_pgetevents(333, 292): Allow => "kernel aio";
    io_uring_setup(425, 425): Forbid => "large attack surface, and its operations pass by this filter";
    io_uring_enter(426, 426): Forbid => "large attack surface, and its operations pass by this filter";
    io_uring_register(427, 427): Forbid => "large attack surface, and its operations pass by this filter";
    quotactl(179, 60): Forbid => "administration";
    quotactl_fd(443, 443): Forbid => "administration";
    // Waiting.
    ppoll(271, 73): Allow => "event loops";
    pselect6(270, 72): Allow => "event loops";
    epoll_create1(291, 20): Allow => "event loops";
    epoll_ctl(233, 21): Allow => "event loops";
    epoll_pwait(281, 22): Allow => "event loops";
    epoll_pwait2(441, 441): Allow => "event loops";
    eventfd2(290, 19): Allow => "event loops";
    signalfd4(289, 74): Allow => "event loops";
    timerfd_create(283, 85): Allow => "timers";
    timerfd_settime(286, 86): Allow => "timers";
    timerfd_gettime(287, 87): Allow => "timers";
    pipe2(293, 59): Allow => "pipes";
    ioctl(16, 29): ForbidValues { argument: 1, values: TERMINAL_INPUT } => "terminals and sockets, but no input for other people's terminals";
    // Memory.
    mmap(9, 222): Allow => "memory; run-time compilers map executable pages";
    munmap(11, 215): Allow => "memory";
    mprotect(10, 226): Allow => "memory; run-time compilers";
    mremap(25, 216): Allow => "memory";
    madvise(28, 233): Allow => "memory hints";
    process_madvise(440, 440): Allow => "memory hints for own children";
    brk(12, 214): Allow => "memory";
    mincore(27, 232): Allow => "memory facts";
    mlock(149, 228): Allow => "pins memory, within RLIMIT_MEMLOCK";
    mlock2(325, 284): Allow => "pins memory, within RLIMIT_MEMLOCK";
    mlockall(151, 230): Allow => "pins memory, within RLIMIT_MEMLOCK";
    munlock(150, 229): Allow => "pins memory";
    munlockall(152, 231): Allow => "pins memory";
    msync(26, 227): Allow => "memory-mapped files";
    mseal(462, 462): Allow => "seals mappings";
    membarrier(324, 283): Allow => "run-time systems";
    memfd_create(319, 279): Allow => "anonymous files";
    memfd_secret(447, 447): Allow => "secrets";
    pkey_alloc(330, 289): Allow => "protection keys; JavaScript engines";
    pkey_free(331, 290): Allow => "protection keys";
    pkey_mprotect(329, 288): Allow => "protection keys";
    remap_file_pages(216, 234): Allow => "old databases";
    get_mempolicy(239, 236): Allow => "NUMA; numerical libraries";
    set_mempolicy(238, 237): Allow => "NUMA";
    mbind(237, 235): Allow => "NUMA";
    set_mempolicy_home_node(450, 450): Allow => "NUMA";
    migrate_pages(256, 238): Forbid => "other processes' memory";
    move_pages(279, 239): Forbid => "other processes' memory";
    userfaultfd(323, 282): Forbid => "holds the kernel in the middle of an access";
    shmget(29, 194): Allow => "System V memory of the own ipc namespace";
    shmat(30, 196): Allow => "System V memory";
    shmdt(67, 197): Allow => "System V memory";
    shmctl(31, 195): Allow => "System V memory";
    semget(64, 190): Allow => "System V semaphores of the own ipc namespace";
    semop(65, 193): Allow => "System V semaphores";
    semtimedop(220, 192): Allow => "System V semaphores";
    semctl(66, 191): Allow => "System V semaphores";
    msgget(68, 186): Allow => "System V queues of the own ipc namespace";
    msgsnd(69, 189): Allow => "System V queues";
    msgrcv(70, 188): Allow => "System V queues";
    msgctl(71, 187): Allow => "System V queues";
    mq_open(240, 180): Allow => "POSIX queues of the own ipc namespace";
    mq_unlink(241, 181): Allow => "POSIX queues";
    mq_timedsend(242, 182): Allow => "POSIX queues";
    mq_timedreceive(243, 183): Allow => "POSIX queues";
    mq_notify(244, 184): Allow => "POSIX queues";
    mq_getsetattr(245, 185): Allow => "POSIX queues";
    swapon(167, 224): Forbid => "administration";
    swapoff(168, 225): Forbid => "administration";
    // Processes.
    clone(56, 220): ForbidBits { argument: 0, mask: NEW_NAMESPACES } => "processes and threads, but no namespaces";
    clone3(435, 435): Unknown => "its flags are behind a pointer that no filter can read; callers fall back to clone";
    execve(59, 221): Allow => "programs";
    execveat(322, 281): Allow => "programs by descriptor";
    exit(60, 93): Allow => "ends threads";
    exit_group(231, 94): Allow => "ends processes";
    wait4(61, 260): Allow => "children";
    waitid(247, 95): Allow => "children";
    kill(62, 129): Allow => "signals; only its own pid namespace can be named";
    tkill(200, 130): Allow => "signals";
    tgkill(234, 131): Allow => "signals";
    pidfd_open(434, 434): Allow => "process descriptors";
    pidfd_send_signal(424, 424): Allow => "signals";
    pidfd_getfd(438, 438): Allow, strict Forbid => "debuggers; needs the right to trace";
    process_mrelease(448, 448): Allow => "memory of the dying";
    getpid(39, 172): Allow => "identity";
    getppid(110, 173): Allow => "identity";
    gettid(186, 178): Allow => "identity";
    getpgid(121, 155): Allow => "process groups";
    setpgid(109, 154): Allow => "process groups; shells";
    getsid(124, 156): Allow => "sessions";
    setsid(112, 157): Allow => "sessions";
    getuid(102, 174): Allow => "identity";
    geteuid(107, 175): Allow => "identity";
    getgid(104, 176): Allow => "identity";
    getegid(108, 177): Allow => "identity";
    getresuid(118, 148): Allow => "identity";
    getresgid(120, 150): Allow => "identity";
    getgroups(115, 158): Allow => "identity";
    setuid(105, 146): Allow => "to ids that it has already";
    setgid(106, 144): Allow => "to ids that it has already";
    setreuid(113, 145): Allow => "to ids that it has already";
    setregid(114, 143): Allow => "to ids that it has already";
    setresuid(117, 147): Allow => "to ids that it has already";
    setresgid(119, 149): Allow => "to ids that it has already";
    setfsuid(122, 151): Allow => "to ids that it has already";
    setfsgid(123, 152): Allow => "to ids that it has already";
    setgroups(116, 159): Allow => "needs a capability, programs probe it";
    capget(125, 90): Allow => "programs ask what they may";
    capset(126, 91): Allow => "only ever less";
    prctl(157, 167): Allow => "thread names, death signals; every gain is locked";
    seccomp(317, 277): Allow => "programs may restrict themselves further";
    landlock_create_ruleset(444, 444): Allow => "programs may restrict themselves further";
    landlock_add_rule(445, 445): Allow => "programs may restrict themselves further";
    landlock_restrict_self(446, 446): Allow => "programs may restrict themselves further";
    ptrace(101, 117): Allow, strict Forbid => "debuggers, on what the command started itself; the init is not traceable";
    process_vm_readv(310, 270): Allow, strict Forbid => "debuggers; needs the right to trace";
    process_vm_writev(311, 271): Allow, strict Forbid => "debuggers; needs the right to trace";
    kcmp(312, 272): Allow, strict Forbid => "debuggers; needs the right to trace";
    getrlimit(97, 163): Allow => "limits";
    setrlimit(160, 164): Allow => "only ever less";
    prlimit64(302, 261): Allow => "limits; only ever less";
    getrusage(98, 165): Allow => "usage";
    times(100, 153): Allow => "usage";
    acct(163, 89): Forbid => "administration";
    getpriority(140, 141): Allow => "niceness";
    setpriority(141, 140): Allow => "niceness; only ever nicer";
    ioprio_get(252, 31): Allow => "input and output niceness";
    ioprio_set(251, 30): Allow => "input and output niceness";
    sched_yield(24, 124): Allow => "scheduling";
    sched_getaffinity(204, 123): Allow => "processors";
    sched_setaffinity(203, 122): Allow => "processors; the quota holds all the same";
    sched_getparam(143, 121): Allow => "scheduling";
    sched_setparam(142, 118): Allow => "scheduling; real time needs a capability";
    sched_getscheduler(145, 120): Allow => "scheduling";
    sched_setscheduler(144, 119): Allow => "scheduling; real time needs a capability";
    sched_getattr(315, 275): Allow => "scheduling";
    sched_setattr(314, 274): Allow => "scheduling; real time needs a capability";
    sched_get_priority_max(146, 125): Allow => "scheduling";
    sched_get_priority_min(147, 126): Allow => "scheduling";
    sched_rr_get_interval(148, 127): Allow => "scheduling";
    getcpu(309, 168): Allow => "processors";
    rseq(334, 293): Allow => "restartable sequences; the C library";
    set_tid_address(218, 96): Allow => "threads";
    set_robust_list(273, 99): Allow => "threads";
    get_robust_list(274, 100): Allow => "threads";
    futex(202, 98): Allow => "locks";
    futex_waitv(449, 449): Allow => "locks";
    restart_syscall(219, 128): Allow => "the kernel itself, after a stop";
    personality(135, 92): AllowValues { argument: 0, values: PERSONALITIES } => "build tools and debuggers";
    unshare(272, 97): Forbid => "new namespaces";
    setns(308, 268): Forbid => "other namespaces";
    // Signals.
    rt_sigaction(13, 134): Allow => "signals";
    rt_sigprocmask(14, 135): Allow => "signals";
    rt_sigpending(127, 136): Allow => "signals";
    rt_sigqueueinfo(129, 138): Allow => "signals with a value";
    rt_tgsigqueueinfo(297, 240): Allow => "signals with a value";
    rt_sigreturn(15, 139): Allow => "returns from handlers";
    rt_sigsuspend(130, 133): Allow => "waits for signals";
    rt_sigtimedwait(128, 137): Allow => "waits for signals";
    sigaltstack(131, 132): Allow => "signal stacks; run-time systems";
    // Time.
    clock_gettime(228, 113): Allow => "clocks";
    clock_getres(229, 114): Allow => "clocks";
    clock_nanosleep(230, 115): Allow => "sleeps";
    nanosleep(35, 101): Allow => "sleeps";
    gettimeofday(96, 169): Allow => "clocks";
    getitimer(36, 102): Allow => "timers";
    setitimer(38, 103): Allow => "timers";
    timer_create(222, 107): Allow => "timers";
    timer_settime(223, 110): Allow => "timers";
    timer_gettime(224, 108): Allow => "timers";
    timer_getoverrun(225, 109): Allow => "timers";
    timer_delete(226, 111): Allow => "timers";
    clock_settime(227, 112): Forbid => "the host's clock";
    clock_adjtime(305, 266): Forbid => "the host's clock";
    adjtimex(159, 171): Forbid => "the host's clock";
    settimeofday(164, 170): Forbid => "the host's clock";
    // Network.
    socket(41, 198): AllowValues { argument: 0, values: FAMILIES } => "unix, internet and netlink sockets only";
    socketpair(53, 199): AllowValues { argument: 0, values: FAMILIES } => "unix sockets";
    bind(49, 200): Allow => "servers";
    listen(50, 201): Allow => "servers";
    accept(43, 202): Allow => "servers";
    accept4(288, 242): Allow => "servers";
    connect(42, 203): Allow => "clients";
    getsockname(51, 204): Allow => "addresses";
    getpeername(52, 205): Allow => "addresses";
    sendto(44, 206): Allow => "sends";
    recvfrom(45, 207): Allow => "receives";
    sendmsg(46, 211): Allow => "sends, descriptors too";
    recvmsg(47, 212): Allow => "receives";
    sendmmsg(307, 269): Allow => "sends many; resolvers";
    recvmmsg(299, 243): Allow => "receives many";
    setsockopt(54, 208): Allow => "options";
    getsockopt(55, 209): Allow => "options";
    shutdown(48, 210): Allow => "half-closes";
    // System.
    uname(63, 160): Allow => "the system's name";
    sysinfo(99, 179): Allow => "memory and load";
    getrandom(318, 278): Allow => "random numbers";
    sethostname(170, 161): Forbid => "administration";
    setdomainname(171, 162): Forbid => "administration";
    syslog(103, 116): Forbid => "the kernel's log";
    reboot(169, 142): Forbid => "administration";
    kexec_load(246, 104): Forbid => "another kernel";
    kexec_file_load(320, 294): Forbid => "another kernel";
    init_module(175, 105): Forbid => "kernel modules";
    finit_module(313, 273): Forbid => "kernel modules";
    delete_module(176, 106): Forbid => "kernel modules";
    bpf(321, 280): Forbid => "programs in the kernel";
    perf_event_open(298, 241): Forbid => "watches the processor and other processes";
    keyctl(250, 219): Forbid => "kernel keyrings are not namespaced";
    add_key(248, 217): Forbid => "kernel keyrings are not namespaced";
    request_key(249, 218): Forbid => "kernel keyrings are not namespaced";
    vhangup(153, 58): Forbid => "administration";
    lookup_dcookie(212, 18): Forbid => "profiling of the whole host";
    nfsservctl(180, 42): Forbid => "gone from the kernel";
    // Mounts.
    mount(165, 40): Forbid => "changes the view";
    umount2(166, 39): Forbid => "changes the view";
    pivot_root(155, 41): Forbid => "changes the view";
    open_tree(428, 428): Forbid => "changes the view";
    move_mount(429, 429): Forbid => "changes the view";
    fsopen(430, 430): Forbid => "changes the view";
    fsconfig(431, 431): Forbid => "changes the view";
    fsmount(432, 432): Forbid => "changes the view";
    fspick(433, 433): Forbid => "changes the view";
    mount_setattr(442, 442): Forbid => "changes the view";
    // Older forms.
    open(2, -): ForbidBitsIf { argument: 2, mask: SET_ID, when: 1, bits: libc::O_CREAT as u32 } => "opens files; none may be made set-user-ID";
    creat(85, -): ForbidBits { argument: 1, mask: SET_ID } => "opens files; none may be made set-user-ID";
    stat(4, -): Allow => "file facts";
    lstat(6, -): Allow => "file facts";
    access(21, -): Allow => "access checks";
    readlink(89, -): Allow => "symbolic links";
    getdents(78, -): Allow => "lists folders";
    chmod(90, -): ForbidBits { argument: 1, mask: SET_ID } => "modes, none of them set-user-ID";
    chown(92, -): Allow => "tar and cp; changes nothing without a capability";
    lchown(94, -): Allow => "tar and cp; changes nothing without a capability";
    link(86, -): Allow => "hard links";
    symlink(88, -): Allow => "symbolic links";
    unlink(87, -): Allow => "removes";
    rmdir(84, -): Allow => "removes";
    mkdir(83, -): Allow => "folders";
    mknod(133, -): ForbidBits { argument: 1, mask: SET_ID } => "FIFOs and sockets; devices need a capability";
    rename(82, -): Allow => "moves";
    utime(132, -): Allow => "times";
    utimes(235, -): Allow => "times";
    futimesat(261, -): Allow => "times";
    inotify_init(253, -): Allow => "file watchers of build tools";
    poll(7, -): Allow => "event loops";
    select(23, -): Allow => "event loops";
    epoll_create(213, -): Allow => "event loops";
    epoll_wait(232, -): Allow => "event loops";
    eventfd(284, -): Allow => "event loops";
    signalfd(282, -): Allow => "event loops";
    pipe(22, -): Allow => "pipes";
    dup2(33, -): Allow => "descriptors";
    fork(57, -): Allow => "processes";
    vfork(58, -): Allow => "processes";
    alarm(37, -): Allow => "timers";
    pause(34, -): Allow => "waits for signals";
    getpgrp(111, -): Allow => "process groups";
    time(201, -): Allow => "clocks";
    arch_prctl(158, -): Allow => "thread pointers; the C library";
    set_thread_area(205, -): Forbid => "32-bit threads";
    get_thread_area(211, -): Forbid => "32-bit threads";
    modify_ldt(154, -): Forbid => "16-bit segments; attack surface";
    iopl(172, -): Forbid => "raw ports";
    ioperm(173, -): Forbid => "raw ports";
    uselib(134, -): Forbid => "gone from C libraries";
    ustat(136, -): Forbid => "gone from C libraries";
    sysfs(139, -): Forbid => "gone from C libraries";
    _sysctl(156, -): Forbid => "gone from the kernel";
    create_module(174, -): Forbid => "gone from the kernel";
    get_kernel_syms(177, -): Forbid => "gone from the kernel";
    query_module(178, -): Forbid => "gone from the kernel";
    epoll_ctl_old(214, -): Forbid => "never implemented";
    epoll_wait_old(215, -): Forbid => "never implemented";
    vserver(236, -): Forbid => "never implemented";
    security(185, -): Forbid => "never implemented";
    tuxcall(184, -): Forbid => "never implemented";
    afs_syscall(183, -): Forbid => "never implemented";
    getpmsg(181, -): Forbid => "never implemented";
    putpmsg(182, -): Forbid => "never implemented";
};
