//! TOML trees: one laid over another, key by key, and single values put into one.
//!
//! In: tables from a file, and values for one key each. Out: one table, in which the stronger of
//! two values stands with the place where it was given, and the way from a key to its place and
//! back. Nothing here knows a key: `Config` says which there are.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer};

use super::Config;
use super::error::Problem;

/// Tables are merged, everything else is replaced.
pub(super) fn lay<'t>(weaker: &mut DeTable<'t>, stronger: DeTable<'t>) {
    for (key, value) in stronger {
        let span = value.span();
        let below = weaker.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut);
        match (below, value.into_inner()) {
            (Some(DeValue::Table(below)), DeValue::Table(above)) => lay(below, above),
            (_, value) => {
                // `insert` would keep the weaker key, and with it the wrong place.
                weaker.remove(key.get_ref().as_ref());
                weaker.insert(key, Spanned::new(span, value));
            }
        }
    }
}

/// Puts `value` under `path`, below tables and lists that are made up where there are none. A
/// number in the path counts in a list; the one after the last item adds an item.
pub(super) fn put<'t>(
    table: &mut DeTable<'t>,
    path: &[String],
    value: Spanned<DeValue<'t>>,
) -> Result<(), Problem> {
    let Some((key, rest)) = path.split_first() else { return Ok(()) };
    let owned = Spanned::new(value.span(), Cow::Owned(key.clone()));
    if rest.is_empty() {
        let mut single = DeTable::new();
        single.insert(owned, value);
        lay(table, single);
        return Ok(());
    }
    if !table.contains_key(key.as_str()) {
        table.insert(owned, Spanned::new(value.span(), room_for(rest)));
    }
    match table.get_mut(key.as_str()) {
        Some(below) => put_into(below.get_mut(), key, rest, value),
        None => Ok(()),
    }
}

/// `name` is what `below` is called, for error texts.
fn put_into<'t>(
    below: &mut DeValue<'t>,
    name: &str,
    path: &[String],
    value: Spanned<DeValue<'t>>,
) -> Result<(), Problem> {
    let array = match below {
        DeValue::Table(table) => return put(table, path, value),
        DeValue::Array(array) => array,
        _ => return Err(Problem::Said(format!("`{name}` has no keys below it"))),
    };
    let Some((key, rest)) = path.split_first() else { return Ok(()) };
    let Ok(index) = key.parse::<usize>() else {
        let what = format!("`{name}` is a list: `{name}.0` is its first item");
        return Err(Problem::Said(what));
    };
    let count = array.len();
    if index == count {
        array.push(Spanned::new(value.span(), room_for(rest)));
    }
    let Some(item) = array.get_mut(index) else {
        let what = format!("the next item of `{name}` is `{name}.{count}`");
        return Err(Problem::Said(what));
    };
    if rest.is_empty() {
        *item = value;
        return Ok(());
    }
    put_into(item.get_mut(), &format!("{name}.{key}"), rest, value)
}

/// What `path` leads into.
fn room_for<'t>(path: &[String]) -> DeValue<'t> {
    match path.first() {
        Some(key) if is_index(key) => DeValue::Array(DeArray::new()),
        _ => DeValue::Table(DeTable::new()),
    }
}

fn is_index(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit())
}

/// The value that a text stands for, all of it given at `span`. It is TOML where the key takes
/// what that means, else the text itself, else a list with commas.
pub(super) fn guess<'t>(
    path: &[String],
    text: &'t str,
    span: &Range<usize>,
) -> Result<DeValue<'t>, Problem> {
    let toml = DeValue::parse(text);
    // A broken table or list is not shown as the text that it is not: it may hold a secret.
    let broken = match &toml {
        Err(error) if text.starts_with(['[', '{']) => Some(Problem::of_parser(error.message())),
        _ => None,
    };
    let mut readings = Vec::new();
    readings.extend(toml);
    // "30.0" is a whole number too, for those who write all numbers alike.
    let whole = text.split_once('.').filter(|(_, zeros)| zeros.bytes().all(|digit| digit == b'0'));
    readings.extend(whole.and_then(|(whole, _)| DeValue::parse(whole).ok()));
    readings.push(Spanned::new(span.clone(), string(text)));
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let items = items.map(|item| Spanned::new(span.clone(), string(item)));
    readings.push(Spanned::new(span.clone(), DeValue::Array(items.collect())));
    let position = readings.iter().position(|reading| is_taken(path, reading.get_ref()));
    let index = match (position, broken) {
        (None, Some(problem)) => return Err(problem),
        (position, _) => position.unwrap_or(0),
    };
    Ok(moved(readings.swap_remove(index).into_inner(), span))
}

pub(super) fn string(text: &str) -> DeValue<'_> {
    DeValue::String(Cow::Borrowed(text))
}

/// Whether the key under `path` takes a value of this type. What it may be is not looked at.
fn is_taken(path: &[String], value: &DeValue<'_>) -> bool {
    match probe(path, value.clone()) {
        Ok(_) => true,
        Err(Problem::Said(message)) => !message.starts_with("invalid type"),
        Err(_) => false,
    }
}

/// A configuration of nothing but this value.
fn probe(path: &[String], value: DeValue<'_>) -> Result<Config, Problem> {
    let first = |key: &String| if is_index(key) { "0".to_owned() } else { key.clone() };
    let path: Vec<String> = path.iter().map(first).collect();
    let mut table = DeTable::new();
    put(&mut table, &path, Spanned::new(0..0, value))?;
    config(table).map_err(|error| Problem::of_parser(error.message()))
}

pub(super) fn config(table: DeTable<'_>) -> Result<Config, toml::de::Error> {
    Config::deserialize(Deserializer::from(Spanned::new(0..0, table)))
}

/// The same value, given at `span` with all that is in it.
pub(super) fn moved<'t>(value: DeValue<'t>, span: &Range<usize>) -> DeValue<'t> {
    let at =
        |value: Spanned<DeValue<'t>>| Spanned::new(span.clone(), moved(value.into_inner(), span));
    match value {
        DeValue::Array(array) => DeValue::Array(array.into_iter().map(at).collect()),
        DeValue::Table(table) => {
            let at_key = |key: Spanned<Cow<'t, str>>| Spanned::new(span.clone(), key.into_inner());
            DeValue::Table(table.into_iter().map(|(key, value)| (at_key(key), at(value))).collect())
        }
        single => single,
    }
}

/// The keys of the sections in `table` as paths such as `upstream.0.host`, each with the offset of
/// its value.
pub(super) fn leaves(table: &DeTable<'_>) -> Vec<(String, usize)> {
    let mut leaves = Vec::new();
    let mut keys = |parent: &str, table: &DeTable<'_>| {
        let leaf = |(key, value): (&Spanned<Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
            (format!("{parent}.{}", key.get_ref()), value.span().start)
        };
        leaves.extend(table.iter().map(leaf));
    };
    for (section, value) in table {
        match value.get_ref() {
            DeValue::Table(table) => keys(section.get_ref(), table),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let DeValue::Table(table) = item.get_ref() {
                        keys(&format!("{}.{index}", section.get_ref()), table);
                    }
                }
            }
            _ => {}
        }
    }
    leaves
}

/// The path to the innermost key or item that was given at `offset`, in which an index is a number,
/// and where each value on it begins. Empty where none was.
pub(super) fn path_to(table: &DeTable<'_>, offset: usize) -> (Vec<String>, Vec<usize>) {
    let (mut path, mut starts) = (Vec::new(), Vec::new());
    descend(table, offset, &mut path, &mut starts);
    (path, starts)
}

fn descend(table: &DeTable<'_>, offset: usize, path: &mut Vec<String>, starts: &mut Vec<usize>) {
    for (name, value) in table {
        let is_in_value = covers(value.get_ref(), &value.span(), offset);
        if is_in_value || name.span().contains(&offset) {
            path.push(name.get_ref().clone().into_owned());
            if is_in_value {
                descend_value(value, offset, path, starts);
            }
            return;
        }
    }
}

fn descend_value(
    value: &Spanned<DeValue<'_>>,
    offset: usize,
    path: &mut Vec<String>,
    starts: &mut Vec<usize>,
) {
    starts.push(value.span().start);
    match value.get_ref() {
        DeValue::Table(table) => descend(table, offset, path, starts),
        DeValue::Array(array) => {
            let position =
                array.iter().position(|item| covers(item.get_ref(), &item.span(), offset));
            if let Some(index) = position {
                path.push(index.to_string());
                descend_value(&array[index], offset, path, starts);
            }
        }
        _ => {}
    }
}

/// The span of a `[table]` is its header only, so what lies under it has to be asked as well. An
/// empty value has an empty span.
fn covers(value: &DeValue<'_>, span: &Range<usize>, offset: usize) -> bool {
    if span.contains(&offset) || span.start == offset {
        return true;
    }
    match value {
        DeValue::Table(table) => table.iter().any(|(name, value)| {
            name.span().contains(&offset) || covers(value.get_ref(), &value.span(), offset)
        }),
        DeValue::Array(array) => {
            array.iter().any(|item| covers(item.get_ref(), &item.span(), offset))
        }
        _ => false,
    }
}

/// The values along a path, as far as there are any.
pub(super) fn along<'v, 't>(
    table: &'v DeTable<'t>,
    path: &[String],
) -> Vec<&'v Spanned<DeValue<'t>>> {
    let mut values: Vec<&Spanned<DeValue<'_>>> = Vec::with_capacity(path.len());
    for part in path {
        let next = match values.last().map(|value| value.get_ref()) {
            None => table.get(part.as_str()),
            Some(DeValue::Table(table)) => table.get(part.as_str()),
            Some(DeValue::Array(array)) => part.parse().ok().and_then(|at: usize| array.get(at)),
            Some(_) => None,
        };
        let Some(next) = next else { break };
        values.push(next);
    }
    values
}

/// As error texts show a path: `upstream[1].origins[0].weight`.
pub(super) fn shown(table: &DeTable<'_>, path: &[String]) -> String {
    let values = along(table, path);
    let mut text = String::new();
    for (depth, part) in path.iter().enumerate() {
        let parent = depth.checked_sub(1).and_then(|parent| values.get(parent));
        match parent {
            None => text.push_str(part),
            Some(parent) if parent.get_ref().is_array() => text.extend(["[", part, "]"]),
            Some(_) => text.extend([".", part]),
        }
    }
    text
}

/// Takes away what stands at the end of a path. A list that becomes empty so goes with it: it was
/// not meant to be.
pub(super) fn remove(table: &mut DeTable<'_>, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    let below = table.get_mut(first.as_str()).map(Spanned::get_mut);
    if rest.is_empty() || below.is_some_and(|value| remove_from(value, rest)) {
        table.remove(first.as_str());
    }
}

/// Whether it is a list that has become empty.
fn remove_from(value: &mut DeValue<'_>, path: &[String]) -> bool {
    let array = match (value, path) {
        (DeValue::Table(table), path) => {
            remove(table, path);
            return false;
        }
        (DeValue::Array(array), _) => array,
        _ => return false,
    };
    let Some((first, rest)) = path.split_first() else { return false };
    let Ok(index) = first.parse::<usize>() else { return false };
    let below = array.get_mut(index).map(Spanned::get_mut);
    if rest.is_empty() || below.is_some_and(|value| remove_from(value, rest)) {
        let kept = std::mem::replace(array, DeArray::new()).into_iter().enumerate();
        *array = kept.filter(|(at, _)| *at != index).map(|(_, item)| item).collect();
    }
    array.is_empty()
}

/// The refusal of a key that cannot be names those that can.
pub(super) fn keys_below(path: &[String]) -> Vec<String> {
    match probe(&[path, &[String::new()]].concat(), DeValue::Boolean(true)) {
        Err(Problem::UnknownKey { known, .. }) => known,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(str::to_owned).collect()
    }

    fn table(text: &str) -> DeTable<'_> {
        DeTable::parse(text).unwrap().into_inner()
    }

    /// A tree without its places.
    fn plain(table: DeTable<'_>) -> toml::Table {
        toml::Table::deserialize(Deserializer::from(Spanned::new(0..0, table))).unwrap()
    }

    #[test]
    fn a_table_is_laid_over_another_key_by_key() {
        let mut below = table("a.x = 1\na.y = 2\nb = [1, 2]\nc = 1\nd = {}");
        lay(&mut below, table("a.y = 3\na.z = 4\nb = [9]\nc = {}\nd = 1\ne = 5"));
        let expected = "a = { x = 1, y = 3, z = 4 }\nb = [9]\nc = {}\nd = 1\ne = 5";
        assert_eq!(plain(below), toml::from_str(expected).unwrap());
    }

    #[test]
    fn a_value_keeps_the_place_where_it_was_given() {
        let mut below = table("a.x = 1");
        put(&mut below, &path("a.x"), Spanned::new(70..71, DeValue::Boolean(true))).unwrap();
        let a = below.get("a").unwrap().get_ref().as_table().unwrap();
        let (key, value) = a.get_key_value("x").unwrap();
        assert_eq!((key.span(), value.span()), (70..71, 70..71));
    }

    #[test]
    fn a_path_leads_through_tables_and_lists() {
        let table_of = |text| -> toml::Table { toml::from_str(text).unwrap() };
        for (before, at, after) in [
            ("", "a.b", "a.b = true"),
            ("", "a", "a = true"),
            ("a.b = 1\na.c = 2", "a.b", "a.b = true\na.c = 2"),
            ("", "a.0.b", "a = [{ b = true }]"),
            ("a = [{ b = 1, c = 2 }]", "a.0.b", "a = [{ b = true, c = 2 }]"),
            ("a = [{ b = 1 }]", "a.1.b", "a = [{ b = 1 }, { b = true }]"),
            ("a = [1, 2]", "a.1", "a = [1, true]"),
            ("a = [1, 2]", "a.2", "a = [1, 2, true]"),
            ("", "a.0.0", "a = [[true]]"),
        ] {
            let mut tree = table(before);
            put(&mut tree, &path(at), Spanned::new(0..0, DeValue::Boolean(true))).unwrap();
            assert_eq!(plain(tree), table_of(after), "{before} and {at}");
        }
    }

    #[test]
    fn a_path_that_leads_nowhere_is_refused() {
        for (before, at, expected) in [
            ("a = 1", "a.b", "`a` has no keys below it"),
            ("a = [1]", "a.0.b", "`a.0` has no keys below it"),
            ("a = [{}]", "a.2.b", "the next item of `a` is `a.1`"),
            ("", "a.1", "the next item of `a` is `a.0`"),
            ("a = [{}]", "a.b", "`a` is a list: `a.0` is its first item"),
            ("a = [{}]", "a.99999999999999999999", "`a` is a list: `a.0` is its first item"),
        ] {
            let mut tree = table(before);
            let value = Spanned::new(0..0, DeValue::Boolean(true));
            let problem = put(&mut tree, &path(at), value).unwrap_err();
            assert_eq!(problem.to_string(), expected, "{before} and {at}");
        }
    }

    #[test]
    fn a_text_is_read_as_its_key_needs_it() {
        let table: [(&str, &str, &str); 21] = [
            ("server.port", "80", "80"),
            ("server.port", "80.0", "80"),
            ("server.port", "80.5", "\"80.5\""),
            ("server.port", "x", "\"x\""),
            ("timeouts.read", "30", "30"),
            ("timeouts.read", "30.0", "30.0"),
            ("timeouts.read", "1m30s", "\"1m30s\""),
            ("forward.enabled", "true", "true"),
            ("forward.enabled", "yes", "\"yes\""),
            ("admin.token", "0123456789012345", "\"0123456789012345\""),
            ("admin.token", "1234567890123456", "\"1234567890123456\""),
            ("admin.token", "\"a b\"", "\"a b\""),
            ("log.file", "true", "\"true\""),
            ("server.listen", "[::]:80, [::1]:81,", "[\"[::]:80\", \"[::1]:81\"]"),
            ("server.listen", "[\"[::]:80\"]", "[\"[::]:80\"]"),
            ("forward.connect_ports", "443", "[\"443\"]"),
            ("forward.connect_ports", "443,8000-8999", "[\"443\", \"8000-8999\"]"),
            ("forward.allow_clients", "[]", "[]"),
            ("upstream.7.origins", "http://a,http://b", "[\"http://a\", \"http://b\"]"),
            ("upstream", "[{ name = \"a\" }]", "[{ name = \"a\" }]"),
            ("no.such_key", "5", "5"),
        ];
        for (key, text, expected) in table {
            let mut tree = DeTable::new();
            let value = guess(&path(key), text, &(7..8)).unwrap();
            tree.insert(Spanned::new(0..0, "x".into()), Spanned::new(0..0, value));
            let expected: toml::Table = toml::from_str(&format!("x = {expected}")).unwrap();
            assert_eq!(plain(tree), expected, "{key} = {text}");
        }
    }

    #[test]
    fn a_broken_table_is_told_from_a_text() {
        for (key, text) in
            [("admin", "{ token = 'hunter2'"), ("parent", "[{ credentials = 'a:b' ]")]
        {
            let message = guess(&path(key), text, &(7..8)).unwrap_err().to_string();
            assert!(!message.contains("hunter2") && !message.contains("a:b"), "{message}");
        }
        let address = guess(&path("server.host"), "[::1]", &(7..8)).unwrap();
        assert_eq!(address.as_str(), Some("[::1]"));
    }
}
