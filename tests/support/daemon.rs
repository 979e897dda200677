//! A server of somebody else's, in a process of its own that ends with the test.
//!
//! Comes in: how it is started and where it listens. Goes out: nothing before it listens there.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait_until;

pub(crate) struct Daemon(Child);

impl Daemon {
    /// Starts what listens at `address`.
    #[track_caller]
    pub(crate) fn at(address: SocketAddr, command: Command) -> Self {
        Self::start(command, || TcpStream::connect(address).is_ok())
    }

    #[track_caller]
    pub(crate) fn start(mut command: Command, listens: impl Fn() -> bool) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = Self(command.spawn().expect("it can be started"));
        wait_until("a server listens", listens);
        daemon
    }
}

impl Daemon {
    /// Sends it a signal: to stop it, to let it go on, to end it without a word.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).expect("it is there");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SIGTERM, so that its workers end too; a stopped one hears it when it goes on.
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGCONT);
        let _ = self.0.wait();
    }
}

/// An address for a server that cannot choose a port itself: free just now. Where somebody else
/// takes it meanwhile, the server does not start, and the test says so.
pub(crate) fn free_address() -> SocketAddr {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    free.local_addr().expect("a bound listener")
}
