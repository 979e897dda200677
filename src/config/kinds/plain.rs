//! Kinds of plain values: numbers, times, sizes, shares, words.
//!
//! In: a text or a number. Out: a value within the bounds that stand in the type, or the bounds in
//! words. No key is named here.

use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::{As, Given, Kind, Wrong, scalar_kind};
use crate::config::units::{
    BYTES_FORM, DURATION_FORM, SHARE_FORM, bytes_text, duration_text, parse_bytes, parse_duration,
};

/// A whole number from `MIN` to `MAX`.
pub(in crate::config) struct Whole<T, const MIN: i64, const MAX: i64>(PhantomData<T>);
/// A time from `MIN` to `MAX` milliseconds, or 0 where that is "off".
pub(in crate::config) struct Span<const MIN: u64, const MAX: u64, const OFF: bool = false>;
/// From `MIN` to `MAX` bytes.
pub(in crate::config) struct Bytes<T, const MIN: u64, const MAX: u64>(PhantomData<T>);
/// One of the words for `T`.
pub(in crate::config) struct OneOf<T>(PhantomData<T>);

pub(in crate::config) type Count<T, const MIN: i64, const MAX: i64> = As<Whole<T, MIN, MAX>>;
pub(in crate::config) type Time<const MIN: u64, const MAX: u64> = As<Span<MIN, MAX>>;
/// Deadlines tick every 100 ms at best, but a test may ask for less and get the next tick.
pub(in crate::config) type Timeout = Time<1, 86_400_000>;
pub(in crate::config) type TimeoutOrOff = As<Span<1, 86_400_000, true>>;
/// How often something is looked at.
pub(in crate::config) type Interval = Time<1000, 3_600_000>;
pub(in crate::config) type IntervalOrOff = As<Span<1000, 3_600_000, true>>;
pub(in crate::config) type UpToAnHour = Time<0, 3_600_000>;
pub(in crate::config) type Size<T, const MIN: u64, const MAX: u64> = As<Bytes<T, MIN, MAX>>;
pub(in crate::config) type Word<T> = As<OneOf<T>>;

impl<T, const MIN: i64, const MAX: i64> Kind for Whole<T, MIN, MAX>
where
    T: TryFrom<i64> + Serialize,
{
    type Value = T;

    const EXPECTED: &'static str = "a whole number";

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }

    fn take(given: Given<'_>) -> Result<T, Wrong> {
        let number = match given {
            Given::Whole(number) => (MIN..=MAX).contains(&number).then_some(number),
            Given::Text(_) => None,
            Given::Real(_) | Given::Truth(_) => return Err(Wrong::Type),
        };
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| given.unlike(format_args!("a whole number from {MIN} to {MAX}")))
    }

    fn spell(value: &T) -> Json {
        json!(value)
    }
}

/// Any duration.
pub(super) fn duration(given: Given<'_>) -> Result<Duration, Wrong> {
    let duration = match given {
        Given::Text(text) => parse_duration(text),
        Given::Whole(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
        Given::Real(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Given::Truth(_) => return Err(Wrong::Type),
    };
    duration.ok_or(Wrong::Meaningless)
}

pub(super) fn duration_spelled(duration: Duration) -> Json {
    // Below the smallest unit only a number says it.
    if duration.subsec_nanos().is_multiple_of(1000) {
        duration_text(duration).into()
    } else {
        duration.as_secs_f64().into()
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a year at most")]
pub(super) fn duration_schema(min_ms: u64, max_ms: u64) -> Json {
    let pattern = r"^\s*([0-9.]+|([0-9.]+(us|ms|s|m|h|d))+)\s*$";
    let (min, max) = (min_ms as f64 / 1000.0, max_ms as f64 / 1000.0);
    json!({ "type": ["string", "number"], "pattern": pattern, "minimum": min, "maximum": max })
}

impl<const MIN: u64, const MAX: u64, const OFF: bool> Kind for Span<MIN, MAX, OFF> {
    type Value = Duration;

    const EXPECTED: &'static str = DURATION_FORM;

    fn schema() -> Json {
        duration_schema(if OFF { 0 } else { MIN }, MAX)
    }

    fn take(given: Given<'_>) -> Result<Duration, Wrong> {
        let time = duration(given)?;
        let (min, max) = (Duration::from_millis(MIN), Duration::from_millis(MAX));
        if (min..=max).contains(&time) || OFF && time.is_zero() {
            return Ok(time);
        }
        let (or, min, max) =
            (if OFF { "0, or " } else { "" }, duration_text(min), duration_text(max));
        let expected = format_args!("{or}a duration from {min} to {max}");
        Err(Wrong::unlike(&duration_text(time), expected))
    }

    fn spell(value: &Duration) -> Json {
        duration_spelled(*value)
    }
}

fn bytes(given: Given<'_>) -> Result<u64, Wrong> {
    let bytes = match given {
        Given::Text(text) => parse_bytes(text),
        Given::Whole(bytes) => u64::try_from(bytes).ok(),
        Given::Real(_) | Given::Truth(_) => return Err(Wrong::Type),
    };
    bytes.ok_or(Wrong::Meaningless)
}

fn bytes_spelled(bytes: u64) -> Json {
    if bytes == 0 { json!(0) } else { bytes_text(bytes).into() }
}

fn bytes_schema(min: u64, max: u64) -> Json {
    let pattern = r"^\s*[0-9.]+\s*([KkMmGgTt]?[Ii]?[Bb])?\s*$";
    // TOML's integers end at i64.
    let max = max.min(i64::MAX as u64);
    json!({ "type": ["string", "integer"], "pattern": pattern, "minimum": min, "maximum": max })
}

impl<T, const MIN: u64, const MAX: u64> Kind for Bytes<T, MIN, MAX>
where
    T: TryFrom<u64> + Copy,
    u64: TryFrom<T>,
{
    type Value = T;

    const EXPECTED: &'static str = BYTES_FORM;

    fn schema() -> Json {
        bytes_schema(MIN, MAX)
    }

    fn take(given: Given<'_>) -> Result<T, Wrong> {
        let size = bytes(given)?;
        let fits = (MIN..=MAX).contains(&size).then(|| T::try_from(size).ok()).flatten();
        let expected = || format!("a size from {} to {}", bytes_text(MIN), bytes_text(MAX));
        fits.ok_or_else(|| Wrong::unlike(&bytes_text(size), expected()))
    }

    fn spell(value: &T) -> Json {
        bytes_spelled(u64::try_from(*value).unwrap_or(u64::MAX))
    }
}

scalar_kind!(
    /// Any number of bytes; 0 is as many as there are, and `u64::MAX` to the program.
    AnyBytes: u64, BYTES_FORM, bytes_schema(0, u64::MAX),
    |given| Ok(match bytes(given)? {
        0 => u64::MAX,
        size => size,
    }),
    |value| bytes_spelled(if *value == u64::MAX { 0 } else { *value })
);

scalar_kind!(
    /// A part of a whole, which is 1.
    Share: f64, SHARE_FORM, json!({ "type": "number", "minimum": 0, "maximum": 1 }),
    |given| real(given, 0.0, 1.0, SHARE_FORM),
    |value| (*value).into()
);

#[expect(clippy::cast_precision_loss, reason = "those in range are small")]
pub(in crate::config) fn real(
    given: Given<'_>,
    min: f64,
    max: f64,
    form: &str,
) -> Result<f64, Wrong> {
    let number = match given {
        Given::Whole(number) => number as f64,
        Given::Real(number) => number,
        Given::Text(_) | Given::Truth(_) => return Err(Wrong::Type),
    };
    (min..=max).contains(&number).then_some(number).ok_or_else(|| given.unlike(form))
}

/// What has a word for each of its values.
pub(in crate::config) trait Words: Copy + PartialEq + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Words> Kind for OneOf<T> {
    type Value = T;

    fn schema() -> Json {
        let words: Vec<_> = T::WORDS.iter().map(|(word, _)| *word).collect();
        json!({ "type": "string", "enum": words })
    }

    fn take(given: Given<'_>) -> Result<T, Wrong> {
        let text = given.text()?;
        if let Some((_, meaning)) = T::WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*meaning);
        }
        let known: Vec<String> = T::WORDS.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        Err(given.unlike(match known.as_slice() {
            [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
            only => only.concat(),
        }))
    }

    fn spell(value: &T) -> Json {
        let word = T::WORDS.iter().find(|(_, meaning)| meaning == value);
        word.map(|(word, _)| *word).into()
    }
}
