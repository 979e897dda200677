//! One value at a time: is it in its range, is it one of the words?
//!
//! In: what was given for a key, or nothing, and the key's default. Out: the value that holds,
//! or a refusal that says what was found, where, and what was expected. No key is named here.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::Checked;
use crate::config::Networks;
use crate::config::error::{Problem, Refusal, quoted};
use crate::config::forward::Secret;
use crate::config::names::{LISTEN_FORM, NETWORK_FORM, parse_listen};
use crate::config::raw::{Given, Place};
use crate::config::rules::parse_network;
use crate::config::units::{Bytes, SHARE_FORM, Share, Span, Whole, bytes_text, duration_text};

pub(super) fn number<T>(
    given: Option<&Given<Whole>>,
    range: RangeInclusive<T>,
    default: T,
) -> Checked<T>
where
    T: TryFrom<i64> + PartialOrd + Display,
{
    let Some(given) = given else { return Ok(default) };
    if let Whole::Number(number) = given.value
        && let Ok(number) = T::try_from(number)
        && range.contains(&number)
    {
        return Ok(number);
    }
    Err(given.refuse(format!("a whole number from {} to {}", range.start(), range.end())))
}

pub(super) fn duration(
    given: Option<&Given<Span>>,
    range: RangeInclusive<Duration>,
    default: Duration,
) -> Checked<Duration> {
    match given {
        None => Ok(default),
        Some(given) if range.contains(&given.value.0) => Ok(given.value.0),
        Some(given) => Err(given.refuse(format!(
            "a duration from {} to {}",
            duration_text(*range.start()),
            duration_text(*range.end())
        ))),
    }
}

/// Zero means "off", so it is fine below the range too.
pub(super) fn duration_or_zero(
    given: Option<&Given<Span>>,
    range: RangeInclusive<Duration>,
    default: Duration,
) -> Checked<Duration> {
    match given {
        Some(given) if given.value.0.is_zero() => Ok(Duration::ZERO),
        Some(given) if !range.contains(&given.value.0) => Err(given.refuse(format!(
            "0, or a duration from {} to {}",
            duration_text(*range.start()),
            duration_text(*range.end())
        ))),
        _ => duration(given, range, default),
    }
}

pub(super) fn share(given: Option<&Given<Share>>, default: f64) -> Checked<f64> {
    match given {
        None => Ok(default),
        Some(given) if (0.0..=1.0).contains(&given.value.0) => Ok(given.value.0),
        Some(given) => Err(given.refuse(SHARE_FORM)),
    }
}

pub(super) fn size(
    given: Option<&Given<Bytes>>,
    range: RangeInclusive<u64>,
    default: u64,
) -> Checked<u64> {
    match given {
        None => Ok(default),
        Some(given) if range.contains(&given.value.0) => Ok(given.value.0),
        Some(given) => Err(given.refuse(format!(
            "a size from {} to {}",
            bytes_text(*range.start()),
            bytes_text(*range.end())
        ))),
    }
}

pub(super) fn word<T: Copy>(
    given: Option<&Given<String>>,
    words: &[(&str, T)],
    default: T,
) -> Checked<T> {
    let Some(given) = given else { return Ok(default) };
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == given.value) {
        return Ok(*meaning);
    }
    let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    Err(given.refuse(match known.as_slice() {
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
        [] => String::new(),
    }))
}

pub(super) fn flag(given: Option<&Given<bool>>, default: bool) -> bool {
    given.map_or(default, |given| given.value)
}

/// A text that is not empty.
pub(super) fn filled(given: Option<&Given<String>>) -> Option<&str> {
    given.map(|given| given.value.as_str()).filter(|text| !text.is_empty())
}

pub(super) fn networks(raw: &[Given<String>]) -> Checked<Networks> {
    let network = |given: &Given<String>| {
        parse_network(&given.value).ok_or_else(|| given.refuse(NETWORK_FORM))
    };
    raw.iter().map(network).collect::<Checked<Vec<_>>>().map(Networks)
}

pub(super) fn listen_address(given: &Given<String>) -> Checked<SocketAddr> {
    parse_listen(&given.value).ok_or_else(|| given.refuse(LISTEN_FORM))
}

/// Whether the kernel would refuse the second of two binds. IPv6 listeners are IPv6 only.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port()
        && a.port() != 0
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

pub(super) fn refusal(place: &Place, problem: Problem) -> Refusal {
    Refusal { place: place.clone(), problem }
}

impl<T> Given<T> {
    pub(super) fn refuse_for(&self, problem: Problem) -> Refusal {
        refusal(&self.place, problem)
    }
}

impl<T: Shown> Given<T> {
    pub(super) fn refuse(&self, expected: impl Into<String>) -> Refusal {
        self.refuse_for(Problem::Unexpected {
            found: self.value.shown(),
            expected: expected.into(),
        })
    }
}

/// A value as an error text shows it.
pub(in crate::config) trait Shown {
    fn shown(&self) -> String;
}

impl Shown for String {
    fn shown(&self) -> String {
        quoted(self)
    }
}

impl Shown for Whole {
    fn shown(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => quoted(text),
        }
    }
}

impl Shown for Share {
    fn shown(&self) -> String {
        self.0.to_string()
    }
}

impl Shown for f64 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for Secret {
    fn shown(&self) -> String {
        "***".to_owned()
    }
}

impl Shown for Span {
    fn shown(&self) -> String {
        duration_text(self.0)
    }
}

impl Shown for Bytes {
    fn shown(&self) -> String {
        bytes_text(self.0)
    }
}
