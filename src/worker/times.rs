//! How long anybody may take, by place: what a route says, else its upstream, else `[timeouts]`.
//!
//! In goes a configuration; out come the timeouts of an exchange, put together once for each route
//! and upstream that are met. Where no place has its own, nobody has to ask.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::config::{Config, TimeoutsConfig};

/// A route and an upstream, by their indexes.
type Place = (Option<u32>, Option<usize>);

/// The timeouts of one configuration.
pub(crate) struct Times {
    general: Rc<TimeoutsConfig>,
    /// Some place has its own.
    pub differ: bool,
    by_place: RefCell<HashMap<Place, Rc<TimeoutsConfig>>>,
}

impl Times {
    pub(crate) fn new(config: &Config) -> Self {
        let differ = config.upstreams.iter().any(|upstream| upstream.timeouts.is_some())
            || config.routes.iter().any(|route| route.timeouts.is_some());
        let general = Rc::new(config.timeouts.clone());
        Self { general, differ, by_place: RefCell::default() }
    }

    pub(crate) fn general(&self) -> Rc<TimeoutsConfig> {
        self.general.clone()
    }

    /// Of a request on this route of `config` to this upstream.
    pub(crate) fn at(&self, config: &Config, (route, upstream): Place) -> Rc<TimeoutsConfig> {
        if !self.differ {
            return self.general();
        }
        let mut by_place = self.by_place.borrow_mut();
        let entry = by_place.entry((route, upstream));
        let times = entry.or_insert_with(|| {
            let route = route.and_then(|index| config.routes.get(index as usize));
            let upstream = upstream.and_then(|index| config.upstreams.get(index));
            let times = self.general.with(upstream.and_then(|it| it.timeouts.as_ref()));
            Rc::new(times.with(route.and_then(|it| it.timeouts.as_ref())))
        });
        times.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_route_has_the_last_word_and_its_upstream_the_one_before() {
        let text = "[timeouts]\nread = 10\nconnect = 1\n\
            [[upstream]]\nname = \"a\"\norigins = [\"http://a\"]\n\
            timeouts = { read = 20, pool = 2 }\n\
            [[route]]\nupstream = \"a\"\n\
            [[route]]\npath = \"/slow\"\nupstream = \"a\"\ntimeouts = { read = 30 }\n";
        let config = crate::config::tests::parse(text).unwrap();
        let times = Times::new(&config);
        let at = |route| {
            let times = times.at(&config, (route, Some(0)));
            [times.connect, times.pool, times.read].map(|time| time.as_secs())
        };
        assert!(times.differ);
        assert_eq!([at(Some(0)), at(Some(1)), at(None)], [[1, 2, 20], [1, 2, 30], [1, 2, 20]]);
        let same = [(); 2].map(|()| times.at(&config, (Some(1), Some(0))));
        assert!(Rc::ptr_eq(&same[0], &same[1]));
        assert_eq!(times.general().read, Duration::from_secs(10));
        assert!(!Times::new(&Config::default()).differ);
    }
}
