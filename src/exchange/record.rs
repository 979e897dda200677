//! The record of one exchange, filled in as it goes and written once at its end.
//!
//! In go the moments and facts of an exchange; out go the worker's counts, the connection's
//! statistics and, where there is an access log, one line. What only the line needs is kept, and
//! its clocks are read, only then.

use std::time::{Duration, Instant, SystemTime};

use crate::address::{Address, PeerAddress};
use crate::exchange::request::Request;
use crate::exchange::stream::ClientStream;
use crate::fault::Fault;
use crate::hooks::ClientPermit;
use crate::http::Span;
use crate::observe::access_log::{self, Phases};
use crate::observe::connection_stats::{ConnectionStats, Phase};
use crate::observe::metrics::class_of;
use crate::ring::clock;
use crate::routing::Route;
use crate::tls::facts::TlsFacts;
use crate::upstream::lease::Lease;
use crate::worker::Worker;
use crate::worker::generation::Generation;

/// What is known of an exchange.
pub(crate) struct Record {
    began_us: u64,
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    /// Indexes in the configuration.
    route: Option<u32>,
    upstream: Option<u32>,
    is_forward: bool,
    is_counted: bool,
    fault: Option<Fault>,
    /// The client's places under the caps of a route with hooks: kept until the request is over,
    /// the tunnel that an upgrade makes of it included.
    pub(crate) permits: [Option<ClientPermit>; 2],
    /// `None` where no access log is wanted.
    line: Option<Box<Line>>,
}

/// What only the access log wants to know.
struct Line {
    time: SystemTime,
    began: Instant,
    /// The moment at which the phase under way began.
    phase_began: Instant,
    phases: Phases,
    origin: Option<Address>,
    is_reused: bool,
    is_head_known: bool,
    /// What became of a second attempt beside the first.
    hedged: Option<&'static str>,
    /// What the line quotes, once the request itself is gone.
    quoted: Option<Quoted>,
}

struct Quoted {
    client: PeerAddress,
    peer: PeerAddress,
    tls: Option<TlsFacts>,
    method: Box<[u8]>,
    host: Box<[u8]>,
    target: Box<[u8]>,
}

impl Record {
    /// Begins the record of the request in the client's inbox; `is_head_known` says whether its
    /// head could be parsed.
    pub(crate) fn begin(request: &Request<'_, impl ClientStream>, is_head_known: bool) -> Self {
        let now_us = clock::precise_us();
        request.peer.stats.enter(Phase::Exchange, now_us / 1000);
        request.peer.stats.requests.set(request.peer.stats.requests.get() + 1);
        let head_ms = match request.head_began_ms {
            0 => 0,
            began_ms => clock::coarse_ms().saturating_sub(began_ms),
        };
        let line = request.peer.worker.access_log.is_some().then(|| {
            let head = Duration::from_millis(head_ms);
            let now = Instant::now();
            let wall = SystemTime::now();
            Box::new(Line {
                time: wall.checked_sub(head).unwrap_or(wall),
                began: now.checked_sub(head).unwrap_or(now),
                phase_began: now,
                phases: Phases { head_us: micros(head), ..Phases::default() },
                origin: None,
                is_reused: false,
                is_head_known,
                hedged: None,
                quoted: None,
            })
        });
        let mut record = Self {
            began_us: now_us.saturating_sub(head_ms * 1000),
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            route: None,
            upstream: None,
            is_forward: false,
            is_counted: false,
            fault: None,
            permits: [None, None],
            line,
        };
        let head_bytes = if is_head_known { request.head.bytes } else { request.inbox.len() };
        record.received(request.peer.stats, head_bytes as u64);
        record
    }

    /// The exchange has a route, whatever becomes of it.
    pub(crate) fn routed(&mut self, route: &Route) {
        self.route = Some(route.index);
    }

    /// The exchange knows where it goes, to an upstream by a route or, without either, to what the
    /// client asks for, and begins to look for a connection.
    pub(crate) fn wait_for_pool(&mut self, (route, upstream): (Option<u32>, Option<usize>)) {
        self.route = route;
        self.upstream = upstream.map(|index| index as u32);
        self.is_forward = route.is_none();
        self.connecting();
    }

    /// It has got one.
    pub(crate) fn connected(&mut self, lease: &Lease) {
        let Some(line) = &mut self.line else { return };
        let now = Instant::now();
        let connect_began = lease.connect_began().unwrap_or(now);
        line.phases.pool_us += micros(connect_began.saturating_duration_since(line.phase_began));
        line.phases.connect_us += micros(now.saturating_duration_since(connect_began));
        line.phase_began = now;
        line.origin = Some(lease.address());
        line.is_reused = lease.is_reused;
    }

    /// The exchange begins to connect.
    pub(crate) fn connecting(&mut self) {
        if let Some(line) = &mut self.line {
            line.phase_began = Instant::now();
        }
    }

    /// It is connected, outside the pool.
    pub(crate) fn reached(&mut self, origin: Address) {
        let Some(line) = &mut self.line else { return };
        let now = Instant::now();
        line.phases.connect_us += micros(now.saturating_duration_since(line.phase_began));
        line.phase_began = now;
        line.origin = Some(origin);
    }

    /// There was a second attempt beside the first.
    pub(crate) fn hedged(&mut self, outcome: &'static str) {
        if let Some(line) = &mut self.line {
            line.hedged = Some(outcome);
        }
    }

    /// The head of an answer is there, the origin's or our own.
    pub(crate) fn answered(&mut self, status: u16) {
        self.status = status;
        let Some(line) = &mut self.line else { return };
        if self.fault.is_none() && line.origin.is_some() {
            line.phases.first_byte_us = micros(line.phase_began.elapsed());
        }
    }

    pub(crate) fn sent(&mut self, stats: &ConnectionStats, bytes: u64) {
        self.bytes_out += bytes;
        stats.sent.set(stats.sent.get() + bytes);
    }

    pub(crate) fn received(&mut self, stats: &ConnectionStats, bytes: u64) {
        self.bytes_in += bytes;
        stats.received.set(stats.received.get() + bytes);
    }

    /// A transfer has moved so much; the connection's statistics have had it step by step.
    pub(crate) fn moved(&mut self, bytes_in: u64, bytes_out: u64) {
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
    }

    pub(crate) fn failed(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    /// Takes the record out of the exchange's hands, with what it quotes of the request: what
    /// follows outlives that. The answer to the request is counted now.
    #[must_use]
    pub(crate) fn detach(&mut self, request: &Request<'_, impl ClientStream>) -> Self {
        self.count(request.peer.worker, &request.peer.generation);
        let line = self.line.take().map(|mut line| {
            let (head, text) = (&request.head, request.inbox.filled());
            line.quoted = Some(Quoted {
                client: request.peer.sender(),
                peer: request.peer.address,
                tls: request.peer.tls().cloned(),
                method: head.method_text.of(text).into(),
                host: head.authority.of(text).into(),
                target: head.plain_target(text).into(),
            });
            line
        });
        Self { line, permits: std::mem::take(&mut self.permits), ..*self }
    }

    /// Writes the line of a detached record.
    pub(crate) fn write_detached(self, worker: &Worker, generation: &Generation) {
        if let Some(fault) = self.fault {
            worker.metrics.faults.count(fault.proxy_error());
        }
        let (Some(line), Some(log)) = (&self.line, &worker.access_log) else { return };
        let Some(quoted) = &line.quoted else { return };
        let text = [&*quoted.method, &*quoted.host, &*quoted.target];
        let record = self.render(line, generation, (quoted.client, quoted.peer), text);
        log.record(&access_log::Record { tls: quoted.tls.as_ref(), ..record });
    }

    /// Counts the exchange and writes its line.
    pub(crate) fn write(mut self, request: &Request<'_, impl ClientStream>) {
        let now_us = self.count(request.peer.worker, &request.peer.generation);
        request.peer.stats.enter(Phase::Idle, now_us / 1000);
        let (Some(line), Some(log)) = (&self.line, &request.peer.worker.access_log) else { return };
        let (head, text) = (&request.head, request.inbox.filled());
        let part = |span: Span| if line.is_head_known { span.of(text) } else { b"" };
        let target = if line.is_head_known { head.plain_target(text) } else { b"".into() };
        let quoted = [part(head.method_text), part(head.authority), &target];
        let details = match self.fault {
            Some(Fault::OriginHead(_)) => request.response.refused.as_deref(),
            _ => None,
        };
        let from = (request.peer.sender(), request.peer.address);
        let record = self.render(line, &request.peer.generation, from, quoted);
        log.record(&access_log::Record { details, tls: request.peer.tls(), ..record });
    }

    /// Adds to the worker's counts, once; the time.
    fn count(&mut self, worker: &Worker, generation: &Generation) -> u64 {
        let now_us = clock::precise_us();
        if std::mem::replace(&mut self.is_counted, true) {
            return now_us;
        }
        let metrics = &worker.metrics;
        let index = |index: Option<u32>| index.map(|index| index as usize);
        let us = now_us.saturating_sub(self.began_us);
        metrics.answered(self.status, us);
        let (route, upstream) = (index(self.route), index(self.upstream));
        generation.counts.answered(route, upstream, self.status);
        if self.status != 0 {
            generation.counts.timed(upstream, us);
        }
        metrics.bytes_received.add(self.bytes_in);
        metrics.bytes_sent.add(self.bytes_out);
        if self.is_forward {
            metrics.forwarded[class_of(self.status)].add(1);
        }
        if let Some(fault) = self.fault {
            metrics.faults.count(fault.proxy_error());
        }
        now_us
    }

    fn render<'a>(
        &self,
        line: &Line,
        generation: &'a Generation,
        (client, peer): (PeerAddress, PeerAddress),
        [method, host, target]: [&'a [u8]; 3],
    ) -> access_log::Record<'a> {
        access_log::Record {
            time: line.time,
            client,
            peer: (client != peer).then_some(peer),
            tls: None,
            method,
            host,
            target,
            status: self.status,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            upstream: self.upstream.map_or("", |index| generation.upstreams[index as usize].name()),
            origin: line.origin,
            is_reused: line.is_reused,
            hedged: line.hedged,
            phases: Phases { total_us: micros(line.began.elapsed()), ..line.phases },
            error: self.fault.map(Fault::name),
            details: None,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
