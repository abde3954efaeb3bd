//! The network of a sandbox: its loopback interface, which is down in a new namespace (netdevice(7)), and whether
//! its packets could be filtered (netlink(7), the kernel's `uapi/linux/netfilter/nf_tables.h`).

use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use sandbox_launch::report::{Report, Step};
use sandbox_launch::sys;
use std::time::Duration;

pub(crate) fn bring_up_loopback() -> Result<(), Report> {
    let failed = |errno| Report::new(Step::Loopback, errno, "lo");
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map_err(failed)?;
    sys::loopback_up(&socket).map_err(failed)
}

/// Asks for the number of the present set of rules, the smallest question there is.
pub(crate) fn ask_nf_tables() -> Result<(), Report> {
    generation().map_err(|errno| Report::new(Step::NfTables, errno, ""))
}

fn generation() -> Result<(), Errno> {
    const NLM_F_REQUEST: u16 = 1;
    const NLMSG_ERROR: u16 = 2;
    const NFT_MSG_GETGEN: u16 = 10 << 8 | 16; // subsystem and message
    const LENGTH: u32 = 20;
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(2)))?;
    // nlmsghdr: length, type, flags, sequence, port; nfgenmsg: family, version, resource.
    let mut request = Vec::with_capacity(LENGTH as usize);
    request.extend(LENGTH.to_ne_bytes());
    request.extend(NFT_MSG_GETGEN.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 12]);
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut reply = [0; 256];
    let (length, _) = rustix::net::recv(&socket, &mut reply[..], RecvFlags::empty())?;
    let (kind, error) = match reply[..length] {
        [_, _, _, _, k0, k1, _, _, _, _, _, _, _, _, _, _, e0, e1, e2, e3, ..] => {
            (u16::from_ne_bytes([k0, k1]), i32::from_ne_bytes([e0, e1, e2, e3]))
        }
        _ => return Err(Errno::BADMSG),
    };
    match (kind, error) {
        (NLMSG_ERROR, error) if error < 0 => Err(Errno::from_raw_os_error(-error)),
        _ => Ok(()),
    }
}
