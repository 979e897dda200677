//! The numbers of origins: of those that a configuration names for as long as it is in use, and of
//! the targets of forward requests for as long as a connection or an exchange concerns them.
//!
//! In goes a key (where to, for whom); out comes the number that the pool knows it by. A number is
//! given back with the last [`OriginId`] that holds it, so that no connection is ever taken for one
//! to somewhere else, and the table is never larger than what its worker has to do with.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use slab::Slab;

use super::fair::Claimant;
use super::origin::Origin;
use super::permits::{Group, Permit};
use super::quota::Quota;
use super::target::{Busy, Target};
use crate::observe::traffic::{Ended, Traffic};

/// The origins that one worker has to do with.
#[derive(Default)]
pub struct OriginIds {
    entries: RefCell<Slab<Rc<Entry>>>,
    numbers: RefCell<HashMap<Rc<str>, usize>>,
}

struct Entry {
    key: Rc<str>,
    holders: Cell<usize>,
    /// Whose limit its connections count under.
    group: Arc<Group>,
    /// What all workers know of it, and whose it is, where it is one of an upstream.
    target: Option<Arc<Target>>,
    whose: Option<Arc<Origin>>,
    /// What this worker's exchanges with its origin have come to.
    traffic: Option<Arc<Traffic>>,
    /// The requests on its connections are counted.
    is_counted: bool,
}

impl OriginIds {
    /// The id of `key`, which must say all that keeps its connections from being another's: scheme,
    /// host, port, the user, and the proxy on the way. `group` is asked for where it is a new one.
    pub fn hold(self: &Rc<Self>, key: &str, group: impl FnOnce() -> Arc<Group>) -> OriginId {
        self.hold_target(key, None, false, group)
    }

    /// The same for a target of an upstream, whose requests may be counted.
    pub(super) fn hold_target(
        self: &Rc<Self>,
        key: &str,
        shared: Option<(Arc<Target>, Arc<Origin>, Arc<Traffic>)>,
        is_counted: bool,
        group: impl FnOnce() -> Arc<Group>,
    ) -> OriginId {
        let known = self.numbers.borrow().get(key).copied();
        let number = known.unwrap_or_else(|| {
            let key: Rc<str> = key.into();
            let holders = Cell::new(0);
            let group = group();
            let (target, whose, traffic) = match shared {
                Some((target, whose, traffic)) => (Some(target), Some(whose), Some(traffic)),
                None => (None, None, None),
            };
            let own = key.clone();
            let entry = Entry { key: own, holders, group, target, whose, traffic, is_counted };
            let entry = Rc::new(entry);
            let number = self.entries.borrow_mut().insert(entry);
            self.numbers.borrow_mut().insert(key, number);
            number
        });
        let entry = self.entries.borrow()[number].clone();
        entry.holders.set(entry.holders.get() + 1);
        OriginId { table: self.clone(), entry, number }
    }

    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.borrow().is_empty()
    }
}

/// Where the exchanges with an origin of an upstream are counted. No hold on its id, and no atomic
/// operation to have one.
pub(crate) struct Account(Rc<Entry>);

impl Account {
    #[inline]
    pub(crate) fn add(&self, ended: Ended) {
        if let Some(traffic) = &self.0.traffic {
            traffic.add(ended);
        }
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

/// A hold on an id.
pub struct OriginId {
    table: Rc<OriginIds>,
    entry: Rc<Entry>,
    number: usize,
}

impl OriginId {
    /// The number by which the pool knows it.
    pub fn origin(&self) -> usize {
        self.number
    }

    pub(super) fn group(&self) -> &Arc<Group> {
        &self.entry.group
    }

    /// Whose it is, where it is one of an upstream; its address may have left the name by now.
    #[inline]
    pub(super) fn whose(&self) -> Option<&Arc<Origin>> {
        self.entry.whose.as_ref()
    }

    /// What its origin may have, where it is one of an upstream.
    pub(super) fn quota(&self) -> Option<&Arc<Quota>> {
        self.whose().map(|origin| &origin.quota)
    }

    /// The right to open a connection, where there is no need to wait for it.
    pub(super) fn try_open(&self, who: (usize, Claimant)) -> Option<Permit> {
        let place = match self.quota() {
            None => None,
            // Whoever waits for a place was there before.
            Some(quota) if quota.is_wanted() => return None,
            Some(quota) => Some(quota.take()?),
        };
        let mut permit = self.group().try_open(who)?;
        permit.place = place;
        Some(permit)
    }

    /// What all workers know of it.
    #[inline]
    pub(super) fn target(&self) -> Option<&Arc<Target>> {
        self.entry.target.as_ref()
    }

    /// Where an exchange with it is counted, if anywhere.
    #[inline]
    pub(super) fn account(&self) -> Option<Account> {
        self.entry.traffic.is_some().then(|| Account(self.entry.clone()))
    }

    /// A connection to it is opened.
    pub(super) fn opens(&self) {
        if let Some(traffic) = &self.entry.traffic {
            traffic.opened.add(1);
        }
    }

    /// Counts a request for as long as the result lives.
    #[inline]
    pub(super) fn count(&self) -> Option<Busy> {
        if self.entry.is_counted { self.entry.target.clone().map(Busy::new) } else { None }
    }
}

impl Clone for OriginId {
    fn clone(&self) -> Self {
        self.entry.holders.set(self.entry.holders.get() + 1);
        Self { table: self.table.clone(), entry: self.entry.clone(), number: self.number }
    }
}

impl Drop for OriginId {
    fn drop(&mut self) {
        let holders = self.entry.holders.get() - 1;
        self.entry.holders.set(holders);
        if holders == 0 {
            self.table.numbers.borrow_mut().remove(&self.entry.key);
            self.table.entries.borrow_mut().remove(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::permits::{Limits, PoolShared};
    use super::*;

    #[test]
    fn a_number_lives_as_long_as_somebody_holds_it() {
        let table = Rc::new(OriginIds::default());
        let shared = PoolShared::new(Limits::default(), 1);
        let group = || shared.group("all");
        let first = table.hold("http://a:80", group);
        let second = table.hold("http://b:80", group);
        assert_eq!((first.origin(), second.origin()), (0, 1));
        let again = table.hold("http://a:80", group);
        assert_eq!(again.origin(), 0);
        drop(first);
        assert_eq!(table.hold("http://a:80", group).origin(), 0);
        drop(again);
        assert_eq!(table.len(), 1);
        assert_eq!(table.hold("http://c:80", group).origin(), 0);
        drop(second);
        assert!(table.is_empty());
    }
}
