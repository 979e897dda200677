//! The ring: the only code that names `tokio_uring` or `io_uring`, and the only `unsafe`.
//!
//! In go sockets, buffers and deadlines; out come results with the buffer that was lent. What
//! waits, waits through the ring (RECV with POLL_FIRST, POLL_ADD, CONNECT, ACCEPT); what can be
//! moved at once is moved by a plain non-blocking call, because an operation that runs inline at
//! submission still costs a turn of the runtime's loop.
//!
//! Invariants. A pending operation is never dropped while its buffer matters: it is ended from
//! outside (cancelled by its key) and then awaited. An operation owns what its pointers point
//! to. A descriptor stays open as long as an operation names it.
#![allow(unsafe_code)]

mod accept;
pub mod buffers;
pub mod clock;
pub mod deadlines;
pub mod descriptor;
pub mod features;
pub mod hang_up;
pub mod memory;
mod meters;
pub mod net;
mod ops;
mod pipes;
pub mod refusal;
pub mod runtime;
mod stable;
pub mod waits;

pub use accept::{Acceptor, Stopper};
pub use buffers::{ChunkPool, HeadBuffer, HeadPool, NoRoom, Run};
pub use deadlines::Deadlines;
pub use meters::{Operation, RingMeters, count_fruitless};
pub use net::Socket;
pub use pipes::{PIPE_BYTES, Pipe, PipePool, Spliced};
pub use waits::{PendingPoll, PendingRecv, Waited};
