//! Connecting to a target, and to the next ones where that fails or takes long (RFC 8305 §5).
//!
//! In goes the target whose turn it is; out comes a connection to it, or to one of the others. A
//! target that has not answered within a quarter of a second is not waited for alone; the first to
//! connect wins, and the attempts that lose go on by themselves, because how they end says what the
//! next request may expect. Nothing is sent here but TLS.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;

use crate::fault::Fault;
use crate::ring::clock;

use super::dial::first_of;
use super::lease::Lease;
use super::origin_ids::OriginId;
use super::permits::Permit;
use super::pool::Pool;
use super::queue::{Holder, Permitted};
use super::streams::Wish;
use super::target::Change;
use super::{Member, Upgrade, Upstream, Who};

/// How many targets a single request tries.
const TRIED_MAX: usize = 8;

type Attempt = Pin<Box<dyn Future<Output = Ended>>>;

/// How an attempt has ended.
struct Ended {
    member: Member,
    outcome: Result<Lease, Fault>,
    /// Somebody was there.
    is_answered: bool,
}

impl Ended {
    /// Tells the target, and those who know its name; what has become of it.
    fn tell(&self, pause: Duration) -> Option<Change> {
        let (target, now) = (&self.member.target, clock::coarse_ms());
        match &self.outcome {
            Ok(_) => target.connected(now),
            Err(failed) if failed.is_origin_local() => {
                self.member.origin.addresses.doubt();
                target.failed(*failed, now, pause)
            }
            Err(_) => None,
        }
    }
}

pub(super) struct Race<'a> {
    pub upstream: &'a Upstream,
    pub pool: &'a Rc<Pool>,
    pub who: Who<'a>,
    pub is_fresh: bool,
    /// What the request is kept with.
    pub key: u64,
    pub upgrade: Upgrade,
}

impl Race<'_> {
    /// Begins with `first`; `tried` has the numbers of those that are not asked again, and its own.
    pub(super) async fn run(&self, first: Member, mut tried: Vec<usize>) -> Result<Lease, Fault> {
        let mut attempts = FuturesUnordered::new();
        let (mut fault, mut has_answered) = (Fault::OriginUnresolved, false);
        let mut next = Some(first);
        // Begins with the first attempt: a wait for the right to one is no wait for an origin.
        let (mut deadline, mut asked) = (None, None);
        let pause = self.upstream.config.fail_timeout;
        loop {
            if let Some(member) = next.take() {
                match self.permit(&member, attempts.is_empty()).await? {
                    Some(Permitted::Open(permit)) => {
                        let connect = self.who.times.connect;
                        let deadline = *deadline.get_or_insert_with(|| Instant::now() + connect);
                        asked = Some(member.number());
                        attempts.push(self.attempt(member, permit, deadline));
                    }
                    Some(Permitted::Handed(lease)) => return Ok(self.won(lease, attempts)),
                    None => {}
                }
            }
            let has_more = tried.len() < TRIED_MAX && self.has_more(&tried);
            if let Some(ended) = first_of(&mut attempts, has_more).await {
                self.upstream.announce(&ended.member, ended.tell(pause));
                match ended.outcome {
                    Ok(lease) => return Ok(self.won(lease, attempts)),
                    Err(failed) if !failed.is_origin_local() => return Err(failed),
                    // Whoever answers and is no use says more than an address where nobody is.
                    Err(failed) if ended.is_answered || !has_answered => fault = failed,
                    Err(_) => {}
                }
                has_answered |= ended.is_answered;
            } else if let Some(slow) = asked.take().and_then(|it| self.upstream.member(it)) {
                slow.target.suspect(clock::coarse_ms(), pause);
                slow.origin.addresses.doubt();
            }
            let next_number =
                if has_more { self.upstream.pick(self.pool, self.key, &tried) } else { None };
            next = next_number.and_then(|number| self.upstream.member(number));
            match &next {
                Some(member) if !self.is_fresh => {
                    if let Some(lease) = self.pool.take_idle(member.number(), self.who.holder) {
                        return Ok(self.won(lease, attempts));
                    }
                }
                None if attempts.is_empty() => return Err(fault),
                _ => {}
            }
            tried.extend(next.iter().map(Member::number));
        }
    }

    /// Connects to `member` and to nobody else.
    pub(super) async fn single(&self, member: Member, permit: Permit) -> Result<Lease, Fault> {
        let deadline = Instant::now() + self.who.times.connect;
        let ended = self.attempt(member, permit, deadline).await;
        self.upstream.announce(&ended.member, ended.tell(self.upstream.config.fail_timeout));
        ended.outcome
    }

    /// The right to open a connection; a second one is not waited for.
    async fn permit(&self, member: &Member, is_first: bool) -> Result<Option<Permitted>, Fault> {
        if is_first {
            let who = (self.who.holder, self.who.times.pool);
            return permit(self.pool, &member.id, who, self.is_fresh).await.map(Some);
        }
        let who = (self.pool.worker, self.who.holder.claimant);
        Ok(member.id.try_open(who).map(Permitted::Open))
    }

    fn has_more(&self, tried: &[usize]) -> bool {
        let roster = self.upstream.roster.borrow();
        roster.members.iter().any(|member| !tried.contains(&member.number()))
    }

    /// Lets the attempts that have lost come to their end.
    fn won(&self, lease: Lease, attempts: FuturesUnordered<Attempt>) -> Lease {
        let pause = self.upstream.config.fail_timeout;
        for attempt in attempts {
            tokio::task::spawn_local(async move {
                let ended = attempt.await;
                ended.tell(pause);
                if let Ok(lease) = ended.outcome {
                    lease.give_back();
                }
            });
        }
        lease
    }

    /// Connects, and secures what is connected.
    fn attempt(&self, member: Member, permit: Permit, deadline: Instant) -> Attempt {
        let Who { holder, introduction, .. } = self.who;
        let (pool, introduction) = (self.pool.clone(), introduction.to_vec());
        let (stall, upgrade) = (self.who.times.read, self.upgrade);
        let is_single = self.upstream.config.proxy_protocol.is_some();
        Box::pin(async move {
            let wish = Wish { holder, introduction: &introduction, deadline, stall, upgrade };
            let (is_answered, mut outcome) = pool.reach(&member, permit, wish).await;
            if let Ok(lease) = &mut outcome {
                lease.is_single |= is_single;
            }
            Ended { member, outcome, is_answered }
        })
    }
}

/// The right to open a connection; where it need not be a new one, one that has come back will do.
pub(super) async fn permit(
    pool: &Rc<Pool>,
    id: &OriginId,
    (holder, patience): (Holder, Duration),
    is_fresh: bool,
) -> Result<Permitted, Fault> {
    loop {
        match pool.permit(id, holder, patience).await? {
            // Dropping it frees the right to open another.
            Permitted::Handed(_) if is_fresh => {}
            permitted => return Ok(permitted),
        }
    }
}
