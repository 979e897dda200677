//! What ringway says of itself: counts, log lines, and what is known of each connection.
//!
//! In go the steps of exchanges and events of every kind; out come counters for the admin thread to
//! read and lines for their writers. Nothing here waits, and nothing asks a worker.

pub mod access_log;
pub mod connection_stats;
pub mod date;
pub mod log_limit;
pub mod logging;
pub mod metrics;
