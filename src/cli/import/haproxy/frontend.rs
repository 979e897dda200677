//! `bind`: where the frontends listen, and with which certificates.
//!
//! In go the frontends; out come listeners of the draft. What of a line a listener cannot say is
//! said. Certificates are looked for only where a line names a folder.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde_json::{Value as Json, json};

use super::super::draft::Draft;
use super::sections::{Line, Section};

pub(super) fn listeners(faces: &[&Section], draft: &mut Draft) {
    let (mut plain, mut tls, mut certificates) = (Vec::new(), Vec::new(), Vec::new());
    for section in faces {
        for line in section.lines.iter().filter(|line| line.word(0) == "bind") {
            bind(line, &mut plain, &mut tls, draft);
            if line.has("ssl") {
                certificates.extend(pems(line, draft));
            }
        }
    }
    let has_tls = !tls.is_empty();
    draft.set("server", "host", "");
    draft.set("server", "listen", plain.clone());
    if has_tls {
        draft.set("server", "listen_tls", tls);
        certificates.dedup();
        draft.set("tls", "certificates", certificates);
    }
    let redirects = faces.iter().flat_map(|section| section.all()).find(|line| is_redirect(line));
    match redirects {
        Some(_) if has_tls && !plain.is_empty() => draft.set("server", "redirect_https", true),
        Some(line) => {
            let why = "no listener here has TLS, so that a redirect would come back again";
            let cure = "set hooks.redirect for who comes without TLS, where that is known";
            draft.untaken(&line.place, line.shown(), why, cure);
        }
        None => {}
    }
}

/// Whether a line sends clients without TLS to TLS.
pub(super) fn is_redirect(line: &Line) -> bool {
    let words = if line.word(0) == "http-request" { line.rest(1) } else { line.rest(0) };
    let is_scheme =
        words.iter().zip(["redirect", "scheme", "https"]).filter(|(a, b)| a == b).count() == 3;
    let condition: String =
        words.iter().skip_while(|it| *it != "if" && *it != "unless").cloned().collect();
    is_scheme
        && matches!(condition.as_str(), "" | "if!{ssl_fc}" | "unless{ssl_fc}" | "if{ssl_fc,not}")
}

fn bind(line: &Line, plain: &mut Vec<Json>, tls: &mut Vec<Json>, draft: &mut Draft) {
    for text in line.word(1).split(',') {
        let Some(address) = address(text) else {
            let why = "a listener is an IP address and a port, or a Unix socket";
            draft.untaken(&line.place, line.shown(), why, "add it to server.listen");
            continue;
        };
        let spelled = if line.has("accept-proxy") {
            json!({ "address": address, "proxy_protocol": "v1v2" })
        } else {
            Json::from(address)
        };
        let list = if line.has("ssl") { &mut *tls } else { &mut *plain };
        if !list.contains(&spelled) {
            list.push(spelled);
        }
    }
    if line.has("verify") && line.after("verify") == Some("required") {
        if let Some(ca) = line.after("ca-file") {
            draft.set("tls", "client_auth", "required");
            draft.set("tls", "client_ca", ca);
        } else {
            let why = "it names no authority";
            draft.untaken(&line.place, line.shown(), why, "set tls.client_ca and tls.client_auth");
        }
    }
}

fn address(text: &str) -> Option<String> {
    if let Some(path) = text.strip_prefix("unix@").or(text.starts_with('/').then_some(text)) {
        return path.starts_with('/').then(|| format!("unix:{path}"));
    }
    let text = ["ipv4@", "ipv6@"].iter().find_map(|it| text.strip_prefix(it)).unwrap_or(text);
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip: IpAddr = match host {
        "" | "*" => "0.0.0.0".parse().ok()?,
        "localhost" => "127.0.0.1".parse().ok()?,
        host => host.parse().ok()?,
    };
    Some(SocketAddr::from((ip, port)).to_string())
}

/// A file of haproxy's has both the chain and the key.
fn pems(line: &Line, draft: &mut Draft) -> Vec<Json> {
    let mut found = Vec::new();
    let mut words = line.words.iter();
    while let Some(word) = words.next() {
        if word != "crt" {
            continue;
        }
        let Some(path) = words.next() else { break };
        let mut files = vec![path.clone()];
        if Path::new(path).is_dir() {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            files = entries
                .map(|entry| entry.path().to_string_lossy().into_owned())
                .filter(|name| Path::new(name).extension().is_some_and(|it| it == "pem"))
                .collect();
            files.sort_unstable();
        } else if path.ends_with('/') {
            let why = "the folder cannot be read here";
            draft.untaken(&line.place, line.shown(), why, "name its files in [[tls.certificates]]");
            continue;
        }
        found.extend(files.into_iter().map(|file| json!({ "chain": file, "key": file })));
    }
    if found.is_empty() {
        let why = "it has TLS, and no certificate that was found";
        draft.untaken(&line.place, line.shown(), why, "add one to [[tls.certificates]]");
    }
    found
}
