//! Backends, as upstreams.
//!
//! In goes a `backend`, or a `listen`; out comes an upstream of the draft: origins, balance,
//! checks, times, stickiness. What of a line an upstream cannot say is said.

use serde_json::{Map, Value as Json, json};

use super::super::draft::{Draft, Table};
use super::super::values::{millis, name, time};
use super::sections::{Line, Section};

/// The upstream of a backend. `None`: it has nobody to ask.
pub(super) fn upstream(section: &Section, draft: &mut Draft) -> Option<Table> {
    let mut table = Table::default().with("name", name(&section.name));
    table.notes.push(format!("{}: {} {}", section.place, section.kind, section.name));
    let mut tls = Map::new();
    let mut origins = Vec::new();
    let is_default = |line: &&Line| line.word(0) == "default-server";
    let common: Vec<String> =
        section.all().filter(is_default).flat_map(|line| line.rest(1).to_vec()).collect();
    let mut is_checked = None;
    for line in section.lines.iter().filter(|line| line.word(0) == "server") {
        let mut whole = line.clone();
        whole.words.extend(common.clone());
        if whole.has("check") && !whole.has("no-check") {
            is_checked.get_or_insert(whole.clone());
        }
        origins.extend(origin(&whole, &mut table, &mut tls, draft));
    }
    if origins.is_empty() {
        let why = "it has no server that ringway can ask";
        draft.untaken(
            &section.place,
            format!("{} {}", section.kind, section.name),
            why,
            "write its origins",
        );
        return None;
    }
    table.set("origins", origins);
    if let Some(balance) = section.last(&["balance"]) {
        self::balance(balance, &mut table, draft);
    }
    if let Some(server) = is_checked {
        let health = checks(section, &server);
        table.set("health", Json::Object(health));
    }
    let mut timeouts = Map::new();
    for line in section.lines.iter().filter(|line| line.word(0) == "timeout") {
        let key = match line.word(1) {
            "connect" => "connect",
            "server" => "read",
            "queue" => "pool",
            "tunnel" => "tunnel_idle",
            _ => continue,
        };
        if let Some(ms) = millis(line.word(2), 1) {
            timeouts.insert(key.to_owned(), time(ms).into());
        }
    }
    if !timeouts.is_empty() {
        table.set("timeouts", Json::Object(timeouts));
    }
    if let Some(cookie) = section.last(&["cookie"]) {
        sticky(cookie, &mut table, draft);
    }
    if !tls.is_empty() {
        table.set("tls", Json::Object(tls));
    }
    Some(table)
}

/// The name of the upstream of a backend, if it has one.
pub(super) fn upstream_of(backends: &[&Section], wanted: &str) -> Option<String> {
    backends.iter().find(|it| it.name == wanted).map(|it| name(&it.name))
}

fn origin(
    line: &Line,
    table: &mut Table,
    tls: &mut Map<String, Json>,
    draft: &mut Draft,
) -> Option<Json> {
    let address = line.word(2);
    let is_tls = line.has("ssl");
    let weight = line.after("weight").and_then(|it| it.parse::<u32>().ok()).unwrap_or(1);
    if line.has("disabled") || weight == 0 {
        let cure = "add it when it is to be asked, or take it down by `ringway upstreams`";
        draft.untaken(&line.place, line.shown(), "it is asked nothing", cure);
        return None;
    }
    let Some(url) = url(address, is_tls) else {
        draft.untaken(&line.place, line.shown(), "an origin is a host and a port", "write its URL");
        return None;
    };
    if is_tls {
        let path = |key| line.after(key).map(|path| Json::from(path.to_owned()));
        if let Some(ca) = path("ca-file").filter(|it| it != "@system-ca") {
            tls.insert("ca".to_owned(), ca);
        }
        if let Some(own) = path("crt") {
            tls.insert("client_chain".to_owned(), own.clone());
            tls.insert("client_key".to_owned(), own);
        }
        let sni = line.after("sni").and_then(|it| it.strip_prefix("str(")?.strip_suffix(')'));
        if let Some(sni) = sni {
            tls.insert("sni".to_owned(), sni.into());
        }
        if line.after("verify") == Some("none") {
            let why = "haproxy does not look at this origin's certificate, and ringway does";
            let cure =
                "name its authority in upstream.tls.ca; insecure_skip_verify if it has to be";
            draft.untaken(&line.place, line.shown(), why, cure);
        }
    }
    if line.after("proto") == Some("h2") || line.after("alpn").is_some_and(|it| it.contains("h2")) {
        table.set("http", if is_tls { "auto" } else { "2" });
    }
    if line.has("send-proxy-v2") {
        table.set("proxy_protocol", "v2");
    } else if line.has("send-proxy") {
        table.set("proxy_protocol", "v1");
    }
    let mut more = Map::new();
    if weight != 1 {
        more.insert("weight".to_owned(), weight.min(1_000).into());
    }
    if line.has("backup") {
        more.insert("priority".to_owned(), 1.into());
    }
    let count = line.after("maxconn").and_then(|it| it.parse::<u64>().ok()).filter(|it| *it > 0);
    if let Some(count) = count {
        more.insert("max_connections".to_owned(), count.min(1_000_000).into());
    }
    if more.is_empty() {
        return Some(url.into());
    }
    more.insert("url".to_owned(), url.into());
    Some(Json::Object(more))
}

fn url(address: &str, is_tls: bool) -> Option<String> {
    let scheme = if is_tls { "https" } else { "http" };
    let bare = ["ipv4@", "ipv6@"].iter().find_map(|it| address.strip_prefix(it)).unwrap_or(address);
    if let Some(path) = bare.strip_prefix("unix@").or(bare.starts_with('/').then_some(bare)) {
        return (!is_tls && path.starts_with('/')).then(|| format!("unix:{path}"));
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
    let (host, port) = bare.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let is_v6 = host.contains(':') && !host.starts_with('[');
    let host = if is_v6 { format!("[{host}]") } else { host.to_owned() };
    (!host.is_empty() && host.bytes().all(is_plain)).then(|| format!("{scheme}://{host}:{port}"))
}

fn balance(line: &Line, table: &mut Table, draft: &mut Draft) {
    let word = line.word(1);
    let bare = word.split('(').next().unwrap_or_default();
    match bare {
        "roundrobin" | "static-rr" => {}
        "leastconn" => table.set("balance", "least_connections"),
        "first" => table.set("balance", "first"),
        "random" => table.set("balance", "random"),
        "source" => table.set("balance", "consistent_hash"),
        "uri" => {
            table.set("balance", "consistent_hash");
            table.set("hash", "path");
        }
        "hdr" => {
            let field =
                word.trim_start_matches("hdr(").split([')', ',']).next().unwrap_or_default();
            table.set("balance", "consistent_hash");
            table.set("hash", format!("header:{}", field.to_ascii_lowercase()));
        }
        _ => {
            let why = "a hash is of the client, the path, a field or a cookie";
            draft.untaken(
                &line.place,
                line.shown(),
                why,
                "choose upstream.balance and upstream.hash",
            );
        }
    }
}

/// How origins are checked.
fn checks(section: &Section, server: &Line) -> Map<String, Json> {
    let mut health = Map::new();
    if let Some(check) = section.last(&["option", "httpchk"]) {
        let (method, path) = match (check.word(2), check.word(3)) {
            ("", _) => ("OPTIONS", "/"),
            (path, "") => ("OPTIONS", path),
            (method, path) => (method, path),
        };
        health.insert("path".to_owned(), path.into());
        if method != "GET" {
            health.insert("method".to_owned(), method.into());
        }
    }
    if let Some(send) = section.last(&["http-check", "send"]) {
        if let Some(path) = send.after("uri") {
            health.insert("path".to_owned(), path.into());
        }
        if let Some(method) = send.after("meth") {
            health.insert("method".to_owned(), method.into());
        }
        if let Some(host) = send.words.iter().skip_while(|it| *it != "hdr").nth(2)
            && send.after("hdr").is_some_and(|it| it.eq_ignore_ascii_case("host"))
        {
            health.insert("host".to_owned(), host.as_str().into());
        }
    }
    if let Some(status) = section.last(&["http-check", "expect", "status"]) {
        health.insert("status".to_owned(), status.word(3).into());
    }
    if health.get("method").is_some_and(|it| it == "GET") {
        health.remove("method");
    }
    let of = |key: &str| server.after(key).and_then(|it| millis(it, 1));
    if let Some(ms) = of("inter") {
        health.insert("interval".to_owned(), time(ms).into());
    }
    if let Some(ms) = section.last(&["timeout", "check"]).and_then(|it| millis(it.word(2), 1)) {
        health.insert("timeout".to_owned(), time(ms.min(60_000)).into());
    }
    for key in ["rise", "fall", "port"] {
        if let Some(count) = server.after(key).and_then(|it| it.parse::<u64>().ok()) {
            health.insert(key.to_owned(), count.into());
        }
    }
    health
}

fn sticky(line: &Line, table: &mut Table, draft: &mut Draft) {
    if !line.has("insert") {
        let why = "a cookie is ringway's own, or one that its origin sets whole";
        draft.untaken(&line.place, line.shown(), why, "see upstream.sticky");
        return;
    }
    table.set("sticky", json!({ "cookie": line.word(1) }));
}
