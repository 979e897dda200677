//! The forward proxy: `[forward]` and `[[parent]]`.
//!
//! In: those sections as they were written, and the server's listeners. Out: who may use it, what
//! it may reach and through whom, or the first refusal. The users' file is not opened here.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::Checked;
use super::values::{filled, flag, listen_address, networks, number, refusal};
use crate::config::error::Problem;
use crate::config::names::{
    CREDENTIALS_FORM, NAME_FORM, REALM_FORM, authority, is_credentials, is_name, is_realm,
    parse_origin,
};
use crate::config::raw::{Given, RawForward, RawParent, Table};
use crate::config::rules::{ANY_PORT, PORTS_FORM, RULE_FORM, TARGET_FORM, parse_ports, parse_rule};
use crate::config::units::Whole;
use crate::config::{ForwardConfig, ParentConfig, Rule};

pub(super) fn forward(raw: &RawForward, listeners: &[SocketAddr]) -> Checked<ForwardConfig> {
    let default = ForwardConfig::default();
    Ok(ForwardConfig {
        enabled: flag(raw.enabled.as_ref(), default.enabled),
        listeners: each(raw.listeners.as_deref(), default.listeners, |given| {
            listener(given, listeners)
        })?,
        allow_clients: match &raw.allow_clients {
            Some(given) => networks(given)?,
            None => default.allow_clients,
        },
        allow_loopback: flag(raw.allow_loopback.as_ref(), default.allow_loopback),
        allow_private: flag(raw.allow_private.as_ref(), default.allow_private),
        connect_ports: each(raw.connect_ports.as_deref(), default.connect_ports, ports)?,
        allow: each(raw.allow.as_deref(), default.allow, rule)?,
        deny: each(raw.deny.as_deref(), default.deny, rule)?,
        users_file: filled(raw.users_file.as_ref()).map(PathBuf::from),
        realm: match &raw.realm {
            None => default.realm,
            Some(realm) if is_realm(&realm.value) => realm.value.clone(),
            Some(realm) => return Err(realm.refuse(REALM_FORM)),
        },
        auth_failures: number(raw.auth_failures.as_ref(), 1..=1000, default.auth_failures)?,
        add_forwarded: flag(raw.add_forwarded.as_ref(), default.add_forwarded),
    })
}

fn each<G, T>(
    given: Option<&[G]>,
    default: Vec<T>,
    check: impl Fn(&G) -> Checked<T>,
) -> Checked<Vec<T>> {
    given.map_or(Ok(default), |given| given.iter().map(check).collect())
}

fn listener(given: &Given<String>, listeners: &[SocketAddr]) -> Checked<SocketAddr> {
    let address = listen_address(given)?;
    if listeners.contains(&address) {
        return Ok(address);
    }
    let known: Vec<String> = listeners.iter().map(SocketAddr::to_string).collect();
    Err(given.refuse(format!("one of the server's listeners: {}", known.join(", "))))
}

fn ports(given: &Given<Whole>) -> Checked<RangeInclusive<u16>> {
    let ports = match &given.value {
        Whole::Number(port) => u16::try_from(*port).ok().map(|port| port..=port),
        Whole::Text(text) => parse_ports(text),
    };
    ports.filter(|ports| *ports.start() != 0).ok_or_else(|| given.refuse(PORTS_FORM))
}

fn rule(given: &Given<String>) -> Checked<Rule> {
    parse_rule(&given.value).ok_or_else(|| given.refuse(RULE_FORM))
}

fn target(given: &Given<String>) -> Checked<Rule> {
    let rule = parse_rule(&given.value).filter(|rule| rule.ports == ANY_PORT);
    rule.ok_or_else(|| given.refuse(TARGET_FORM))
}

pub(super) fn parents(raw: &[Given<Table<RawParent>>]) -> Checked<Vec<ParentConfig>> {
    let mut parents: Vec<ParentConfig> = Vec::with_capacity(raw.len());
    for given in raw {
        let parent = parent(given)?;
        if parents.iter().any(|other| other.name == parent.name) {
            let what = format!("there is already a parent named {:?}", parent.name);
            let name = given.value.name.as_ref().map_or(&given.place, |name| &name.place);
            return Err(refusal(name, Problem::Duplicate { what }));
        }
        parents.push(parent);
    }
    Ok(parents)
}

fn parent(given: &Given<Table<RawParent>>) -> Checked<ParentConfig> {
    let raw = &given.value;
    let Some(name) = &raw.name else {
        return Err(given.refuse_for(Problem::Missing { what: "key `name`" }));
    };
    if !is_name(&name.value) {
        return Err(name.refuse(NAME_FORM));
    }
    let Some(url) = &raw.url else {
        return Err(given.refuse_for(Problem::Missing { what: "key `url`" }));
    };
    let (host, port) = parse_origin(&url.value).map_err(|expected| url.refuse(expected))?;
    Ok(ParentConfig {
        name: name.value.clone(),
        authority: authority(&host, port),
        host,
        port,
        credentials: match &raw.credentials {
            None => None,
            Some(given) if given.value.reveal().is_empty() => None,
            Some(given) if is_credentials(given.value.reveal()) => Some(given.value.clone()),
            Some(given) => return Err(given.refuse(CREDENTIALS_FORM)),
        },
        domains: each(raw.domains.as_deref(), ParentConfig::every_domain(), target)?,
        except: each(raw.except.as_deref(), Vec::new(), target)?,
        direct_fallback: flag(raw.direct_fallback.as_ref(), false),
    })
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
        assert_eq!((office.host.as_str(), office.port), ("proxy.example", 3128));
        assert_eq!(office.authority, "proxy.example:3128");
        assert_eq!(office.credentials, Some(Secret::new("ringway:pass:word")));
        assert_eq!(office.domains.len(), 2);
        assert_eq!(office.except[0].target, RuleTarget::Exact("www.example.org".to_owned()));
        assert!(office.direct_fallback);
        assert_eq!((rest.name.as_str(), rest.authority.as_str()), ("rest", "[::1]"));
        assert_eq!(rest.credentials, None);
        assert_eq!(rest.domains, ParentConfig::every_domain());
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
                "[[parent]]\nname = \"a\"\nurl = \"socks5://a\"",
                "3:7: parent[0].url: found \"socks5://a\", expected a URL of the form http://HOST",
            ),
            (
                "[[parent]]\nname = \"a\"\nurl = \"https://a\"",
                "3:7: parent[0].url: found \"https://a\", expected an http:// URL",
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
