//! The targets of one origin.
//!
//! In go the addresses that its name has now; out come its targets. What is known of one is kept
//! while it goes and comes, and while one configuration follows another; what an operator wants of
//! it, for longer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::target::Target;
use crate::address::Address;

/// What an operator wants of a target holds while its address is away for up to an hour: longer
/// than a restart takes, and soon enough for another server that gets the address one day.
pub(super) const ORDERED_FOR_MS: u64 = 3_600_000;

/// So many of those that are away are remembered for what an operator wants of them.
pub(super) const ORDERED_MAX: usize = 64;

/// So many are known before it is looked whether some are nobody's any more.
const KNOWN_MAX: usize = 256;

/// By their addresses.
#[derive(Debug, Default)]
pub(crate) struct Targets(Mutex<Vec<Known>>);

#[derive(Debug)]
struct Known {
    target: Arc<Target>,
    /// Since when its address has been away.
    away_ms: Option<u64>,
}

impl Known {
    /// Whether it is to be known any longer.
    fn is_of_use(&self, now_ms: u64) -> bool {
        let is_recent = self.away_ms.is_none_or(|since| now_ms < since + ORDERED_FOR_MS);
        Arc::strong_count(&self.target) > 1 || self.target.is_ordered() && is_recent
    }
}

impl Targets {
    /// The target with this address.
    pub(crate) fn of(&self, address: Address, now_ms: u64) -> Arc<Target> {
        let mut list = self.lock();
        if let Some(known) = list.iter_mut().find(|known| known.target.address == address) {
            known.away_ms = None;
            return known.target.clone();
        }
        if list.len() >= KNOWN_MAX {
            list.retain(|known| known.is_of_use(now_ms));
        }
        let target = Arc::new(Target::new(address, now_ms));
        list.push(Known { target: target.clone(), away_ms: None });
        target
    }

    /// All that anybody has asked for and that are in `addresses`. Others are known for as long as
    /// they are used, and a while longer where an operator wants something of them.
    pub(crate) fn keep(&self, addresses: &[Address], now_ms: u64) -> Vec<Arc<Target>> {
        let mut list = self.lock();
        for known in &mut *list {
            let is_there = addresses.contains(&known.target.address);
            known.away_ms = (!is_there).then(|| known.away_ms.unwrap_or(now_ms));
        }
        list.retain(|known| known.away_ms.is_none() || known.is_of_use(now_ms));
        let ordered =
            |known: &Known| known.away_ms.filter(|_| Arc::strong_count(&known.target) == 1);
        let mut away: Vec<u64> = list.iter().filter_map(ordered).collect();
        if let Some(mut surplus) = away.len().checked_sub(ORDERED_MAX).filter(|it| *it > 0) {
            away.sort_unstable();
            let newest_surplus = away[surplus - 1];
            list.retain(|known| {
                let goes = surplus > 0 && ordered(known).is_some_and(|it| it <= newest_surplus);
                surplus -= usize::from(goes);
                !goes
            });
        }
        let there = list.iter().filter(|known| known.away_ms.is_none());
        there.map(|known| known.target.clone()).collect()
    }

    /// Whether an operator wants something of one of them.
    pub(super) fn are_ordered(&self) -> bool {
        self.lock().iter().any(|known| known.target.is_ordered())
    }

    /// A configuration has been loaded.
    pub(crate) fn reloaded(&self, now_ms: u64) {
        self.lock().iter().for_each(|known| known.target.reloaded(now_ms));
    }

    /// A panic elsewhere leaves a list that is still true.
    fn lock(&self) -> MutexGuard<'_, Vec<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::super::target::Wish;
    use super::*;

    #[test]
    fn what_is_known_of_an_address_outlives_its_absence_while_it_is_used() {
        let targets = Targets::default();
        let [one, two]: [Address; 2] = ["127.0.0.1:1", "127.0.0.1:2"].map(|it| it.parse().unwrap());
        let known = targets.of(one, 0);
        known.failed(crate::fault::Fault::OriginRefused, 1, Duration::from_secs(10));
        assert!(targets.keep(&[two], 2).is_empty());
        assert!(!targets.of(one, 5).is_sound());
        drop(known);
        targets.keep(&[two], 6);
        assert!(targets.of(one, 5).is_sound());
    }

    #[test]
    fn what_an_operator_wants_outlives_an_absence_but_not_for_ever() {
        let address = |last: u8| Address::Tcp(([10, 0, 0, last], 80).into());
        let targets = Targets::default();
        targets.of(address(1), 0).set_wish(Wish::Drain, 0);
        targets.of(address(2), 0).set_weight(7);
        targets.of(address(3), 0);
        assert!(targets.are_ordered());
        targets.keep(&[], 1_000);
        assert_eq!(targets.lock().len(), 2, "nobody wants anything of the third");
        let back = targets.of(address(1), 2_000);
        assert_eq!((back.wish(), back.is_sound()), (Wish::Drain, false));
        assert_eq!(targets.of(address(2), 2_000).weight(1), 7);
        drop(back);
        targets.keep(&[], 3_000);
        targets.keep(&[], 3_000 + ORDERED_FOR_MS);
        assert_eq!(targets.of(address(1), 4_000_000).wish(), Wish::Up, "it may be another by now");
    }

    #[test]
    fn orders_for_what_is_away_are_bounded_and_the_last_ones_stay() {
        let address = |number: u32| Address::Tcp((Ipv4Addr::from(number), 80).into());
        let targets = Targets::default();
        for number in 0..1_000 {
            let now = u64::from(number);
            targets.of(address(number), now).set_wish(Wish::Down, now);
            targets.keep(&[], now);
        }
        assert!(targets.lock().len() <= ORDERED_MAX);
        assert_eq!(targets.of(address(999), 1_000).wish(), Wish::Down);
        assert_eq!(targets.of(address(0), 1_000).wish(), Wish::Up);
        // Whether they leave one by one or together.
        let targets = Targets::default();
        for number in 0..200 {
            targets.of(address(number), 0).set_wish(Wish::Down, 0);
        }
        targets.keep(&[], 1);
        assert_eq!(targets.lock().len(), ORDERED_MAX);
        // Nor does anything grow where nobody ever looks.
        let targets = Targets::default();
        (0..5_000).for_each(|number| drop(targets.of(address(number), 0)));
        assert!(targets.lock().len() <= KNOWN_MAX);
    }
}
