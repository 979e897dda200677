//! Signals at moments at which nobody expects them: SIGTERM while an upgrade is under way.
//!
//! Comes in: both signals, at several distances. Goes out: whoever is left serves, be it that the
//! hand-over was done; and when he is told to end as well, no process is left and the port is free.

use crate::backend::Backend;
use crate::subject::shared;
use crate::support::{Client, Setup, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The processes whose command line names the directory. Ends those that a failed case left.
struct Family(PathBuf);

impl Family {
    fn of(home: &Path) -> Self {
        Self(home.to_owned())
    }

    fn members(&self) -> Vec<Pid> {
        let home = self.0.to_string_lossy();
        let all = fs::read_dir("/proc").expect("/proc").flatten();
        let is_member = |entry: &fs::DirEntry| {
            // A process that has ended and was not reaped has an empty one.
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&*home)
        };
        let members = all.filter(is_member);
        members.filter_map(|e| Some(Pid::from_raw(e.file_name().to_str()?.parse().ok()?))).collect()
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        for pid in self.members() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

fn serves(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
        && Client::connect(address)
            .send("GET /page HTTP/1.1\r\nHost: a\r\n\r\n")
            .read_head()
            .is_some()
}

#[test]
fn a_stop_during_an_upgrade_leaves_nobody_who_does_not_serve() {
    let _machine = shared();
    for delay_ms in [0, 1, 3, 10, 30, 60, 100, 150, 250, 500] {
        let backend = Backend::start();
        let mut proxy = Setup::to_url(&backend.url()).set("server.drain_timeout", "2s").start();
        let (address, family) = (proxy.address(), Family::of(proxy.home()));
        proxy.signal(Signal::SIGUSR2);
        thread::sleep(Duration::from_millis(delay_ms));
        // By then it may have handed over and ended already.
        if !family.members().is_empty() {
            proxy.signal(Signal::SIGTERM);
        }
        proxy.wait_for_end();
        wait_until(&format!("whoever is left after {delay_ms} ms serves"), || {
            family.members().is_empty() || serves(address)
        });
        for pid in family.members() {
            let _ = kill(pid, Signal::SIGTERM);
        }
        wait_until(&format!("nobody is left after {delay_ms} ms"), || family.members().is_empty());
        assert!(TcpStream::connect(address).is_err(), "somebody listens after {delay_ms} ms");
    }
}
