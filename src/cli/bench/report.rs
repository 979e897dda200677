//! The report of a run: what people read, and JSON.
//!
//! In comes a tally with what surrounds it; out come a table or one JSON object, whose keys and
//! their order are part of the interface. Nothing is measured here.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::options::{Pace, Plan};
use super::tally::{ErrorKind, Tally};
use super::target::Cost;
use crate::observe::date;

const US: f64 = 1000.0;

/// Everything about one run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) url: String,
    pub(super) connections: usize,
    pub(super) threads: usize,
    pub(super) seconds: f64,
    pub(super) requests: u64,
    pub(super) requests_per_second: f64,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
    /// Read: 10^6 bytes.
    pub(super) mb_per_second: f64,
    pub(super) errors: Errors,
    pub(super) error_rate: f64,
    pub(super) status: Classes,
    pub(super) latency_us: Quantiles,
    pub(super) connect_us: Quantiles,
    pub(super) rate: Option<u64>,
    pub(super) late: Option<Late>,
    pub(super) client_cpu_us_per_request: f64,
    pub(super) target: Option<Cost>,
    pub(super) idle: Option<Idle>,
    /// Where TLS was spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls: Option<Handshakes>,
    /// Where HTTP/2 was spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) http2: Option<Streams>,
}

/// Errors by kind, in the order of [`ErrorKind::ALL`].
#[derive(Clone, Debug)]
pub(super) struct Errors([u64; ErrorKind::ALL.len()]);

/// Answers by the first digit of their status.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Classes {
    #[serde(rename = "1xx")]
    informational: u64,
    #[serde(rename = "2xx")]
    successful: u64,
    #[serde(rename = "3xx")]
    redirection: u64,
    #[serde(rename = "4xx")]
    client_error: u64,
    #[serde(rename = "5xx")]
    server_error: u64,
}

/// A distribution in microseconds; all 0 where there is none.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Quantiles {
    pub(super) mean: f64,
    pub(super) stdev: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

/// How far an open loop fell behind.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Late {
    /// Due, and never sent.
    pub(super) unsent: u64,
    pub(super) max_us: f64,
}

/// What became of connections that were held.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Idle {
    pub(super) held: u64,
    pub(super) lost: u64,
}

/// How connections were secured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Handshakes {
    pub(super) full: u64,
    /// Those that went on from an earlier session.
    pub(super) resumed: u64,
    pub(super) handshakes_per_second: f64,
}

/// How requests shared connections.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Streams {
    /// As many as each connection had at most.
    pub(super) streams: usize,
}

impl Serialize for Errors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (kind, count) in self.iter() {
            map.serialize_entry(kind.name(), &count)?;
        }
        map.end()
    }
}

impl Errors {
    pub(super) fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    fn iter(&self) -> impl Iterator<Item = (ErrorKind, u64)> + '_ {
        ErrorKind::ALL.into_iter().zip(self.0)
    }
}

impl Quantiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / US;
        Self {
            mean: histogram.mean() / US,
            stdev: histogram.stdev() / US,
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / US,
        }
    }
}

impl Report {
    /// What `tally` comes to after `seconds`.
    pub(super) fn new(plan: &Plan, tally: &Tally, seconds: f64, target: Option<Cost>) -> Self {
        let errors = tally.errors();
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let of_all = |part: f64, all: u64| if all == 0 { 0.0 } else { part / all as f64 };
        let [_, informational, successful, redirection, client_error, server_error] = tally.status;
        let rate = match plan.pace {
            Pace::Open(rate) => Some(rate),
            Pace::Closed | Pace::Idle => None,
        };
        Self {
            url: plan.url.clone(),
            connections: plan.connections,
            threads: plan.threads,
            seconds,
            requests: tally.requests,
            requests_per_second: per_second(tally.requests),
            bytes_read: tally.bytes_read,
            bytes_written: tally.bytes_written,
            mb_per_second: per_second(tally.bytes_read) / 1e6,
            errors: Errors(tally.errors),
            error_rate: of_all(errors as f64, errors + tally.requests),
            status: Classes { informational, successful, redirection, client_error, server_error },
            latency_us: Quantiles::of(&tally.latency),
            connect_us: Quantiles::of(&tally.connect),
            rate,
            late: rate
                .map(|_| Late { unsent: tally.unsent, max_us: tally.late_ns_max as f64 / US }),
            client_cpu_us_per_request: of_all(tally.cpu.as_secs_f64() * 1e6, tally.requests),
            target,
            idle: (plan.pace == Pace::Idle).then_some(Idle { held: tally.held, lost: tally.lost }),
            tls: plan.tls.as_ref().map(|_| Handshakes {
                full: tally.full,
                resumed: tally.resumed,
                handshakes_per_second: per_second(tally.full + tally.resumed),
            }),
            http2: plan.http2.as_ref().map(|it| Streams { streams: it.streams }),
        }
    }

    pub(super) fn json(&self) -> String {
        // Numbers and texts only: nothing in it can fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Microseconds as people read them.
pub(super) fn time(us: f64) -> String {
    match us {
        _ if us < 1e3 => format!("{us:.0} us"),
        _ if us < 1e6 => format!("{:.2} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

impl Report {
    /// What was measured, how, and when: for a picture that is looked at later.
    pub(super) fn title(&self) -> String {
        let Self { url, connections, requests_per_second, seconds, .. } = self;
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        let (year, month, day) = date::civil(now / 86_400);
        let (hour, minute) = (now / 3600 % 24, now / 60 % 60);
        let pace = self.rate.map(|rate| format!(" of {rate} wanted")).unwrap_or_default();
        format!(
            "{url}: {requests_per_second:.0} answers/s{pace}, {connections} connections, \
             {seconds:.0} s, {year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, connections, threads, seconds, .. } = self;
        let plural = if *threads == 1 { "" } else { "s" };
        let streams = self.http2.as_ref().map(|it| format!(" of {} streams", it.streams));
        let streams = streams.unwrap_or_default();
        writeln!(
            f,
            "{url}: {connections} connections{streams}, {threads} thread{plural}, {seconds:.2} s"
        )?;
        if let (Some(rate), Some(late)) = (self.rate, &self.late) {
            let (unsent, at_most) = (late.unsent, time(late.max_us));
            writeln!(f, "open loop:    {rate}/s; latest start {at_most} late; {unsent} not sent")?;
        }
        let (per_second, megabytes) = (self.requests_per_second, self.mb_per_second);
        writeln!(f, "answers:      {} ({per_second:.0}/s, {megabytes:.2} MB/s)", self.requests)?;
        let classes = &self.status;
        writeln!(
            f,
            "status:       {} 1xx, {} 2xx, {} 3xx, {} 4xx, {} 5xx",
            classes.informational,
            classes.successful,
            classes.redirection,
            classes.client_error,
            classes.server_error
        )?;
        self.errors(f)?;
        if self.requests > 0 {
            quantiles(f, "latency:", &self.latency_us)?;
        }
        if self.connect_us.max > 0.0 {
            quantiles(f, "connect:", &self.connect_us)?;
        }
        if let Some(Handshakes { full, resumed, handshakes_per_second }) = &self.tls {
            writeln!(
                f,
                "handshakes:   {full} full, {resumed} resumed ({handshakes_per_second:.0}/s)"
            )?;
        }
        if let Some(idle) = &self.idle {
            writeln!(f, "idle:         {} answered again, {} lost", idle.held, idle.lost)?;
        }
        writeln!(f, "load CPU:     {:.2} us per answer", self.client_cpu_us_per_request)?;
        self.target(f)
    }
}

impl Report {
    fn errors(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.errors.total();
        write!(f, "errors:       {total} ({:.3} %)", self.error_rate * 100.0)?;
        for (kind, count) in self.errors.iter().filter(|(_, count)| *count > 0) {
            write!(f, ", {}: {count}", kind.name().replace('_', " "))?;
        }
        writeln!(f)
    }

    fn target(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = 1_048_576.0;
        let Some(target) = &self.target else { return Ok(()) };
        writeln!(
            f,
            "process {}: {:.2} us per answer ({:.0} % user), {:.1} s in all",
            target.pid,
            target.cpu_us_per_request,
            target.user_us / target.cpu_us.max(1.0) * 100.0,
            target.cpu_us / 1e6
        )?;
        writeln!(
            f,
            "              {:.1} MiB at most, {:.1} MiB at the end, {} switches",
            target.peak_rss_bytes as f64 / MIB,
            target.rss_bytes as f64 / MIB,
            target.voluntary_switches + target.involuntary_switches
        )
    }
}

fn quantiles(f: &mut fmt::Formatter<'_>, name: &str, us: &Quantiles) -> fmt::Result {
    writeln!(f, "{name:<13} mean {}, stdev {}", time(us.mean), time(us.stdev))?;
    let named = [
        ("p50", us.p50),
        ("p90", us.p90),
        ("p95", us.p95),
        ("p99", us.p99),
        ("p99.9", us.p999),
        ("max", us.max),
    ];
    let parts = named.map(|(name, us)| format!("{name} {}", time(us)));
    writeln!(f, "              {}", parts.join(", "))
}
