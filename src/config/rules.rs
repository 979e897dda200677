//! Rules of the forward proxy: which texts name a target and its ports.
//!
//! In: text from the file, such as `*.example.org:8000-8999`. Out: a `Rule`, or `None`; each
//! `_FORM` says in words what would have been accepted. Syntax only: nothing here asks DNS.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::names::host_pattern;
use super::{HostPattern, Rule, RuleTarget};

/// Nothing can be reached on port 0.
pub(super) const ANY_PORT: RangeInclusive<u16> = 1..=u16::MAX;

pub(crate) const RULE_FORM: &str =
    "a rule such as \"example.org\", \"*.example.org:443\", \"10.0.0.0/8\" or \"[::1]:8000-8999\"";
pub(super) const TARGET_FORM: &str =
    "a rule without ports such as \"*\", \"example.org\", \"*.example.org\" or \"10.0.0.0/8\"";
pub(super) const PORTS_FORM: &str =
    "a port from 1 to 65535, a range such as \"8000-8999\", or \"*\"";

pub(crate) fn parse_rule(text: &str) -> Option<Rule> {
    if let Some(path) = text.strip_prefix("file:") {
        let target = RuleTarget::File(path.into());
        let rule = Rule { text: text.to_owned(), target, ports: ANY_PORT };
        return (!path.is_empty()).then_some(rule);
    }
    let (target, ports) = match text.rsplit_once(':') {
        // The last colon may be one inside of an IPv6 address.
        Some((target, ports)) if !ports.contains(']') && parse_network(text).is_none() => {
            (target, parse_ports(ports)?)
        }
        _ => (text, ANY_PORT),
    };
    // Without brackets the address could not be told from the port.
    let is_ambiguous = target.len() < text.len() && target.contains(':') && !target.contains(']');
    let target = (!is_ambiguous).then(|| parse_target(target)).flatten()?;
    Some(Rule { text: text.to_owned(), target, ports })
}

fn parse_target(text: &str) -> Option<RuleTarget> {
    if text == "*" {
        return Some(RuleTarget::Any);
    }
    if let Some(network) = parse_network(text) {
        return Some(RuleTarget::Network(network));
    }
    match host_pattern(text)? {
        HostPattern::Any => None,
        HostPattern::Exact(name) => Some(RuleTarget::Exact(name)),
        HostPattern::Suffix(suffix) => Some(RuleTarget::Suffix(suffix)),
    }
}

/// A network or an address. IPv6 may stand in brackets, with the prefix behind them.
pub(super) fn parse_network(text: &str) -> Option<IpNet> {
    if let Some((address, prefix)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let is_v6 = address.contains(':') && (prefix.is_empty() || prefix.starts_with('/'));
        return is_v6.then(|| parse_network(&format!("{address}{prefix}"))).flatten();
    }
    let network = text.parse::<IpNet>().ok();
    let network = network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network.map(|network| network.trunc())
}

/// Of `PORTS_FORM`.
pub(super) fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    if text == "*" {
        return Some(ANY_PORT);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let ports = parse_port(first)?..=parse_port(last)?;
    (!ports.is_empty()).then_some(ports)
}

fn parse_port(text: &str) -> Option<u16> {
    // `parse` would take "+80".
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_a_target_with_or_without_ports() {
        let exact = |name: &str| RuleTarget::Exact(name.to_owned());
        let suffix = |name: &str| RuleTarget::Suffix(name.to_owned());
        let network = |text: &str| RuleTarget::Network(text.parse().unwrap());
        let table = [
            ("*", RuleTarget::Any, ANY_PORT),
            ("*:443", RuleTarget::Any, 443..=443),
            ("Example.ORG", exact("example.org"), ANY_PORT),
            ("example.org.", exact("example.org"), ANY_PORT),
            ("example.org:8000-8999", exact("example.org"), 8000..=8999),
            ("example.org:*", exact("example.org"), ANY_PORT),
            ("localhost:1", exact("localhost"), 1..=1),
            ("*.Example.org", suffix(".example.org"), ANY_PORT),
            ("*.example.org:65535", suffix(".example.org"), 65_535..=65_535),
            ("10.1.2.3/8", network("10.0.0.0/8"), ANY_PORT),
            ("10.0.0.0/8:80", network("10.0.0.0/8"), 80..=80),
            ("192.0.2.1", network("192.0.2.1/32"), ANY_PORT),
            ("192.0.2.1:80-80", network("192.0.2.1/32"), 80..=80),
            ("2001:db8::1/32", network("2001:db8::/32"), ANY_PORT),
            ("::1", network("::1/128"), ANY_PORT),
            ("[::1]", network("::1/128"), ANY_PORT),
            ("[::1]:8080", network("::1/128"), 8080..=8080),
            ("[2001:db8::]/32", network("2001:db8::/32"), ANY_PORT),
            ("[2001:db8::]/32:1-2", network("2001:db8::/32"), 1..=2),
        ];
        for (text, target, ports) in table {
            let rule = Rule { text: text.to_owned(), target, ports };
            assert_eq!(parse_rule(text), Some(rule), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_rule_is_refused() {
        let table = [
            "",
            ":",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:+80",
            "a:b",
            "a:2-1",
            "a:1-",
            "a:-1",
            "a:1-2-3",
            "a b",
            "a..b",
            "*.",
            "*a",
            "a.*",
            "http://a",
            "a/b",
            "10.0.0.256",
            "10.0.0.0/33",
            "10.0.0.0/",
            "2001:db8::/129",
            "2001:db8::/32:80",
            "[::1",
            "[::1]x",
            "[::1]:",
            "[::1]80",
            "[10.0.0.1]",
            "[a]",
            "[[::1]]",
            "é",
        ];
        for text in table {
            assert_eq!(parse_rule(text), None, "{text}");
        }
    }
}
