//! Ways out of the sandbox, each tried by a real command: the view, the kernel, the init.

use sandbox_tests::probe::{all_answered, probe};
use sandbox_tests::{Project, host, project, require};
use sandbox_wire::RunState;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::time::Duration;

/// Refusals that mean "there is no such thing" or "you may not".
const REFUSALS: &[&str] = &["EPERM", "EACCES", "ENOENT", "EROFS", "ENOSYS", "ENXIO", "ENODEV"];

#[test]
fn host_files_are_not_visible() {
    let project = project();
    let secret = format!("secret-{}", host::unique());
    let mut placed = Vec::new();
    for folder in
        [std::env::temp_dir(), "/var/tmp".into(), "/dev/shm".into(), std::env::current_dir().expect("a folder")]
    {
        let file = tempfile::Builder::new().prefix("sandbox-test-").tempfile_in(&folder);
        if let Ok(mut file) = file {
            file.write_all(secret.as_bytes()).expect("the file is ours");
            placed.push(file);
        }
    }
    assert!(placed.len() >= 2, "the host has no place for a secret");
    let mut paths: Vec<String> = placed.iter().map(|file| file.path().display().to_string()).collect();
    paths.extend([sandbox_tests::Daemon::shared().state().display().to_string()]);
    paths.extend(
        [
            "/root",
            "/boot",
            "/srv",
            "/mnt",
            "/media",
            "/lost+found",
            "/etc/shadow",
            "/etc/gshadow",
            "/etc/sudoers",
            "/etc/ssh",
            "/etc/machine-id",
            "/etc/fstab",
            "/etc/cron.d",
            "/etc/ssl/private/x",
            "/var/log",
            "/var/lib",
            "/var/cache",
            "/var/run/docker.sock",
            "/run/docker.sock",
            "/run/systemd",
            "/run/dbus",
            "/sys/kernel",
            "/sys/fs/cgroup",
            "/sys/class",
            "/sys/firmware",
            "/sys/module",
            "/dev/mem",
            "/dev/kmem",
            "/dev/port",
            "/dev/kmsg",
            "/dev/kvm",
            "/dev/fuse",
            "/dev/net/tun",
            "/dev/sda",
            "/dev/vda",
            "/dev/nvme0",
            "/dev/loop0",
            "/dev/loop-control",
            "/dev/mapper",
            "/dev/input",
            "/dev/dri",
            "/dev/console",
            "/dev/vsock",
            "/dev/userfaultfd",
            "/dev/log",
        ]
        .map(str::to_owned),
    );
    for path in &paths {
        let output = project.ok(&format!("cat '{path}' 2>&1 | head -c 200; ls -a '{path}' 2>/dev/null; true"));
        assert!(!output.contains(&secret), "{path} is visible");
        let there = project.run(&format!("head -c1 '{path}' || ls '{path}'"));
        assert_ne!(there.exit_code, Some(0), "{path} can be opened: {}", there.stdout);
    }
    let homes = project.ok("ls -A /home");
    assert_eq!(homes, "user\n", "homes of the host are visible");
    // Nothing that can be read anywhere, links and /proc included, contains it.
    let search = "grep -rslF -f - / --exclude-dir=proc --exclude-dir=usr --exclude-dir=sys -D skip; true";
    assert_eq!(project.ok_with(&json!({"command": search, "stdin": secret})), "");
}

#[test]
fn the_hosts_accounts_and_names_are_not_visible() {
    let project = project();
    let users = project.ok("cut -d: -f1 /etc/passwd | sort | tr '\\n' ' '");
    assert_eq!(users, "nobody root user ");
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let names = project.ok("uname -n; cat /etc/hostname /proc/sys/kernel/hostname; cat /etc/hosts");
    assert_eq!(names.lines().take(3).collect::<Vec<_>>(), [project.url_id.as_str(); 3]);
    let own = own.trim();
    if own.len() > 3 && own != "localhost" && own != project.url_id {
        assert!(!names.contains(own), "{names}");
    }
}

#[test]
fn write_outside_the_workspace_is_refused() {
    let project = project();
    let roots = "-path /proc -o -path /home/user -o -path /tmp -o -path /dev/shm -o -path /dev/pts";
    // Not by find's own idea of types: that of a device is the type of the file that it is mounted on.
    let found = project.run(&format!(
        r"find / \( {roots} \) -prune -o -writable -print0 2>/dev/null | xargs -0r stat -c '%F %n' | grep -vE '^(character|symbolic)'"
    ));
    assert_eq!(found.stdout, "", "writable outside of home and /tmp");
    for place in ["/", "/usr", "/usr/bin", "/etc", "/bin", "/lib", "/dev", "/sys", "/run", "/var", "/home", "/proc"] {
        let result = project.run(&format!("echo x > {place}/sandbox-test || mkdir {place}/sandbox-test"));
        assert_ne!(result.exit_code, Some(0), "{place} can be written");
    }
    for command in [
        "echo x >> /etc/passwd",
        "rm /etc/passwd",
        "mv /etc/hosts /etc/other",
        "chmod 777 /etc",
        "touch /usr/bin/env",
        "ln -s x /etc/link",
        ": >> /usr/bin/env",
        "chown user /etc/passwd",
        "echo x > /etc/resolv.conf",
        "mount -o remount,rw /",
        "mount -o remount,rw /usr",
    ] {
        let result = project.run(command);
        assert_ne!(result.exit_code, Some(0), "worked: {command}");
    }
    assert_eq!(project.ok("test -x /usr/bin/env && whoami"), "user\n");
}

#[test]
fn hard_links_and_renames_do_not_reach_outside() {
    let project = project();
    for command in ["ln /etc/passwd link", "ln /usr/bin/env link", "ln -L /proc/self/exe link"] {
        assert_ne!(project.run(command).exit_code, Some(0), "worked: {command}");
    }
    // A link may point anywhere; it is followed inside.
    project.ok("ln -s /etc/shadow shadow; ln -s ../../../../../../root/.ssh ssh; ln -s /proc/1/root/etc/shadow proc");
    for link in ["shadow", "ssh", "proc"] {
        assert_ne!(project.run(&format!("cat {link} || ls {link}/")).exit_code, Some(0), "{link}");
    }
}

#[test]
fn mounts_carry_no_rights() {
    let project = project();
    let table = project.ok("cat /proc/self/mounts");
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let options: Vec<&str> = fields[3].split(',').collect();
        assert!(options.contains(&"nosuid"), "without nosuid: {line}");
        let device = fields[1].starts_with("/dev/") || fields[1].starts_with("/proc/");
        assert!(device || options.contains(&"nodev"), "without nodev: {line}");
        let writable =
            ["/home/user", "/home/user/project", "/tmp", "/dev/shm", "/dev/pts", "/proc"].contains(&fields[1]);
        assert!(writable || device || options.contains(&"ro"), "writable: {line}");
    }
    let list = r"find / -path /proc -prune -o -path /dev/pts -prune -o -print0 | xargs -0 stat -c '%F %n'";
    let devices =
        project.ok(&format!("{list} | sed -nE 's/^(character|block) special file //p' | sort | tr '\\n' ' '"));
    assert_eq!(devices, "/dev/full /dev/null /dev/random /dev/tty /dev/urandom /dev/zero ");
}

#[test]
fn proc_leads_nowhere_else() {
    let project = project();
    for command in [
        "cat /proc/self/root/etc/shadow",
        "cat /proc/1/root/etc/shadow",
        "ls /proc/1/cwd/root",
        "cat /proc/1/mem",
        "cat /proc/1/environ | grep .",
        "ls /proc/1/fd/ | grep .",
        "readlink /proc/1/exe",
        "cat /proc/1/maps | grep .",
        "cat /proc/1/auxv | grep -a .",
        "cat /proc/1/stack",
        "cat /proc/kcore | head -c1 | grep -a .",
        "ls /proc/1/map_files | grep .",
        "cat /proc/keys | grep .",
        "cat /proc/key-users | grep .",
        "cat /proc/kmsg",
        "cat /proc/vmallocinfo",
        "cat /proc/slabinfo",
    ] {
        let result = project.run_with(&json!({"command": command, "timeout_ms": 5000}));
        assert_ne!(result.exit_code, Some(0), "{command}: {}", result.stdout);
    }
    let arguments = project.ok("tr '\\0' ' ' < /proc/1/cmdline");
    assert!(!arguments.contains('/'), "the init's arguments name paths of the host: {arguments}");
    assert_eq!(project.ok("ls -d /proc/self/root/home/*"), "/proc/self/root/home/user\n");
}

#[test]
fn kernel_settings_cannot_be_written() {
    require!("python3");
    let project = project();
    let seen = probe(
        &project,
        r"
for path in ['/proc/sys/kernel/core_pattern', '/proc/sys/kernel/hostname', '/proc/sys/kernel/modprobe', '/proc/sys/vm/drop_caches',
             '/proc/sys/kernel/randomize_va_space', '/proc/sys/net/ipv4/ip_forward', '/proc/sys/user/max_user_namespaces', '/proc/sys/fs/binfmt_misc/register',
             '/proc/sysrq-trigger', '/proc/self/uid_map', '/proc/self/gid_map', '/proc/self/setgroups', '/proc/1/oom_score_adj',
             '/proc/1/mem', '/proc/irq/default_smp_affinity', '/proc/acpi/wakeup', '/proc/mtrr', '/proc/timer_list', '/proc/1/comm',
             '/sys/kernel/uevent_helper', '/sys/power/state', '/sys/devices/system/cpu/online', '/dev/kmsg']:
    seen[path] = attempt(lambda: write(path, b'1'))
seen['lower oom_score_adj'] = attempt(lambda: write('/proc/self/oom_score_adj', b'-1000'))
",
    );
    all_answered(&seen, &["EPERM", "EACCES", "ENOENT", "EROFS", "EINVAL"]);
}

#[test]
fn mounts_and_namespaces_are_refused() {
    require!("python3");
    let project = project();
    let seen = probe(
        &project,
        r"
n = lambda x, a: x if X86 else a
fd = os.open('/proc/self/ns/mnt', os.O_RDONLY)
one = ctypes.c_char_p
seen['mount tmpfs'] = call(n(165, 40), one(b'x'), one(b'/tmp'), one(b'tmpfs'), 0, 0)
seen['bind mount'] = call(n(165, 40), one(b'/etc'), one(b'/tmp'), 0, 4096, 0)
seen['remount'] = call(n(165, 40), 0, one(b'/'), 0, 32 | 4096, 0)
seen['move mount'] = call(n(165, 40), one(b'/tmp'), one(b'/home/user'), 0, 8192, 0)
seen['umount'] = call(n(166, 39), one(b'/home/user/project'), 2)
seen['umount proc'] = call(n(166, 39), one(b'/proc'), 2)
seen['pivot_root'] = call(n(155, 41), one(b'/tmp'), one(b'/tmp'))
seen['chroot'] = call(n(161, 51), one(b'/tmp'))
seen['open_tree'] = call(428, -100, one(b'/'), 1)
seen['move_mount'] = call(429, -100, one(b'/tmp'), -100, one(b'/home'), 0)
seen['fsopen'] = call(430, one(b'tmpfs'), 0)
seen['fsconfig'] = call(431, fd, 6, 0, 0, 0)
seen['fsmount'] = call(432, fd, 0, 0)
seen['fspick'] = call(433, -100, one(b'/'), 0)
seen['mount_setattr'] = call(442, -100, one(b'/'), 0, one(b'\0' * 32), 32)
for name, flag in dict(time=0x80, mnt=0x20000, cgroup=0x2000000, uts=0x4000000, ipc=0x8000000, user=0x10000000, pid=0x20000000, net=0x40000000).items():
    seen['unshare ' + name] = call(n(272, 97), flag)
    seen['clone ' + name] = call(n(56, 220), flag | 17, 0, 0, 0, 0)
    if seen['clone ' + name] == 'ok' and os.getppid() == 1: os._exit(0)
seen['unshare user and mnt'] = call(n(272, 97), 0x10020000)
seen['setns'] = call(n(308, 268), fd, 0)
seen['setns pid 1'] = call(n(308, 268), os.pidfd_open(os.getpid()), 0x20000)
",
    );
    all_answered(&seen, &["EPERM"]);
    // What a filter cannot look into does not exist: callers fall back to what it can.
    let seen = probe(
        &project,
        "seen['clone3'] = call(435, 0, 0); seen['openat2'] = call(437, -100, ctypes.c_char_p(b'/'), 0, 0)",
    );
    all_answered(&seen, &["ENOSYS"]);
    for command in [
        "unshare -Ur true",
        "unshare -m true",
        "nsenter -t 1 -m true",
        "mount -t proc proc /tmp",
        "umount /proc",
        "bwrap --ro-bind / / true",
    ] {
        assert_ne!(project.run(command).exit_code, Some(0), "worked: {command}");
    }
}

#[test]
fn dangerous_calls_are_refused() {
    require!("python3");
    let project = project();
    let seen = probe(
        &project,
        r"
n = lambda x, a: x if X86 else a
text = ctypes.c_char_p
seen['bpf'] = call(n(321, 280), 0, text(b'\0' * 128), 128)
seen['perf_event_open'] = call(n(298, 241), text(b'\0' * 128), 0, -1, -1, 0)
seen['io_uring_setup'] = call(425, 8, text(b'\0' * 120))
seen['io_uring_enter'] = call(426, 0, 0, 0, 0, 0, 0)
seen['io_uring_register'] = call(427, 0, 0, 0, 0)
seen['userfaultfd'] = call(n(323, 282), 1)
seen['keyctl'] = call(n(250, 219), 0, -3, 0)
seen['keyctl join session'] = call(n(250, 219), 1, 0)
seen['add_key'] = call(n(248, 217), text(b'user'), text(b'x'), text(b'y'), 1, -3)
seen['request_key'] = call(n(249, 218), text(b'user'), text(b'x'), 0, -3)
seen['init_module'] = call(n(175, 105), 0, 0, 0)
seen['finit_module'] = call(n(313, 273), 0, 0, 0)
seen['delete_module'] = call(n(176, 106), text(b'x'), 0)
seen['kexec_load'] = call(n(246, 104), 0, 0, 0, 0)
seen['reboot'] = call(n(169, 142), 0xfee1dead, 672274793, 0, 0)
seen['swapon'] = call(n(167, 224), text(b'/tmp/x'), 0)
seen['acct'] = call(n(163, 89), 0)
seen['syslog'] = call(n(103, 116), 3, 0, 0)
seen['settimeofday'] = call(n(164, 170), 0, 0)
seen['clock_settime'] = call(n(227, 112), 0, text(b'\0' * 16))
seen['adjtimex'] = call(n(159, 171), 0)
seen['sethostname'] = call(n(170, 161), text(b'x'), 1)
seen['setdomainname'] = call(n(171, 162), text(b'x'), 1)
seen['quotactl'] = call(n(179, 60), 0, 0, 0, 0)
seen['open_by_handle_at'] = call(n(304, 265), -100, 0, 0)
seen['fanotify_init'] = call(n(300, 262), 0, 0)
seen['move_pages'] = call(n(279, 239), 1, 0, 0, 0, 0, 0)
seen['vhangup'] = call(n(153, 58))
if X86:
    seen['iopl'] = call(172, 3)
    seen['ioperm'] = call(173, 0, 1, 1)
    seen['modify_ldt'] = call(154, 0, 0, 0)
",
    );
    all_answered(&seen, &["EPERM"]);
}

#[test]
fn devices_cannot_be_made_or_opened() {
    require!("python3");
    let project = project();
    let seen = probe(
        &project,
        r"
import stat
for place in ['/tmp/d', 'd', '/home/user/d', '/dev/shm/d']:
    seen['character ' + place] = attempt(lambda: os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 1)))
    seen['block ' + place] = attempt(lambda: os.mknod(place, stat.S_IFBLK | 0o666, os.makedev(254, 0)))
for family in [17, 38, 40, 31, 29, 44]:
    import socket
    seen['socket family %d' % family] = attempt(lambda: socket.socket(family, socket.SOCK_RAW if family == 17 else socket.SOCK_SEQPACKET))
seen['raw socket'] = attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
",
    );
    all_answered(&seen, &["EPERM", "EACCES"]);
}

#[test]
fn unknown_calls_do_not_exist() {
    require!("python3", "x86_64");
    let project = project();
    let seen = probe(
        &project,
        r"
for number in [340, 400, 423, 600, 999, 9999, 1 << 20]: seen[str(number)] = call(number, 0, 0, 0, 0, 0, 0)
",
    );
    all_answered(&seen, &["ENOSYS"]);
    // The other two ways to number calls on this processor.
    let seen = probe(
        &project,
        "for number in [0, 1, 39, 57, 101, 165, 272, 521]: seen['x32 %d' % number] = call(0x40000000 | number, 0, 0, 0, 0, 0, 0)",
    );
    all_answered(&seen, &["ENOSYS", "EPERM"]);
}

#[test]
fn calls_of_the_32_bit_interface_are_refused() {
    require!("gcc", "x86_64");
    let project = project();
    project.write(
        "/home/user/project/i386.c",
        r#"
#include <stdio.h>
int main(void) {
    long number = 20, answer; /* getpid of the 32-bit table */
    __asm__ volatile("int $0x80" : "=a"(answer) : "a"(number) : "r8", "r9", "r10", "r11", "memory");
    printf("%ld\n", answer);
    return answer > 0;
}"#,
    );
    project.ok("gcc -o i386 i386.c");
    let result = project.run("./i386");
    // EPERM, ENOSYS, or killed: but no process id.
    assert!(result.status == RunState::Signaled || result.exit_code == Some(0), "{result:?}");
}

#[test]
fn terminal_input_cannot_be_forged() {
    require!("python3");
    let project = project();
    let seen = probe(
        &project,
        r"
import fcntl
ours, theirs = os.openpty()
for name, request in dict(TIOCSTI=0x5412, TIOCLINUX=0x541c).items():
    for high in [0, 1 << 32]:
        seen['%s %d' % (name, high)] = call(16 if X86 else 29, theirs, request | high, ctypes.c_char_p(b'\x03xxx'))
",
    );
    all_answered(&seen, &["EPERM"]);
}

#[test]
fn setuid_gains_nothing() {
    let project = project();
    let status = project.ok("cat /proc/self/status");
    for line in ["NoNewPrivs:\t1", "Uid:\t1000\t1000\t1000\t1000", "Gid:\t1000\t1000\t1000\t1000"] {
        assert!(status.lines().any(|other| other == line), "{line} in {status}");
    }
    for command in [
        "cp /usr/bin/id id && chmod u+s id",
        "cp /usr/bin/id id && chmod 2755 id",
        "cp /usr/bin/id id && chmod g+s id",
        "install -m 4755 /usr/bin/id id2 && test -u id2",
        "su -c id",
        "sudo -n id",
        "echo x | passwd",
    ] {
        let result = project.run_with(&json!({"command": command, "timeout_ms": 20_000}));
        assert_ne!(result.exit_code, Some(0), "worked: {command}: {}", result.stdout);
    }
    // Set-user-ID programs of the host run, as the same user.
    let result = project.run("for p in $(find /usr/bin -perm -4000); do echo $p; done | head -1");
    if let Some(program) = result.stdout.lines().next() {
        let uids = project.ok(&format!("{program} >/dev/null 2>&1 </dev/null & sleep 0.05; cat /proc/$!/status 2>/dev/null | grep -E '^(Uid|CapEff)' || true"));
        assert!(!uids.contains("\t0\t"), "{program} runs as root: {uids}");
    }
    require!("python3");
    let seen = probe(
        &project,
        r"
open('file', 'w').close()
seen['chmod'] = attempt(lambda: os.chmod('file', 0o4755))
seen['fchmod'] = attempt(lambda: os.fchmod(os.open('file', os.O_RDONLY), 0o6755))
seen['create'] = attempt(lambda: os.open('new', os.O_CREAT | os.O_WRONLY, 0o4755))
seen['chown'] = attempt(lambda: os.chown('file', 0, 0))
seen['setuid'] = attempt(lambda: os.setuid(0))
seen['setgid'] = attempt(lambda: os.setgid(0))
seen['setgroups'] = attempt(lambda: os.setgroups([0]))
seen['setresuid'] = attempt(lambda: os.setresuid(0, 0, 0))
",
    );
    all_answered(&seen, &["EPERM", "EINVAL"]);
}

#[test]
fn no_capability_is_left() {
    let project = project();
    for process in ["self", "1"] {
        let status = project.ok(&format!("cat /proc/{process}/status"));
        let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        if process == "self" {
            for name in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
                assert_eq!(value(name), "0000000000000000", "{name}");
            }
            assert_eq!(value("Seccomp:"), "2");
        }
        assert_eq!(value("NoNewPrivs:"), "1", "of {process}");
    }
    require!("python3");
    let seen = probe(
        &project,
        r"
class Head(ctypes.Structure): _fields_ = [('version', ctypes.c_uint32), ('pid', ctypes.c_int)]
data = (ctypes.c_uint32 * 6)(*[0xffffffff] * 6)
seen['capset'] = call(126 if X86 else 91, ctypes.byref(Head(0x20080522, 0)), data)
seen['raise the ambient set'] = call(157 if X86 else 167, 47, 2, 21, 0, 0)
seen['unlock the secure bits'] = call(157 if X86 else 167, 28, 0, 0, 0, 0)
seen['no new privileges off'] = call(157 if X86 else 167, 38, 0, 0, 0, 0)
",
    );
    all_answered(&seen, &["EPERM", "EINVAL"]);
}

#[test]
fn init_is_out_of_reach() {
    require!("python3");
    let project = project();
    let seen = probe(
        &project,
        r"
n = lambda x, a: x if X86 else a
class Vec(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
buffer = ctypes.create_string_buffer(64)
local, remote = Vec(ctypes.addressof(buffer), 64), Vec(0x400000, 64)
seen['attach'] = call(n(101, 117), 16, 1, 0, 0)
seen['seize'] = call(n(101, 117), 0x4206, 1, 0, 0)
seen['process_vm_readv'] = call(n(310, 270), 1, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
seen['process_vm_writev'] = call(n(311, 271), 1, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
seen['pidfd_getfd'] = attempt(lambda: None if call(438, os.pidfd_open(1), 0, 0) == 'ok' else (_ for _ in ()).throw(OSError(1, '')))
seen['kcmp'] = call(n(312, 272), os.getpid(), 1, 0, 0, 0)
for name in ['mem', 'environ', 'maps', 'auxv', 'syscall', 'stack', 'pagemap']:
    def read():
        if not open('/proc/1/' + name, 'rb').read(1): raise OSError(2, 'empty')
    seen['read ' + name] = attempt(read)
seen['list descriptors'] = attempt(lambda: os.listdir('/proc/1/fd'))
seen['read exe'] = attempt(lambda: os.readlink('/proc/1/exe'))
seen['enter root'] = attempt(lambda: os.chdir('/proc/1/root'))
seen['enter cwd'] = attempt(lambda: os.chdir('/proc/1/cwd'))
",
    );
    all_answered(&seen, &["EPERM", "EACCES", "ENOENT", "ESRCH", "EIO"]);
    // Signals from inside do not end it: the run would end with it.
    let result = project
        .run("for s in TERM INT HUP KILL STOP QUIT SEGV USR1 CHLD PIPE; do kill -$s 1; done; sleep 0.2; echo alive");
    assert_eq!((result.exit_code, result.stdout.as_str()), (Some(0), "alive\n"), "{result:?}");
}

#[test]
fn killing_everything_hurts_nobody_else() {
    let project = project();
    let other = project.start(&json!({"command": "sleep 1.5; echo unhurt"}));
    let result = project.run("kill -STOP -1; kill -9 -1; echo still here");
    assert!(result.exit_code.is_some(), "{result:?}");
    let result = project.wait(&other, Duration::from_secs(10));
    assert_eq!((result.exit_code, result.stdout.as_str()), (Some(0), "unhurt\n"), "{result:?}");
    assert_eq!(project.ok("echo next"), "next\n");
}

#[test]
fn nothing_is_inherited() {
    require!("python3");
    let project = project();
    let program = r"
import os, json
own = {}
for fd in os.listdir('/proc/self/fd'):
    try: own[fd] = os.readlink('/proc/self/fd/' + fd)
    except OSError: pass
print(json.dumps(own))";
    let descriptors: serde_json::Value = serde_json::from_str(&project.python_ok(program)).expect("JSON");
    let descriptors = descriptors.as_object().expect("an object");
    let mut numbers: Vec<&str> = descriptors.keys().map(String::as_str).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, ["0", "1", "2"], "{descriptors:?}");
    for target in descriptors.values().filter_map(|target| target.as_str()) {
        assert!(target.starts_with("pipe:") || target == "/dev/null", "{descriptors:?}");
    }
    // Without a shell, which would set some of them itself.
    let status = json!({"command": ["grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"]});
    let signals = project.ok_with(&status);
    // 32 and 33 belong to the C library, which ignores them in all that it starts.
    let masks = signals.lines().filter_map(|line| line.split_whitespace().nth(1));
    let masks = masks.map(|mask| u64::from_str_radix(mask, 16).expect("a mask") & !(0b11 << 31));
    assert_eq!(masks.collect::<Vec<_>>(), [0, 0], "blocked and ignored signals");
    assert!(project.ok("ls /proc | grep -c '^[0-9]'").trim().parse::<u32>().is_ok_and(|count| count < 8));
    // The session, so that no terminal of the host can be the controlling one.
    assert_ne!(project.run("exec 3</dev/tty").exit_code, Some(0));
}

/// Tries the same as another user of the host would see it: also without root's identities.
#[test]
fn an_ordinary_users_sandbox_is_as_tight() {
    require!("second-user", "user", "python3");
    let daemon = sandbox_tests::Options::default().as_nobody().start();
    let project: Project = daemon.project();
    let status = project.ok("cat /proc/self/status");
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"] {
        assert!(status.lines().any(|other| other == line), "{line} in {status}");
    }
    let state = daemon.state().display().to_string();
    for path in ["/root", "/etc/shadow", "/proc/1/root/etc", "/sys/fs/cgroup", state.as_str()] {
        assert_ne!(project.run(&format!("cat {path} || ls {path}")).exit_code, Some(0), "{path}");
    }
    let seen = probe(
        &project,
        r"
n = lambda x, a: x if X86 else a
seen['unshare user'] = call(n(272, 97), 0x10000000)
seen['mount'] = call(n(165, 40), ctypes.c_char_p(b'x'), ctypes.c_char_p(b'/tmp'), ctypes.c_char_p(b'tmpfs'), 0, 0)
seen['ptrace of the init'] = call(n(101, 117), 16, 1, 0, 0)
seen['write to the root'] = attempt(lambda: os.mkdir('/x'))
seen['write to /usr'] = attempt(lambda: os.mkdir('/usr/x'))
",
    );
    all_answered(&seen, REFUSALS);
}
