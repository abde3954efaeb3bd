//! The loopback interface of a new network namespace is down; commands need it (netdevice(7)).

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sandbox_launch::report::{Report, Step};
use sandbox_launch::sys;

pub(crate) fn bring_up_loopback() -> Result<(), Report> {
    let failed = |errno| Report::new(Step::Loopback, errno, "lo");
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map_err(failed)?;
    sys::loopback_up(&socket).map_err(failed)
}
