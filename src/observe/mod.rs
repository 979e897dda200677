//! What ringway says of itself: counts, log lines, and what is known of each connection.
//!
//! In go the steps of exchanges and events of every kind; out come counters for the admin thread to
//! read and lines for their writers. Nothing here waits, and nothing asks a worker.

mod access_escape;
mod access_line;
pub(crate) mod access_log;
pub(crate) mod access_look;
pub(crate) mod access_notes;
mod access_record;
pub(crate) mod connection_stats;
pub(crate) mod date;
pub(crate) mod events;
#[doc(hidden)]
pub(crate) mod invariants;
pub(crate) mod log_limit;
pub(crate) mod logging;
pub(crate) mod metrics;
pub(crate) mod spans;
pub(crate) mod traffic;
