//! Paths of a policy: their spelling, and the places a policy cannot give away.
//!
//! Input: text as written; output: [`SandboxPath`], absolute and without `.` and `..`. Purely lexical:
//! whether something exists, or is a link, only the keeper and the kernel can know.

use std::fmt;

/// Home folder inside the sandbox; `~` in a policy file.
pub const HOME: &str = "/home/user";

/// The workspace inside the sandbox; commands start here.
pub const PROJECT: &str = "/home/user/project";

/// Files of `/etc` that the sandbox writes itself, with its own user and host names.
pub const COMPOSED: [&str; 6] =
    ["/etc/passwd", "/etc/group", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/etc/mtab"];

/// PATH_MAX with its NUL, and NAME_MAX; see limits.h(0p).
const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;

/// Why a text is not a path for a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    #[error("is empty")]
    Empty,
    #[error("contains a NUL byte or another control character")]
    Control,
    #[error("is relative")]
    Relative,
    #[error("contains `..`")]
    Parent,
    #[error("contains `*`, and patterns are not supported")]
    Pattern,
    #[error("names the home of another user")]
    OtherHome,
    #[error("starts with `~`, which has no meaning on the host")]
    HostHome,
    #[error("is longer than the kernel takes")]
    TooLong,
}

impl PathFault {
    pub(crate) fn fix(self) -> &'static str {
        match self {
            Self::Empty => "write an absolute path, such as \"/usr\" or \"~/project\"",
            Self::Control => "write the name of the folder above it",
            Self::Relative => "start the path with `/`, or with `~/` for the home folder inside",
            Self::Parent => "write the folder that is meant, without `..`",
            Self::Pattern => "name the folder above, which covers everything below it",
            Self::OtherHome => "inside there is one home, `~`, which is /home/user",
            Self::HostHome => "write the host folder's absolute path",
            Self::TooLong => "use a path of at most 4095 bytes with names of at most 255",
        }
    }
}

/// An absolute path as seen inside: no `.`, no `..`, no doubled or trailing slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxPath(String);

impl SandboxPath {
    /// `~` is [`HOME`].
    pub fn parse(text: &str) -> Result<Self, PathFault> {
        match text.strip_prefix('~') {
            None => normal(text),
            Some("") => Ok(Self(HOME.to_owned())),
            Some(below) if below.starts_with('/') => normal(&format!("{HOME}{below}")),
            Some(_) => Err(PathFault::OtherHome),
        }
        .and_then(|path| if path.0.len() > MAX_PATH { Err(PathFault::TooLong) } else { Ok(path) })
    }

    /// A path of the host, of the same spelling but without `~`.
    pub(crate) fn parse_host(text: &str) -> Result<Self, PathFault> {
        if text.starts_with('~') { Err(PathFault::HostHome) } else { Self::parse(text) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn normal(text: &str) -> Result<SandboxPath, PathFault> {
    if text.is_empty() {
        return Err(PathFault::Empty);
    }
    if text.bytes().any(|b| b.is_ascii_control()) {
        return Err(PathFault::Control);
    }
    if !text.starts_with('/') {
        return Err(PathFault::Relative);
    }
    if text.contains('*') {
        return Err(PathFault::Pattern);
    }
    let mut path = String::with_capacity(text.len());
    for name in text.split('/').filter(|name| !name.is_empty() && *name != ".") {
        if name == ".." {
            return Err(PathFault::Parent);
        }
        if name.len() > MAX_NAME {
            return Err(PathFault::TooLong);
        }
        path.push('/');
        path.push_str(name);
    }
    if path.is_empty() {
        path.push('/');
    }
    Ok(SandboxPath(path))
}

impl From<SandboxPath> for String {
    fn from(path: SandboxPath) -> String {
        path.0
    }
}

impl fmt::Display for SandboxPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `path` is `root` or lies below it. Both are absolute and normal.
pub fn at_or_below(path: &str, root: &str) -> bool {
    match path.strip_prefix(root) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || root == "/",
        None => false,
    }
}

/// One lies within the other.
pub(crate) fn overlap(a: &str, b: &str) -> bool {
    at_or_below(a, b) || at_or_below(b, a)
}

/// Places of the host that no policy opens: the reason, where `path` is one of them.
pub(crate) fn kept_from_host(path: &str) -> Option<&'static str> {
    const BELOW: [(&str, &str); 7] = [
        ("/proc", "it shows the host's processes; the sandbox has a /proc of its own"),
        ("/sys", "it shows the host's devices and cgroups"),
        ("/dev", "it holds the host's devices; the sandbox has a /dev of its own"),
        ("/run", "it holds the sockets of the host's services"),
        ("/var/run", "it holds the sockets of the host's services"),
        ("/var/lib/sandboxd", "it holds the daemon's tokens and every project"),
        ("/etc/ssh", "it holds the host's keys"),
    ];
    const EXACT: [(&str, &str); 6] = [
        ("/", "it is the whole host"),
        ("/etc", "it holds password hashes and keys beside what tools need"),
        ("/etc/shadow", "it holds password hashes"),
        ("/etc/shadow-", "it holds password hashes"),
        ("/etc/gshadow", "it holds password hashes"),
        ("/etc/gshadow-", "it holds password hashes"),
    ];
    BELOW
        .into_iter()
        .find(|(root, _)| at_or_below(path, root))
        .or_else(|| EXACT.into_iter().find(|(root, _)| path == *root))
        .map(|(_, why)| why)
}

/// Places inside that belong to the sandbox itself: the reason, where `path` is one of them.
pub(crate) fn kept_by_sandbox(path: &str) -> Option<&'static str> {
    if COMPOSED.contains(&path) {
        Some("the sandbox writes this file itself")
    } else if at_or_below(path, HOME) || path == "/home" {
        Some("the home folder is the project's own; `write` says which parts of it are writable")
    } else if at_or_below(path, "/tmp") || at_or_below(path, "/var/tmp") {
        Some("every project has a /tmp of its own")
    } else if path == "/var" {
        Some("/var/tmp below it is the project's own, and the daemon keeps its state there")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Result<String, PathFault> {
        SandboxPath::parse(text).map(String::from)
    }

    #[test]
    fn paths_are_absolute_and_normal() {
        let cases = [
            ("/", Ok("/")),
            ("/usr", Ok("/usr")),
            ("//usr/./lib//", Ok("/usr/lib")),
            ("~", Ok("/home/user")),
            ("~/", Ok("/home/user")),
            ("~/project/[id]/a b", Ok("/home/user/project/[id]/a b")),
            ("/a/..b", Ok("/a/..b")),
            ("", Err(PathFault::Empty)),
            ("usr", Err(PathFault::Relative)),
            ("./usr", Err(PathFault::Relative)),
            ("/usr/../etc", Err(PathFault::Parent)),
            ("~/..", Err(PathFault::Parent)),
            ("~alice", Err(PathFault::OtherHome)),
            ("/a\0b", Err(PathFault::Control)),
            ("/a\nb", Err(PathFault::Control)),
            ("/etc/*.conf", Err(PathFault::Pattern)),
        ];
        for (text, expected) in cases {
            assert_eq!(parsed(text), expected.map(str::to_owned), "{text:?}");
        }
        assert_eq!(parsed(&format!("/{}", "x".repeat(256))), Err(PathFault::TooLong));
        assert_eq!(parsed(&"/x".repeat(2048)), Err(PathFault::TooLong));
        assert_eq!(SandboxPath::parse_host("~/x"), Err(PathFault::HostHome));
    }

    #[test]
    fn below_counts_whole_names() {
        assert!(at_or_below("/usr", "/usr") && at_or_below("/usr/lib", "/usr") && at_or_below("/usr", "/"));
        assert!(!at_or_below("/usrlocal", "/usr") && !at_or_below("/", "/usr"));
    }

    #[test]
    fn places_of_host_and_sandbox_stay_theirs() {
        for path in ["/", "/etc", "/etc/shadow", "/proc/1", "/dev/sda", "/run/docker.sock", "/var/lib/sandboxd/token"] {
            assert!(kept_from_host(path).is_some(), "{path}");
        }
        for path in ["/etc/ssl", "/usr", "/opt", "/var/lib/x", "/etc/sshd"] {
            assert!(kept_from_host(path).is_none(), "{path}");
        }
        for path in ["/home", "/home/user", "/home/user/x", "/tmp", "/tmp/x", "/var", "/var/tmp", "/etc/passwd"] {
            assert!(kept_by_sandbox(path).is_some(), "{path}");
        }
        assert!(kept_by_sandbox("/home/alice").is_none());
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent_and_normal(text in "[~/.a*\\x00-]{0,40}") {
            if let Ok(path) = SandboxPath::parse(&text) {
                prop_assert_eq!(SandboxPath::parse(path.as_str()), Ok(path.clone()));
                prop_assert!(path.as_str().starts_with('/') && !path.as_str().contains("//"));
                prop_assert!(path.as_str().split('/').all(|name| name != "." && name != ".."));
            }
        }

        #[test]
        fn no_text_panics(text: String) {
            let _path = SandboxPath::parse(&text);
        }
    }
}
