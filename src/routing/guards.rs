//! Which routes have the same guards.
//!
//! In: the hooks that hold for a route. Out: a number that routes share whose hooks refuse the same
//! requests; 0 where no hook refuses any. What a hook merely changes does not count.

use std::collections::HashMap;

use crate::config::HooksConfig;

/// Numbers for guards.
#[derive(Default)]
pub(super) struct GuardIds {
    ids: HashMap<String, u32>,
    has_none: bool,
}

impl GuardIds {
    /// The number of a route's guards. The global table comes first.
    pub(super) fn of(&mut self, layers: [Option<&HooksConfig>; 2]) -> u32 {
        let guards = layers.map(|layer| layer.map(HooksConfig::guards).unwrap_or_default());
        if guards.iter().all(|layer| *layer == HooksConfig::default()) {
            self.has_none = true;
            return 0;
        }
        let next = self.ids.len() as u32 + 1;
        *self.ids.entry(format!("{guards:?}")).or_insert(next)
    }

    /// Whether two routes differ in their guards.
    pub(super) fn differ(&self) -> bool {
        self.ids.len() + usize::from(self.has_none) > 1
    }
}
