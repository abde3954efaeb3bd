//! The keeper's socket in a project's folder.
//!
//! Input: the project's folder; output: a listener or a connection. An `AF_UNIX` address holds 108
//! bytes (unix(7)), which a state folder may exceed, so the address used is
//! `/proc/self/fd/<folder>/keeper.sock`. The folder is 0700: who may connect is decided there.

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixListener;

/// Name of the socket in the project's folder.
pub const FILE_NAME: &str = "keeper.sock";

/// While a listener's queue is full, a connection is tried again this often, this many times.
const RETRY_EVERY: Duration = Duration::from_millis(2);
const RETRIES: u32 = 500;

/// Listens in the project's folder. The caller holds `keeper.lock` and has removed the socket of a
/// keeper that died; an existing one is an error here.
pub fn bind(project_dir: &Path) -> io::Result<UnixListener> {
    let folder = open_folder(project_dir)?;
    UnixListener::bind(address(&folder))
}

/// Connects to the keeper of this folder; the stream does not block. `ConnectionRefused` or `NotFound` when none listens.
pub async fn connect(project_dir: &Path) -> io::Result<UnixStream> {
    let folder = open_folder(project_dir)?;
    let address = SocketAddrUnix::new(address(&folder))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let mut retries = 0;
    loop {
        match rustix::net::connect(&socket, &address) {
            // The queue of connections not yet accepted is full; the kernel offers nothing to wait for.
            Err(Errno::AGAIN) if retries < RETRIES => {
                retries += 1;
                tokio::time::sleep(RETRY_EVERY).await;
            }
            result => return Ok(result.map(|()| UnixStream::from(socket))?),
        }
    }
}

fn open_folder(project_dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, project_dir, flags, Mode::empty())?)
}

fn address(folder: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{FILE_NAME}", folder.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_folder_with_a_long_path_can_be_listened_in() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("x".repeat(120));
        std::fs::create_dir(&dir).unwrap();
        assert_eq!(connect(&dir).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        let listener = bind(&dir).unwrap();
        let mut caller = connect(&dir).await.unwrap();
        let (mut keeper, _) = listener.accept().await.unwrap();
        caller.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        keeper.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        drop(listener);
        assert_eq!(connect(&dir).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(bind(&dir).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
