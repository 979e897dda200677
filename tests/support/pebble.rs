//! A certificate authority for tests: Debian's pebble, with names that a test decides about.
//!
//! Comes in: a proxy's configuration, and where its ports turned out to be. Goes out: an ACME
//! directory on loopback whose validations reach that proxy, by fronts whose ports are known before
//! the proxy runs. Where pebble is not installed, a test learns so before it begins.

use super::{DEADLINE, Home, NameServer, Pair, Setup, installed, wait_until};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// Names below it have no address.
pub(crate) const NOWHERE: &str = "nowhere.test";

/// A port that leads to another one. Until that is known, who connects waits.
pub(crate) struct Front {
    port: u16,
    state: Arc<(Mutex<FrontState>, Condvar)>,
}

#[derive(Default)]
struct FrontState {
    behind: Behind,
    connections: usize,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Behind {
    #[default]
    Unknown,
    Nobody,
    Somebody(SocketAddr),
}

impl Front {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let state = Arc::<(Mutex<FrontState>, Condvar)>::default();
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = shared.clone();
                thread::spawn(move || {
                    let mut state = shared.0.lock().expect("no panic");
                    state.connections += 1;
                    let is_unknown = |state: &mut FrontState| state.behind == Behind::Unknown;
                    let waited = shared.1.wait_timeout_while(state, DEADLINE, is_unknown);
                    let behind = waited.expect("no panic").0.behind;
                    if let Behind::Somebody(address) = behind {
                        pass(client, address);
                    }
                });
            }
        });
        Self { port, state }
    }

    pub(crate) fn lead_to(&self, address: SocketAddr) {
        self.lead(Behind::Somebody(address));
    }

    pub(crate) fn lead_nowhere(&self) {
        self.lead(Behind::Nobody);
    }

    fn lead(&self, behind: Behind) {
        self.state.0.lock().expect("no panic").behind = behind;
        self.state.1.notify_all();
    }

    /// So far.
    pub(crate) fn connections(&self) -> usize {
        self.state.0.lock().expect("no panic").connections
    }
}

/// Both ways, until either side ends.
fn pass(client: TcpStream, behind: SocketAddr) {
    let Ok(server) = TcpStream::connect_timeout(&behind, DEADLINE) else { return };
    let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { return };
    thread::spawn(move || copy(from, to));
    copy(server, client);
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
}

pub(crate) struct Pebble {
    program: PathBuf,
    home: Home,
    port: u16,
    pair: Pair,
    pub(crate) http: Front,
    pub(crate) tls: Front,
    names: NameServer,
    validity_s: u64,
    running: Option<Running>,
}

struct Running {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pebble {
    /// One whose certificates are good for so long, and that is not there yet. Nothing where it is
    /// not installed.
    pub(crate) fn prepare(validity: Duration) -> Option<Self> {
        let program = installed("pebble")?;
        let names = NameServer::anywhere(|question| {
            let is_nowhere = question.name.ends_with(NOWHERE);
            Some(if is_nowhere { Vec::new() } else { vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] })
        });
        // It cannot tell which port it was given.
        let port = free_port();
        let pair = Pair::of(&["127.0.0.1", "localhost"]);
        let (http, tls) = (Front::new(), Front::new());
        let (validity_s, home) = (validity.as_secs(), Home::new());
        Some(Self { program, home, port, pair, http, tls, names, validity_s, running: None })
    }

    /// The same, which is there.
    pub(crate) fn start(validity: Duration) -> Option<Self> {
        let mut pebble = Self::prepare(validity)?;
        pebble.begin();
        Some(pebble)
    }

    #[track_caller]
    pub(crate) fn begin(&mut self) {
        let chain = self.home.write("directory.pem", &self.pair.chain);
        let key = self.home.write("directory.key", &self.pair.key);
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.port),
            "managementListenAddress": "",
            "certificate": chain,
            "privateKey": key,
            "httpPort": self.http.port,
            "tlsPort": self.tls.port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": self.validity_s,
        }});
        let config = self.home.write("pebble.json", &config.to_string());
        let mut command = Command::new(&self.program);
        command.arg("-config").arg(config).arg("-dnsserver").arg(self.names.address().to_string());
        // Some nonces are refused, as they may be; no authorization is used twice.
        command.envs([("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "5")]);
        command.env("PEBBLE_AUTHZREUSE", "0");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("pebble can be started");
        let log = Arc::<Mutex<String>>::default();
        follow(child.stdout.take().expect("piped"), &log);
        follow(child.stderr.take().expect("piped"), &log);
        self.running = Some(Running { child, log });
        wait_until("pebble listens", || self.log().contains("Listening on"));
    }

    /// Nobody answers any more.
    pub(crate) fn end(&mut self) {
        self.running = None;
    }

    /// What it has said since it began.
    pub(crate) fn log(&self) -> String {
        let running = self.running.as_ref().expect("it runs");
        running.log.lock().expect("no panic").clone()
    }

    /// Certificates that it has issued since it began.
    pub(crate) fn issued(&self) -> usize {
        self.log().matches("Issued certificate serial").count()
    }

    /// Has a proxy order from here. It listens without TLS first, and with TLS last.
    pub(crate) fn setup(&self, setup: Setup, domains: &[&str], more: &str) -> Setup {
        let directory = self.directory();
        let table = format!(
            "[tls.acme]\ndomains = {domains:?}\naccept_terms = true\ndirectory = {directory:?}\n\
             directory_ca = \"directory.pem\"\n{more}"
        );
        setup.file("directory.pem", &self.pair.chain).listens_with_tls().table(&table)
    }

    pub(crate) fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// Who vouches for the directory itself.
    pub(crate) fn authority(&self) -> &str {
        &self.pair.chain
    }

    /// Lets validations reach a proxy that listens at `addresses`.
    pub(crate) fn reach(&self, addresses: &[SocketAddr]) {
        self.http.lead_to(addresses[0]);
        self.tls.lead_to(*addresses.last().expect("it listens"));
    }
}

/// One below those that the system gives away, so that nobody else gets it meanwhile.
fn free_port() -> u16 {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let own = (std::process::id() % 97) as u16 * 100;
    let ports = || 20_000 + own + COUNT.fetch_add(1, Ordering::Relaxed) % 100;
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    std::iter::repeat_with(ports).take(100).find(is_free).expect("a free port")
}

fn follow(mut from: impl Read + Send + 'static, log: &Arc<Mutex<String>>) {
    let log = log.clone();
    thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            log.lock().expect("no panic").push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    });
}
