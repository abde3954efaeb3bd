//! The mounts this process sees: `/proc/self/mountinfo` as data.
//!
//! Input: the text of proc_pid_mountinfo(5); output: [`Mount`]s in the file's order, in which a
//! later mount hides an earlier one at the same point. Knows nothing of what they are used for.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// What of the file system is mounted, from the file system's own root.
    pub(crate) root: PathBuf,
    pub(crate) point: PathBuf,
    /// Options of this mount, such as `ro`.
    pub(crate) options: Vec<String>,
    pub(crate) filesystem: String,
    /// What is mounted, such as `/dev/sda1`, as whoever mounted it named it.
    pub(crate) source: PathBuf,
    /// Options of the file system, such as `prjquota`, or a cgroup hierarchy's controllers.
    pub(crate) super_options: Vec<String>,
}

impl Mount {
    pub(crate) fn is_read_only(&self) -> bool {
        let ro = |options: &[String]| options.iter().any(|option| option == "ro");
        ro(&self.options) || ro(&self.super_options)
    }

    pub(crate) fn has_super_option(&self, name: &str) -> bool {
        self.super_options.iter().any(|option| option == name)
    }
}

/// The mounts of this process's mount namespace; none when `/proc` cannot be read.
pub(crate) fn own_mounts() -> Vec<Mount> {
    std::fs::read("/proc/self/mountinfo").map(|text| parse(&text)).unwrap_or_default()
}

/// Lines that do not have the documented form are left out: a newer kernel may add what it likes.
pub(crate) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    // Mount id, parent id, device.
    let mut fields_from_root = fields.by_ref().skip(3);
    let root = unescape(fields_from_root.next()?);
    let point = unescape(fields_from_root.next()?);
    let options = list(fields_from_root.next()?);
    // Optional fields end with a lone dash.
    fields_from_root.find(|field| *field == b"-")?;
    let filesystem = String::from_utf8_lossy(fields_from_root.next()?).into_owned();
    let source = unescape(fields_from_root.next()?);
    let super_options = list(fields_from_root.next()?);
    Some(Mount { root, point, options, filesystem, source, super_options })
}

fn list(field: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(field).split(',').map(str::to_owned).collect()
}

/// Space, tab, newline and backslash are written as three octal digits after a backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
            }
            _ => None,
        };
        out.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_and_without_optional_fields_are_read() {
        let text = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n\
            31 23 0:28 / /sys/fs/cgroup ro,relatime - tmpfs tmpfs ro,mode=755\n";
        let mounts = parse(text);
        assert_eq!(
            mounts[0],
            Mount {
                root: "/mnt1".into(),
                point: "/mnt 2".into(),
                options: vec!["rw".into(), "noatime".into()],
                filesystem: "ext3".into(),
                source: "/dev/root".into(),
                super_options: vec!["rw".into(), "errors=continue".into()],
            }
        );
        assert!(!mounts[0].is_read_only());
        assert!(mounts[1].is_read_only());
    }

    #[test]
    fn broken_lines_are_left_out() {
        assert_eq!(parse(b"\n1 2\n36 35 98:0 / /mnt rw shared:1\nnonsense - a b c\n"), []);
    }

    #[test]
    fn a_trailing_backslash_is_kept() {
        assert_eq!(unescape(b"/a\\"), PathBuf::from("/a\\"));
        assert_eq!(unescape(b"/a\\134b\\9"), PathBuf::from("/a\\b\\9"));
    }

    #[test]
    fn this_process_has_a_root_mount() {
        assert!(own_mounts().iter().any(|mount| mount.point == std::path::Path::new("/")));
    }
}
