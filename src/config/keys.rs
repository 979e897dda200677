//! Every key there is: what its field says about it, in the order of the fields.
//!
//! In: the types of the configuration, by way of schemars and serde. Out: each section and key with
//! its comment, its default, what a change takes, and the JSON Schema that editors read. Nothing is
//! written here a second time.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value as Json};

use super::change::Effect;
use super::{Config, scope, tree};

/// `[server]`, or `[[route]]`.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) text: String,
    /// Whether there may be several of them.
    pub(super) is_list: bool,
    pub(super) keys: Vec<Key>,
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) text: String,
    /// `None` where there is none: the key has to be given, or may stay away.
    pub(super) default: Option<Json>,
    pub(super) is_required: bool,
    pub(super) effect: Effect,
    pub(super) is_secret: bool,
    /// What it takes, as JSON Schema.
    pub(super) schema: Json,
    /// As TOML.
    pub(super) example: Option<String>,
}

static SECTIONS: LazyLock<Vec<Section>> = LazyLock::new(read);

/// In the order of `config.toml`.
pub(super) fn sections() -> &'static [Section] {
    &SECTIONS
}

/// Panics where there is no such section, which is for a test to find.
pub(super) fn section(name: &str) -> &'static Section {
    let section = SECTIONS.iter().find(|section| section.name == name);
    section.expect("sections are named by the source alone")
}

/// The key at a path, or with a name, in which it has indexes or names of its own in its middle.
pub(super) fn key(path: &str) -> Option<&'static Key> {
    let (section, rest) = path.split_once('.')?;
    let name = rest.rsplit('.').next().unwrap_or(rest);
    let section = SECTIONS.iter().find(|known| known.name == section)?;
    section.keys.iter().find(|key| key.name == name)
}

/// Whether a key that is called so is a secret somewhere.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.rsplit('.').next().unwrap_or(name);
    let mut keys = SECTIONS.iter().flat_map(|section| &section.keys);
    keys.any(|key| key.is_secret && key.name == name)
}

/// Every key as the path to it; in a list, that of its first item.
pub(super) fn paths() -> Vec<Vec<String>> {
    let path = |section: &Section, key: &Key| {
        let index = section.is_list.then(|| "0".to_owned());
        std::iter::once(section.name.clone()).chain(index).chain([key.name.clone()]).collect()
    };
    SECTIONS.iter().flat_map(|it| it.keys.iter().map(move |key| path(it, key))).collect()
}

/// JSON Schema, draft 7. Only parts that draft 4 knows as well: taplo reads no more for certain.
pub fn schema() -> Json {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    let generator = settings.into_generator();
    let config = Config::default();
    let schema =
        scope::spelling(&config.upstreams, false, || generator.into_root_schema_for::<Config>());
    let mut schema = Json::from(schema);
    schema["title"] = "ringway".into();
    for section in schema["properties"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        // That of a section is that of its keys.
        section.as_object_mut().and_then(|section| section.remove("default"));
    }
    plain(&mut schema);
    schema
}

/// TOML has no null, and a comment's lines end where the source's do.
fn plain(schema: &mut Json) {
    let Json::Object(members) = schema else { return };
    if let Some(Json::Array(types)) = members.get_mut("type") {
        types.retain(|name| name != "null");
        if types.len() == 1 {
            let single = types.remove(0);
            members.insert("type".to_owned(), single);
        }
    }
    if let Some(Json::Array(choices)) = members.get_mut("anyOf") {
        choices.retain(|choice| choice["type"] != "null");
        if let [Json::Object(single)] = choices.as_slice() {
            let single = single.clone();
            members.remove("anyOf");
            members.extend(single.into_iter().filter(|(key, _)| key != "description"));
        }
    }
    let least = members.get("minimum").and_then(Json::as_i64);
    // A number that is not allowed stands for what follows from another key.
    let is_less = |it: &Json| it.as_i64().zip(least).is_some_and(|(it, least)| it < least);
    let is_none = |it: &Json| it.is_object() || it.is_null() || is_less(it);
    if members.get("default").is_some_and(is_none) {
        members.remove("default");
    }
    members.remove("format");
    if let Some(Json::String(text)) = members.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    for (name, below) in members {
        match (name.as_str(), below) {
            // What is called there is not a part of a schema.
            ("properties", Json::Object(properties)) => properties.values_mut().for_each(plain),
            (_, Json::Array(items)) => items.iter_mut().for_each(plain),
            (_, below) => plain(below),
        }
    }
}

fn read() -> Vec<Section> {
    let schema = schema();
    let names = tree::keys_below(&[]);
    names.into_iter().map(|name| section_of(&schema["properties"], name)).collect()
}

fn section_of(schemas: &Json, name: String) -> Section {
    let outer = &schemas[&name];
    let is_list = outer["type"] == "array";
    let schema = if is_list { &outer["items"] } else { outer };
    let mut path = vec![name.clone()];
    path.extend(is_list.then(|| "0".to_owned()));
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |schema: &Json| schema["description"].as_str().unwrap_or_default().to_owned();
    let key = |name: String| {
        let own = properties.get(&name).unwrap_or(&Json::Null);
        // A section may say it for all of its keys.
        let effect = own["x-reload"].as_str().or(schema["x-reload"].as_str());
        Key {
            text: text(own),
            default: own.get("default").cloned(),
            is_required: required.iter().any(|required| *required == name),
            effect: effect.map_or(Effect::Hot, Effect::of_name),
            is_secret: own["x-secret"] == true,
            schema: own.clone(),
            example: own["x-example"].as_str().map(str::to_owned),
            name,
        }
    };
    let keys = tree::keys_below(&path).into_iter().map(key).collect();
    Section { text: text(schema), is_list, keys, name }
}
