//! What a key takes, in words.
//!
//! In: the JSON Schema of a key, as its kind describes itself. Out: a phrase for people, such as "a
//! time, 1ms to 1d", and the keys within a key that takes a table. Nothing is known here of any
//! single key.

use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::effective::toml;
use super::units::{bytes_text, duration_text};

/// What has no upper bound has this one: TOML's integers end there.
const BYTES_MAX: u64 = i64::MAX as u64;

/// In Markdown.
pub(super) fn takes(schema: &Json) -> String {
    if let Some(form) = schema["x-form"].as_str() {
        return form.to_owned();
    }
    if let Some(values) = schema["enum"].as_array() {
        return alternatives(
            &values.iter().map(|value| format!("`{}`", toml(value))).collect::<Vec<_>>(),
        );
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        return alternatives(&choices.iter().map(takes).collect::<Vec<_>>());
    }
    if schema["maxLength"] == 0 {
        return "`\"\"`".to_owned();
    }
    let kinds = match &schema["type"] {
        Json::Array(kinds) => kinds.iter().filter_map(Json::as_str).collect(),
        kind => Vec::from_iter(kind.as_str()),
    };
    match kinds.as_slice() {
        ["boolean"] => "`true` or `false`".to_owned(),
        ["integer"] => range("", schema, ToString::to_string),
        ["number"] => range("a number, ", schema, ToString::to_string),
        ["string", "number"] => range("a time, ", schema, |seconds| {
            duration_text(Duration::from_secs_f64(seconds.as_f64().unwrap_or_default()))
        }),
        ["string", "integer"] => {
            range("a size, ", schema, |bytes| bytes_text(bytes.as_u64().unwrap_or_default()))
        }
        ["array"] => {
            let least = if schema["minItems"] == 1 { ", one at least" } else { "" };
            format!("a list{least}: {}", takes(&schema["items"]))
        }
        ["object"] => match &schema["additionalProperties"] {
            each @ Json::Object(_) => format!("a table: for each name {}", takes(each)),
            _ => "a table".to_owned(),
        },
        _ => "a text".to_owned(),
    }
}

fn alternatives(all: &[String]) -> String {
    match all {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        only => only.concat(),
    }
}

fn range(what: &str, schema: &Json, spell: impl Fn(&Json) -> String) -> String {
    let (min, max) = (&schema["minimum"], &schema["maximum"]);
    match (min.is_null(), max.is_null()) {
        (false, false) if max.as_u64() == Some(BYTES_MAX) => {
            format!("{what}{} or more", spell(min))
        }
        (false, false) => format!("{what}{} to {}", spell(min), spell(max)),
        _ => format!("{what}any"),
    }
}

/// The keys of the table that a key takes, or of the tables in its list, and which of them have to
/// be there.
pub(super) fn within(schema: &Json) -> Vec<(&String, &Json, bool)> {
    let of = |schema: &'_ Json| schema["properties"].as_object().is_some_and(|all| !all.is_empty());
    let choices = schema["anyOf"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut all = std::iter::once(schema).chain(choices);
    if let Some(table) = all.find(|schema| of(schema)) {
        static NONE: std::sync::LazyLock<Map<String, Json>> = std::sync::LazyLock::new(Map::new);
        let keys = table["properties"].as_object().unwrap_or(&NONE);
        let required = table["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_required = |key: &str| required.iter().any(|required| required == key);
        return keys.iter().map(|(key, own)| (key, own, is_required(key))).collect();
    }
    match schema.get("items") {
        Some(items) => within(items),
        None => Vec::new(),
    }
}
