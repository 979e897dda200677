//! Checks of targets, once for all workers.
//!
//! In go the upstreams of a configuration; out comes what becomes of their targets. Every worker
//! has a task that looks which checks are due, and whoever moves a target's next time on does that
//! one: no worker is missed when it ends. A check has a connection of its own, which counts under
//! no limit and is closed after it; nothing that an origin answers can make it hold more than one
//! buffer, or last longer than its timeout.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::config::HealthConfig;
use crate::fault::Fault;
use crate::http::head::{HeadLimits, ResponseHead};
use crate::http::{Method, grpc};
use crate::observe::metrics::WorkerMetrics;
use crate::proxy_protocol;
use crate::relay::Receiver;
use crate::relay::outbox::Outbox;
use crate::ring::waits::Recv;
use crate::ring::{HeadBuffer, Socket, clock};

use super::h1::{self, Reply, Terms};
use super::host::host;
use super::pool::{Pool, connect_fault, open_fault};
use super::target::{FORGIVE_EVERY_MS, Target};
use super::{Member, Upstream};

/// How often a worker looks for checks that are due.
const LOOK: Duration = Duration::from_millis(100);
/// Checks that one worker has under way.
const CHECKS_MAX: usize = 64;
/// How much of a body is looked at.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How often latencies are compared.
const COMPARE_EVERY_MS: u64 = FORGIVE_EVERY_MS;

/// What a check goes by beside its upstream.
pub(crate) trait Means {
    fn pool(&self) -> &Rc<Pool>;
    fn outbox(&self) -> &Outbox;
    fn metrics(&self) -> &WorkerMetrics;
    fn limits(&self) -> HeadLimits;
}

/// Checks the targets of `upstreams` until `is_over`.
pub(crate) async fn run<M: Means + 'static>(
    means: Rc<M>,
    upstreams: impl Fn() -> Vec<Rc<Upstream>>,
    is_over: impl Fn() -> bool,
) {
    let running = Rc::new(Cell::new(0));
    let mut compared_ms = clock::coarse_ms();
    let mut is_needed = true;
    // Where nothing is checked or ejected, one look takes back what an older configuration knew.
    while is_needed && !is_over() {
        is_needed = false;
        let now = clock::coarse_ms();
        let compares = now.saturating_sub(compared_ms) >= COMPARE_EVERY_MS;
        for upstream in upstreams() {
            is_needed |= upstream.config().health.is_some() || upstream.config().eject.is_some();
            upstream.follow(means.pool());
            if compares {
                upstream.eject_slow();
            }
            if upstream.config().eject.is_none() {
                upstream.pardon(now);
            }
            let Some(config) = &upstream.config().health else {
                unwatch(&upstream, now);
                continue;
            };
            for member in upstream.due(now) {
                if running.get() == CHECKS_MAX || !claim(&member.target, now, config.interval) {
                    continue;
                }
                running.set(running.get() + 1);
                let (means, running) = (means.clone(), running.clone());
                let upstream = upstream.clone();
                tokio::task::spawn_local(async move {
                    check(&*means, &upstream, &member).await;
                    running.set(running.get() - 1);
                });
            }
        }
        if compares {
            compared_ms = now;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What checks have come to counts no longer where there are none.
fn unwatch(upstream: &Upstream, now_ms: u64) {
    for member in upstream.out_by_checks() {
        let change = member.target.unchecked(now_ms);
        upstream.announce(&member, change);
    }
}

/// Whether this worker does the check that is due.
fn claim(target: &Target, now_ms: u64, interval: Duration) -> bool {
    let due = target.check_at_ms.load(Ordering::Relaxed);
    if due > now_ms {
        return false;
    }
    let interval = interval.as_millis() as u64;
    // Give or take a tenth, so that thousands that have begun together do not go on so.
    let spread = interval / 5 + 1;
    let jitter = now_ms.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) % spread;
    let next = now_ms + interval - interval / 10 + jitter;
    target.check_at_ms.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

async fn check(means: &impl Means, upstream: &Upstream, member: &Member) {
    let Some(config) = &upstream.config().health else { return };
    let asked = ask(means, upstream, member, config);
    let outcome = match tokio::time::timeout(config.timeout, asked).await {
        Ok(outcome) => outcome,
        Err(_) => Err("no answer in time".to_owned()),
    };
    if means.pool().is_stopping.get() {
        return;
    }
    let outcome = outcome.as_ref().copied().map_err(String::as_str);
    let now = clock::coarse_ms();
    let change = member.target.checked(outcome, (config.rise, config.fall), now);
    upstream.announce(member, change);
}

async fn ask(
    means: &impl Means,
    upstream: &Upstream,
    member: &Member,
    config: &HealthConfig,
) -> Result<(), String> {
    let pool = means.pool();
    let (socket, introduction) = reach(pool, upstream, member, config).await?;
    let _watched = pool.watch(&socket.0);
    let named = |fault: Fault| fault.name().to_owned();
    if config.path.is_empty() && config.grpc.is_none() {
        return Ok(());
    }
    if config.grpc.is_some() && !socket.0.is_lane() {
        return Err("it has chosen HTTP/1.1, in which there is no gRPC".to_owned());
    }
    let origin = Receiver {
        socket: &socket.0,
        deadlines: &pool.deadlines,
        stall: config.timeout,
        half_close: crate::config::HalfClose::Keep,
        stats: None,
    };
    let own = host(upstream.host(), Some(&member.origin.authority));
    let host = if config.host.is_empty() { own } else { &config.host };
    let base = &member.origin.base;
    let sent = h1::send(means.outbox(), origin, |out| {
        out.extend_from_slice(&introduction);
        put_question(out, config, base, host);
    });
    sent.await.map_err(|error| named(error.fault()))?;
    let is_strict = upstream.traits.is_strict;
    let head = ResponseHead::new();
    let mut reply = CheckReply { socket: &socket.0, pool, head, is_strict, limit: config.timeout };
    let terms = Terms { limits: means.limits(), metrics: means.metrics() };
    let method = Method::of(method(config).as_bytes());
    let mut buffer = HeadBuffer::default();
    let read = h1::read_head(&mut reply, &mut buffer, terms, method).await;
    read.map_err(|error| named(error.fault()))?;
    let CheckReply { head, .. } = reply;
    let status = head.status;
    let is_wanted = if config.grpc.is_some() { status == 200 } else { config.status.has(status) };
    if !is_wanted {
        return Err(format!("status {status}"));
    }
    let (from, text) = ((&socket.0, &**pool, config.timeout), (buffer, head.bytes));
    if config.grpc.is_none() {
        let errors = ("the text is not in the first 64 KiB", "the text is not in the body");
        let needle = memchr::memmem::Finder::new(config.body.as_bytes());
        return read_until(from, text, errors, |body| needle.find(body).map(|_| Ok(()))).await;
    }
    if let Some(status) = grpc::status_in(&text.0.filled()[..head.bytes]) {
        return Err(format!("grpc-status {status}"));
    }
    let errors = ("an answer of more than 64 KiB", "an answer without an end");
    let judge = |body: &[u8]| match grpc::health(body, head.body) {
        grpc::Health::Good => Some(Ok(())),
        grpc::Health::Bad(why) => Some(Err(why)),
        grpc::Health::Unsaid => None,
    };
    read_until(from, text, errors, judge).await
}

fn method(config: &HealthConfig) -> &str {
    if config.grpc.is_some() { "POST" } else { &config.method }
}

/// Appends what a server behind `base` is asked.
fn put_question(out: &mut Vec<u8>, config: &HealthConfig, base: &str, host: &str) {
    let version = env!("CARGO_PKG_VERSION");
    let (method, path) = (method(config), config.path.as_str());
    let path = if config.grpc.is_some() { grpc::HEALTH_PATH } else { path };
    let start = format!(
        "{method} {base}{path} HTTP/1.1\r\nHost: {host}\r\n\
         User-Agent: ringway/{version} (health)\r\n"
    );
    out.extend_from_slice(start.as_bytes());
    let Some(service) = &config.grpc else {
        out.extend_from_slice(b"Accept: */*\r\nConnection: close\r\n\r\n");
        return;
    };
    let question = grpc::health_question(service);
    let rest = format!(
        "Content-Type: application/grpc\r\nTE: trailers\r\nContent-Length: {}\r\n\r\n",
        question.len()
    );
    out.extend_from_slice(rest.as_bytes());
    out.extend_from_slice(&question);
}

/// A connection to check on, and what is still to be said on it first: that it is nobody's.
async fn reach(
    pool: &Rc<Pool>,
    upstream: &Upstream,
    member: &Member,
    config: &HealthConfig,
) -> Result<(Closing, Vec<u8>), String> {
    let limits = pool.limits.get();
    let address = match member.target.address {
        Address::Tcp(mut address) if config.port != 0 => {
            address.set_port(config.port);
            Address::Tcp(address)
        }
        address => address,
    };
    let named = |fault: Fault| fault.name().to_owned();
    let opened = Socket::open(address, limits.keepalive);
    let mut socket = Closing(opened.map_err(|error| named(open_fault(&error)))?);
    let _watched = pool.watch(&socket.0);
    let deadline = Instant::now() + config.timeout;
    let connected = socket.0.connect(address, &pool.deadlines, config.timeout).await;
    connected.map_err(|error| named(connect_fault(address, &error)))?;
    let mut out = Vec::new();
    if let Some(version) = upstream.proxy_protocol() {
        proxy_protocol::put(&mut out, version, None);
    }
    if let Some(connector) = &member.origin.tls {
        let whom = (member.origin.host.as_str(), member.origin.url.as_str());
        let how = (&**connector, member.offers());
        let secured = pool.secure_socket(&socket.0, how, whom, &out, deadline).await;
        secured.map_err(named)?;
        out.clear();
    }
    if config.path.is_empty() && config.grpc.is_none() {
        return Ok((socket, out));
    }
    // A connection that carries others ends when nobody uses it.
    socket.0 = pool.speak(socket.0.clone(), &member.origin).map_err(named)?;
    Ok((socket, out))
}

/// Reads the body, whose beginning lies behind the head in `buffer`, until `judge` says what it
/// means; `too_much` and `ended` say it where that never comes.
async fn read_until(
    (socket, pool, limit): (&Socket, &Pool, Duration),
    (mut buffer, head_bytes): (HeadBuffer, usize),
    (too_much, ended): (&str, &str),
    judge: impl Fn(&[u8]) -> Option<Result<(), String>>,
) -> Result<(), String> {
    loop {
        if let Some(verdict) = judge(&buffer.filled()[head_bytes..]) {
            return verdict;
        }
        let most = head_bytes + BODY_BYTES_MAX;
        if buffer.len() >= most || buffer.make_room(most).is_err() {
            return Err(too_much.to_owned());
        }
        let (received, back) = socket.recv(buffer, &pool.deadlines, limit).await;
        buffer = back;
        if !matches!(received, Ok(1..)) {
            return Err(ended.to_owned());
        }
    }
}

/// A socket that is closed with the check, whatever is pending on it.
struct Closing(Socket);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.cut();
    }
}

struct CheckReply<'r> {
    socket: &'r Socket,
    pool: &'r Rc<Pool>,
    head: ResponseHead,
    is_strict: bool,
    limit: Duration,
}

impl Reply for CheckReply<'_> {
    type Wait<'w>
        = Recv<'w>
    where
        Self: 'w;

    fn head(&mut self) -> &mut ResponseHead {
        &mut self.head
    }

    fn recv(&mut self, buffer: Option<HeadBuffer>) -> Result<Recv<'_>, Fault> {
        let buffer = buffer.unwrap_or_else(|| self.pool.heads.lease());
        Ok(self.socket.recv(buffer, &self.pool.deadlines, self.limit))
    }

    fn is_strict(&self) -> bool {
        self.is_strict
    }
}
