//! The record of one exchange, filled in as it goes and written once at its end.
//!
//! In go the moments and facts of an exchange; out go the worker's counts, the connection's
//! statistics and, where there is an access log, one line. What only the line needs is kept, and
//! its clocks are read, only then.

use std::time::{Duration, Instant};

use crate::address::{Address, PeerAddress};
use crate::exchange::line::{Line, field};
use crate::exchange::request::Request;
use crate::exchange::response_notes::ResponseNotes;
use crate::exchange::stream::ClientStream;
use crate::fault::Fault;
use crate::hooks::ClientPermit;
use crate::http::Span;
use crate::observe::access_log::{self, Phases};
use crate::observe::access_notes::{Noted, Notes};
use crate::observe::connection_stats::{ConnectionStats, Phase};
use crate::observe::metrics::class_of;
use crate::observe::traffic::Ended;
use crate::ring::clock;
use crate::routing::Route;
use crate::upstream::lease::Lease;
use crate::upstream::origin_ids::Account;
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
    /// The origin that it was last connected to.
    origin: Option<Account>,
    is_forward: bool,
    is_counted: bool,
    fault: Option<Fault>,
    /// The client's places under the caps of a route with hooks: kept until the request is over,
    /// the tunnel that an upgrade makes of it included.
    pub(crate) permits: [Option<ClientPermit>; 2],
    /// `None` where no access log is wanted.
    line: Option<Box<Line>>,
}

impl Record {
    /// Begins the record of the request in the client's inbox; `is_head_known` says whether its
    /// head could be parsed.
    pub(crate) fn begin(request: &Request<'_, impl ClientStream>, is_head_known: bool) -> Self {
        let now_us = clock::precise_us();
        request.peer.stats.enter(Phase::Exchange, now_us / 1000);
        request.peer.stats.begin_exchange();
        let head_ms = match request.head_began_ms {
            0 => 0,
            began_ms => clock::coarse_ms().saturating_sub(began_ms),
        };
        let is_told = request.peer.worker.access_log.is_some() || request.trace.is_some();
        let line =
            is_told.then(|| Line::begin(request, Duration::from_millis(head_ms), is_head_known));
        let began_us = now_us.saturating_sub(head_ms * 1000);
        let mut record = Self { line, ..Self::blank(began_us) };
        let head_bytes = if is_head_known { request.head.bytes } else { request.inbox.len() };
        record.received(request.peer.stats, head_bytes as u64);
        record
    }

    #[inline]
    fn blank(began_us: u64) -> Self {
        Self {
            began_us,
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            route: None,
            upstream: None,
            origin: None,
            is_forward: false,
            is_counted: false,
            fault: None,
            permits: [None, None],
            line: None,
        }
    }

    /// Writes the line of a request that is refused without an answer, on the stream with that
    /// number.
    #[cold]
    pub(crate) fn refused(
        request: &Request<'_, impl ClientStream>,
        stream: Option<u32>,
        fault: Fault,
    ) {
        let worker = request.peer.worker;
        worker.metrics.faults.count(fault.proxy_error());
        if worker.access_log.is_none() {
            return;
        }
        let mut line = Line::begin(request, Duration::ZERO, false);
        line.stream = stream;
        let blank = Self::blank(clock::precise_us());
        let record = Self { is_counted: true, fault: Some(fault), ..blank };
        record.write_line(line, request);
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
        if let Some(before) = std::mem::replace(&mut self.origin, lease.account()) {
            self.left(&before);
        }
        let Some(line) = &mut self.line else { return };
        let now = Instant::now();
        let connect_began = lease.connect_began().unwrap_or(now);
        if let Some(trace) = &line.trace {
            trace.phase("wait for a connection", line.phase_began, connect_began);
            trace.phase("connect", connect_began, now);
        }
        line.phases.pool_us += micros(connect_began.saturating_duration_since(line.phase_began));
        line.phases.connect_us += micros(now.saturating_duration_since(connect_began));
        line.phase_began = now;
        line.origin = Some(lease.address());
        line.is_reused = lease.is_reused;
    }

    /// It has come to nothing with that origin, and goes on with this one.
    #[cold]
    fn left(&self, before: &Account) {
        if !self.origin.as_ref().is_some_and(|origin| origin.is(before)) {
            before.add(Ended::new(0, 0));
        }
    }

    /// The exchange begins to connect.
    pub(crate) fn connecting(&mut self) {
        if let Some(line) = &mut self.line {
            line.phase_began = Instant::now();
            line.attempts += 1;
            if let Some(trace) = &line.trace {
                trace.failed();
            }
        }
    }

    /// It is connected, outside the pool.
    pub(crate) fn reached(&mut self, origin: Address) {
        let Some(line) = &mut self.line else { return };
        let now = Instant::now();
        if let Some(trace) = &line.trace {
            trace.phase("connect", line.phase_began, now);
        }
        line.phases.connect_us += micros(now.saturating_duration_since(line.phase_began));
        line.phase_began = now;
        line.origin = Some(origin);
    }

    /// Who asks, and what the request is called, as far as that is known.
    pub(crate) fn identified(&mut self, user: Option<&[u8]>, request_id: &[u8]) {
        let Some(line) = &mut self.line else { return };
        let notes = line.notes.get_mut();
        for (noted, value) in
            [(Noted::User, user.unwrap_or_default()), (Noted::RequestId, request_id)]
        {
            if !value.is_empty() {
                notes.put(noted, value);
            }
        }
    }

    /// Where the head of the answer is noted, if its line quotes some of that.
    #[inline]
    pub(crate) fn response_notes<'a>(&'a self, worker: &'a Worker) -> Option<ResponseNotes<'a>> {
        let (line, log) = (self.line.as_ref()?, worker.access_log.as_ref()?);
        let names = &log.look().response_headers;
        (!names.is_empty()).then_some(ResponseNotes { notes: &line.notes, names })
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
            if let Some(trace) = &line.trace {
                trace.answered();
            }
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
            if let Some(log) = &request.peer.worker.access_log {
                line.note_request(log.look(), &request.head, request.inbox.filled());
            }
            line.quote(request);
            line
        });
        Self { line, permits: std::mem::take(&mut self.permits), origin: None, ..*self }
    }

    /// Writes the line of a detached record.
    pub(crate) fn write_detached(mut self, worker: &Worker, generation: &Generation) {
        if let Some(fault) = self.fault {
            worker.metrics.faults.count(fault.proxy_error());
        }
        let Some(line) = self.line.take() else { return };
        if let Some(quoted) = &line.quoted {
            let notes = line.notes.borrow();
            let text = [&*quoted.method, &*quoted.host, &*quoted.target];
            let from = (quoted.client, quoted.peer);
            let record = self.render(&line, generation, (from, &notes), text);
            let record = access_log::Record {
                tls: quoted.tls.as_ref(),
                version: quoted.version.text(),
                user_agent: &quoted.user_agent,
                referer: &quoted.referer,
                memory_peak: quoted.memory_peak,
                ..record
            };
            self.tell(&line, worker, generation, &record);
        }
        line.keep();
    }

    /// Counts the exchange and writes its line.
    pub(crate) fn write(mut self, request: &Request<'_, impl ClientStream>) {
        let now_us = self.count(request.peer.worker, &request.peer.generation);
        request.peer.stats.enter(Phase::Idle, now_us / 1000);
        if let Some(line) = self.line.take() {
            self.write_line(line, request);
        }
    }

    #[cold]
    fn write_line(&self, line: Box<Line>, request: &Request<'_, impl ClientStream>) {
        let (head, text) = (&request.head, request.inbox.filled());
        if let Some(log) = &request.peer.worker.access_log {
            line.note_request(log.look(), head, text);
        }
        let part = |span: Span| if line.is_head_known { span.of(text) } else { b"" };
        let target = if line.is_head_known { head.plain_target(text) } else { b"".into() };
        let quoted = [part(head.method_text), part(head.authority), &target];
        let details = match self.fault {
            Some(Fault::OriginHead(_)) => request.response.refused.as_deref(),
            _ => None,
        };
        let from = (request.peer.sender(), request.peer.address);
        let notes = line.notes.borrow();
        let record = self.render(&line, &request.peer.generation, (from, &notes), quoted);
        let [user_agent, referer] = [&b"user-agent"[..], b"referer"]
            .map(|name| if line.is_head_known { field(head, text, name) } else { b"" });
        let record = access_log::Record {
            details,
            tls: request.peer.tls(),
            version: if line.is_head_known { head.version.text() } else { "" },
            user_agent,
            referer,
            memory_peak: request.peer.stats.peak_bytes(),
            ..record
        };
        self.tell(&line, request.peer.worker, &request.peer.generation, &record);
        drop(notes);
        line.keep();
    }

    /// Writes a line, where its route wants one, and sends spans, where somebody collects them.
    fn tell(
        &self,
        line: &Line,
        worker: &Worker,
        generation: &Generation,
        record: &access_log::Record<'_>,
    ) {
        if let (Some(trace), Some(spans)) = (&line.trace, worker.shared.spans.get())
            && trace.ids().is_sampled
        {
            spans.send(trace.spans(record, line.began));
        }
        let Some(log) = &worker.access_log else { return };
        let route = self.route.and_then(|route| generation.config.routes.get(route as usize));
        log.record(record, route.and_then(|route| route.access_when.as_ref()));
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
        let ended = Ended::new(self.status, us);
        generation.counts.ended(route, upstream, ended);
        if let Some(origin) = self.origin.take() {
            origin.add(ended);
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
        ((client, peer), notes): ((PeerAddress, PeerAddress), &'a Notes),
        [method, host, target]: [&'a [u8]; 3],
    ) -> access_log::Record<'a> {
        access_log::Record {
            time: line.time,
            client,
            peer: (client != peer).then_some(peer),
            tls: None,
            stream: line.stream,
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
            route: self.route.map_or("", |index| generation.route_name(index)),
            version: "",
            user_agent: b"",
            referer: b"",
            arm: self.arm(generation).unwrap_or_default(),
            retries: line.attempts.saturating_sub(1),
            memory_peak: 0,
            trace: line.trace.as_ref().map(|trace| trace.ids()),
            notes,
        }
    }

    /// The upstream that the split of its route has chosen.
    fn arm<'a>(&self, generation: &'a Generation) -> Option<&'a str> {
        let hooked = generation.hooks.hooked(self.route?)?;
        let chosen = self.upstream? as usize;
        hooked.arms().any(|(arm, _)| arm == chosen).then(|| generation.upstreams[chosen].name())
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
