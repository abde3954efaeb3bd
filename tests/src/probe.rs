//! Raw system calls from inside a sandbox, by a few lines of Python with ctypes.
//!
//! A probe is a program that prints one JSON object: what was tried, and the name of the error with
//! which the kernel answered (`ok` when there was none).

use crate::Project;
use serde_json::Value;

/// What every probe begins with: `call(number, …)` is syscall(2), `attempt(f)` runs a function, and
/// `nr(name)` is a number on this processor.
const PRELUDE: &str = r"
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
seen = {}
X86 = os.uname().machine == 'x86_64'
def call(number, *args):
    ctypes.set_errno(0)
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    answer = libc.syscall(ctypes.c_long(number), *args)
    return 'ok' if answer >= 0 else errno.errorcode.get(ctypes.get_errno(), str(ctypes.get_errno()))
def attempt(what):
    try:
        what()
        return 'ok'
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
def write(path, text):
    fd = os.open(path, os.O_WRONLY)
    try: os.write(fd, text)
    finally: os.close(fd)
";

/// Runs a probe that fills `seen`.
#[track_caller]
pub fn probe(project: &Project, program: &str) -> Value {
    let output = project.python_ok(&format!("{PRELUDE}\n{program}\nprint(json.dumps(seen))"));
    let last = output.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("not JSON ({error}): {output}"))
}

/// Asserts that everything a probe tried was answered with one of these errors.
#[track_caller]
pub fn all_answered(seen: &Value, errors: &[&str]) {
    let seen = seen.as_object().expect("a probe prints an object");
    assert!(!seen.is_empty());
    let other: Vec<String> = seen
        .iter()
        .filter(|(_, answer)| !answer.as_str().is_some_and(|answer| errors.contains(&answer)))
        .map(|(what, answer)| format!("{what}: {answer}"))
        .collect();
    assert_eq!(other, Vec::<String>::new(), "expected {errors:?}");
}
