//! Who listens on which port of this machine.
//!
//! In: the kernel's tables of TCP sockets, and the descriptors of those processes that may be
//! looked at. Out: addresses with the process that holds each, where that is known. It connects to
//! nobody.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::root::Root;

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listening {
    pub(super) address: SocketAddr,
    /// `None` for a process of another user.
    pub(super) holder: Option<Holder>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: u32,
    pub(super) name: String,
}

/// TCP_LISTEN of the kernel's tcp_states.h.
const LISTEN: &str = "0A";

pub(super) fn listening(root: &Root) -> Vec<Listening> {
    let mut rows = Vec::new();
    for table in ["proc/self/net/tcp", "proc/self/net/tcp6"] {
        let text = root.text(table).unwrap_or_default();
        rows.extend(text.lines().filter_map(row));
    }
    if rows.is_empty() {
        return Vec::new();
    }
    let holders = holders(root);
    rows.into_iter()
        .map(|(address, inode)| Listening { address, holder: holders.get(&inode).cloned() })
        .collect()
}

/// `0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 INODE …`
fn row(line: &str) -> Option<(SocketAddr, String)> {
    let mut words = line.split_whitespace().skip(1);
    let (ip, port) = words.next()?.split_once(':')?;
    if words.nth(1)? != LISTEN {
        return None;
    }
    let address = SocketAddr::new(address(ip)?, u16::from_str_radix(port, 16).ok()?);
    Some((address, words.nth(5)?.to_owned()))
}

/// Words of 32 bits, each in the byte order of the machine.
fn address(digits: &str) -> Option<IpAddr> {
    let mut bytes = Vec::with_capacity(16);
    for start in (0..digits.len()).step_by(8) {
        let word = u32::from_str_radix(digits.get(start..start + 8)?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let four = <[u8; 4]>::try_from(bytes.as_slice()).map(|it| Ipv4Addr::from(it).into());
    four.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(|it| Ipv6Addr::from(it).into()))
        .ok()
}

/// Sockets by inode, of every process whose descriptors may be seen.
fn holders(root: &Root) -> BTreeMap<String, Holder> {
    let mut holders = BTreeMap::new();
    for process in root.names("proc") {
        let Ok(pid) = process.parse() else { continue };
        let folder = format!("proc/{process}/fd");
        let mut name = None;
        for descriptor in root.names(&folder) {
            let link = root.link(&format!("{folder}/{descriptor}")).unwrap_or_default();
            let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            let Some(inode) = inode else { continue };
            let name = name.get_or_insert_with(|| {
                root.text(&format!("proc/{process}/comm")).unwrap_or_default()
            });
            holders.insert(inode.to_owned(), Holder { pid, name: name.clone() });
        }
    }
    holders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_listening_sockets_are_read() {
        let end = "00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0";
        for (local, expected) in [
            ("0100007F:1F40", "127.0.0.1:8000"),
            ("00000000:0050", "0.0.0.0:80"),
            ("00000000000000000000000001000000:26AD", "[::1]:9901"),
        ] {
            // The words are those of a little-endian machine.
            if cfg!(target_endian = "little") {
                let (address, inode) = row(&format!("   0: {local} {end}")).unwrap();
                assert_eq!((address.to_string().as_str(), inode.as_str()), (expected, "4711"));
            }
        }
        let established = end.replace(" 0A ", " 01 ");
        assert_eq!(row(&format!("0: 0100007F:1F40 {established}")), None);
        for odd in ["", "sl local_address", "0: 01:1 0:0 0A", "0: x:y 0:0 0A a b c d e f"] {
            assert_eq!(row(odd), None, "{odd}");
        }
    }
}
