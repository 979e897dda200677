//! Which upstream a request goes to where a route has several, and which requests are mirrored.
//!
//! In: a split's weights and a number for the request: drawn, or made of what tells its client from
//! others. Out: an upstream. The same client gets the same one from every worker, after a restart
//! and on every machine with the same configuration, because the number is made without a seed; a
//! client may choose its cohort, which is harmless.

use std::cell::Cell;
use std::sync::Arc;

use super::request_view::{HookState, RequestView};
use crate::config::{ClientKey, MirrorConfig, SplitConfig};
use crate::upstream::balance::{hash as spread, mix};

/// A split, compiled.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    arms: Box<[Arm]>,
    /// Of all arms. At least 1.
    weights: u64,
    pub(crate) sticky: Option<ClientKey>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arm {
    /// Index in `Config::upstreams`.
    pub upstream: usize,
    pub name: Arc<str>,
    /// The sum of the weights up to this arm's end.
    until: u64,
}

impl Split {
    /// `name` gives the name of an upstream.
    pub(crate) fn new(config: &SplitConfig, name: impl Fn(usize) -> Arc<str>) -> Self {
        let mut weights = 0;
        let arms = config.arms.iter().map(|(upstream, weight)| {
            weights += u64::from(*weight);
            Arm { upstream: *upstream, name: name(*upstream), until: weights }
        });
        let arms = arms.collect();
        Self { arms, weights: weights.max(1), sticky: config.sticky.clone() }
    }

    pub(crate) fn arms(&self) -> &[Arm] {
        &self.arms
    }

    /// The arm of a client, or one at random. A client without a cookie is given one.
    pub(crate) fn choose(&self, view: &RequestView<'_>, state: &mut HookState) -> &Arm {
        let number = match &self.sticky {
            None | Some(ClientKey::Route) => draw(),
            Some(ClientKey::Ip) => spread(&ClientKey::network(view.client).to_le_bytes()),
            Some(ClientKey::Header(name)) => spread(view.field(name).unwrap_or_default()),
            Some(ClientKey::Cookie(name)) => {
                let cookie = view.cookie(name).filter(|cookie| !cookie.is_empty());
                cookie.map_or_else(|| spread(state.cohort.insert(draw_text())), spread)
            }
        };
        self.arm(number)
    }

    fn arm(&self, number: u64) -> &Arm {
        // The high bits of a product are as even as the number is, and cost no division.
        let point = ((u128::from(number) * u128::from(self.weights)) >> 64) as u64;
        let at = self.arms.partition_point(|arm| arm.until <= point);
        &self.arms[at.min(self.arms.len() - 1)]
    }
}

/// Whether a request is mirrored; its body is known to fit.
pub(crate) fn is_mirrored(mirror: &MirrorConfig, number: u64) -> bool {
    ((u128::from(number) * 10_000) >> 64) < u128::from(mirror.share)
}

thread_local! {
    /// The state of this thread's generator; 0 before it has been seeded.
    static DRAWN: Cell<u64> = const { Cell::new(0) };
}

/// A number that may be guessed: splitmix64, seeded once per thread. Not for secrets.
pub(crate) fn draw() -> u64 {
    DRAWN.with(|drawn| {
        let mut state = drawn.get();
        if state == 0 {
            let mut seed = [0; 8];
            // Without the kernel's numbers the threads would draw alike: harmless, but say so.
            if let Err(error) = getrandom::fill(&mut seed) {
                tracing::debug!("the kernel gives no random numbers: {error}");
            }
            state = u64::from_le_bytes(seed) | 1;
        }
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        drawn.set(state);
        mix(state)
    })
}

/// 128 drawn bits as hexadecimal digits.
pub(crate) fn draw_text() -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let number = u128::from(draw()) << 64 | u128::from(draw());
    std::array::from_fn(|at| DIGITS[(number >> (at * 4) & 15) as usize])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::request_view::tests::with_facts;
    use super::*;
    use std::time::Duration;

    fn split(arms: &[(usize, u32)], sticky: Option<ClientKey>) -> Split {
        let config = SplitConfig { arms: arms.to_vec(), sticky, max_age: Duration::from_secs(60) };
        Split::new(&config, |upstream| format!("u{upstream}").into())
    }

    /// Shares in tenths of a percent.
    fn shares(split: &Split, numbers: impl Iterator<Item = u64>) -> Vec<u32> {
        let mut counts = vec![0_u32; split.arms.len()];
        let mut total = 0;
        for number in numbers {
            counts[split.arm(number).upstream] += 1;
            total += 1;
        }
        counts.into_iter().map(|count| count * 1000 / total).collect()
    }

    #[test]
    fn arms_get_what_they_weigh() {
        let split = split(&[(0, 90), (1, 9), (2, 1)], None);
        let drawn = shares(&split, (0..200_000).map(|_| draw()));
        let clients = shares(&split, (0..200_000_u64).map(|client| spread(&client.to_le_bytes())));
        let cookies = shares(&split, (0..200_000).map(|n| spread(format!("u{n}").as_bytes())));
        for found in [drawn, clients, cookies] {
            assert!((895..=905).contains(&found[0]), "{found:?}");
            assert!((87..=93).contains(&found[1]), "{found:?}");
            assert!((8..=12).contains(&found[2]), "{found:?}");
        }
    }

    #[test]
    fn every_number_has_an_arm() {
        for arms in [vec![(0, 1)], vec![(0, 1), (1, 1_000_000)], vec![(0, 3), (1, 3), (2, 3)]] {
            let split = split(&arms, None);
            assert_eq!(split.arm(0).upstream, 0);
            assert_eq!(split.arm(u64::MAX).upstream, arms.len() - 1);
        }
    }

    #[test]
    fn a_cohort_stays_where_it_is_when_others_grow() {
        let (before, after) = (split(&[(0, 90), (1, 10)], None), split(&[(0, 80), (1, 20)], None));
        for client in 0..10_000_u64 {
            let number = spread(&client.to_le_bytes());
            let (was, is) = (before.arm(number).upstream, after.arm(number).upstream);
            assert!(was == is || (was, is) == (0, 1), "{client}");
        }
    }

    #[test]
    fn the_numbers_are_the_same_on_every_machine() {
        assert_eq!(spread(b""), 0xf52a_15e9_a9b5_e89b);
        assert_ne!(spread(b"a"), spread(b"b"));
    }

    #[test]
    fn a_client_without_a_cookie_is_given_one_that_leads_to_the_same_arm() {
        let split = split(&[(0, 1), (1, 1)], Some(ClientKey::Cookie("c".to_owned())));
        for _ in 0..100 {
            let mut state = HookState::default();
            let first = with_facts("GET / HTTP/1.1\r\nHost: a\r\n\r\n", |view| {
                split.choose(view, &mut state).upstream
            });
            let cookie = String::from_utf8(state.cohort.unwrap().to_vec()).unwrap();
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: c={cookie}\r\n\r\n");
            let mut state = HookState::default();
            let then = with_facts(&text, |view| split.choose(view, &mut state).upstream);
            assert_eq!((then, state.cohort), (first, None));
        }
    }

    #[test]
    fn a_client_is_known_by_its_address_or_field() {
        let by_ip = split(&[(0, 1), (1, 1)], Some(ClientKey::Ip));
        let by_field = split(&[(0, 1), (1, 1)], Some(ClientKey::Header("x-user".to_owned())));
        let mut seen = HashSet::new();
        for user in 0..50 {
            let text = format!("GET /{user} HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n");
            with_facts(&text, |view| {
                let mut state = HookState::default();
                let first = by_ip.choose(view, &mut state).upstream;
                assert_eq!(by_ip.choose(view, &mut state).upstream, first);
                seen.insert(by_field.choose(view, &mut state).upstream);
                assert_eq!(state.cohort, None);
            });
        }
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn a_mirror_sees_its_share() {
        let mirror = |share| MirrorConfig { upstream: 0, share, body_bytes: 0 };
        let count = |share| (0..100_000).filter(|_| is_mirrored(&mirror(share), draw())).count();
        assert_eq!((count(10_000), count(0)), (100_000, 0));
        assert!((4_600..=5_400).contains(&count(500)));
    }

    #[test]
    fn drawn_texts_do_not_repeat() {
        let texts: HashSet<_> = (0..10_000).map(|_| draw_text()).collect();
        assert_eq!(texts.len(), 10_000);
        assert!(texts.iter().flatten().all(u8::is_ascii_hexdigit));
    }
}
