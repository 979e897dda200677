//! The ring: the only code that names `tokio_uring` or `io_uring`, and the only `unsafe`.
//!
//! In go sockets, buffers and deadlines; out come results with the buffer that was lent. What
//! waits, waits through the ring (RECV with POLL_FIRST, POLL_ADD, CONNECT, ACCEPT), or where there
//! is none through an epoll set that stands in for it (`driver`); what can be
//! moved at once is moved by a plain non-blocking call, because an operation that runs inline at
//! submission still costs a turn of the runtime's loop.
//!
//! Invariants. A pending operation is never dropped while its buffer matters: it is ended from
//! outside (cancelled by its key) and then awaited. An operation owns what its pointers point
//! to. A descriptor stays open as long as an operation names it.
#![allow(unsafe_code)]

mod accept;
pub(crate) mod buffers;
pub(crate) mod channel;
pub(crate) mod clock;
pub(crate) mod deadlines;
pub(crate) mod descriptor;
pub(crate) mod diagnose;
pub(crate) mod driver;
pub(crate) mod features;
mod fixed;
pub(crate) mod hang_up;
mod heads;
mod layer;
mod layered;
pub(crate) mod memory;
mod meters;
pub(crate) mod net;
mod ops;
pub(crate) mod options;
mod over;
mod pipes;
pub(crate) mod runtime;
mod stable;
pub(crate) mod waits;
mod wire;

pub(crate) use accept::{Acceptor, Stopper, peer_of};
pub(crate) use buffers::{ChunkPool, Run};
pub use deadlines::Deadlines;
pub use heads::HeadPool;
pub(crate) use heads::{HeadBuffer, NoRoom};
pub(crate) use layer::{Handshake, SESSION_BYTES};
pub(crate) use layered::SEALED_LEAD;
pub(crate) use meters::{Operation, RingMeters, count_fruitless};
pub(crate) use net::Socket;
pub(crate) use pipes::{PIPE_BYTES, Pipe, PipePool, Spliced};
pub(crate) use waits::{PendingPoll, PendingRecv, WaitError};
