//! Hooks that choose where a request goes: splits, mirrors, further attempts.
//!
//! In: TOML, JSON and texts, by way of serde. Out: the tables of these hooks, a struct each, and
//! the kinds of their values. Upstreams are known by their names here, and by index to the program.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value as Json, json};

use super::access::{ClientKey, client_key};
use crate::config::kinds::plain::{Count, Size, Span, Time, Whole, real};
use crate::config::kinds::{
    As, AtLeastOne, Given, Kind, Members, Optional, Pair, Wrong, millis, number, scalar_kind,
    text_kind,
};
use crate::config::scope::{UpstreamName, index_of, name_of};
use crate::http::grpc;

const STICKY_FORM: &str = "\"ip\", \"cookie:NAME\" or \"header:NAME\"";
const RETRY_FORM: &str = "\"connect\", \"reset\", \"timeout\", \"5xx\", \"429\", a status from \
    \"500\" to \"599\", \"grpc-unavailable\", \"grpc-resource-exhausted\", \
    \"grpc-deadline-exceeded\", \"grpc-cancelled\" or \"grpc-internal\"";
const HEDGE_FORM: &str = "\"p95\", true, false or a duration from 1ms to 1m";
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
    /// What is worth another: "connect", "reset", "timeout", "5xx" (502, 503 and 504), single
    /// statuses: "429" and "500" to "599", and, of calls of gRPC whose answer is a status alone,
    /// "grpc-unavailable", "grpc-resource-exhausted", "grpc-deadline-exceeded", "grpc-cancelled"
    /// and "grpc-internal", whatever the method.
    #[serde(with = "As::<RetryWords>")]
    pub on: RetryOn,
    /// Of the requests of the route. 1 to 100.
    #[serde(with = "Count::<u32, 1, 100>")]
    pub budget_percent: u32,
    /// Whether POST and PATCH are repeated too after they have been sent: their origin may then act
    /// upon them twice.
    pub non_idempotent: bool,
    /// When a GET, HEAD or OPTIONS without a body is sent to a second origin while the first is
    /// silent: after a time such as "50ms", or "p95" (or true), the time within which 95 of 100
    /// answers of late have begun.
    #[serde(with = "As::<HedgeAfter>")]
    pub hedge: Hedge,
    /// How many requests that may be, of those of the route. 1 to 100.
    #[serde(with = "Count::<u32, 1, 100>")]
    pub hedge_percent: u32,
}

impl Default for RetryConfig {
    fn default() -> Self {
        let on = RetryOn { connect: true, reset: true, ..RetryOn::default() };
        Self {
            attempts: 2,
            on,
            budget_percent: 20,
            non_idempotent: false,
            hedge: Hedge::Never,
            hedge_percent: 10,
        }
    }
}

/// When a request is sent to a second origin while the first is silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hedge {
    #[default]
    Never,
    /// After the 95th percentile of the recent times to the head of an answer.
    P95,
    After(Duration),
}

scalar_kind!(
    HedgeAfter: Hedge, HEDGE_FORM,
    json!({ "type": ["boolean", "string", "number"], "minimum": 0.001, "maximum": 60,
            "x-form": HEDGE_FORM }),
    |given| match given {
        Given::Truth(true) | Given::Text("p95") => Ok(Hedge::P95),
        Given::Truth(false) => Ok(Hedge::Never),
        given => match Span::<1, 60_000>::take(given) {
            Ok(time) => Ok(Hedge::After(time)),
            Err(_) => Err(given.unlike(HEDGE_FORM)),
        },
    },
    |value| match value {
        Hedge::Never => false.into(),
        Hedge::P95 => "p95".into(),
        Hedge::After(time) => Span::<1, 60_000>::spell(time),
    }
);

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
    /// These.
    pub statuses: StatusSet,
    /// These of gRPC.
    pub grpc: GrpcStatuses,
}

/// Some statuses of gRPC, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrpcStatuses(u32);

/// Those that say that the call may do better elsewhere.
const GRPC_WORDS: [(&str, u8); 5] = [
    ("grpc-unavailable", grpc::UNAVAILABLE),
    ("grpc-resource-exhausted", grpc::RESOURCE_EXHAUSTED),
    ("grpc-deadline-exceeded", grpc::DEADLINE_EXCEEDED),
    ("grpc-cancelled", grpc::CANCELLED),
    ("grpc-internal", grpc::INTERNAL),
];

impl GrpcStatuses {
    #[must_use]
    pub fn with(self, status: u8) -> Self {
        Self(self.0 | 1 << status)
    }

    pub fn has(self, status: u8) -> bool {
        status < 32 && self.0 & 1 << status != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Some of 429 and 500 to 599, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusSet(u128);

impl StatusSet {
    fn bit(status: u16) -> u128 {
        match status {
            500..=599 => 1 << (status - 500),
            429 => 1 << 100,
            _ => 0,
        }
    }

    #[must_use]
    pub fn with(self, status: u16) -> Self {
        Self(self.0 | Self::bit(status))
    }

    pub fn has(self, status: u16) -> bool {
        self.0 & Self::bit(status) != 0
    }

    fn iter(self) -> impl Iterator<Item = u16> {
        std::iter::once(429).chain(500..=599).filter(move |status| self.has(*status))
    }
}

const RETRY_WORDS: [&str; 4] = ["connect", "reset", "timeout", "5xx"];

/// One of them, or a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RetryReason {
    Word(&'static str),
    Status(u16),
    Grpc(u8),
}

struct RetryWord;

impl Kind for RetryWord {
    type Value = RetryReason;

    const ONE: &'static str = "what is worth another attempt";

    fn schema() -> Json {
        let grpc = GRPC_WORDS.map(|(word, _)| word).join("|");
        let pattern = format!("^(connect|reset|timeout|5xx|429|5[0-9][0-9]|{grpc})$");
        json!({ "type": ["string", "integer"], "pattern": pattern, "minimum": 429, "maximum": 599,
                "x-form": RETRY_FORM })
    }

    fn take(given: Given<'_>) -> Result<RetryReason, Wrong> {
        let status = match given {
            Given::Text(text) => {
                if let Some(word) = RETRY_WORDS.into_iter().find(|word| *word == text) {
                    return Ok(RetryReason::Word(word));
                }
                if let Some((_, status)) = GRPC_WORDS.into_iter().find(|(word, _)| *word == text) {
                    return Ok(RetryReason::Grpc(status));
                }
                text.parse().ok().filter(|_| text.len() == 3)
            }
            Given::Whole(status) => u16::try_from(status).ok(),
            Given::Real(_) | Given::Truth(_) => return Err(Wrong::Type),
        };
        let status = status.filter(|status| StatusSet::bit(*status) != 0);
        status.map(RetryReason::Status).ok_or_else(|| given.unlike(RETRY_FORM))
    }

    fn spell(value: &RetryReason) -> Json {
        match value {
            RetryReason::Word(word) => (*word).into(),
            RetryReason::Status(status) => status.to_string().into(),
            RetryReason::Grpc(status) => {
                let word = GRPC_WORDS.into_iter().find(|(_, known)| known == status);
                word.map_or("", |(word, _)| word).into()
            }
        }
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
        let reasons = AtLeastOne::<RetryWord>::read(from)?;
        let has = |word| reasons.contains(&RetryReason::Word(word));
        let [connect, reset, timeout, unavailable] = RETRY_WORDS.map(has);
        let statuses = reasons.iter().fold(StatusSet::default(), |set, reason| match reason {
            RetryReason::Status(status) => set.with(*status),
            RetryReason::Word(_) | RetryReason::Grpc(_) => set,
        });
        let grpc = reasons.iter().fold(GrpcStatuses::default(), |set, reason| match reason {
            RetryReason::Grpc(status) => set.with(*status),
            RetryReason::Word(_) | RetryReason::Status(_) => set,
        });
        Ok(RetryOn { connect, reset, timeout, unavailable, statuses, grpc })
    }

    fn spell(on: &RetryOn) -> Json {
        let RetryOn { connect, reset, timeout, unavailable, statuses, grpc } = *on;
        let words = RETRY_WORDS.into_iter().zip([connect, reset, timeout, unavailable]);
        let words = words.filter(|(_, is_on)| *is_on).map(|(word, _)| word.to_owned());
        let of_grpc = GRPC_WORDS.into_iter().filter(|(_, status)| grpc.has(*status));
        words
            .chain(statuses.iter().map(|status| status.to_string()))
            .chain(of_grpc.map(|(word, _)| word.to_owned()))
            .collect::<Vec<_>>()
            .into()
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
        assert_eq!((retry.non_idempotent, retry.hedge), (false, Hedge::Never));
    }

    #[test]
    fn single_statuses_and_the_time_of_a_second_attempt_are_read() {
        let retry = |keys: &str| {
            let text = format!("{TWO}[hooks]\nretry = {{ {keys} }}");
            parse(&text).unwrap().hooks.unwrap().retry.unwrap()
        };
        let on = retry("on = [\"reset\", \"503\", 429, \"599\"]").on;
        assert!(on.reset && !on.unavailable && !on.connect);
        assert_eq!(on.statuses.iter().collect::<Vec<_>>(), [429, 503, 599]);
        assert!(!on.statuses.has(500) && !on.statuses.has(200));
        let on = retry("on = [\"grpc-unavailable\", \"grpc-internal\"]").on;
        assert_eq!([14, 13, 8, 0, 99].map(|it| on.grpc.has(it)), [true, true, false, false, false]);
        assert!(!on.unavailable && !on.grpc.is_empty());
        assert_eq!(retry("hedge = true").hedge, Hedge::P95);
        assert_eq!(retry("hedge = \"p95\", hedge_percent = 5").hedge_percent, 5);
        assert_eq!(retry("hedge = false").hedge, Hedge::Never);
        assert_eq!(retry("hedge = \"50ms\"").hedge, Hedge::After(Duration::from_millis(50)));
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
            (&with("retry = { on = [\"404\"] }"), "8:17: hooks.retry.on[0]: found \"404\", expect"),
            (&with("retry = { on = [600] }"), "8:17: hooks.retry.on[0]: found 600, expected"),
            (
                &with("retry = { hedge = \"p99\" }"),
                "8:19: hooks.retry.hedge: found \"p99\", expected \"p95\", true, false or a",
            ),
            (&with("retry = { hedge = \"2m\" }"), "8:19: hooks.retry.hedge: found \"2m\", expe"),
            (
                &with("retry = { hedge_percent = 0 }"),
                "8:27: hooks.retry.hedge_percent: found 0, expected",
            ),
        ]);
    }
}
