//! haproxy.cfg, as a configuration of ringway.
//!
//! In goes the file; out comes a draft with its listeners, its backends as upstreams, and the rules
//! of its frontends as routes that are asked in the same order. Proxies of mode tcp, scripts, maps
//! and tables are said and left out. Whatever the text is, this ends, and does not panic.

mod backend;
mod conditions;
mod fields;
mod frontend;
mod rules;
pub(super) mod sections;

use std::path::Path;
use std::rc::Rc;

use serde_json::Value as Json;

use self::sections::Section;
use super::draft::Draft;
use super::values::{millis, time};

pub(super) fn import(path: &Path, text: &str, draft: &mut Draft) -> Result<(), String> {
    let file: Rc<str> = path.to_string_lossy().into();
    let sections = sections::parse(&file, text)?;
    for section in &sections {
        match section.kind.as_str() {
            "global" => global(section, draft),
            "defaults" | "resolvers" => {}
            "frontend" | "backend" | "listen" => known_lines(section, draft),
            kind => {
                let why = "there is no such section";
                draft.untaken(&section.place, kind, why, "see docs/reference/keys.md");
            }
        }
    }
    let is_http = |section: &&Section| {
        section.last(&["mode", "tcp"]).is_none_or(|tcp| {
            // What is said last holds.
            section.last(&["mode"]).is_some_and(|mode| mode.place != tcp.place)
        })
    };
    let proxies = || {
        sections.iter().filter(|it| matches!(it.kind.as_str(), "frontend" | "backend" | "listen"))
    };
    for section in proxies().filter(|it| !is_http(it)) {
        let what = format!("{} {}", section.kind, section.name);
        let why = "it is of mode tcp, and ringway carries HTTP";
        draft.untaken(&section.place, what, why, "keep haproxy for it");
    }
    timeouts(&sections, draft);
    let mut backends: Vec<&Section> = Vec::new();
    for section in proxies().filter(is_http) {
        let is_backend = section.kind == "backend"
            || (section.kind == "listen" && section.lines.iter().any(|it| it.word(0) == "server"));
        if is_backend && let Some(table) = backend::upstream(section, draft) {
            draft.upstreams.push(table);
            backends.push(section);
        }
    }
    let faces: Vec<&Section> =
        proxies().filter(is_http).filter(|it| it.kind != "backend").collect();
    frontend::listeners(&faces, draft);
    rules::routes(&faces, &backends, draft);
    draft.complete();
    Ok(())
}

fn global(section: &Section, draft: &mut Draft) {
    for line in &section.lines {
        match line.word(0) {
            "maxconn" => match line.word(1).parse::<u64>() {
                Ok(count) => draft.set("limits", "clients", count.clamp(1, 1_000_000)),
                Err(_) => {
                    draft.untaken(
                        &line.place,
                        line.shown(),
                        "it is no count",
                        "see limits.clients",
                    );
                }
            },
            "nbthread" | "nbproc" => {
                if let Ok(count) = line.word(1).parse::<u64>() {
                    draft.set("server", "workers", count.clamp(1, 1_024));
                }
            }
            "daemon" | "pidfile" | "master-worker" | "stats" | "chroot" | "quiet"
            | "description" | "localpeer" | "cpu-map" | "ulimit-n" | "node" | "zero-warning"
            | "numa-cpu-mapping" => {
                let why = "the service manager, or ringway's admin address, is for this";
                draft.unneeded(&line.place, line.word(0), why);
            }
            word if word.starts_with("ssl-default-")
                || word.starts_with("tune.")
                || word == "ca-base"
                || word == "crt-base"
                || word == "ssl-dh-param-file"
                || word == "ssl-server-verify" =>
            {
                let why = "ringway sizes this, and chooses the suites of TLS, by itself";
                draft.unneeded(&line.place, word, why);
            }
            "log" | "log-send-hostname" | "log-tag" => {
                let why = "a log is a file or standard output";
                draft.untaken(&line.place, line.shown(), why, "let the service manager pass it on");
            }
            "user" | "group" | "uid" | "gid" => {
                let why = "another program's user may lack what ringway needs";
                let cure = "set server.user, or let the service manager choose the user";
                draft.untaken(&line.place, line.shown(), why, cure);
            }
            word if word.starts_with("lua-") => {
                draft.untaken(
                    &line.place,
                    line.shown(),
                    "ringway runs no scripts",
                    "write a hook in Rust",
                );
            }
            _ => {
                let why = "this import does not know it";
                draft.untaken(&line.place, line.shown(), why, "see docs/reference/keys.md");
            }
        }
    }
}

const TAKEN: &[&str] = &[
    "bind",
    "mode",
    "acl",
    "use_backend",
    "default_backend",
    "server",
    "default-server",
    "balance",
    "timeout",
    "cookie",
    "http-request",
    "http-response",
    "redirect",
    "maxconn",
    "monitor-uri",
    "http-check",
];
const UNNEEDED: &[&str] = &[
    "fullconn",
    "hash-type",
    "unique-id-format",
    "unique-id-header",
    "description",
    "id",
    "backlog",
    "enabled",
    "load-server-state-from-file",
    "retries",
    "option",
    "no",
    "log-tag",
    "retry-on",
    "clitcpka-idle",
    "http-reuse",
];

/// Of what stands in a proxy, what is not needed or not taken wherever it stands.
fn known_lines(section: &Section, draft: &mut Draft) {
    for line in section.all() {
        let word = line.word(0);
        let is_own = line.word(1) == "httpchk" && word == "option";
        if TAKEN.contains(&word) || is_own {
            continue;
        }
        let shown =
            if word == "option" || word == "no" { line.words.join(" ") } else { word.to_owned() };
        if UNNEEDED.contains(&word) {
            let why = "ringway does, sizes or retries this by itself, or has no use for it";
            draft.unneeded(&line.place, &shown, why);
            continue;
        }
        let (why, cure) = match word {
            "log" | "log-format" => {
                ("a log is a file or standard output, in a form of its own", "see [log]")
            }
            "compression" | "filter" => {
                ("ringway does not change bodies", "leave that to the origins")
            }
            "errorfile" | "errorloc" | "errorloc302" | "errorloc303" | "errorfiles" => {
                ("pages of errors are texts or files of bodies", "name them in hooks.error_pages")
            }
            "stick-table" | "stick" | "tcp-request" | "tcp-response" => {
                ("there are no tables", "see hooks.rate_limit, hooks.deny and upstream.sticky")
            }
            "stats" => (
                "ringway's own figures are at its admin address",
                "see /, /stats and /metrics there",
            ),
            _ => ("this import does not know it", "see docs/reference/keys.md"),
        };
        draft.untaken(&line.place, line.shown(), why, cure);
    }
}

/// Those of clients hold for everybody here.
fn timeouts(sections: &[Section], draft: &mut Draft) {
    for section in sections.iter().filter(|it| it.kind != "backend" && it.kind != "global") {
        for line in section.lines.iter().filter(|line| line.word(0) == "timeout") {
            let is_own = section.kind == "listen";
            let key = match line.word(1) {
                "connect" if !is_own => "connect",
                "server" if !is_own => "read",
                "queue" if !is_own => "pool",
                "tunnel" if !is_own => "tunnel_idle",
                "client" => "client_write",
                "http-request" => "client_head",
                "http-keep-alive" => "client_idle",
                "connect" | "server" | "queue" | "tunnel" | "check" => continue,
                _ => {
                    let why = "there is no such time";
                    draft.untaken(&line.place, line.shown(), why, "see [timeouts]");
                    continue;
                }
            };
            let Some(ms) = millis(line.word(2), 1).filter(|ms| *ms > 0) else {
                draft.untaken(
                    &line.place,
                    line.shown(),
                    "it is no time from 1ms to 1d",
                    "see [timeouts]",
                );
                continue;
            };
            let value = Json::from(time(ms));
            match draft.get("timeouts", key) {
                Some(known) if *known != value => {
                    let why = "there is one such time for all frontends";
                    draft.untaken(
                        &line.place,
                        line.shown(),
                        why,
                        "set it for all of them, or leave it",
                    );
                }
                _ => draft.set("timeouts", key, value),
            }
        }
    }
}
