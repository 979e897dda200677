//! The forward proxy: `[forward]` and `[[parent]]`.
//!
//! In: TOML, JSON and texts, by way of serde. Out: who may use it, what it may reach and through
//! whom. This file decides nothing: whether a rule fits is for the data path, and the users' file
//! is not opened here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Networks;
use super::kinds::own::{File, ListenAddress, Name, NetworkList, Realm};
use super::kinds::plain::Count;
use super::kinds::{
    As, FilledList, Given, List, Switched, Wrong, scalar_kind, some_table, tables, text_kind,
};
use super::names::{authority, authority_beside, parse_parent};
use super::rules::{ANY_PORT, PORTS_FORM, RULE_FORM, TARGET_FORM, parse_ports, parse_rule};
use super::scope::Credentials;
use super::tls::UpstreamTlsConfig;
use crate::address::Address;

text_kind!(
    AnyRule: Rule,
    |text| parse_rule(text).ok_or_else(|| RULE_FORM.to_owned()),
    |rule| rule.text.clone()
);
text_kind!(
    /// A rule without ports.
    Target: Rule,
    |text| {
        let rule = parse_rule(text).filter(|rule| rule.ports == ANY_PORT);
        rule.ok_or_else(|| TARGET_FORM.to_owned())
    },
    |rule| rule.text.clone()
);
text_kind!(
    Action: RuleAction,
    |text| match text {
        "allow" => Ok(RuleAction::Allow),
        "deny" => Ok(RuleAction::Deny),
        _ => Err("\"allow\" or \"deny\"".to_owned()),
    },
    |action| match action {
        RuleAction::Allow => "allow".to_owned(),
        RuleAction::Deny => "deny".to_owned(),
    }
);
text_kind!(
    Url: ParentAddress,
    |text| {
        let (scheme, host, port) = parse_parent(text)?;
        let authority = match scheme {
            ParentScheme::Http => authority(&host, port),
            ParentScheme::Https => authority_beside(&host, port, 443),
            // Without a port it would have another one.
            _ if host.contains(':') => format!("[{host}]:{port}"),
            _ => format!("{host}:{port}"),
        };
        Ok(ParentAddress { scheme, host, port, authority })
    },
    |parent| format!("{}://{}", parent.scheme.name(), parent.authority)
);
scalar_kind!(
    /// A port, or a text of `PORTS_FORM`.
    Ports: RangeInclusive<u16>, "a whole number",
    json!({ "type": ["string", "integer"], "minimum": 1, "maximum": 65_535,
            "x-form": PORTS_FORM }),
    |given| {
        let ports = match given {
            Given::Whole(port) => u16::try_from(port).ok().map(|port| port..=port),
            Given::Text(text) => parse_ports(text),
            Given::Real(_) | Given::Truth(_) => return Err(Wrong::Type),
        };
        ports.filter(|ports| *ports.start() != 0).ok_or_else(|| given.unlike(PORTS_FORM))
    },
    |value| match (value.start(), value.end()) {
        _ if *value == ANY_PORT => "*".into(),
        (first, last) if first == last => first.to_string().into(),
        (first, last) => format!("{first}-{last}").into(),
    }
);

/// The forward proxy: for whom, and to where.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct ForwardConfig {
    /// Whether clients may name any target: absolute URLs, and CONNECT for tunnels.
    pub enabled: bool,
    /// Listeners on which that is offered, such as ["127.0.0.1:8001"]. [] is all of them.
    // As they stand in `ServerConfig::listeners`.
    #[serde(with = "List::<ListenAddress>")]
    pub listeners: Vec<Address>,
    /// Where SOCKS5 is spoken and nothing else: listeners of their own, or some of the server's.
    #[serde(with = "List::<ListenAddress>")]
    pub socks_listeners: Vec<Address>,
    /// Networks that may use it, and "unix" for who comes by a Unix socket. Others are answered
    /// 403.
    #[serde(with = "As::<NetworkList>")]
    pub allow_clients: Networks,
    /// Whether targets may be loopback addresses.
    pub allow_loopback: bool,
    /// Whether targets may be private addresses (RFC 1918, 100.64.0.0/10, 198.18.0.0/15, fc00::/7).
    pub allow_private: bool,
    /// Ports, or ranges such as "8000-8999", that CONNECT may reach. "*" is any.
    #[serde(with = "List::<Ports>")]
    pub connect_ports: Vec<RangeInclusive<u16>>,
    /// Rules. If there are any, only targets that fit one of them can be reached. A rule is "*",
    /// "example.org", "*.example.org" (every name below it), "192.0.2.1", "10.0.0.0/8" or
    /// "[2001:db8::]/32", and may end in a port or a range: "example.org:443", "[::1]:8000-8999".
    /// "file:PATH" stands for the rules in a file, one a line, which is followed when it changes.
    #[serde(with = "List::<AnyRule>")]
    pub allow: Vec<Rule>,
    /// Rules, asked before `allow`: what fits one of them cannot be reached.
    #[serde(with = "List::<AnyRule>")]
    pub deny: Vec<Rule>,
    /// An htpasswd file with lines of user:hash (bcrypt or argon2), followed when it changes. ""
    /// asks for no password.
    #[serde(with = "Switched::<File>")]
    pub users_file: Option<PathBuf>,
    /// Groups of users for `rule`, by name: [forward.groups] and then staff = ["ann", "bob"].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-example" = "{ staff = [\"ann\", \"bob\"] }"))]
    pub groups: BTreeMap<String, Vec<String>>,
    /// Further groups, in lines of group: user user, followed when the file changes. "" is none.
    #[serde(with = "Switched::<File>")]
    pub groups_file: Option<PathBuf>,
    /// What some users may reach, as [[forward.rule]]: `users` and `groups` (neither is everybody),
    /// `targets` (rules as in `allow`; everything by default), and `action`, "allow" or "deny". The
    /// first that is for the user and fits the target decides, before `deny` and `allow`. It opens
    /// no loopback, link-local or private address that is closed; a port that it names is open to
    /// CONNECT.
    #[serde(rename = "rule", skip_serializing_if = "Vec::is_empty", deserialize_with = "tables")]
    #[schemars(extend(
        "x-example" = "[{ groups = [\"staff\"], targets = [\"10.0.0.0/8\"], action = \"allow\" }]"
    ))]
    pub rules: Vec<ForwardRule>,
    /// What the challenge of a 407 names. Printable ASCII without " and \.
    #[serde(with = "As::<Realm>")]
    pub realm: String,
    /// Wrong passwords per client address and minute; after them, 429. 1 to 1000.
    #[serde(with = "Count::<u32, 1, 1000>")]
    pub auth_failures: u32,
    /// Whether X-Forwarded-* and Forwarded tell the target who the client is.
    pub add_forwarded: bool,
}

impl Default for ForwardConfig {
    fn default() -> Self {
        let loopback_v4 = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
        let loopback_v6 = IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST));
        Self {
            enabled: false,
            listeners: Vec::new(),
            socks_listeners: Vec::new(),
            allow_clients: Networks { networks: vec![loopback_v4, loopback_v6], has_unix: false },
            allow_loopback: false,
            allow_private: true,
            connect_ports: vec![443..=443],
            allow: Vec::new(),
            deny: Vec::new(),
            users_file: None,
            groups: BTreeMap::new(),
            groups_file: None,
            rules: Vec::new(),
            realm: "ringway".to_owned(),
            auth_failures: 10,
            add_forwarded: false,
        }
    }
}

/// What some users may reach, or may not.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwardRule {
    /// Users of `forward.users_file`.
    #[serde(default)]
    pub users: Vec<String>,
    /// Groups of `forward.groups` or `forward.groups_file`.
    #[serde(default)]
    pub groups: Vec<String>,
    /// What it is about.
    #[serde(default = "every_domain", with = "FilledList::<AnyRule>")]
    pub targets: Vec<Rule>,
    /// Whether they may reach it.
    #[serde(with = "As::<Action>")]
    pub action: RuleAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    Allow,
    Deny,
}

/// Hosts or addresses, and the ports of theirs that are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// As it was written.
    pub text: String,
    pub target: RuleTarget,
    /// Never holds 0. All the others where the rule names none.
    pub ports: RangeInclusive<u16>,
}

/// Names are in lower case, without the root's dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleTarget {
    Any,
    Exact(String),
    /// `.example.org` for `*.example.org`, which `example.org` itself does not fit.
    Suffix(String),
    /// A single address is a network of one.
    Network(IpNet),
    /// The rules in a file, one a line.
    File(PathBuf),
}

/// Parents: other proxies that forward requests go through. The first in the file whose `domains`
/// fit the target's host, and whose `except` do not, is used.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParentConfig {
    /// Unique: 1 to 64 letters, digits, "-", "_" or ".".
    #[serde(with = "As::<Name>")]
    #[schemars(extend("x-example" = "\"office\""))]
    pub name: String,
    /// "http://HOST:PORT" or "https://HOST:PORT"; the port is 80 or 443 if none is written. Or
    /// "socks5://HOST:PORT", by which names are resolved here, or "socks5h://HOST:PORT", which
    /// resolves them; the port is 1080.
    #[serde(rename = "url", with = "As::<Url>")]
    #[schemars(extend("x-example" = "\"http://proxy.example:3128\""))]
    pub address: ParentAddress,
    /// Where to go, in this order, when that cannot be reached: of the same kind.
    #[serde(default, with = "List::<Url>")]
    #[schemars(extend("x-example" = "[\"http://spare.example:3128\"]"))]
    pub backups: Vec<ParentAddress>,
    /// Sent to the parent as Basic, or as SOCKS has it. "" is none.
    #[serde(default, with = "Switched::<Credentials>")]
    #[schemars(extend("x-secret" = true, "x-example" = "\"user:password\""))]
    pub credentials: Option<Secret>,
    /// The hosts that go through it: rules without ports.
    #[serde(default = "every_domain", with = "List::<Target>")]
    pub domains: Vec<Rule>,
    /// Those among them that do not: rules without ports.
    #[serde(default, with = "List::<Target>")]
    #[schemars(extend("x-example" = "[\"*.example.org\"]"))]
    pub except: Vec<Rule>,
    /// Whether to go to the target directly when the parent cannot be reached.
    #[serde(default)]
    pub direct_fallback: bool,
    /// How one with "https://" is spoken to, as in `upstream.tls`.
    #[serde(default, deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = "{ ca = \"/etc/ssl/internal.pem\" }"))]
    pub tls: Option<UpstreamTlsConfig>,
}

impl ParentConfig {
    /// Where it is, and its backups.
    pub fn places(&self) -> impl Iterator<Item = &ParentAddress> {
        std::iter::once(&self.address).chain(&self.backups)
    }
}

/// How a parent is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentScheme {
    Http,
    /// HTTP over TLS.
    Https,
    /// It is asked for addresses.
    Socks5,
    /// It is asked for names.
    Socks5h,
}

impl ParentScheme {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Socks5 => "socks5",
            Self::Socks5h => "socks5h",
        }
    }
}

/// Where a parent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentAddress {
    pub scheme: ParentScheme,
    /// A name in lower case or an IP literal without brackets.
    pub host: String,
    pub port: u16,
    /// `host:port` as `OriginConfig::authority` has it.
    pub authority: String,
}

/// What no log and no error text may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

pub(super) fn every_domain() -> Vec<Rule> {
    vec![Rule { text: "*".to_owned(), target: RuleTarget::Any, ports: ANY_PORT }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{all_refused, parse};
    use crate::config::{RuleTarget, Secret};

    fn forward(keys: &str) -> ForwardConfig {
        parse(&format!("[forward]\n{keys}")).unwrap().forward
    }

    #[test]
    fn the_forward_proxy_is_read_as_it_is_written() {
        let config = parse(
            r#"
            [server]
            port = 80
            listen = ["127.0.0.1:3128", "[::1]:3128"]
            [forward]
            enabled = true
            listeners = ["localhost:3128", "[::1]:3128"]
            allow_clients = ["10.0.0.0/8", "192.0.2.7"]
            allow_loopback = true
            allow_private = false
            connect_ports = [443, "8443", "8000-8999"]
            allow = ["*.example.org:443"]
            deny = ["10.0.0.0/8", "[::1]:22"]
            users_file = "/etc/ringway.users"
            realm = "the office"
            auth_failures = 1000
            add_forwarded = true
            "#,
        );
        let forward = config.unwrap().forward;
        assert!(forward.enabled && forward.allow_loopback && !forward.allow_private);
        let listeners = ["127.0.0.1:3128", "[::1]:3128"];
        assert_eq!(forward.listeners, listeners.map(|text| text.parse().unwrap()));
        assert!(forward.allow_clients.contains("10.255.0.1".parse().unwrap()));
        assert!(!forward.allow_clients.contains("127.0.0.1".parse().unwrap()));
        assert_eq!(forward.connect_ports, [443..=443, 8443..=8443, 8000..=8999]);
        assert_eq!(forward.allow[0].target, RuleTarget::Suffix(".example.org".to_owned()));
        assert_eq!(forward.deny[0].ports, ANY_PORT);
        assert_eq!(
            (forward.deny[1].text.as_str(), &forward.deny[1].ports),
            ("[::1]:22", &(22..=22))
        );
        assert_eq!(forward.users_file, Some(PathBuf::from("/etc/ringway.users")));
        assert_eq!((forward.realm.as_str(), forward.auth_failures), ("the office", 1000));
        assert!(forward.add_forwarded);
    }

    #[test]
    fn by_default_only_this_machine_may_use_it_and_tunnels_end_at_443() {
        let forward = forward("");
        assert!(!forward.enabled && !forward.allow_loopback && forward.users_file.is_none());
        for (address, is_allowed) in
            [("127.0.0.9", true), ("::1", true), ("::ffff:127.0.0.1", true), ("10.0.0.1", false)]
        {
            assert_eq!(forward.allow_clients.contains(address.parse().unwrap()), is_allowed);
        }
        assert_eq!(forward.connect_ports, [443..=443]);
    }

    #[test]
    fn an_empty_list_is_not_the_default() {
        let forward = forward("allow_clients = []\nconnect_ports = []");
        assert!(!forward.allow_clients.contains("127.0.0.1".parse().unwrap()));
        assert_eq!(forward.connect_ports, []);
    }

    #[test]
    fn a_forward_proxy_that_cannot_be_is_refused() {
        all_refused(&[
            (
                "[forward]\nenable = true",
                "2:1: forward.enable: unknown key, did you mean `enabled`?",
            ),
            (
                "[forward]\nenabled = 1",
                "2:11: forward.enabled: invalid type: integer `1`, expected a b",
            ),
            (
                "[forward]\nlisteners = [\"127.0.0.1\"]",
                "2:14: forward.listeners[0]: found \"127.0.0.1\", expected an address and port su",
            ),
            (
                "[server]\nlisten = [\"[::]:81\"]\n[forward]\nlisteners = [\"[::]:82\"]",
                "4:14: forward.listeners[0]: found \"[::]:82\", expected one of the server's \
                 listeners: 0.0.0.0:8000, [::]:81",
            ),
            (
                "[forward]\nallow_clients = [\"me\"]",
                "2:18: forward.allow_clients[0]: found \"me\", expected a network such as",
            ),
            (
                "[forward]\nconnect_ports = [0]",
                "2:18: forward.connect_ports[0]: found 0, expected a port from 1 to 65535, a range",
            ),
            (
                "[forward]\nconnect_ports = [443, 65536]",
                "2:23: forward.connect_ports[1]: found 65536, expected a port from 1 to 65535",
            ),
            (
                "[forward]\nconnect_ports = [\"9-1\"]",
                "2:18: forward.connect_ports[0]: found \"9-1\", expected a port from 1 to 65535",
            ),
            ("[forward]\nconnect_ports = \"443\"", "2:17: forward.connect_ports: invalid type: st"),
            (
                "[forward]\nallow = [\"a\", \"http://a\"]",
                "2:15: forward.allow[1]: found \"http://a\", expected a rule such as \"example.org\"",
            ),
            (
                "[forward]\ndeny = [\"a:0\"]",
                "2:9: forward.deny[0]: found \"a:0\", expected a rule such as",
            ),
            (
                "[forward]\nrealm = \"a\\\"b\"",
                "2:9: forward.realm: found \"a\\\"b\", expected printable ASCII without",
            ),
            (
                "[forward]\nauth_failures = 0",
                "2:17: forward.auth_failures: found 0, expected a whole number from 1 to 1000",
            ),
        ]);
    }

    #[test]
    fn parents_are_read_in_their_order() {
        let parents = parse(
            r#"
            [[parent]]
            name = "office"
            url = "http://Proxy.example:3128"
            credentials = "ringway:pass:word"
            domains = ["*.example.org", "10.0.0.0/8"]
            except = ["www.example.org"]
            direct_fallback = true
            [[parent]]
            name = "rest"
            url = "http://[::1]"
            credentials = ""
            "#,
        )
        .unwrap()
        .parents;
        let [office, rest] = parents.as_slice() else { panic!("{parents:?}") };
        assert_eq!((office.address.host.as_str(), office.address.port), ("proxy.example", 3128));
        assert_eq!(office.address.authority, "proxy.example:3128");
        assert_eq!(office.credentials, Some(Secret::new("ringway:pass:word")));
        assert_eq!(office.domains.len(), 2);
        assert_eq!(office.except[0].target, RuleTarget::Exact("www.example.org".to_owned()));
        assert!(office.direct_fallback);
        assert_eq!((rest.name.as_str(), rest.address.authority.as_str()), ("rest", "[::1]"));
        assert_eq!(rest.credentials, None);
        assert_eq!(rest.domains, every_domain());
        assert_eq!((rest.except.len(), rest.direct_fallback), (0, false));
    }

    #[test]
    fn a_parent_that_cannot_be_is_refused() {
        let with = |keys: &str| format!("[[parent]]\nname = \"a\"\nurl = \"http://a\"\n{keys}");
        all_refused(&[
            ("[[parent]]", "1:1: parent[0]: missing key `name`"),
            ("[[parent]]\nname = \"a\"", "1:1: parent[0]: missing key `url`"),
            ("[[parent]]\nname = \"a b\"", "2:8: parent[0].name: found \"a b\", expected 1 to 64"),
            ("[parent]\nname = \"a\"", "1:1: parent: invalid type: table, expected an array"),
            (
                "[[parent]]\nname = \"a\"\nurl = \"socks4://a\"",
                "3:7: parent[0].url: found \"socks4://a\", expected a URL of the form http://HOST",
            ),
            (
                "[[parent]]\nname = \"a\"\nurl = \"socks5://a/b\"",
                "3:7: parent[0].url: found \"socks5://a/b\", expected a URL of the form http://HOST",
            ),
            (
                &with("backups = [\"http://b\", \"socks5://c\"]"),
                "4:24: parent[0].backups[1]: a backup is of the same kind as `url`",
            ),
            (
                "[[parent]]\nname = \"a\"\nurl = \"https://a\"\nbackups = [\"http://b\"]",
                "4:12: parent[0].backups[0]: a backup is of the same kind as `url`",
            ),
            (
                &with("tls = { sni = \"b\" }"),
                "4:7: parent[0].tls: `tls` is for a parent with https://",
            ),
            (
                "[[parent]]\nname = \"a\"\nurl = \"https://a\"\ntls = { client_key = \"b\" }",
                "4:7: parent[0].tls: `client_chain` and `client_key` go together",
            ),
            (
                &format!("{0}{0}", with("")),
                "5:8: parent[1].name: there is already a parent named \"a\"",
            ),
            (
                &with("domains = [\"a:443\"]"),
                "4:12: parent[0].domains[0]: found \"a:443\", expected a rule without ports",
            ),
            (&with("except = [\"\"]"), "4:11: parent[0].except[0]: found \"\", expected a rule"),
            (&with("domain = []"), "4:1: parent[0].domain: unknown key, did you mean `domains`?"),
        ]);
    }

    #[test]
    fn no_error_shows_a_password() {
        for value in ["\"hunter2\"", "\"hunter2:\\u0000\"", "7742", "7742.5"] {
            let text =
                format!("[[parent]]\nname = \"a\"\nurl = \"http://a\"\ncredentials = {value}");
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.starts_with("a.toml:4:15: parent[0].credentials: "), "{error}");
            assert!(!error.contains("hunter2") && !error.contains("7742"), "{error}");
        }
        let text = "[[parent]]\nname = \"a\"\nurl = \"http://a\"\ncredentials = \"b:hunter2\"";
        assert!(!format!("{:?}", parse(text).unwrap()).contains("hunter2"));
    }
}
