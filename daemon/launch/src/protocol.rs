//! Messages between keeper, launcher and init, and their encoding (postcard).
//!
//! The launcher's control socket and each init's report socket are `SOCK_SEQPACKET`: one message is
//! one packet. What may be larger than a packet comes as a memory file.

use crate::plan::RunPlan;
use crate::report::Report;
use crate::selftest::Breach;
use crate::trial::{Outcome, Trial};
use rustix::fs::MemfdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Largest packet from a launcher or an init.
pub const REPORT_BYTES: usize = 8 * 1024;
/// Most descriptors that one message carries.
pub const MAX_FDS: usize = 16;
/// Largest packet that an init gets. An init that touches fewer pages starts its command sooner.
pub const ORDER_BYTES: usize = 4 * 1024;
/// Largest packet that the launcher gets once it makes inits.
pub const ARM_BYTES: usize = 64;
/// Orders up to this are part of the message.
const INLINE_BYTES: usize = ORDER_BYTES - 64;

/// Keeper to launcher.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToLauncher {
    /// A [`LaunchPlan`](crate::plan::LaunchPlan) in the memory file that comes with it: a plan may be larger than a packet.
    Plan,
    /// Make no sandbox: try these, answer with `Tried`, and end. In place of a plan.
    Try(Vec<Trial>),
    /// `/proc/<pid>/{setgroups,uid_map,gid_map}` are written.
    IdsMapped,
    /// Make an init. Descriptors: report socket, stdout, stderr, then the cgroup membership files to
    /// write `0` into. `urgent` when a run waits for it: else what runs goes first.
    /// `watched` when the keeper sees the command's end itself, by its pidfd.
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
    Tried(Vec<Outcome>),
}

/// Init to keeper, on the report socket.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromInit {
    /// Waiting for an order. Carries a pidfd of the init.
    Armed {
        landlock: Enforcement,
    },
    /// The command has begun. Carries its pidfd. If it cannot be executed it says so on its own
    /// standard error, and ends as in a shell.
    Started,
    /// The order was refused; nothing has run.
    NotStarted(Report),
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
    /// What the self-test was able to do.
    Tested {
        breaches: Vec<Breach>,
    },
}

/// Keeper to init, on the report socket.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToInit {
    /// Run this; only once. Without a plan, a memory file with it comes along; then, with `stdin`, the
    /// descriptor that is the command's standard input.
    Order {
        plan: Option<RunPlan>,
        stdin: bool,
    },
    /// Send this signal to every process but the init.
    Signal(i32),
    Count,
    /// The command has ended and what it left may stay: end when nothing is left.
    Linger,
    /// Try what no command may do, and end; the [`SelfTest`](crate::selftest::SelfTest) is in the memory file that
    /// comes along. In place of an order.
    Test,
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

/// Something as a memory file, ready to be sent.
pub fn to_file<M: Serialize>(message: &M) -> io::Result<File> {
    memory_file(&encode(message)?)
}

fn memory_file(bytes: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL;
    let memory = match rustix::fs::memfd_create("message", flags) {
        // Before Linux 6.3 nobody could say so.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("message", MemfdFlags::CLOEXEC)?,
        other => other?,
    };
    let mut file = File::from(memory);
    file.write_all(bytes)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// Reads what [`to_file`] wrote.
pub fn from_file<M: DeserializeOwned>(file: OwnedFd) -> io::Result<M> {
    let mut bytes = Vec::new();
    File::from(file).read_to_end(&mut bytes)?;
    decode(&bytes)
}

/// Sends an order to an init.
pub fn send_order(socket: impl AsFd, plan: RunPlan, stdin: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let with_input = stdin.is_some();
    let order = encode(&ToInit::Order { plan: Some(plan), stdin: with_input })?;
    if order.len() <= INLINE_BYTES {
        return send_bytes(socket, &order, stdin.as_slice()).map(drop);
    }
    let ToInit::Order { plan: Some(plan), .. } = decode(&order)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let file = to_file(&plan)?;
    let mut fds = vec![file.as_fd()];
    fds.extend(stdin);
    send(socket, &ToInit::Order { plan: None, stdin: with_input }, &fds)
}

/// The plan and standard input of an order that was received with these descriptors.
pub fn open_order(plan: Option<RunPlan>, stdin: bool, fds: Vec<OwnedFd>) -> io::Result<(RunPlan, Option<OwnedFd>)> {
    let mut fds = fds.into_iter();
    let missing = || io::Error::from_raw_os_error(libc::EBADF);
    let plan = match plan {
        Some(plan) => plan,
        None => from_file(fds.next().ok_or_else(missing)?)?,
    };
    let stdin = if stdin { Some(fds.next().ok_or_else(missing)?) } else { None };
    Ok((plan, stdin))
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
    fn orders_of_any_size_arrive_whole() {
        for bytes in [10, INLINE_BYTES, 100_000, 3_000_000] {
            let (here, there) = pair(SocketType::SEQPACKET);
            let order = RunPlan {
                argv: vec!["/bin/sh".into(), "-c".into(), "x".repeat(bytes)],
                env: vec!["NAME=value".into()],
                cwd: "/home/user/project".into(),
            };
            let (input, _writer) = rustix::pipe::pipe().expect("pipe");
            for stdin in [None, Some(input.as_fd())] {
                send_order(&here, order.clone(), stdin).expect("sent");
                let (message, fds) = receive::<ToInit>(&there).expect("receive").expect("a message");
                let ToInit::Order { plan, stdin: with_input } = message else { panic!("{message:?}") };
                let (plan, received) = open_order(plan, with_input, fds).expect("an order");
                assert_eq!(plan, order);
                assert_eq!(received.is_some(), stdin.is_some());
            }
        }
    }
}
