//! The targets of one origin.
//!
//! In go the addresses that its name has now; out come its targets. What is known of one is kept
//! while it goes and comes, and while one configuration follows another.

use std::sync::{Arc, Mutex, PoisonError};

use super::target::Target;
use crate::address::Address;

/// By their addresses.
#[derive(Debug, Default)]
pub(crate) struct Targets(Mutex<Vec<Arc<Target>>>);

impl Targets {
    /// The target with this address.
    pub(crate) fn of(&self, address: Address, now_ms: u64) -> Arc<Target> {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = list.iter().find(|target| target.address == address) {
            return known.clone();
        }
        let target = Arc::new(Target::new(address, now_ms));
        list.push(target.clone());
        target
    }

    /// All that anybody has asked for and that are in `addresses`, or still in use.
    pub(crate) fn keep(&self, addresses: &[Address]) -> Vec<Arc<Target>> {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|it| addresses.contains(&it.address) || Arc::strong_count(it) > 1);
        list.iter().filter(|it| addresses.contains(&it.address)).cloned().collect()
    }

    /// A configuration has been loaded.
    pub(crate) fn reloaded(&self, now_ms: u64) {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().for_each(|target| target.reloaded(now_ms));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_known_of_an_address_outlives_its_absence_while_it_is_used() {
        let targets = Targets::default();
        let [one, two]: [Address; 2] = ["127.0.0.1:1", "127.0.0.1:2"].map(|it| it.parse().unwrap());
        let known = targets.of(one, 0);
        known.failed(1, Duration::from_secs(10));
        assert!(targets.keep(&[two]).is_empty());
        assert!(!targets.of(one, 5).is_sound());
        drop(known);
        targets.keep(&[two]);
        assert!(targets.of(one, 5).is_sound());
    }
}
