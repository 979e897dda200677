//! `ringway upstreams`: whom a running ringway asks, and why others not; and what an operator makes
//! of an origin.
//!
//! In goes where to ask, and perhaps what is to become of an origin; out comes a table on standard
//! output, or what the admin API has answered. Nothing is decided here.

use std::fmt::Write;
use std::process::ExitCode;

use serde_json::Value;

use super::args::OriginOrder;
use super::client::{self, Target};
use super::output::{Done, Failure};
use super::query::escaped;
use crate::config::{self, Config};

/// Some origin is not asked.
const SOME_OUT: u8 = 3;

pub(crate) fn run(
    config: &Config,
    named: Option<Result<Target, String>>,
    order: &OriginOrder,
    is_json: bool,
) -> ExitCode {
    let targets = match named {
        Some(target) => target.map(|target| vec![target]),
        None => Ok(Target::admin(config).into_iter().collect()),
    };
    if order.origin.is_some() && order.state.is_none() && order.weight.is_none() {
        let cure = "say what is to become of it: up, drain, down, or --weight COUNT".to_owned();
        return Failure::wrong(cure).print();
    }
    let done = targets.map_err(Failure::wrong).and_then(|targets| match path_of(order) {
        Some(path) => change(config, &targets, &path),
        None => list(config, &targets, is_json),
    });
    done.and_then(Done::print).unwrap_or_else(Failure::print)
}

/// What is asked for to carry the order out; `None` where there is none.
fn path_of(order: &OriginOrder) -> Option<String> {
    let (upstream, origin) = (order.upstream.as_ref()?, order.origin.as_ref()?);
    let mut path = format!("/upstreams/{}?origin={}", escaped(upstream), escaped(origin));
    if let Some(state) = &order.state {
        // Writing to a String does not fail.
        let _ = write!(path, "&state={}", escaped(state));
    }
    if let Some(weight) = order.weight {
        let _ = write!(path, "&weight={weight}");
    }
    if order.until_reload {
        path.push_str("&keep=false");
    }
    Some(path)
}

fn change(config: &Config, targets: &[Target], path: &str) -> Result<Done, Failure> {
    let token = config.admin.token.as_ref().map(config::Secret::reveal);
    let report = client::order(targets, path, token).map_err(Failure::unable)?;
    if report.code != 200 {
        return Err(Failure::unable(report));
    }
    Ok(Done::from(format!("{}\n", report.body.trim_end())))
}

fn list(config: &Config, targets: &[Target], is_json: bool) -> Result<Done, Failure> {
    let token = config.admin.reader().map(config::Secret::reveal);
    let report = client::ask_for(targets, "/upstreams", token).map_err(Failure::unable)?;
    if report.code != 200 {
        return Err(Failure::unable(report));
    }
    let known: Value = serde_json::from_str(&report.body)
        .map_err(|error| Failure::unable(format!("the answer is not ringway's: {error}")))?;
    let (table, is_whole) = table(&known);
    let text = if is_json { format!("{}\n", report.body.trim_end()) } else { table };
    Ok(Done { text, code: if is_whole { 0 } else { SOME_OUT } })
}

/// A line for each target, and whether all of them are asked.
fn table(known: &Value) -> (String, bool) {
    let none = Vec::new();
    let list = |value: &Value| value.as_array().unwrap_or(&none).clone();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (mut out, mut is_whole) = (String::new(), true);
    for upstream in list(&known["upstreams"]) {
        let _ = writeln!(out, "{}", word(&upstream["name"]));
        let targets = list(&upstream["targets"]);
        if targets.is_empty() {
            is_whole = false;
            out.push_str("  no origin has an address\n");
        }
        for target in targets {
            let (state, origin) = (word(&target["state"]), word(&target["origin"]));
            is_whole &= state == "up";
            let address = word(&target["address"]);
            let _ = write!(out, "  {state:<8} {origin}");
            if !origin.ends_with(&address) {
                let _ = write!(out, " at {address}");
            }
            for (key, is_said) in [("weight", 1), ("priority", 0), ("busy", 0)]
                .map(|(key, usual)| (key, target[key].as_u64().is_some_and(|value| value != usual)))
            {
                if is_said {
                    let _ = write!(out, "  {key} {}", target[key]);
                }
            }
            if let Some(zone) = target["zone"].as_str() {
                let _ = write!(out, "  zone {zone}");
            }
            if let Some(us) = target["latency_us"].as_u64() {
                let _ = write!(out, "  {} ms", us.div_ceil(1_000));
            }
            if let Some(error) = target["check_error"].as_str() {
                let _ = write!(out, "  check: {error}");
            }
            if state == "connect"
                && let Some(error) = target["connect_error"]["error"].as_str()
            {
                let _ = write!(out, "  connect: {error}");
            }
            out.push('\n');
        }
    }
    (out, is_whole)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_order_is_asked_for_in_one_path() {
        let order = |weight, until_reload| OriginOrder {
            upstream: Some("a.b".to_owned()),
            origin: Some("http://10.0.0.1:80".to_owned()),
            state: Some("drain".to_owned()),
            weight,
            until_reload,
        };
        let path = "/upstreams/a.b?origin=http%3A%2F%2F10.0.0.1%3A80&state=drain";
        assert_eq!(path_of(&order(None, false)).unwrap(), path);
        assert_eq!(path_of(&order(Some(3), true)).unwrap(), format!("{path}&weight=3&keep=false"));
        assert_eq!(path_of(&OriginOrder::default()), None);
    }

    #[test]
    fn each_target_has_a_line_that_says_what_is_unusual() {
        let known = json!({ "upstreams": [
            { "name": "app", "targets": [
                { "origin": "http://10.0.0.1:80", "address": "10.0.0.1:80", "state": "up",
                  "weight": 1, "priority": 0 },
                { "origin": "http://a:80", "address": "10.0.0.2:80", "state": "check", "weight": 3,
                  "priority": 1, "busy": 2, "zone": "b", "latency_us": 1_200,
                  "check_error": "status 503" },
                { "origin": "http://b:80", "address": "b:80", "state": "connect", "weight": 1,
                  "connect_error": { "error": "origin_refused", "seconds_ago": 3 } },
                { "origin": "http://c:80", "address": "c:80", "state": "up", "weight": 1,
                  "connect_error": { "error": "origin_refused", "seconds_ago": 300 } },
            ] },
            { "name": "none", "targets": [] },
        ] });
        let (table, is_whole) = table(&known);
        assert!(!is_whole);
        assert_eq!(
            table,
            "app\n  up       http://10.0.0.1:80\n  check    http://a:80 at 10.0.0.2:80  weight 3  \
             priority 1  busy 2  zone b  2 ms  check: status 503\n  \
             connect  http://b:80  connect: origin_refused\n  up       http://c:80\n\
             none\n  no origin has an address\n"
        );
    }
}
