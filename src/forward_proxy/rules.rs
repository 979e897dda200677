//! A list of rules, indexed by what they are about.
//!
//! In: the rules of one key of the configuration, in file order. Out: those that fit a host or an
//! address, without a look at the others: a list of a hundred thousand names costs a request as
//! many look-ups as the name has dots. What a rule that fits means is for `policy`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net};

use super::addresses::Readings;
use crate::config::{Rule, RuleTarget};

/// The ports of a rule that names none.
const ANY_PORT: RangeInclusive<u16> = 1..=u16::MAX;

#[derive(Debug)]
pub(super) struct RuleSet {
    /// In file order.
    entries: Vec<Entry>,
    // Below, everything is an index into `entries`.
    any: Vec<usize>,
    names: HashMap<Box<str>, Vec<usize>>,
    /// By suffix, each with its leading dot.
    suffixes: HashMap<Box<str>, Vec<usize>>,
    networks: HashMap<IpNet, Vec<usize>>,
    /// The prefix lengths in `networks`, each once.
    prefixes_v4: Vec<u8>,
    prefixes_v6: Vec<u8>,
}

/// One rule, without what the index already knows.
#[derive(Debug)]
pub(super) struct Entry {
    /// `deny 10.0.0.0/8`, for the log.
    pub(super) label: Box<str>,
    /// Place in the file.
    pub(super) index: usize,
    ports: RangeInclusive<u16>,
    /// Only of a network.
    prefix: Option<u8>,
}

/// What is known of a target's address.
#[derive(Clone, Copy)]
pub(super) enum Known<'a> {
    Address(&'a Readings),
    /// Nothing yet.
    Later,
    /// Nothing, and there never will be: a parent resolves the name.
    Never,
}

impl RuleSet {
    /// `key` is the name of the key that holds the rules.
    pub(super) fn new(key: &str, rules: &[Rule]) -> Self {
        let mut set = Self {
            entries: Vec::with_capacity(rules.len()),
            any: Vec::new(),
            names: HashMap::new(),
            suffixes: HashMap::new(),
            networks: HashMap::new(),
            prefixes_v4: Vec::new(),
            prefixes_v6: Vec::new(),
        };
        for rule in rules {
            set.add(key, rule);
        }
        set
    }

    fn add(&mut self, key: &str, rule: &Rule) {
        let index = self.entries.len();
        let mut prefix = None;
        match &rule.target {
            // Its rules have taken its place: see `lists`.
            RuleTarget::File(_) => {}
            RuleTarget::Any => self.any.push(index),
            RuleTarget::Exact(name) => {
                self.names.entry(lower(name)).or_default().push(index);
            }
            RuleTarget::Suffix(suffix) => {
                self.suffixes.entry(lower(suffix)).or_default().push(index);
            }
            RuleTarget::Network(network) => {
                let network = canonical(*network);
                prefix = Some(network.prefix_len());
                self.networks.entry(network).or_default().push(index);
                let prefixes = match network {
                    IpNet::V4(_) => &mut self.prefixes_v4,
                    IpNet::V6(_) => &mut self.prefixes_v6,
                };
                if !prefixes.contains(&network.prefix_len()) {
                    prefixes.push(network.prefix_len());
                }
            }
        }
        let label = format!("{key} {}", rule.text).into();
        self.entries.push(Entry { label, index, ports: rule.ports.clone(), prefix });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The rules for `host`, which is in lower case and has no dot of the root.
    pub(super) fn of_host<'r>(&'r self, host: &str) -> impl Iterator<Item = &'r Entry> {
        let dots = if self.suffixes.is_empty() { 0..0 } else { 1..host.len() };
        let suffixes = dots
            .filter(|dot| host.as_bytes()[*dot] == b'.')
            .filter_map(|dot| self.suffixes.get(&host[dot..]));
        let indices = self.names.get(host).into_iter().chain(suffixes).flatten();
        self.any.iter().chain(indices).map(|index| &self.entries[*index])
    }

    /// The rules for networks that `address`, which is canonical, lies in.
    pub(super) fn of_address(&self, address: IpAddr) -> impl Iterator<Item = &Entry> {
        let prefixes = match address {
            IpAddr::V4(_) => &self.prefixes_v4,
            IpAddr::V6(_) => &self.prefixes_v6,
        };
        prefixes
            .iter()
            .filter_map(move |prefix| IpNet::new(address, *prefix).ok())
            .filter_map(|network| self.networks.get(&network.trunc()))
            .flatten()
            .map(|index| &self.entries[*index])
    }

    /// The first in the file that fits the host or any reading of the address, and the port.
    pub(super) fn first(&self, host: &str, port: u16, known: Known) -> Option<&Entry> {
        let by_address = known.addresses().flat_map(|address| self.of_address(address));
        let rules = self.of_host(host).chain(by_address);
        rules.filter(|rule| rule.takes(port)).min_by_key(|rule| rule.index)
    }

    /// Whether a rule that `counts` fits, or may fit once the address is known. The IPv4 addresses
    /// in an IPv6 one stand for it only all together.
    pub(super) fn holds(&self, host: &str, known: Known, counts: impl Fn(&Entry) -> bool) -> bool {
        let holds = |address| self.of_address(address).any(&counts);
        self.of_host(host).any(&counts)
            || match known {
                Known::Never => false,
                Known::Later => self.of_networks().any(&counts),
                Known::Address(readings) => {
                    holds(readings.address)
                        || (readings.embedded().next().is_some() && readings.embedded().all(holds))
                }
            }
    }

    pub(super) fn of_networks(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.prefix.is_some())
    }
}

impl Known<'_> {
    pub(super) fn addresses(self) -> impl Iterator<Item = IpAddr> {
        let readings = match self {
            Self::Address(readings) => Some(*readings),
            Self::Later | Self::Never => None,
        };
        readings.into_iter().flat_map(Readings::all)
    }
}

impl Entry {
    pub(super) fn takes(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }

    /// A range that covers every port counts as none.
    pub(super) fn names_ports(&self) -> bool {
        self.ports != ANY_PORT
    }

    /// Whether this is a network smaller than all there is.
    pub(super) fn is_part_of_the_net(&self) -> bool {
        self.prefix.is_some_and(|prefix| prefix > 0)
    }
}

fn lower(name: &str) -> Box<str> {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into()
}

/// Addresses are asked about in their IPv4 form, so networks of mapped ones must be in it too.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED_PREFIX: u8 = 96;
    let network = network.trunc();
    let IpNet::V6(mapped) = network else { return network };
    match (mapped.addr().to_ipv4_mapped(), mapped.prefix_len().checked_sub(MAPPED_PREFIX)) {
        (Some(address), Some(prefix)) => Ipv4Net::new(address, prefix).map_or(network, IpNet::V4),
        _ => network,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Reads what the configuration accepts as rules, for tests.
    pub(in crate::forward_proxy) fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| rule(text)).collect()
    }

    fn rule(text: &str) -> Rule {
        let network = |text: &str| {
            let bare = text.replace(['[', ']'], "");
            bare.parse().ok().or_else(|| bare.parse::<IpAddr>().ok().map(IpNet::from))
        };
        let is_bare_v6 = !text.starts_with('[') && network(text).is_some();
        let (target, ports) = match text.rsplit_once(':') {
            Some((target, ports)) if !is_bare_v6 && !ports.contains(']') => (target, Some(ports)),
            _ => (text, None),
        };
        let ports = ports.map_or(ANY_PORT, |ports| {
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            first.parse().unwrap()..=last.parse().unwrap()
        });
        let target = match (target, network(target)) {
            ("*", _) => RuleTarget::Any,
            (_, Some(network)) => RuleTarget::Network(network),
            (name, None) => match name.strip_prefix('*') {
                Some(suffix) => RuleTarget::Suffix(suffix.to_owned()),
                None => RuleTarget::Exact(name.to_owned()),
            },
        };
        Rule { text: text.to_owned(), target, ports }
    }

    fn labels<'r>(entries: impl Iterator<Item = &'r Entry>) -> Vec<&'r str> {
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by_key(|entry| entry.index);
        entries.into_iter().map(|entry| entry.label.strip_prefix("k ").unwrap()).collect()
    }

    #[test]
    fn a_host_gets_its_own_rules_and_no_others() {
        let set = RuleSet::new(
            "k",
            &rules(&[
                "example.org:1",
                "*.example.org",
                "*",
                "*.b.Example.org",
                "Example.org.:2-3",
                "10.0.0.0/8",
                "other.org",
            ]),
        );
        let table: [(&str, &[&str]); 7] = [
            ("example.org", &["example.org:1", "*", "Example.org.:2-3"]),
            ("a.example.org", &["*.example.org", "*"]),
            ("a.b.example.org", &["*.example.org", "*", "*.b.Example.org"]),
            ("b.example.org", &["*.example.org", "*"]),
            (".example.org", &["*"]),
            ("badexample.org", &["*"]),
            ("10.0.0.1", &["*"]),
        ];
        for (host, expected) in table {
            assert_eq!(labels(set.of_host(host)), expected, "{host}");
        }
    }

    #[test]
    fn an_address_gets_the_networks_that_it_lies_in() {
        let set = RuleSet::new(
            "k",
            &rules(&[
                "10.0.0.0/8",
                "10.1.2.3/16:80",
                "10.1.2.3",
                "0.0.0.0/0",
                "[2001:db8::]/32:443",
                "::ffff:192.168.0.0/112",
                "::/0",
                "[::1]:8080",
                "*.1",
                "10.1.2.3:9",
            ]),
        );
        let table: [(&str, &[&str]); 6] = [
            ("10.1.2.3", &["10.0.0.0/8", "10.1.2.3/16:80", "10.1.2.3", "0.0.0.0/0", "10.1.2.3:9"]),
            ("10.1.9.9", &["10.0.0.0/8", "10.1.2.3/16:80", "0.0.0.0/0"]),
            ("192.168.7.7", &["0.0.0.0/0", "::ffff:192.168.0.0/112"]),
            ("2001:db8:ffff::", &["[2001:db8::]/32:443", "::/0"]),
            ("::1", &["::/0", "[::1]:8080"]),
            ("11.0.0.1", &["0.0.0.0/0"]),
        ];
        for (address, expected) in table {
            assert_eq!(labels(set.of_address(address.parse().unwrap())), expected, "{address}");
        }
    }

    #[test]
    fn ports_are_named_unless_they_are_all() {
        let set = RuleSet::new("k", &rules(&["a:443", "b:8000-8999", "c", "d:1-65535"]));
        let named: Vec<bool> = set.entries.iter().map(Entry::names_ports).collect();
        assert_eq!(named, [true, true, false, false]);
        let takes = |port| -> Vec<bool> { set.entries.iter().map(|e| e.takes(port)).collect() };
        assert_eq!(takes(8999), [false, true, true, true]);
        assert_eq!(takes(443), [true, false, true, true]);
    }
}
