//! TLS handshakes of clients under way in one worker: how many there may be, and whose turn it is.
//!
//! In goes a connection that begins one; out comes a place in the list, and leave to take the next
//! step. Where the list is full, the one that has been at it for longest gives way, of the address
//! that has most of them: whoever stalls thousands stands in its own way. One step is taken in each
//! turn of the loop, in the order in which they asked and behind all else that the turn has
//! brought, so that the exchanges of a thread wait for one signature at most.

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
    list: RefCell<Slab<UnderWay>>,
    order: Semaphore,
    /// The turn of the loop in which the last step was taken.
    last: Cell<u32>,
    serial: Cell<u64>,
}

struct UnderWay {
    address: u128,
    /// Counts up, so that the least is the oldest.
    serial: u64,
    socket: Socket,
    gives_way: bool,
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
        if list.len() >= UNDER_WAY_MAX {
            make_room(&mut list, deadlines);
        }
        let serial = self.serial.get() + 1;
        self.serial.set(serial);
        let entry = UnderWay { address, serial, socket: socket.clone(), gives_way: false };
        Place { handshakes: self, key: list.insert(entry) }
    }

    /// Waits until a step may be taken.
    pub(crate) async fn turn(&self) {
        // It is never closed.
        let _order = self.order.acquire().await;
        while clock::turn() == self.last.get() {
            turn().await;
        }
        behind_others().await;
        self.last.set(clock::turn());
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

/// Has one of those that have not been told yet give way.
fn make_room(list: &mut Slab<UnderWay>, deadlines: &Deadlines) {
    let mut counts: HashMap<u128, (usize, u64)> = HashMap::new();
    for (_, entry) in list.iter().filter(|(_, entry)| !entry.gives_way) {
        let (count, oldest) = counts.entry(entry.address).or_insert((0, u64::MAX));
        *count += 1;
        *oldest = (*oldest).min(entry.serial);
    }
    let most = counts.into_values().max_by_key(|(count, oldest)| (*count, u64::MAX - oldest));
    let Some((_, oldest)) = most else { return };
    for (_, entry) in list.iter_mut().filter(|(_, entry)| entry.serial == oldest) {
        entry.gives_way = true;
        entry.socket.interrupt_for_good(deadlines);
    }
}

/// The place of one handshake.
pub(crate) struct Place<'a> {
    handshakes: &'a Handshakes,
    key: usize,
}

impl Place<'_> {
    /// Whether it has been told to end, for others.
    pub(crate) fn gives_way(&self) -> bool {
        let list = self.handshakes.list.borrow();
        list.get(self.key).is_some_and(|entry| entry.gives_way)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.handshakes.list.borrow_mut().try_remove(self.key);
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
        runtime::open().unwrap().block_on(async {
            let (handshakes, order) = (Rc::new(Handshakes::default()), Rc::default());
            handshakes.turn().await;
            let note = |what: &'static str| {
                let order: Rc<RefCell<Vec<_>>> = Rc::clone(&order);
                move || order.borrow_mut().push(what)
            };
            let (step, exchange) = (note("step"), note("exchange"));
            let stepping = handshakes.clone();
            let first = tokio::task::spawn_local(async move {
                stepping.turn().await;
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
