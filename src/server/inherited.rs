//! Listening sockets that were open before ringway was: systemd's socket activation.
//!
//! In come LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES with the descriptors from 3 on, as
//! sd_listen_fds(3) has them; out come listening sockets, of TCP or of this machine, with their
//! addresses, or one line that names the descriptor, the cause and the cure. Nothing here binds,
//! and nothing is accepted.

use std::env;
use std::os::fd::OwnedFd;

use listenfd::ListenFd;
use socket2::{SockAddr, Socket};

use crate::address::{Address, UnixAddress};
use crate::observe::logging::LogMeter;
use crate::server::privileges::Identity;
use crate::worker::history::Source;

/// A listening socket and whom to thank for it.
#[derive(Debug)]
pub struct Inherited {
    pub address: Address,
    pub socket: Socket,
    /// FileDescriptorName= of the unit; "unknown" where there is none.
    pub name: String,
    /// The process that opened it goes on listening: it must be let go and not ended.
    pub is_shared: bool,
}

/// No configuration has more.
const COUNT_MAX: usize = 256;

const CURE: &str = "In the socket unit use ListenStream=ADDRESS:PORT or ListenStream=/PATH and \
     Accept=no, and nothing else that listens";

/// Takes over what the service manager has opened; empty where there is no such thing.
///
/// To be called once, before anything else opens a descriptor, and before there are other threads:
/// it takes LISTEN_FDS and LISTEN_PID out of the environment, so that no child believes that it is
/// meant. LISTEN_FDNAMES stays, which says nothing without them.
pub fn take() -> Result<Vec<Inherited>, String> {
    let variable = |name| env::var(name).unwrap_or_default();
    let count = variable("LISTEN_FDS");
    let names = variable("LISTEN_FDNAMES");
    let first = variable("LISTEN_FDS_FIRST_FD").parse().unwrap_or(3);
    let is_ours = is_ours(&variable("LISTEN_PID"));
    if is_ours && !count.is_empty() {
        check_count(&count)?;
    }
    let mut passed = ListenFd::from_env();
    (0..passed.len())
        .map(|index| {
            let name = name(&names, index);
            let refused = |cause: &str| refusal(first + index, &name, cause);
            let listener = match passed.take_tcp_listener(index) {
                Ok(listener) => listener.map(Socket::from),
                Err(error) => match passed.take_unix_listener(index) {
                    Ok(listener) => listener.map(Socket::from),
                    Err(_) => return Err(refused(&error.to_string())),
                },
            };
            adopt(listener.ok_or_else(|| refused("it was taken twice"))?, name.clone())
                .map_err(|cause| refused(&cause))
        })
        .collect()
}

/// A process that another one has started without clearing the variables is not meant by them.
fn is_ours(pid: &str) -> bool {
    pid.is_empty() || pid.parse() == Ok(std::process::id())
}

fn check_count(count: &str) -> Result<(), String> {
    match count.parse::<usize>() {
        Ok(0..=COUNT_MAX) => Ok(()),
        _ => Err(format!(
            "LISTEN_FDS is {count:?}, expected the number of inherited sockets, 0 to {COUNT_MAX}: \
             unset it, or let systemd set it"
        )),
    }
}

/// The name of the descriptor at `index`, of those that stand between colons.
fn name(names: &str, index: usize) -> String {
    names.split(':').nth(index).filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned()
}

/// What is no socket, or no stream, has been refused already.
fn adopt(listener: Socket, name: String) -> Result<Inherited, String> {
    match listener.is_listener() {
        Ok(true) => {}
        Ok(false) => return Err("it does not listen".to_owned()),
        Err(error) => return Err(error.to_string()),
    }
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let address = address_of(&address).ok_or("its address is of no known kind")?;
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    Ok(Inherited { address, socket: listener, name, is_shared: true })
}

/// Of the kernel, as configurations have it.
fn address_of(address: &SockAddr) -> Option<Address> {
    let name = match (address.as_pathname(), address.as_abstract_namespace()) {
        (Some(path), _) => path.to_str().map(str::to_owned),
        (None, Some(name)) => std::str::from_utf8(name).ok().map(|name| format!("@{name}")),
        (None, None) => return address.as_socket().map(Address::Tcp),
    };
    name.as_deref().and_then(UnixAddress::new).map(Address::Unix)
}

fn refusal(descriptor: usize, name: &str, cause: &str) -> String {
    format!(
        "file descriptor {descriptor} ({name}), which the service manager passed on, is no \
         listening TCP or Unix socket: {cause}. {CURE}"
    )
}

/// What a server begins with beside its configuration.
#[derive(Default)]
pub struct Inheritance {
    /// Listening sockets of an earlier process.
    pub listeners: Vec<Inherited>,
    /// The socket of its admin API.
    pub admin: Option<OwnedFd>,
    /// The event log, where there is one.
    pub events: Option<LogMeter>,
    /// Where the configuration comes from.
    pub(crate) source: Source,
    /// Whom to become.
    pub(crate) identity: Option<Identity>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_is_named_is_meant() {
        assert!(is_ours(""));
        assert!(is_ours(&std::process::id().to_string()));
        for other in ["1", "0", "-1", "x", "4294967296"] {
            assert!(!is_ours(other), "{other}");
        }
    }

    #[test]
    fn a_count_that_is_none_is_refused_with_its_variable() {
        for count in ["0", "1", "256"] {
            assert_eq!(check_count(count), Ok(()));
        }
        for count in ["257", "-1", "two", " 1", "99999999999999999999"] {
            let error = check_count(count).unwrap_err();
            assert!(error.contains("LISTEN_FDS") && error.contains(count), "{error}");
        }
    }

    #[test]
    fn names_stand_between_colons() {
        assert_eq!(name("http:admin", 0), "http");
        assert_eq!(name("http:admin", 1), "admin");
        for (names, index) in [("", 0), ("http", 1), ("http::x", 1)] {
            assert_eq!(name(names, index), "unknown", "{names} {index}");
        }
    }

    #[test]
    fn a_listening_socket_is_adopted_and_does_not_block() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inherited = adopt(listener.into(), "http".to_owned()).unwrap();
        assert_eq!((inherited.address, &*inherited.name), (address.into(), "http"));
        assert!(inherited.socket.nonblocking().unwrap());
    }

    #[test]
    fn a_socket_that_does_not_listen_is_refused() {
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        assert_eq!(adopt(socket, String::new()).unwrap_err(), "it does not listen");
        let text = refusal(4, "http", "it does not listen");
        for word in ["file descriptor 4 (http)", "does not listen", "ListenStream=", "Accept=no"] {
            assert!(text.contains(word), "{word:?} is not in {text:?}");
        }
    }
}
