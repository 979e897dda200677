//! The pure parts of an exchange, each as one piece of work that can be repeated.
//!
//! In: nothing. Out: a list of cases, which `micro` times and `gate` counts the instructions of, so
//! that both mean the same by a name. No case opens a socket, reads a clock or depends on chance.

pub(crate) mod hooks;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ringway::internals::config::{Config, HostPattern, RouteConfig};
use ringway::internals::http::chunked::ChunkScanner;
use ringway::internals::http::forwarded_header::{ClientText, Introduction, Scheme};
use ringway::internals::http::framing::{self, Coding, Length};
use ringway::internals::http::head::{HeadLimits, RequestHead, ResponseHead};
use ringway::internals::http::rewrite::{
    self, BodyOut, ConnectionOut, ForwardedFor, HostRule, RequestRewrite, ResponseRewrite,
};
use ringway::internals::http::{Method, Version};
use ringway::internals::ledger::{Budget, Kind, Ledger};
use ringway::internals::observe::metrics::Latency;
use ringway::internals::observe::traffic::{Ended, NamedCounts, Traffic};
use ringway::internals::routing::Routes;

use hooks::{Exchange, Hooking};

/// A piece of work and the bytes that it goes through, where that means something.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// For `micro`, which gives a throughput.
    #[allow(dead_code, reason = "the gate counts instructions only")]
    pub(crate) bytes: Option<u64>,
    pub(crate) work: Box<dyn FnMut()>,
}

/// Work of a few instructions is repeated this often, or the call itself is what is measured.
const BATCH: u64 = 100;

pub(crate) const LIMITS: HeadLimits =
    HeadLimits { head_bytes: 32 * 1024, target_bytes: 8 * 1024, header_count: 100 };

/// What curl sends.
pub(crate) const SMALL_REQUEST: &[u8] = b"GET /index.html HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\
    User-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n";

/// What a browser sends.
pub(crate) const LARGE_REQUEST: &[u8] = b"GET /en-US/docs/Web/HTTP HTTP/1.1\r\n\
    Host: developer.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://developer.example.org/en-US/\r\nConnection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=1\r\n\
    Upgrade-Insecure-Requests: 1\r\nPriority: u=0, i\r\n\r\n";

/// What nginx answers.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\n\
    Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\
    Last-Modified: Sun, 06 Nov 1994 08:00:00 GMT\r\nConnection: keep-alive\r\n\r\n";

pub(crate) const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Every case, in the order of an exchange.
pub(crate) fn all() -> Vec<Case> {
    vec![
        request_head("head_small_request", SMALL_REQUEST),
        request_head("head_large_request", LARGE_REQUEST),
        request_head_again(),
        response_head(),
        response_head_again(),
        framing_decision(),
        route("route_1", 1),
        route("route_100", 100),
        request_rewrite("rewrite_small_request", SMALL_REQUEST),
        request_rewrite("rewrite_large_request", LARGE_REQUEST),
        response_rewrite(),
        passed_on("passed_on", Hooking::None),
        passed_on("passed_on_with_five_edits_and_a_rate_limit", Hooking::FiveEditsAndARateLimit),
        chunk_scan("chunks_64KiB_of_16", 16),
        chunk_scan("chunks_64KiB_of_4096", 4096),
        ledger_charge(),
        latency_record(),
        counted_by_name(),
    ]
}

fn case(name: &'static str, bytes: Option<usize>, work: impl FnMut() + 'static) -> Case {
    Case { name, bytes: bytes.map(|bytes| bytes as u64), work: Box::new(work) }
}

/// Other limits each time: a head that comes again under the same ones is not read again.
fn changing_limits() -> impl FnMut() -> HeadLimits {
    let mut limits = LIMITS;
    move || {
        limits.target_bytes ^= 1;
        limits
    }
}

fn request_head(name: &'static str, text: &'static [u8]) -> Case {
    let (mut head, mut limits) = (RequestHead::new(), changing_limits());
    case(name, Some(text.len()), move || {
        assert_eq!(head.parse(black_box(text), &limits()), Ok(true));
    })
}

fn request_head_again() -> Case {
    let mut head = RequestHead::new();
    case("head_request_again", Some(SMALL_REQUEST.len()), move || {
        assert_eq!(head.parse(black_box(SMALL_REQUEST), &LIMITS), Ok(true));
    })
}

fn response_head() -> Case {
    let (mut head, mut limits) = (ResponseHead::new(), changing_limits());
    case("head_response", Some(RESPONSE.len()), move || {
        assert_eq!(head.parse(black_box(RESPONSE), &limits(), Method::Get), Ok(true));
    })
}

fn response_head_again() -> Case {
    let mut head = ResponseHead::new();
    case("head_response_again", Some(RESPONSE.len()), move || {
        assert_eq!(head.parse(black_box(RESPONSE), &LIMITS, Method::Get), Ok(true));
    })
}

/// One request with a length, one in chunks, and the answer to each.
fn framing_decision() -> Case {
    case("framing_x100", None, || {
        for _ in 0..BATCH / 4 {
            let length = Length::of(black_box(b"1048576"));
            let coding = Coding::Absent.and(black_box(b"chunked"));
            let (version, none) = (Version::Http11, Length::Absent);
            let post = black_box(Method::Post);
            let _ = black_box(framing::request_body(version, post, Coding::Absent, length));
            let _ = black_box(framing::request_body(version, post, coding, none));
            let _ = black_box(framing::response_body(version, post, 200, Coding::Absent, length));
            let _ = black_box(framing::response_body(version, post, 200, coding, none));
        }
    })
}

/// A lookup among `count` routes: half of them hosts, half of them paths of any host. What is
/// looked up fits a path only, so that all levels are asked.
fn route(name: &'static str, count: usize) -> Case {
    let mut config = Config::default();
    let template = config.routes[0].clone();
    let entry = |host, path: String| RouteConfig { host, path, ..template.clone() };
    config.routes = (0..count / 2)
        .flat_map(|number| {
            let host = HostPattern::Exact(format!("host{number}.example.org"));
            [entry(host, "/".to_owned()), entry(HostPattern::Any, format!("/path/{number:02}"))]
        })
        .chain((count == 1).then(|| entry(HostPattern::Any, "/".to_owned())))
        .collect();
    let routes = Routes::new(&config);
    case(name, None, move || {
        let found = routes.find(black_box(b"www.example.org:8000"), black_box(b"/path/25/x?y=z"));
        assert!(found.is_some());
    })
}

fn request_rewrite(name: &'static str, text: &'static [u8]) -> Case {
    let mut head = RequestHead::new();
    assert_eq!(head.parse(text, &LIMITS), Ok(true));
    let mut out = Vec::with_capacity(16 * 1024);
    let client = ClientText::new(CLIENT.into(), Scheme::Http, Introduction::default());
    case(name, Some(text.len()), move || {
        out.clear();
        let how = RequestRewrite {
            base: b"",
            path: head.path(text),
            host: HostRule::Pass,
            via: Some(b"ringway"),
            cdn_loop: None,
            length: None,
            passes_trailers: false,
            is_last: false,
            forwarded: Some(ForwardedFor::of(&client)),
            extra: b"",
        };
        rewrite::request(&mut out, black_box(&head), text, &how);
        black_box(out.as_slice());
    })
}

fn response_rewrite() -> Case {
    let mut head = ResponseHead::new();
    assert_eq!(head.parse(RESPONSE, &LIMITS, Method::Get), Ok(true));
    let mut out = Vec::with_capacity(16 * 1024);
    case("rewrite_response", Some(RESPONSE.len()), move || {
        out.clear();
        let how = ResponseRewrite {
            seen: None,
            body: BodyOut::AsIs,
            connection: ConnectionOut::Implicit,
            date: DATE,
            via: None,
        };
        rewrite::response(&mut out, black_box(&head), RESPONSE, &how);
        black_box(out.as_slice());
    })
}

/// A request and its answer, both read already. What hooks cost is the difference.
fn passed_on(name: &'static str, hooking: Hooking) -> Case {
    let mut exchange = Exchange::new();
    exchange.read(&LIMITS);
    case(name, None, move || exchange.pass_on(hooking))
}

fn chunk_scan(name: &'static str, chunk_bytes: usize) -> Case {
    let chunk = format!("{chunk_bytes:x}\r\n{}\r\n", "x".repeat(chunk_bytes));
    let body = chunk.repeat(64 * 1024 / chunk_bytes);
    case(name, Some(body.len()), move || {
        let progress = ChunkScanner::new().advance(black_box(body.as_bytes()));
        assert_eq!(progress.map(|progress| progress.used), Ok(body.len()));
    })
}

fn ledger_charge() -> Case {
    let (ledger, budget) = (Arc::new(Ledger::default()), Budget::unlimited());
    case("ledger_charge_x100", None, move || {
        for _ in 0..BATCH {
            let bytes = black_box(8 * 1024);
            assert!(budget.admits(&ledger, bytes));
            ledger.add(Kind::HeadBuffers, bytes);
            ledger.sub(Kind::HeadBuffers, bytes);
        }
    })
}

/// Durations of six powers of ten: what a bucket costs must not depend on which it is.
fn latency_record() -> Case {
    let latency = Latency::default();
    case("latency_record_x100", None, move || {
        let mut us = 1;
        for _ in 0..BATCH {
            latency.record(black_box(us));
            us = if us > 1_000_000 { 1 } else { us * 3 };
        }
    })
}

/// The ends of exchanges, by their route, their upstream and their origin.
fn counted_by_name() -> Case {
    let counts = NamedCounts {
        routes: vec![Arc::default(), Arc::default()],
        upstreams: vec![Arc::default(), Arc::default()],
        arms: Vec::new(),
    };
    let origin = Arc::new(Traffic::default());
    case("counted_by_name_x100", None, move || {
        let mut us = 1;
        for _ in 0..BATCH {
            let ended = Ended::new(black_box(200), black_box(us));
            counts.ended(black_box(Some(1)), black_box(Some(1)), ended);
            black_box(&origin).add(ended);
            us = if us > 1_000_000 { 1 } else { us * 3 };
        }
    })
}
