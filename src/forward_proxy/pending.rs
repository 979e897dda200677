//! What the authenticator remembers, and the passwords that wait for a thread.
//!
//! In: jobs, the requests that wait for them, pairs that were right. Out: whether there is room for
//! more, what is known of a pair, who is to be told. Nothing here hashes, waits or locks.

use std::collections::HashMap;

use lru::LruCache;
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::address::ClientAddress;

use super::failures::{Client, Failures};
use super::fair_queue::FairQueue;
use super::users::UserId;

/// Requests that may wait for an outcome, many of them for the same one; and those of an address
/// that has few of them, for which there is room when others have taken all that.
pub(super) const WAITERS_MAX: usize = 16_384;
const FEW_WAITERS: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginOutcome {
    Known(UserId),
    /// No field with credentials, more than one, or another scheme than Basic.
    Missing,
    /// No such user, another password, or a field that cannot be read.
    Wrong,
    TooManyFailures {
        retry_after_s: u64,
    },
    /// More passwords wait than may, or this client's last attempts are still being looked at.
    Busy,
}

/// A keyed digest of a name and a password.
pub(super) type Tag = [u8; 32];

pub(super) struct State {
    pub(super) known: LruCache<UserId, Known>,
    pub(super) failures: Failures,
    pub(super) queue: FairQueue<Job>,
    /// One entry for each pair that is in the queue or being hashed.
    pub(super) waiters: HashMap<Tag, Vec<Waiter>>,
    /// In all entries of `waiters`.
    pub(super) waiter_count: usize,
    /// The same by address.
    pub(super) waiters_of: HashMap<Client, u32>,
    pub(super) is_stopping: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) tag: Tag,
    pub(super) until_ms: u64,
}

/// What is remembered of a pair that was right.
pub(super) enum Recalled {
    Right(UserId),
    /// For so long that it is looked at again.
    Stale,
}

pub(super) struct Job {
    pub(super) tag: Tag,
    /// `user:password`.
    pub(super) pair: Zeroizing<Box<[u8]>>,
    /// Bytes of the name.
    pub(super) colon: usize,
    /// `None`: there is no such user.
    pub(super) user: Option<UserId>,
    /// The client that the attempt is charged to until it is settled.
    pub(super) client: ClientAddress,
}

pub(super) struct Waiter {
    pub(super) client: ClientAddress,
    pub(super) reply: oneshot::Sender<LoginOutcome>,
}

impl State {
    /// Whether this pair is the last one that was right for the user.
    pub(super) fn recalled(&mut self, id: UserId, tag: &Tag, now_ms: u64) -> Option<Recalled> {
        let known = self.known.get(&id).filter(|known| bool::from(known.tag.ct_eq(tag)))?;
        Some(if now_ms < known.until_ms { Recalled::Right(id) } else { Recalled::Stale })
    }

    pub(super) fn has_room_for(&self, client: Client) -> bool {
        let own = self.waiters_of.get(&client).copied().unwrap_or(0);
        self.waiter_count < WAITERS_MAX
            || (own < FEW_WAITERS && self.waiter_count < 2 * WAITERS_MAX)
    }

    pub(super) fn add_waiter(&mut self, tag: Tag, waiter: Waiter) {
        *self.waiters_of.entry(Client::of(waiter.client)).or_default() += 1;
        self.waiter_count += 1;
        self.waiters.entry(tag).or_default().push(waiter);
    }

    /// Those that wait for a job that nobody is going to do.
    #[must_use]
    pub(super) fn give_up(&mut self, job: &Job) -> Vec<Waiter> {
        self.failures.settle(job.client);
        self.take_waiters(&job.tag)
    }

    pub(super) fn is_awaited(&self, tag: &Tag) -> bool {
        let waiters = self.waiters.get(tag);
        waiters.is_some_and(|waiters| waiters.iter().any(|waiter| !waiter.reply.is_closed()))
    }

    pub(super) fn take_waiters(&mut self, tag: &Tag) -> Vec<Waiter> {
        let waiters = self.waiters.remove(tag).unwrap_or_default();
        self.waiter_count = self.waiter_count.saturating_sub(waiters.len());
        for waiter in &waiters {
            let client = Client::of(waiter.client);
            let count = self.waiters_of.get_mut(&client);
            if count.is_some_and(|count| {
                *count = count.saturating_sub(1);
                *count == 0
            }) {
                self.waiters_of.remove(&client);
            }
        }
        waiters
    }
}

impl Job {
    pub(super) fn name(&self) -> &str {
        std::str::from_utf8(&self.pair[..self.colon]).unwrap_or_default()
    }

    pub(super) fn password(&self) -> &[u8] {
        &self.pair[self.colon + 1..]
    }
}
