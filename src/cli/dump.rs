//! `ringway dump-config`: every value that holds, and where it comes from.
//!
//! In goes the configuration as the server would read it; out comes TOML that loads to the same, or
//! JSON for programs. Neither ever shows a secret.

use serde_json::json;

use crate::cli::args::Cli;
use crate::config::change::effect_of;
use crate::config::effective::{Value, values};
use crate::config::{Config, document};

use super::output::Failure;

pub(super) fn run(cli: &Cli, has_origins: bool, is_json: bool) -> Result<String, Failure> {
    let (config, origins) = Config::load_traced(cli.config.as_deref(), &cli.flags)?;
    let values = values(&config, &origins);
    if !is_json {
        return Ok(document::dump(&values, has_origins));
    }
    let values: Vec<_> = values.iter().map(member).collect();
    Ok(format!("{:#}\n", json!(values)))
}

fn member(value: &Value) -> serde_json::Value {
    json!({
        "key": value.key,
        "path": value.path,
        "value": value.json,
        "origin": value.origin.to_string(),
        "effect": effect_of(&value.key).name(),
        "is_secret": value.is_secret,
    })
}
