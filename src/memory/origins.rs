//! How many connections to origins a process can have use for, and how many it may have.
//!
//! In goes the configuration with the limit of open files; out come the fewest that will do, the
//! most that can be of use, and what there is room for. Only sums.

use crate::config::Config;

/// Connections to origins: the fewest that will do, and the most that can be of use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origins {
    pub(super) least: u64,
    pub(super) most: u64,
}

/// Targets of forward requests that can be busy at once, where there is room for so many.
const TARGETS: u64 = 10;

/// Connections to origins beyond the least may take this part of the memory that clients and
/// tunnels share, and of the open files.
pub(super) const MEMORY_PART: u64 = 16;
const FILES_PART: u64 = 8;

impl Origins {
    /// An upstream can have all of its connections; and so can all of them, with their long answers
    /// and some targets of forward requests, as far as there are clients to use them.
    pub(super) fn of(config: &Config) -> Self {
        let each = config.pool.max_connections as u64;
        let limits = config.upstreams.iter().map(|it| it.max_connections.map_or(each, wide));
        let least = limits.clone().max().unwrap_or(each);
        let has_long = config.upstreams.iter().any(|it| it.max_connections.is_none());
        let has_long = has_long || config.forward.enabled;
        let long = if has_long { config.limits.long_responses as u64 } else { 0 };
        let targets = if config.forward.enabled { TARGETS * each } else { 0 };
        let wanted = limits.fold(long, u64::saturating_add).saturating_add(targets);
        // A request may hold two, where a route asks elsewhere before it goes on.
        let used = 2 * config.limits.clients as u64 + config.pool.max_idle as u64;
        Self { least, most: wanted.min(used).max(least) }
    }
}

/// An origin beside its connections: its address and what is known of it; and of each worker its
/// place in the roster and its counts. Measured by `benches/origins/measure.py`.
const ORIGIN_BYTES: u64 = 2 << 10;
const ORIGIN_WORKER_BYTES: u64 = 1 << 10;

/// How many origins there are.
pub(super) fn configured(config: &Config) -> u64 {
    config.upstreams.iter().map(|it| wide(it.all_origins().count())).sum()
}

/// What each of them takes.
pub(super) fn each_bytes(workers: u64) -> u64 {
    ORIGIN_BYTES + workers.saturating_mul(ORIGIN_WORKER_BYTES)
}

fn wide(count: usize) -> u64 {
    count as u64
}

/// How many connections to origins `config` may have where the process may have `files` open.
pub(crate) fn origin_connections(config: &Config, files: usize) -> usize {
    let Origins { least, most } = Origins::of(config);
    let spare = (files as u64).saturating_sub(least) / FILES_PART;
    usize::try_from(least.saturating_add(spare).min(most)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn there_is_room_for_every_upstream_and_for_long_answers_as_far_as_there_are_files() {
        let mut config = Config::default();
        assert_eq!(origin_connections(&config, 1 << 20), 1100);
        // Of few files most are for clients.
        assert_eq!(origin_connections(&config, 960), 100 + 860 / 8);
        assert_eq!(origin_connections(&config, 50), 100);
        config.upstreams[0].max_connections = Some(30);
        assert_eq!(origin_connections(&config, 1 << 20), 30);
        config.forward.enabled = true;
        assert_eq!(origin_connections(&config, 1 << 20), 30 + 1000 + 1000);
        // Nobody can use more.
        config.limits.clients = 5;
        assert_eq!(origin_connections(&config, 1 << 20), 30);
    }
}
