//! The trace that a request belongs to, and the spans of its exchange.
//!
//! In goes what a client says of a trace, as far as it is believed, and the moments of an exchange;
//! out come the traceparent that an origin is sent, and spans. One request to an origin is a span
//! of its own, so that a second attempt is seen. A trace that is not sampled gathers nothing.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::address::{Address, PeerAddress};
use crate::config::{IdTrust, TracingConfig};
use crate::hooks::draw;
use crate::http::fields::Fields;
use crate::http::trace_context::{TraceParent, is_state};
use crate::observe::access_log::Record;
use crate::observe::spans::{Attribute, Span, SpanKind, TraceIds};

/// The trace of one exchange.
pub(crate) struct Trace {
    ids: TraceIds,
    /// The client's span; 0 where it has none that is believed.
    parent: u64,
    /// Its tracestate goes on.
    keeps_state: bool,
    parts: RefCell<Vec<Part>>,
}

/// More attempts and phases of one exchange are not told.
const PARTS_MAX: usize = 32;

/// One phase, or one request to an origin.
struct Part {
    id: u64,
    name: &'static str,
    origin: Option<Address>,
    began: Instant,
    /// `None` while it lasts.
    ended: Option<Instant>,
    /// When the answer began.
    answered: Option<Instant>,
}

impl Trace {
    /// That of a request whose fields lie in `text`; `is_trusted` is whoever has sent it.
    #[cold]
    pub(super) fn begin(
        config: &TracingConfig,
        is_trusted: bool,
        (fields, text): (&Fields, &[u8]),
    ) -> Rc<Self> {
        let is_believed = match config.trust {
            IdTrust::Nobody => false,
            IdTrust::Trusted => is_trusted,
            IdTrust::Everybody => true,
        };
        let parent = fields.only_value(text, b"traceparent").filter(|_| is_believed);
        let parent = parent.and_then(TraceParent::read);
        let trace = match parent {
            Some(parent) => parent.trace,
            None => u128::from(number()) << 64 | u128::from(number()),
        };
        let is_sampled = parent.map_or_else(|| is_drawn(config.sample), |it| it.is_sampled);
        Rc::new(Self {
            ids: TraceIds { trace, span: number(), is_sampled },
            parent: parent.map_or(0, |parent| parent.span),
            keeps_state: parent.is_some() && is_state(fields.values(text, b"tracestate")),
            parts: RefCell::default(),
        })
    }

    pub(super) fn ids(&self) -> TraceIds {
        self.ids
    }

    /// Puts the trace into the head for `origin` that `out` ends with and that begins at `start`,
    /// in place of what the client has said: a request to it begins.
    pub(super) fn put(&self, out: &mut Vec<u8>, start: usize, origin: Address) {
        let span = number();
        self.add(Part {
            id: span,
            name: REQUEST,
            origin: Some(origin),
            began: Instant::now(),
            ended: None,
            answered: None,
        });
        self.put_span(span, out, start);
    }

    /// The same for one who gets a copy of the request: what he does belongs to the exchange, in
    /// which there is no span of a request to him.
    pub(super) fn put_in_copy(&self, out: &mut Vec<u8>) {
        self.put_span(self.ids.span, out, 0);
    }

    fn put_span(&self, span: u64, out: &mut Vec<u8>, start: usize) {
        let TraceIds { trace, is_sampled, .. } = self.ids;
        drop_lines(out, start, self.keeps_state);
        // The empty line with which a head ends comes behind it.
        out.truncate(out.len().saturating_sub(2));
        TraceParent { trace, span, is_sampled }.put(out);
        out.extend_from_slice(b"\r\n");
    }

    /// A phase is over.
    pub(super) fn phase(&self, name: &'static str, began: Instant, ended: Instant) {
        if ended > began {
            let (id, ended) = (number(), Some(ended));
            self.add(Part { id, name, origin: None, began, ended, answered: None });
        }
    }

    fn add(&self, part: Part) {
        let mut parts = self.parts.borrow_mut();
        if self.ids.is_sampled && parts.len() < PARTS_MAX {
            parts.push(part);
        }
    }

    /// Requests to origins have come to nothing: there is another one, or none.
    pub(super) fn failed(&self) {
        self.each_under_way(|part, now| part.ended = Some(now));
    }

    /// The answer begins.
    pub(super) fn answered(&self) {
        self.each_under_way(|part, now| part.answered = Some(now));
    }

    fn each_under_way(&self, act: impl Fn(&mut Part, Instant)) {
        if self.ids.is_sampled {
            let now = Instant::now();
            for part in self.parts.borrow_mut().iter_mut().filter(|part| part.ended.is_none()) {
                act(part, now);
            }
        }
    }

    /// The spans of the exchange of which the access log would tell `record`, and which began so.
    pub(super) fn spans(&self, record: &Record<'_>, began: Instant) -> Vec<Span> {
        let time = record.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = |moment: Instant| nanos(time + moment.saturating_duration_since(began));
        let end = nanos(time + Duration::from_micros(record.phases.total_us));
        let is_failure = record.error.is_some() || record.status >= 500;
        let mut spans = Vec::with_capacity(1 + self.parts.borrow().len());
        spans.push(Span {
            trace: self.ids.trace,
            id: self.ids.span,
            parent: self.parent,
            kind: SpanKind::Server,
            name: name(record),
            began: nanos(time),
            ended: end,
            attributes: of_server(record),
            events: Vec::new(),
            is_error: is_failure,
        });
        for part in self.parts.borrow().iter() {
            let is_request = part.name == REQUEST;
            let is_last = part.ended.is_none();
            spans.push(Span {
                trace: self.ids.trace,
                id: part.id,
                parent: self.ids.span,
                kind: if is_request { SpanKind::Client } else { SpanKind::Internal },
                name: part.name.to_owned(),
                began: at(part.began),
                ended: part.ended.map_or(end, at),
                attributes: part
                    .origin
                    .map_or_else(Vec::new, |origin| of_client(record, origin, is_last)),
                events: part.answered.map(|it| ("answer begins", at(it))).into_iter().collect(),
                is_error: is_request && (!is_last || is_failure),
            });
        }
        spans
    }
}

/// What a span is called that is a request to an origin.
const REQUEST: &str = "request to origin";

/// Not 0, which stands for nothing.
fn number() -> u64 {
    draw().max(1)
}

/// Whether a trace that begins is one of this share.
#[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
fn is_drawn(share: f64) -> bool {
    share >= 1.0 || (draw() as f64) < share * (u64::MAX as f64)
}

fn nanos(since_1970: Duration) -> u64 {
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}

/// Drops what a head that begins at `start` says of traces.
fn drop_lines(out: &mut Vec<u8>, start: usize, keeps_state: bool) {
    let is = |line: &[u8], name: &[u8]| {
        line.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name))
    };
    let (mut from, mut to) = (start, start);
    while from < out.len() {
        let end = memchr::memchr(b'\n', &out[from..]).map_or(out.len(), |at| from + at + 1);
        let line = &out[from..end];
        let goes = is(line, b"traceparent:") || !keeps_state && is(line, b"tracestate:");
        if !goes {
            if from != to {
                out.copy_within(from..end, to);
            }
            to += end - from;
        }
        from = end;
    }
    out.truncate(to);
}

/// Method and route, of which there are few: paths there may be any number.
fn name(record: &Record<'_>) -> String {
    let method = String::from_utf8_lossy(record.method);
    match (record.method, record.route) {
        (b"", _) => "refused".to_owned(),
        (_, "") => method.into_owned(),
        (_, route) => format!("{method} {route}"),
    }
}

fn text(value: &[u8]) -> Attribute {
    /// Longer values are cut.
    const BYTES_MAX: usize = 1024;
    Attribute::Text(String::from_utf8_lossy(&value[..value.len().min(BYTES_MAX)]).into_owned())
}

/// By the names of OpenTelemetry's conventions. The query is left out: tokens travel there.
fn of_server(record: &Record<'_>) -> Vec<(&'static str, Attribute)> {
    let path = memchr::memchr(b'?', record.target).unwrap_or(record.target.len());
    let client = match record.client {
        PeerAddress::Ip(client) => client.ip().to_string(),
        PeerAddress::Unix => String::new(),
    };
    let version = record.version.strip_prefix("HTTP/").unwrap_or_default();
    let texts: [(&'static str, &[u8]); 11] = [
        ("http.request.method", record.method),
        ("url.scheme", if record.tls.is_some() { b"https" } else { b"http" }),
        ("url.path", &record.target[..path]),
        ("server.address", record.host),
        ("client.address", client.as_bytes()),
        ("network.protocol.version", version.as_bytes()),
        ("user_agent.original", record.user_agent),
        ("http.route", record.route.as_bytes()),
        ("error.type", record.error.unwrap_or_default().as_bytes()),
        ("ringway.upstream", record.upstream.as_bytes()),
        ("ringway.arm", record.arm.as_bytes()),
    ];
    let texts = texts.into_iter().filter(|(_, value)| !value.is_empty());
    let mut all: Vec<_> = texts.map(|(name, value)| (name, text(value))).collect();
    for (name, number) in [
        ("http.response.status_code", u64::from(record.status)),
        ("ringway.bytes_in", record.bytes_in),
        ("ringway.bytes_out", record.bytes_out),
    ] {
        all.push((name, Attribute::Number(i64::try_from(number).unwrap_or(i64::MAX))));
    }
    all
}

fn of_client(
    record: &Record<'_>,
    origin: Address,
    is_last: bool,
) -> Vec<(&'static str, Attribute)> {
    let mut all = vec![
        ("http.request.method", text(record.method)),
        ("network.peer.address", Attribute::Text(origin.to_string())),
        ("ringway.upstream", text(record.upstream.as_bytes())),
    ];
    if is_last {
        all.push(("http.response.status_code", Attribute::Number(record.status.into())));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_head_says_of_traces_goes_and_the_rest_stays() {
        let head = "before GET / HTTP/1.1\r\nTraceParent: a\r\nHost: a\r\ntracestate: b=1\r\n\
                    traceparents: c\r\nTRACEPARENT:d\r\n\r\n";
        let dropped = |keeps_state| {
            let mut out = head.as_bytes().to_vec();
            drop_lines(&mut out, 7, keeps_state);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(dropped(false), "before GET / HTTP/1.1\r\nHost: a\r\ntraceparents: c\r\n\r\n");
        assert!(dropped(true).contains("\r\ntracestate: b=1\r\n"));
    }

    #[test]
    fn a_share_is_about_that_of_many() {
        assert!((0..100).all(|_| is_drawn(1.0)));
        assert!(!(0..100).any(|_| is_drawn(0.0)));
        let count = (0..10_000).filter(|_| is_drawn(0.25)).count();
        assert!((2_000..3_000).contains(&count), "{count}");
    }
}
