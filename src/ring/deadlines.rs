//! Deadlines: one flat table per worker, scanned by one task.
//!
//! A wait arms an entry when its operation begins and disarms it when it ends; both are stores into
//! a vector. The entry knows the operation's key and the waits on the same descriptor are linked,
//! so that a wait can be ended from outside: by its deadline, or because somebody interrupts what
//! waits for a socket. The operation is cancelled by its key; the waiting code sees ECANCELED and
//! asks the entry for the reason. A timer per operation in the runtime's own wheel was measured at
//! 1,600 instructions per request; this is under 100.
//!
//! It never drops an operation and never closes a socket.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tokio::sync::Notify;

use super::clock;
use super::ops::{self, Descriptor, Key, NO_WAIT};
use crate::ring::ops::turn;

/// The table. Deadlines are kept in ticks of 16 ms, so that a `u32` lasts for two years.
pub struct Deadlines {
    entries: RefCell<Vec<Entry>>,
    /// The first free entry; they are linked.
    free: Cell<u32>,
    /// Clock reading that tick 0 stands for, in milliseconds.
    origin_ms: u64,
    /// The tick for which the task sleeps; an earlier deadline wakes it.
    planned: Cell<u32>,
    earlier: Notify,
}

/// A wait, or room for one.
struct Entry {
    /// The tick at which it expires, or one of the states below.
    expiry: u32,
    /// The wait on the same descriptor that was armed before; of a free entry, the next free one.
    next: u32,
    /// Its operation. Of no use where the entry is free.
    key: Option<Key>,
}

/// No deadline: the entry is free, or the wait lasts until something comes.
const NEVER: u32 = u32::MAX;
/// The deadline has passed.
const EXPIRED: u32 = NEVER - 1;
/// Somebody has ended the wait; also where the deadline has passed: a task that is told that it is
/// over must not wait again.
const INTERRUPTED: u32 = NEVER - 2;

const TICK_SHIFT: u32 = 4;
/// The least time between two scans: deadlines fire late by this much at most, never early.
const SCAN_INTERVAL_TICKS: u32 = 3;
/// Waits that are ended in one turn of the loop: each may close a connection, and the others of the
/// thread wait meanwhile.
const EXPIRED_PER_TURN: usize = 256;

/// Why a wait was ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Expired,
    Interrupted,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            entries: RefCell::default(),
            free: Cell::new(NO_WAIT),
            origin_ms: clock::coarse_ms(),
            planned: Cell::new(NEVER),
            earlier: Notify::new(),
        }
    }
}

impl Deadlines {
    fn now(&self) -> u32 {
        ((clock::coarse_ms() - self.origin_ms) >> TICK_SHIFT) as u32
    }

    /// The tick by which `limit` has passed.
    fn tick_after(&self, limit: Duration) -> u32 {
        let ticks = (limit.as_millis() as u64).min(u64::from(NEVER) << 3) >> TICK_SHIFT;
        // One tick more because the current one has begun, and one for a long turn of the loop, at
        // whose beginning the clock was read.
        self.now().saturating_add(ticks as u32 + 2).min(INTERRUPTED - 1)
    }

    /// Arms a deadline for the operation `key`, which waits for `fd`; the entry's number. On a
    /// descriptor that has been cut the wait is interrupted from the beginning.
    pub(super) fn arm(&self, fd: &Descriptor, key: Key, limit: Duration) -> u32 {
        let expiry = if fd.is_cut() {
            ops::cancel(key);
            INTERRUPTED
        } else {
            self.tick_after(limit)
        };
        let mut entries = self.entries.borrow_mut();
        let entry = Entry { expiry, next: fd.newest_wait(), key: Some(key) };
        let index = self.free.get();
        let index = if let Some(room) = entries.get_mut(index as usize) {
            self.free.set(room.next);
            *room = entry;
            index
        } else {
            entries.push(entry);
            (entries.len() - 1) as u32
        };
        fd.set_newest_wait(index);
        if expiry < self.planned.get() {
            self.planned.set(expiry);
            self.earlier.notify_one();
        }
        index
    }

    /// Frees the entry `index` of a wait on `fd` that is over.
    pub(super) fn disarm(&self, fd: &Descriptor, index: u32) {
        let entries = &mut *self.entries.borrow_mut();
        let next = entries[index as usize].next;
        let newest = fd.newest_wait();
        if newest == index {
            fd.set_newest_wait(next);
        } else {
            // There are two or three of them.
            let mut later = newest;
            while entries[later as usize].next != index {
                later = entries[later as usize].next;
            }
            entries[later as usize].next = next;
        }
        entries[index as usize] =
            Entry { expiry: NEVER, next: self.free.replace(index), key: None };
    }

    /// The wait `index` goes on with another operation.
    pub(super) fn set_key(&self, index: u32, key: Key) {
        self.entries.borrow_mut()[index as usize].key = Some(key);
    }

    /// Why the wait `index` was ended from outside, if it was.
    pub(super) fn reason(&self, index: u32) -> Option<Reason> {
        match self.entries.borrow()[index as usize].expiry {
            EXPIRED => Some(Reason::Expired),
            INTERRUPTED => Some(Reason::Interrupted),
            _ => None,
        }
    }

    /// Ends what waits for `fd` now.
    pub(super) fn interrupt(&self, fd: &Descriptor) {
        let mut entries = self.entries.borrow_mut();
        let mut index = fd.newest_wait();
        while let Some(entry) = entries.get_mut(index as usize) {
            entry.expiry = INTERRUPTED;
            if let Some(key) = entry.key {
                ops::cancel(key);
            }
            index = entry.next;
        }
    }

    /// Ends waits whose deadline has passed, as many as one turn may; the tick of the next
    /// deadline.
    fn scan(&self) -> u32 {
        let now = self.now();
        let mut next = NEVER;
        let mut expired = 0;
        for entry in self.entries.borrow_mut().iter_mut() {
            if entry.expiry > now {
                if entry.expiry < INTERRUPTED {
                    next = next.min(entry.expiry);
                }
                continue;
            }
            if expired == EXPIRED_PER_TURN {
                return now;
            }
            expired += 1;
            entry.expiry = EXPIRED;
            if let Some(key) = entry.key {
                ops::cancel(key);
            }
        }
        next
    }

    /// The task that carries deadlines out; one per worker, ends with the worker.
    pub async fn run(&self) {
        loop {
            let next = self.scan();
            self.planned.set(next);
            if next <= self.now() {
                turn().await;
                continue;
            }
            let ticks = next.saturating_sub(self.now()).max(SCAN_INTERVAL_TICKS);
            let sleep = Duration::from_millis(u64::from(ticks) << TICK_SHIFT);
            if next == NEVER {
                self.earlier.notified().await;
            } else {
                // Either way the table is scanned again; only a plain timer is dropped here.
                let _ = tokio::time::timeout(sleep, self.earlier.notified()).await;
            }
        }
    }
}
