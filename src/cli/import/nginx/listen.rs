//! `listen` and `server_name`.
//!
//! In goes a server; out come its listeners as ringway spells them, and its names as hosts of
//! routes. What cannot be one is said.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::super::draft::Draft;
use super::super::values::is_host;
use super::lexer::Directive;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listen {
    pub(super) address: String,
    pub(super) is_tls: bool,
    pub(super) is_default: bool,
    pub(super) has_proxy_protocol: bool,
}

impl Listen {
    /// Whether nobody but this machine reaches it.
    pub(super) fn is_local(&self) -> bool {
        self.address.starts_with("unix:")
            || self.address.parse::<SocketAddr>().is_ok_and(|it| it.ip().is_loopback())
    }

    /// Whether it is that one, or the same port by the other kind of addresses.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let port = |it: &Self| it.address.parse::<SocketAddr>().map(|it| it.port()).ok();
        let is_twin =
            || port(self).is_some() && port(self) == port(other) && self.is_tls == other.is_tls;
        self.address == other.address || is_twin() && self.is_local() == other.is_local()
    }

    /// Of a server that does not say where it listens.
    fn unsaid() -> Self {
        let address = "0.0.0.0:80".to_owned();
        Self { address, is_tls: false, is_default: false, has_proxy_protocol: false }
    }
}

pub(super) fn listens(server: &[Directive], draft: &mut Draft) -> Vec<Listen> {
    let mut found = Vec::new();
    let is_all_tls = server.iter().any(|it| it.name == "ssl" && it.arg(0) == "on");
    for directive in server.iter().filter(|it| it.name == "listen") {
        let has = |word: &str| directive.args.iter().skip(1).any(|arg| arg == word);
        let Some(address) = address(directive.arg(0)) else {
            let why = "an address is an IP address and a port here";
            draft.untaken(&directive.place, directive.shown(), why, "add it to server.listen");
            continue;
        };
        let listen = Listen {
            address,
            is_tls: has("ssl") || is_all_tls,
            is_default: has("default_server") || has("default"),
            has_proxy_protocol: has("proxy_protocol"),
        };
        if let Some(port) = listen.address.strip_prefix("[::]:").filter(|_| has("ipv6only=off")) {
            found.push(Listen { address: format!("0.0.0.0:{port}"), ..listen.clone() });
        }
        found.push(listen);
        if has("quic") || has("http3") {
            found.pop();
            let why = "ringway does not speak HTTP/3";
            draft.untaken(&directive.place, directive.shown(), why, "clients fall back to HTTP/2");
        }
    }
    if found.is_empty() && !server.iter().any(|it| it.name == "listen") {
        found.push(Listen::unsaid());
    }
    found
}

fn address(text: &str) -> Option<String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return path.starts_with('/').then(|| text.to_owned());
    }
    if let Ok(port) = text.parse::<u16>() {
        return Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).to_string());
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.to_string());
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, port.parse().ok()?),
        _ => (text, 80),
    };
    let ip: IpAddr = match host {
        "*" => Ipv4Addr::UNSPECIFIED.into(),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        host => match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => host.parse::<Ipv6Addr>().ok()?.into(),
            None => host.parse::<Ipv4Addr>().ok()?.into(),
        },
    };
    Some(SocketAddr::from((ip, port)).to_string())
}

/// Hosts of routes.
pub(super) fn names(server: &[Directive], draft: &mut Draft) -> Vec<String> {
    let mut names = Vec::new();
    for directive in server.iter().filter(|it| it.name == "server_name") {
        for name in &directive.args {
            let lower = name.to_ascii_lowercase();
            let lower = lower.trim_end_matches('.');
            match lower.strip_prefix('.') {
                // No name at all, or one that no request has.
                _ if lower.is_empty() || lower.starts_with('_') => {}
                Some(rest) if is_host(rest) => {
                    names.extend([rest.to_owned(), format!("*.{rest}")]);
                }
                None if is_host(lower) => names.push(lower.to_owned()),
                _ => {
                    let why = "a host is a name, or \"*.\" and a name";
                    let cure = "write a route for each name that is meant";
                    draft.untaken(&directive.place, format!("server_name {name}"), why, cure);
                }
            }
        }
    }
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_spelled_in_every_way_that_nginx_takes() {
        for (text, expected) in [
            ("80", Some("0.0.0.0:80")),
            ("*:8080", Some("0.0.0.0:8080")),
            ("127.0.0.1", Some("127.0.0.1:80")),
            ("[::]:443", Some("[::]:443")),
            ("[::1]", Some("[::1]:80")),
            ("localhost:81", Some("127.0.0.1:81")),
            ("unix:/run/a.sock", Some("unix:/run/a.sock")),
            ("unix:a", None),
            ("example.org:80", None),
            ("", None),
        ] {
            assert_eq!(address(text).as_deref(), expected, "{text}");
        }
    }
}
