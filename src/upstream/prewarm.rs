//! Keeps connections to origins open before a request asks for them.
//!
//! In go the origins and `pool.prewarm`; the task opens what is missing to this worker's share of
//! it, once a second at most, and backs off from an origin that refuses or that closes what it was
//! given. Where nobody has said how many, only origins get some that have shown that they keep
//! connections and serve several at once: in the queue of one that does not, a request would stand
//! behind a connection that has nothing to say. It never holds more than its share and never takes
//! a connection from a request.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::ring::clock;

use super::pool::Pool;
use super::queue::Holder;
use super::streams::Wish;
use super::{Member, Upgrade, Upstream};
use crate::fault::Fault;

const ROUND: Duration = Duration::from_secs(1);
const BACK_OFF_MS: u64 = 1_000;
const BACK_OFF_MAX_MS: u64 = 30_000;

/// When an origin is to be looked at again.
#[derive(Clone, Copy)]
struct Schedule {
    next_ms: u64,
    back_off_ms: u64,
}

impl Schedule {
    const NOW: Self = Self { next_ms: 0, back_off_ms: BACK_OFF_MS };
}

/// The task; `share` connections to each target of `upstreams`, or to those alone for which spare
/// ones are known to be good, until `is_over`.
pub(crate) async fn run(
    pool: Rc<Pool>,
    upstreams: Vec<Rc<Upstream>>,
    (share, is_for_all): (usize, bool),
    is_over: impl Fn() -> bool,
) {
    let mut schedules: HashMap<usize, Schedule> = HashMap::new();
    while share > 0 && !is_over() {
        let members: Vec<_> = upstreams.iter().flat_map(|it| current(it, &pool)).collect();
        schedules.retain(|number, _| members.iter().any(|(_, it)| it.number() == *number));
        for (upstream, member) in &members {
            let schedule = schedules.entry(member.number()).or_insert(Schedule::NOW);
            let now = clock::coarse_ms();
            let is_welcome = is_for_all || member.target.learnt.welcomes_spares();
            let target = &member.target;
            if !is_welcome || !(target.is_sound() || target.is_in(now)) {
                continue;
            }
            let missing = share.saturating_sub(pool.count_of(member.number()));
            if missing == 0 {
                if now > schedule.next_ms + BACK_OFF_MAX_MS {
                    schedule.back_off_ms = BACK_OFF_MS;
                }
                continue;
            }
            if now < schedule.next_ms || !target.claim(now) {
                continue;
            }
            for _ in 0..missing {
                match pool.open_ahead(upstream, member).await {
                    Ok(true) => {}
                    // Requests need what there is.
                    Ok(false) => break,
                    Err(fault) => {
                        tracing::debug!(
                            origin = member.origin.authority,
                            fault = fault.name(),
                            "could not open a connection ahead of requests"
                        );
                        break;
                    }
                }
            }
            // Doubles whether the origin refused or will close what it was given; a quiet half
            // minute with all of them open forgives.
            schedule.next_ms = clock::coarse_ms() + schedule.back_off_ms;
            schedule.back_off_ms = (schedule.back_off_ms * 2).min(BACK_OFF_MAX_MS);
        }
        tokio::time::sleep(ROUND).await;
    }
}

/// The targets that an upstream has now, whether or not requests have asked for them yet.
fn current(upstream: &Rc<Upstream>, pool: &Pool) -> Vec<(Rc<Upstream>, Member)> {
    upstream.follow(pool);
    upstream.members().into_iter().map(|member| (upstream.clone(), member)).collect()
}

impl Pool {
    /// Opens an idle connection to `member`; false where a request would have to wait for it.
    async fn open_ahead(
        self: &Rc<Self>,
        upstream: &Upstream,
        member: &Member,
    ) -> Result<bool, Fault> {
        let deadline = Instant::now() + upstream.times.connect;
        let group = member.id.group();
        let who = (self.worker, Holder::NOBODY.claimant);
        let permit = if self.is_stopping.get() || !group.has_room() {
            None
        } else {
            member.id.try_open(who)
        };
        let Some(permit) = permit else { return Ok(false) };
        let stall = upstream.times.read;
        let (holder, upgrade) = (Holder::NOBODY, Upgrade::Nothing);
        let wish = Wish { holder, introduction: b"", deadline, stall, upgrade };
        let opened = Box::pin(self.reach(member, permit, wish)).await.1?;
        upstream.announce(member, member.target.connected(clock::coarse_ms()));
        opened.give_back();
        Ok(true)
    }
}

/// This worker's part of `total` connections, the first workers taking what does not divide.
pub(crate) fn share(total: usize, worker: usize, workers: usize) -> usize {
    total / workers + usize::from(worker < total % workers)
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn the_shares_of_all_workers_add_up() {
        for workers in 1..=9 {
            let sum: usize = (0..workers).map(|worker| share(5, worker, workers)).sum();
            assert_eq!(sum, 5, "{workers}");
        }
        assert_eq!([share(5, 0, 2), share(5, 1, 2)], [3, 2]);
    }
}
