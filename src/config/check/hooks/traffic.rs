//! Hooks that choose where a request goes: splits, mirrors, further attempts.
//!
//! In: those tables as they were written, and the upstreams. Out: as they hold, or the first
//! refusal.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::Checked;
use super::super::values::{duration, number, size};
use super::{each, unknown_upstream, upstream};
use crate::config::error::Problem;
use crate::config::hooks::raw::{RawMirror, RawRetry, RawSplit};
use crate::config::raw::{Given, Table};
use crate::config::{ClientKey, MirrorConfig, RetryConfig, RetryOn, SplitConfig, UpstreamConfig};

const STICKY_FORM: &str = "\"ip\", \"cookie:NAME\" or \"header:NAME\"";
const RETRY_FORM: &str = "\"connect\", \"reset\", \"timeout\" or \"5xx\"";
const PERCENT_FORM: &str = "a number from 0.01 to 100";

const YEAR: Duration = Duration::from_secs(365 * 86_400);
const COHORT: RangeInclusive<Duration> = Duration::from_secs(1)..=YEAR;

pub(super) fn split(
    given: &Given<Table<RawSplit>>,
    upstreams: &[UpstreamConfig],
) -> Checked<SplitConfig> {
    let raw = &given.value;
    let Some(weights) = raw.weights.as_ref().filter(|weights| !weights.value.is_empty()) else {
        let what = "key `weights`, such as { a = 90, b = 10 }";
        return Err(given.refuse_for(Problem::Missing { what }));
    };
    let mut arms = Vec::with_capacity(weights.value.len());
    for (name, weight) in &weights.value {
        let index = upstreams.iter().position(|upstream| upstream.name == *name);
        let index = index.ok_or_else(|| unknown_upstream(weight, name, upstreams))?;
        arms.push((index, number(Some(weight), 0..=1_000_000, 0)?));
    }
    // An upstream that is out for now keeps its line in the file.
    arms.retain(|(_, weight)| *weight > 0);
    if arms.is_empty() {
        return Err(weights.refuse_for(Problem::Missing { what: "a weight above 0" }));
    }
    let sticky = raw.sticky.as_ref();
    Ok(SplitConfig {
        arms,
        sticky: sticky
            .map(|given| match super::access::client_key(&given.value) {
                None | Some(ClientKey::Route) => Err(given.refuse(STICKY_FORM)),
                Some(key) => Ok(key),
            })
            .transpose()?,
        max_age: duration(raw.max_age.as_ref(), COHORT, Duration::from_secs(30 * 86_400))?,
    })
}

pub(super) fn mirror(
    given: &Given<Table<RawMirror>>,
    upstreams: &[UpstreamConfig],
) -> Checked<MirrorConfig> {
    let raw = &given.value;
    let Some(name) = &raw.upstream else {
        return Err(given.refuse_for(Problem::Missing { what: "key `upstream`" }));
    };
    Ok(MirrorConfig {
        upstream: upstream(name, upstreams)?,
        share: match &raw.percent {
            None => 10_000,
            Some(given) if (0.01..=100.0).contains(&given.value) => {
                (given.value * 100.0).round() as u32
            }
            Some(given) => return Err(given.refuse(PERCENT_FORM)),
        },
        body_bytes: size(raw.body_bytes.as_ref(), 0..=1 << 20, 64 << 10)?,
    })
}

pub(super) fn retry(raw: &RawRetry) -> Checked<RetryConfig> {
    let mut on = RetryOn::default();
    for word in each(raw.on.as_ref(), |given| Ok(given.clone()))? {
        match word.value.as_str() {
            "connect" => on.connect = true,
            "reset" => on.reset = true,
            "timeout" => on.timeout = true,
            "5xx" => on.unavailable = true,
            _ => return Err(word.refuse(RETRY_FORM)),
        }
    }
    if let Some(given) = raw.on.as_ref().filter(|given| given.value.is_empty()) {
        return Err(given.refuse_for(Problem::Missing { what: "what is worth another attempt" }));
    }
    if raw.on.is_none() {
        on = RetryOn { connect: true, reset: true, ..on };
    }
    Ok(RetryConfig {
        attempts: number(raw.attempts.as_ref(), 1..=10, 2)?,
        on,
        budget_percent: number(raw.budget_percent.as_ref(), 1..=100, 20)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{all_refused, parse};

    const TWO: &str = "[[upstream]]\nname = \"a\"\nbuiltin = \"demo\"\n\
                       [[upstream]]\nname = \"b\"\nbuiltin = \"demo\"\n";

    #[test]
    fn a_split_names_upstreams_and_weights() {
        let text = format!(
            "{TWO}[hooks]\nsplit = {{ weights = {{ a = 90, b = 0 }}, sticky = \"cookie:c\" }}\n\
             mirror = {{ upstream = \"b\", percent = 0.5 }}\nretry = {{ on = [\"5xx\"] }}"
        );
        let hooks = parse(&text).unwrap().hooks.unwrap();
        let split = hooks.split.unwrap();
        assert_eq!(split.arms, [(0, 90)]);
        assert_eq!(split.sticky, Some(ClientKey::Cookie("c".to_owned())));
        let mirror = hooks.mirror.unwrap();
        assert_eq!((mirror.upstream, mirror.share), (1, 50));
        let retry = hooks.retry.unwrap();
        assert_eq!(retry.on, RetryOn { unavailable: true, ..RetryOn::default() });
        assert_eq!((retry.attempts, retry.budget_percent), (2, 20));
    }

    #[test]
    fn a_split_or_mirror_to_nowhere_is_refused() {
        let with = |keys: &str| format!("{TWO}[hooks]\n{keys}");
        all_refused(&[
            (&with("split = {}"), "8:9: hooks.split: missing key `weights`"),
            (
                &with("split = { weights = { c = 1 } }"),
                "8:27: hooks.split.weights.c: there is no upstream \"c\"",
            ),
            (
                &with("split = { weights = { a = 0 } }"),
                "8:21: hooks.split.weights: missing a weight",
            ),
            (&with("split = { weights = { a = -1 } }"), "8:27: hooks.split.weights.a: found -1"),
            (
                &with("split = { weights = { a = 1 }, sticky = \"route\" }"),
                "8:41: hooks.split.sticky: found \"route\", expected \"ip\", \"cookie:NAME\" or",
            ),
            (&with("mirror = {}"), "8:10: hooks.mirror: missing key `upstream`"),
            (
                &with("mirror = { upstream = \"b\", percent = 101 }"),
                "8:38: hooks.mirror.percent: found 101, expected a number from 0.01 to 100",
            ),
            (
                &with("mirror = { upstream = \"b\", body_bytes = \"2MiB\" }"),
                "8:41: hooks.mirror.body_bytes: found 2MiB, expected a size from 0B to 1MiB",
            ),
            (&with("retry = { attempts = 11 }"), "8:22: hooks.retry.attempts: found 11, expected"),
            (&with("retry = { on = [] }"), "8:16: hooks.retry.on: missing what is worth"),
            (
                &with("retry = { on = [\"4xx\"] }"),
                "8:17: hooks.retry.on[0]: found \"4xx\", expecte",
            ),
        ]);
    }
}
