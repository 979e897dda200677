//! What a route may ask of a request beside its host and its path.
//!
//! In: texts, and tables of a name and a value. Out: a pattern that compiles, and names as requests
//! have them. Whether a request fulfils a condition is for `routing` to say.

use serde_json::Value as Json;

use super::error::quoted;
use super::hooks::pattern;
use super::kinds::{Given, Pair, Wrong, text_kind};
use super::names::is_token;

text_kind!(
    /// A regular expression for paths.
    Pattern: String,
    |text| pattern(text).map(|_| text.to_owned()),
    Clone::clone
);

/// A field and its value.
pub(super) struct FieldIs;
/// A parameter of the query and its value.
pub(super) struct ParameterIs;
/// A cookie and its value.
pub(super) struct CookieIs;

type Condition = (String, String);

impl Pair for FieldIs {
    type Value = Condition;

    fn take(key: &str, given: Given<'_>, before: &[Condition]) -> Result<Condition, Wrong> {
        named(key, "a field name", is_token)?;
        once((key.to_ascii_lowercase(), given.text()?.trim().to_owned()), before)
    }

    fn spell((name, value): &Condition) -> (String, Json) {
        (name.clone(), value.as_str().into())
    }
}

impl Pair for ParameterIs {
    type Value = Condition;

    fn take(key: &str, given: Given<'_>, before: &[Condition]) -> Result<Condition, Wrong> {
        named(key, "the name of a parameter", |name| !name.is_empty())?;
        once((key.to_owned(), given.text()?.to_owned()), before)
    }

    fn spell((name, value): &Condition) -> (String, Json) {
        (name.clone(), value.as_str().into())
    }
}

impl Pair for CookieIs {
    type Value = Condition;

    fn take(key: &str, given: Given<'_>, before: &[Condition]) -> Result<Condition, Wrong> {
        named(key, "the name of a cookie", is_token)?;
        once((key.to_owned(), given.text()?.trim().to_owned()), before)
    }

    fn spell((name, value): &Condition) -> (String, Json) {
        (name.clone(), value.as_str().into())
    }
}

fn named(name: &str, expected: &str, is_right: fn(&str) -> bool) -> Result<(), Wrong> {
    if is_right(name) { Ok(()) } else { Err(Wrong::unlike(&quoted(name), expected)) }
}

/// TOML knows names in upper and lower case apart, HTTP does not.
fn once(condition: Condition, before: &[Condition]) -> Result<Condition, Wrong> {
    if before.iter().any(|(name, _)| *name == condition.0) {
        return Err(Wrong::Because(format!("{} is there twice", quoted(&condition.0))));
    }
    Ok(condition)
}
