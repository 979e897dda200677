//! Where sockets are: an IP address with a port, or a Unix socket of this machine; and who is at
//! the other end of one.
//!
//! In goes text such as `127.0.0.1:80`, `unix:/run/app.sock` or `unix:@app`, or what the kernel has
//! filled in; out come values that are copied like numbers. Syntax only: nothing here opens a file
//! or a socket.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where somebody listens, and can be connected to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(UnixAddress),
}

/// The path of a socket file, or an abstract name (unix(7)), which has `@` for its NUL.
///
/// Texts of configurations are kept for as long as the process lives, each once: an address is
/// copied with every request and every connection, and an operator does not write many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixAddress(&'static str);

static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// What `sockaddr_un` has room for, less the NUL behind a path or before an abstract name.
pub(crate) const UNIX_BYTES_MAX: usize = 107;

const PREFIX: &str = "unix:";

/// Of the configuration.
pub(crate) const UNIX_FORM: &str =
    "\"unix:\" and an absolute path, or \"unix:@\" and an abstract name, of 1 to 107 bytes";

impl UnixAddress {
    /// What stands behind `unix:`. Relative paths would depend on the working folder.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let is_right = match name.as_bytes() {
            [b'@', _, ..] => name.len() <= UNIX_BYTES_MAX + 1,
            [b'/', _, ..] => name.len() <= UNIX_BYTES_MAX && !name.ends_with('/'),
            _ => false,
        };
        if !is_right || name.chars().any(char::is_control) {
            return None;
        }
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = known.get(name) {
            return Some(Self(name));
        }
        let name: &'static str = Box::leak(name.into());
        known.insert(name);
        Some(Self(name))
    }

    /// Of a whole text. No host and port looks like one: a port is a number.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.strip_prefix(PREFIX).and_then(Self::new)
    }

    /// The file, unless the name is abstract.
    pub(crate) fn path(self) -> Option<&'static std::path::Path> {
        (!self.0.starts_with('@')).then(|| self.0.as_ref())
    }

    /// As it stands behind `unix:`.
    pub(crate) fn name(self) -> &'static str {
        self.0
    }
}

/// Whether `text` is meant to be the address of a Unix socket, be it a right one or not.
pub(crate) fn is_unix(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|name| name.starts_with(['/', '@']))
}

/// Why `text`, which is meant to be one, is none.
pub(crate) fn unix_form(text: &str) -> String {
    let name = text.strip_prefix(PREFIX).unwrap_or(text);
    let length = name.trim_start_matches('@').len();
    if length > UNIX_BYTES_MAX {
        return format!("{UNIX_FORM}: this one has {length}; use a shorter folder");
    }
    UNIX_FORM.to_owned()
}

impl fmt::Display for UnixAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{PREFIX}{}", self.0)
    }
}

impl Address {
    pub(crate) fn tcp(self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(address),
            Self::Unix(_) => None,
        }
    }

    pub(crate) fn unix(self) -> Option<UnixAddress> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(address) => Some(address),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

/// As logs show it in lists, which is how a `SocketAddr` does it.
impl fmt::Debug for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Unix(address) => address.fmt(out),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(PREFIX) {
            return UnixAddress::parse(text).map(Self::Unix).ok_or_else(|| unix_form(text));
        }
        text.parse().map(Self::Tcp).map_err(|_| format!("an address and port, or {UNIX_FORM}"))
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Who is at the other end of an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerAddress {
    Ip(SocketAddr),
    /// A process of this machine, which has no address.
    Unix,
}

impl PeerAddress {
    /// It without a port, as lists of networks and limits for each client know it.
    pub(crate) fn client(self) -> ClientAddress {
        match self {
            Self::Ip(address) => ClientAddress::of(address.ip()),
            Self::Unix => ClientAddress::Unix,
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(out),
            Self::Unix => out.write_str("unix"),
        }
    }
}

impl Serialize for PeerAddress {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Who a client is, whichever of its connections it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAddress {
    /// A canonical one: IPv4 is not mapped into IPv6.
    Ip(IpAddr),
    /// Whoever may connect to a Unix socket: all of them are one client.
    Unix,
}

impl ClientAddress {
    pub fn of(address: IpAddr) -> Self {
        Self::Ip(address.to_canonical())
    }

    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address),
            Self::Unix => None,
        }
    }
}

impl Serialize for ClientAddress {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<T: Into<IpAddr>> From<T> for ClientAddress {
    fn from(address: T) -> Self {
        Self::of(address.into())
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(out),
            Self::Unix => out.write_str("unix"),
        }
    }
}

impl FromStr for ClientAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unix" => Ok(Self::Unix),
            text => text.parse().map(Self::of).map_err(|_| "an IP address or \"unix\"".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_out_as_they_went_in() {
        for text in ["127.0.0.1:80", "[::1]:0", "unix:/run/app.sock", "unix:@app", "unix:/a b"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            let json = serde_json::to_string(&address).unwrap();
            assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
        }
    }

    #[test]
    fn what_the_kernel_has_no_room_for_is_no_address() {
        let longest = |first: char| format!("unix:{first}{}", "x".repeat(UNIX_BYTES_MAX - 1));
        assert!(longest('/').parse::<Address>().is_ok());
        assert!(longest('@').parse::<Address>().is_ok());
        let long = format!("{}x", longest('/'));
        assert!(long.parse::<Address>().unwrap_err().contains("this one has 108"));
        assert!(format!("{}xx", longest('@')).parse::<Address>().is_err());
        for text in ["unix:", "unix:/", "unix:@", "unix:run", "unix:/a/", "unix:/a\0", "unix:/\n"] {
            assert!(text.parse::<Address>().unwrap_err().contains("absolute path"), "{text:?}");
        }
    }

    #[test]
    fn a_host_that_is_called_unix_is_one() {
        assert!(!is_unix("unix:8080") && !is_unix("unix") && is_unix("unix:/x"));
    }

    #[test]
    fn an_address_is_no_larger_than_one_of_tcp() {
        assert_eq!(size_of::<Address>(), size_of::<SocketAddr>());
        assert_eq!(size_of::<PeerAddress>(), size_of::<SocketAddr>());
    }

    #[test]
    fn equal_texts_are_kept_once() {
        let [first, second] = ["/run/a", "/run/a"].map(|name| UnixAddress::new(name).unwrap());
        assert!(std::ptr::eq(first.name(), second.name()));
    }
}
