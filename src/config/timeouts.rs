//! `[timeouts]`: how long anybody may take for anything.
//!
//! In: TOML, JSON and texts, by way of serde. Out: durations. Nothing here waits.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kinds::own::PoolStatusCode;
use super::kinds::plain::{Span, Time, Timeout};
use super::kinds::{As, Optional};

const MINUTE: Duration = Duration::from_secs(60);

/// A tunnel may rest over a weekend.
type Silence = Time<1, { 7 * 86_400_000 }>;

type Own = Optional<Span<1, 86_400_000>>;
type OwnSilence = Optional<Span<1, { 7 * 86_400_000 }>>;

/// Every timeout lies between 1ms and 1d; those of tunnels, between 1ms and 7d.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutsConfig {
    /// For the TCP connection to an origin, else 504.
    #[serde(with = "Timeout")]
    pub connect: Duration,
    /// Between two reads from an origin: 504 before the head, a cut connection after it. Also
    /// between two reads of a request body.
    #[serde(with = "Timeout")]
    pub read: Duration,
    /// For an origin that takes nothing of a request while others wait for a connection to it;
    /// while nobody does, it has timeouts.read.
    #[serde(with = "Timeout")]
    pub write: Duration,
    /// For a client that takes nothing of its answer, before it is reset.
    #[serde(with = "Timeout")]
    pub client_write: Duration,
    /// For a free connection when the pool is at max_connections.
    #[serde(with = "Timeout")]
    pub pool: Duration,
    /// What the client is told when that time is up. 504 or 503.
    #[serde(with = "As::<PoolStatusCode>")]
    pub pool_status: PoolStatus,
    /// For a whole request head, from its first byte, else 408; and for a new connection's first
    /// byte.
    #[serde(with = "Timeout")]
    pub client_head: Duration,
    /// For all of a TLS handshake of a client.
    #[serde(with = "Timeout")]
    pub handshake: Duration,
    /// Between two requests of a client connection. Longer than a balancer keeps its own (60s), so
    /// that it is the balancer who closes, and never while it sends.
    #[serde(with = "Timeout")]
    pub client_idle: Duration,
    /// A tunnel in which neither side sends for this long is closed.
    #[serde(with = "Silence")]
    pub tunnel_idle: Duration,
    /// For one side of a tunnel to send, after the other has ended its direction.
    #[serde(with = "Silence")]
    pub tunnel_half_closed: Duration,
}

/// What of [timeouts] is another one for an upstream, or for a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OwnTimeouts {
    /// For the TCP connection to an origin.
    #[serde(with = "Own", skip_serializing_if = "Option::is_none")]
    pub connect: Option<Duration>,
    /// Between two reads from an origin, and of a request body.
    #[serde(with = "Own", skip_serializing_if = "Option::is_none")]
    pub read: Option<Duration>,
    /// For an origin that takes nothing while others wait for a connection to it.
    #[serde(with = "Own", skip_serializing_if = "Option::is_none")]
    pub write: Option<Duration>,
    /// For a client that takes nothing of its answer.
    #[serde(with = "Own", skip_serializing_if = "Option::is_none")]
    pub client_write: Option<Duration>,
    /// For a free connection.
    #[serde(with = "Own", skip_serializing_if = "Option::is_none")]
    pub pool: Option<Duration>,
    /// What the client is told when that time is up. 504 or 503.
    #[serde(with = "Optional::<PoolStatusCode>", skip_serializing_if = "Option::is_none")]
    pub pool_status: Option<PoolStatus>,
    /// A tunnel in which neither side sends for this long is closed.
    #[serde(with = "OwnSilence", skip_serializing_if = "Option::is_none")]
    pub tunnel_idle: Option<Duration>,
    /// For one side of a tunnel to send, after the other has ended its direction.
    #[serde(with = "OwnSilence", skip_serializing_if = "Option::is_none")]
    pub tunnel_half_closed: Option<Duration>,
}

impl TimeoutsConfig {
    /// These, where `own` does not say otherwise.
    pub(crate) fn with(&self, own: Option<&OwnTimeouts>) -> Self {
        let Some(own) = own else { return self.clone() };
        Self {
            connect: own.connect.unwrap_or(self.connect),
            read: own.read.unwrap_or(self.read),
            write: own.write.unwrap_or(self.write),
            client_write: own.client_write.unwrap_or(self.client_write),
            pool: own.pool.unwrap_or(self.pool),
            pool_status: own.pool_status.unwrap_or(self.pool_status),
            tunnel_idle: own.tunnel_idle.unwrap_or(self.tunnel_idle),
            tunnel_half_closed: own.tunnel_half_closed.unwrap_or(self.tunnel_half_closed),
            ..*self
        }
    }
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            read: MINUTE,
            write: Duration::from_secs(10),
            client_write: MINUTE,
            pool: Duration::from_secs(5),
            pool_status: PoolStatus::GatewayTimeout,
            client_head: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            client_idle: Duration::from_secs(75),
            tunnel_idle: MINUTE * 60,
            tunnel_half_closed: MINUTE,
        }
    }
}

/// The status for a pool that stayed full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolStatus {
    GatewayTimeout,
    ServiceUnavailable,
}

impl PoolStatus {
    pub fn code(self) -> u16 {
        match self {
            Self::GatewayTimeout => 504,
            Self::ServiceUnavailable => 503,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{parse, refused};
    use super::super::{Flags, Prewarm};

    #[test]
    fn what_one_place_alone_may_take_is_checked_there() {
        let upstream = "[[upstream]]\nname = \"a\"\norigins = [\"http://a\"]\n";
        let origin = "[[upstream]]\nname = \"a\"\norigins = [{ url = \"http://a\", ";
        for (text, expected) in [
            (format!("{upstream}timeouts = {{ read = 0 }}"), "a duration from 1ms to 1d"),
            (format!("{upstream}timeouts = {{ client_idle = 5 }}"), "client_idle"),
            (format!("{upstream}timeouts = {{ pool_status = 500 }}"), "found 500, expected 504"),
            (format!("{upstream}timeouts.tunnel_idle = \"8d\""), "1ms to 7d"),
            (format!("{upstream}queue = -1"), "a whole number from 0 to 1000000"),
            (format!("{upstream}max_idle = 1000001"), "a whole number from 0 to 1000000"),
            (format!("{origin}max_connections = 0 }}]"), "a whole number from 1 to 1000000"),
            (format!("{origin}max_idle = \"x\" }}]"), "max_idle"),
            (format!("{origin}queue = 1 }}]"), "queue"),
            (format!("{upstream}[[route]]\nupstream = \"a\"\ntimeouts = 5"), "timeouts"),
            ("[pool]\nprewarm = \"many\"".to_owned(), "\"auto\" or a whole number from 0 to 1000"),
            ("[pool]\nprewarm = 1001".to_owned(), "\"auto\" or a whole number from 0 to 1000"),
        ] {
            let error = refused(&text, &[], &Flags::default());
            assert!(error.contains(expected), "{text}\n{error}");
        }
        let auto = parse("[pool]\nprewarm = \"auto\"\nmax_idle = 2").unwrap();
        assert_eq!(auto.pool.prewarm, Prewarm::Auto);
    }
}
