//! Lines for the operator that would otherwise repeat for every connection.
//!
//! In goes a condition that lasts (no descriptors left, say); out comes at most one log line per
//! interval, with cause and cure. Nothing is counted here and nothing waits.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::address::{ClientAddress, PeerAddress, UnixAddress};
use crate::ring::clock;
use crate::tls::problem::Problem;

const INTERVAL_MS: u64 = 5000;

static TOO_MANY_FILES: AtomicU64 = AtomicU64::new(0);
static CLIENTS_GIVE_WAY: AtomicU64 = AtomicU64::new(0);
static POOL_IS_FULL: AtomicU64 = AtomicU64::new(0);
static YIELDED: AtomicU64 = AtomicU64::new(0);
static NO_FREE_PORT: AtomicU64 = AtomicU64::new(0);
static NO_UNIX_ORIGIN: AtomicU64 = AtomicU64::new(0);
static NOT_INTRODUCED: AtomicU64 = AtomicU64::new(0);
static TLS_ON_A_PLAIN_PORT: AtomicU64 = AtomicU64::new(0);
static HANDSHAKES: [AtomicU64; Problem::ALL.len()] =
    [const { AtomicU64::new(0) }; Problem::ALL.len()];
static SESSIONS: [AtomicU64; Problem::ALL.len()] =
    [const { AtomicU64::new(0) }; Problem::ALL.len()];
static HTTP2: AtomicU64 = AtomicU64::new(0);
static ORIGIN_NOT_SECURED: AtomicU64 = AtomicU64::new(0);

/// Says that the process (EMFILE) or the machine (ENFILE) is out of descriptors.
pub(crate) fn too_many_files(doing: &str, error: &io::Error) {
    if is_due(&TOO_MANY_FILES) {
        tracing::error!(
            "cannot {doing}: {error}. Raise the limit on open files (`ulimit -n`, docker `--ulimit \
             nofile=65536:65536`, systemd `LimitNOFILE`) or lower limits.clients"
        );
    }
}

/// Says that a connection to an origin found no port, or no address, to come from (EADDRNOTAVAIL).
#[cold]
pub(crate) fn no_free_port(error: &io::Error) {
    if is_due(&NO_FREE_PORT) {
        tracing::error!(
            "cannot connect to an origin: {error}. No local port is free for its address: widen \
             net.ipv4.ip_local_port_range (sysctl), set net.ipv4.tcp_tw_reuse = 1, keep more \
             connections (pool.max_idle, pool.idle_expiry), or give the origin more addresses; for \
             an IPv6 address, this machine may have none of its own"
        );
    }
}

/// Says that connections of clients that `did` nothing better give way to new ones.
pub(crate) fn clients_give_way(did: &str) {
    if is_due(&CLIENTS_GIVE_WAY) {
        tracing::warn!(
            "limits.clients is reached: connections that {did} give way to new ones. Raise it, or \
             lower timeouts.client_idle and timeouts.client_head"
        );
    }
}

/// Says that requests have waited for a connection to an origin in vain. `group` is whose limit was
/// reached.
#[cold]
pub(crate) fn pool_is_full(group: &str) {
    if is_due(&POOL_IS_FULL) {
        tracing::warn!(
            "requests wait for a connection in vain ({group}). Raise pool.max_connections, or \
             max_connections of the [[upstream]], if the origin can take more; timeouts.pool is \
             how long they wait"
        );
    }
}

/// Says why the socket of an origin cannot be connected to, where somebody has to mend that. One
/// that refuses, because nobody listens now, is as one of TCP that does.
#[cold]
pub(crate) fn no_unix_origin(address: UnixAddress, error: &io::Error) {
    let cure = match error.raw_os_error() {
        Some(libc::EACCES) => {
            "this account needs the right to write to the socket, and to pass its folders: have \
             the origin give it to a group (by mode or umask) that ringway is of"
        }
        Some(libc::ENOENT) => "there is no such file: start the origin, or correct the path",
        Some(libc::ENOTDIR) => "a part of its path is a file and no folder: correct it",
        Some(libc::EPROTOTYPE) => "it is no stream socket: have the origin listen on one",
        _ => return,
    };
    if is_due(&NO_UNIX_ORIGIN) {
        tracing::warn!(origin = %address, "cannot connect: {error}: {cure}");
    }
}

/// Says that a connection did not begin with the PROXY protocol where it has to.
#[cold]
pub(crate) fn not_introduced(peer: PeerAddress, reason: &str) {
    if is_due(&NOT_INTRODUCED) {
        tracing::warn!(
            %peer,
            reason,
            "a connection is closed for its PROXY protocol header: the listener has \
             `proxy_protocol`, so that every peer has to be one of server.trusted_proxies and to \
             send a header of that version first"
        );
    }
}

/// Says that a client has begun with TLS where it is not spoken.
#[cold]
pub(crate) fn tls_on_a_plain_port(client: PeerAddress) {
    if is_due(&TLS_ON_A_PLAIN_PORT) {
        tracing::warn!(
            %client,
            "a client speaks TLS to a listener that speaks HTTP in clear: it was asked for \
             https:// in place of http://, or a balancer before it passes TLS on"
        );
    }
}

/// Says that the handshake of a client has failed; each kind of failure has an interval of its own.
#[cold]
pub(crate) fn handshake_failed(problem: Problem, client: PeerAddress, sni: &str, detail: &str) {
    if is_due(&HANDSHAKES[problem as usize]) {
        tracing::info!(%client, problem = problem.name(), sni, detail, "a TLS handshake failed");
    }
}

/// Says that a client's session could not go on after its handshake.
#[cold]
pub(crate) fn session_broken(problem: Problem, client: PeerAddress) {
    if is_due(&SESSIONS[problem as usize]) {
        tracing::info!(%client, problem = problem.name(), "a TLS session is broken");
    }
}

/// Says that a client's connection of HTTP/2 was ended for what the client did.
#[cold]
pub(crate) fn http2_failed(client: PeerAddress, code: &str, cause: &str) {
    if is_due(&HTTP2) {
        tracing::info!(%client, code, cause, "an HTTP/2 connection was ended");
    }
}

/// Says that an origin cannot be spoken to over TLS.
#[cold]
pub(crate) fn origin_not_secured(origin: &str, detail: &str) {
    if is_due(&ORIGIN_NOT_SECURED) {
        tracing::warn!(
            origin,
            "the TLS handshake with an origin failed: {detail}. [upstream.tls] says which \
             authorities are believed (`ca`), and the name that its certificate has to have (`sni`)"
        );
    }
}

/// Says that exchanges were ended because others waited for their connections.
#[cold]
pub(crate) fn yielded(client: ClientAddress, fault: &str) {
    if is_due(&YIELDED) {
        tracing::warn!(
            %client,
            fault,
            "exchanges that hold connections to origins are ended because others wait for those: \
             limits.min_body_rate says who is slow, pool.max_connections how many there are"
        );
    }
}

fn is_due(last: &AtomicU64) -> bool {
    // 0 means never, and the clock is past it.
    let now = clock::coarse_ms().max(1);
    let before = last.load(Ordering::Relaxed);
    (before == 0 || now.saturating_sub(before) >= INTERVAL_MS)
        && last.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}
