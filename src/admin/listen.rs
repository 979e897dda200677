//! The admin address: its socket, over TCP or as a file.
//!
//! In goes the address of the configuration; out comes a socket that listens, nothing at all, or
//! one line with cause and cure. The file of a Unix socket is ours alone to open. Nothing is
//! accepted here.

use std::io;
use std::net::{self, IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net as unix;
use std::path::Path;

use socket2::Socket;

use super::neighbour::Neighbour;
use crate::config::{AdminAddress, AdminConfig};
use crate::unix_socket::{self, SocketFile};

/// Fits Docker's and systemd's habits: only this account may connect.
const SOCKET_MODE: u32 = 0o600;

const BACKLOG: u32 = 128;

/// The admin address of a configuration that says nothing about it.
const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(net::Ipv4Addr::LOCALHOST), 9901);

/// A socket that listens.
#[derive(Debug)]
pub(crate) enum AdminSocket {
    Tcp(net::TcpListener),
    Unix(unix::UnixListener, SocketFile),
}

impl AdminSocket {
    /// `None` where nothing shall listen, or where something else listens on the address that the
    /// operator has not chosen. The error is one line with cause and cure.
    ///
    /// `inherited` is the socket of a process that this one takes over from, and is used if it is
    /// that of the address.
    pub(crate) fn open(
        config: &AdminConfig,
        inherited: Option<OwnedFd>,
    ) -> Result<Option<Self>, String> {
        if !config.enabled {
            return Ok(None);
        }
        if let Some(socket) = inherited.and_then(|socket| Self::adopt(&config.address, socket)) {
            return Ok(Some(socket));
        }
        match &config.address {
            AdminAddress::Tcp(address) => Self::open_tcp(*address, DEFAULT_ADDRESS),
            AdminAddress::Unix(path) => listen_unix(path)
                .map(|(listener, file)| Some(Self::Unix(listener, file)))
                .map_err(|error| cannot_listen_unix(path, &error)),
        }
    }

    fn adopt(address: &AdminAddress, socket: OwnedFd) -> Option<Self> {
        let socket = Socket::from(socket);
        let own = socket.local_addr().ok()?;
        match address {
            AdminAddress::Tcp(address) => {
                let own = own.as_socket()?;
                let is_it = own.ip() == address.ip()
                    && (address.port() == 0 || own.port() == address.port());
                is_it.then(|| Self::Tcp(socket.into()))
            }
            AdminAddress::Unix(path) => {
                let is_it = own.as_pathname() == Some(path.as_path());
                let listener = unix::UnixListener::from(OwnedFd::from(socket));
                is_it.then(|| Self::Unix(listener, SocketFile::lent(path)))
            }
        }
    }

    /// From here on its file is this process's to remove: until then one that was taken over is
    /// that of the process that may have to go on with it.
    pub(super) fn claim(&mut self) {
        if let Self::Unix(_, file) = self {
            file.claim();
        }
    }

    /// Another descriptor of its socket.
    pub(super) fn share(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Self::Unix(listener, _) => listener.as_fd().try_clone_to_owned(),
        }
    }

    fn open_tcp(address: SocketAddr, unchosen: SocketAddr) -> Result<Option<Self>, String> {
        match listen_tcp(address) {
            Ok(listener) => Ok(Some(Self::Tcp(listener))),
            Err(error) if is_taken(&error) && address == unchosen => {
                let holder = match Neighbour::at(address) {
                    Some(ringway) => format!(
                        "another ringway has {address} ({ringway}), and answers what commands \
                         without --url ask"
                    ),
                    None => format!("{address} is in use"),
                };
                tracing::warn!(
                    "no admin API: {holder}. Set admin.address to another one, or admin.enabled \
                     to false"
                );
                Ok(None)
            }
            Err(error) => Err(cannot_listen_tcp(address, &error)),
        }
    }

    /// Where it listens, if that is an address.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// Of its file.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Unix(_, file) => Some(file.path()),
            Self::Tcp(_) => None,
        }
    }

    /// For the log.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Tcp(_) => self.address().map(|address| address.to_string()).unwrap_or_default(),
            Self::Unix(_, file) => format!("unix:{}", file.path().display()),
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

fn listen_tcp(address: SocketAddr) -> io::Result<net::TcpListener> {
    let listener = net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn cannot_listen_tcp(address: SocketAddr, error: &io::Error) -> String {
    let cure = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there (`ss -ltnp` shows which); choose another admin.address"
        }
        io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address",
        io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE",
        _ => "see admin.address",
    };
    format!("the admin API cannot listen on {address}: {error}: {cure}")
}

fn listen_unix(path: &Path) -> io::Result<(unix::UnixListener, SocketFile)> {
    let (socket, file) = unix_socket::listen(path, SOCKET_MODE, BACKLOG)?;
    Ok((OwnedFd::from(socket).into(), file))
}

fn cannot_listen_unix(path: &Path, error: &io::Error) -> String {
    let cure = unix_socket::cure(error, "admin.address");
    format!("the admin API cannot listen on unix:{}: {error}: {cure}", path.display())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_port_that_is_taken_is_an_error_unless_nobody_chose_it() {
        let taken = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert!(AdminSocket::open_tcp(address, address).unwrap().is_none());
        let error = AdminSocket::open_tcp(address, DEFAULT_ADDRESS).unwrap_err();
        assert!(error.contains(&format!("cannot listen on {address}")), "{error}");
        assert!(error.contains("choose another admin.address"), "{error}");
        let elsewhere = "192.0.2.1:9".parse().unwrap();
        let error = AdminSocket::open_tcp(elsewhere, elsewhere).unwrap_err();
        assert!(error.contains("no interface of this machine"), "{error}");
    }

    fn open_unix(path: &Path) -> Result<Option<AdminSocket>, String> {
        let address = AdminAddress::Unix(path.to_owned());
        AdminSocket::open(&AdminConfig { address, ..AdminConfig::default() }, None)
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_socket_file_is_private_and_goes_with_its_owner() {
        let folder = folder("socket");
        let path = folder.join("admin.sock");
        let socket = open_unix(&path).unwrap().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(socket.name(), format!("unix:{}", path.display()));
        let error = open_unix(&path).unwrap_err();
        assert!(error.contains("another process listens there"), "{error}");
        drop(socket);
        assert!(!path.exists());
        // A file that has taken its place is somebody else's.
        let socket = open_unix(&path).unwrap().unwrap();
        fs::remove_file(&path).unwrap();
        let other = unix::UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
        drop(other);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced_and_anything_else_is_not() {
        let folder = folder("stale");
        let path = folder.join("admin.sock");
        drop(unix::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let Some(AdminSocket::Unix(listener, file)) = open_unix(&path).unwrap() else {
            panic!("no socket")
        };
        let mut client = unix::UnixStream::connect(&path).unwrap();
        client.write_all(b"?").unwrap();
        listener.set_nonblocking(false).unwrap();
        listener.accept().unwrap().0.read_exact(&mut [0]).unwrap();
        drop((listener, file));
        fs::write(&path, "precious").unwrap();
        let error = open_unix(&path).unwrap_err();
        assert!(error.contains("a file that is no socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let error = open_unix(&folder.join("none/admin.sock")).unwrap_err();
        assert!(error.contains("its folder does not exist"), "{error}");
        let error = open_unix(&folder.join("x".repeat(120))).unwrap_err();
        assert!(error.contains("107 bytes at most"), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }
}
