//! What ringway says of itself: counts, log lines, and what is known of each connection.
//!
//! In go the steps of exchanges and events of every kind; out come counters for the admin thread to
//! read and lines for their writers. Nothing here waits, and nothing asks a worker.

pub(crate) mod access_log;
mod access_record;
pub(crate) mod connection_stats;
pub(crate) mod date;
pub(crate) mod log_limit;
pub(crate) mod logging;
pub(crate) mod metrics;
