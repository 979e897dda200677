//! Units as people write them: `"30s"`, `"1m30s"`, `"64KiB"`, `30.0`.
//!
//! In: a text. Out: a `Duration` or a number of bytes that is exact, and such a text again. A bare
//! number is seconds for a duration and bytes for a size, also inside a text, because environment
//! variables carry nothing else. This file never checks a range: the kind of a key does.

use std::time::Duration;

/// What a duration may look like, for error texts.
pub(super) const DURATION_FORM: &str =
    "a duration such as \"30s\", \"500ms\", \"1m30s\" or a number of seconds";

/// What a size may look like, for error texts.
pub(super) const BYTES_FORM: &str = "a size such as \"64KiB\", \"8MB\" or a number of bytes";

pub(super) const SHARE_FORM: &str = "a number from 0 to 1";

/// In nanoseconds, and in ascending order: `duration_text` walks it backwards.
const DURATION_UNITS: [(&str, u64); 6] = [
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

const BYTE_UNITS: [(&str, u64); 9] = [
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// `None` when `text` is not of `DURATION_FORM`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut rest = text;
    let mut nanoseconds: u64 = 0;
    let mut last_scale = u64::MAX;
    while !rest.is_empty() {
        let (number, after) = split_number(rest)?;
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let (_, scale) = *DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        // "30s1m" and "1s1s" are slips of the pen more often than they are meant.
        if scale >= last_scale {
            return None;
        }
        last_scale = scale;
        nanoseconds = nanoseconds.checked_add(scaled(number, scale)?)?;
        rest = after;
    }
    (last_scale != u64::MAX).then(|| Duration::from_nanos(nanoseconds))
}

/// `None` when `text` is not of `BYTES_FORM`, or is not a whole number of bytes.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text.trim())?;
    let unit = unit.trim_start();
    let scale = if unit.is_empty() {
        1
    } else {
        BYTE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1
    };
    scaled(number, scale)
}

/// The leading decimal number, such as `1.5`, and what follows it.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// `number × scale` when that is a whole number. Decimal arithmetic, because `0.1 × 1000` must
/// be 100 and not the nearest double.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let fraction = fraction.trim_end_matches('0');
    let whole: u64 = whole.parse().ok()?;
    let mut sum = whole.checked_mul(scale)?;
    if !fraction.is_empty() {
        let digits: u64 = fraction.parse().ok()?;
        let divisor = 10_u128.checked_pow(fraction.len().try_into().ok()?)?;
        let product = u128::from(digits) * u128::from(scale);
        if product % divisor != 0 {
            return None;
        }
        sum = sum.checked_add(u64::try_from(product / divisor).ok()?)?;
    }
    Some(sum)
}

/// Shortest spelling that `parse_duration` reads back: `90 s` is "1m30s".
pub(super) fn duration_text(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, scale) in DURATION_UNITS.iter().rev() {
        if rest >= *scale {
            text.push_str(&(rest / scale).to_string());
            text.push_str(unit);
            rest %= scale;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Shortest spelling that `parse_bytes` reads back: `65536` is "64KiB".
pub(super) fn bytes_text(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_spelling() {
        let table = [
            ("30s", 30_000),
            ("500ms", 500),
            ("1h", 3_600_000),
            ("1m30s", 90_000),
            ("2d", 172_800_000),
            ("1.5s", 1_500),
            ("0.1s", 100),
            ("30", 30_000),
            ("30.0", 30_000),
            (" 5s ", 5_000),
            ("0s", 0),
        ];
        for (text, milliseconds) in table {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_duration_is_refused() {
        let table = [
            "",
            "s",
            "30x",
            "30 s",
            "-5s",
            "-5",
            "30s1m",
            "1s1s",
            "1..5s",
            "1.2.3s",
            "inf",
            "NaN",
            "1e400",
            "99999999999999999999s",
            "999999999d",
            "5 minutes",
            "1S",
        ];
        for text in table {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_read_in_every_spelling() {
        let table = [
            ("64KiB", 65_536),
            ("64 KiB", 65_536),
            ("8MB", 8_000_000),
            ("1.5MiB", 1_572_864),
            ("65536", 65_536),
            ("0", 0),
            ("10b", 10),
            ("1gib", 1 << 30),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_size_is_refused() {
        for text in ["", "KiB", "64Kib B", "-1", "1.5", "0.3KiB", "64K", "18446744073709551616"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for milliseconds in [0, 1, 999, 1_000, 90_000, 3_600_000, 90_061_001] {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(parse_duration(&duration_text(duration)), Some(duration));
        }
        for bytes in [0, 1, 1_000, 1_024, 65_536, 1 << 30, (1 << 30) + 1, u64::MAX] {
            assert_eq!(parse_bytes(&bytes_text(bytes)), Some(bytes));
        }
    }
}
