//! Kinds of values: what a key takes, as a type that reads, checks, spells and describes it.
//!
//! In: a value from any source, by way of serde. Out: the plain value that the program works with,
//! or what was found and expected, which serde brings back with its place. A field says its kind
//! in `#[serde(with = "Count::<u32, 1, 1024>")]`, and schemars reads the same attribute: so a range
//! stands once. Never a rule between two keys: those are in `check`.

pub(in crate::config) mod own;
pub(in crate::config) mod plain;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, Unexpected, Visitor,
};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value as Json, json};

use crate::config::error::quoted;

/// A scalar as it was written.
#[derive(Clone, Copy)]
pub(in crate::config) enum Given<'t> {
    Text(&'t str),
    Whole(i64),
    Real(f64),
    Truth(bool),
}

/// Why a value is not of its kind.
pub(in crate::config) enum Wrong {
    /// TOML of another type.
    Type,
    /// Of the right type, but it means nothing.
    Meaningless,
    Because(String),
}

/// What stands in a file for a `Value`.
pub(in crate::config) trait Kind {
    type Value;

    const EXPECTED: &'static str = "a string";
    /// What a list of these lacks that may not be empty.
    const ONE: &'static str = "an item: there must be one";

    /// JSON Schema, of the parts that draft 4 knows too.
    fn schema() -> Json {
        json!({ "type": "string" })
    }

    /// Of a single text or number. Lists and tables have a `read` of their own.
    fn take(_: Given<'_>) -> Result<Self::Value, Wrong> {
        Err(Wrong::Type)
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(ScalarVisitor { expected: Self::EXPECTED, take: Self::take })
    }

    fn spell(value: &Self::Value) -> Json;
}

/// The same for a key and a text or number, in a table of free keys.
pub(in crate::config) trait Pair {
    type Value;

    const EXPECTED: &'static str = "a string";
    /// What a table lacks that may not be empty. "": it may.
    const ONE: &'static str = "";

    fn schema() -> Json {
        json!({ "type": "string" })
    }

    fn take(key: &str, given: Given<'_>, before: &[Self::Value]) -> Result<Self::Value, Wrong>;

    fn spell(pair: &Self::Value) -> (String, Json);
}

/// What serde and schemars call for a field of kind `K`.
pub(in crate::config) struct As<K>(PhantomData<K>);

impl<K: Kind> As<K> {
    pub(in crate::config) fn deserialize<'de, D>(from: D) -> Result<K::Value, D::Error>
    where
        D: Deserializer<'de>,
    {
        K::read(from)
    }

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &K::Value,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        K::spell(value).serialize(to)
    }
}

impl<K: Kind> JsonSchema for As<K> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        K::EXPECTED.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        Schema::try_from(K::schema()).unwrap_or_default()
    }
}

impl<'t> Given<'t> {
    fn unexpected(self) -> Unexpected<'t> {
        match self {
            Self::Text(text) => Unexpected::Str(text),
            Self::Whole(number) => Unexpected::Signed(number),
            Self::Real(number) => Unexpected::Float(number),
            Self::Truth(truth) => Unexpected::Bool(truth),
        }
    }

    pub(in crate::config) fn text(self) -> Result<&'t str, Wrong> {
        if let Self::Text(text) = self { Ok(text) } else { Err(Wrong::Type) }
    }

    pub(in crate::config) fn unlike(self, expected: impl fmt::Display) -> Wrong {
        let found = match self {
            Self::Text(text) => quoted(text),
            Self::Whole(number) => number.to_string(),
            Self::Real(number) => number.to_string(),
            Self::Truth(truth) => truth.to_string(),
        };
        Wrong::unlike(&found, expected)
    }
}

impl Wrong {
    pub(in crate::config) fn unlike(found: &str, expected: impl fmt::Display) -> Self {
        Self::Because(format!("found {found}, expected {expected}"))
    }
}

struct ScalarVisitor<F> {
    expected: &'static str,
    take: F,
}

impl<T, F: Fn(Given<'_>) -> Result<T, Wrong>> ScalarVisitor<F> {
    fn visit<E: Error>(&self, given: Given<'_>) -> Result<T, E> {
        (self.take)(given).map_err(|wrong| match wrong {
            Wrong::Because(why) => E::custom(why),
            Wrong::Type => E::invalid_type(given.unexpected(), &self.expected),
            Wrong::Meaningless => E::invalid_value(given.unexpected(), &self.expected),
        })
    }
}

impl<T, F: Fn(Given<'_>) -> Result<T, Wrong>> Visitor<'_> for ScalarVisitor<F> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        self.visit(Given::Text(text))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        self.visit(Given::Whole(number))
    }

    /// As JSON has whole numbers that are not negative.
    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        self.visit(Given::Real(number))
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<T, E> {
        self.visit(Given::Truth(truth))
    }
}

impl<'de, T, F: Fn(Given<'_>) -> Result<T, Wrong>> DeserializeSeed<'de> for ScalarVisitor<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<T, D::Error> {
        from.deserialize_any(self)
    }
}

/// A list of `K`, of `MIN` at least, which is 0 or 1.
pub(in crate::config) struct Each<K, const MIN: usize = 0>(PhantomData<K>);
/// `K` where a key has no default.
pub(in crate::config) struct Maybe<K>(PhantomData<K>);
/// `K`, or "" for none.
pub(in crate::config) struct OrEmpty<K>(PhantomData<K>);
/// A table of `K`.
pub(in crate::config) struct Pairs<K>(PhantomData<K>);

pub(in crate::config) type List<K> = As<Each<K>>;
pub(in crate::config) type FilledList<K> = As<AtLeastOne<K>>;
pub(in crate::config) type AtLeastOne<K> = Each<K, 1>;
pub(in crate::config) type Optional<K> = As<Maybe<K>>;
pub(in crate::config) type Switched<K> = As<OrEmpty<K>>;
pub(in crate::config) type Members<K> = As<Pairs<K>>;

/// An item by itself, for serde's own lists.
struct Item<K: Kind>(K::Value);

impl<'de, K: Kind> Deserialize<'de> for Item<K> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        K::read(from).map(Self)
    }
}

impl<K: Kind, const MIN: usize> Kind for Each<K, MIN> {
    type Value = Vec<K::Value>;

    fn schema() -> Json {
        json!({ "type": "array", "minItems": MIN, "items": K::schema() })
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<K::Value>, D::Error> {
        let items = Vec::<Item<K>>::deserialize(from)?;
        if items.len() < MIN {
            return Err(D::Error::custom(format_args!("missing {}", K::ONE)));
        }
        Ok(items.into_iter().map(|Item(value)| value).collect())
    }

    fn spell(value: &Vec<K::Value>) -> Json {
        value.iter().map(K::spell).collect::<Vec<_>>().into()
    }
}

impl<K: Kind> Kind for Maybe<K> {
    type Value = Option<K::Value>;

    fn schema() -> Json {
        K::schema()
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Option<K::Value>, D::Error> {
        K::read(from).map(Some)
    }

    fn spell(value: &Option<K::Value>) -> Json {
        value.as_ref().map(K::spell).into()
    }
}

impl<K: Kind> Kind for OrEmpty<K> {
    type Value = Option<K::Value>;

    fn schema() -> Json {
        json!({ "anyOf": [K::schema(), { "type": "string", "maxLength": 0 }] })
    }

    fn take(given: Given<'_>) -> Result<Option<K::Value>, Wrong> {
        if let Given::Text("") = given { Ok(None) } else { K::take(given).map(Some) }
    }

    fn spell(value: &Option<K::Value>) -> Json {
        value.as_ref().map_or_else(|| "".into(), K::spell)
    }
}

impl<K: Pair> Kind for Pairs<K> {
    type Value = Vec<K::Value>;

    fn schema() -> Json {
        json!({ "type": "object", "additionalProperties": K::schema() })
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<K::Value>, D::Error> {
        let pairs = from.deserialize_any(PairsVisitor::<K>(PhantomData))?;
        if pairs.is_empty() && !K::ONE.is_empty() {
            return Err(D::Error::custom(format_args!("missing {}", K::ONE)));
        }
        Ok(pairs)
    }

    fn spell(value: &Vec<K::Value>) -> Json {
        Json::Object(value.iter().map(K::spell).collect::<Map<_, _>>())
    }
}

struct PairsVisitor<K>(PhantomData<K>);

impl<'de, K: Pair> Visitor<'de> for PairsVisitor<K> {
    type Value = Vec<K::Value>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<K::Value>, A::Error> {
        let mut pairs = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            // A refusal of the key is shown at its value: it is there that serde knows the place.
            let take = |given: Given<'_>| K::take(&key, given, &pairs);
            let pair = map.next_value_seed(ScalarVisitor { expected: K::EXPECTED, take })?;
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

/// For a section: serde alone would also take an array whose items stand for the keys in the
/// order of their declaration.
pub(in crate::config) fn table<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Table::deserialize(from).map(|Table(section)| section)
}

pub(in crate::config) fn some_table<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    table(from).map(Some)
}

pub(in crate::config) fn tables<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    let tables = Vec::<Table<T>>::deserialize(from)?;
    Ok(tables.into_iter().map(|Table(section)| section).collect())
}

struct Table<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TableVisitor(PhantomData)).map(Table)
    }
}

struct TableVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for TableVisitor<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// Of a text that has to have a form, in words.
pub(in crate::config) fn text_schema(form: Option<&str>) -> Json {
    match form {
        Some(form) => json!({ "type": "string", "x-form": form }),
        None => json!({ "type": "string" }),
    }
}

/// A default that is a number.
pub(in crate::config) fn number<T: TryFrom<u32> + Default, const NUMBER: u32>() -> T {
    T::try_from(NUMBER).unwrap_or_default()
}

/// A default that is a time.
pub(in crate::config) fn millis<const MILLIS: u64>() -> std::time::Duration {
    std::time::Duration::from_millis(MILLIS)
}

/// A kind of text: by what it has to fulfil, by what reads it and what it spells itself as, or by
/// a function for each way.
macro_rules! text_kind {
    ($(#[$doc:meta])* $name:ident = $is_right:expr, $form:expr) => {
        $crate::config::kinds::text_kind!(
            $(#[$doc])* $name: String = |text| $is_right(text).then(|| text.to_owned()), $form
        );
    };
    ($(#[$doc:meta])* $name:ident: $type:ty = $parse:expr, $form:expr) => {
        $crate::config::kinds::text_kind!($(#[$doc])* $name: $type, |text| {
            let parse: fn(&str) -> Option<$type> = $parse;
            parse(text).ok_or_else(|| $form.to_owned())
        }, ToString::to_string);
    };
    ($(#[$doc:meta])* $name:ident: $type:ty, $read:expr, $spell:expr) => {
        $crate::config::kinds::scalar_kind!($(#[$doc])* $name: $type, "a string",
            {
                // What a text is refused with that means nothing is its form.
                let read: fn(&str) -> Result<$type, String> = $read;
                $crate::config::kinds::text_schema(read("\u{1}").err().as_deref())
            },
            |given| {
                let read: fn(&str) -> Result<$type, String> = $read;
                read(given.text()?).map_err(|expected| given.unlike(expected))
            },
            |value| {
                let spell: fn(&$type) -> String = $spell;
                spell(value).into()
            });
    };
}

/// A kind of text or number: what is expected, its schema, how it is read and how spelled.
macro_rules! scalar_kind {
    ($(#[$doc:meta])* $name:ident: $type:ty, $expected:expr, $schema:expr,
     |$given:ident| $take:expr, |$value:ident| $spell:expr) => {
        $(#[$doc])*
        pub(in crate::config) struct $name;

        impl $crate::config::kinds::Kind for $name {
            type Value = $type;

            const EXPECTED: &'static str = $expected;

            fn schema() -> serde_json::Value {
                $schema
            }

            fn take(
                $given: $crate::config::kinds::Given<'_>,
            ) -> Result<$type, $crate::config::kinds::Wrong> {
                $take
            }

            fn spell($value: &$type) -> serde_json::Value {
                $spell
            }
        }
    };
}

pub(in crate::config) use {scalar_kind, text_kind};
