//! The ids that root has set aside for an ordinary user: subuid(5), subgid(5), newuidmap(1), newgidmap(1).
//!
//! Input: the user and two files; output: a map of a whole range of ids into a sandbox. Commands stay the same user,
//! so that their files are that user's afterwards. What the range gives is setgroups(2): without it a command keeps
//! the groups of whoever started the daemon, and with them whatever is open to `docker` or `adm`.

use crate::plan::{GID, UID};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Ids inside, the user's own among them.
const COUNT: u32 = 65_536;

/// What an ordinary user can map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subordinate {
    uid: u32,
    gid: u32,
    /// First of the ids set aside.
    uids: u32,
    gids: u32,
    newuidmap: PathBuf,
    newgidmap: PathBuf,
}

/// Why a user has none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    #[error("newuidmap and newgidmap are not installed")]
    Programs,
    #[error("{file} has no {COUNT} ids for {user}")]
    Range { file: &'static str, user: String },
}

impl Subordinate {
    /// Of the calling user. `find` looks a program up.
    pub fn find(find: impl Fn(&str) -> Option<PathBuf>) -> Result<Self, Lack> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let user = user_name(&text("/etc/passwd"), uid);
        let range = |file: &'static str| {
            let lack = || Lack::Range { file, user: user.clone() };
            range(&text(file), &user, uid).ok_or_else(lack)
        };
        let (Some(newuidmap), Some(newgidmap)) = (find("newuidmap"), find("newgidmap")) else {
            return Err(Lack::Programs);
        };
        Ok(Self { uid, gid, uids: range("/etc/subuid")?, gids: range("/etc/subgid")?, newuidmap, newgidmap })
    }

    /// Writes the maps of a process in a new user namespace.
    pub(crate) fn map(&self, pid: u32) -> io::Result<()> {
        write(&self.newuidmap, pid, UID, self.uid, self.uids)?;
        write(&self.newgidmap, pid, GID, self.gid, self.gids)
    }
}

/// The user's name, or its number where nobody has given it one.
fn user_name(passwd: &str, uid: u32) -> String {
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

/// The start of the user's first range that is large enough.
fn range(text: &str, user: &str, uid: u32) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let (whose, start, count) = (fields.next()?, fields.next()?, fields.next()?);
        let (start, count): (u32, u32) = (start.parse().ok()?, count.parse().ok()?);
        let ours = whose == user || whose.parse() == Ok(uid);
        (ours && count >= COUNT - 1 && start.checked_add(COUNT).is_some()).then_some(start)
    })
}

/// `inside` is the user's own id, the others come from the range in their order.
fn write(program: &Path, pid: u32, inside: u32, own: u32, first: u32) -> io::Result<()> {
    let rest = COUNT - inside - 1;
    let numbers = [pid, 0, first, inside, inside, own, 1, inside + 1, first + inside, rest];
    let mut command = Command::new(program);
    command.args(numbers.map(|number| number.to_string())).env_clear().current_dir("/");
    let output = command.stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_the_users_by_name_or_number_and_large_enough() {
        let text = "other:1:70000\nme:5:10\n\nme:100000:65536\n1500:200000:65536\nbroken\n";
        assert_eq!(range(text, "me", 7), Some(100_000));
        assert_eq!(range(text, "nobody", 1500), Some(200_000));
        assert_eq!(range(text, "nobody", 7), None);
        assert_eq!(range("me:4294967000:65536\n", "me", 7), None, "beyond the last id");
    }

    #[test]
    fn users_without_a_name_go_by_their_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\nme:x:1500:1500::/:/bin/sh\n";
        assert_eq!((user_name(passwd, 1500), user_name(passwd, 9)), ("me".to_owned(), "9".to_owned()));
    }
}
