//! A policy's answer to one request: pure, no I/O.
//!
//! Input: [`Policy`] and [`RunSpec`]; output: [`Admitted`] or [`AdmitError`]. What needs the kernel, such
//! as whether the working directory exists, is decided inside the sandbox. Sizes follow execve(2).

use crate::limits::MAX_TIMEOUT_MS;
use crate::{PROJECT, Policy, is_variable_name};
use serde::{Deserialize, Serialize};

/// One argument or `NAME=value` takes at most this with its NUL (MAX_ARG_STRLEN).
pub const MAX_STRING_BYTES: usize = 131_072;

/// All arguments and the request's variables together, each with its NUL and its pointer. The kernel
/// takes a quarter of the stack limit, 2 MiB; the rest is for the policy's variables.
pub const MAX_TOTAL_BYTES: usize = (2 << 20) - (512 << 10);

/// Longer than any path the kernel takes: whether a shorter one leads anywhere, it says itself.
const MAX_CWD_BYTES: usize = 128 * 1024;

/// The daemon's own key: never inside a sandbox, whoever asks.
const DAEMON_TOKEN: &str = "SANDBOXD_TOKEN";

/// What a caller asks for, checked for shape only.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSpec {
    /// The words to execute; a shell line is `["/bin/sh", "-c", line]`.
    pub argv: Vec<String>,
    /// The project's folder when absent or empty; relative paths start there.
    pub cwd: Option<String>,
    /// The policy's `timeout` when absent.
    pub timeout_ms: Option<i64>,
    /// In order; added to the policy's environment.
    pub env: Vec<(String, String)>,
    pub stdin: Option<Vec<u8>>,
}

impl RunSpec {
    /// A line for the shell.
    pub fn shell(line: impl Into<String>) -> Self {
        Self::argv(vec!["/bin/sh".to_owned(), "-c".to_owned(), line.into()])
    }

    /// Words that no shell sees.
    pub fn argv(argv: Vec<String>) -> Self {
        Self { argv, cwd: None, timeout_ms: None, env: Vec::new(), stdin: None }
    }
}

/// A request that the policy allows: the keeper runs it as it is. Not constructible otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Admitted {
    pub(crate) argv: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) timeout_ms: u64,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) stdin: Option<Vec<u8>>,
}

/// Why a request is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    #[error("the command is empty; write what to run")]
    EmptyCommand,
    /// `what` is `command`, `cwd` or `env`.
    #[error("{what} contains a NUL byte, which no program can receive; remove it")]
    NulByte { what: &'static str },
    /// `what` is `command`, `cwd` or `env`.
    #[error("{what} has {len} bytes, of which the kernel takes at most {max}; put the text into a file or stdin")]
    CommandTooLong { what: &'static str, len: usize, max: usize },
    /// `name` is cut to 64 characters.
    #[error("{name:?} is not an environment variable: {why}")]
    InvalidEnvironment { name: String, why: &'static str },
    /// Milliseconds; both ends are allowed.
    #[error("timeout_ms is {given}, outside {min} to {max}")]
    TimeoutOutOfRange { given: i64, min: u64, max: u64 },
    #[error("refused by the rule {rule}: {why}")]
    PolicyRefused { rule: &'static str, why: &'static str },
}

/// Checks a request against a policy.
///
/// Refused when the command is empty, when a text contains NUL or is longer than the kernel takes, when a
/// variable's name is not one, and when the timeout is outside what the policy allows.
pub fn admit(policy: &Policy, spec: RunSpec) -> Result<Admitted, AdmitError> {
    let RunSpec { argv, cwd, timeout_ms, env, stdin } = spec;
    check_sizes(&argv, &env)?;
    check_command(&argv)?;
    check_variables(&env)?;
    let cwd = absolute(cwd)?;
    let timeout_ms = timeout(policy, timeout_ms)?;
    Ok(Admitted { argv, cwd, timeout_ms, env, stdin })
}

/// First, so that nothing else has to look at megabytes.
fn check_sizes(argv: &[String], env: &[(String, String)]) -> Result<(), AdmitError> {
    const POINTER: usize = size_of::<usize>();
    let mut total = 0_usize;
    let mut add = |what, len: usize| {
        if len >= MAX_STRING_BYTES {
            return Err(AdmitError::CommandTooLong { what, len, max: MAX_STRING_BYTES - 1 });
        }
        total += len + 1 + POINTER;
        Ok(())
    };
    for word in argv {
        add("command", word.len())?;
    }
    for (name, value) in env {
        add("env", name.len() + 1 + value.len())?;
    }
    if total > MAX_TOTAL_BYTES {
        return Err(AdmitError::CommandTooLong { what: "command", len: total, max: MAX_TOTAL_BYTES });
    }
    Ok(())
}

fn check_command(argv: &[String]) -> Result<(), AdmitError> {
    let blank = |word: &str| word.bytes().all(|b| b.is_ascii_whitespace());
    let empty = match argv {
        [] => true,
        [shell, dash_c, line] if shell == "/bin/sh" && dash_c == "-c" => blank(line),
        [program, ..] => blank(program),
    };
    if empty {
        return Err(AdmitError::EmptyCommand);
    }
    if argv.iter().any(|word| has_nul(word)) {
        return Err(AdmitError::NulByte { what: "command" });
    }
    Ok(())
}

fn check_variables(env: &[(String, String)]) -> Result<(), AdmitError> {
    for (name, value) in env {
        if has_nul(name) || has_nul(value) {
            return Err(AdmitError::NulByte { what: "env" });
        }
        if !is_variable_name(name) {
            let why = if name.is_empty() {
                "the name is empty"
            } else {
                "a name has letters, digits and `_`, and does not start with a digit"
            };
            return Err(AdmitError::InvalidEnvironment { name: name.chars().take(64).collect(), why });
        }
        if name == DAEMON_TOKEN {
            let why = "SANDBOXD_TOKEN is the daemon's own token and never enters a sandbox; remove it";
            return Err(AdmitError::PolicyRefused { rule: "environment", why });
        }
    }
    Ok(())
}

/// Made absolute and nothing else: `..` and links mean what the kernel says inside.
fn absolute(cwd: Option<String>) -> Result<String, AdmitError> {
    let cwd = match cwd {
        None => return Ok(PROJECT.to_owned()),
        Some(cwd) if cwd.is_empty() => return Ok(PROJECT.to_owned()),
        Some(cwd) => cwd,
    };
    if cwd.len() >= MAX_CWD_BYTES {
        return Err(AdmitError::CommandTooLong { what: "cwd", len: cwd.len(), max: MAX_CWD_BYTES - 1 });
    }
    if has_nul(&cwd) {
        return Err(AdmitError::NulByte { what: "cwd" });
    }
    Ok(if cwd.starts_with('/') { cwd } else { format!("{PROJECT}/{cwd}") })
}

fn timeout(policy: &Policy, asked: Option<i64>) -> Result<u64, AdmitError> {
    let Some(given) = asked else { return Ok(policy.limits().timeout_ms) };
    let max = policy.limits().max_timeout_ms.min(MAX_TIMEOUT_MS);
    match u64::try_from(given) {
        Ok(ms) if (1..=max).contains(&ms) => Ok(ms),
        _ => Err(AdmitError::TimeoutOutOfRange { given, min: 1, max }),
    }
}

fn has_nul(text: &str) -> bool {
    text.as_bytes().contains(&0)
}

impl Admitted {
    pub fn argv(&self) -> &[String] {
        &self.argv
    }
    /// Absolute, as asked; not yet resolved against links.
    pub fn cwd(&self) -> &str {
        &self.cwd
    }
    pub fn timeout_ms(&self) -> u64 {
        self.timeout_ms
    }
    /// The request's own variables; [`crate::environment`] gives those they are added to.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }
    pub fn stdin(&self) -> Option<&[u8]> {
        self.stdin.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PolicySet;
    use proptest::prelude::*;

    fn ask(spec: RunSpec) -> Result<Admitted, AdmitError> {
        admit(&PolicySet::shipped().get("default").expect("shipped"), spec)
    }

    #[test]
    fn a_plain_request_gets_the_defaults() {
        let admitted = ask(RunSpec::shell("echo hi")).expect("admitted");
        assert_eq!(admitted.argv(), ["/bin/sh", "-c", "echo hi"]);
        assert_eq!(admitted.cwd(), "/home/user/project");
        assert_eq!((admitted.timeout_ms(), admitted.env(), admitted.stdin()), (120_000, &[][..], None));
    }

    #[test]
    fn empty_commands_are_refused() {
        for line in ["", " ", "\t\n  "] {
            assert_eq!(ask(RunSpec::shell(line)), Err(AdmitError::EmptyCommand), "{line:?}");
        }
        for argv in [vec![], vec![""], vec!["  ", "x"]] {
            let argv = argv.into_iter().map(str::to_owned).collect();
            assert_eq!(ask(RunSpec::argv(argv)), Err(AdmitError::EmptyCommand));
        }
        assert!(ask(RunSpec::argv(vec!["printf".to_owned(), String::new()])).is_ok());
    }

    #[test]
    fn nul_bytes_are_named() {
        let nul = |what| Err(AdmitError::NulByte { what });
        assert_eq!(ask(RunSpec::shell("a\0b")), nul("command"));
        assert_eq!(ask(RunSpec { cwd: Some("a\0b".to_owned()), ..RunSpec::shell("true") }), nul("cwd"));
        for (name, value) in [("A\0", "x"), ("A", "\0")] {
            let env = vec![(name.to_owned(), value.to_owned())];
            assert_eq!(ask(RunSpec { env, ..RunSpec::shell("true") }), nul("env"));
        }
    }

    #[test]
    fn what_the_kernel_does_not_take_is_refused_before_it_sees_it() {
        let too_long = |what, len, max| Err(AdmitError::CommandTooLong { what, len, max });
        assert!(ask(RunSpec::shell("x".repeat(131_071))).is_ok());
        assert_eq!(ask(RunSpec::shell("x".repeat(131_072))), too_long("command", 131_072, 131_071));
        let env = |len| RunSpec { env: vec![("A".to_owned(), "x".repeat(len))], ..RunSpec::shell("true") };
        assert!(ask(env(131_069)).is_ok());
        assert_eq!(ask(env(131_070)), too_long("env", 131_072, 131_071));
        assert_eq!(
            ask(RunSpec { cwd: Some("x".repeat(131_072)), ..RunSpec::shell("true") }),
            too_long("cwd", 131_072, 131_071)
        );
        let many = RunSpec::argv(vec!["x".repeat(1000); 2000]);
        assert_eq!(ask(many), too_long("command", 2_018_000, MAX_TOTAL_BYTES));
    }

    #[test]
    fn relative_folders_start_in_the_project_and_nothing_is_collapsed() {
        let cases = [
            ("", "/home/user/project"),
            ("src", "/home/user/project/src"),
            ("~", "/home/user/project/~"),
            ("../x", "/home/user/project/../x"),
            ("/tmp//a/../b/", "/tmp//a/../b/"),
        ];
        for (cwd, expected) in cases {
            let spec = RunSpec { cwd: Some(cwd.to_owned()), ..RunSpec::shell("true") };
            assert_eq!(ask(spec).expect("admitted").cwd(), expected);
        }
    }

    #[test]
    fn timeouts_stay_in_the_range_of_the_policy() {
        let timed = |ms| RunSpec { timeout_ms: Some(ms), ..RunSpec::shell("true") };
        for ms in [1, 300_000] {
            assert_eq!(ask(timed(ms)).map(|a| a.timeout_ms()), Ok(ms as u64));
        }
        for given in [0, -1, 300_001, i64::MIN, i64::MAX] {
            let error = AdmitError::TimeoutOutOfRange { given, min: 1, max: 300_000 };
            assert_eq!(ask(timed(given)), Err(error));
        }
        let strict = PolicySet::shipped().get("strict").expect("shipped");
        let max = strict.limits().max_timeout_ms;
        let given = max as i64 + 1;
        assert_eq!(admit(&strict, timed(given)), Err(AdmitError::TimeoutOutOfRange { given, min: 1, max }));
    }

    #[test]
    fn variables_have_valid_names_and_the_daemons_token_stays_out() {
        let with = |name: &str| ask(RunSpec { env: vec![(name.to_owned(), "x".to_owned())], ..RunSpec::shell("true") });
        assert!(with("npm_config_x").is_ok() && with("PATH").is_ok() && with("_").is_ok());
        for bad in ["", "1A", "A-B", "A=B", "É"] {
            assert!(matches!(with(bad), Err(AdmitError::InvalidEnvironment { .. })), "{bad:?}");
        }
        assert!(matches!(with("SANDBOXD_TOKEN"), Err(AdmitError::PolicyRefused { rule: "environment", .. })));
        assert!(
            matches!(with(&"-".repeat(9000)), Err(AdmitError::InvalidEnvironment { name, .. }) if name.len() == 64)
        );
    }

    proptest! {
        #[test]
        fn what_is_admitted_can_be_executed(words in prop::collection::vec(".{0,20}", 0..4), cwd: Option<String>) {
            if let Ok(admitted) = ask(RunSpec { cwd, ..RunSpec::argv(words) }) {
                prop_assert!(!admitted.argv().is_empty() && admitted.cwd().starts_with('/'));
                prop_assert!(admitted.argv().iter().all(|word| !word.contains('\0')) && !admitted.cwd().contains('\0'));
            }
        }
    }
}
