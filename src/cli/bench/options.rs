//! The flags of `ringway bench`, and what they mean together.
//!
//! In: what was typed. Out: a `Plan` in which nothing contradicts anything, with the bytes to send
//! and the address to send them to; or one sentence that names the flag and the cure. A name is
//! asked of DNS once, here, before anything is measured.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::script::{Body, Request, Script};
use super::streams::Ask;
use crate::config::{parse_bytes, parse_duration};
use crate::tls::client::{Client, Wishes};

const DURATION: Duration = Duration::from_secs(10);

const WARMUP: Duration = Duration::from_secs(1);

/// A body from a file is held in memory.
const BODY_BYTES_MAX: u64 = 1 << 30;

const STREAMS: u32 = 10;

/// What was typed behind `ringway bench`.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "they are switches of a command line")]
pub(crate) struct BenchFlags {
    /// What to ask for, such as http://127.0.0.1:8080/ or https://a.example/; with --ab only its
    /// path, which may be left out
    #[arg(value_name = "URL")]
    pub url: Option<String>,
    /// Connections, shared out over the threads
    #[arg(long, short = 'c', value_name = "COUNT", default_value_t = 100)]
    pub connections: u32,
    /// Time to measure [default: 10s, or no end with --requests]
    #[arg(long, short = 'd', value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Requests to send, failed ones included
    #[arg(long, short = 'n', value_name = "COUNT")]
    pub requests: Option<u64>,
    /// Requests per second in all, whether or not the answers keep up; latencies count from when
    /// a request was due
    #[arg(long, value_name = "COUNT")]
    pub rate: Option<u64>,
    /// Threads
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub threads: u32,
    /// Method [default: GET, or POST with a body]
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// Body of each request, or @ and the name of a file that holds it
    #[arg(long, value_name = "TEXT|@FILE")]
    pub body: Option<String>,
    /// Body of so many bytes, such as 100m
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "body")]
    pub body_bytes: Option<u64>,
    /// Send the body in chunks, without its length
    #[arg(long)]
    pub chunked: bool,
    /// Field of each request; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// Proxy to ask, such as http://127.0.0.1:3128; USER:PASSWORD@ may stand before the host
    #[arg(long, value_name = "URL")]
    pub via: Option<String>,
    /// Make a tunnel through --via, and send the requests in it
    #[arg(long, requires = "via")]
    pub connect: bool,
    /// A connection (and tunnel) of its own for each request
    #[arg(long)]
    pub no_keepalive: bool,
    /// Speak HTTP/2: by ALPN with https://, with prior knowledge with http://
    #[arg(long, conflicts_with = "no_keepalive")]
    pub http2: bool,
    /// Requests that each connection has under way at once, as far as the server allows; --idle
    /// has one [default: 10]
    #[arg(long, value_name = "COUNT", requires = "http2", conflicts_with = "idle")]
    pub streams: Option<u32>,
    /// Take any certificate
    #[arg(long)]
    pub insecure: bool,
    /// Believe the authorities in this file, instead of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub ca: Option<PathBuf>,
    /// Make every TLS handshake a full one
    #[arg(long)]
    pub no_resumption: bool,
    /// Newest version of TLS to offer
    #[arg(long, value_name = "VERSION", value_parser = ["1.2", "1.3"])]
    pub tls_max: Option<String>,
    /// For one request, or one connection, its TLS handshake included
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub timeout: Duration,
    /// Time before the measured time [default: 1s, or none with --requests or --idle]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub warmup: Option<Duration>,
    /// Read at most so many bytes per second and connection
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub slow_read: Option<u64>,
    /// One request per connection, then hold all of them idle for --duration, then one more each
    #[arg(long, conflicts_with_all = ["rate", "requests", "no_keepalive"])]
    pub idle: bool,
    /// Report processor time and memory of this process and its children
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Keep the first thread on this processor, the second on the next, and so on
    #[arg(long, value_name = "NUMBER")]
    pub cpu: Option<usize>,
    /// Draw latencies over percentiles and over time
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Show no progress
    #[arg(long)]
    pub quiet: bool,
    /// Compare ringway with these two configurations in turns; --upstream names the origin, which
    /// is a built-in one else
    #[arg(long, num_args = 2, value_names = ["A.toml", "B.toml"])]
    #[arg(conflicts_with_all = ["pid", "idle", "via", "plot"])]
    pub ab: Vec<PathBuf>,
    /// Executable for --ab: one for both sides, or one each [default: this one]
    #[arg(long, value_name = "FILE", requires = "ab")]
    pub binary: Vec<PathBuf>,
    /// Rounds of --ab, in each of which both sides have a turn
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    pub rounds: u32,
    /// With --ab: leave the upstreams and routes of the two files as they are
    #[arg(long, requires = "ab")]
    pub own_upstreams: bool,
    // The global flag of that name has the short form -c, which belongs to --connections here.
    #[arg(long, hide = true)]
    pub config: Option<PathBuf>,
}

/// How requests follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// The next as soon as the last is answered.
    Closed,
    /// So many per second, come what may.
    Open(u64),
    /// One per connection, and one more after a while.
    Idle,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) url: String,
    /// Of the origin, or of the proxy before it.
    pub(super) address: SocketAddr,
    pub(super) script: Script,
    /// What makes a tunnel of a new connection.
    pub(super) tunnel: Option<Script>,
    pub(super) tls: Option<Tls>,
    pub(super) http2: Option<Http2>,
    pub(super) pace: Pace,
    pub(super) connections: usize,
    /// At least 1 and at most as many as connections.
    pub(super) threads: usize,
    /// `None`: until the requests are done.
    pub(super) duration: Option<Duration>,
    pub(super) requests: Option<u64>,
    pub(super) is_keepalive: bool,
    pub(super) timeout: Duration,
    pub(super) warmup: Duration,
    /// Bytes per second and connection.
    pub(super) slow_read: Option<u64>,
    pub(super) pid: Option<u32>,
    pub(super) cpu: Option<usize>,
    pub(super) has_course: bool,
    pub(super) has_progress: bool,
}

impl Plan {
    /// Whether TLS is spoken with the origin at a tunnel's end.
    pub(super) fn has_tls_in_tunnel(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_in_tunnel)
    }
}

/// What is asked on the streams of a connection.
#[derive(Clone, Debug)]
pub(super) struct Http2 {
    /// At most at once, for each connection.
    pub(super) streams: usize,
    pub(super) ask: Ask,
}

/// With whom TLS is spoken.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub(super) client: Arc<Client>,
    /// With the origin at a tunnel's end; else with whoever is connected to.
    pub(super) is_in_tunnel: bool,
}

impl BenchFlags {
    /// What the flags mean for a run against `url`.
    pub(super) fn plan(&self, url: &str) -> Result<Plan, String> {
        self.check()?;
        let origin = Url::parse("the URL", url)?;
        let proxy = self.via.as_deref().map(|url| Url::parse("--via", url)).transpose()?;
        let tls = self.tls(&origin, proxy.as_ref())?;
        let is_proxied = proxy.is_some() && !self.connect;
        let mut request = Request {
            method: self.method_text()?,
            target: if is_proxied { origin.absolute() } else { origin.path.clone() },
            authority: origin.authority.clone(),
            fields: self.headers.iter().map(|line| field(line)).collect::<Result<_, _>>()?,
            body: self.read_body()?,
            is_chunked: self.chunked,
            is_keepalive: !self.no_keepalive,
        };
        let credentials = proxy.as_ref().and_then(|proxy| proxy.credentials.as_deref());
        let mut tunnel_fields = String::new();
        if let Some(credentials) = credentials {
            let value = format!("Basic {}", STANDARD.encode(credentials));
            if self.connect {
                tunnel_fields = format!("Proxy-Authorization: {value}\r\n");
            } else {
                request.fields.push(("Proxy-Authorization".to_owned(), value));
            }
        }
        let tunnel = self.connect.then(|| Script::tunnel(&origin.socket_name(), &tunnel_fields));
        let scheme = if origin.is_tls { "https" } else { "http" };
        let http2 = self.http2.then(|| Http2 {
            streams: if self.idle { 1 } else { self.streams.unwrap_or(STREAMS) as usize },
            ask: Ask::of(&request, scheme, &origin.path),
        });
        let is_unbounded = self.requests.is_some();
        let connections = self.connections as usize;
        Ok(Plan {
            url: url.to_owned(),
            address: proxy.as_ref().unwrap_or(&origin).resolve()?,
            script: Script::of(&request),
            tunnel,
            tls,
            http2,
            pace: match self.rate {
                Some(rate) => Pace::Open(rate),
                None if self.idle => Pace::Idle,
                None => Pace::Closed,
            },
            connections,
            threads: (self.threads as usize).min(connections),
            duration: self.duration.or((!is_unbounded).then_some(DURATION)),
            requests: self.requests,
            is_keepalive: !self.no_keepalive,
            timeout: self.timeout,
            warmup: match self.warmup {
                Some(warmup) => warmup,
                None if is_unbounded || self.idle => Duration::ZERO,
                None => WARMUP,
            },
            slow_read: self.slow_read,
            pid: self.pid,
            cpu: self.cpu,
            has_course: self.plot.is_some(),
            has_progress: !self.quiet,
        })
    }

    /// With whom TLS is spoken, which is one of the two at most.
    fn tls(&self, origin: &Url, proxy: Option<&Url>) -> Result<Option<Tls>, String> {
        let (with, is_in_tunnel) = match (origin.is_tls, proxy) {
            (true, None) => (origin, false),
            (true, Some(proxy)) if proxy.is_tls => {
                return Err(
                    "--via https:// needs an http:// URL: there is no TLS in TLS".to_owned()
                );
            }
            (true, Some(_)) if self.connect => (origin, true),
            (true, Some(_)) => {
                return Err("an https:// URL with --via is for tunnels: add --connect".to_owned());
            }
            (false, Some(proxy)) if proxy.is_tls => (proxy, false),
            (false, _) => return self.check_plain().map(|()| None),
        };
        let wishes = Wishes {
            ca: self.ca.clone(),
            is_insecure: self.insecure,
            is_always_new: self.no_resumption,
            is_old: self.tls_max.as_deref() == Some("1.2"),
            // Of the proxy a tunnel is asked in HTTP/1.1.
            is_http2: self.http2 && (is_in_tunnel || !self.connect),
        };
        let client = Client::new(&with.host, wishes);
        let client = client.map_err(|error| format!("{}: {error}", with.flag))?;
        Ok(Some(Tls { client: Arc::new(client), is_in_tunnel }))
    }

    /// No flag asks for what plain connections have not.
    fn check_plain(&self) -> Result<(), String> {
        let flag = match self {
            Self { insecure: true, .. } => "--insecure",
            Self { ca: Some(_), .. } => "--ca",
            Self { no_resumption: true, .. } => "--no-resumption",
            Self { tls_max: Some(_), .. } => "--tls-max",
            _ => return Ok(()),
        };
        Err(format!("{flag} is for TLS: ask for an https:// URL"))
    }

    fn check(&self) -> Result<(), String> {
        let zero = |flag: &str| Err(format!("{flag} is 0: it must be at least 1"));
        match self {
            Self { connections: 0, .. } => zero("--connections"),
            Self { threads: 0, .. } => zero("--threads"),
            Self { streams: Some(0), .. } => zero("--streams"),
            Self { requests: Some(0), .. } => zero("--requests"),
            Self { rate: Some(0), .. } => zero("--rate"),
            Self { slow_read: Some(0), .. } => zero("--slow-read"),
            Self { duration: Some(Duration::ZERO), .. } => zero("--duration"),
            Self { timeout: Duration::ZERO, .. } => zero("--timeout"),
            Self { chunked: true, body: None, body_bytes: None, .. } => {
                Err("--chunked needs a body: add --body or --body-bytes".to_owned())
            }
            _ => self.check_plot(),
        }
    }

    fn check_plot(&self) -> Result<(), String> {
        let Some(path) = &self.plot else { return Ok(()) };
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg")) {
            return Ok(());
        }
        Err(format!("--plot {}: only SVG is drawn: end the name in .svg", path.display()))
    }

    fn method_text(&self) -> Result<String, String> {
        let has_body = self.body.is_some() || self.body_bytes.is_some();
        let Some(method) = &self.method else {
            return Ok(if has_body { "POST" } else { "GET" }.to_owned());
        };
        if method == "CONNECT" {
            return Err("--method CONNECT: use --via and --connect for tunnels".to_owned());
        }
        let is_token = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_alphabetic());
        is_token.then(|| method.clone()).ok_or_else(|| format!("--method {method}: not a method"))
    }

    fn read_body(&self) -> Result<Body, String> {
        match (&self.body, self.body_bytes) {
            (None, None) => Ok(Body::None),
            (None, Some(size)) => Ok(Body::Size(size)),
            (Some(text), _) => match text.strip_prefix('@') {
                None => Ok(Body::Bytes(text.clone().into_bytes())),
                Some(path) => read_file(path).map(Body::Bytes),
            },
        }
    }
}

fn read_file(path: &str) -> Result<Vec<u8>, String> {
    let explain = |error: std::io::Error| format!("--body @{path}: {error}");
    if std::fs::metadata(path).map_err(explain)?.len() > BODY_BYTES_MAX {
        return Err(format!("--body @{path}: over 1 GiB: use --body-bytes, which needs no file"));
    }
    std::fs::read(path).map_err(explain)
}

/// What stands in `--header`.
fn field(line: &str) -> Result<(String, String), String> {
    let wrong = || format!("--header {line:?}: expected 'Name: value'");
    let (name, value) = line.split_once(':').ok_or_else(wrong)?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_sound = !name.is_empty() && name.bytes().all(is_name) && !value.contains(['\r', '\n']);
    if !is_sound {
        return Err(wrong());
    }
    for framing in ["content-length", "transfer-encoding", "connection"] {
        if name.eq_ignore_ascii_case(framing) {
            return Err(format!(
                "--header {name}: comes from --body, --chunked and --no-keepalive: leave it out"
            ));
        }
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

/// `http[s]://[user:password@]host[:port][/path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Url {
    /// As it was typed behind `flag`, for errors.
    flag: &'static str,
    is_tls: bool,
    credentials: Option<String>,
    /// As it stands in Host.
    authority: String,
    host: String,
    port: u16,
    /// Path and query.
    path: String,
}

impl Url {
    fn parse(flag: &'static str, url: &str) -> Result<Self, String> {
        let wrong = || format!("{flag} {url}: expected http://HOST[:PORT][/PATH] or https://...");
        let (rest, is_tls) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (rest, false),
            (_, Some(rest)) => (rest, true),
            _ => return Err(wrong()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (credentials, authority) = match authority.rsplit_once('@') {
            Some((credentials, authority)) => (Some(credentials.to_owned()), authority),
            None => (None, authority),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(wrong)?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| wrong())?,
            None if port.is_empty() && is_tls => 443,
            None if port.is_empty() => 80,
            None => return Err(wrong()),
        };
        if host.is_empty() || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong());
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        let (authority, host) = (authority.to_owned(), host.to_owned());
        let path = format!("{slash}{path}");
        Ok(Self { flag, is_tls, credentials, authority, host, port, path })
    }

    fn absolute(&self) -> String {
        format!("http://{}{}", self.authority, self.path)
    }

    /// Host and port, as CONNECT wants them.
    fn socket_name(&self) -> String {
        match self.host.parse() {
            Ok(ip @ IpAddr::V6(_)) => SocketAddr::new(ip, self.port).to_string(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    fn resolve(&self) -> Result<SocketAddr, String> {
        if let Ok(ip) = self.host.parse() {
            return Ok(SocketAddr::new(ip, self.port));
        }
        let explain = |error: std::io::Error| format!("{} {}: {error}", self.flag, self.host);
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(explain)?;
        let name = (self.host.as_str(), self.port);
        let mut found = runtime.block_on(tokio::net::lookup_host(name)).map_err(explain)?;
        found.next().ok_or_else(|| format!("{} {}: no address", self.flag, self.host))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "expected a time such as 10s, 500ms or 2m".to_owned())
}

/// As in the configuration, and `k`, `m` and `g` for their binary multiples.
fn size(text: &str) -> Result<u64, String> {
    let short = || parse_bytes(&format!("{text}ib"));
    parse_bytes(text).or_else(short).ok_or_else(|| "expected a size such as 64k or 100m".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: BenchFlags,
    }

    fn flags(arguments: &[&str]) -> Result<BenchFlags, clap::Error> {
        let line = std::iter::once("bench").chain(arguments.iter().copied());
        Line::try_parse_from(line).map(|line| line.flags)
    }

    fn plan(arguments: &[&str]) -> Result<Plan, String> {
        let flags = flags(arguments).map_err(|error| error.to_string())?;
        flags.plan(flags.url.as_deref().unwrap_or_default())
    }

    fn bytes(script: &Script) -> String {
        let cursor = crate::cli::bench::script::Cursor::default();
        String::from_utf8(cursor.next(script).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn without_flags_it_is_a_closed_loop_of_gets_for_ten_seconds() {
        let plan = plan(&["http://127.0.0.1:8080/a?b"]).unwrap();
        assert_eq!(plan.address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(bytes(&plan.script), "GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n");
        assert_eq!((plan.pace, plan.connections, plan.threads), (Pace::Closed, 100, 1));
        assert_eq!((plan.duration, plan.warmup), (Some(DURATION), WARMUP));
    }

    #[test]
    fn a_number_of_requests_takes_the_place_of_the_time() {
        let plan = plan(&["http://127.0.0.1/", "-n", "5", "-c", "3", "--threads", "8"]).unwrap();
        assert_eq!((plan.requests, plan.duration, plan.warmup), (Some(5), None, Duration::ZERO));
        assert_eq!(plan.threads, 3, "a thread without a connection would have nothing to do");
    }

    #[test]
    fn a_proxy_is_asked_in_absolute_form_or_for_a_tunnel() {
        let url = "http://origin.example:81/a";
        let via = "http://me:secret@127.0.0.1:3128";
        let absolute = plan(&[url, "--via", via]).unwrap();
        assert_eq!(absolute.address, "127.0.0.1:3128".parse().unwrap());
        assert_eq!(
            bytes(&absolute.script),
            "GET http://origin.example:81/a HTTP/1.1\r\nHost: origin.example:81\r\n\
             Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n"
        );
        let tunnel = plan(&[url, "--via", via, "--connect"]).unwrap();
        assert_eq!(bytes(&tunnel.script), "GET /a HTTP/1.1\r\nHost: origin.example:81\r\n\r\n");
        assert_eq!(
            bytes(tunnel.tunnel.as_ref().unwrap()),
            "CONNECT origin.example:81 HTTP/1.1\r\nHost: origin.example:81\r\n\
             Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n"
        );
    }

    #[test]
    fn a_tunnel_names_the_port_even_where_the_url_does_not() {
        for (url, name) in [
            ("http://a.example", "a.example:80"),
            ("http://[::1]/", "[::1]:80"),
            ("http://[::1]:8080/", "[::1]:8080"),
        ] {
            assert_eq!(Url::parse("the URL", url).unwrap().socket_name(), name);
        }
    }

    #[test]
    fn sizes_and_times_are_read() {
        let flags =
            flags(&["http://a/", "--body-bytes", "100m", "--slow-read", "1KB", "-d", "1m30s"])
                .unwrap();
        assert_eq!((flags.body_bytes, flags.slow_read), (Some(100 << 20), Some(1_000)));
        assert_eq!(flags.duration, Some(Duration::from_secs(90)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_flag() {
        let (url, tls) = ("http://127.0.0.1/", "https://127.0.0.1/");
        for (arguments, part) in [
            (&["ftp://127.0.0.1/"][..], "expected http://"),
            (&[url, "--insecure"], "--insecure is for TLS"),
            (&[url, "--ca", "a.pem"], "--ca is for TLS"),
            (&[url, "--no-resumption"], "--no-resumption is for TLS"),
            (&[url, "--tls-max", "1.3"], "--tls-max is for TLS"),
            (&[tls, "--tls-max", "1.1"], "1.2, 1.3"),
            (&[tls, "--ca", "/nowhere/at/all"], "/nowhere/at/all"),
            (&[tls, "--via", url], "add --connect"),
            (&[tls, "--via", tls, "--connect"], "no TLS in TLS"),
            (&["http://"], "expected http://"),
            (&["http://127.0.0.1:x/"], "expected http://"),
            (&["http://[::1/"], "expected http://"),
            (&["http://127.0.0.1/\u{e9}"], "expected http://"),
            (&[url, "-c", "0"], "--connections is 0"),
            (&[url, "--rate", "0"], "--rate is 0"),
            (&[url, "-d", "0"], "--duration is 0"),
            (&[url, "-d", "soon"], "such as 10s"),
            (&[url, "--chunked"], "--body"),
            (&[url, "--method", "G T"], "--method G T"),
            (&[url, "--method", "CONNECT"], "--connect"),
            (&[url, "-H", "no colon"], "Name: value"),
            (&[url, "-H", "a b: c"], "Name: value"),
            (&[url, "-H", "Content-Length: 5"], "leave it out"),
            (&[url, "--connect"], "--via"),
            (&[url, "--body", "@/nowhere/at/all"], "/nowhere/at/all"),
            (&[url, "--plot", "a.png"], ".svg"),
            (&[url, "--idle", "--rate", "5"], "--rate"),
            (&[url, "--streams", "5"], "--http2"),
            (&[url, "--http2", "--streams", "0"], "--streams is 0"),
            (&[url, "--http2", "--streams", "5", "--idle"], "--idle"),
            (&[url, "--http2", "--no-keepalive"], "--no-keepalive"),
        ] {
            let error = plan(arguments).unwrap_err();
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }
}
