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

use super::permits::Group;
use super::target::{Busy, Target};

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
    /// Where the requests on its connections are counted, if anybody asks for that.
    counted: Option<Arc<Target>>,
}

impl OriginIds {
    /// The id of `key`, which must say all that keeps its connections from being another's: scheme,
    /// host, port, the user, and the proxy on the way. `group` is asked for where it is a new one.
    pub fn hold(self: &Rc<Self>, key: &str, group: impl FnOnce() -> Arc<Group>) -> OriginId {
        self.hold_counted(key, None, group)
    }

    /// The same for one whose requests are counted.
    pub(super) fn hold_counted(
        self: &Rc<Self>,
        key: &str,
        counted: Option<Arc<Target>>,
        group: impl FnOnce() -> Arc<Group>,
    ) -> OriginId {
        let known = self.numbers.borrow().get(key).copied();
        let number = known.unwrap_or_else(|| {
            let key: Rc<str> = key.into();
            let holders = Cell::new(0);
            let entry = Rc::new(Entry { key: key.clone(), holders, group: group(), counted });
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

    /// Counts a request for as long as the result lives.
    pub(super) fn count(&self) -> Option<Busy> {
        self.entry.counted.clone().map(Busy::new)
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
