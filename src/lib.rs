//! ringway: an `io_uring` HTTP proxy, reverse and forward.
//!
//! One thread is one ring is one runtime. A request goes down this house and its answer comes back
//! up; a folder imports only from those below it, and no files import each other in a circle,
//! except a few that `tests/tidy.rs` names with their reasons.
//!
//! ```text
//!  cli            what was typed: run; check, plan, explain, doctor, bench and others
//!  server         the process: start, signals, reload, handover, listeners, drain
//!  admin          its own thread: API, metrics, statistics, alerts, cleanups
//!  acme           certificates that are ordered and renewed
//!  docker         containers that want to be served
//!  downstream     a client's connection: goes idle, turns into a tunnel, lingers; h1 (HTTP/1
//!                 towards a client: heads, keep-alive, framing), h2 (HTTP/2: an h1 on each lane)
//!  exchange       one request and its answer: peer, request, stream (what it asks of the client's
//!                 protocol), destination, hooked, forwarded, login, connect, upload, download,
//!                 respond, record
//!  worker         one thread: accept, slots, commands, configurations in use, who gives way
//!  hooks          what is done to a route's requests and answers beside passing them on
//!  forward_proxy  who may use it, and for what: access, policy, auth, lookup
//!  routing        where to
//!  upstream       to whom: roster, balance, health, resolver, race, pool, h1 (HTTP/1 towards an
//!                 origin), streams (HTTP/2: an h1 on each lane)
//!  relay          one body, one direction, through leased chunks or a pipe; the outbox
//!  multiplex      the streams of an HTTP/2 connection, each as a socket that speaks HTTP/1.1
//!  observe        access_log, logging, metrics, connection_stats
//!  memory         what there is of it, what may be needed, when it is short
//!  admin_guard    who may change something
//!  ring           the only code that names tokio_uring or io_uring, and the only unsafe code
//!                 (below it, vendor/tokio-uring: the loop of a thread)
//!  tls            sessions without sockets, and the certificates they are made from
//!  unix_socket    files of Unix sockets: bound, taken over, removed
//!  systemd        the service manager's protocol
//!  ledger, fault  what memory is held for; what can go wrong, in a closed set
//!  counters       a counter and a gauge, which one thread writes and all may read
//!  config         the file, variables and flags, read, checked and spelled back
//!  http2          pure: the bytes of a connection in, events out, and the reverse
//!  http           pure: bytes in, facts out
//!  address        where a socket is, and who is at its other end
//!  file_stamp     whether a file is still the same
//!  limits         every bound with its derivation
//! ```
//!
//! # Lexicon
//!
//! A *client* opens a *connection* to a *listener*. On it one *exchange* follows another: a request
//! and its answer, each a *head* and perhaps a *body*. A *route* leads to an *upstream*, which is a
//! group of *origins*; an origin is a server, with one or more addresses. A forward request goes to
//! a *target*, straight or by a *parent* proxy; a *tunnel* is what CONNECT or an upgrade makes. A
//! *lease* is a connection, or memory, in the hands of one exchange. A *fault* is what went wrong
//! with an exchange; a *close* is why a connection ended. A connection that is *idle* for a while
//! is *parked*, and holds no buffer. A *generation* is a configuration in use; a worker that
//! *drains* finishes what it has. A *lane* is a connection without a wire: on it one exchange
//! follows another, each as a stream of the HTTP/2 connection that the lane belongs to.
//!
//! # Invariants
//!
//! - What waits, waits through the ring and has a deadline; what can be moved is moved at once by a
//!   call that does not block. No operation that owns a buffer is dropped while it is pending.
//! - Nothing of a request reaches an origin before its head has been understood completely, and
//!   nothing of an answer reaches a client before its head has been.
//! - A body that its sender cuts short is cut short for its receiver too.
//! - A request is repeated only if the origin cannot have acted upon it, or if acting twice is
//!   harmless and no byte of an answer has been seen.
//! - An exchange and a tunnel end by the configuration with which they began.
//! - Buffers, chunks, connections and permits come home on every path; a drain counts them.
//! - A keep-alive request allocates nothing once its connection is warm (a test counts).

mod acme;
mod address;
mod admin;
mod admin_guard;
mod cli;
mod config;
mod counters;
mod docker;
mod downstream;
mod exchange;
mod fault;
mod file_stamp;
mod forward_proxy;
pub mod hooks;
mod http;
mod http2;
mod invariants;
mod ledger;
mod limits;
mod memory;
mod multiplex;
mod observe;
mod proxy_protocol;
mod relay;
mod ring;
mod routing;
mod server;
mod systemd;
mod tls;
mod unix_socket;
mod upstream;
mod worker;

pub use cli::run;

/// What the tests and the benches of this repository see beside: no interface.
#[doc(hidden)]
pub mod internals {
    pub use crate::invariants::{ALL as INVARIANTS, Check};

    pub mod cli {
        pub use crate::cli::run_from;
        pub use crate::cli::shell::reference;
    }
    pub mod config {
        pub use crate::config::{Config, Flags, HostPattern, RouteConfig, schema};
        pub mod reference {
            pub use crate::config::reference::*;
        }
    }
    pub mod http {
        pub use crate::http::{Method, Version};
        pub mod chunked {
            pub use crate::http::chunked::ChunkScanner;
        }
        pub mod forwarded_header {
            pub use crate::http::forwarded_header::{ClientText, Introduction, Scheme};
        }
        pub mod framing {
            pub use crate::http::framing::*;
        }
        pub mod head {
            pub use crate::http::head::{HeadLimits, RequestHead, ResponseHead};
        }
        pub mod invariants {
            pub use crate::http::invariants::*;
        }
        pub mod rewrite {
            pub use crate::http::rewrite::*;
        }
    }
    pub mod http2 {
        pub mod invariants {
            pub use crate::http2::invariants::*;
        }
    }
    pub mod ledger {
        pub use crate::ledger::{Budget, Kind, Ledger};
    }
    pub mod memory {
        pub use crate::memory::{Plan, Usage};
    }
    pub mod observe {
        pub mod metrics {
            pub use crate::observe::metrics::{Latency, WorkerMetrics};
        }
        pub mod traffic {
            pub use crate::observe::traffic::{Ended, NamedCounts, Traffic};
        }
    }
    pub mod ring {
        pub use crate::ring::{Deadlines, HeadPool};
        pub mod memory {
            pub use crate::ring::memory::Allocator;
        }
        pub mod runtime {
            pub use crate::ring::runtime::*;
        }
    }
    pub mod routing {
        pub use crate::routing::Routes;
    }
    pub mod server {
        pub use crate::server::alone::{Alone, Freed, Held, Judged};
        pub use crate::server::{Server, Successor};
        pub mod inherited {
            pub use crate::server::inherited::*;
        }
    }
    pub mod systemd {
        pub use crate::systemd::*;
    }
    pub mod upstream {
        pub use crate::upstream::checkout::open_target;
        pub mod origin_ids {
            pub use crate::upstream::origin_ids::OriginIds;
        }
        pub mod permits {
            pub use crate::upstream::permits::{Limits, PoolShared};
        }
        pub mod pool {
            pub use crate::upstream::pool::{Pool, PoolLimits};
        }
        pub mod queue {
            pub use crate::upstream::queue::Holder;
        }
    }
    pub mod worker {
        pub mod thread {
            pub use crate::worker::thread::DrainReport;
        }
    }
}
