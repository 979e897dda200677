//! TLS handshakes of clients under way in one worker: how many there may be, and whose turn it is.
//!
//! In goes a connection that begins one; out comes a place in the list, and leave to take the next
//! step. Where the list is full, the one that has been at it for longest gives way, of the address
//! that has most of them: whoever stalls thousands stands in its own way. One that waits for its
//! turn is not stalled, and goes last. One step is taken in each turn of the loop, in the order in
//! which they asked and behind all else that the turn has brought, so that the exchanges of a
//! thread wait for one signature at most.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::task::Poll;

use slab::Slab;
use tokio::sync::Semaphore;

use crate::ring::waits::turn;
use crate::ring::{Deadlines, Socket, clock};

/// Handshakes of one worker at once: each holds a session and a flight of the client. At 0.3 ms of
/// work each, as many are done in less than a second.
const UNDER_WAY_MAX: usize = 512;

pub(crate) struct Handshakes {
    list: RefCell<List>,
    order: Semaphore,
    /// The turn of the loop in which the last step was taken.
    last: Cell<u32>,
    serial: Cell<u64>,
}

#[derive(Default)]
struct List {
    entries: Slab<UnderWay>,
    /// By address, those that have not been told to give way.
    counts: HashMap<u128, usize>,
}

struct UnderWay {
    address: u128,
    /// Counts up, so that the least is the oldest.
    serial: u64,
    socket: Socket,
    gives_way: bool,
    /// It goes on when its client does, and not when it is its turn.
    is_stalled: bool,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self {
            list: RefCell::default(),
            order: Semaphore::new(1),
            last: Cell::new(clock::turn().wrapping_sub(1)),
            serial: Cell::new(0),
        }
    }
}

impl Handshakes {
    /// Takes the place of a handshake with a client at `address`; dropping it gives it up.
    pub(crate) fn begin(&self, address: u128, socket: &Socket, deadlines: &Deadlines) -> Place<'_> {
        let mut list = self.list.borrow_mut();
        if list.entries.len() >= UNDER_WAY_MAX {
            list.make_room(deadlines);
        }
        let serial = self.serial.get() + 1;
        self.serial.set(serial);
        let entry = UnderWay {
            address,
            serial,
            socket: socket.clone(),
            gives_way: false,
            is_stalled: true,
        };
        *list.counts.entry(address).or_default() += 1;
        Place { handshakes: self, key: list.entries.insert(entry) }
    }

    /// Waits until a step may be taken; false where the handshake has been told to end meanwhile,
    /// which takes nobody's turn.
    pub(crate) async fn turn(&self, place: &Place<'_>) -> bool {
        place.stalls(false);
        self.take_turn(|| place.gives_way()).await
    }

    async fn take_turn(&self, gives_way: impl Fn() -> bool) -> bool {
        // It is never closed.
        let _order = self.order.acquire().await;
        while !gives_way() && clock::turn() == self.last.get() {
            turn().await;
        }
        if gives_way() {
            return false;
        }
        behind_others().await;
        self.last.set(clock::turn());
        true
    }
}

/// Lets go first whoever has been woken in this turn. What waits for a turn is woken before all
/// that has come meanwhile: the kernel answers it when it is asked, and looks at sockets after.
async fn behind_others() {
    let mut is_behind = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut is_behind, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl List {
    /// Has one of those that have not been told yet give way.
    fn make_room(&mut self, deadlines: &Deadlines) {
        let Some(most) = self.counts.values().copied().max() else { return };
        let mut by_most = self.counts.iter().filter(|(_, count)| **count == most);
        let first = by_most.next().map(|(address, _)| *address);
        let only = first.filter(|_| by_most.next().is_none());
        let has_most = |entry: &UnderWay| match only {
            Some(address) => entry.address == address,
            None => self.counts.get(&entry.address) == Some(&most),
        };
        let candidates = self.entries.iter().filter(|(_, it)| !it.gives_way && has_most(it));
        let oldest = candidates.min_by_key(|(_, entry)| (!entry.is_stalled, entry.serial));
        let oldest = oldest.map(|(key, _)| key);
        let Some(key) = oldest else { return };
        let entry = &mut self.entries[key];
        entry.gives_way = true;
        entry.socket.interrupt_for_good(deadlines);
        let address = entry.address;
        self.forget(address);
    }

    /// One less of those of an address that have not been told to give way.
    fn forget(&mut self, address: u128) {
        if let Some(count) = self.counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&address);
            }
        }
    }
}

/// The place of one handshake.
pub(crate) struct Place<'a> {
    handshakes: &'a Handshakes,
    key: usize,
}

impl Place<'_> {
    /// It waits for its client, or for its turn.
    pub(crate) fn stalls(&self, is_stalled: bool) {
        let mut list = self.handshakes.list.borrow_mut();
        if let Some(entry) = list.entries.get_mut(self.key) {
            entry.is_stalled = is_stalled;
        }
    }

    /// Whether it has been told to end, for others.
    pub(crate) fn gives_way(&self) -> bool {
        let list = self.handshakes.list.borrow();
        list.entries.get(self.key).is_some_and(|entry| entry.gives_way)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut list = self.handshakes.list.borrow_mut();
        if let Some(entry) = list.entries.try_remove(self.key)
            && !entry.gives_way
        {
            list.forget(entry.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::ring::runtime;

    /// A step came before whatever the same turn brought: an exchange waited for three signatures
    /// in place of one.
    #[test]
    fn a_step_goes_behind_what_the_same_turn_has_brought() {
        runtime::tested().block_on(async {
            let (handshakes, order) = (Rc::new(Handshakes::default()), Rc::default());
            handshakes.take_turn(|| false).await;
            let note = |what: &'static str| {
                let order: Rc<RefCell<Vec<_>>> = Rc::clone(&order);
                move || order.borrow_mut().push(what)
            };
            let (step, exchange) = (note("step"), note("exchange"));
            let stepping = handshakes.clone();
            let first = tokio::task::spawn_local(async move {
                stepping.take_turn(|| false).await;
                step();
            });
            // Its operation stands behind that of the step, and both complete in one turn.
            let second = tokio::task::spawn_local(async move {
                turn().await;
                exchange();
            });
            first.await.unwrap();
            second.await.unwrap();
            assert_eq!(*order.borrow(), ["exchange", "step"]);
        });
    }
}
