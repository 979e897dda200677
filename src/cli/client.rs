//! Asks a ringway that runs: how it is (`ringway health`, for container engines and scripts), and
//! to do something (`ringway reload`, `ringway rollback`).
//!
//! In: addresses at which it may be asked. Out: its answer, and whether that is a good one. It is a
//! client in a process of its own: plain blocking calls with a limit of time, no names but
//! `localhost` without TLS, and no ring, which may be what is broken.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use super::explain::addresses;
use crate::address::Address;
use crate::config::{AdminAddress, Config, DnsConfig, ListenerConfig};
use crate::tls::blocking::{self, Belief};

/// For the whole question. Below the time-outs of those who run this: the image's HEALTHCHECK
/// allows 5 s.
const PATIENCE: Duration = Duration::from_secs(2);

/// For something that is to be done: somewhat more than the admin API gives it.
const ORDER_PATIENCE: Duration = Duration::from_secs(35);

/// The longest answer has a line per origin; more than this is not ringway's.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

const HEADER_COUNT_MAX: usize = 32;

const PATH: &str = "/health";

const URL_FORM: &str = "expected http://ADDRESS:PORT, with an IP address or localhost, \
     https://NAME:PORT, or unix:/PATH/OF/A/SOCKET";

/// Where to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Tcp {
        address: SocketAddr,
        /// What stands in the request line.
        path: String,
        /// Where it speaks TLS.
        tls: Option<Tls>,
    },
    Unix(PathBuf),
}

/// Who has to answer, and who vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    name: String,
    belief: Belief,
}

impl Target {
    /// The listener of a configuration, which may stand for every address of this machine.
    /// `None` for an abstract name, which no URL can say.
    pub(crate) fn listener(listener: &ListenerConfig) -> Option<Self> {
        match listener.address {
            Address::Tcp(address) => Some(Self::own(address, listener.is_tls)),
            Address::Unix(address) => address.path().map(Self::socket),
        }
    }

    /// The administration of a configuration; `None` where there is none.
    pub(crate) fn admin(config: &Config) -> Option<Self> {
        config.admin.enabled.then(|| match &config.admin.address {
            AdminAddress::Tcp(address) => Self::own(*address, config.admin.tls),
            AdminAddress::Unix(path) => Self::socket(path),
        })
    }

    /// An address that a ringway of this machine listens at. Nobody else can answer there, so that
    /// its certificate need not be for an address, nor be read anew the moment it is replaced.
    fn own(address: SocketAddr, is_tls: bool) -> Self {
        let Self::Tcp { address, path, .. } = Self::tcp(address) else { unreachable!() };
        let name = address.ip().to_string();
        let tls = is_tls.then_some(Tls { name, belief: Belief::Anybody });
        Self::Tcp { address, path, tls }
    }

    pub(crate) fn tcp(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let address = SocketAddr::new(ip, address.port());
        Self::Tcp { address, path: PATH.to_owned(), tls: None }
    }

    pub(crate) fn socket(path: &Path) -> Self {
        Self::Unix(path.to_owned())
    }

    /// What was typed behind `--url`; `belief` is for one with TLS.
    pub(crate) fn parse(url: &str, belief: &Belief) -> Result<Self, String> {
        let wrong = || format!("{url}: {URL_FORM}");
        if let Some(path) = url.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
            return Ok(Self::socket(Path::new(path)));
        }
        let secured = url.strip_prefix("https://");
        let rest = secured.or_else(|| url.strip_prefix("http://")).ok_or_else(wrong)?;
        let (authority, path) = match rest.find('/') {
            Some(end) if &rest[end..] != "/" => (&rest[..end], &rest[end..]),
            _ => (rest.trim_end_matches('/'), PATH),
        };
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong());
        }
        if secured.is_some() {
            let (name, address) = resolve(authority).map_err(|error| format!("{url}: {error}"))?;
            let tls = Some(Tls { name, belief: belief.clone() });
            return Ok(Self::Tcp { address, path: path.to_owned(), tls });
        }
        let address = match authority.strip_prefix("localhost") {
            Some("") => (Ipv4Addr::LOCALHOST, 80).into(),
            Some(port) => {
                let port = port.strip_prefix(':').and_then(|port| port.parse().ok());
                (Ipv4Addr::LOCALHOST, port.ok_or_else(wrong)?).into()
            }
            None => authority.parse().map_err(|_| wrong())?,
        };
        Ok(Self::Tcp { address, path: path.to_owned(), tls: None })
    }

    fn path(&self) -> &str {
        match self {
            Self::Tcp { path, .. } => path,
            Self::Unix(_) => PATH,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, path, tls: None } => write!(f, "http://{address}{path}"),
            Self::Tcp { address, path, tls: Some(tls) } => {
                write!(f, "https://{}:{}{path}", bracketed(&tls.name), address.port())
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn bracketed(name: &str) -> String {
    if name.contains(':') { format!("[{name}]") } else { name.to_owned() }
}

/// The name in `authority`, without brackets, and its first address.
fn resolve(authority: &str) -> Result<(String, SocketAddr), String> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            (host, port.parse().map_err(|_| URL_FORM.to_owned())?)
        }
        _ => (authority, 443),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let literal = host.parse::<IpAddr>().ok();
    let address = match (literal, host) {
        (Some(ip), _) => Some(SocketAddr::new(ip, port)),
        (None, "localhost") => Some((Ipv4Addr::LOCALHOST, port).into()),
        (None, host) => {
            let found = addresses::of_origins(
                &DnsConfig::default(),
                [addresses::Asked::host(host, port)].into_iter(),
            );
            let found = found.map_err(|error| error.to_string())?;
            found.into_iter().flatten().find_map(Address::tcp)
        }
    };
    let address = address.ok_or_else(|| "the name has no address".to_owned())?;
    Ok((host.to_owned(), address))
}

/// What ringway said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub code: u16,
    /// The body, which is JSON where ringway answered.
    pub body: String,
}

impl Report {
    /// The program that answered is a ringway, well or not.
    pub(crate) fn is_ringway(&self) -> bool {
        let body = serde_json::from_str::<Value>(&self.body).unwrap_or_default();
        body["status"].is_string() && body["config_generation"].is_u64()
    }

    /// It serves: perhaps with less memory than it would like, or with an alert.
    pub(crate) fn is_healthy(&self) -> bool {
        let body = serde_json::from_str::<Value>(&self.body).unwrap_or_default();
        self.code == 200 && matches!(body["status"].as_str(), Some("ok" | "degraded"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP {}\n{}", self.code, self.body.trim_end())
    }
}

/// Asks the first target that a ringway listens at to do something: `path` is that of the admin API
/// with its query. It may take as long as that takes there.
pub(crate) fn order(targets: &[Target], path: &str, token: Option<&str>) -> Result<Report, String> {
    change(targets, "POST", path, token)
}

/// The same with another method.
pub(crate) fn change(
    targets: &[Target],
    method: &str,
    path: &str,
    token: Option<&str>,
) -> Result<Report, String> {
    let authorization = authorization(token);
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n{authorization}\r\n"
    );
    first_of(targets, ORDER_PATIENCE, |_| request.clone())
}

/// Asks `target`; the error says what it was and why it gave no answer.
pub(crate) fn ask(target: &Target) -> Result<Report, String> {
    ask_any(std::slice::from_ref(target))
}

/// Asks the first target that a ringway listens at; where there is none, the error is that of the
/// first. One that listens and gives no answer is not well, whatever others say.
pub(crate) fn ask_any(targets: &[Target]) -> Result<Report, String> {
    first_of(targets, PATIENCE, |target| get(target.path(), ""))
}

/// Asks the first of them for `path` of the admin API.
pub(crate) fn ask_for(
    targets: &[Target],
    path: &str,
    token: Option<&str>,
) -> Result<Report, String> {
    let request = get(path, &authorization(token));
    first_of(targets, PATIENCE, |_| request.clone())
}

fn get(path: &str, authorization: &str) -> String {
    format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n{authorization}\r\n")
}

fn authorization(token: Option<&str>) -> String {
    token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"))
}

fn first_of(
    targets: &[Target],
    patience: Duration,
    request: impl Fn(&Target) -> String,
) -> Result<Report, String> {
    let (term, connecting) = (Term::of(patience), Term::of(PATIENCE));
    let mut first = None;
    for target in targets {
        let explain = |error| format!("{target}: {error}");
        match connect(target, connecting) {
            Ok(socket) => {
                return secured(target, socket, &request(target), term).map_err(explain);
            }
            Err(error) => first = first.or(Some(explain(error))),
        }
    }
    Err(first.unwrap_or_else(|| "there is no address to ask at; name one with --url".to_owned()))
}

/// For how long something is waited for.
#[derive(Clone, Copy)]
struct Term {
    deadline: Instant,
    patience: Duration,
}

impl Term {
    fn of(patience: Duration) -> Self {
        Self { deadline: Instant::now() + patience, patience }
    }

    fn left(self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(self.no_answer()) } else { Ok(left) }
    }

    fn no_answer(self) -> io::Error {
        io::Error::other(format!("no complete answer within {} s", self.patience.as_secs()))
    }
}

fn connect(target: &Target, term: Term) -> io::Result<Socket> {
    let (domain, address) = match target {
        Target::Tcp { address, .. } => (Domain::for_address(*address), SockAddr::from(*address)),
        Target::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.connect_timeout(&address, term.left()?)?;
    Ok(socket)
}

/// A socket each of whose calls ends in time.
struct Timed {
    socket: Socket,
    term: Term,
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.term.left()?))?;
        self.socket.read(into)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.term.left()?))?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn secured(target: &Target, socket: Socket, request: &str, term: Term) -> io::Result<Report> {
    let socket = Timed { socket, term };
    let Target::Tcp { tls: Some(tls), .. } = target else {
        return exchange(socket, request, term);
    };
    match blocking::secure(socket, &tls.name, &tls.belief) {
        Ok(stream) => exchange(stream, request, term),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(term.no_answer()),
        Err(error) => Err(error),
    }
}

/// One request in HTTP/1.0, which has no chunks: the answer ends with its connection.
fn exchange(mut socket: impl Read + Write, request: &str, term: Term) -> io::Result<Report> {
    // In one piece: `write!` to a socket sends one packet per piece of the format.
    socket.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match socket.read(&mut piece) {
            Ok(0) => return parse(&answer),
            Ok(count) => answer.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(term.no_answer()),
            Err(error) => return Err(error),
        }
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(io::Error::other("the answer is too long to be ringway's"));
        }
    }
}

fn parse(bytes: &[u8]) -> io::Result<Report> {
    let mut headers = [httparse::EMPTY_HEADER; HEADER_COUNT_MAX];
    let mut response = httparse::Response::new(&mut headers);
    match (response.parse(bytes), response.code) {
        (Ok(httparse::Status::Complete(end)), Some(code)) => {
            Ok(Report { code, body: String::from_utf8_lossy(&bytes[end..]).into_owned() })
        }
        _ => Err(io::Error::other("the answer is not HTTP")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"status\":\"ok\"}";

    /// Reads one head and answers it.
    fn answer(stream: impl Read + Write, answer: &str) -> Vec<String> {
        let mut reader = io::BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            head.push(line);
        }
        reader.get_mut().write_all(answer.as_bytes()).unwrap();
        head
    }

    fn server(text: &'static str) -> (Target, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let target = Target::tcp(listener.local_addr().unwrap());
        (target, thread::spawn(move || answer(listener.accept().unwrap().0, text)))
    }

    /// An address at which no process listens.
    fn nobody() -> Target {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Target::tcp(listener.local_addr().unwrap())
    }

    fn report(code: u16, body: &str) -> Report {
        Report { code, body: body.to_owned() }
    }

    #[test]
    fn a_good_answer_is_asked_for_and_read_over_tcp() {
        let (target, thread) = server(OK);
        let report = ask(&target).unwrap();
        assert_eq!(report, self::report(200, "{\"status\":\"ok\"}"));
        assert!(report.is_healthy());
        let head = thread.join().unwrap();
        assert_eq!(head[0], "GET /health HTTP/1.0\r\n");
        assert!(head.contains(&"Host: localhost\r\n".to_owned()));
    }

    #[test]
    fn a_good_answer_is_read_from_a_unix_socket() {
        let path = std::env::temp_dir().join(format!("ringway-health-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || answer(listener.accept().unwrap().0, OK));
        let report = ask(&Target::socket(&path));
        std::fs::remove_file(&path).unwrap();
        assert!(report.unwrap().is_healthy());
        thread.join().unwrap();
    }

    #[test]
    fn only_an_ok_or_degraded_ringway_is_healthy() {
        for (code, body, is_healthy) in [
            (200, "{\"status\":\"ok\",\"workers\":2}\n", true),
            (200, "{\"status\":\"degraded\"}", true),
            (200, "{\"status\":\"draining\"}", false),
            (200, "{\"status\":\"overloaded\"}", false),
            (503, "{\"status\":\"ok\"}", false),
            (200, "[\"status\"]", false),
            (200, "Hello from an origin", false),
            (200, "", false),
        ] {
            assert_eq!(report(code, body).is_healthy(), is_healthy, "{code} {body}");
        }
    }

    #[test]
    fn the_next_address_is_asked_where_nobody_listens() {
        let (target, thread) = server(OK);
        assert!(ask_any(&[nobody(), target]).unwrap().is_healthy());
        thread.join().unwrap();
    }

    #[test]
    fn the_next_address_does_not_speak_for_one_that_is_unwell() {
        let (bad, bad_thread) = server("HTTP/1.1 503 Service Unavailable\r\n\r\n{}");
        assert_eq!(ask_any(&[bad, nobody()]).unwrap(), report(503, "{}"));
        bad_thread.join().unwrap();
        let (mute, mute_thread) = server("");
        let good = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let good = Target::tcp(good.local_addr().unwrap());
        assert!(ask_any(&[mute, good]).unwrap_err().contains("not HTTP"));
        mute_thread.join().unwrap();
    }

    #[test]
    fn what_goes_wrong_is_said_with_the_address() {
        let refused = nobody();
        let error = ask_any(&[refused.clone(), nobody()]).unwrap_err();
        assert!(error.starts_with(&refused.to_string()) && error.contains("refused"), "{error}");
        assert!(ask_any(&[]).unwrap_err().contains("--url"));
        let (target, thread) = server("SSH-2.0-OpenSSH\r\n\r\n");
        assert!(ask(&target).unwrap_err().contains("not HTTP"));
        thread.join().unwrap();
    }

    #[test]
    fn a_ringway_that_hangs_is_given_up() {
        // It accepts, as the kernel does for it, and never answers.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let target = Target::tcp(listener.local_addr().unwrap());
        assert!(ask(&target).unwrap_err().contains("within 2 s"));
    }

    #[test]
    fn a_ringway_that_trickles_is_given_up() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let target = Target::tcp(listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            while stream.write_all(b"x").is_ok() {
                thread::park_timeout(Duration::from_millis(50));
            }
        });
        assert!(ask(&target).unwrap_err().contains("within 2 s"));
        thread.join().unwrap();
    }

    #[test]
    fn an_endless_answer_is_given_up() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let target = Target::tcp(listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        });
        assert!(ask(&target).unwrap_err().contains("too long"));
        thread.join().unwrap();
    }

    #[test]
    fn urls_are_read() {
        for (url, target) in [
            ("http://127.0.0.1:9901", "http://127.0.0.1:9901/health"),
            ("http://127.0.0.1:9901/", "http://127.0.0.1:9901/health"),
            ("http://127.0.0.1:9901/ready", "http://127.0.0.1:9901/ready"),
            ("http://[::1]:8000/health", "http://[::1]:8000/health"),
            ("http://localhost:8000", "http://127.0.0.1:8000/health"),
            ("http://localhost", "http://127.0.0.1:80/health"),
            ("unix:/run/ringway.sock", "unix:/run/ringway.sock"),
            ("https://127.0.0.1", "https://127.0.0.1:443/health"),
            ("https://[::1]:8443/ready", "https://[::1]:8443/ready"),
            ("https://localhost:8443", "https://localhost:8443/health"),
        ] {
            assert_eq!(Target::parse(url, &Belief::System).unwrap().to_string(), target, "{url}");
        }
        for url in [
            "",
            "127.0.0.1:9901",
            "https://127.0.0.1:port",
            "https://127.0.0.1/a b",
            "http://example.org/",
            "http://localhost.example:80",
            "http://localhost:http",
            "http://127.0.0.1:8000/a b",
            "http://127.0.0.1:8000/a\r\nX: y",
            "unix:run/ringway.sock",
        ] {
            let error = Target::parse(url, &Belief::System).unwrap_err();
            assert!(error.contains("expected http://"), "{url}: {error}");
        }
    }

    #[test]
    fn a_listener_on_every_address_is_asked_on_loopback() {
        for (listener, target) in [
            ("0.0.0.0:8000", "http://127.0.0.1:8000/health"),
            ("[::]:8000", "http://[::1]:8000/health"),
            ("192.0.2.1:80", "http://192.0.2.1:80/health"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            let address = listener.parse().unwrap();
            let listener = ListenerConfig::at(address);
            assert_eq!(Target::listener(&listener).unwrap().to_string(), target);
        }
    }
}
