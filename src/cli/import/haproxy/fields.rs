//! Fields of requests and answers that are set, added and taken away.
//!
//! In go the lines of a frontend or a backend; out come edits as hooks. What ringway tells origins
//! by itself is set nowhere, and what holds only under a condition is said.

use serde_json::{Map, Value as Json};

use super::super::draft::Draft;
use super::sections::{Line, Section};
use crate::config::hooks::is_editable;

/// Edits of fields, which hold for every route of a frontend.
pub(super) fn edits(face: &Section, draft: &mut Draft) -> Map<String, Json> {
    let mut hooks = Map::new();
    for (start, key) in [("http-request", "request_headers"), ("http-response", "response_headers")]
    {
        let (mut set, mut add, mut remove) = (Map::new(), Map::new(), Vec::new());
        for line in face.all().filter(|line| line.word(0) == start) {
            let (kind, name, value) = (line.word(1), line.word(2), line.word(3));
            let is_edit = matches!(kind, "set-header" | "add-header" | "del-header");
            let is_always = !line.has("if") && !line.has("unless");
            if !is_edit || !is_always {
                // Those of a frontend's requests have been told with its rules.
                if start == "http-response" || face.kind == "backend" {
                    let why = "nothing is changed under a condition, nor in this way";
                    draft.untaken(&line.place, line.shown(), why, "see docs/reference/hooks.md");
                }
                continue;
            }
            if is_own(name, line) {
                draft.unneeded(
                    &line.place,
                    &format!("{start} {kind} {name}"),
                    "ringway tells origins so by itself",
                );
            } else if !is_editable(name) {
                let why = "this field is ringway's own";
                draft.untaken(&line.place, line.shown(), why, "see upstream.host for the Host");
            } else if kind == "del-header" {
                remove.push(name.to_owned());
            } else if let Some(value) = format(value) {
                let edits = if kind == "set-header" { &mut set } else { &mut add };
                edits.insert(name.to_owned(), value.into());
            } else {
                let why = "its value is one that ringway does not know";
                draft.untaken(
                    &line.place,
                    line.shown(),
                    why,
                    "see docs/reference/hooks.md for variables",
                );
            }
        }
        let mut edits = Map::new();
        if !remove.is_empty() {
            edits.insert("remove".to_owned(), remove.into());
        }
        for (kind, fields) in [("set", set), ("add", add)] {
            if !fields.is_empty() {
                edits.insert(kind.to_owned(), Json::Object(fields));
            }
        }
        if !edits.is_empty() {
            hooks.insert(key.to_owned(), Json::Object(edits));
        }
    }
    hooks
}

/// Whether ringway sends such a field to origins anyway.
pub(super) fn is_own(name: &str, line: &Line) -> bool {
    let known = ["x-forwarded-proto", "x-forwarded-for", "x-forwarded-host"];
    line.word(0) == "http-request" && known.contains(&name.to_ascii_lowercase().as_str())
}

/// haproxy's variables, as ringway's.
fn format(text: &str) -> Option<String> {
    let mut made = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['%', '$']) {
        made.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if rest[at..].starts_with('$') {
            made.push_str("$$");
            rest = after;
        } else if let Some(after) = after.strip_prefix('%') {
            made.push('%');
            rest = after;
        } else if let Some(after) = after.strip_prefix("ci") {
            made.push_str("${client_ip}");
            rest = after;
        } else {
            let (fetch, after) = after.strip_prefix('[')?.split_once(']')?;
            made.push_str(&variable(fetch.strip_prefix("req.").unwrap_or(fetch))?);
            rest = after;
        }
    }
    made.push_str(rest);
    Some(made)
}

fn variable(fetch: &str) -> Option<String> {
    Some(match fetch {
        "src" => "${client_ip}".to_owned(),
        "path" => "${path}".to_owned(),
        "query" => "${query}".to_owned(),
        "method" => "${method}".to_owned(),
        "url" | "pathq" => "${target}".to_owned(),
        "hdr(host)" | "hdr(Host)" => "${host}".to_owned(),
        "ssl_fc_sni" => "${tls_sni}".to_owned(),
        "ssl_fc_protocol" => "${tls_version}".to_owned(),
        "ssl_fc_cipher" => "${tls_cipher}".to_owned(),
        _ => {
            let (kind, name) = fetch.strip_suffix(')')?.split_once('(')?;
            let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            if name.is_empty() || !name.bytes().all(is_token) {
                return None;
            }
            match kind {
                "hdr" | "fhdr" => format!("${{header.{}}}", name.to_ascii_lowercase()),
                "cook" => format!("${{cookie.{name}}}"),
                _ => return None,
            }
        }
    })
}
