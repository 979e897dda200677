//! Medians, spreads and ratios.
//!
//! In: the samples of all rounds, with a gap where a run failed. Out: a summary for each metric.
//! Ratios are made round by round and then summed up, because what disturbs a round disturbs all
//! who run in it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Metric, Sample};

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    /// Half the distance from the lowest to the highest, in percent of the median.
    pub(crate) spread_percent: f64,
    /// To the reference.
    pub(crate) ratio: Option<f64>,
}

/// The order of a round: each begins with another peer.
pub(crate) fn rotation(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| (place + round) % count)
}

pub(crate) fn summarise(
    samples: &[Option<Sample>],
    reference: Option<&[Option<Sample>]>,
) -> BTreeMap<Metric, Summary> {
    let names: BTreeSet<_> = samples.iter().flatten().flat_map(Sample::keys).copied().collect();
    let of = |sample: &Option<Sample>, metric| sample.as_ref()?.get(&metric).copied();
    let summary = |metric| {
        let values: Vec<_> = samples.iter().filter_map(|sample| of(sample, metric)).collect();
        let ratios: Vec<_> = samples
            .iter()
            .zip(reference.unwrap_or_default())
            .filter_map(|(own, other)| Some(of(own, metric)? / of(other, metric)?))
            .filter(|ratio| ratio.is_finite())
            .collect();
        let (median, spread_percent) = (median(&values)?, spread_percent(&values));
        Some((metric, Summary { median, spread_percent, ratio: self::median(&ratios) }))
    };
    names.into_iter().filter_map(summary).collect()
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 0 => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        _ => Some(sorted[middle]),
    }
}

fn spread_percent(values: &[f64]) -> f64 {
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match median(values) {
        Some(median) if median != 0.0 => (highest - lowest) / 2.0 / median * 100.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Vec<Option<Sample>> {
        let sample = |value: &f64| Some([(Metric::CpuUs, *value)].into());
        values.iter().map(sample).collect()
    }

    #[track_caller]
    fn expect_close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn the_spread_is_half_the_range() {
        expect_close(spread_percent(&[9.0, 10.0, 13.0]), 20.0);
        expect_close(spread_percent(&[5.0]), 0.0);
        expect_close(spread_percent(&[0.0, 0.0]), 0.0);
        expect_close(spread_percent(&[]), 0.0);
    }

    #[test]
    fn ratios_are_made_within_a_round() {
        // The machine was twice as slow in the second round: a ratio of medians would say 0.75.
        let (own, other) = (samples(&[10.0, 20.0, 15.0]), samples(&[20.0, 40.0, 30.0]));
        let summary = summarise(&own, Some(&other))[&Metric::CpuUs];
        expect_close(summary.ratio.unwrap(), 0.5);
        expect_close(summary.median, 15.0);
        assert_eq!(summarise(&own, None)[&Metric::CpuUs].ratio, None);
    }

    #[test]
    fn a_failed_run_is_left_out_with_its_round() {
        let (mut own, mut other) = (samples(&[1.0, 2.0, 9.0]), samples(&[2.0, 8.0, 9.0]));
        own[2] = None;
        other[1] = None;
        let summary = summarise(&own, Some(&other))[&Metric::CpuUs];
        expect_close(summary.median, 1.5);
        expect_close(summary.ratio.unwrap(), 0.5);
        assert!(summarise(&[None], Some(&other)).is_empty());
    }

    #[test]
    fn a_ratio_to_nothing_is_none() {
        let summary = summarise(&samples(&[1.0]), Some(&samples(&[0.0])))[&Metric::CpuUs];
        assert_eq!(summary.ratio, None);
    }

    #[test]
    fn every_peer_begins_a_round_in_its_turn() {
        let orders: Vec<Vec<_>> = (0..4).map(|round| rotation(round, 3).collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
        assert_eq!(rotation(7, 0).count(), 0);
    }
}
