//! What is asked of the proxies: a table.
//!
//! In: options. Out: for each scenario the URL, the load and how much of it. Starts nothing.

use super::certificates::Key;
use super::options::Options;
use super::peers::{Origin, Peer, Running};
use super::process;

#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    way: Way,
    page: Page,
    connections: u32,
    pub(crate) maker: Maker,
    /// For the load generator.
    pub(crate) flags: &'static [&'static str],
    amount: Amount,
    pub(crate) measure: Measure,
    /// Runs only where it is named.
    pub(crate) is_extra: bool,
}

/// Who makes the load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Maker {
    #[default]
    Bench,
    H2load,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Reverse,
    /// The same over TLS.
    Secure(Key),
    /// HTTP/2 by prior knowledge.
    Http2,
    Forward,
}

/// What the origin is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Small,
    Kib64,
    Mib1,
    Mib100,
    Chunked,
    Upload,
}

#[derive(Clone, Copy, Debug)]
enum Amount {
    /// For as long as every run takes.
    Time,
    Seconds(f64),
    /// Large bodies: in a short time there might be none.
    Requests(u32),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Measure {
    Load,
    /// Memory of connections that wait for their next request.
    Idle,
    /// Memory while clients read slowly.
    Slow,
    /// A fixed rate: this share of what the proxy can do at 64 connections.
    Open(f64),
}

/// What a slow reader takes in a second: two seconds for an answer of a MiB.
pub(crate) const SLOW_BYTES: u32 = 512 * 1024;

/// Nobody vouches for the certificates.
const TLS: &[&str] = &["--insecure"];

const FULL: &[&str] = &["--insecure", "--no-keepalive", "--no-resumption"];

/// One connection with 100 streams, and 16 with 10.
const STREAMS_100: &[&str] = &["--http2", "--streams", "100"];
const STREAMS_10: &[&str] = &["--http2", "--streams", "10"];
const TLS_STREAMS_10: &[&str] = &["--http2", "--streams", "10", "--insecure"];

const UPLOAD: &[&str] = &["--method", "PUT", "--body-bytes", "100m"];

const BASE: Scenario = Scenario {
    name: "",
    text: "",
    way: Way::Reverse,
    page: Page::Small,
    connections: 64,
    maker: Maker::Bench,
    flags: &[],
    amount: Amount::Time,
    measure: Measure::Load,
    is_extra: false,
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "small-1", text: "13 bytes, 1 connection", connections: 1, ..BASE },
    Scenario { name: "small-8", text: "13 bytes, 8 connections", connections: 8, ..BASE },
    Scenario { name: "small-64", text: "13 bytes, 64 connections", ..BASE },
    Scenario { name: "small-1000", text: "13 bytes, 1,000 connections", connections: 1000, ..BASE },
    Scenario { name: "body-64k", text: "64 KiB, 64 connections", page: Page::Kib64, ..BASE },
    Scenario {
        name: "body-1m",
        text: "1 MiB, 8 connections",
        page: Page::Mib1,
        connections: 8,
        ..BASE
    },
    Scenario {
        name: "body-100m",
        text: "100 MiB, 2 connections",
        page: Page::Mib100,
        connections: 2,
        amount: Amount::Requests(10),
        ..BASE
    },
    Scenario {
        name: "upload-100m",
        text: "100 MiB upload, 2 connections",
        page: Page::Upload,
        connections: 2,
        flags: UPLOAD,
        amount: Amount::Requests(10),
        ..BASE
    },
    Scenario {
        name: "chunked",
        text: "64 KiB in chunks, 8 connections",
        page: Page::Chunked,
        connections: 8,
        ..BASE
    },
    Scenario {
        name: "reconnect",
        text: "13 bytes, a connection for each request, 8 at once",
        connections: 8,
        flags: &["--no-keepalive"],
        ..BASE
    },
    Scenario {
        name: "tls-64",
        text: "13 bytes over TLS, 64 connections",
        way: Way::Secure(Key::Ecdsa),
        flags: TLS,
        ..BASE
    },
    Scenario {
        name: "tls-1m",
        text: "1 MiB over TLS, 8 connections",
        way: Way::Secure(Key::Ecdsa),
        page: Page::Mib1,
        connections: 8,
        flags: TLS,
        ..BASE
    },
    Scenario {
        name: "tls-ecdsa",
        text: "a full handshake (ECDSA P-256) for each 13 bytes, 8 at once",
        way: Way::Secure(Key::Ecdsa),
        connections: 8,
        flags: FULL,
        ..BASE
    },
    Scenario {
        name: "tls-rsa",
        text: "a full handshake (RSA 2048) for each 13 bytes, 8 at once",
        way: Way::Secure(Key::Rsa),
        connections: 8,
        flags: FULL,
        ..BASE
    },
    Scenario {
        name: "tls-resumed",
        text: "a resumed handshake for each 13 bytes, 8 at once",
        way: Way::Secure(Key::Ecdsa),
        connections: 8,
        flags: &["--insecure", "--no-keepalive"],
        ..BASE
    },
    Scenario {
        name: "h2c-1x100",
        text: "13 bytes by HTTP/2, 1 connection of 100 streams",
        way: Way::Http2,
        connections: 1,
        flags: STREAMS_100,
        ..BASE
    },
    Scenario {
        name: "h2c-16x10",
        text: "13 bytes by HTTP/2, 16 connections of 10 streams",
        way: Way::Http2,
        connections: 16,
        flags: STREAMS_10,
        ..BASE
    },
    Scenario {
        name: "h2load-1x100",
        text: "13 bytes by HTTP/2, 1 connection of 100 streams of h2load",
        way: Way::Http2,
        connections: 1,
        maker: Maker::H2load,
        flags: STREAMS_100,
        ..BASE
    },
    Scenario {
        name: "h2load-16x10",
        text: "13 bytes by HTTP/2, 16 connections of 10 streams of h2load",
        way: Way::Http2,
        connections: 16,
        maker: Maker::H2load,
        flags: STREAMS_10,
        ..BASE
    },
    Scenario {
        name: "h2load-tls-16x10",
        text: "13 bytes by HTTP/2 over TLS, 16 connections of 10 streams of h2load",
        way: Way::Secure(Key::Ecdsa),
        connections: 16,
        maker: Maker::H2load,
        flags: TLS_STREAMS_10,
        ..BASE
    },
    Scenario {
        name: "h2c-1m",
        text: "1 MiB by HTTP/2, 1 connection of 10 streams",
        way: Way::Http2,
        page: Page::Mib1,
        connections: 1,
        flags: STREAMS_10,
        ..BASE
    },
    Scenario {
        name: "h2-16x10",
        text: "13 bytes by HTTP/2 over TLS, 16 connections of 10 streams",
        way: Way::Secure(Key::Ecdsa),
        connections: 16,
        flags: TLS_STREAMS_10,
        ..BASE
    },
    Scenario {
        name: "h2-1m",
        text: "1 MiB by HTTP/2 over TLS, 1 connection of 10 streams",
        way: Way::Secure(Key::Ecdsa),
        page: Page::Mib1,
        connections: 1,
        flags: TLS_STREAMS_10,
        ..BASE
    },
    Scenario {
        name: "absolute",
        text: "13 bytes by absolute URL, 64 connections",
        way: Way::Forward,
        ..BASE
    },
    Scenario {
        name: "connect-bulk",
        text: "100 MiB through a tunnel, 2 at once",
        way: Way::Forward,
        page: Page::Mib100,
        connections: 2,
        flags: &["--connect"],
        amount: Amount::Requests(10),
        ..BASE
    },
    Scenario {
        name: "connect-setup",
        text: "a tunnel for each 13 bytes, 8 at once",
        way: Way::Forward,
        connections: 8,
        flags: &["--connect", "--no-keepalive"],
        ..BASE
    },
    Scenario {
        name: "connect-1",
        text: "a tunnel for each 13 bytes, one after the other",
        way: Way::Forward,
        connections: 1,
        flags: &["--connect", "--no-keepalive"],
        ..BASE
    },
    Scenario {
        name: "idle",
        text: "memory of an idle connection, of 10,000",
        connections: 10_000,
        amount: Amount::Seconds(6.0),
        measure: Measure::Idle,
        ..BASE
    },
    Scenario {
        name: "tls-idle",
        text: "memory of an idle connection over TLS, of 5,000",
        way: Way::Secure(Key::Ecdsa),
        connections: 5_000,
        flags: TLS,
        amount: Amount::Seconds(6.0),
        measure: Measure::Idle,
        ..BASE
    },
    Scenario {
        name: "h2c-idle",
        text: "memory of an idle connection of HTTP/2, of 5,000",
        way: Way::Http2,
        connections: 5_000,
        flags: &["--http2"],
        amount: Amount::Seconds(6.0),
        measure: Measure::Idle,
        ..BASE
    },
    Scenario {
        name: "h2-idle",
        text: "memory of an idle connection of HTTP/2 over TLS, of 5,000",
        way: Way::Secure(Key::Ecdsa),
        connections: 5_000,
        flags: &["--http2", "--insecure"],
        amount: Amount::Seconds(6.0),
        measure: Measure::Idle,
        ..BASE
    },
    Scenario {
        name: "slow",
        text: "memory of a connection that reads 512 KiB/s of 1 MiB, of 100",
        page: Page::Mib1,
        connections: 100,
        amount: Amount::Seconds(3.0),
        measure: Measure::Slow,
        ..BASE
    },
    Scenario {
        name: "open-50",
        text: "13 bytes at half of what the proxy can do",
        measure: Measure::Open(0.5),
        ..BASE
    },
    Scenario {
        name: "open-80",
        text: "13 bytes at 80 % of what the proxy can do",
        measure: Measure::Open(0.8),
        ..BASE
    },
    Scenario {
        name: "soak",
        text: "64 KiB, 200 connections, ten minutes",
        page: Page::Kib64,
        connections: 200,
        amount: Amount::Seconds(600.0),
        is_extra: true,
        ..BASE
    },
];

impl Scenario {
    pub(crate) fn is_forward(&self) -> bool {
        self.way == Way::Forward
    }

    /// Of the certificate, where TLS is spoken.
    pub(crate) fn key(&self) -> Key {
        if let Way::Secure(key) = self.way { key } else { Key::default() }
    }

    /// The program that makes its load, where that is not ours.
    pub(crate) fn needs(&self) -> Option<&'static str> {
        (self.maker == Maker::H2load).then_some("h2load")
    }

    /// Whether each run needs a proxy that has done nothing yet.
    pub(crate) fn is_fresh(&self) -> bool {
        matches!(self.measure, Measure::Idle | Measure::Slow)
    }

    pub(crate) fn is_bulk(&self) -> bool {
        matches!(self.amount, Amount::Requests(_))
    }

    pub(crate) fn peers_of<'p>(
        &self,
        peers: &'p [Peer],
    ) -> impl Iterator<Item = &'p Peer> + use<'p, '_> {
        peers.iter().filter(|peer| match self.way {
            Way::Reverse => peer.is_reverse,
            // Those that speak TLS are set up for both.
            Way::Secure(_) | Way::Http2 => peer.is_secure,
            Way::Forward => peer.is_forward,
        })
    }

    /// nginx, or the first forward proxy that is not ringway.
    pub(crate) fn reference(&self, peers: &[&Peer]) -> Option<&'static str> {
        let names = if self.is_forward() { &["squid", "tinyproxy"][..] } else { &["nginx"] };
        names.iter().copied().find(|name| peers.iter().any(|peer| peer.name == *name))
    }

    pub(crate) fn url(&self, running: &Running, origin: &Origin) -> String {
        let path = origin.path(self.page);
        match self.way {
            Way::Reverse => format!("http://{}{path}", running.address()),
            Way::Secure(_) => format!("https://{}{path}", running.secure_address()),
            Way::Http2 => format!("http://{}{path}", running.http2_address()),
            Way::Forward => format!("http://{}{path}", origin.address()),
        }
    }

    /// At most half of the files that a process may open: a proxy needs two for each.
    pub(crate) fn connections_of(&self, options: &Options) -> u32 {
        let wanted = if options.smoke { self.connections.min(20) } else { self.connections };
        let wanted = if options.quick { wanted.min(2_000) } else { wanted };
        wanted.min(process::open_files_max().saturating_sub(500) / 2).max(1)
    }

    /// Seconds or requests of a run.
    pub(crate) fn amount(&self, options: &Options, seconds: f64) -> (Option<f64>, Option<u32>) {
        match self.amount {
            // On a busy machine a moment is too short for handshakes.
            Amount::Time if options.smoke && self.measure == Measure::Load => (None, Some(40)),
            Amount::Time => (Some(seconds), None),
            Amount::Seconds(all) if options.smoke => (Some(all.min(0.5)), None),
            Amount::Seconds(all) => (Some(all), None),
            Amount::Requests(_) if options.smoke => (None, Some(2)),
            Amount::Requests(count) if options.quick => (None, Some(count / 2)),
            Amount::Requests(count) => (None, Some(count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
        assert!(!names.contains(""));
    }
}
