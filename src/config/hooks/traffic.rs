//! Hooks that choose where a request goes: splits, mirrors, further attempts.
//!
//! In: TOML, JSON and texts, by way of serde. Out: the tables of these hooks, a struct each, and
//! the kinds of their values. Upstreams are known by their names here, and by index to the program.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value as Json, json};

use super::access::{ClientKey, client_key};
use crate::config::kinds::plain::{Count, Size, Time, Whole, real};
use crate::config::kinds::{
    As, AtLeastOne, Given, Kind, Members, Optional, Pair, Wrong, millis, number, scalar_kind,
    text_kind,
};
use crate::config::scope::{UpstreamName, index_of, name_of};

const STICKY_FORM: &str = "\"ip\", \"cookie:NAME\" or \"header:NAME\"";
const RETRY_FORM: &str = "\"connect\", \"reset\", \"timeout\" or \"5xx\"";
const PERCENT_FORM: &str = "a number from 0.01 to 100";

/// From a second to a year.
type Cohort = Time<1000, { 365 * 86_400_000 }>;

text_kind!(
    StickyKey: ClientKey,
    |text| match client_key(text) {
        None | Some(ClientKey::Route) => Err(STICKY_FORM.to_owned()),
        Some(key) => Ok(key),
    },
    ToString::to_string
);

/// Several upstreams in place of one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitConfig {
    /// Upstreams and their shares, such as { stable = 90, canary = 10 }. 0 to 1000000 each.
    // Indexes in `Config::upstreams` and weights of at least 1; at least one arm.
    #[serde(rename = "weights", with = "Members::<Weight>")]
    pub arms: Vec<(usize, u32)>,
    /// What keeps a client with its upstream: "ip", "cookie:NAME" or "header:NAME".
    // `None` draws anew for every request.
    #[serde(default, with = "Optional::<StickyKey>", skip_serializing_if = "Option::is_none")]
    pub sticky: Option<ClientKey>,
    /// How long a client keeps the cookie of `sticky`. 1s to 365d.
    #[serde(default = "millis::<2_592_000_000>", with = "Cohort")]
    pub max_age: Duration,
}

type Turns = Whole<u32, 0, 1_000_000>;

/// An upstream and its weight.
struct Weight;

impl Pair for Weight {
    type Value = (usize, u32);

    const EXPECTED: &'static str = Turns::EXPECTED;
    const ONE: &'static str = "key `weights`, such as { a = 90, b = 10 }";

    fn schema() -> Json {
        Turns::schema()
    }

    fn take(key: &str, given: Given<'_>, _: &[(usize, u32)]) -> Result<(usize, u32), Wrong> {
        Ok((index_of(key)?, Turns::take(given)?))
    }

    fn spell((upstream, weight): &(usize, u32)) -> (String, Json) {
        (name_of(*upstream), (*weight).into())
    }
}

/// Copies of requests for another upstream, whose answers nobody reads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MirrorConfig {
    /// The name of the upstream that gets them.
    // Index in `Config::upstreams`.
    #[serde(with = "As::<UpstreamName>")]
    pub upstream: usize,
    /// Of how many requests. 0.01 to 100.
    // In hundredths of a percent: 10,000 is all of them.
    #[serde(rename = "percent", default = "number::<u32, 10_000>", with = "As::<Percent>")]
    pub share: u32,
    /// Requests with a larger body are not mirrored. 0 to 1MiB.
    #[serde(default = "number::<u64, 65_536>", with = "Size::<u64, 0, 1_048_576>")]
    pub body_bytes: u64,
}

scalar_kind!(
    /// Hundredths of a percent.
    Percent: u32, PERCENT_FORM, json!({ "type": "number", "minimum": 0.01, "maximum": 100 }),
    |given| {
        let percent = real(given, 0.01, 100.0, PERCENT_FORM)?;
        Ok((percent * 100.0).round() as u32)
    },
    |value| (f64::from(*value) / 100.0).into()
);

/// Further attempts for requests that failed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Further ones, after the first. 1 to 10.
    #[serde(with = "Count::<u32, 1, 10>")]
    pub attempts: u32,
    /// What is worth another: "connect", "reset", "timeout", "5xx".
    #[serde(with = "As::<RetryWords>")]
    pub on: RetryOn,
    /// Of the requests of the route. 1 to 100.
    #[serde(with = "Count::<u32, 1, 100>")]
    pub budget_percent: u32,
}

impl Default for RetryConfig {
    fn default() -> Self {
        let on = RetryOn { connect: true, reset: true, ..RetryOn::default() };
        Self { attempts: 2, on, budget_percent: 20 }
    }
}

/// What is worth another attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a set of four words")]
pub struct RetryOn {
    /// The origin could not be reached.
    pub connect: bool,
    /// The connection ended before an answer began.
    pub reset: bool,
    /// No answer began in time.
    pub timeout: bool,
    /// 502, 503 or 504.
    pub unavailable: bool,
}

const RETRY_WORDS: [&str; 4] = ["connect", "reset", "timeout", "5xx"];

/// One of them.
struct RetryWord;

impl Kind for RetryWord {
    type Value = &'static str;

    const ONE: &'static str = "what is worth another attempt";

    fn schema() -> Json {
        json!({ "type": "string", "enum": RETRY_WORDS })
    }

    fn take(given: Given<'_>) -> Result<&'static str, Wrong> {
        let text = given.text()?;
        let word = RETRY_WORDS.into_iter().find(|word| *word == text);
        word.ok_or_else(|| given.unlike(RETRY_FORM))
    }

    fn spell(value: &&'static str) -> Json {
        (*value).into()
    }
}

/// A set of them.
struct RetryWords;

impl Kind for RetryWords {
    type Value = RetryOn;

    fn schema() -> Json {
        AtLeastOne::<RetryWord>::schema()
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<RetryOn, D::Error> {
        let words = AtLeastOne::<RetryWord>::read(from)?;
        let [connect, reset, timeout, unavailable] = RETRY_WORDS.map(|word| words.contains(&word));
        Ok(RetryOn { connect, reset, timeout, unavailable })
    }

    fn spell(RetryOn { connect, reset, timeout, unavailable }: &RetryOn) -> Json {
        let words = RETRY_WORDS.into_iter().zip([connect, reset, timeout, unavailable]);
        words.filter(|(_, is_on)| **is_on).map(|(word, _)| word).collect::<Vec<_>>().into()
    }
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
