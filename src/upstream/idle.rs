//! Idle connections: their watch, their sweep, and their way back into use.
//!
//! In goes what the operations that watch idle connections say; out come connections that are still
//! good. The receive for the next answer is the watch: if it completes while the connection is
//! idle, the origin has closed or sent what was not configured, and the connection is dropped.
//! After a second of rest it gives way to a wait without a buffer.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::address::Address;
use crate::ring::waits::poll_now;
use crate::ring::{PendingPoll, PendingRecv, clock};

use super::bonds::is_owned;
use super::lease::Lease;
use super::pool::{Pool, Slot};
use super::queue::Holder;

/// What an idle slot has that a leased one has not.
pub(super) struct Idle {
    pub(super) watch: Watch,
    pub(super) since_ms: u64,
}

/// An idle connection in the list of its origin.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// Its slot.
    pub(super) key: usize,
    /// The turn of the loop in which it came back.
    pub(super) turn: u32,
}

/// What watches an idle connection.
pub(super) enum Watch {
    /// The receive for the next answer, which its slot has.
    Recv,
    /// The same, which has been told to give its buffer back.
    Yielding,
    Poll(PendingPoll),
}

/// Connections that came back in this turn of the loop and are passed over for an older one.
const FRESH_MAX: usize = 16;
/// Rest after which an idle connection's receive gives its buffer back, and after which the sweep
/// may close it for `max_idle`.
const REST_MS: u64 = 1000;
const REST: Duration = Duration::from_millis(REST_MS);
/// Nothing is due.
const FAR: Duration = Duration::from_secs(86_400);
/// What rests is looked at so often at most for its age.
const EXPIRY_MIN: Duration = Duration::from_millis(20);

impl Pool {
    /// Turns an idle slot into a lease; `None` where the origin has ended the connection.
    pub(super) fn revive(self: &Rc<Self>, key: usize, holder: Holder) -> Option<Lease> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(key)?;
        let Idle { watch, since_ms } = slot.idle.take()?;
        if slot.is_too_old(since_ms) {
            // Completes the watch, as in `close_idle`.
            slot.socket.cut();
            slots.remove(key);
            return None;
        }
        // What has come unasked would be taken for the answer, another client's perhaps. The watch
        // hears of it late: the kernel posts completions when it is asked to, and in a busy turn
        // some twenty at a time. Where it has none to post, the watch is as good as a look.
        let reply = slot.reply.as_ref().filter(|_| matches!(watch, Watch::Recv));
        let is_certain = reply.is_some_and(PendingRecv::is_silent);
        if !is_certain && !slot.socket.is_silent() {
            slot.was_closed(since_ms);
            slots.remove(key);
            return None;
        }
        let is_good = match watch {
            Watch::Recv => is_certain || !slot.reply.as_ref().is_some_and(PendingRecv::has_ended),
            Watch::Yielding => match slot.reply.as_mut().and_then(poll_now) {
                None => true,
                // Given back empty, as it was told to.
                Some((Err(error), _)) if is_cancelled(&error) => {
                    slot.reply = None;
                    true
                }
                Some(_) => false,
            },
            // A poll left in flight completes with the answer and is ignored.
            // On a session it may have been for something that the look above has taken.
            Watch::Poll(mut pending) => {
                let is_quiet = poll_now(&mut pending).is_none();
                is_quiet || !slot.socket.is_plain()
            }
        };
        if !is_good {
            slot.was_closed(since_ms);
            slots.remove(key);
            return None;
        }
        slot.take(holder);
        Some(Lease::new(self, key, (slot.socket.clone(), slot.origin), true))
    }

    /// Takes one out of the list of idle connections to `origin`: the one that came back last
    /// before this turn of the loop, whose watch the kernel has; else the last.
    pub(super) fn next_idle(&self, origin: usize) -> Option<usize> {
        let mut idle = self.idle.borrow_mut();
        // No connection has ever been opened for an id beyond the list.
        let list = idle.get_mut(origin)?;
        let turn = clock::turn();
        let newest = list.iter().rev().take(FRESH_MAX);
        let fresh = newest.take_while(|entry| entry.turn == turn).count();
        let place = list.len().checked_sub(fresh + 1);
        match place {
            Some(place) if fresh < FRESH_MAX => Some(list.remove(place).key),
            _ => Some(list.pop()?.key),
        }
    }

    /// Closes the connection that has been idle for longest, of `group` where one is given; false
    /// where none is idle.
    pub(super) fn close_oldest_idle(&self, group: Option<usize>) -> bool {
        self.oldest_idle(group, 1).first().is_some_and(|key| self.close_idle(*key))
    }

    /// Those that have been idle for longest, up to `count`, in no order.
    fn oldest_idle(&self, group: Option<usize>, count: usize) -> Vec<usize> {
        let mut oldest: Vec<_> = {
            let slots = self.slots.borrow();
            let is_member = |number| group.is_none_or(|group| group == number);
            let idle = slots.iter().filter(|(_, slot)| is_member(slot.permit.group.number()));
            // Those that nobody else can use go first.
            let age = |slot: &Slot| {
                let since_ms = slot.idle.as_ref()?.since_ms;
                Some(if is_owned(slot.owner) { 0 } else { since_ms })
            };
            idle.filter_map(|(key, slot)| Some((age(slot)?, key))).collect()
        };
        if count < oldest.len() {
            oldest.select_nth_unstable(count);
            oldest.truncate(count);
        }
        oldest.into_iter().map(|(_, key)| key).collect()
    }

    pub(super) fn close_idle(&self, key: usize) -> bool {
        let Some(slot) = self.slots.borrow_mut().try_remove(key) else { return false };
        if is_owned(slot.owner) {
            self.forget_bond(key);
        } else {
            self.idle.borrow_mut()[slot.origin].retain(|other| other.key != key);
        }
        // Completes the watch, whose operation then lets go of the descriptor.
        slot.socket.cut();
        true
    }

    /// Closes idle connections, the oldest first, down to `keep` for each origin; how many.
    pub fn close_idle_beyond(&self, keep: usize) -> usize {
        let excess: Vec<usize> = {
            let idle = self.idle.borrow();
            let excess = idle.iter().flat_map(|list| &list[..list.len().saturating_sub(keep)]);
            excess.map(|entry| entry.key).collect()
        };
        let closed = excess.into_iter().filter(|key| self.close_idle(*key)).count();
        self.publish_idle();
        closed
    }

    /// Closes the idle connections to `origin`.
    pub fn close_idle_of(&self, origin: usize) {
        let list = self.idle.borrow().get(origin).cloned().unwrap_or_default();
        for entry in list {
            self.close_idle(entry.key);
        }
        self.publish_idle();
    }

    /// The task that watches idle connections; one per worker, ends with the worker.
    ///
    /// `is_current` says whether a target is still one of an upstream's.
    pub async fn run_janitor(&self, is_current: impl Fn(usize, Address) -> bool) {
        let mut sweep = tokio::time::interval(REST);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let shed = &self.shared.shed[self.worker];
        let mut asked = std::pin::pin!(shed.notified());
        let mut due = std::pin::pin!(tokio::time::sleep(FAR));
        poll_fn(|cx| {
            self.janitor.borrow_mut().clone_from(cx.waker());
            let mut next = None;
            while asked.as_mut().poll(cx).is_ready() {
                asked.set(shed.notified());
                self.shed();
                next = self.expire();
            }
            while sweep.poll_tick(cx).is_ready() {
                next = self.expire();
                self.sweep(&is_current);
            }
            while due.as_mut().poll(cx).is_ready() {
                next = self.expire();
                due.as_mut().reset(Instant::now() + FAR);
            }
            // What is due later, a later sweep sees in time.
            if let Some(next) = next.filter(|next| *next < REST) {
                due.as_mut().reset(Instant::now() + next.max(EXPIRY_MIN));
            }
            self.reap(cx);
            Poll::<()>::Pending
        })
        .await;
    }

    /// Gives idle connections up that others wait for, or that are more than there may be.
    fn shed(&self) {
        self.yield_places();
        for (group, count) in self.shared.shortages() {
            let mut oldest = self.oldest_idle(group, count).into_iter();
            // Another worker may have been quicker.
            while self.shared.is_short(group)
                && let Some(key) = oldest.next()
            {
                self.close_idle(key);
            }
        }
    }

    /// Drops the idle connections whose watch has ended, and re-arms the watch of those that were
    /// told to give their buffer back.
    fn reap(&self, cx: &mut Context<'_>) {
        let mut dead = Vec::new();
        for (key, slot) in self.slots.borrow_mut().iter_mut() {
            let Some(idle) = &mut slot.idle else { continue };
            let mut look = || match &mut slot.reply {
                Some(reply) => Pin::new(reply).poll(cx),
                None => Poll::Pending,
            };
            let ended = match &mut idle.watch {
                Watch::Recv => look().is_ready(),
                Watch::Poll(pending) => {
                    let mut ended = Pin::new(pending).poll(cx).is_ready();
                    // A ticket, say, which an origin sends when it likes.
                    while ended && !slot.socket.is_plain() && slot.socket.is_silent() {
                        let mut poll = slot.socket.start_poll_input();
                        ended = Pin::new(&mut poll).poll(cx).is_ready();
                        idle.watch = Watch::Poll(poll);
                    }
                    ended
                }
                Watch::Yielding => match look() {
                    Poll::Pending => false,
                    Poll::Ready((Err(error), _)) if is_cancelled(&error) => {
                        slot.reply = None;
                        let mut poll = slot.socket.start_poll_input();
                        let ended = Pin::new(&mut poll).poll(cx).is_ready();
                        idle.watch = Watch::Poll(poll);
                        ended
                    }
                    Poll::Ready(_) => true,
                },
            };
            if ended {
                let since_ms = idle.since_ms;
                slot.was_closed(since_ms);
                dead.push(key);
            }
        }
        for key in dead {
            self.close_idle(key);
        }
    }

    /// Once a second: expires, trims to `max_idle`, and takes buffers back from the rested.
    fn sweep(&self, is_current: &impl Fn(usize, Address) -> bool) {
        let now = clock::coarse_ms();
        let expiry_ms = self.limits.get().idle_expiry.as_millis() as u64;
        let mut rested = Vec::new();
        let (mut expired, mut owned) = (Vec::new(), Vec::new());
        for (key, slot) in self.slots.borrow().iter() {
            let Some(idle) = &slot.idle else { continue };
            let age_ms = now.saturating_sub(idle.since_ms);
            let is_expired = age_ms >= expiry_ms && !is_owned(slot.owner);
            // It was out with an exchange when its address went.
            let is_left =
                slot.origin_id.target().is_some() && !is_current(slot.origin, slot.address);
            if is_expired || is_left {
                expired.push(key);
            } else if age_ms >= REST_MS && is_owned(slot.owner) {
                owned.push(key);
            } else if age_ms >= REST_MS {
                rested.push((idle.since_ms, key));
            }
        }
        for key in expired {
            self.close_idle(key);
        }
        for key in owned {
            self.yield_buffer(key);
        }
        rested.sort_unstable();
        let in_order: Vec<usize> = rested.iter().map(|(_, key)| *key).collect();
        self.trim(&in_order);
        self.publish_idle();
        for (_, key) in rested {
            if self.shared.idle.load(Ordering::Relaxed) > self.limits.get().max_idle {
                self.close_idle(key);
                self.publish_idle();
            } else {
                self.yield_buffer(key);
            }
        }
    }

    pub(super) fn publish_idle(&self) {
        let count = self.idle.borrow().iter().map(Vec::len).sum();
        let before = self.idle_published.replace(count);
        self.shared.idle.fetch_add(count.wrapping_sub(before), Ordering::Relaxed);
    }

    fn yield_buffer(&self, key: usize) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(key) else { return };
        if let (Some(Idle { watch: watch @ Watch::Recv, .. }), Some(reply)) =
            (&mut slot.idle, &slot.reply)
        {
            reply.cancel();
            *watch = Watch::Yielding;
        }
    }
}

fn is_cancelled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECANCELED)
}
