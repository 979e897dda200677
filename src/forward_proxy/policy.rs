//! Which targets the forward proxy reaches, and through whom.
//!
//! In: a host as `target` writes it, a port, whether the method is CONNECT, and the address that
//! would be dialled. Out: a `Verdict`, or the index of a parent. Names are judged before anything
//! is resolved, and every address again just before it is dialled: what a name server says the
//! second time decides nothing that was not looked at. Nothing here resolves or dials.
//!
//! The steps, of which the first that settles the matter decides; in quotes the name of the
//! verdict in the log:
//!
//! 0. A host that is a number but no plain IPv4 address (`127.1`, `0x7f000001`) is denied:
//!    "number".
//! 1. A listener of ringway or its admin address is denied: "own_address". Where one takes every
//!    address, that is its port at any address of this machine; and dialling `0.0.0.0` or `::`
//!    is dialling loopback.
//! 2. The first `[[forward.rule]]` that is for the user and fits the target denies, "rule[N] RULE",
//!    or allows, which passes over `deny` and `allow`. Where none decides, the first rule of `deny`
//!    that fits the host or the address, and the port, denies: "deny RULE".
//! 3. An address of a class that is closed is denied: "loopback" without `allow_loopback`,
//!    "private" without `allow_private`, and always "unspecified", "link_local", "metadata" (of
//!    clouds), "multicast" and "reserved", with the broadcast address.
//! 4. CONNECT to a port that is not in `connect_ports` and that no fitting rule of `allow` names,
//!    nor the `[[forward.rule]]` that allows, is denied: "connect_ports".
//! 5. Where `allow` has rules and step 2 has not allowed, one must fit the host or the address, and
//!    the port: "allow".
//!
//! Everything else is allowed.
//!
//! Step 3 is skipped for an address that a network in `allow`, smaller than all there is, contains
//! (with the port). A rule that names a host never opens an address: the owner of its name server
//! would choose which. An IPv6 address with an IPv4 address in it is judged as both: one reading
//! that is denied denies it. A name ending in `localhost` is loopback whatever resolves it (RFC
//! 6761 §6.3).

use std::borrow::Cow;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;

use crate::config::Config;

use super::addresses::{Class, Readings};
use super::rules::{Known, RuleSet};
use super::target::ends_in_number;
use super::user_rules::{Ruling, UserRules};
use super::users::UserId;

/// What may be reached, compiled once per configuration.
#[derive(Debug)]
pub(crate) struct Policy {
    /// Where ringway itself listens. Canonical.
    own: Vec<SocketAddr>,
    /// Whether an address is one of this machine's.
    is_local: fn(IpAddr) -> bool,
    rules: UserRules,
    deny: RuleSet,
    allow: RuleSet,
    connect_ports: Vec<RangeInclusive<u16>>,
    allow_loopback: bool,
    allow_private: bool,
    parents: Vec<Parent>,
}

/// Which hosts one parent is for.
#[derive(Debug)]
struct Parent {
    domains: RuleSet,
    except: RuleSet,
}

/// May this be dialled?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'p> {
    Allowed,
    /// With the name of what denies it. For the log only: it tells a client about the network.
    Denied(&'p str),
}

/// Who asks, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// Of the users by whom the policy was made. `None` where nobody is asked who they are.
    pub user: Option<UserId>,
    pub is_connect: bool,
}

impl Policy {
    /// `own` are the addresses on which ringway listens, once they are bound: its listeners and
    /// its admin address. One that something in front of this machine translates to a listener
    /// is not among them and needs a rule in `deny`.
    pub(crate) fn new(config: &Config, own: Vec<SocketAddr>) -> Self {
        Self::with_locality(config, own, is_local)
    }

    /// With rules by user, which come before the lists for everybody.
    pub(super) fn with_rules(self, rules: UserRules) -> Self {
        Self { rules, ..self }
    }

    fn with_locality(config: &Config, own: Vec<SocketAddr>, is_local: fn(IpAddr) -> bool) -> Self {
        let canonical = |own: SocketAddr| SocketAddr::new(own.ip().to_canonical(), own.port());
        let forward = &config.forward;
        let parent = |parent: &crate::config::ParentConfig| Parent {
            domains: RuleSet::new("domains", &parent.domains),
            except: RuleSet::new("except", &parent.except),
        };
        Self {
            own: own.into_iter().map(canonical).collect(),
            is_local,
            rules: UserRules::default(),
            deny: RuleSet::new("deny", &forward.deny),
            allow: RuleSet::new("allow", &forward.allow),
            connect_ports: forward.connect_ports.clone(),
            allow_loopback: forward.allow_loopback,
            allow_private: forward.allow_private,
            parents: config.parents.iter().map(parent).collect(),
        }
    }

    /// Before `host` is resolved. For a name, `Allowed` means only that a name server may be
    /// asked: `judge_address` has the last word. For an address it is the whole verdict.
    pub(crate) fn judge_name(&self, host: &str, port: u16, asked: Asked) -> Verdict<'_> {
        self.judge_host(host, port, asked, Known::Later)
    }

    /// Where a parent resolves `host`, so that no address will ever be seen here. The classes of
    /// addresses and rules for networks then hold only for hosts that are addresses themselves.
    pub(crate) fn judge_unresolved(&self, host: &str, port: u16, asked: Asked) -> Verdict<'_> {
        self.judge_host(host, port, asked, Known::Never)
    }

    /// Just before `address`, which is what `host` was resolved to, is dialled.
    pub(crate) fn judge_address(
        &self,
        host: &str,
        address: SocketAddr,
        asked: Asked,
    ) -> Verdict<'_> {
        let readings = Readings::of(address.ip());
        self.judge(&normal(host), address.port(), asked, Known::Address(&readings))
    }

    /// The first parent that is for `host`; its index is that in `Config::parents`.
    pub(crate) fn parent(&self, host: &str) -> Option<usize> {
        let host = normal(host);
        let address = host.parse().ok().map(|address: IpAddr| address.to_canonical());
        let holds = |rules: &RuleSet| {
            rules.of_host(&host).next().is_some()
                || address.is_some_and(|address| rules.of_address(address).next().is_some())
        };
        self.parents.iter().position(|parent| holds(&parent.domains) && !holds(&parent.except))
    }

    fn judge_host(&self, host: &str, port: u16, asked: Asked, known: Known) -> Verdict<'_> {
        let host = normal(host);
        if let Ok(address) = host.parse() {
            let readings = Readings::of(address);
            return self.judge(&host, port, asked, Known::Address(&readings));
        }
        if ends_in_number(&host) {
            return Verdict::Denied("number");
        }
        self.judge(&host, port, asked, known)
    }

    fn judge(&self, host: &str, port: u16, asked: Asked, known: Known) -> Verdict<'_> {
        if known.addresses().any(|address| self.is_own(address, port)) {
            return Verdict::Denied("own_address");
        }
        let ruling = self.rules.ruling(host, port, asked.user, known);
        let denying = match ruling {
            Ruling::Denied(rule) => Some(rule),
            Ruling::Silent => self.deny.first(host, port, known),
            Ruling::Allowed { .. } | Ruling::Later => None,
        };
        if let Some(rule) = denying {
            return Verdict::Denied(&rule.label);
        }
        if let Some(class) = self.closed_class(host, port, known) {
            return Verdict::Denied(class.name());
        }
        let (is_ruled, has_port) = match ruling {
            Ruling::Later => return Verdict::Allowed,
            Ruling::Allowed { names_port, .. } => (true, names_port),
            Ruling::Denied(_) | Ruling::Silent => (false, false),
        };
        if asked.is_connect
            && !has_port
            && !self.connect_ports.iter().any(|ports| ports.contains(&port))
            && !self.allow.holds(host, known, |rule| rule.takes(port) && rule.names_ports())
        {
            return Verdict::Denied("connect_ports");
        }
        let is_listed = || self.allow.holds(host, known, |rule| rule.takes(port));
        if !is_ruled && !self.allow.is_empty() && !is_listed() {
            return Verdict::Denied("allow");
        }
        Verdict::Allowed
    }

    /// The rule for the user that allows a target, for whoever explains it.
    pub(crate) fn allowing_rule(
        &self,
        host: &str,
        port: u16,
        address: Option<IpAddr>,
        user: Option<UserId>,
    ) -> Option<&str> {
        let host = normal(host);
        let readings = address.or_else(|| host.parse().ok()).map(Readings::of);
        let known = readings.as_ref().map_or(Known::Later, Known::Address);
        match self.rules.ruling(&host, port, user, known) {
            Ruling::Allowed { rule, .. } => Some(&rule.label),
            Ruling::Denied(_) | Ruling::Later | Ruling::Silent => None,
        }
    }

    /// Whether dialling `address` would reach ringway itself.
    pub(crate) fn is_own(&self, address: IpAddr, port: u16) -> bool {
        // The kernel dials loopback for the unspecified address.
        let address = match address {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            address => address,
        };
        let reaches = |own: &SocketAddr| match own.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.is_ipv4() && self.is_here(address),
            // It takes IPv4 too, unless it was told not to.
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => self.is_here(address),
            own => own == address,
        };
        self.own.iter().any(|own| own.port() == port && reaches(own))
    }

    fn is_here(&self, address: IpAddr) -> bool {
        address.is_loopback() || (self.is_local)(address)
    }

    /// The class that keeps the target from being dialled.
    fn closed_class(&self, host: &str, port: u16, known: Known) -> Option<Class> {
        let closed = |address: IpAddr| {
            let class = Class::of(address);
            let is_open = match class {
                Class::Public => true,
                Class::Loopback if self.allow_loopback => true,
                Class::Private if self.allow_private => true,
                _ => self
                    .allow
                    .of_address(address)
                    .any(|rule| rule.takes(port) && rule.is_part_of_the_net()),
            };
            (!is_open).then_some(class)
        };
        if let Known::Address(readings) = known {
            return readings.all().find_map(closed);
        }
        let is_loopback = host == "localhost" || host.ends_with(".localhost");
        // Which of the two it will be is not known, so one that is open is enough.
        let class = closed(Ipv4Addr::LOCALHOST.into()).and(closed(Ipv6Addr::LOCALHOST.into()));
        class.filter(|_| is_loopback)
    }
}

#[cfg(test)]
impl Verdict<'_> {
    pub(crate) fn is_allowed(self) -> bool {
        self == Self::Allowed
    }
}

/// Callers hand over hosts as `target` writes them; others get their spelling here, because a
/// name in capitals must not slip past a rule.
fn normal(host: &str) -> Cow<'_, str> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    if bare.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(bare.to_ascii_lowercase())
    } else {
        Cow::Borrowed(bare)
    }
}

/// Three system calls and no waiting, and only where the port is that of a listener which takes
/// every address. Any other failure (no descriptor left, say) counts as local, which denies; so
/// does every address where `net.ipv4.ip_nonlocal_bind` is set.
fn is_local(address: IpAddr) -> bool {
    match UdpSocket::bind(SocketAddr::new(address, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::AddrNotAvailable,
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::tests::rules;
    use super::super::users::Users;
    use super::*;
    use crate::config::{ForwardConfig, ParentAddress, ParentConfig};

    /// Addresses for names and addresses that no rule is about.
    const ELSEWHERE: &str = "93.184.216.34";

    fn asks(is_connect: bool) -> Asked {
        Asked { user: None, is_connect }
    }

    fn forward() -> ForwardConfig {
        Config::default().forward
    }

    fn policy(forward: ForwardConfig) -> Policy {
        policy_at(forward, &[])
    }

    /// This machine has the addresses 192.0.2.10 and 2001:db8::10 besides loopback.
    fn policy_at(forward: ForwardConfig, own: &[&str]) -> Policy {
        let own = own.iter().map(|text| text.parse().unwrap()).collect();
        let config = Config { forward, ..Config::default() };
        Policy::with_locality(&config, own, |address| {
            ["192.0.2.10", "2001:db8::10"]
                .map(|text| text.parse::<IpAddr>().unwrap())
                .contains(&address)
        })
    }

    /// What a GET of `host:port` gets, where the host is a name that resolves to `address`.
    fn judged<'p>(policy: &'p Policy, host: &str, address: &str, port: u16) -> Verdict<'p> {
        match policy.judge_name(host, port, asks(false)) {
            Verdict::Allowed => policy.judge_address(
                host,
                SocketAddr::new(address.parse().unwrap(), port),
                asks(false),
            ),
            denied @ Verdict::Denied(_) => denied,
        }
    }

    /// What a request for an address gets; the two judges must agree.
    fn literal<'p>(policy: &'p Policy, address: &str, port: u16, is_connect: bool) -> Verdict<'p> {
        let dialled = SocketAddr::new(address.parse().unwrap(), port);
        let verdict = policy.judge_address(address, dialled, asks(is_connect));
        assert_eq!(policy.judge_name(address, port, asks(is_connect)), verdict, "{address}");
        assert_eq!(policy.judge_unresolved(address, port, asks(is_connect)), verdict, "{address}");
        verdict
    }

    #[test]
    fn nothing_leads_to_loopback_or_metadata_by_default() {
        let policy = policy(forward());
        let table = [
            ("127.0.0.1", "loopback"),
            ("127.1.2.3", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::127.0.0.1", "loopback"),
            ("::ffff:0:127.0.0.1", "loopback"),
            ("64:ff9b::127.0.0.1", "loopback"),
            ("2002:7f00:1::", "loopback"),
            ("2001:0:5db8:d822::80ff:fffe", "loopback"),
            ("2001:0:7f00:1::a247:27dd", "loopback"),
            ("2600::5efe:127.0.0.1", "loopback"),
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("::", "unspecified"),
            ("::ffff:0.0.0.0", "unspecified"),
            ("::2", "unspecified"),
            ("169.254.169.254", "link_local"),
            ("::ffff:169.254.169.254", "link_local"),
            ("64:ff9b::169.254.169.254", "link_local"),
            ("2002:a9fe:a9fe::1", "link_local"),
            ("fe80::1", "link_local"),
            ("fd00:ec2::254", "metadata"),
            ("100.100.100.200", "metadata"),
            ("::ffff:100.100.100.200", "metadata"),
            ("192.0.0.192", "metadata"),
            ("168.63.129.16", "metadata"),
            ("224.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("255.255.255.255", "reserved"),
            ("240.0.0.1", "reserved"),
            ("64:ff9b:1::7f00:1", "reserved"),
        ];
        for (address, expected) in table {
            let expected = Verdict::Denied(expected);
            assert_eq!(literal(&policy, address, 80, false), expected, "{address}");
            // A name that resolves to it fares no better, however often it did not before.
            assert!(policy.judge_name("rebound.example", 80, asks(false)).is_allowed());
            assert_eq!(judged(&policy, "rebound.example", ELSEWHERE, 80), Verdict::Allowed);
            assert_eq!(judged(&policy, "rebound.example", address, 80), expected, "{address}");
        }
    }

    #[test]
    fn public_and_private_addresses_are_open_by_default() {
        let policy = policy(forward());
        for address in ["10.0.0.1", "100.64.0.1", "fd00::1", ELSEWHERE, "2600::1", "2002:a00:1::"] {
            assert_eq!(literal(&policy, address, 80, false), Verdict::Allowed, "{address}");
        }
    }

    #[test]
    fn private_addresses_can_be_closed() {
        let policy = policy(ForwardConfig { allow_private: false, ..forward() });
        for address in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "fd00::1",
            "fec0::1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:c0a8:101::1",
        ] {
            let verdict = literal(&policy, address, 80, false);
            assert_eq!(verdict, Verdict::Denied("private"), "{address}");
        }
        assert_eq!(literal(&policy, ELSEWHERE, 80, false), Verdict::Allowed);
    }

    #[test]
    fn numbers_that_are_no_plain_addresses_are_denied_as_hosts() {
        let open = ForwardConfig { allow_loopback: true, allow: rules(&["*"]), ..forward() };
        let policy = policy(open);
        for host in [
            "127.1",
            "127.0.1",
            "2130706433",
            "017700000001",
            "0x7f000001",
            "0X7f.1",
            "0x7f.0.0.0x1",
            "0177.0.0.1",
            "127.0.0.01",
            "127.0.0.1.1",
            "0",
            "0x",
            "1.example.1.",
        ] {
            for is_connect in [false, true] {
                let expected = Verdict::Denied("number");
                assert_eq!(policy.judge_name(host, 443, asks(is_connect)), expected, "{host}");
                assert_eq!(
                    policy.judge_unresolved(host, 443, asks(is_connect)),
                    expected,
                    "{host}"
                );
            }
        }
        assert_eq!(policy.judge_name("127.0.0.1", 443, asks(true)), Verdict::Allowed);
    }

    #[test]
    fn localhost_is_loopback_before_anybody_resolves_it() {
        let closed = policy(forward());
        for host in ["localhost", "LOCALHOST.", "a.localhost", "[::1]"] {
            let expected = Verdict::Denied("loopback");
            assert_eq!(closed.judge_name(host, 80, asks(false)), expected, "{host}");
            assert_eq!(closed.judge_unresolved(host, 80, asks(false)), expected, "{host}");
        }
        for host in ["notlocalhost", "localhost.example", "localhost.localdomain"] {
            assert!(closed.judge_name(host, 80, asks(false)).is_allowed(), "{host}");
            assert_eq!(judged(&closed, host, "127.0.0.1", 80), Verdict::Denied("loopback"));
        }
        let open = policy(ForwardConfig { allow_loopback: true, ..forward() });
        assert_eq!(judged(&open, "localhost", "127.0.0.1", 80), Verdict::Allowed);
        let half = ForwardConfig { allow: rules(&["[::1]:3000", "localhost"]), ..forward() };
        let half = policy(half);
        assert_eq!(judged(&half, "localhost", "::1", 3000), Verdict::Allowed);
        assert_eq!(judged(&half, "localhost", "127.0.0.1", 3000), Verdict::Denied("loopback"));
        assert_eq!(judged(&half, "localhost", "::1", 3001), Verdict::Denied("loopback"));
    }

    #[test]
    fn a_network_in_allow_opens_its_class_and_a_name_does_not() {
        let table = [
            // (rule, address that `a.example` resolves to, port, verdict)
            ("127.0.0.0/8", "127.0.0.1", 80, Verdict::Allowed),
            ("127.0.0.1:80", "127.0.0.1", 80, Verdict::Allowed),
            // Settled before the name is resolved: no rule takes the port.
            ("127.0.0.1:80", "127.0.0.1", 81, Verdict::Denied("allow")),
            ("127.0.0.1", "::ffff:127.0.0.1", 80, Verdict::Allowed),
            ("::ffff:127.0.0.1", "127.0.0.1", 80, Verdict::Allowed),
            ("127.0.0.1", "::1", 80, Verdict::Denied("loopback")),
            ("::1", "::1", 80, Verdict::Allowed),
            ("169.254.0.0/16", "169.254.169.254", 80, Verdict::Allowed),
            ("100.100.100.200", "100.100.100.200", 80, Verdict::Allowed),
            ("0.0.0.0/1", "127.0.0.1", 80, Verdict::Allowed),
            ("0.0.0.0/0", "127.0.0.1", 80, Verdict::Denied("loopback")),
            ("0.0.0.0/0", ELSEWHERE, 80, Verdict::Allowed),
            ("::/0", "::1", 80, Verdict::Denied("loopback")),
            ("*", "127.0.0.1", 80, Verdict::Denied("loopback")),
            ("*", ELSEWHERE, 80, Verdict::Allowed),
            ("a.example", "127.0.0.1", 80, Verdict::Denied("loopback")),
            ("*.example", "169.254.169.254", 80, Verdict::Denied("link_local")),
            ("*.example", ELSEWHERE, 80, Verdict::Allowed),
            // The tunnel's own network says nothing about the address at its end.
            ("2002::/16", "2002:7f00:1::", 80, Verdict::Denied("loopback")),
            ("127.0.0.0/8", "2002:7f00:1::", 80, Verdict::Allowed),
            ("127.0.0.0/8", "2001:0:5db8:d822::80ff:fffe", 80, Verdict::Denied("allow")),
            ("2001::/32", "2001:0:5db8:d822::a247:27dd", 80, Verdict::Allowed),
            ("93.184.216.34", "2001:0:5db8:d822::f7f7:f7f7", 80, Verdict::Denied("allow")),
        ];
        for (rule, address, port, expected) in table {
            let policy = policy(ForwardConfig { allow: rules(&[rule]), ..forward() });
            assert_eq!(judged(&policy, "a.example", address, port), expected, "{rule} {address}");
        }
    }

    #[test]
    fn allow_lists_everything_that_is_reachable() {
        let allow = rules(&["example.org:80", "*.example.net", "203.0.113.0/24:8000-8001"]);
        let policy = policy(ForwardConfig { allow, ..forward() });
        let table = [
            ("example.org", ELSEWHERE, 80, true),
            ("EXAMPLE.org.", ELSEWHERE, 80, true),
            ("example.org", ELSEWHERE, 81, false),
            ("a.example.org", ELSEWHERE, 80, false),
            ("example.net", ELSEWHERE, 80, false),
            ("a.example.net", ELSEWHERE, 80, true),
            ("a.b.example.net", ELSEWHERE, 65_535, true),
            ("badexample.net", ELSEWHERE, 80, false),
            ("other.example", "203.0.113.7", 8001, true),
            ("other.example", "203.0.113.7", 8002, false),
            ("other.example", "203.0.114.7", 8001, false),
            ("203.0.113.7", "203.0.113.7", 8000, true),
        ];
        for (host, address, port, is_allowed) in table {
            let expected = if is_allowed { Verdict::Allowed } else { Verdict::Denied("allow") };
            assert_eq!(judged(&policy, host, address, port), expected, "{host}:{port} {address}");
        }
    }

    #[test]
    fn a_name_that_only_a_network_could_allow_is_denied_where_nobody_resolves_it_here() {
        let allow = rules(&["203.0.113.0/24:8443", "example.org"]);
        let policy = policy(ForwardConfig { allow, ..forward() });
        assert_eq!(policy.judge_name("a.example", 8443, asks(true)), Verdict::Allowed);
        assert_eq!(policy.judge_name("a.example", 8444, asks(false)), Verdict::Denied("allow"));
        assert_eq!(
            policy.judge_unresolved("a.example", 8443, asks(false)),
            Verdict::Denied("allow")
        );
        let expected = Verdict::Denied("connect_ports");
        assert_eq!(policy.judge_unresolved("a.example", 8443, asks(true)), expected);
        assert_eq!(policy.judge_unresolved("example.org", 443, asks(true)), Verdict::Allowed);
    }

    #[test]
    fn the_first_rule_of_deny_that_fits_decides_and_stands_before_allow() {
        let deny = rules(&[
            "*.ads.example:80",
            "10.9.0.0/16",
            "*.example",
            "[2001:db8::]/32:443",
            "64:ff9b::/96",
            "*:25",
            "198.51.100.1",
        ]);
        let allow = rules(&["*", "10.0.0.0/8", "127.0.0.0/8"]);
        let policy = policy(ForwardConfig { allow, deny, ..forward() });
        let denied = Verdict::Denied;
        let table = [
            ("x.ads.example", ELSEWHERE, 80, denied("deny *.ads.example:80")),
            ("X.ADS.example.", ELSEWHERE, 80, denied("deny *.ads.example:80")),
            ("x.ads.example", ELSEWHERE, 81, denied("deny *.example")),
            ("example", ELSEWHERE, 80, Verdict::Allowed),
            ("a.org", ELSEWHERE, 25, denied("deny *:25")),
            ("a.org", "10.9.1.1", 25, denied("deny *:25")),
            ("a.org", "10.9.1.1", 80, denied("deny 10.9.0.0/16")),
            ("a.org", "::ffff:10.9.1.1", 80, denied("deny 10.9.0.0/16")),
            ("a.org", "64:ff9b::10.9.1.1", 80, denied("deny 10.9.0.0/16")),
            ("a.org", "64:ff9b::10.8.1.1", 80, denied("deny 64:ff9b::/96")),
            ("a.org", "10.8.1.1", 80, Verdict::Allowed),
            ("a.org", "2001:db8::5", 443, denied("deny [2001:db8::]/32:443")),
            ("a.org", "2001:db8::5", 80, Verdict::Allowed),
            ("a.org", "2002:c633:6401::", 80, denied("deny 198.51.100.1")),
            ("198.51.100.1", "198.51.100.1", 80, denied("deny 198.51.100.1")),
            ("a.org", "127.0.0.1", 80, Verdict::Allowed),
        ];
        for (host, address, port, expected) in table {
            assert_eq!(judged(&policy, host, address, port), expected, "{host}:{port} {address}");
        }
        let both = policy_at(
            ForwardConfig { deny: rules(&["10.0.0.0/8", "*.example"]), ..forward() },
            &[],
        );
        let address = "10.0.0.1:80".parse().unwrap();
        let verdict = both.judge_address("a.example", address, asks(false));
        assert_eq!(verdict, denied("deny 10.0.0.0/8"), "file order, whatever it is about");
    }

    #[test]
    fn steps_decide_in_their_order() {
        let everything = ForwardConfig {
            deny: rules(&["127.0.0.1"]),
            allow: rules(&["example.org"]),
            ..forward()
        };
        let policy = policy_at(everything, &["127.0.0.1:9901"]);
        let judge = |address: &str, is_connect| literal(&policy, address, 9901, is_connect);
        assert_eq!(judge("127.0.0.1", true), Verdict::Denied("own_address"));
        let next = policy.judge_name("127.0.0.1", 9902, asks(true));
        assert_eq!(next, Verdict::Denied("deny 127.0.0.1"));
        assert_eq!(judge("127.0.0.2", true), Verdict::Denied("loopback"));
        assert_eq!(judge(ELSEWHERE, true), Verdict::Denied("connect_ports"));
        assert_eq!(judge(ELSEWHERE, false), Verdict::Denied("allow"));
    }

    #[test]
    fn connect_reaches_the_ports_for_it_and_those_that_a_rule_names() {
        let allow = rules(&["*", "example.org:8443", "*.net:9000-9001", "203.0.113.0/24:22"]);
        let policy = policy(ForwardConfig {
            connect_ports: vec![443..=443, 8000..=8099],
            allow,
            ..forward()
        });
        let table = [
            ("a.example", ELSEWHERE, 443, true),
            ("a.example", ELSEWHERE, 8099, true),
            ("a.example", ELSEWHERE, 8100, false),
            ("a.example", ELSEWHERE, 80, false),
            ("example.org", ELSEWHERE, 8443, true),
            ("a.example", ELSEWHERE, 8443, false),
            ("a.net", ELSEWHERE, 9001, true),
            ("a.net", ELSEWHERE, 9002, false),
            ("a.example", "203.0.113.1", 22, true),
            ("a.example", ELSEWHERE, 22, false),
        ];
        for (host, address, port, is_allowed) in table {
            let address = SocketAddr::new(address.parse().unwrap(), port);
            let denied = Verdict::Denied("connect_ports");
            let expected = if is_allowed { Verdict::Allowed } else { denied };
            assert_eq!(
                policy.judge_address(host, address, asks(true)),
                expected,
                "{host} {address}"
            );
            assert_eq!(policy.judge_address(host, address, asks(false)), Verdict::Allowed);
            if is_allowed {
                assert_eq!(policy.judge_name(host, port, asks(true)), Verdict::Allowed, "{host}");
            }
        }
        // Before the address is known, the network might still allow it.
        assert_eq!(policy.judge_name("a.example", 22, asks(true)), Verdict::Allowed);
        assert_eq!(
            policy.judge_name("a.example", 23, asks(true)),
            Verdict::Denied("connect_ports")
        );
    }

    #[test]
    fn ringway_itself_is_never_a_target() {
        let own = ["0.0.0.0:8000", "127.0.0.1:9901", "[::1]:9902", "203.0.113.5:8080", "[::]:7000"];
        let everything = ForwardConfig {
            allow_loopback: true,
            allow: rules(&["*", "0.0.0.0/1", "128.0.0.0/1", "::/1"]),
            connect_ports: vec![1..=65_535],
            ..forward()
        };
        let policy = policy_at(everything, &own);
        let table = [
            // The listener on every IPv4 address.
            ("127.0.0.1", 8000, true),
            ("127.9.9.9", 8000, true),
            ("::ffff:127.0.0.1", 8000, true),
            ("64:ff9b::127.0.0.1", 8000, true),
            ("0.0.0.0", 8000, true),
            ("192.0.2.10", 8000, true),
            ("::ffff:192.0.2.10", 8000, true),
            ("2002:c000:20a::1", 8000, true),
            ("192.0.2.11", 8000, false),
            ("192.0.2.10", 8001, false),
            ("2001:db8::10", 8000, false),
            // One address each.
            ("127.0.0.1", 9901, true),
            ("0.0.0.0", 9901, true),
            ("127.0.0.2", 9901, false),
            ("192.0.2.10", 9901, false),
            ("::1", 9901, false),
            ("::1", 9902, true),
            ("::", 9902, true),
            ("127.0.0.1", 9902, false),
            ("203.0.113.5", 8080, true),
            ("203.0.113.6", 8080, false),
            // The listener on every address of both families.
            ("::1", 7000, true),
            ("2001:db8::10", 7000, true),
            ("192.0.2.10", 7000, true),
            ("127.0.0.1", 7000, true),
            ("2001:db8::11", 7000, false),
        ];
        for (address, port, is_own) in table {
            let expected = if is_own { Verdict::Denied("own_address") } else { Verdict::Allowed };
            for is_connect in [false, true] {
                let verdict = literal(&policy, address, port, is_connect);
                assert_eq!(verdict, expected, "{address} {port}");
            }
            assert_eq!(judged(&policy, "a.example", address, port), expected, "{address} {port}");
        }
    }

    #[test]
    fn an_address_is_local_when_it_can_be_bound() {
        assert!(is_local("127.0.0.1".parse().unwrap()));
        assert!(is_local("127.8.8.8".parse().unwrap()));
        // Set aside for documentation, so no machine has it.
        assert!(!is_local("198.51.100.77".parse().unwrap()));
    }

    #[test]
    fn the_first_parent_whose_domains_fit_and_whose_exceptions_do_not_is_taken() {
        let parent = |domains: &[&str], except: &[&str]| ParentConfig {
            name: String::new(),
            backups: Vec::new(),
            address: ParentAddress {
                scheme: crate::config::ParentScheme::Http,
                host: "proxy".to_owned(),
                port: 3128,
                authority: "proxy:3128".to_owned(),
            },
            credentials: None,
            domains: rules(domains),
            except: rules(except),
            direct_fallback: false,
            tls: None,
        };
        let parents = vec![
            parent(&["*.corp.example", "10.0.0.0/8", "exact.example"], &["*.dev.corp.example"]),
            parent(&["*.dev.corp.example", "fd00::/8"], &["10.0.0.0/8"]),
            parent(&["*"], &["direct.example", "192.168.0.0/16", "2001:db8::1"]),
        ];
        let policy = Policy::new(&Config { parents, ..Config::default() }, Vec::new());
        let table = [
            ("a.corp.example", Some(0)),
            ("A.Corp.Example.", Some(0)),
            ("exact.example", Some(0)),
            ("corp.example", Some(2)),
            ("a.dev.corp.example", Some(1)),
            ("dev.corp.example", Some(0)),
            ("10.1.2.3", Some(0)),
            ("::ffff:10.1.2.3", Some(0)),
            ("fd00::1", Some(1)),
            ("[fd00::1]", Some(1)),
            ("192.168.1.1", None),
            ("2001:db8::1", None),
            ("direct.example", None),
            ("other.example", Some(2)),
        ];
        for (host, expected) in table {
            assert_eq!(policy.parent(host), expected, "{host}");
        }
        assert_eq!(Policy::new(&Config::default(), Vec::new()).parent("a.example"), None);
    }

    /// Users ann and bob, and ann in the group staff.
    fn ruled(forward: &str) -> (Policy, [Option<UserId>; 2]) {
        let hash = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        let users = Users::of(&format!("ann:{hash}\nbob:{hash}\n"));
        let text =
            format!("[forward]\nusers_file = \"x\"\ngroups = {{ staff = [\"ann\"] }}\n{forward}");
        let config = crate::config::tests::parse(&text).unwrap();
        let rules = UserRules::read(&config.forward, Some(&users)).unwrap();
        let ids = ["ann", "bob"].map(|name| users.find(name));
        (Policy::new(&config, Vec::new()).with_rules(rules), ids)
    }

    #[test]
    fn a_rule_for_a_user_waits_for_the_address_only_where_that_could_change_it() {
        let (policy, [ann, bob]) = ruled(
            "deny = [\"b.example\"]\nallow = [\"a.example\"]\nrule = [\
             { groups = [\"staff\"], targets = [\"10.0.0.0/8:22\"], action = \"allow\" }, \
             { users = [\"ann\"], targets = [\"b.example\"], action = \"deny\" }, \
             { users = [\"bob\"], targets = [\"*.c.example\", \"b.example\"], \
             action = \"allow\" }]",
        );
        let name =
            |user, host, port| policy.judge_name(host, port, Asked { user, is_connect: true });
        // It may turn out to be in 10.0.0.0/8.
        assert_eq!(name(ann, "b.example", 22), Verdict::Allowed);
        assert_eq!(name(ann, "b.example", 443), Verdict::Denied("rule[1] b.example"));
        assert_eq!(name(ann, "d.example", 443), Verdict::Denied("allow"));
        assert_eq!(name(bob, "b.example", 443), Verdict::Allowed);
        assert_eq!(name(bob, "b.example", 22), Verdict::Denied("connect_ports"));
        assert_eq!(name(bob, "x.c.example", 443), Verdict::Allowed);
        assert_eq!(name(bob, "c.example", 443), Verdict::Denied("allow"));
        assert_eq!(name(None, "b.example", 443), Verdict::Denied("deny b.example"));
        let address = |user, address: &str| {
            let asked = Asked { user, is_connect: true };
            policy.judge_address("b.example", address.parse().unwrap(), asked)
        };
        assert_eq!(address(ann, "10.0.0.1:22"), Verdict::Allowed);
        assert_eq!(address(ann, "192.0.2.1:22"), Verdict::Denied("rule[1] b.example"));
        assert_eq!(address(bob, "192.0.2.1:443"), Verdict::Allowed);
        // Translated, it is as good.
        assert_eq!(address(ann, "[64:ff9b::10.0.0.1]:22"), Verdict::Allowed);
        // Nobody will ever know the address.
        let asked = Asked { user: ann, is_connect: true };
        let unresolved = policy.judge_unresolved("b.example", 22, asked);
        assert_eq!(unresolved, Verdict::Denied("rule[1] b.example"));
        let rule = |user, host| policy.allowing_rule(host, 443, None, user);
        assert_eq!(rule(bob, "X.c.example."), Some("rule[2] *.c.example"));
        assert_eq!(rule(ann, "x.c.example"), None);
        let dialled = policy.allowing_rule("q", 22, "10.0.0.1".parse().ok(), ann);
        assert_eq!(dialled, Some("rule[0] 10.0.0.0/8:22"));
    }

    #[test]
    fn a_rule_for_a_user_opens_no_class_of_addresses() {
        let (policy, [ann, _]) = ruled(
            "allow_private = false\nrule = [{ users = [\"ann\"], targets = [\"*\", \
             \"127.0.0.0/8\", \"10.0.0.0/8\", \"169.254.0.0/16\"], action = \"allow\" }]",
        );
        for (host, class) in [
            ("127.0.0.1", "loopback"),
            ("localhost", "loopback"),
            ("10.0.0.1", "private"),
            ("169.254.169.254", "link_local"),
        ] {
            let asked = Asked { user: ann, is_connect: false };
            assert_eq!(policy.judge_name(host, 80, asked), Verdict::Denied(class), "{host}");
        }
    }
}
