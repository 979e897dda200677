//! Hooks that let a request in or not: addresses, methods, origins, rates, logins, questions.
//!
//! In: those tables as they were written. Out: as they hold, or the first refusal.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::super::Checked;
use super::super::values::{duration, flag, networks, number, word};
use super::{each, field_name, upstream};
use crate::config::error::{Problem, nearest};
use crate::config::hooks::custom_names;
use crate::config::hooks::raw::{
    RawBasicAuth, RawCors, RawCustom, RawForwardAuth, RawHooks, RawRateLimit, RawRequestId,
};
use crate::config::names::{
    REALM_FORM, ROUTE_PATH_FORM, is_realm, is_route_path, is_token, split_authority,
};
use crate::config::raw::{Given, Table};
use crate::config::{
    AccessConfig, BasicAuthConfig, ClientKey, CorsConfig, CustomConfig, ForwardAuthConfig, IdTrust,
    Networks, OnFailure, RateLimitConfig, RequestIdConfig, UpstreamConfig,
};
use crate::http::names::FieldName;

const RATE_FORM: &str =
    "a rate such as \"100/s\": 1 to 1000000 requests per \"s\", \"m\", \"h\" or \"d\"";
const METHOD_FORM: &str = "a method in capital letters such as \"GET\", other than CONNECT";
const ORIGIN_FORM: &str = "an origin as browsers send it, such as \"https://app.example\", \
     without a path and without the port that its scheme has anyway, or \"*\"";
const QUOTABLE_FORM: &str = "a field of the client's own: what concerns a connection is not \
     quoted, and X-Forwarded-Host, -For, -Proto, -Method and -Uri are there anyway";
pub(super) const LIMIT_KEY_FORM: &str = "\"ip\", \"route\" or \"header:NAME\"";

/// For a question that every request of a route waits for.
const QUESTION: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);

/// Browsers keep no permission for longer than a day.
const PREFLIGHT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400);

const FAILURES: [(&str, OnFailure); 2] = [("closed", OnFailure::Closed), ("open", OnFailure::Open)];

pub(super) fn access(raw: &RawHooks) -> Checked<AccessConfig> {
    let deny = raw.deny.as_deref().unwrap_or_default();
    let methods = each(raw.methods.as_ref(), method)?;
    if let Some(given) = raw.methods.as_ref().filter(|_| methods.is_empty()) {
        return Err(given.refuse_for(Problem::Missing { what: "a method: there must be one" }));
    }
    Ok(AccessConfig {
        allow: raw.allow.as_deref().map(networks).transpose()?,
        deny: networks(deny)?,
        methods: raw.methods.is_some().then_some(methods),
    })
}

fn method(given: &Given<String>) -> Checked<String> {
    let text = &given.value;
    let is_method = is_token(text)
        && text.len() <= crate::limits::METHOD_BYTES_MAX
        && !text.bytes().any(|byte| byte.is_ascii_lowercase())
        && text != "CONNECT";
    if is_method { Ok(text.clone()) } else { Err(given.refuse(METHOD_FORM)) }
}

pub(super) fn request_id(raw: &RawRequestId) -> Checked<RequestIdConfig> {
    let words = [
        ("nobody", IdTrust::Nobody),
        ("trusted", IdTrust::Trusted),
        ("everybody", IdTrust::Everybody),
    ];
    Ok(RequestIdConfig {
        header: match &raw.header {
            Some(given) => super::heads::editable_name(given)?,
            None => "X-Request-Id".to_owned(),
        },
        trust: word(raw.trust.as_ref(), &words, IdTrust::default())?,
    })
}

pub(super) fn cors(raw: &RawCors) -> Checked<CorsConfig> {
    let origins = each(raw.origins.as_ref(), origin)?;
    let is_any = raw.origins.is_none() || origins.iter().any(|origin| origin == "*");
    let credentials = flag(raw.credentials.as_ref(), false);
    if let Some(given) = raw.credentials.as_ref().filter(|_| credentials && is_any) {
        let rule = "`credentials` needs `origins` by name: with any origin, every page that a \
                    user visits could act as that user";
        return Err(given.refuse_for(Problem::Conflict { rule }));
    }
    if let Some(given) = raw.origins.as_ref().filter(|given| given.value.is_empty()) {
        return Err(given.refuse_for(Problem::Missing { what: "an origin, or \"*\" for any" }));
    }
    for list in [&raw.headers, &raw.expose].into_iter().flatten().filter(|_| credentials) {
        if list.value.iter().any(|name| name.value == "*") {
            let rule = "with `credentials`, browsers take \"*\" for a name: list the fields, or \
                        leave `headers` out to allow whatever is asked for";
            return Err(list.refuse_for(Problem::Conflict { rule }));
        }
    }
    let methods = match &raw.methods {
        Some(given) if given.value.is_empty() => {
            return Err(given.refuse_for(Problem::Missing { what: "a method: there must be one" }));
        }
        Some(_) => each(raw.methods.as_ref(), method)?,
        None => ["GET", "HEAD", "POST"].map(str::to_owned).to_vec(),
    };
    Ok(CorsConfig {
        origins: if is_any { Vec::new() } else { origins },
        methods,
        headers: each(raw.headers.as_ref(), field_name)?,
        expose: each(raw.expose.as_ref(), field_name)?,
        credentials,
        max_age: duration(raw.max_age.as_ref(), PREFLIGHT, Duration::from_secs(600))?,
    })
}

fn origin(given: &Given<String>) -> Checked<String> {
    let text = &given.value;
    let is_origin = text == "*"
        || text.split_once("://").is_some_and(|(scheme, authority)| {
            // Browsers leave this port out, and what they never send is never equal to it.
            let own_port = match scheme {
                "http" => 80,
                "https" => 443,
                _ => return false,
            };
            split_authority(authority).is_some_and(|(_, port)| port != Some(own_port))
        });
    if is_origin { Ok(text.to_ascii_lowercase()) } else { Err(given.refuse(ORIGIN_FORM)) }
}

pub(super) fn rate_limit(given: &Given<Table<RawRateLimit>>) -> Checked<RateLimitConfig> {
    let raw = &given.value;
    let Some(rate) = &raw.rate else {
        return Err(given.refuse_for(Problem::Missing { what: "key `rate`" }));
    };
    let (requests, period) = parse_rate(&rate.value).ok_or_else(|| rate.refuse(RATE_FORM))?;
    let entries = number(raw.table_entries.as_ref(), 64..=16_777_216_usize, 65_536)?;
    Ok(RateLimitConfig {
        key: match &raw.key {
            None => ClientKey::Ip,
            Some(given) => match client_key(&given.value) {
                Some(ClientKey::Cookie(_)) | None => return Err(given.refuse(LIMIT_KEY_FORM)),
                Some(key) => key,
            },
        },
        requests,
        period,
        burst: number(raw.burst.as_ref(), 1..=1_000_000, requests)?,
        table_entries: entries.next_power_of_two(),
        announce: flag(raw.announce.as_ref(), false),
    })
}

/// Of `RATE_FORM`.
fn parse_rate(text: &str) -> Option<(u32, Duration)> {
    let (count, unit) = text.split_once('/')?;
    let is_number = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    let count = is_number.then(|| count.parse().ok()).flatten()?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    (1..=1_000_000).contains(&count).then_some((count, Duration::from_secs(seconds)))
}

pub(super) fn client_key(text: &str) -> Option<ClientKey> {
    match text.split_once(':') {
        None if text == "ip" => Some(ClientKey::Ip),
        None if text == "route" => Some(ClientKey::Route),
        Some(("header", name)) if super::is_field_name(name) => {
            Some(ClientKey::Header(name.to_ascii_lowercase()))
        }
        Some(("cookie", name)) if super::is_field_name(name) => {
            Some(ClientKey::Cookie(name.to_owned()))
        }
        _ => None,
    }
}

pub(super) fn basic_auth(given: &Given<Table<RawBasicAuth>>) -> Checked<BasicAuthConfig> {
    let raw = &given.value;
    let file = raw.users_file.as_ref().filter(|file| !file.value.is_empty());
    let Some(file) = file else {
        return Err(given.refuse_for(Problem::Missing { what: "key `users_file`" }));
    };
    Ok(BasicAuthConfig {
        users_file: PathBuf::from(&file.value),
        realm: match &raw.realm {
            None => "ringway".to_owned(),
            Some(realm) if is_realm(&realm.value) => realm.value.clone(),
            Some(realm) => return Err(realm.refuse(REALM_FORM)),
        },
        auth_failures: number(raw.auth_failures.as_ref(), 1..=1000, 10)?,
    })
}

pub(super) fn forward_auth(
    given: &Given<Table<RawForwardAuth>>,
    upstreams: &[UpstreamConfig],
) -> Checked<ForwardAuthConfig> {
    let raw = &given.value;
    let Some(name) = &raw.upstream else {
        return Err(given.refuse_for(Problem::Missing { what: "key `upstream`" }));
    };
    let asked = match &raw.request_headers {
        Some(_) => each(raw.request_headers.as_ref(), quotable)?,
        None => ["Authorization", "Cookie"].map(str::to_owned).to_vec(),
    };
    Ok(ForwardAuthConfig {
        upstream: upstream(name, upstreams)?,
        path: match &raw.path {
            None => "/".to_owned(),
            Some(path) if is_route_path(&path.value) => path.value.clone(),
            Some(path) => return Err(path.refuse(ROUTE_PATH_FORM)),
        },
        request_headers: asked,
        response_headers: each(raw.response_headers.as_ref(), super::heads::editable_name)?,
        timeout: duration(raw.timeout.as_ref(), QUESTION, Duration::from_secs(5))?,
        on_failure: word(raw.on_failure.as_ref(), &FAILURES, OnFailure::default())?,
    })
}

/// A field that a question may quote.
fn quotable(given: &Given<String>) -> Checked<String> {
    match FieldName::of(given.value.as_bytes()) {
        FieldName::Other => field_name(given),
        _ => Err(given.refuse(QUOTABLE_FORM)),
    }
}

pub(super) fn custom(given: &Given<Table<RawCustom>>) -> Checked<CustomConfig> {
    let raw = &given.value;
    let Some(hook) = &raw.hook else {
        return Err(given.refuse_for(Problem::Missing { what: "key `hook`" }));
    };
    let known = custom_names();
    if !known.contains(&hook.value.as_str()) {
        let expected = match nearest(&hook.value, known.iter().copied()) {
            Some(nearest) => format!("a hook of this binary, did you mean \"{nearest}\"?"),
            None if known.is_empty() => "none: this binary has no hooks of its own".to_owned(),
            None => format!("a hook of this binary: {}", known.join(", ")),
        };
        return Err(hook.refuse(expected));
    }
    Ok(CustomConfig {
        hook: hook.value.clone(),
        timeout: duration(raw.timeout.as_ref(), QUESTION, Duration::from_millis(100))?,
        on_failure: word(raw.on_failure.as_ref(), &FAILURES, OnFailure::default())?,
    })
}

impl AccessConfig {
    pub fn is_open(&self) -> bool {
        self.allow.is_none() && self.deny == Networks::default() && self.methods.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HooksConfig;
    use crate::config::tests::{all_refused, parse};

    fn hooks(keys: &str) -> HooksConfig {
        match parse(&format!("[hooks]\n{keys}")) {
            Ok(config) => *config.hooks.unwrap(),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn who_may_ask_is_read_as_it_is_written() {
        let access = hooks("allow = []\ndeny = [\"10.0.0.0/8\"]\nmethods = [\"GET\"]").access;
        assert!(access.allow.is_some_and(|allow| !allow.contains([127, 0, 0, 1].into())));
        assert!(access.deny.contains([10, 1, 2, 3].into()));
        assert_eq!(access.methods.unwrap(), ["GET"]);
    }

    #[test]
    fn rates_are_counts_per_period() {
        let table = [
            ("100/s", Some((100, 1))),
            ("1/d", Some((1, 86_400))),
            ("1000000/h", Some((1_000_000, 3600))),
            ("6/m", Some((6, 60))),
            ("0/s", None),
            ("1000001/s", None),
            ("-1/s", None),
            ("+1/s", None),
            ("1.5/s", None),
            ("/s", None),
            ("5", None),
            ("5/", None),
            ("5/w", None),
            ("5/s/s", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|(count, seconds)| (count, Duration::from_secs(seconds)));
            assert_eq!(parse_rate(text), expected, "{text}");
        }
    }

    #[test]
    fn a_rate_limit_has_a_burst_of_one_period_unless_it_says_otherwise() {
        let limit = hooks("rate_limit = { rate = \"5/s\" }").rate_limit.unwrap();
        assert_eq!((limit.burst, limit.key, limit.table_entries), (5, ClientKey::Ip, 65_536));
        let text = "rate_limit = { rate = \"5/s\", burst = 2, key = \"header:X-Key\", \
                    table_entries = 1000 }";
        let limit = hooks(text).rate_limit.unwrap();
        assert_eq!((limit.burst, limit.table_entries), (2, 1024));
        assert_eq!(limit.key, ClientKey::Header("x-key".to_owned()));
    }

    #[test]
    fn a_hook_of_its_own_must_be_in_the_binary() {
        crate::config::hooks::announce_custom(vec!["audit", "gate"]);
        let own = hooks("custom = [{ hook = \"audit\", on_failure = \"open\" }]").custom.unwrap();
        assert_eq!((own[0].hook.as_str(), own[0].on_failure), ("audit", OnFailure::Open));
        all_refused(&[
            ("[hooks]\ncustom = [{}]", "2:11: hooks.custom[0]: missing key `hook`"),
            (
                "[hooks]\ncustom = [{ hook = \"adit\" }]",
                "2:20: hooks.custom[0].hook: found \"adit\", expected a hook of this binary, did",
            ),
        ]);
    }

    #[test]
    fn what_lets_nobody_in_by_mistake_is_refused() {
        all_refused(&[
            ("[hooks]\nallow = [\"10.0.0.0/33\"]", "2:10: hooks.allow[0]: found \"10.0.0.0/33\""),
            ("[hooks]\nmethods = []", "2:11: hooks.methods: missing a method"),
            ("[hooks]\nmethods = [\"get\"]", "2:12: hooks.methods[0]: found \"get\", expected a m"),
            ("[hooks]\nmethods = [\"CONNECT\"]", "2:12: hooks.methods[0]: found \"CONNECT\""),
            ("[hooks]\nrate_limit = {}", "2:14: hooks.rate_limit: missing key `rate`"),
            (
                "[hooks.rate_limit]\nrate = \"5\"",
                "2:8: hooks.rate_limit.rate: found \"5\", expected a rate such as",
            ),
            (
                "[hooks.rate_limit]\nrate = \"5/s\"\nkey = \"cookie:a\"",
                "3:7: hooks.rate_limit.key: found \"cookie:a\", expected \"ip\", \"route\" or",
            ),
            (
                "[hooks.cors]\norigins = [\"https://a/x\"]",
                "2:12: hooks.cors.origins[0]: found \"https://a/x\", expected an origin",
            ),
            (
                "[hooks.cors]\norigins = [\"https://a:443\"]",
                "2:12: hooks.cors.origins[0]: found \"https://a:443\", expected an origin as brow",
            ),
            ("[hooks.cors]\nmethods = []", "2:11: hooks.cors.methods: missing a method"),
            (
                "[hooks.cors]\ncredentials = true",
                "2:15: hooks.cors.credentials: `credentials` needs `origins` by name",
            ),
            (
                "[hooks.cors]\norigins = [\"*\", \"http://a\"]\ncredentials = true",
                "3:15: hooks.cors.credentials: `credentials` needs",
            ),
            (
                "[hooks.basic_auth]\nrealm = \"a\"",
                "1:1: hooks.basic_auth: missing key `users_file`",
            ),
            (
                "[hooks.forward_auth]\nupstream = \"dmeo\"",
                "2:12: hooks.forward_auth.upstream: there is no upstream \"dmeo\", did you mean",
            ),
            (
                "[hooks.forward_auth]\nupstream = \"demo\"\nresponse_headers = [\"Connection\"]",
                "3:21: hooks.forward_auth.response_headers[0]: found \"Connection\", expected",
            ),
            (
                "[hooks.forward_auth]\nupstream = \"demo\"\nrequest_headers = [\"Host\"]",
                "3:20: hooks.forward_auth.request_headers[0]: found \"Host\", expected a field of",
            ),
            (
                "[hooks.cors]\norigins = [\"http://a\"]\nheaders = [\"*\"]\ncredentials = true",
                "3:11: hooks.cors.headers: with `credentials`, browsers take \"*\" for a name",
            ),
            (
                "[hooks.request_id]\ntrust = \"me\"",
                "2:9: hooks.request_id.trust: found \"me\", expected \"nobody\", \"trusted\" or",
            ),
        ]);
    }
}
