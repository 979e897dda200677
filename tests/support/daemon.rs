//! A server of somebody else's, in a process of its own that ends with the test.
//!
//! Comes in: how it is started and where it listens. Goes out: nothing before it listens there.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

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

/// An address for a server that cannot choose a port itself. Of those that the kernel never gives
/// to whoever asks for any: one of these, free just now, would sooner or later be another test's by
/// the time that the server has started.
pub(crate) fn free_address() -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id().wrapping_mul(7_919) % 20_000).unwrap_or_default();
    loop {
        let turn = TAKEN.fetch_add(1, Ordering::Relaxed);
        // Below net.ipv4.ip_local_port_range.
        let port = 12_000 + (start + turn % 10_000) % 20_000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
        assert!(turn < 20_000, "no port is free");
    }
}
