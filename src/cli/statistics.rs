//! How sure a comparison is.
//!
//! In come pairs of figures, one pair per round, or counts of failures; out come the ratio of the
//! two sides, or the difference of their shares, with its 95 % confidence interval, and a sentence.
//! Rounds are compared pair by pair, on logarithms, so that what is slow for both sides of a round
//! is not a difference, and that twice and half weigh the same. Nothing here measures anything.

// Figures for people: fifteen digits are more than anybody counts.
#![allow(clippy::cast_precision_loss)]

use serde::Serialize;

/// Student's t for 95 % on both sides, by degrees of freedom from 1.
const T_95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// The normal distribution's, and what its next term adds for many degrees of freedom.
const Z_95: f64 = 1.959_964;
const Z_95_CUBED: f64 = 7.529_1;

/// Fewer rounds say nothing about how much they differ.
pub(super) const ROUNDS_MIN: u32 = 3;

/// How B compares with A.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Comparison {
    /// B divided by A.
    pub(super) ratio: f64,
    /// The true ratio is between these two in 95 of 100 such comparisons.
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) rounds: usize,
}

/// Compares pairs of A and B. `None`: there are too few, or one of them is not above zero.
pub(super) fn compare(pairs: &[(f64, f64)]) -> Option<Comparison> {
    let is_sound = |figure: f64| figure.is_finite() && figure > 0.0;
    if pairs.len() < ROUNDS_MIN as usize || !pairs.iter().all(|(a, b)| is_sound(*a) && is_sound(*b))
    {
        return None;
    }
    let logarithms: Vec<f64> = pairs.iter().map(|(a, b)| (b / a).ln()).collect();
    let count = logarithms.len() as f64;
    let mean = logarithms.iter().sum::<f64>() / count;
    let squares: f64 = logarithms.iter().map(|value| (value - mean).powi(2)).sum();
    let error = (squares / (count - 1.0) / count).sqrt();
    let half = t_95(logarithms.len() - 1) * error;
    Some(Comparison {
        ratio: mean.exp(),
        low: (mean - half).exp(),
        high: (mean + half).exp(),
        rounds: pairs.len(),
    })
}

/// Beyond the table: the first terms of the expansion around the normal distribution.
fn t_95(freedom: usize) -> f64 {
    match T_95.get(freedom.saturating_sub(1)) {
        Some(t) => *t,
        None => Z_95 + (Z_95_CUBED + Z_95) / (4.0 * freedom as f64),
    }
}

impl Comparison {
    /// Whether 1 is outside the interval.
    pub(super) fn shows_a_difference(&self) -> bool {
        self.low > 1.0 || self.high < 1.0
    }

    /// How far B is above A, in percent, and half the width of the interval.
    pub(super) fn percent(&self) -> (f64, f64) {
        ((self.ratio - 1.0) * 100.0, (self.high - self.low) * 50.0)
    }

    /// `less` and `more` are what B is called when its figure is the lower or the higher one.
    pub(super) fn verdict(&self, less: &str, more: &str) -> String {
        let (percent, half) = self.percent();
        if !self.shows_a_difference() {
            return format!("no difference shown (±{half:.1} %)");
        }
        let word = if percent < 0.0 { less } else { more };
        format!("B is {:.1} % ± {half:.1} % {word} than A", percent.abs())
    }
}

/// What is compared of a round `R`, and how it is said that there is less of it, or more.
pub(super) struct Figure<R> {
    pub(super) name: &'static str,
    pub(super) less: &'static str,
    pub(super) more: &'static str,
    pub(super) of: fn(&R) -> f64,
}

/// A figure with its comparison, as it is reported.
#[derive(Serialize)]
pub(super) struct Line {
    pub(super) figure: &'static str,
    /// The medians of the rounds.
    pub(super) a: f64,
    pub(super) b: f64,
    /// `None`: the figures cannot be compared.
    pub(super) comparison: Option<Comparison>,
    pub(super) verdict: String,
}

impl<R> Figure<R> {
    /// Compares both sides by `rounds`.
    pub(super) fn line<'r>(&self, rounds: impl IntoIterator<Item = &'r [R; 2]>) -> Line
    where
        R: 'r,
    {
        let pairs: Vec<(f64, f64)> =
            rounds.into_iter().map(|[a, b]| ((self.of)(a), (self.of)(b))).collect();
        let comparison = compare(&pairs);
        let verdict = |comparison: Comparison| comparison.verdict(self.less, self.more);
        Line {
            figure: self.name,
            a: median(pairs.iter().map(|pair| pair.0)),
            b: median(pairs.iter().map(|pair| pair.1)),
            comparison,
            verdict: comparison.map_or_else(|| "cannot be compared".to_owned(), verdict),
        }
    }
}

/// How two shares of failures differ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Shares {
    /// The share of B less that of A.
    pub(super) difference: f64,
    /// The true difference is between these two in 95 of 100 such comparisons.
    pub(super) low: f64,
    pub(super) high: f64,
}

/// Compares so many failures of so many with others: Newcombe's interval, made of Wilson's for each
/// side, which holds for few failures and for none. `None` where a side has nothing.
pub(super) fn compare_shares(a: (u64, u64), b: (u64, u64)) -> Option<Shares> {
    let ((share_a, low_a, high_a), (share_b, low_b, high_b)) = (wilson(a)?, wilson(b)?);
    let difference = share_b - share_a;
    let low = difference - (share_b - low_b).hypot(high_a - share_a);
    let high = difference + (high_b - share_b).hypot(share_a - low_a);
    Some(Shares { difference, low, high })
}

/// A share with its interval.
fn wilson((part, whole): (u64, u64)) -> Option<(f64, f64, f64)> {
    if whole == 0 {
        return None;
    }
    let (count, square) = (whole as f64, Z_95 * Z_95);
    let share = part as f64 / count;
    let middle = (share + square / (2.0 * count)) / (1.0 + square / count);
    let spread = (share * (1.0 - share) / count + square / (4.0 * count * count)).sqrt();
    let half = Z_95 * spread / (1.0 + square / count);
    Some((share, (middle - half).max(0.0), (middle + half).min(1.0)))
}

impl Shares {
    /// Whether 0 is outside the interval.
    pub(super) fn shows_a_difference(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }

    /// `less` and `more` are what B does compared with A.
    pub(super) fn verdict(&self, less: &str, more: &str) -> String {
        let [difference, low, high] =
            [self.difference, self.low, self.high].map(|share| share * 100.0);
        if !self.shows_a_difference() {
            return format!("no difference shown ({low:+.2} to {high:+.2} points)");
        }
        let word = if difference < 0.0 { less } else { more };
        format!("B {word} than A: {difference:+.2} points ({low:+.2} to {high:+.2})")
    }
}

/// The middle of some figures; 0 where there are none.
pub(super) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => 0.0,
        count if count % 2 == 1 => figures[middle],
        _ => f64::midpoint(figures[middle - 1], figures[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(one: f64, other: f64, within: f64) -> bool {
        (one - other).abs() <= within
    }

    #[test]
    fn an_interval_is_that_of_the_textbook() {
        // Logarithms of the ratios are -0.06, -0.05, -0.04: mean -0.05, deviation 0.01, standard
        // error 0.01 / sqrt(3), t of 2 degrees 4.303: -0.05 ± 0.024844.
        let pairs = [-0.06_f64, -0.05, -0.04].map(|logarithm| (10.0, 10.0 * logarithm.exp()));
        let comparison = compare(&pairs).unwrap();
        assert!(near(comparison.ratio, 0.951_229, 1e-6), "{comparison:?}");
        assert!(near(comparison.low, (-0.074_844_f64).exp(), 1e-5), "{comparison:?}");
        assert!(near(comparison.high, (-0.025_156_f64).exp(), 1e-5), "{comparison:?}");
        assert!(comparison.shows_a_difference());
        assert_eq!(comparison.verdict("cheaper", "dearer"), "B is 4.9 % ± 2.4 % cheaper than A");
    }

    #[test]
    fn what_slows_both_sides_of_a_round_is_no_difference() {
        let pairs: Vec<_> = (1..=10).map(|load| (f64::from(load), f64::from(load) * 1.1)).collect();
        let comparison = compare(&pairs).unwrap();
        assert!(near(comparison.ratio, 1.1, 1e-9) && near(comparison.low, 1.1, 1e-9));
        assert_eq!(comparison.verdict("cheaper", "dearer"), "B is 10.0 % ± 0.0 % dearer than A");
    }

    #[test]
    fn noise_is_not_a_difference() {
        let pairs = [(1.0, 1.02), (1.0, 0.98), (1.0, 1.01), (1.0, 0.99)];
        let comparison = compare(&pairs).unwrap();
        assert!(!comparison.shows_a_difference());
        assert_eq!(comparison.verdict("cheaper", "dearer"), "no difference shown (±2.9 %)");
    }

    #[test]
    fn swapping_the_sides_inverts_the_ratio() {
        let pairs = [(1.0, 1.3), (1.1, 1.2), (0.9, 1.25), (1.05, 1.31)];
        let swapped = pairs.map(|(a, b)| (b, a));
        let (one, other) = (compare(&pairs).unwrap(), compare(&swapped).unwrap());
        assert!(near(one.ratio * other.ratio, 1.0, 1e-12));
        assert!(near(one.low * other.high, 1.0, 1e-12));
    }

    #[test]
    fn too_little_is_not_compared() {
        assert_eq!(compare(&[(1.0, 2.0), (1.0, 2.0)]), None);
        assert_eq!(compare(&[(1.0, 2.0), (0.0, 2.0), (1.0, 2.0)]), None);
        assert_eq!(compare(&[(1.0, 2.0), (1.0, f64::NAN), (1.0, 2.0)]), None);
    }

    #[test]
    fn t_goes_on_where_its_table_ends() {
        // From the tables: 40 degrees 2.021, 100 degrees 1.984.
        assert!(near(t_95(1), 12.706, 1e-9) && near(t_95(30), 2.042, 1e-9));
        assert!(near(t_95(40), 2.021, 2e-3) && near(t_95(100), 1.984, 1e-3));
    }

    #[test]
    fn an_interval_holds_the_truth_about_as_often_as_it_says() {
        // Twelve uniform numbers make a normal one; the generator is the test's own.
        let mut state = 0x1234_5678_9abc_def1_u64;
        let mut uniform = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let mut normal = || (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
        let mut hits = 0;
        for _ in 0..2_000 {
            let pairs: Vec<_> = (0..10).map(|_| (1.0, (0.05 + 0.02 * normal()).exp())).collect();
            let comparison = compare(&pairs).unwrap();
            let truth = 0.05_f64.exp();
            hits += u32::from(comparison.low <= truth && truth <= comparison.high);
        }
        assert!((1_850..=1_950).contains(&hits), "{hits} of 2000");
    }

    #[test]
    fn shares_are_compared_as_newcombe_does() {
        // His example (Statistics in Medicine 17, 1998, table II): 56/70 less 48/80.
        let shares = compare_shares((48, 80), (56, 70)).unwrap();
        assert!(near(shares.difference, 0.2, 1e-9), "{shares:?}");
        assert!(near(shares.low, 0.0524, 1e-4) && near(shares.high, 0.3339, 1e-4), "{shares:?}");
        assert!(shares.shows_a_difference());
        assert!(shares.verdict("fails less", "fails more").starts_with("B fails more than A: +20"));
        // Without a failure, many exchanges say more than few.
        assert!(!compare_shares((0, 10), (0, 10)).unwrap().shows_a_difference());
        assert!(!compare_shares((0, 10), (1, 10)).unwrap().shows_a_difference());
        assert!(compare_shares((0, 10_000), (100, 10_000)).unwrap().shows_a_difference());
        assert_eq!(compare_shares((0, 0), (0, 10)), None);
    }

    #[test]
    fn a_median_is_the_middle() {
        assert!(near(median([3.0, 1.0, 2.0]), 2.0, 0.0));
        assert!(near(median([4.0, 1.0, 2.0, 3.0]), 2.5, 0.0));
        assert!(near(median([]), 0.0, 0.0));
    }
}
