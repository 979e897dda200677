//! What TLS comes to, for the plan.
//!
//! In goes the configuration; out come bytes by connection and by worker, which are 0 where nothing
//! speaks TLS. What is really held is in the ledger, not here.

use crate::config::{Config, UpstreamConfig};

const KIB: u64 = 1024;

/// A session (3.7 KB are measured), and a record on its way in.
const SESSION_BYTES: u64 = 4 * KIB + 17 * KIB;

/// Where a worker opens records and seals them.
const SCRATCH_BYTES: u64 = 2 * 320 * KIB;

pub(super) struct Sessions {
    pub(super) client_bytes: u64,
    pub(super) origin_bytes: u64,
    pub(super) worker_bytes: u64,
}

impl Sessions {
    pub(super) fn of(config: &Config) -> Self {
        let mut origins = config.upstreams.iter().flat_map(UpstreamConfig::all_origins);
        let has_clients = !config.server.listen_tls.is_empty();
        let has_origins = origins.any(|origin| origin.is_tls);
        let bytes = |is_spoken: bool, bytes| if is_spoken { bytes } else { 0 };
        Self {
            client_bytes: bytes(has_clients, SESSION_BYTES),
            origin_bytes: bytes(has_origins, SESSION_BYTES),
            worker_bytes: bytes(has_clients || has_origins, SCRATCH_BYTES),
        }
    }
}
