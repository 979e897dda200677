//! The record of one exchange, filled in as it goes and written once at its end.
//!
//! In go the moments and facts of an exchange; out goes one line for the access log. Where no
//! access log is wanted each call is a test of one flag: no clock is read and nothing is kept.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use crate::access_log::{self, Phases};
use crate::connection::Client;
use crate::fault::Fault;
use crate::http::Span;
use crate::ring::clock;
use crate::upstream::lease::Lease;

/// What is known of an exchange; `None` where no access log is wanted.
pub struct Record(Option<Box<Facts>>);

struct Facts {
    time: SystemTime,
    began: Instant,
    /// The moment at which the phase under way began.
    phase_began: Instant,
    phases: Phases,
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    /// Index in the configuration.
    upstream: Option<usize>,
    origin: Option<SocketAddr>,
    is_reused: bool,
    fault: Option<Fault>,
    is_head_known: bool,
}

impl Record {
    /// Begins the record of the request in the client's inbox; `is_head_known` says whether its
    /// head could be parsed.
    pub fn begin(client: &Client<'_>, is_head_known: bool) -> Self {
        Self(client.worker.access_log.is_some().then(|| {
            let head_ms = clock::coarse_ms().saturating_sub(client.head_began_ms);
            let head = Duration::from_millis(if client.head_began_ms == 0 { 0 } else { head_ms });
            let now = Instant::now();
            let wall = SystemTime::now();
            Box::new(Facts {
                time: wall.checked_sub(head).unwrap_or(wall),
                began: now.checked_sub(head).unwrap_or(now),
                phase_began: now,
                phases: Phases { head_us: micros(head), ..Phases::default() },
                status: 0,
                bytes_in: if is_head_known { client.request.bytes } else { client.inbox.len() }
                    as u64,
                bytes_out: 0,
                upstream: None,
                origin: None,
                is_reused: false,
                fault: None,
                is_head_known,
            })
        }))
    }

    /// The exchange begins to look for a connection.
    pub fn wait_for_pool(&mut self, upstream: usize) {
        if let Some(facts) = &mut self.0 {
            facts.upstream = Some(upstream);
            facts.phase_began = Instant::now();
        }
    }

    /// It has got one.
    pub fn connected(&mut self, lease: &Lease) {
        let Some(facts) = &mut self.0 else { return };
        let now = Instant::now();
        let connect_began = lease.connect_began().unwrap_or(now);
        facts.phases.pool_us += micros(connect_began.saturating_duration_since(facts.phase_began));
        facts.phases.connect_us += micros(now.saturating_duration_since(connect_began));
        facts.phase_began = now;
        facts.origin = Some(lease.address());
        facts.is_reused = lease.is_reused;
    }

    /// The head of an answer is there, the origin's or our own.
    pub fn answered(&mut self, status: u16) {
        let Some(facts) = &mut self.0 else { return };
        facts.status = status;
        if facts.fault.is_none() && facts.origin.is_some() {
            facts.phases.first_byte_us = micros(facts.phase_began.elapsed());
        }
    }

    pub fn sent(&mut self, bytes: u64) {
        if let Some(facts) = &mut self.0 {
            facts.bytes_out += bytes;
        }
    }

    pub fn received(&mut self, bytes: u64) {
        if let Some(facts) = &mut self.0 {
            facts.bytes_in += bytes;
        }
    }

    pub fn failed(&mut self, fault: Fault) {
        if let Some(facts) = &mut self.0 {
            facts.fault = Some(fault);
        }
    }

    /// Writes the line.
    pub fn write(self, client: &Client<'_>) {
        let (Some(mut facts), Some(log)) = (self.0, &client.worker.access_log) else { return };
        facts.phases.total_us = micros(facts.began.elapsed());
        let (head, text) = (&client.request, client.inbox.filled());
        let part = |span: Span| if facts.is_head_known { span.of(text) } else { b"" };
        log.record(&access_log::Record {
            time: facts.time,
            client: client.peer,
            method: part(head.method_text),
            host: part(head.authority),
            target: part(head.target),
            status: facts.status,
            bytes_in: facts.bytes_in,
            bytes_out: facts.bytes_out,
            upstream: facts.upstream.map_or("", |index| client.worker.upstreams[index].name()),
            origin: facts.origin,
            is_reused: facts.is_reused,
            phases: facts.phases,
            error: facts.fault.map(Fault::name),
        });
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
