//! Messages between keeper, launcher, init and runner, and their encoding (postcard).
//!
//! The launcher's control socket and each init's report socket are `SOCK_SEQPACKET`: one message is
//! one packet. A runner's order may be larger than a packet and comes over a stream, behind its length.

use crate::plan::{LaunchPlan, RunPlan};
use crate::report::Report;
use rustix::fs::MemfdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Largest packet on a control or report socket.
pub const REPORT_BYTES: usize = 8 * 1024;
/// Most descriptors that one message carries.
pub const MAX_FDS: usize = 16;
/// Largest order a runner takes: what execve(2) could take at most, and some.
pub const ORDER_BYTES: usize = 8 * 1024 * 1024;

/// Keeper to launcher.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToLauncher {
    /// A [`LaunchPlan`] in the memory file that comes with it: a plan may be larger than a packet.
    Plan,
    /// `/proc/<pid>/{setgroups,uid_map,gid_map}` are written.
    IdsMapped,
    /// Make an init. Descriptors: report socket, runner's socket, stdout, stderr, then the cgroup
    /// membership files to write `0` into. `urgent` when a run waits for it: else what runs goes first.
    /// `watched` when the keeper sees the command's end itself, by the runner's pidfd.
    Arm { urgent: bool, watched: bool },
}

/// Launcher to keeper.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromLauncher {
    /// In its user namespace, waiting for `IdsMapped`.
    WantsIds,
    /// The view stands. Carries a pidfd of the process that everything inside descends from.
    /// `exits_by_pidfd`: the kernel tells how a process ended through its pidfd.
    Ready {
        exits_by_pidfd: bool,
    },
    Failed(Report),
}

/// Init to keeper, on the report socket.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromInit {
    /// Waiting for an order. Carries pidfds of the init and of the runner.
    Armed {
        landlock: Enforcement,
    },
    /// The command ended. `status` is wait(2)'s; `stragglers` counts processes still there.
    Ended {
        status: i32,
        cpu_us: u64,
        stragglers: u32,
    },
    /// Answer to `ToInit::Count`: processes that are there besides the init.
    Counted {
        others: u32,
    },
    Failed(Report),
}

/// Keeper to init, on the report socket.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToInit {
    /// Send this signal to every process but the init.
    Signal(i32),
    Count,
    /// The command has ended and what it left may stay: end when nothing is left.
    Linger,
}

/// How much of a layer is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Enforcement {
    Full,
    Partial,
    None,
}

/// Sends one message as one packet, with descriptors.
pub fn send<M: Serialize>(socket: impl AsFd, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let packet = encode(message)?;
    send_bytes(socket, &packet, fds).map(drop)
}

/// Sends bytes, with descriptors on the first of them. Returns how many were taken.
pub fn send_bytes(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    let iov = [IoSlice::new(bytes)];
    loop {
        match rustix::net::sendmsg(&socket, &iov, &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Receives one packet; `None` when the other end is gone.
pub fn receive<M: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    receive_with(socket, &mut [0; REPORT_BYTES])
}

/// [`receive`] into a buffer that the caller keeps; reports fit into [`REPORT_BYTES`].
pub fn receive_with<M: DeserializeOwned>(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let (length, fds) = receive_bytes(socket, buffer)?;
    match length {
        0 => Ok(None),
        length => Ok(Some((decode(&buffer[..length])?, fds))),
    }
}

/// Receives bytes and the descriptors that came with them; 0 bytes when the other end is gone.
pub fn receive_bytes(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok((received.bytes, fds))
}

pub fn encode<M: Serialize>(message: &M) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(message).map_err(io::Error::other)
}

pub fn decode<M: DeserializeOwned>(packet: &[u8]) -> io::Result<M> {
    postcard::from_bytes(packet).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// A plan as a memory file, ready to be sent.
pub fn plan_file(plan: &LaunchPlan) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL;
    let memory = match rustix::fs::memfd_create("plan", flags) {
        // Before Linux 6.3 nobody could say so.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("plan", MemfdFlags::CLOEXEC)?,
        other => other?,
    };
    let mut file = File::from(memory);
    file.write_all(&encode(plan)?)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// Reads what [`plan_file`] wrote.
pub fn read_plan(file: OwnedFd) -> io::Result<LaunchPlan> {
    let mut bytes = Vec::new();
    File::from(file).read_to_end(&mut bytes)?;
    decode(&bytes)
}

/// A runner's order as it goes over the stream: length, then the plan.
pub fn encode_order(order: &RunPlan) -> io::Result<Vec<u8>> {
    let body = encode(order)?;
    let length = u32::try_from(body.len()).ok().filter(|&l| l as usize <= ORDER_BYTES);
    let length = length.ok_or_else(|| io::Error::from_raw_os_error(libc::E2BIG))?;
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Waits for an order; `None` when the keeper is gone.
pub fn receive_order(socket: impl AsFd) -> io::Result<Option<(RunPlan, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; 4096];
    let (mut have, fds) = receive_bytes(&socket, &mut buffer)?;
    let mut want = 4;
    loop {
        if have >= 4 {
            let length = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
            if length > ORDER_BYTES {
                return Err(io::Error::from_raw_os_error(libc::E2BIG));
            }
            want = 4 + length;
        }
        if have >= want && have >= 4 {
            return Ok(Some((decode(&buffer[4..want])?, fds)));
        }
        if buffer.len() < want {
            buffer.resize(want, 0);
        }
        match rustix::io::read(&socket, &mut buffer[have..]) {
            Ok(0) => return Ok(None),
            Ok(more) => have += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("socketpair")
    }

    #[test]
    fn a_message_keeps_its_descriptors() {
        let (here, there) = pair(SocketType::SEQPACKET);
        let (reader, writer) = rustix::pipe::pipe().expect("pipe");
        send(&here, &ToLauncher::Arm { urgent: true, watched: false }, &[writer.as_fd()]).expect("send");
        drop(writer);
        let (message, fds) = receive::<ToLauncher>(&there).expect("receive").expect("a message");
        assert!(matches!(message, ToLauncher::Arm { urgent: true, watched: false }));
        assert_eq!(fds.len(), 1);
        rustix::io::write(&fds[0], b"x").expect("write");
        let mut byte = [0; 1];
        assert_eq!(rustix::io::read(&reader, &mut byte), Ok(1));
        drop(here);
        assert!(receive::<ToLauncher>(&there).expect("receive").is_none());
    }

    #[test]
    fn a_large_order_crosses_a_stream_in_pieces() {
        let (here, there) = pair(SocketType::STREAM);
        let order = RunPlan {
            argv: vec!["/bin/sh".into(), "-c".into(), "x".repeat(100_000)],
            env: (0..2_000).map(|n| format!("NAME_{n}={}", "v".repeat(500))).collect(),
            cwd: "/home/user/project".into(),
            stdin: false,
        };
        let bytes = encode_order(&order).expect("fits");
        let sender = std::thread::spawn(move || {
            let mut sent = 0;
            while sent < bytes.len() {
                sent += rustix::io::write(&here, &bytes[sent..]).expect("write");
            }
        });
        let (received, fds) = receive_order(&there).expect("receive").expect("an order");
        sender.join().expect("sender");
        assert_eq!(received, order);
        assert!(fds.is_empty());
    }
}
