//! What a running ringway has answered, for people.
//!
//! In goes the JSON of its admin API; out come a few lines. What is no such answer is shown as it
//! came. Nothing is asked here.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::client::Report;

const MIB: f64 = 1024.0 * 1024.0;

/// How it is.
pub(super) fn health(report: &Report) -> String {
    // Strangers, and what a ringway tells anybody on its data port, are shown as they are.
    let known = read(report).and_then(|body| {
        let who = identity(&body)?;
        let status = body["status"].as_str()?.to_owned();
        Some((format!("{status}: {who}"), body))
    });
    let Some((mut text, body)) = known else { return report.to_string() };
    let number = |path: &str| body.pointer(path).and_then(Value::as_u64);
    let put = |text: &mut String, name: &str, what: String| {
        write!(text, "\n{name:<13}{what}").expect("a String takes any text");
    };
    if let (Some(now), Some(most)) =
        (body["memory_usage_mb"].as_f64(), body.pointer("/memory/ceiling_bytes"))
    {
        let most = most.as_f64().unwrap_or_default() / MIB;
        put(&mut text, "memory", format!("{now:.1} MiB of {most:.0} MiB"));
    }
    if let (Some(clients), Some(most)) =
        (number("/connections/clients"), number("/connections/max"))
    {
        let tunnels = number("/connections/tunnels").unwrap_or_default();
        put(&mut text, "clients", format!("{clients} of {most}, {tunnels} tunnels"));
    }
    if let (Some(open), Some(idle)) = (number("/pool/open"), number("/pool/idle")) {
        let waiting = number("/pool/waiting").unwrap_or_default();
        put(&mut text, "to origins", format!("{open} connections, {idle} idle, {waiting} waiting"));
    }
    if let Some(listeners) = words(&body["listeners"]) {
        put(&mut text, "listening", listeners);
    }
    for alert in body["alerts"].as_array().into_iter().flatten() {
        let name = alert["alert"].as_str().unwrap_or_default();
        let upstream = alert["upstream"].as_str().map(|name| format!(" of {name}"));
        let (value, threshold) = (&alert["value"], &alert["threshold"]);
        let what = format!("{name}{}: {value}, at most {threshold}", upstream.unwrap_or_default());
        put(&mut text, "alert", what);
    }
    text
}

/// What became of a configuration that was to be put in use.
pub(super) fn order(report: &Report) -> String {
    let Some(body) = read(report) else { return report.to_string() };
    let Some(generation) = body["generation"].as_u64().filter(|_| report.code == 200) else {
        return match body["error"].as_str() {
            Some(error) => format!("HTTP {}: {error}", report.code),
            None => report.to_string(),
        };
    };
    let who = identity(&body).unwrap_or_else(|| "it".to_owned());
    let mut text = format!("configuration {generation} is in use: {who}");
    let mut put = |line: String| {
        write!(text, "\n{line}").expect("a String takes any text");
    };
    match words(&body["changed"]) {
        Some(changed) => put(format!("changed: {changed}")),
        None => put("nothing has changed".to_owned()),
    }
    if let Some(waiting) = words(&body["waiting"]) {
        put(format!("only a restart changes: {waiting}"));
    }
    if let Some(file) = body["saved"].as_str() {
        put(format!("written to {file}"));
    } else if body["is_file_other"] == true {
        let file = body["config_file"].as_str().unwrap_or("the file");
        put(format!(
            "{file} still has the other configuration, which the next reload or restart takes: \
             `ringway rollback --save {generation}` has this one written there"
        ));
    }
    text
}

/// Which ringway is to answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meant<'m> {
    /// Whoever is where it was said to ask.
    Anybody,
    /// The one with this file, or without one.
    With(Option<&'m Path>),
}

/// That somebody else has answered than the one that is meant, if it is so.
pub(super) fn stranger(report: &Report, meant: Meant<'_>) -> Option<String> {
    let Meant::With(meant) = meant else { return None };
    let body = read(report)?;
    let file = body.get("config_file")?.as_str();
    let own = meant.map(whole);
    if file.map(Path::new).map(whole) == own {
        return None;
    }
    let own = own.map_or("built-in defaults".to_owned(), |own| own.display().to_string());
    Some(format!("the one that answers is not the one of {own}: {}", identity(&body)?))
}

/// Two names of one file are one.
fn whole(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

fn read(report: &Report) -> Option<Value> {
    serde_json::from_str::<Value>(&report.body).ok().filter(Value::is_object)
}

/// Who has answered.
fn identity(body: &Value) -> Option<String> {
    let pid = body["pid"].as_u64()?;
    let file = body["config_file"].as_str().unwrap_or("built-in defaults and flags");
    let up = duration(body["uptime_seconds"].as_u64().unwrap_or_default());
    Some(format!("pid {pid}, {file}, up for {up}"))
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// The items of a list with commas; `None` where there are none.
fn words(list: &Value) -> Option<String> {
    let words: Vec<_> = list.as_array()?.iter().filter_map(Value::as_str).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(code: u16, body: &str) -> Report {
        Report { code, body: body.to_owned() }
    }

    const WHO: &str = r#""pid":7,"config_file":"/etc/a.toml","uptime_seconds":3725"#;

    #[test]
    fn health_is_said_in_a_few_lines() {
        let body = format!(
            r#"{{"status":"degraded","memory_usage_mb":41.87,"memory":{{"ceiling_bytes":524288000}},
            "connections":{{"clients":3,"max":10,"tunnels":1}},"listeners":["0.0.0.0:80"],
            "pool":{{"open":2,"idle":1,"waiting":0}},
            "alerts":[{{"alert":"upstream_down","upstream":"a","value":1.0,"threshold":1.0}}],
            {WHO}}}"#
        );
        assert_eq!(
            health(&report(200, &body)),
            "degraded: pid 7, /etc/a.toml, up for 1 h 2 min\n\
             memory       41.9 MiB of 500 MiB\n\
             clients      3 of 10, 1 tunnels\n\
             to origins   2 connections, 1 idle, 0 waiting\n\
             listening    0.0.0.0:80\n\
             alert        upstream_down of a: 1.0, at most 1.0"
        );
        assert_eq!(health(&report(200, "{\"status\":\"ok\"}")), "HTTP 200\n{\"status\":\"ok\"}");
        assert_eq!(health(&report(503, "no")), "HTTP 503\nno");
    }

    #[test]
    fn an_order_says_what_has_changed_and_what_the_file_still_has() {
        let body = format!(
            r#"{{"generation":3,"changed":["a.b"],"waiting":["c"],"is_file_other":true,{WHO}}}"#
        );
        let said = order(&report(200, &body));
        let wanted = "configuration 3 is in use: pid 7, /etc/a.toml, up for 1 h 2 min\n\
                      changed: a.b\n\
                      only a restart changes: c\n/etc/a.toml still has the other configuration";
        assert!(said.starts_with(wanted), "{said}");
        let body = format!(r#"{{"generation":3,"changed":[],"saved":"/etc/a.toml",{WHO}}}"#);
        let said = order(&report(200, &body));
        assert!(said.ends_with("nothing has changed\nwritten to /etc/a.toml"), "{said}");
        let said = order(&report(422, r#"{"status":422,"error":"a.toml:1:1: no"}"#));
        assert_eq!(said, "HTTP 422: a.toml:1:1: no");
    }

    #[test]
    fn who_was_not_meant_is_named() {
        let answer = report(200, &format!("{{{WHO}}}"));
        assert_eq!(stranger(&answer, Meant::With(Some(Path::new("/etc/a.toml")))), None);
        let said = stranger(&answer, Meant::With(Some(Path::new("/etc/b.toml")))).unwrap();
        assert!(said.contains("/etc/b.toml: pid 7, /etc/a.toml"), "{said}");
        assert!(stranger(&answer, Meant::With(None)).is_some());
        // The outline on the data port says nothing of a file.
        assert_eq!(stranger(&report(200, r#"{"status":"ok"}"#), Meant::With(None)), None);
    }
}
