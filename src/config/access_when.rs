//! Which exchanges have a line in the access log: `status >= 500 or total > 1s`.
//!
//! In goes a sentence, and later the facts of exchanges; out comes whether it holds. Conditions
//! that are joined by `and` are one alternative, `or` is between those. To ask allocates nothing.

use std::fmt;
use std::str::FromStr;

use super::kinds::text_kind;
use super::units::{parse_bytes, parse_duration};

text_kind!(
    /// A sentence.
    When: AccessWhen = |text| text.parse().ok(), FORM
);

/// Alternatives, each of conditions that all have to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessWhen {
    text: String,
    any: Vec<Vec<Condition>>,
}

/// What is known of an exchange. Times are in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AccessFacts<'a> {
    pub method: &'a [u8],
    pub route: &'a str,
    pub upstream: &'a str,
    pub status: u64,
    pub retries: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub pool_us: u64,
    pub connect_us: u64,
    pub first_byte_us: u64,
    pub total_us: u64,
    pub is_error: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Compared(Field, Comparison, u64),
    /// Whether it is to be the same, and as what.
    Named(Name, bool, Box<str>),
    Always,
    Never,
    /// It went wrong.
    Error,
    /// One in so many.
    OneIn(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Method,
    Route,
    Upstream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Status,
    Retries,
    BytesIn,
    BytesOut,
    Pool,
    Connect,
    FirstByte,
    Total,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
    Unequal,
}

/// What is expected of such a sentence.
const FORM: &str = "conditions such as \"status >= 500 or total > 1s and bytes_out > 1MiB\": of \
     status, total, first_byte, connect, pool, bytes_in, bytes_out and retries, with <, <=, >, >=, \
     = and !=; of method, route and upstream, with = and !=; \"error\"; \"1 in 100\"; \"always\", \
     \"never\"";

impl FromStr for AccessWhen {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let alternatives = words.split(|word| *word == "or");
        let any = alternatives.map(|words| {
            words.split(|word| *word == "and").map(Condition::read).collect::<Option<Vec<_>>>()
        });
        let any = any.collect::<Option<Vec<_>>>().ok_or(())?;
        Ok(Self { text: words.join(" "), any })
    }
}

impl fmt::Display for AccessWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl AccessWhen {
    /// Whether the exchange has a line; it is the one with this number.
    pub(crate) fn holds(&self, facts: &AccessFacts<'_>, number: u64) -> bool {
        let holds = |condition: &Condition| condition.holds(facts, number);
        self.any.iter().any(|all| all.iter().all(holds))
    }
}

impl Condition {
    fn read(words: &[&str]) -> Option<Self> {
        match words {
            ["error"] => Some(Self::Error),
            ["always"] => Some(Self::Always),
            ["never"] => Some(Self::Never),
            ["1", "in", count] => count.parse().ok().filter(|count| *count > 0).map(Self::OneIn),
            [name, comparison @ ("=" | "==" | "!="), value] if Name::read(name).is_some() => {
                Some(Self::Named(Name::read(name)?, *comparison != "!=", (*value).into()))
            }
            [field, comparison, value] => {
                let field = Field::read(field)?;
                let comparison = match *comparison {
                    "<" => Comparison::Less,
                    "<=" => Comparison::AtMost,
                    ">" => Comparison::More,
                    ">=" => Comparison::AtLeast,
                    "=" | "==" => Comparison::Equal,
                    "!=" => Comparison::Unequal,
                    _ => return None,
                };
                Some(Self::Compared(field, comparison, field.value(value)?))
            }
            _ => None,
        }
    }

    fn holds(&self, facts: &AccessFacts<'_>, number: u64) -> bool {
        let (field, comparison, value) = match self {
            Self::Always => return true,
            Self::Never => return false,
            Self::Error => return facts.is_error,
            Self::OneIn(count) => return number.is_multiple_of(*count),
            Self::Named(name, is_same, value) => {
                return (name.of(facts) == value.as_bytes()) == *is_same;
            }
            Self::Compared(field, comparison, value) => (field, *comparison, *value),
        };
        let found = field.of(facts);
        match comparison {
            Comparison::Less => found < value,
            Comparison::AtMost => found <= value,
            Comparison::More => found > value,
            Comparison::AtLeast => found >= value,
            Comparison::Equal => found == value,
            Comparison::Unequal => found != value,
        }
    }
}

impl Name {
    fn read(text: &str) -> Option<Self> {
        Some(match text {
            "method" => Self::Method,
            "route" => Self::Route,
            "upstream" => Self::Upstream,
            _ => return None,
        })
    }

    fn of<'a>(self, facts: &AccessFacts<'a>) -> &'a [u8] {
        match self {
            Self::Method => facts.method,
            Self::Route => facts.route.as_bytes(),
            Self::Upstream => facts.upstream.as_bytes(),
        }
    }
}

impl Field {
    fn read(text: &str) -> Option<Self> {
        Some(match text {
            "status" => Self::Status,
            "retries" => Self::Retries,
            "bytes_in" => Self::BytesIn,
            "bytes_out" => Self::BytesOut,
            "pool" => Self::Pool,
            "connect" => Self::Connect,
            "first_byte" => Self::FirstByte,
            "total" => Self::Total,
            _ => return None,
        })
    }

    fn value(self, text: &str) -> Option<u64> {
        match self {
            Self::Status | Self::Retries => text.parse().ok(),
            Self::BytesIn | Self::BytesOut => parse_bytes(text),
            _ => parse_duration(text).map(|time| time.as_micros() as u64),
        }
    }

    fn of(self, facts: &AccessFacts<'_>) -> u64 {
        match self {
            Self::Status => facts.status,
            Self::Retries => facts.retries,
            Self::BytesIn => facts.bytes_in,
            Self::BytesOut => facts.bytes_out,
            Self::Pool => facts.pool_us,
            Self::Connect => facts.connect_us,
            Self::FirstByte => facts.first_byte_us,
            Self::Total => facts.total_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(text: &str, facts: AccessFacts<'_>) -> bool {
        text.parse::<AccessWhen>().unwrap().holds(&facts, 1)
    }

    #[test]
    fn one_alternative_is_enough_and_needs_all_of_its_conditions() {
        let text = "status >= 500 or total > 1s and bytes_out > 1KiB";
        let facts = |status, total_us, bytes_out| AccessFacts {
            status,
            bytes_out,
            total_us,
            ..AccessFacts::default()
        };
        for (found, expected) in [
            (facts(500, 0, 0), true),
            (facts(499, 0, 0), false),
            (facts(200, 1_000_001, 1025), true),
            (facts(200, 1_000_000, 1025), false),
            (facts(200, 2_000_000, 1024), false),
        ] {
            assert_eq!(holds(text, found), expected, "{found:?}");
        }
        assert!(holds("status != 200", facts(404, 0, 0)));
        assert!(!holds("error", facts(404, 0, 0)));
        assert!(holds("error", AccessFacts { is_error: true, ..AccessFacts::default() }));
    }

    #[test]
    fn names_are_compared_as_they_are() {
        let facts = AccessFacts {
            method: b"GET",
            route: "*/a",
            upstream: "app",
            retries: 2,
            ..AccessFacts::default()
        };
        for (text, expected) in [
            ("method = GET", true),
            ("method = get", false),
            ("method != HEAD and route = */a", true),
            ("upstream == app and retries > 1", true),
            ("upstream != app or retries >= 3", false),
            ("always", true),
            ("never or error", false),
        ] {
            assert_eq!(holds(text, facts), expected, "{text}");
        }
    }

    #[test]
    fn a_sample_is_one_in_so_many() {
        let when: AccessWhen = "1 in 4".parse().unwrap();
        let count = (0..100).filter(|number| when.holds(&AccessFacts::default(), *number)).count();
        assert_eq!(count, 25);
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for text in [
            "",
            "or",
            "status",
            "status >= x",
            "status => 500",
            "total > 5x",
            "error or",
            "2 in 3",
            "1 in 0",
            "method > GET",
            "method =",
            "never always",
            "latency > 1s",
            "status > 1 status > 2",
        ] {
            assert!(text.parse::<AccessWhen>().is_err(), "{text:?}");
        }
        assert_eq!(
            "  error  or 1 in 9".parse::<AccessWhen>().unwrap().to_string(),
            "error or 1 in 9"
        );
    }
}
