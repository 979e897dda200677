//! What holds for all servers: logs, times, name servers, trusted proxies, TLS.
//!
//! In go the directives outside of servers, and the servers with TLS; out come sections of the
//! draft. What one server has alone, where ringway has one value for all, is said.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::super::draft::Draft;
use super::super::values::{millis, network, time};
use super::body::TIMEOUTS;
use super::lexer::Directive;
use super::server::Server;

pub(super) fn general(all: &[Directive], http: &[Directive], folder: &Path, draft: &mut Draft) {
    let workers = all.iter().find(|it| it.name == "worker_processes");
    if let Some(count) = workers.and_then(|it| it.arg(0).parse::<u32>().ok()) {
        draft.set("server", "workers", count.clamp(1, 1024));
    }
    for (name, key) in TIMEOUTS.into_iter().chain(OF_CLIENTS) {
        let Some(directive) = http.iter().rfind(|it| it.name == name) else { continue };
        match millis(directive.arg(0), 1_000) {
            Some(ms) if ms > 0 => draft.set("timeouts", key, time(ms)),
            _ => {
                let why = "it is no time from 1ms to 1d";
                draft.untaken(&directive.place, directive.shown(), why, "see [timeouts]");
            }
        }
    }
    for directive in http.iter().filter(|it| it.name == "underscores_in_headers") {
        if directive.arg(0) == "on" {
            draft.set("limits", "underscores", "keep");
        }
    }
    logs(all, http, folder, draft);
    dns(http, draft);
    trust(http, draft);
    of_one_server(http, draft);
}

const OF_CLIENTS: [(&str, &str); 2] =
    [("client_header_timeout", "client_head"), ("keepalive_timeout", "client_idle")];

/// What ringway has for all of them.
fn of_one_server(http: &[Directive], draft: &mut Draft) {
    for server in http.iter().filter(|it| it.name == "server") {
        let mut open = vec![server];
        while let Some(directive) = open.pop() {
            open.extend(directive.block());
            let is_for_all = [
                "client_header_timeout",
                "keepalive_timeout",
                "real_ip_header",
                "set_real_ip_from",
                "resolver",
                "underscores_in_headers",
            ];
            let is_log = directive.name == "access_log" && directive.arg(0) != "off";
            if is_for_all.contains(&directive.name.as_str()) || is_log {
                let why = "there is one such value for all servers";
                let cure = "set the key for all of them, or leave it";
                draft.untaken(&directive.place, directive.shown(), why, cure);
            }
        }
    }
    let mut open: Vec<&Directive> = http.iter().collect();
    while let Some(directive) = open.pop() {
        open.extend(directive.block());
        if directive.name == "client_body_timeout" {
            let why = "one time is for reading from clients and origins";
            draft.untaken(&directive.place, directive.shown(), why, "see timeouts.read");
        }
    }
}

fn logs(all: &[Directive], http: &[Directive], folder: &Path, draft: &mut Draft) {
    let path = |it: &Directive| folder.join(it.arg(0)).to_string_lossy().into_owned();
    if let Some(log) = http.iter().find(|it| it.name == "access_log" && it.arg(0) != "off") {
        draft.set("log", "access", true);
        draft.set("log", "access_format", "combined");
        if is_file(log.arg(0)) {
            draft.set("log", "access_file", path(log));
        } else if !log.arg(0).starts_with("/dev/") {
            let why = "a log is a file or standard output";
            draft.untaken(&log.place, log.shown(), why, "let the service manager pass it on");
        }
    }
    let Some(log) = all.iter().chain(http).rfind(|it| it.name == "error_log") else { return };
    let level = match log.arg(1) {
        level @ ("debug" | "info" | "warn" | "error") => level,
        "crit" | "alert" | "emerg" => "error",
        // ringway's lines of level info are about what nginx calls a notice.
        _ => "info",
    };
    if level != "info" {
        draft.set("log", "level", level);
    }
    if is_file(log.arg(0)) {
        draft.set("log", "file", path(log));
    }
}

fn is_file(text: &str) -> bool {
    !text.starts_with("syslog:")
        && !text.starts_with("/dev/")
        && !text.contains('$')
        && !["stderr", "memory", ""].contains(&text)
        && !text.starts_with("memory:")
}

fn dns(http: &[Directive], draft: &mut Draft) {
    let Some(resolver) = http.iter().rfind(|it| it.name == "resolver") else { return };
    let servers: Vec<&str> = resolver
        .args
        .iter()
        .map(|arg| arg.trim_start_matches('[').trim_end_matches(']'))
        .filter(|arg| {
            arg.parse::<std::net::IpAddr>().is_ok() || arg.parse::<std::net::SocketAddr>().is_ok()
        })
        .collect();
    if !servers.is_empty() {
        draft.set("dns", "servers", json!(servers));
    }
    if resolver.args.iter().any(|arg| arg == "ipv6=off") {
        draft.set("dns", "family", "v4");
    }
}

fn trust(http: &[Directive], draft: &mut Draft) {
    let mut networks: Vec<String> = Vec::new();
    for directive in http.iter().filter(|it| it.name == "set_real_ip_from") {
        match network(directive.arg(0)) {
            Some(network) => networks.push(network),
            None if directive.arg(0) == "unix:" => networks.push("unix".to_owned()),
            None => {
                let why = "a proxy is trusted by its network";
                draft.untaken(
                    &directive.place,
                    directive.shown(),
                    why,
                    "see server.trusted_proxies",
                );
            }
        }
    }
    if !networks.is_empty() {
        draft.set("server", "trusted_proxies", networks);
    }
    if let Some(header) = http.iter().rfind(|it| it.name == "real_ip_header") {
        match header.arg(0) {
            "proxy_protocol" => {
                let why = "a listener that takes the PROXY protocol takes the client from it";
                draft.unneeded(&header.place, "real_ip_header proxy_protocol", why);
            }
            name => draft.set("server", "client_ip_header", name),
        }
    }
}

pub(super) fn tls(servers: &mut [Server<'_>], folder: &Path, draft: &mut Draft) {
    let mut certificates: Vec<(Json, Json, Vec<String>)> = Vec::new();
    let mut order: Vec<&Server<'_>> = servers.iter().filter(|it| it.has_tls()).collect();
    // Who asks for no name is shown the first one.
    order.sort_by_key(|it| !it.listens.iter().any(|listen| listen.is_tls && listen.is_default));
    for server in order {
        let chains = server.scope.all(&["ssl_certificate"]);
        let keys = server.scope.all(&["ssl_certificate_key"]);
        if chains.is_empty() || chains.len() != keys.len() {
            let why = "it has TLS, and no certificate with its key";
            let cure = "add one to [[tls.certificates]], or order it by tls.acme";
            draft.untaken(&server.directive.place, "server", why, cure);
        }
        for (chain, key) in chains.iter().zip(&keys) {
            let path =
                |it: &Directive| Json::from(folder.join(it.arg(0)).to_string_lossy().into_owned());
            if chain.arg(0).contains(['$', ':']) || key.arg(0).contains(['$', ':']) {
                let why = "a certificate is two files";
                draft.untaken(
                    &chain.place,
                    chain.shown(),
                    why,
                    "name them in [[tls.certificates]]",
                );
                continue;
            }
            let (chain, key) = (path(chain), path(key));
            match certificates.iter_mut().find(|it| it.0 == chain && it.1 == key) {
                Some((.., names)) => names.extend(server.names.clone()),
                None => certificates.push((chain, key, server.names.clone())),
            }
        }
    }
    if !certificates.is_empty() {
        let spell = |(chain, key, names): (Json, Json, Vec<String>)| {
            if names.is_empty() {
                json!({ "chain": chain, "key": key })
            } else {
                json!({ "chain": chain, "key": key, "names": names })
            }
        };
        let certificates: Vec<Json> = certificates.into_iter().map(spell).collect();
        draft.set("tls", "certificates", certificates);
    }
    versions(servers, draft);
    clients(servers, folder, draft);
}

fn versions(servers: &[Server<'_>], draft: &mut Draft) {
    let all: Vec<&Directive> =
        servers.iter().filter_map(|server| server.scope.last("ssl_protocols")).collect();
    let has = |it: &Directive, word: &str| it.args.iter().any(|arg| arg == word);
    if !all.is_empty() && all.iter().all(|it| !has(it, "TLSv1.2") && has(it, "TLSv1.3")) {
        draft.set("tls", "min_version", "1.3");
    }
    for it in all.iter().filter(|it| has(it, "TLSv1") || has(it, "TLSv1.1")) {
        let why = "TLS 1.0 and 1.1 are not spoken";
        draft.untaken(&it.place, it.shown(), why, "have such clients renewed");
    }
}

/// Certificates of clients are asked for at all listeners alike.
fn clients(servers: &mut [Server<'_>], folder: &Path, draft: &mut Draft) {
    let asks = |it: &Server<'_>| {
        it.scope.last("ssl_verify_client").map_or("off".to_owned(), |it| it.arg(0).to_owned())
    };
    let of_tls: Vec<&Server<'_>> = servers.iter().filter(|it| it.has_tls()).collect();
    let Some(first) = of_tls.iter().find(|it| asks(it) != "off") else { return };
    let is_alike = of_tls.iter().all(|it| asks(it) == asks(first));
    let scope = &first.scope;
    let Some(ca) = scope.last("ssl_client_certificate") else { return };
    let path = |it: &Directive| folder.join(it.arg(0)).to_string_lossy().into_owned();
    draft.set("tls", "client_ca", path(ca));
    if let Some(crl) = scope.last("ssl_crl") {
        draft.set("tls", "client_crl", path(crl));
    }
    let is_required = asks(first) == "on" && is_alike;
    draft.set("tls", "client_auth", if is_required { "required" } else { "optional" });
    if is_alike {
        return;
    }
    for server in servers.iter_mut().filter(|it| it.has_tls()) {
        if let Some(verify) = server.scope.last("ssl_verify_client").filter(|it| it.arg(0) == "on")
        {
            server.is_closed = true;
            let why = "certificates of clients are asked for by all servers or by none";
            let cure = "run a second ringway for it; it is answered 403 now";
            draft.untaken(&verify.place, verify.shown(), why, cure);
        }
    }
}
