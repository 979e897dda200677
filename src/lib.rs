//! ringway: an `io_uring` HTTP/1.1 proxy, reverse and forward.
//!
//! One thread is one ring is one runtime. A request goes down this house and its answer comes back
//! up, five calls at most from the listener to the ring; imports point down only (a test says so).
//!
//! ```text
//!  main ── entry ── cli, lifecycle ──> server    start, signals, drain    demo   a server to ask
//!                 workers     started, called back, let go
//!                 reload      another configuration takes the first one's place
//!                 handover    another process does     sockets, inherited    what is listened on
//!                 supervisor, watched    the service manager; the configuration file
//!                 control     its own thread: admin API, statistics, alerts, watch on memory
//!                 health      asks a ringway that runs
//!                 commands    look at a configuration: check, plan, explain and others
//!                 doctor      looks for what on this machine is in the way
//!                 bench       loads a server: connections, load, report; compare runs two
//!  ─────────────────────────────────────────────────────────────────────────────────────────────
//!  entry     thread ──> listener      one ring, its tasks, their end; room, accept, place
//!  exchange  connection ──> exchange ──> delivery     a head, a request, its answer on its way
//!                           way, forwarding           by a route, or to whatever a client asks for
//!                           upload                    the request's body, beside all that
//!                           hooking ──> inquiry, mirror   what a route's hooks say to it
//!                           connect, upgrade ──> tunnel     bytes both ways
//!                           answer, record            our own answers; counts and one line each
//!  worker    worker, seat   what the tasks of a thread share; its client connections
//!            cleanup        memory given back
//!            room           who gives way to new clients at limits.clients
//!            generation     a configuration in use, with what was made of it
//!            arbiter        who gives a connection up that others wait for
//!            gate, ask      the forward proxy's rules, compiled; questions between threads
//!  movers    route        where to
//!            forward      who may use the forward proxy, and for what: policy, auth, target
//!            hooks        what is done to a route's requests and answers beside passing them on
//!            upstream     to whom: balance, resolve, names, race, destinations,
//!                         pool (permits, queue, fair, tallies, idle, lease), prewarm
//!            relay        one body, one direction, through leased chunks or a pipe
//!            access_log   lines to a writer thread
//!  words     notices, date, logging, account, guard (who may change something)
//!            memory    usage, plan, watch: what there is, what may be needed, when it is short
//!  ring      net, waits, accept, ops, buffers, pipes, deadlines, clock, memory, meters, runtime,
//!            refusal, descriptor, hang_up, features
//!            the only code that names tokio_uring or io_uring, and the only unsafe code
//!            (below it, vendor/tokio-uring: the loop of a thread)
//!  words     fault, config, ledger, metrics
//!  http      head, lines, target, fields, names, wanted, framing, chunked, rewrite,
//!            forwarded, edit, written
//!            pure: bytes in, facts out
//!  limits    every bound with its derivation
//!  ─────────────────────────────────────────────────────────────────────────────────────────────
//!  listener > connection > http::head > exchange > route > upstream > delivery > relay
//! ```
//!
//! # Lexicon
//!
//! A *client* opens a *connection* to a *listener*. On it one *exchange* follows another: a request
//! and its answer, each a *head* and perhaps a *body*. A *route* leads to an *upstream*, which is a
//! group of *origins*; an origin is a server, with one or more addresses. A forward request goes to
//! a *target*, straight or by a *parent* proxy; a *tunnel* is what CONNECT or an upgrade makes. A
//! *lease* is a connection, or memory, in the hands of one exchange. A *fault* is what went wrong
//! with an exchange; a *close* is why a connection ended. A connection that *rests* holds no
//! buffer. A *generation* is a configuration in use; a worker that *leaves* finishes what it has.
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

pub mod limits;

pub mod http;

pub mod config;
pub mod fault;
pub mod ledger;
pub mod metrics;

pub mod ring;

pub mod date;
pub mod guard;
pub mod logging;
pub mod memory;
pub mod notices;

pub mod access_log;
pub mod account;
pub mod forward;
pub mod hooks;
pub mod relay;
pub mod route;
pub mod upstream;

pub mod arbiter;
pub mod ask;
pub mod cleanup;
pub mod gate;
pub mod generation;
pub mod room;
pub mod seat;
pub mod worker;

pub mod answer;
pub mod connect;
pub mod connection;
pub mod delivery;
pub mod exchange;
pub mod forwarding;
pub mod hooking;
pub mod inquiry;
pub mod mirror;
pub mod record;
pub mod tunnel;
pub mod upgrade;
pub mod upload;
pub mod way;

pub mod listener;
pub mod thread;

pub mod bench;
pub mod cli;
pub mod commands;
pub mod control;
pub mod demo;
pub mod doctor;
pub mod entry;
pub mod handover;
pub mod health;
pub mod inherited;
pub mod lifecycle;
pub mod reload;
pub mod server;
pub mod sockets;
pub mod supervisor;
pub mod watched;
pub mod workers;

pub use entry::run;
