//! What the gate makes of two figures.
//!
//! In: instructions as committed and as counted now. Out: a verdict with its reason. Pure: no file,
//! no process.
#![allow(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]

use std::fmt;

/// How far a figure may be from the committed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tolerance {
    /// Compiler and processor are those of the figures.
    Same,
    /// They are not: another compiler inlines otherwise.
    Other,
}

impl Tolerance {
    pub(crate) fn percent(self) -> f64 {
        match self {
            Self::Same => 5.0,
            Self::Other => 15.0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Within the tolerance; by how many percent it differs.
    Fits(f64),
    More(f64),
    /// So much less that the figure no longer guards the gain.
    Less(f64),
    /// Less, with another compiler: no reason to fail.
    Elsewhere(f64),
    /// A case without a committed figure, or a figure without a case.
    Unpaired,
}

impl Verdict {
    pub(crate) fn is_failure(self) -> bool {
        matches!(self, Self::More(_) | Self::Less(_) | Self::Unpaired)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fits(percent) | Self::Elsewhere(percent) => write!(out, "{percent:+.1} %"),
            Self::More(percent) => write!(out, "{percent:+.1} %: MORE"),
            Self::Less(percent) => write!(out, "{percent:+.1} %: LESS, keep the gain"),
            Self::Unpaired => write!(out, "NO FIGURE, or no such case"),
        }
    }
}

pub(crate) fn judge(before: Option<u64>, now: Option<u64>, tolerance: Tolerance) -> Verdict {
    let (Some(before), Some(now)) = (before, now) else { return Verdict::Unpaired };
    // In this order 5 % are 5 % exactly.
    let percent = (now as f64 - before as f64) * 100.0 / before.max(1) as f64;
    if percent > tolerance.percent() {
        Verdict::More(percent)
    } else if percent >= -tolerance.percent() {
        Verdict::Fits(percent)
    } else if tolerance == Tolerance::Same {
        Verdict::Less(percent)
    } else {
        Verdict::Elsewhere(percent)
    }
}

/// The sum in callgrind's last words.
pub(crate) fn collected(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.split_once("Collected : "))?;
    line.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_percent_either_way_are_let_through_and_more_is_not() {
        let table = [(1_000, false), (1_050, false), (950, false), (1_051, true), (949, true)];
        for (now, is_failure) in table {
            let verdict = judge(Some(1_000), Some(now), Tolerance::Same);
            assert_eq!(verdict.is_failure(), is_failure, "{now}: {verdict}");
        }
    }

    #[test]
    fn with_another_compiler_only_growth_counts() {
        let table = [(1_150, false), (1_151, true), (100, false)];
        for (now, is_failure) in table {
            let verdict = judge(Some(1_000), Some(now), Tolerance::Other);
            assert_eq!(verdict.is_failure(), is_failure, "{now}: {verdict}");
        }
    }

    #[test]
    fn a_case_without_a_figure_does_not_pass_unseen() {
        assert!(judge(None, Some(1), Tolerance::Other).is_failure());
        assert!(judge(Some(1), None, Tolerance::Same).is_failure());
    }

    #[test]
    fn the_sum_is_read_from_what_callgrind_says() {
        let text = "==7== \n==7== Events    : Ir\n==7== Collected : 1234567\n==7== \n";
        assert_eq!(collected(text), Some(1_234_567));
        assert_eq!(collected("==7== nothing"), None);
    }
}
