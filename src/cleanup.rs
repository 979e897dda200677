//! Memory given back by one worker, when there is little or somebody asks.
//!
//! In goes how urgent it is; out comes what was freed. A light cleanup takes what nobody uses:
//! idle connections to origins, free buffers and pipes. A forced one ends client connections at
//! rest, too, and the transfers that hold most and have not moved for a while; a connection that
//! moves is never ended here.

use crate::account::Phase;
use crate::ask::{Cleaned, Level};
use crate::ring::clock;
use crate::seat::Live;
use crate::worker::Worker;

impl Worker {
    /// Gives back what nobody uses, and where it is forced, what somebody does: connections at
    /// rest, and the transfers that hold most and have not moved for a while.
    pub async fn clean(&self, level: Level) -> Cleaned {
        let before_bytes = self.ledger.total();
        let mut cleaned = Cleaned {
            closed_idle: self.pool.close_idle_beyond(self.generation().config.pool.prewarm),
            ..Cleaned::default()
        };
        self.heads.release();
        self.pipes.trim();
        if level == Level::Forced {
            cleaned.closed_clients = self.close_resting().await;
            cleaned.cut_transfers = self.cut_stalled();
        }
        crate::ring::memory::purge();
        cleaned.freed_bytes = before_bytes.saturating_sub(self.ledger.total());
        cleaned
    }

    async fn close_resting(&self) -> usize {
        let close = |live: &Live| {
            let is_resting = live.account.is_resting.get();
            if is_resting {
                live.close(&self.deadlines);
            }
            is_resting
        };
        self.for_each(close).await
    }

    /// Cuts stalled exchanges, the largest first, until a quarter of what connections hold is free.
    fn cut_stalled(&self) -> usize {
        let now = clock::coarse_ms();
        let connections = self.connections.borrow();
        let is_stalled = |live: &Live| {
            matches!(live.account.phase(), Phase::Exchange | Phase::Tunnel | Phase::Head)
                && live.account.moved.get().age_ms(now) >= STALLED_MS
                && live.account.phase_began().age_ms(now) >= STALLED_MS
        };
        let mut stalled: Vec<_> = connections
            .iter()
            .map(|(_, live)| live)
            .filter(|live| is_stalled(live))
            .map(|live| (live.account.bytes(), live))
            .collect();
        stalled.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let held: u64 = connections.iter().map(|(_, live)| live.account.bytes()).sum();
        let mut freed = 0;
        let mut count = 0;
        for (bytes, live) in stalled {
            if freed >= held / 4 {
                break;
            }
            live.cut(&self.deadlines);
            freed += bytes;
            count += 1;
        }
        self.metrics.cuts.add(count as u64);
        count
    }
}

/// Silence after which a transfer counts as stalled.
const STALLED_MS: u64 = 2000;
