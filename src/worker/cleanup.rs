//! Memory given back by one worker, when there is little or an administrator asks.
//!
//! In goes how urgent it is; out comes what was freed. A light cleanup takes what is not in use:
//! idle connections to origins, free buffers and pipes. A forced one ends client connections at
//! rest, too, and the transfers that hold most and have not moved for a while; a connection that
//! moves is never ended here.

use crate::observe::connection_stats::Phase;
use crate::ring::clock;
use crate::worker::Worker;
use crate::worker::connections::ConnectionEntry;
use crate::worker::mailbox::{Cleaned, Level};

impl Worker {
    /// Gives back what is not in use, and where it is forced, what is: idle connections,
    ///  and the transfers that hold most and have not moved for a while.
    pub(crate) async fn clean(&self, level: Level) -> Cleaned {
        let before_bytes = self.ledger.total();
        let mut cleaned = Cleaned {
            closed_idle: self.pool.close_idle_beyond(self.generation().config.pool.prewarm.count()),
            ..Cleaned::default()
        };
        self.heads.release();
        self.pipes.trim();
        if level == Level::Forced {
            cleaned.closed_clients = self.close_idle().await;
            cleaned.cut_transfers = self.cut_stalled();
        }
        crate::ring::memory::purge();
        cleaned.freed_bytes = before_bytes.saturating_sub(self.ledger.total());
        cleaned
    }

    async fn close_idle(&self) -> usize {
        let close = |entry: &ConnectionEntry| {
            let is_parked = entry.stats.is_parked();
            if is_parked {
                entry.close(&self.deadlines);
            }
            is_parked
        };
        self.for_each(close).await
    }

    /// Cuts stalled exchanges, the largest first, until a quarter of what connections hold is free.
    fn cut_stalled(&self) -> usize {
        let now = clock::coarse_ms();
        let connections = self.connections.borrow();
        let is_stalled = |entry: &ConnectionEntry| {
            matches!(
                entry.stats.phase(),
                Phase::Exchange | Phase::Tunnel | Phase::Head | Phase::Handshake
            ) && entry.stats.moved.get().age_ms(now) >= STALLED_MS
                && entry.stats.phase_began().age_ms(now) >= STALLED_MS
        };
        let mut stalled: Vec<_> = connections
            .iter()
            .map(|(_, entry)| entry)
            .filter(|entry| is_stalled(entry))
            .map(|entry| (entry.stats.bytes(), entry))
            .collect();
        stalled.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let held: u64 = connections.iter().map(|(_, entry)| entry.stats.bytes()).sum();
        let mut freed = 0;
        let mut count = 0;
        for (bytes, entry) in stalled {
            if freed >= held / 4 {
                break;
            }
            entry.cut(&self.deadlines);
            freed += bytes;
            count += 1;
        }
        self.metrics.cuts.add(count as u64);
        count
    }
}

/// Silence after which a transfer counts as stalled.
const STALLED_MS: u64 = 2000;
