//! A name server whose answers a test decides, and a proxy that asks nobody else.
//!
//! Comes in: questions of the resolver under test. Goes out: addresses with a TTL of 0, "no such
//! name", or silence. The proxy is started in a mount namespace of its own, in which
//! `/etc/resolv.conf` and `/etc/hosts` are the test's. Where the system does not allow that, or has
//! no port 53 to give, a test learns so before it begins.

use super::{DEADLINE, Setup};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What a resolver wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// In lower case, without the root's dot.
    pub(crate) name: String,
    pub(crate) is_v6: bool,
}

/// Answers until it is dropped.
pub(crate) struct NameServer {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    answering: Option<JoinHandle<()>>,
}

/// What to answer: addresses, of which those of the asked family count; none is "no such name", and
/// no list at all is silence.
type Answer = dyn Fn(&Question) -> Option<Vec<IpAddr>> + Send;

/// One server of a service: priority, weight, port and name.
pub(crate) type Srv = (u16, u16, u16, String);

type Services = dyn Fn(&str) -> Vec<Srv> + Send;

const SRV: u16 = 33;
const A: u16 = 1;
const AAAA: u16 = 28;
const HEADER_BYTES: usize = 12;

impl NameServer {
    /// Nothing where nobody may listen on port 53.
    pub(crate) fn start(
        answer: impl Fn(&Question) -> Option<Vec<IpAddr>> + Send + 'static,
    ) -> Option<Self> {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        // Tests run side by side: each process and each server has an address of its own.
        let process = std::process::id().to_be_bytes();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let address = Ipv4Addr::new(127, 100 + (process[2] & 0x3f), process[3], count);
        Self::at((address, 53).into(), answer, |_| Vec::new())
    }

    /// At a port of its own, for `dns.servers`.
    pub(crate) fn anywhere(
        answer: impl Fn(&Question) -> Option<Vec<IpAddr>> + Send + 'static,
    ) -> Self {
        Self::with_services(answer, |_| Vec::new())
    }

    /// The same for one that knows services too.
    pub(crate) fn with_services(
        answer: impl Fn(&Question) -> Option<Vec<IpAddr>> + Send + 'static,
        services: impl Fn(&str) -> Vec<Srv> + Send + 'static,
    ) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), answer, services).expect("a free port")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn at(
        address: SocketAddr,
        answer: impl Fn(&Question) -> Option<Vec<IpAddr>> + Send + 'static,
        services: impl Fn(&str) -> Vec<Srv> + Send + 'static,
    ) -> Option<Self> {
        let socket = UdpSocket::bind(address).ok()?;
        let address = socket.local_addr().ok()?;
        socket.set_read_timeout(Some(Duration::from_millis(20))).ok()?;
        let is_over = Arc::<AtomicBool>::default();
        let answering = {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || serve(&socket, &is_over, (&answer, &services)))
        };
        Some(Self { address, is_over, answering: Some(answering) })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(answering) = self.answering.take() {
            let ended = answering.join();
            assert!(ended.is_ok() || thread::panicking(), "the name server failed");
        }
    }
}

fn serve(socket: &UdpSocket, is_over: &AtomicBool, answers: (&Answer, &Services)) {
    let mut packet = [0; 1_232];
    while !is_over.load(Ordering::Relaxed) {
        let (length, resolver) = match socket.recv_from(&mut packet) {
            Ok(received) => received,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            // A resolver that has gone shows here; the next one is answered all the same.
            Err(_) => continue,
        };
        if let Some(reply) = reply(&packet[..length], answers) {
            let _ = socket.send_to(&reply, resolver);
        }
    }
}

/// RFC 1035 §4: the header, the question as it came, and the addresses.
fn reply(packet: &[u8], (answer, services): (&Answer, &Services)) -> Option<Vec<u8>> {
    let mut labels: Vec<String> = Vec::new();
    let mut at = HEADER_BYTES;
    while packet[at] != 0 {
        let length = usize::from(packet[at]);
        labels.push(String::from_utf8_lossy(&packet[at + 1..=at + length]).to_lowercase());
        at += 1 + length;
    }
    let kind = u16::from_be_bytes([packet[at + 1], packet[at + 2]]);
    let end = at + 5;
    let question = Question { name: labels.join("."), is_v6: kind == AAAA };
    if kind == SRV {
        return Some(servers(&packet[..end], &services(&question.name)));
    }
    let addresses = if matches!(kind, A | AAAA) { answer(&question)? } else { Vec::new() };
    let is_known = !addresses.is_empty();
    let fitting: Vec<_> =
        addresses.into_iter().filter(|address| address.is_ipv6() == question.is_v6).collect();
    let mut reply = packet[..end].to_vec();
    // An authoritative answer, as recursive as was asked for; "no such name" where none is known.
    reply[2] = 0x84 | (packet[2] & 1);
    reply[3] = if is_known { 0x80 } else { 0x83 };
    let count = u16::try_from(fitting.len()).expect("a short list");
    for (index, count) in [(4, 1), (6, count), (8, 0), (10, 0)] {
        reply[index..index + 2].copy_from_slice(&u16::to_be_bytes(count));
    }
    for address in fitting {
        // A pointer to the name in the question, the class IN, and a TTL of 0.
        reply.extend_from_slice(&[0xc0, 0x0c, 0, packet[at + 2], 0, 1, 0, 0, 0, 0]);
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        reply.extend_from_slice(&[0, u8::try_from(octets.len()).expect("4 or 16")]);
        reply.extend_from_slice(&octets);
    }
    Some(reply)
}

/// RFC 2782: the question as it came, and the servers.
fn servers(question: &[u8], servers: &[Srv]) -> Vec<u8> {
    let mut reply = question.to_vec();
    reply[2] = 0x84 | (question[2] & 1);
    reply[3] = if servers.is_empty() { 0x83 } else { 0x80 };
    let count = u16::try_from(servers.len()).expect("a short list");
    for (index, count) in [(4, 1), (6, count), (8, 0), (10, 0)] {
        reply[index..index + 2].copy_from_slice(&u16::to_be_bytes(count));
    }
    for (priority, weight, port, name) in servers {
        let mut data = Vec::new();
        for number in [priority, weight, port] {
            data.extend_from_slice(&number.to_be_bytes());
        }
        for label in name.split('.') {
            data.push(u8::try_from(label.len()).expect("a short label"));
            data.extend_from_slice(label.as_bytes());
        }
        data.push(0);
        reply.extend_from_slice(&[0xc0, 0x0c, 0, SRV as u8, 0, 1, 0, 0, 0, 0]);
        reply.extend_from_slice(&u16::try_from(data.len()).expect("short").to_be_bytes());
        reply.extend_from_slice(&data);
    }
    reply
}

/// `unshare` with what it needs to mount.
fn unshare() -> &'static str {
    if nix::unistd::geteuid().is_root() { "unshare -m" } else { "unshare -rm" }
}

/// Whether a process may mount a file over another; says so where the test is skipped for it.
pub(crate) fn has_own_mounts() -> bool {
    let attempt = format!("{} mount --bind /etc/hosts /etc/hosts", unshare());
    let mut shell = Command::new("sh");
    shell.args(["-c", &attempt]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let may_mount = shell.status().is_ok_and(|status| status.success());
    if !may_mount {
        eprintln!("skipped: this process may not mount anything, not even for itself");
    }
    may_mount
}

impl Setup {
    /// Asks `server` for every name, whatever the machine says.
    pub(crate) fn asking(self, server: &NameServer) -> Self {
        self.set("dns.servers", [server.address.to_string()])
    }

    /// Runs where `hosts` is all that `/etc/hosts` says, and there is no name server.
    pub(crate) fn with_hosts(self, hosts: &str) -> Self {
        self.with_names(hosts, "")
    }

    /// Runs where `server` is asked for every name.
    pub(crate) fn with_name_server(self, server: &NameServer) -> Self {
        let patience = DEADLINE.as_secs();
        let resolv =
            format!("nameserver {}\noptions timeout:{patience} attempts:1\n", server.address.ip());
        self.with_names("127.0.0.1 localhost\n::1 localhost\n", &resolv)
    }

    fn with_names(self, hosts: &str, resolv: &str) -> Self {
        let mount = "mount --bind hosts /etc/hosts && mount --bind resolv.conf /etc/resolv.conf";
        let launcher =
            format!("exec {} sh -c '{mount} && exec \"$0\" \"$@\"' \"$0\" \"$@\"", unshare());
        self.file("hosts", hosts).file("resolv.conf", resolv).launched_by(&launcher)
    }
}
