//! The listening sockets of the data port: bound, taken over from the process that had them, handed
//! on, and closed without refusing anybody who was let in.
//!
//! In go the addresses of a configuration; out come sockets, each with a number that no other one
//! of the process has, or one line with cause and cure. Nothing is served here.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::address::{Address, UnixAddress};
use crate::config::{Config, ListenerConfig};
use crate::ring::{options, peer_of};
use crate::server::inherited::Inherited;
use crate::unix_socket::{self, SocketFile};
use crate::worker::mailbox::WorkerCommand;
use crate::worker::shared::{Accepted, Shared};

/// One listening socket.
pub(crate) struct Listening {
    pub number: u16,
    /// As the configuration has it: its port may be 0.
    configured: ListenerConfig,
    /// As it was bound.
    pub address: Address,
    socket: Socket,
    /// Of a Unix socket, unless its name is abstract or the service manager has it too.
    file: Option<SocketFile>,
    /// The service manager has it too, and goes on listening.
    is_shared: bool,
}

/// All of them, in the order of the configuration.
#[derive(Default)]
pub(crate) struct Sockets {
    list: Vec<Listening>,
    last_number: u16,
    /// Of sockets that were taken over and are of no use here.
    unused: Vec<SocketFile>,
}

/// A socket that is handed to another process.
pub struct Lent<'a> {
    pub address: Address,
    pub is_shared: bool,
    pub socket: BorrowedFd<'a>,
}

/// What the next configuration listens on.
pub(crate) struct NextSockets {
    list: Vec<Entry>,
}

enum Entry {
    /// By its place in the list that is in use, with what the configuration says of it now.
    Kept(usize, ListenerConfig),
    New(Listening),
}

impl Sockets {
    /// The addresses listened on, with the ports that were chosen for port 0.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.list.iter().map(|listening| listening.address).collect()
    }

    pub(crate) fn numbers(&self) -> Vec<u16> {
        self.list.iter().map(|listening| listening.number).collect()
    }

    /// Of Unix sockets that this process has bound.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.list.iter().filter_map(|listening| listening.file.as_ref()).map(SocketFile::path)
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// What another process needs to take over.
    pub(crate) fn lend(&self) -> impl Iterator<Item = Lent<'_>> {
        self.list.iter().map(|listening| Lent {
            address: listening.address,
            is_shared: listening.is_shared,
            socket: listening.socket.as_fd(),
        })
    }

    /// One descriptor of each, for a worker that accepts from all of them.
    pub(crate) fn share(&self) -> Result<Vec<(u16, OwnedFd)>, String> {
        self.list.iter().map(|listening| Ok((listening.number, listening.share()?))).collect()
    }

    /// Binds what `config` names and is not listened on yet; nothing of it is in use before
    /// [`Sockets::commit`]. What fits in `inherited` is taken out of it instead.
    pub(crate) fn prepare(
        &mut self,
        config: &Config,
        inherited: &mut Vec<Inherited>,
    ) -> Result<NextSockets, String> {
        let mut list = Vec::new();
        for wanted in &config.server.listeners {
            let address = wanted.address;
            // Two of them may leave the choice of a port to the system.
            let is_taken = |index: usize| {
                list.iter().any(|entry| matches!(entry, Entry::Kept(kept, _) if *kept == index))
            };
            let mut own = self.list.iter().enumerate();
            let kept =
                own.position(|(index, own)| own.configured.address == address && !is_taken(index));
            if let Some(index) = kept {
                // Whatever the length of its queue was, listen(2) says anew.
                self.list[index].set_backlog(config.server.backlog)?;
                self.list[index].set_options(config.pool.tcp_keepalive)?;
                list.push(Entry::Kept(index, wanted.clone()));
                continue;
            }
            let found = take_fitting(inherited, address);
            let is_shared = found.as_ref().is_some_and(|found| found.is_shared);
            let Bound { address, socket, file } = match found {
                Some(found) => Bound::taken_over(found, wanted),
                None => self.bind(wanted, config.server.backlog)?,
            };
            self.last_number = self.last_number.wrapping_add(1);
            let (number, configured) = (self.last_number, wanted.clone());
            let listening = Listening { number, configured, address, socket, file, is_shared };
            listening.set_options(config.pool.tcp_keepalive)?;
            list.push(Entry::New(listening));
        }
        Ok(NextSockets { list })
    }

    /// Puts `next` in use; the sockets that it has no place for come out.
    pub(crate) fn commit(&mut self, next: NextSockets) -> Vec<Listening> {
        let mut before: Vec<_> = std::mem::take(&mut self.list).into_iter().map(Some).collect();
        let place = |place| match place {
            Entry::Kept(index, config) => {
                let mut kept = before.get_mut(index).and_then(Option::take);
                if let Some(kept) = &mut kept {
                    kept.configure(config);
                }
                kept
            }
            Entry::New(listening) => Some(listening),
        };
        self.list = next.list.into_iter().filter_map(place).collect();
        before.into_iter().flatten().collect()
    }

    /// Ends the listening: clients that were let in are served, later ones are refused.
    pub(crate) fn close(&mut self, shared: &Shared) {
        self.list.iter_mut().for_each(|listening| listening.close(shared));
    }

    /// Says of a socket that was taken over that it is of no use.
    pub(crate) fn retire(&mut self, inherited: &Inherited) {
        let path = inherited.address.unix().and_then(UnixAddress::path);
        self.unused.extend(path.filter(|_| !inherited.is_shared).map(SocketFile::lent));
    }

    /// The files of what was taken over are this process's from here on.
    pub(crate) fn claim(&mut self) {
        let unused = std::mem::take(&mut self.unused);
        let files = self.list.iter_mut().filter_map(|own| own.file.as_mut());
        files.for_each(SocketFile::claim);
        for mut file in unused {
            file.claim();
        }
    }

    /// Leaves the files to the process that has taken the sockets over.
    pub(crate) fn leave(&mut self) {
        for own in &mut self.list {
            own.file.take().into_iter().for_each(SocketFile::leave);
        }
    }

    /// Whether `listener` could be listened on now.
    pub(crate) fn try_bind(&self, listener: &ListenerConfig, backlog: u32) -> Result<(), String> {
        self.bind(listener, backlog).map(drop)
    }

    fn bind(&self, listener: &ListenerConfig, backlog: u32) -> Result<Bound, String> {
        let address = match listener.address {
            Address::Tcp(address) => address,
            Address::Unix(address) => {
                return listen_here(address, listener.mode(), backlog).map_err(|error| {
                    let cure = unix_socket::cure(&error, "server.listen");
                    format!("cannot listen on {address}: {error}: {cure}")
                });
            }
        };
        listen(address, backlog).map_err(|error| {
            let is_ours = |own: &&Listening| {
                own.address.tcp().is_some_and(|own| own.port() == address.port())
            };
            match self.list.iter().find(is_ours) {
                Some(own) if error.kind() == io::ErrorKind::AddrInUse => format!(
                    "cannot listen on {address} while {} is listened on, and closing that first \
                     would refuse connections: restart, or choose another port",
                    own.address
                ),
                _ => cannot_listen(address, &error),
            }
        })
    }
}

impl NextSockets {
    /// The addresses as they are bound, and the numbers.
    pub(crate) fn describe(&self, before: &Sockets) -> (Vec<Address>, Vec<u16>) {
        let listening = self.list.iter().map(|place| match place {
            Entry::Kept(index, _) => &before.list[*index],
            Entry::New(listening) => listening,
        });
        listening.map(|listening| (listening.address, listening.number)).unzip()
    }

    /// The numbers of those that were not listened on before, with a descriptor for a worker.
    pub(crate) fn share_new(&self) -> Result<Vec<(u16, OwnedFd)>, String> {
        let new = self.list.iter().filter_map(|place| match place {
            Entry::Kept(..) => None,
            Entry::New(listening) => Some(listening),
        });
        new.map(|listening| Ok((listening.number, listening.share()?))).collect()
    }
}

impl Listening {
    fn share(&self) -> Result<OwnedFd, String> {
        let shared = self.socket.as_fd().try_clone_to_owned();
        shared.map_err(|error| format!("a listening socket cannot be shared: {error}"))
    }

    /// What the configuration says of it from now on.
    fn configure(&mut self, config: ListenerConfig) {
        let file = self.file.as_ref().filter(|_| config.mode() != self.configured.mode());
        if let Some(Err(error)) = file.map(|file| file.set_mode(config.mode())) {
            tracing::warn!("the mode of {} stays as it is: {error}", self.address);
        }
        self.configured = config;
    }

    /// What it accepts from now on inherits them, if it is of TCP.
    fn set_options(&self, keepalive: Duration) -> Result<(), String> {
        if self.address.unix().is_some() {
            return Ok(());
        }
        options::set_options(&self.socket, keepalive)
            .map_err(|error| format!("{} cannot be set up: {error}", self.address))
    }

    fn set_backlog(&self, backlog: u32) -> Result<(), String> {
        let set = self.socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX));
        set.map_err(|error| format!("server.backlog cannot be {backlog}: {error}"))
    }

    /// Takes what has been waiting to be accepted, then completes the workers' pending accepts:
    /// closing a listening socket resets what is still in its queue.
    ///
    /// One that the service manager has too is left as it is: its end would be everybody's. Workers
    /// that leave, or are told so, take no more from it.
    pub(crate) fn close(&mut self, shared: &Shared) {
        // Nobody finds it from here on.
        self.file = None;
        if self.is_shared {
            for worker in shared.occupied() {
                shared.slots[worker].send(WorkerCommand::StopListening { index: self.number });
            }
            return;
        }
        let _ = self.socket.set_nonblocking(true);
        while let Ok((socket, peer)) = self.socket.accept() {
            let Ok(permit) = shared.clients.clone().try_acquire_owned() else { break };
            if let Some(peer) = peer_of(&peer) {
                let listener = self.number;
                shared.place(Accepted { fd: socket.into(), peer, permit, listener }, 0);
            }
        }
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// A socket that listens, and where.
struct Bound {
    address: Address,
    socket: Socket,
    file: Option<SocketFile>,
}

impl Bound {
    fn taken_over(found: Inherited, wanted: &ListenerConfig) -> Self {
        let Inherited { address, socket, is_shared, .. } = found;
        // The service manager's units say what mode its files have.
        let path = address.unix().and_then(UnixAddress::path).filter(|_| !is_shared);
        let file = path.map(SocketFile::lent);
        if let Some(Err(error)) = file.as_ref().map(|file| file.set_mode(wanted.mode())) {
            tracing::warn!("the mode of {address} stays as it is: {error}");
        }
        Self { address, socket, file }
    }
}

/// An address with port 0 takes whatever was bound for it.
fn take_fitting(inherited: &mut Vec<Inherited>, address: Address) -> Option<Inherited> {
    let fits = |own: &Inherited| match (own.address, address) {
        (Address::Tcp(own), Address::Tcp(address)) => {
            own.ip() == address.ip() && (address.port() == 0 || own.port() == address.port())
        }
        (own, address) => own == address,
    };
    let index = inherited.iter().position(fits)?;
    Some(inherited.swap_remove(index))
}

/// Binds without SO_REUSEPORT, so that a second instance is told that the port is in use.
fn listen(address: SocketAddr, backlog: u32) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier instance in TIME_WAIT must not keep the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Each family has its own listener; `[::]` shall not take IPv4's place.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?.as_socket().unwrap_or(address).into();
    Ok(Bound { address, socket, file: None })
}

fn listen_here(address: UnixAddress, mode: u32, backlog: u32) -> io::Result<Bound> {
    let (socket, file) = match address.path() {
        Some(path) => {
            let (socket, file) = unix_socket::listen(path, mode, backlog)?;
            (socket, Some(file))
        }
        None => (unix_socket::listen_abstract(&options::unix_address(address)?, backlog)?, None),
    };
    Ok(Bound { address: Address::Unix(address), socket, file })
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    let cure = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "another process listens there (`ss -ltnp` shows which); stop it or choose another \
             server.port"
        }
        Some(libc::EACCES) => {
            "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE, which a \
             process with server.user has given up by the time of a reload; choose a higher \
             server.port, or restart"
        }
        Some(libc::EADDRNOTAVAIL) => {
            "no interface of this machine has that address; see server.host"
        }
        _ => "see server.host, server.port and server.listen",
    };
    format!("cannot listen on {address}: {error}: {cure}")
}
