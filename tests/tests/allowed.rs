//! What has to work as it does without a sandbox: tools, libraries, and what they ask the kernel for.

use sandbox_tests::{Daemon, Options, project, require};
use sandbox_wire::RunState;
use serde_json::json;
use std::time::Duration;

#[test]
fn identity_and_surroundings_are_ordinary() {
    let project = project();
    assert_eq!(project.ok("whoami; id -un; id -gn; id -u; id -g; echo ~; cd ~user && pwd"), {
        "user\nuser\nuser\n1000\n1000\n/home/user\n/home/user\n"
    });
    assert_eq!(project.ok("umask; stat -c %U:%G . ~ /tmp | sort -u | grep user"), "0022\nuser:user\n");
    assert_eq!(project.ok("hostname 2>/dev/null || uname -n").trim(), project.url_id);
    assert_eq!(project.ok("getent passwd user | cut -d: -f1,3,4,6; getent hosts localhost | head -1 | wc -l"), {
        "user:1000:1000:/home/user\n1\n"
    });
}

#[test]
fn locale_and_time_zone_work() {
    let project = project();
    assert_eq!(project.ok("echo $LANG; printf 'äöü' | wc -m").trim(), "C.UTF-8\n3");
    let there = project.ok_with(&json!({"command": "date -d @0 +%H:%M", "env": {"TZ": "Asia/Tokyo"}}));
    if std::path::Path::new("/usr/share/zoneinfo/Asia/Tokyo").exists() {
        assert_eq!(there, "09:00\n");
    }
    let now: u64 = project.ok("date +%s").trim().parse().expect("seconds");
    let ours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(now.abs_diff(ours) < 30, "{now} {ours}");
}

#[test]
fn devices_and_descriptors_can_be_opened() {
    let project = project();
    for (command, output) in [
        ("echo x > /dev/null; cat /dev/null", ""),
        ("head -c 4 /dev/zero | od -An -tx1 | tr -d ' '", "00000000\n"),
        ("head -c 8 /dev/urandom | wc -c; head -c 8 /dev/random | wc -c", "8\n8\n"),
        ("echo out > /dev/stdout; echo err > /dev/stderr", "out\n"),
        ("echo out > /proc/self/fd/1; echo again >> /dev/fd/1", "out\nagain\n"),
        ("echo in | cat /dev/stdin; echo in | cat /dev/fd/0; echo in | cat /proc/self/fd/0", "in\nin\nin\n"),
        ("echo text | tee /dev/stderr 2>/dev/null", "text\n"),
        ("exec 5<<END; cat <&5\nhere\nEND", "here\n"),
        ("echo x > /dev/full || echo full", "full\n"),
    ] {
        let result = project.run(command);
        assert_eq!((result.exit_code, result.stdout.as_str()), (Some(0), output), "{command}: {result:?}");
    }
    if std::path::Path::new("/bin/bash").exists() {
        let body = json!({"command": ["bash", "-c", "diff <(echo a) <(echo a) && cat <<< text; coproc cat; echo ok"]});
        assert_eq!(project.ok_with(&body), "text\nok\n");
    }
}

#[test]
fn files_can_be_everything_that_files_are() {
    let project = project();
    let command = "set -e
echo one > a; ln a hard; ln -s a soft; mkfifo fifo; mkdir -p d/e; cp a d/e/; chmod +x a; touch -d 2001-02-03 a; mv d moved
test a -ef hard; test a -ef soft; test -p fifo; test -x a; test \"$(cat moved/e/a)\" = one
(echo through > fifo &) ; cat fifo
truncate -s 1G sparse; stat -c %s sparse; rm sparse
tar cf - moved | tar tf - | wc -l; tar czf t.tgz moved; mkdir x; tar xzf t.tgz -C x; cat x/moved/e/a
find . -name a | sort | tr '\\n' ' '
mkdir -m 700 closed; rmdir closed; rm -rf moved x; sync; df . > /dev/null; stat -f . > /dev/null";
    assert_eq!(project.ok(command), "through\n1073741824\n3\none\n./a ./moved/e/a ./x/moved/e/a ");
    assert_eq!(
        project.ok("printf '#!/bin/sh\\necho script $1\\n' > s; chmod 755 s; ./s x; PATH=$PWD:$PATH s y"),
        "script x\nscript y\n"
    );
    assert_eq!(
        project.ok("cp /bin/echo /tmp/e; /tmp/e from tmp; cp /bin/echo ~/e; ~/e from home"),
        "from tmp\nfrom home\n"
    );
}

#[test]
fn files_outlast_commands() {
    let project = project();
    project.ok("echo w > file; echo t > /tmp/file; echo h > ~/.config-file");
    assert_eq!(project.ok("cat file /tmp/file ~/.config-file"), "w\nt\nh\n");
}

#[test]
fn processes_can_be_everything_that_processes_are() {
    let project = project();
    for (command, output) in [
        ("(exit 3); echo $?; sh -c 'kill -TERM $$'; echo $?", "3\n143\n"),
        ("sleep 5 & kill $!; wait $! 2>/dev/null; echo $?", "143\n"),
        ("for i in 1 2 3; do (echo $i) & wait; done", "1\n2\n3\n"),
        ("seq 1000 | xargs -P4 -n50 echo | wc -w", "1000\n"),
        ("trap 'echo usr1' USR1; kill -USR1 $$; echo end", "usr1\nend\n"),
        ("timeout 0.2 sleep 5; echo $?", "124\n"),
        ("nice -n 5 nice; ionice -c3 true 2>/dev/null; echo ok", "5\nok\n"),
        ("ulimit -s > /dev/null; env -i /bin/echo bare", "bare\n"),
    ] {
        assert_eq!(project.ok(command), output, "{command}");
    }
    require!("ps");
    let seen = project.ok("sleep 3 & ps -eo comm= | sort | uniq | tr '\\n' ' '; kill $!");
    assert!(seen.contains("sleep") && seen.contains("ps"), "{seen}");
}

#[test]
fn processors_and_memory_are_told_truthfully() {
    require!("cgroup", "free");
    let policy = "name = 'one'\nextends = 'default'\n[limits]\nmemory = '600MiB'\ntmp = '100MiB'\ncpu = 1.0\n";
    let daemon = Options::default().policy("one", policy).start();
    let project = daemon.project_of("one");
    assert_eq!(project.ok("nproc; getconf _NPROCESSORS_ONLN"), "1\n1\n");
    let total: f64 = project.ok("free -b | awk '/^Mem/ {print $2}'").trim().parse().expect("bytes");
    assert!((total / (600.0 * 1048576.0) - 1.0).abs() < 0.02, "free says {total}");
    let available: f64 = project.ok("free -b | awk '/^Mem/ {print $7}'").trim().parse().expect("bytes");
    assert!(available > 0.5 * total && available <= total, "{available} of {total}");
    let pages = project.ok("df -B1 --output=size /tmp | tail -1");
    assert_eq!(pages.trim(), "104857600");
    if std::path::Path::new("/usr/bin/python3").exists() {
        assert_eq!(project.python_ok("import os; print(len(os.sched_getaffinity(0)))"), "1\n");
    }
    if std::path::Path::new("/usr/bin/node").exists() {
        let node = project.ok("node -p 'const os = require(\"os\"); `${os.availableParallelism()} ${os.totalmem()}`'");
        assert_eq!(node.trim(), format!("1 {}", 600 * 1_048_576));
    }
    // As many as there are, where the policy gives that many.
    let all = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    assert_eq!(daemon.project().ok("nproc").trim(), all.to_string());
}

#[test]
fn git_works() {
    require!("git");
    let project = project();
    let command = "set -e
git init -q -b main repo; cd repo; git config user.email a@b; git config user.name A
echo one > file; git add .; git commit -qm first; echo two >> file; git status --short; git stash -q; git stash pop -q
git checkout -q -b other; git commit -qam second; git checkout -q main; git merge -q other; git log --oneline | wc -l
cd ..; git clone -q repo copy; cd copy; git log --format=%s | head -1; git fsck 2>&1 | tail -1; git gc -q; git worktree add -q ../tree
cd ../repo; git diff HEAD~1 --stat | tail -1; git archive HEAD | tar t";
    let output = project.ok(command);
    assert!(
        output.starts_with(" M file\n2\nsecond\n") && output.ends_with("1 file changed, 1 insertion(+)\nfile\n"),
        "{output}"
    );
}

#[test]
fn node_works_with_workers_watchers_and_a_compiler() {
    require!("node");
    let project = project();
    project.write(
        "/home/user/project/all.mjs",
        r#"
import { Worker, isMainThread, parentPort } from "node:worker_threads";
import { watch, writeFileSync, mkdirSync } from "node:fs";
import { execFileSync, spawn, fork } from "node:child_process";
import { createServer, request } from "node:http";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import dns from "node:dns/promises";
if (!isMainThread) {
  let x = 0; for (let i = 0; i < 5e6; i++) x += i; parentPort.postMessage(x);
} else {
  const workers = await Promise.all([1, 2, 3, 4].map(() => once(new Worker(fileURLToPath(import.meta.url)), "message")));
  console.log("workers", new Set(workers.map(String)).size);
  mkdirSync("watched", { recursive: true });
  const watcher = watch("watched");
  const change = once(watcher, "change");
  setTimeout(() => writeFileSync("watched/new", "x"), 50);
  console.log("watch", (await change)[1]); watcher.close();
  console.log("child", execFileSync("echo", ["hi"]).toString().trim());
  const server = createServer((_, answer) => answer.end("served")); server.listen(0, "127.0.0.1"); await once(server, "listening");
  const call = request({ port: server.address().port, host: "localhost", family: 4 }); call.end();
  const [answer] = await once(call, "response"); answer.setEncoding("utf8");
  console.log("http", (await once(answer, "data"))[0]); server.close();
  console.log("wasm", WebAssembly.validate(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])));
  console.log("crypto", (await crypto.subtle.digest("SHA-256", new Uint8Array(3))).byteLength);
  console.log("localhost", (await dns.lookup("localhost", 4)).address);
  process.exit(0);
}
"#,
    );
    let result = project.run_with(&json!({"command": "node all.mjs", "timeout_ms": 60_000}));
    assert_eq!(
        (result.exit_code, result.stdout.as_str()),
        (Some(0), "workers 1\nwatch new\nchild hi\nhttp served\nwasm true\ncrypto 32\nlocalhost 127.0.0.1\n"),
        "{result:?}"
    );
    // A test runner with processes of its own.
    project.write("/home/user/project/x.test.js", "require('node:test').test('a', () => {});\n");
    let result =
        project.run_with(&json!({"command": "node --test x.test.js | grep -E '^(#|ℹ) pass'", "timeout_ms": 60_000}));
    assert!(result.stdout.trim().ends_with("pass 1"), "{result:?}");
}

#[test]
fn npm_runs_scripts_without_a_network() {
    require!("npm");
    let project = project();
    let command = "npm init -y > /dev/null && npm pkg set scripts.hello='echo hello from $npm_package_name' name=thing && npm run -s hello";
    let body = json!({"command": command, "timeout_ms": 60_000});
    assert_eq!(project.ok_with(&body), "hello from thing\n");
}

#[test]
fn npm_installs_packages() {
    require!("npm", "network");
    let project = Daemon::shared().project_of("node-build");
    let command =
        "npm init -y > /dev/null && npm install --no-audit is-number@7 && node -p 'require(\"is-number\")(5)'";
    let result = project.run_with(&json!({"command": command, "timeout_ms": 120_000}));
    assert!(result.exit_code == Some(0) && result.stdout.ends_with("true\n"), "{result:?}");
    assert_eq!(result.enforced.network, "host");
    // Without a network the cache serves the next one.
    let again = "rm -rf node_modules && npm ci --offline --no-audit > /dev/null && ls node_modules";
    assert_eq!(project.ok_with(&json!({"command": again, "timeout_ms": 120_000, "policy": "offline"})), "is-number\n");
}

#[test]
fn python_works_with_processes_semaphores_and_locks() {
    require!("python3");
    let project = project();
    let program = r"
import multiprocessing as mp, os, fcntl, mmap, socket, threading, tempfile, signal, subprocess, sqlite3, select, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import shared_memory
def square(x): return x * x
def main():
    with mp.Pool(4) as pool: print('pool', sum(pool.map(square, range(100))))
    ctx = mp.get_context('spawn')
    with ProcessPoolExecutor(2, mp_context=ctx) as pool: print('spawn', list(pool.map(abs, [-1, -2])))
    sem = mp.Semaphore(2); sem.acquire(); queue = mp.Queue(); queue.put('q'); print('queue', queue.get())
    shm = shared_memory.SharedMemory(create=True, size=4096); shm.buf[0] = 7; shm.close(); shm.unlink()
    with open('lock', 'w') as one, open('lock', 'w') as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        try: fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB); print('flock broken')
        except BlockingIOError: print('flock')
        fcntl.lockf(one, fcntl.LOCK_EX | fcntl.LOCK_NB); print('lockf')
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC); print('jit')
    a, b = socket.socketpair(); a.send(b'x'); print('pair', b.recv(1).decode())
    s = socket.socket(socket.AF_UNIX); s.bind('/tmp/socket'); s.listen(); os.unlink('/tmp/socket'); print('unix')
    ep = select.epoll(); ep.close(); fd = os.eventfd(1); os.close(fd); os.memfd_create('m'); os.pidfd_open(os.getpid()); print('fds')
    signal.setitimer(signal.ITIMER_REAL, 0.01); signal.signal(signal.SIGALRM, lambda *_: print('alarm')); time.sleep(0.1)
    db = sqlite3.connect('x.db'); db.execute('pragma journal_mode=wal'); db.execute('create table t(x)'); db.commit(); print('sqlite')
    print('thread', threading.Thread(target=lambda: None).start())
    print(subprocess.run(['cat'], input=b'subprocess', capture_output=True).stdout.decode())
if __name__ == '__main__': main()
";
    project.write("/home/user/project/all.py", program);
    let result = project.run_with(&json!({"command": "python3 all.py", "timeout_ms": 60_000}));
    let expected = "pool 328350\nspawn [1, 2]\nqueue q\nflock\nlockf\njit\npair x\nunix\nfds\nalarm\nsqlite\nthread None\nsubprocess\n";
    assert_eq!((result.exit_code, result.stdout.as_str()), (Some(0), expected), "{result:?}");
}

#[test]
fn python_makes_virtual_environments() {
    require!("python3");
    let project = project();
    let body = json!({"command": "python3 -m venv --without-pip v && v/bin/python -c 'import sys; print(sys.prefix)'", "timeout_ms": 60_000});
    assert_eq!(project.ok_with(&body), "/home/user/project/v\n");
}

#[test]
fn servers_on_loopback_work() {
    require!("python3");
    let project = project();
    let command = "echo content > file; python3 -m http.server 8123 --bind 127.0.0.1 >/dev/null 2>&1 & \
                   for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2; \
                   python3 -c 'import urllib.request as u; print(u.urlopen(\"http://localhost:8123/file\").read().decode(), end=\"\")' 2>/dev/null && break; done";
    assert_eq!(project.ok_with(&json!({"command": command, "timeout_ms": 30_000})), "content\n");
    let program = "import socket
s = socket.socket(socket.AF_INET6); s.bind(('::1', 0)); s.listen()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', 0)); u.sendto(b'x', u.getsockname()); print(u.recv(1))";
    assert_eq!(project.python_ok(program), "b'x'\n");
}

#[test]
fn a_server_in_the_background_answers_the_next_command() {
    require!("python3");
    let project = project();
    project.ok("echo kept > file");
    let command = "python3 -m http.server 8124 --bind 127.0.0.1 >/dev/null 2>&1 &";
    let run = project.start(&json!({"command": command, "keep_background": true}));
    let result = project.wait(&run, Duration::from_secs(10));
    assert_eq!((result.status, result.lingering), (RunState::Exited, 1), "{result:?}");
    let fetch = "for i in 1 2 3 4 5 6 7 8 9; do python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:8124/file\").read().decode(), end=\"\")' \
                 2>/dev/null && break; sleep 0.2; done";
    assert_eq!(project.ok_with(&json!({"command": fetch, "timeout_ms": 30_000})), "kept\n");
}

#[test]
fn compilers_and_make_work() {
    require!("gcc", "make");
    let project = project();
    project.write("/home/user/project/main.c", "#include <stdio.h>\n#include <pthread.h>\nint f(void);\nstatic void *t(void *x) { return x; }\nint main(void) { pthread_t p; pthread_create(&p, 0, t, 0); pthread_join(p, 0); printf(\"built %d\\n\", f()); return 0; }\n");
    project.write("/home/user/project/f.c", "int f(void) { return 42; }\n");
    project.write("/home/user/project/Makefile", "CFLAGS = -O1 -pthread\nprogram: main.o f.o\n\t$(CC) -pthread -o $@ $^\ncheck: t1 t2 t3 t4\nt%:\n\t@sleep 0.1; echo $@ >> checked\n");
    let body = json!({"command": "make -j4 program > /dev/null && ./program && make -s -j4 check && sort checked | tr '\\n' ' '", "timeout_ms": 60_000});
    assert_eq!(project.ok_with(&body), "built 42\nt1 t2 t3 t4 ");
}

#[test]
fn commands_may_have_terminals_of_their_own() {
    require!("python3");
    let project = project();
    let program = r"
import os, pty, sys
status = pty.spawn(['sh', '-c', 'test -t 0 && tty | cut -c1-9; stty size > /dev/null && echo sized; echo x > /dev/tty'])
print('status', os.waitstatus_to_exitcode(status))";
    let result = project.run_with(&json!({"command": ["python3", "-c", program], "stdin": "\n", "timeout_ms": 20_000}));
    let output = result.stdout.replace('\r', "");
    assert!(output.contains("/dev/pts/") && output.contains("sized") && output.contains("status 0"), "{result:?}");
    require!("script");
    let result = project.run_with(&json!({"command": "script -qec 'tty; exit 3' /dev/null", "timeout_ms": 20_000}));
    assert!(result.exit_code == Some(3) && result.stdout.contains("/dev/pts/"), "{result:?}");
}

#[test]
fn debuggers_may_trace_what_they_start() {
    require!("python3");
    let project = project();
    let program = r"
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
pid = os.fork()
if pid == 0:
    libc.ptrace(0, 0, 0, 0)
    os.kill(os.getpid(), 19)
    os._exit(5)
print(os.WIFSTOPPED(os.waitpid(pid, 0)[1]))
libc.ptrace(7, pid, 0, 0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))";
    assert_eq!(project.python_ok(program), "True\n5\n");
}

#[test]
fn certificates_of_the_host_can_be_read() {
    if !std::path::Path::new("/etc/ssl/certs").exists() {
        return;
    }
    let project = project();
    assert_ne!(project.ok("ls /etc/ssl/certs | wc -l").trim(), "0");
    for name in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE"] {
        let here = std::env::var(name).unwrap_or_default();
        let inside = project.ok(&format!("echo ${name}"));
        assert!(inside.trim().is_empty() || inside.trim() == here, "{name}={inside}");
        if here.starts_with("/etc/ssl/") {
            assert_eq!(project.ok(&format!("test -r ${name} && echo readable")), "readable\n", "{name}");
        }
    }
}

#[test]
fn every_shipped_policy_runs_a_command() {
    let daemon = Daemon::shared();
    for policy in ["default", "offline", "node-build", "python", "strict"] {
        let project = daemon.project_of(policy);
        let reply = project.call(&json!({"command": "echo $((6*7)); ls / | wc -l > file; cat file | grep -c ."}));
        if policy == "strict" && reply.status == 403 {
            // Requires what an ordinary user cannot have.
            reply.refused(403, "layer_unavailable");
            assert!(!sandbox_tests::features::is_root(), "{}", reply.text());
            continue;
        }
        let result = reply.ok();
        assert_eq!((&result["stdout"], &result["enforced"]["policy"]), (&json!("42\n1\n"), &json!(policy)));
    }
}
