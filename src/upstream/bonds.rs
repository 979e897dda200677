//! Connections that belong to one client connection: its user has logged in on them.
//!
//! NTLM and Negotiate log a connection in, and not a request: whoever sends the next request on it
//! is answered as the one who logged in. In goes a lease on which that has begun; from then on it
//! rests apart from the others, only its own client gets it back, and it ends with that client's
//! connection. It counts as any other connection under all limits, and where somebody waits for
//! one, it goes first.

use std::rc::Rc;

use super::fair::Claimant;
use super::lease::Lease;
use super::pool::Pool;
use super::queue::{Holder, NO_SEAT};

/// So many of them one client connection may have at rest: one for each upstream that it uses.
const BONDS_MAX: usize = 4;

/// A connection at rest that is a client's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bond {
    /// The client connection's number in its worker.
    client: u32,
    /// Whose request has logged it in: a proxy that is trusted brings those of others too.
    claimant: Claimant,
    /// Its slot.
    key: usize,
}

impl Lease {
    /// Says that whoever has it now has it for good.
    pub(crate) fn bind(&self) {
        if let Some(slot) = self.pool().slots.borrow_mut().get_mut(self.key) {
            slot.owner = slot.holder.slot;
        }
    }

    /// Whether it is a client's own, on which somebody has logged in.
    pub(crate) fn is_bound(&self) -> bool {
        self.pool().slots.borrow().get(self.key).is_some_and(|slot| is_owned(slot.owner))
    }
}

impl Pool {
    /// Whether any connection at rest is a client's own.
    #[inline]
    pub(crate) fn has_bonds(&self) -> bool {
        !self.bonds.borrow().is_empty()
    }

    /// The client's own connection to an origin that `is_meant`.
    #[cold]
    pub(crate) fn take_own(
        self: &Rc<Self>,
        holder: Holder,
        is_meant: impl Fn(usize) -> bool,
    ) -> Option<Lease> {
        loop {
            let key = {
                let (mut bonds, slots) = (self.bonds.borrow_mut(), self.slots.borrow());
                let is_own = |bond: &Bond| {
                    let origin = slots.get(bond.key).map(|slot| slot.origin);
                    bond.client == holder.slot
                        && bond.claimant == holder.claimant
                        && origin.is_some_and(&is_meant)
                };
                let place = bonds.iter().position(is_own)?;
                bonds.remove(place).key
            };
            if let Some(lease) = self.revive(key, holder) {
                self.metrics.pool_reused.add(1);
                return Some(lease);
            }
            self.metrics.pool_stale.add(1);
        }
    }

    /// Notes that a connection rests which is `client`'s own. The oldest goes where there are too
    /// many.
    pub(super) fn rest_apart(&self, client: u32, key: usize) {
        let Some(claimant) = self.slots.borrow().get(key).map(|slot| slot.holder.claimant) else {
            return;
        };
        self.bonds.borrow_mut().push(Bond { client, claimant, key });
        let own = self.own(client);
        if own.len() > BONDS_MAX {
            self.close_idle(own[0]);
        }
    }

    /// Closes what is the client's own: it has gone.
    pub(crate) fn end_bonds(&self, client: u32) {
        for key in self.own(client) {
            self.close_idle(key);
        }
    }

    /// Closes what is any client's own.
    pub(super) fn end_all_bonds(&self) {
        let all: Vec<usize> = self.bonds.borrow().iter().map(|bond| bond.key).collect();
        for key in all {
            self.close_idle(key);
        }
    }

    pub(super) fn forget_bond(&self, key: usize) {
        self.bonds.borrow_mut().retain(|bond| bond.key != key);
    }

    /// The slots of what is the client's own, the oldest first.
    fn own(&self, client: u32) -> Vec<usize> {
        let bonds = self.bonds.borrow();
        bonds.iter().filter(|bond| bond.client == client).map(|bond| bond.key).collect()
    }
}

/// Whether a connection has an owner.
pub(super) fn is_owned(owner: u32) -> bool {
    owner != NO_SEAT
}
