//! Who listens on a local TCP port: keys and tokens are only for a program of root's or of this user's.
//!
//! Reads /proc/net/tcp and /proc/net/tcp6, proc_pid_net(5): one socket per line, addresses in the
//! byte order of the machine, state 0A is LISTEN, the eighth column is the owner.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Whether every socket that could answer at this loopback address belongs to root or to this user.
/// False when nobody listens.
pub(crate) fn is_trusted(address: SocketAddr) -> bool {
    let mut tables = String::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        tables.push_str(&fs::read_to_string(path).unwrap_or_default());
    }
    let own = rustix::process::geteuid().as_raw();
    let owners = owners(&tables, address);
    !owners.is_empty() && owners.iter().all(|uid| *uid == 0 || *uid == own)
}

/// Owners of the sockets that listen on the port, at this address or at all addresses.
fn owners(tables: &str, address: SocketAddr) -> Vec<u32> {
    tables.lines().filter_map(listening).filter(|(at, _)| takes(*at, address)).map(|(_, uid)| uid).collect()
}

/// Address and owner of a line that is a listening socket.
fn listening(line: &str) -> Option<(SocketAddr, u32)> {
    let columns: Vec<&str> = line.split_ascii_whitespace().collect();
    if columns.get(3) != Some(&"0A") {
        return None;
    }
    let (ip, port) = columns.get(1)?.split_once(':')?;
    let ip = match ip.len() {
        8 => IpAddr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes()),
        32 => {
            let mut bytes = [0; 16];
            for (index, word) in bytes.chunks_exact_mut(4).enumerate() {
                let hex = ip.get(index * 8..index * 8 + 8)?;
                word.copy_from_slice(&u32::from_str_radix(hex, 16).ok()?.to_ne_bytes());
            }
            IpAddr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some((SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?), columns.get(7)?.parse().ok()?))
}

/// Whether a connection to `address` may reach a socket bound to `bound`.
fn takes(bound: SocketAddr, address: SocketAddr) -> bool {
    let any = match bound.ip() {
        IpAddr::V4(ip) => ip == Ipv4Addr::UNSPECIFIED && address.is_ipv4(),
        // `::` takes IPv4 too, unless the socket was told not to: assume that it does.
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    bound.port() == address.port() && (any || bound.ip() == address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    #[cfg(target_endian = "little")]
    #[test]
    fn every_socket_that_may_answer_counts() {
        let table = format!(
            "{HEAD}\
             0: 0100007F:1CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 1 1\n\
             1: 00000000:1CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0 0 2 1\n\
             2: 0100007F:1CEA 0100007F:A000 01 00000000:00000000 00:00000000 00000000    77 0 3 1\n\
             3: 0200007F:1CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000    78 0 4 1\n\
             4: 00000000000000000000000000000000:1CEA 00000000000000000000000000000000:0000 0A 0:0 00:0 0  33 0 5 1\n\
             5: 0000000000000000FFFF00000100007F:1CEA 00000000000000000000000000000000:0000 0A 0:0 00:0 0  34 0 6 1\n\
             6: 0100007F:1CEB 00000000:0000 0A 00000000:00000000 00:00000000 00000000    79 0 7 1\n"
        );
        let address = "127.0.0.1:7402".parse().expect("an address");
        assert_eq!(owners(&table, address), [1000, 0, 33, 34]);
        assert_eq!(owners(HEAD, address), Vec::<u32>::new());
    }

    #[test]
    fn our_own_listener_is_trusted_and_a_closed_port_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        assert!(is_trusted(address));
        drop(listener);
        assert!(!is_trusted(address));
    }
}
