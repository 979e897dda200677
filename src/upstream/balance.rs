//! Which target of an upstream is next.
//!
//! In: what is known of each target now ([`Candidate`]), and what the request is to be kept with.
//! Out: the index of a target. Those that are out are never picked while others are left, and of
//! several priorities the lowest that has one that is in. Where nothing is left, whatever an
//! operator does not forbid is: a guess beats a certain 502. Pure and owned by one worker: no
//! clock, no socket, no atomics.

use crate::config::Policy;

/// A target as a pick sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// It may be asked.
    pub is_in: bool,
    /// An operator allows that it is asked where nothing else is left.
    pub is_wanted: bool,
    /// Requests that it has.
    pub busy: u32,
    /// 0: not known.
    pub latency_us: u32,
    /// Of 256, the part of its weight that it has yet: it has just come.
    pub ramp: u32,
}

impl Candidate {
    pub(crate) const SOUND: Self =
        Self { is_in: true, is_wanted: true, busy: 0, latency_us: 0, ramp: RAMP_FULL };
}

pub(crate) const RAMP_FULL: u32 = 256;

/// What a sound target has to do, where nothing else counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Requests that it has.
    pub busy: u32,
    /// 0: not known.
    pub latency_us: u32,
}

/// The turns of one upstream's targets.
#[derive(Clone, Debug)]
pub(crate) struct Balance {
    policy: Policy,
    shares: Vec<Share>,
    has_priorities: bool,
    /// Some are in this ringway's zone, and others are not.
    has_zones: bool,
    /// All weigh the same.
    is_even: bool,
    /// Percent of all below which all are asked.
    panic_below: u32,
    /// Whose turn it is where all weigh the same.
    next: usize,
    /// Where the search for the least begins, so that equals take turns.
    turn: usize,
    random: u64,
}

/// What a target is by the configuration, and whose turn it is.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    weight: i64,
    priority: u16,
    is_near: bool,
    /// Stands for it in hashes.
    seed: u64,
    /// Grows by `weight` with each pick, and pays the weight of all candidates when picked.
    credit: i64,
}

impl Share {
    /// A weight of 0 counts as 1.
    pub(crate) fn new(weight: u32, priority: u16, name: &str) -> Self {
        let (weight, seed) = (weight.max(1).into(), hash(name.as_bytes()));
        Self { weight, priority, is_near: false, seed, credit: 0 }
    }

    /// Whether it is in the zone of this ringway.
    #[must_use]
    pub(crate) fn near(self, is_near: bool) -> Self {
        Self { is_near, ..self }
    }
}

impl Balance {
    pub(crate) fn new(policy: Policy, shares: Vec<Share>) -> Self {
        let random = shares.iter().fold(1, |all, share| mix(all ^ share.seed)) | 1;
        let has_priorities = shares.windows(2).any(|pair| pair[0].priority != pair[1].priority);
        let has_zones = shares.windows(2).any(|pair| pair[0].is_near != pair[1].is_near);
        let is_even = shares.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        Self {
            policy,
            shares,
            has_priorities,
            has_zones,
            is_even,
            panic_below: 0,
            next: 0,
            turn: 0,
            random,
        }
    }

    /// The same, where all are asked while less than so many percent of them may be.
    #[must_use]
    pub(crate) fn with_panic_below(self, percent: u32) -> Self {
        Self { panic_below: percent, ..self }
    }

    /// The same, `turns` picks later. Workers that start at different turns do not all send
    /// their first request to the same target.
    #[must_use]
    pub(crate) fn started_at(mut self, turns: usize) -> Self {
        // The order repeats after as many turns as the weights add up to.
        let period =
            self.shares.iter().map(|share| share.weight.unsigned_abs()).sum::<u64>().max(1);
        for _ in 0..turns as u64 % period {
            self.round_robin(|_| Some(Candidate::SOUND));
        }
        self.turn = turns;
        self.random = mix(self.random ^ turns as u64) | 1;
        self
    }

    /// The next target. `see` says what is known of one, `None` of what has been tried already;
    /// `key` is the hash of what the request is to be kept with.
    pub(crate) fn pick(
        &mut self,
        key: u64,
        see: impl Fn(usize) -> Option<Candidate> + Copy,
    ) -> Option<usize> {
        if let [_] = &*self.shares {
            return see(0).filter(|it| it.is_in || it.is_wanted).map(|_| 0);
        }
        if self.panic_below > 0 && self.is_panic(see) {
            return self.choose(key, move |index| see(index).filter(|it| it.is_wanted));
        }
        if !self.has_priorities && !self.has_zones {
            let picked = self.choose(key, move |index| see(index).filter(|it| it.is_in));
            return picked
                .or_else(|| self.choose(key, move |it| see(it).filter(|it| it.is_wanted)));
        }
        let Some(lowest) = self.lowest_priority(see) else {
            return self.choose(key, move |index| see(index).filter(|it| it.is_wanted));
        };
        let tier: Vec<(bool, bool)> =
            self.shares.iter().map(|share| (share.priority == lowest, share.is_near)).collect();
        let tier = &*tier;
        let see = move |index: usize| see(index).filter(|it| it.is_in && tier[index].0);
        if self.has_zones {
            let is_near = self.stays_near(key, see);
            let picked = self.choose(key, move |it| see(it).filter(|_| tier[it].1 == is_near));
            if picked.is_some() {
                return picked;
            }
        }
        self.choose(key, see)
    }

    /// The same as [`Balance::pick`] where all may be asked and have all of their weight, in fewer
    /// steps: most requests find it so. `load` is `None` of one of which that is not so; then, and
    /// where more is to be weighed, there is none.
    #[inline]
    pub(crate) fn pick_sound(&mut self, load: impl Fn(usize) -> Option<Load>) -> Option<usize> {
        if self.has_priorities || self.has_zones || self.shares.len() < 2 {
            return None;
        }
        match self.policy {
            Policy::LeastConnections => self.least_of_sound(load),
            Policy::P2cEwma => self.better_of_two_sound(load),
            _ => None,
        }
    }

    fn least_of_sound(&mut self, load: impl Fn(usize) -> Option<Load>) -> Option<usize> {
        let count = self.shares.len();
        let mut index = self.next_start();
        let (mut best, mut least, mut of) = (index, u64::MAX, 1);
        for _ in 0..count {
            let share = self.shares.get(index)?;
            let (busy, weight) = (u64::from(load(index)?.busy) + 1, share.weight.unsigned_abs());
            // busy / weight, without a division.
            if least == u64::MAX || busy * of < least * weight {
                (best, least, of) = (index, busy, weight);
            }
            index = if index + 1 < count { index + 1 } else { 0 };
        }
        Some(best)
    }

    /// Where the next search for the least begins.
    fn next_start(&mut self) -> usize {
        self.turn = if self.turn + 1 < self.shares.len() { self.turn + 1 } else { 0 };
        self.turn
    }

    fn better_of_two_sound(&mut self, load: impl Fn(usize) -> Option<Load>) -> Option<usize> {
        let (random, count) = (self.next_random(), self.shares.len() as u64);
        // A half of the number for each, and no division (Lemire 2019).
        let scaled = |half: u64, below: u64| ((half * below) >> 32) as usize;
        let first = scaled(random >> 32, count);
        let second = scaled(random & u64::from(u32::MAX), count - 1);
        let second = second + usize::from(second >= first);
        let cost = |index: usize| {
            let Load { busy, latency_us } = load(index)?;
            let weight = self.shares.get(index)?.weight.unsigned_abs();
            Some((u64::from(latency_us.max(1)) * (u64::from(busy) + 1), weight))
        };
        let ((one, of_one), (two, of_two)) = (cost(first)?, cost(second)?);
        // cost / weight, without a division.
        let is_second = u128::from(two) * u128::from(of_one) < u128::from(one) * u128::from(of_two);
        Some(if is_second { second } else { first })
    }

    /// Whether so few may be asked that they would not bear it.
    fn is_panic(&self, see: impl Fn(usize) -> Option<Candidate>) -> bool {
        let all = (0..self.shares.len()).filter_map(see);
        let (count, sound) = all.fold((0, 0), |(count, sound): (usize, usize), it| {
            (count + 1, sound + usize::from(it.is_in))
        });
        sound * 100 < self.panic_below as usize * count
    }

    /// Whether a request stays in this ringway's zone, of which `see` shows what may be asked: all
    /// do while that has seven tenths of its weight, and then so much less that those that are left
    /// bear no more than their share and 40 percent (Envoy's factor for overprovisioning).
    fn stays_near(&mut self, key: u64, see: impl Fn(usize) -> Option<Candidate>) -> bool {
        let (mut all, mut sound) = (0, 0);
        for (index, share) in self.shares.iter().enumerate().filter(|(_, share)| share.is_near) {
            all += share.weight;
            sound += if see(index).is_some() { share.weight } else { 0 };
        }
        let point = match self.policy {
            // What is alike stays together.
            Policy::ConsistentHash => mix(key ^ 0x5a),
            _ => self.next_random(),
        };
        let part = (u128::from(point) * 1_000) >> 64;
        (part as i64) * all < sound * 1_400
    }

    /// The lowest of those that are in.
    fn lowest_priority(&self, see: impl Fn(usize) -> Option<Candidate>) -> Option<u16> {
        let mut lowest: Option<u16> = None;
        for (index, share) in self.shares.iter().enumerate() {
            if lowest.is_none_or(|lowest| share.priority < lowest)
                && see(index).is_some_and(|it| it.is_in)
            {
                lowest = Some(share.priority);
            }
        }
        lowest
    }

    fn choose(
        &mut self,
        key: u64,
        see: impl Fn(usize) -> Option<Candidate> + Copy,
    ) -> Option<usize> {
        match self.policy {
            Policy::RoundRobin => self.round_robin(see),
            Policy::LeastConnections => self.least(see),
            Policy::P2cEwma => self.better_of_two(see),
            Policy::ConsistentHash => self.by_hash(key, see),
            Policy::Random => {
                let key = self.next_random();
                self.by_hash(key, see)
            }
            Policy::First => (0..self.shares.len()).find(|index| see(*index).is_some()),
        }
    }

    fn round_robin(&mut self, see: impl Fn(usize) -> Option<Candidate>) -> Option<usize> {
        if self.is_even
            && !self.has_zones
            && let Some(index) = self.next_in_turn(&see)
        {
            return Some(index);
        }
        let mut weight_sum = 0;
        let mut best: Option<(usize, i64)> = None;
        for (index, share) in self.shares.iter_mut().enumerate() {
            let Some(candidate) = see(index) else { continue };
            // A weight is a part of what it will be, and never nothing.
            let weight = if candidate.ramp == RAMP_FULL {
                share.weight * i64::from(RAMP_FULL)
            } else {
                (share.weight * i64::from(candidate.ramp)).max(1)
            };
            share.credit += weight;
            weight_sum += weight;
            if best.is_none_or(|(_, credit)| share.credit > credit) {
                best = Some((index, share.credit));
            }
        }
        let (index, _) = best?;
        self.shares[index].credit -= weight_sum;
        Some(index)
    }

    /// The next one where all weigh the same; `None` where somebody has less than its weight yet,
    /// or there is nobody.
    fn next_in_turn(&mut self, see: impl Fn(usize) -> Option<Candidate>) -> Option<usize> {
        let count = self.shares.len();
        let from = if self.next < count { self.next } else { 0 };
        for index in (from..count).chain(0..from) {
            if let Some(candidate) = see(index) {
                // Whoever has less than its weight stays next, for as long as it does.
                let is_full = candidate.ramp == RAMP_FULL;
                self.next = if is_full { index + 1 } else { index };
                return is_full.then_some(index);
            }
        }
        None
    }

    fn least(&mut self, see: impl Fn(usize) -> Option<Candidate>) -> Option<usize> {
        let count = self.shares.len();
        self.next_start();
        let mut best: Option<(usize, u64, u64)> = None;
        for index in (self.turn..count).chain(0..self.turn) {
            let Some(candidate) = see(index) else { continue };
            let (busy, weight) = (u64::from(candidate.busy) + 1, self.weight(index, candidate));
            // busy / weight, without a division.
            if best.is_none_or(|(_, least, of)| busy * of < least * weight) {
                best = Some((index, busy, weight));
            }
        }
        best.map(|(index, ..)| index)
    }

    fn better_of_two(&mut self, see: impl Fn(usize) -> Option<Candidate> + Copy) -> Option<usize> {
        let (first, second) = (self.next_random(), self.next_random());
        let (first, seen) = self.some(first, see)?;
        let others = move |index| if index == first { None } else { see(index) };
        let Some((second, other)) = self.some(second, others) else { return Some(first) };
        let cost = |index: usize, candidate: Candidate| {
            let latency = u64::from(candidate.latency_us.max(1));
            (latency * (u64::from(candidate.busy) + 1), self.weight(index, candidate))
        };
        let ((one, of_one), (two, of_two)) = (cost(first, seen), cost(second, other));
        // cost / weight, without a division.
        let is_second = u128::from(two) * u128::from(of_one) < u128::from(one) * u128::from(of_two);
        Some(if is_second { second } else { first })
    }

    /// The first from a place on that may be picked, as it is seen.
    fn some(
        &self,
        place: u64,
        see: impl Fn(usize) -> Option<Candidate>,
    ) -> Option<(usize, Candidate)> {
        let count = self.shares.len();
        let start = (place % count.max(1) as u64) as usize;
        (start..count).chain(0..start).find_map(|index| Some((index, see(index)?)))
    }

    /// Each target draws a number for the key, its weight times; the highest wins.
    #[expect(clippy::cast_precision_loss, reason = "a draw")]
    fn by_hash(&self, key: u64, see: impl Fn(usize) -> Option<Candidate>) -> Option<usize> {
        let drawn = |index: usize| {
            let candidate = see(index)?;
            let draw = mix(key ^ self.shares[index].seed);
            let weight = self.weight(index, candidate);
            // -w / ln(u) is highest with a probability that goes with w (Schindelhauer 2005).
            let part = (draw >> 11) as f64 + 0.5;
            Some(-(weight as f64) / (part / (1_u64 << 53) as f64).ln())
        };
        let all = (0..self.shares.len()).filter_map(|index| Some((index, drawn(index)?)));
        all.max_by(|(_, one), (_, two)| one.total_cmp(two)).map(|(index, _)| index)
    }

    fn weight(&self, index: usize, candidate: Candidate) -> u64 {
        (self.shares[index].weight.unsigned_abs() * u64::from(candidate.ramp)).max(1)
    }

    /// xorshift64 (Marsaglia 2003).
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// A number that is the same for the same bytes in every process and on every machine, and as good
/// as random for others: FNV-1a, mixed, because FNV's own high bits depend on the last bytes too
/// little.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// The finalizer of `SplitMix64` (Steele, Lea and Flood 2014).
pub(crate) fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: Candidate = Candidate { is_in: false, ..Candidate::SOUND };
    const NEVER: Candidate = Candidate { is_wanted: false, ..OUT };

    fn balance(policy: Policy, weights: &[u32]) -> Balance {
        let share = |(index, weight): (usize, &u32)| Share::new(*weight, 0, &format!("t{index}"));
        Balance::new(policy, weights.iter().enumerate().map(share).collect())
    }

    fn picks(balance: &mut Balance, count: usize) -> Vec<usize> {
        (0..count).map(|_| balance.pick(0, |_| Some(Candidate::SOUND)).unwrap()).collect()
    }

    fn counts(picks: impl Iterator<Item = usize>, of: usize) -> Vec<usize> {
        picks.fold(vec![0; of], |mut counts, index| {
            counts[index] += 1;
            counts
        })
    }

    #[test]
    fn where_all_are_sound_the_short_way_chooses_as_the_long_one_does() {
        let loads = [(3, 900), (1, 2_000), (2, 500), (1, 0)]
            .map(|(busy, latency_us)| Load { busy, latency_us });
        let see = |index: usize| {
            let Load { busy, latency_us } = loads[index];
            Some(Candidate { busy, latency_us, ..Candidate::SOUND })
        };
        for weights in [[1, 1, 1, 1], [4, 1, 2, 1]] {
            let mut long = balance(Policy::LeastConnections, &weights);
            let mut short = long.clone();
            for _ in 0..9 {
                let picked = short.pick_sound(|index| Some(loads[index]));
                assert_eq!(picked, long.pick(0, see), "{weights:?}");
            }
            let mut long = balance(Policy::P2cEwma, &weights);
            let mut short = long.clone();
            let long = counts((0..40_000).map(|_| long.pick(0, see).unwrap()), 4);
            let load = |index: usize| Some(loads[index]);
            let short = counts((0..40_000).map(|_| short.pick_sound(load).unwrap()), 4);
            // The worst of all is never the better of two; the best is in a half of all pairs.
            assert_eq!(long.iter().position(|it| *it == 0), short.iter().position(|it| *it == 0));
            assert!(short.iter().any(|it| it.abs_diff(20_000) < 600), "{short:?}");
        }
    }

    #[test]
    fn the_short_way_is_for_those_alone_who_are_all_sound() {
        let one_is_out = |index| (index != 1).then_some(Load { busy: 0, latency_us: 0 });
        let mut least = balance(Policy::LeastConnections, &[1, 1, 1]);
        assert_eq!(least.pick_sound(one_is_out), None);
        let all = |_| Some(Load { busy: 0, latency_us: 0 });
        assert_eq!(balance(Policy::RoundRobin, &[1, 1]).pick_sound(all), None);
        assert_eq!(balance(Policy::LeastConnections, &[1]).pick_sound(all), None);
        let shares = vec![Share::new(1, 0, "a"), Share::new(1, 1, "b")];
        assert_eq!(Balance::new(Policy::P2cEwma, shares).pick_sound(all), None);
    }

    #[test]
    fn equal_weights_take_turns() {
        let mut balance = balance(Policy::RoundRobin, &[1, 1, 1]);
        assert_eq!(picks(&mut balance, 7), [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn weights_are_kept_and_spread() {
        let spread = picks(&mut balance(Policy::RoundRobin, &[5, 1, 1]), 7);
        assert_eq!(spread, [0, 0, 1, 0, 2, 0, 0]);
        let mut balance = balance(Policy::RoundRobin, &[3, 7, 90]);
        assert_eq!(counts(picks(&mut balance, 1000).into_iter(), 3), [30, 70, 900]);
    }

    #[test]
    fn workers_can_start_at_different_turns() {
        let first = |turns| {
            let mut balance = balance(Policy::RoundRobin, &[1, 1, 1]).started_at(turns);
            picks(&mut balance, 1)[0]
        };
        assert_eq!([first(0), first(1), first(2), first(3)], [0, 1, 2, 0]);
        assert_eq!(first(usize::MAX), usize::MAX % 3);
    }

    #[test]
    fn every_policy_passes_over_what_is_out_and_guesses_where_nothing_is_left() {
        for policy in ALL {
            let mut balance = balance(policy, &[1, 2, 1]);
            for key in 0..200 {
                let key = mix(key);
                let one_out = |index| Some(if index == 1 { OUT } else { Candidate::SOUND });
                assert_ne!(balance.pick(key, one_out), Some(1), "{policy:?}");
                let excluded = |index| (index != 1).then_some(Candidate::SOUND);
                assert_ne!(balance.pick(key, excluded), Some(1), "{policy:?}");
                let all_out = |index| Some(if index == 2 { NEVER } else { OUT });
                let guess = balance.pick(key, all_out);
                assert!(matches!(guess, Some(0 | 1)), "{policy:?}: {guess:?}");
                assert_eq!(balance.pick(key, |_| Some(NEVER)), None, "{policy:?}");
                assert_eq!(balance.pick(key, |_| None), None, "{policy:?}");
            }
        }
        for policy in ALL {
            assert_eq!(balance(policy, &[]).pick(0, |_| Some(OUT)), None);
            assert_eq!(balance(policy, &[1]).pick(0, |_| Some(OUT)), Some(0), "a guess");
            assert_eq!(balance(policy, &[1]).pick(0, |_| Some(NEVER)), None);
        }
    }

    const ALL: [Policy; 6] = [
        Policy::RoundRobin,
        Policy::LeastConnections,
        Policy::P2cEwma,
        Policy::ConsistentHash,
        Policy::Random,
        Policy::First,
    ];

    #[test]
    fn a_priority_is_asked_only_while_no_lower_one_has_anybody() {
        for policy in ALL {
            let shares = [(0, "a"), (0, "b"), (1, "c"), (2, "d")];
            let shares = shares.map(|(priority, name)| Share::new(1, priority, name)).to_vec();
            let mut balance = Balance::new(policy, shares);
            for key in 0..50 {
                let down_to = |first: usize| {
                    move |index| Some(if index < first { OUT } else { Candidate::SOUND })
                };
                assert!(balance.pick(mix(key), down_to(0)).unwrap() < 2, "{policy:?}");
                assert_eq!(balance.pick(mix(key), down_to(1)), Some(1), "{policy:?}");
                assert_eq!(balance.pick(mix(key), down_to(2)), Some(2), "{policy:?}");
                assert_eq!(balance.pick(mix(key), down_to(3)), Some(3), "{policy:?}");
            }
        }
    }

    #[test]
    fn the_fewest_requests_for_the_weight_win_and_equals_take_turns() {
        let mut balance = balance(Policy::LeastConnections, &[1, 1, 2]);
        let busy = [3, 2, 5];
        let see = |index: usize| Some(Candidate { busy: busy[index], ..Candidate::SOUND });
        assert_eq!(balance.pick(0, see), Some(1), "3 of 1, against 4 of 1 and 6 of 2: 3 wins ties");
        let mut equal = super::tests::balance(Policy::LeastConnections, &[1, 1, 1]);
        assert_eq!(counts(picks(&mut equal, 300).into_iter(), 3), [100, 100, 100]);
    }

    #[test]
    fn of_two_the_sooner_one_is_asked() {
        let mut balance = balance(Policy::P2cEwma, &[1, 1, 1, 1]);
        let see = |index: usize| {
            let latency_us = if index == 3 { 100_000 } else { 1_000 };
            Some(Candidate { latency_us, ..Candidate::SOUND })
        };
        let counts = counts((0..4_000).map(|_| balance.pick(0, see).unwrap()), 4);
        assert_eq!(counts[3], 0, "it loses to whatever it is drawn with: {counts:?}");
        assert!(counts[..3].iter().all(|count| (900..1_800).contains(count)), "{counts:?}");
    }

    #[test]
    fn what_a_lost_target_moves_is_its_share_only_and_shares_go_by_weight() {
        let mut balance = balance(Policy::ConsistentHash, &[1, 1, 2]);
        let keys = || (0..40_000).map(mix);
        let before: Vec<_> =
            keys().map(|key| balance.pick(key, |_| Some(Candidate::SOUND)).unwrap()).collect();
        let counts = counts(before.iter().copied(), 3);
        for (count, share) in counts.iter().zip([10_000, 10_000, 20_000]) {
            assert!(count.abs_diff(share) < 600, "{counts:?}");
        }
        let lost = |index| Some(if index == 1 { OUT } else { Candidate::SOUND });
        for (key, before) in keys().zip(before) {
            let now = balance.pick(key, lost).unwrap();
            assert!(now == before || before == 1);
        }
    }

    #[test]
    fn random_goes_by_weight() {
        let mut balance = balance(Policy::Random, &[1, 3]);
        let counts = counts(picks(&mut balance, 40_000).into_iter(), 2);
        assert!(counts[0].abs_diff(10_000) < 600, "{counts:?}");
    }

    #[test]
    fn who_has_just_come_gets_a_part_of_its_weight() {
        let see = |index: usize| {
            Some(Candidate { ramp: if index == 0 { 64 } else { RAMP_FULL }, ..Candidate::SOUND })
        };
        for (policy, key) in [(Policy::RoundRobin, 0), (Policy::Random, 0)] {
            let mut balance = balance(policy, &[1, 1]);
            let counts = counts((0..5_000).map(|_| balance.pick(key, see).unwrap()), 2);
            assert!(counts[0].abs_diff(1_000) < 150, "{policy:?}: {counts:?}");
        }
    }

    #[test]
    fn credit_stays_bounded_while_candidates_come_and_go() {
        let mut balance = balance(Policy::RoundRobin, &[1000, 1, 500]);
        for turn in 0..100_000_usize {
            balance.pick(0, |index| (index != turn % 4).then_some(Candidate::SOUND));
        }
        let bound = 10_000 * i64::from(RAMP_FULL);
        assert!(balance.shares.iter().all(|share| share.credit.abs() < bound));
    }

    #[test]
    fn a_hash_is_the_same_everywhere() {
        assert_eq!(hash(b""), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(hash(b"192.0.2.1"), hash(b"192.0.2.1"));
        assert_ne!(hash(b"192.0.2.1"), hash(b"192.0.2.2"));
    }

    fn zoned(near: &[bool]) -> Balance {
        let share =
            |(index, near): (usize, &bool)| Share::new(1, 0, &index.to_string()).near(*near);
        Balance::new(Policy::RoundRobin, near.iter().enumerate().map(share).collect())
    }

    #[test]
    fn what_is_near_is_asked_while_it_bears_it() {
        let mut balance = zoned(&[true, true, false, false]);
        let all =
            counts((0..1_000).map(|_| balance.pick(0, |_| Some(Candidate::SOUND)).unwrap()), 4);
        assert_eq!((all[2], all[3]), (0, 0), "{all:?}");
        // One of two bears 140 percent of its share: seven of ten requests.
        let see = |index| Some(if index == 0 { OUT } else { Candidate::SOUND });
        let some = counts((0..10_000).map(|_| balance.pick(0, see).unwrap()), 4);
        assert!(some[1].abs_diff(7_000) < 300 && some[2].abs_diff(1_500) < 200, "{some:?}");
        let see = |index| Some(if index < 2 { OUT } else { Candidate::SOUND });
        let none = counts((0..1_000).map(|_| balance.pick(0, see).unwrap()), 4);
        assert!(none[0] == 0 && none[1] == 0, "{none:?}");
        let see = |index| Some(if index < 2 { Candidate::SOUND } else { OUT });
        let far = counts((0..1_000).map(|_| balance.pick(0, see).unwrap()), 4);
        assert!(far[2] == 0 && far[3] == 0, "{far:?}");
    }

    #[test]
    fn where_too_few_are_left_all_are_asked_that_an_operator_allows() {
        let mut balance = balance(Policy::RoundRobin, &[1, 1, 1, 1]).with_panic_below(50);
        let see = |index| Some(if index < 2 { OUT } else { Candidate::SOUND });
        let half = counts((0..400).map(|_| balance.pick(0, see).unwrap()), 4);
        assert_eq!(half, [0, 0, 200, 200]);
        let see = |index| match index {
            0 => Some(NEVER),
            3 => Some(Candidate::SOUND),
            _ => Some(OUT),
        };
        let few = counts((0..300).map(|_| balance.pick(0, see).unwrap()), 4);
        assert_eq!(few, [0, 100, 100, 100]);
    }

    #[test]
    fn turns_stay_even_when_some_are_out_and_come_back() {
        let mut balance = balance(Policy::RoundRobin, &[2, 2, 2]);
        let without = |out: usize| move |index| (index != out).then_some(Candidate::SOUND);
        let picks: Vec<_> = (0..4).map(|_| balance.pick(0, without(1)).unwrap()).collect();
        assert_eq!(picks, [0, 2, 0, 2]);
        assert_eq!(super::tests::picks(&mut balance, 6), [0, 1, 2, 0, 1, 2]);
    }
}
