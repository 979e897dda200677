//! Hooks that let a request in or not: methods, names, origins, rates, logins, questions.
//!
//! In: TOML, JSON and texts, by way of serde. Out: the tables of these hooks, a struct each, and
//! the kinds of their values. Files are not opened here, and nobody is asked.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value as Json;

use super::custom_names;
use super::heads::{Editable, FieldName, field_name, is_field_name};
use crate::address::ClientAddress;
use crate::config::error::nearest;
use crate::config::kinds::own::{Path, Realm};
use crate::config::kinds::plain::{Count, Time, Whole, Word, Words};
use crate::config::kinds::{
    As, AtLeastOne, FilledList, Given, Kind, List, Wrong, millis, number, scalar_kind, text_kind,
};
use crate::config::names::{is_token, split_authority};
use crate::config::scope::UpstreamName;
use crate::http::names::FieldName as KnownName;

const RATE_FORM: &str =
    "a rate such as \"100/s\": 1 to 1000000 requests per \"s\", \"m\", \"h\" or \"d\"";
const METHOD_FORM: &str = "a method in capital letters such as \"GET\", other than CONNECT";
const ORIGIN_FORM: &str = "an origin as browsers send it, such as \"https://app.example\", \
     without a path and without the port that its scheme has anyway, or \"*\"";
const QUOTABLE_FORM: &str = "a field of the client's own: what concerns a connection is not \
     quoted, and X-Forwarded-Host, -For, -Proto, -Method and -Uri are there anyway";
const LIMIT_KEY_FORM: &str = "\"ip\", \"route\" or \"header:NAME\"";

/// For a question that every request of a route waits for.
type Question = Time<1, 60_000>;

text_kind!(RateText: Rate = parse_rate, RATE_FORM);
text_kind!(
    LimitKey: ClientKey,
    |text| match client_key(text) {
        Some(ClientKey::Cookie(_)) | None => Err(LIMIT_KEY_FORM.to_owned()),
        Some(key) => Ok(key),
    },
    ToString::to_string
);
text_kind!(
    UsersFile: PathBuf,
    |text| match text {
        "" => Err("the path of an htpasswd file".to_owned()),
        path => Ok(path.into()),
    },
    |path| path.to_string_lossy().into_owned()
);
text_kind!(
    /// A field that a question may quote.
    Quotable: String,
    |text| match KnownName::of(text.as_bytes()) {
        KnownName::Other | KnownName::Authorization => field_name(text),
        known if known.is_claim() => field_name(text),
        _ => Err(QUOTABLE_FORM.to_owned()),
    },
    Clone::clone
);
text_kind!(
    /// The name of a field, or nothing.
    UserField = |text: &str| text.is_empty() || field_name(text).is_ok(),
    "the name of a field, or \"\""
);
text_kind!(
    /// The name of a hook that was compiled into this binary.
    Custom: String,
    |text| {
        let known = custom_names();
        if known.contains(&text) {
            return Ok(text.to_owned());
        }
        Err(match nearest(text, known.iter().copied()) {
            Some(nearest) => format!("a hook of this binary, did you mean \"{nearest}\"?"),
            None if known.is_empty() => "none: this binary has no hooks of its own".to_owned(),
            None => format!("a hook of this binary: {}", known.join(", ")),
        })
    },
    Clone::clone
);

/// In capital letters.
pub(in crate::config) struct Method;

impl Kind for Method {
    type Value = String;

    const ONE: &'static str = "a method: there must be one";

    fn take(given: Given<'_>) -> Result<String, Wrong> {
        let text = given.text()?;
        let is_method = is_token(text)
            && text.len() <= crate::limits::METHOD_BYTES_MAX
            && !text.bytes().any(|byte| byte.is_ascii_lowercase())
            && text != "CONNECT";
        is_method.then(|| text.to_owned()).ok_or_else(|| given.unlike(METHOD_FORM))
    }

    fn spell(value: &String) -> Json {
        value.as_str().into()
    }
}

/// A name for each request, in the logs of everybody who sees it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RequestIdConfig {
    /// The field's name, as it is sent.
    #[serde(with = "As::<Editable>")]
    pub header: String,
    /// Whose names for requests are kept: "trusted" is `server.trusted_proxies`.
    #[serde(with = "Word::<IdTrust>")]
    pub trust: IdTrust,
}

impl Default for RequestIdConfig {
    fn default() -> Self {
        Self { header: "X-Request-Id".to_owned(), trust: IdTrust::Trusted }
    }
}

/// Whose names for requests are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdTrust {
    Nobody,
    /// `server.trusted_proxies`.
    Trusted,
    Everybody,
}

impl Words for IdTrust {
    const WORDS: &'static [(&'static str, Self)] =
        &[("nobody", Self::Nobody), ("trusted", Self::Trusted), ("everybody", Self::Everybody)];
}

/// Which pages of other origins may use this one (the Fetch standard's CORS protocol).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CorsConfig {
    /// Origins such as "https://app.example", or "*" for any.
    // Empty: any. Never empty with `credentials`.
    #[serde(with = "As::<Origins>")]
    pub origins: Vec<String>,
    /// What such a page may ask with.
    #[serde(with = "FilledList::<Method>")]
    pub methods: Vec<String>,
    /// Request fields beyond the ones that are always allowed. [] is whatever is asked for.
    #[serde(with = "List::<FieldName>")]
    pub headers: Vec<String>,
    /// Response fields that a page may read.
    #[serde(with = "List::<FieldName>")]
    pub expose: Vec<String>,
    /// Whether cookies and logins go with such requests.
    pub credentials: bool,
    /// How long browsers keep the permission. 0 to 1d.
    // They keep none for longer than a day.
    #[serde(with = "Time::<0, 86_400_000>")]
    pub max_age: Duration,
}

impl Default for CorsConfig {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            methods: ["GET", "HEAD", "POST"].map(str::to_owned).to_vec(),
            headers: Vec::new(),
            expose: Vec::new(),
            credentials: false,
            max_age: Duration::from_secs(600),
        }
    }
}

/// A page's.
struct Origin;

impl Kind for Origin {
    type Value = String;

    const ONE: &'static str = "an origin, or \"*\" for any";

    fn take(given: Given<'_>) -> Result<String, Wrong> {
        let text = given.text()?;
        let is_right = text == "*" || is_origin(text);
        is_right.then(|| text.to_ascii_lowercase()).ok_or_else(|| given.unlike(ORIGIN_FORM))
    }

    fn spell(value: &String) -> Json {
        value.as_str().into()
    }
}

/// Where pages may come from; none of them is any.
struct Origins;

impl Kind for Origins {
    type Value = Vec<String>;

    fn schema() -> Json {
        AtLeastOne::<Origin>::schema()
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
        let origins = AtLeastOne::<Origin>::read(from)?;
        Ok(if origins.iter().any(|origin| origin == "*") { Vec::new() } else { origins })
    }

    fn spell(value: &Vec<String>) -> Json {
        if value.is_empty() { vec!["*"].into() } else { value.clone().into() }
    }
}

fn is_origin(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, authority)| {
        // Browsers leave this port out, and what they never send is never equal to it.
        let own_port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return false,
        };
        split_authority(authority).is_some_and(|(_, port)| port != Some(own_port))
    })
}

/// How many requests a client may make.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitConfig {
    /// By what clients are told apart: "ip", "header:NAME", or "route" for all of them together.
    #[serde(default = "by_address", with = "As::<LimitKey>")]
    pub key: ClientKey,
    /// Such as "100/s": 1 to 1000000 requests per "s", "m", "h" or "d".
    #[serde(with = "As::<RateText>")]
    pub rate: Rate,
    /// Requests that may come at once. As many as in one period, unless it is given.
    // 0 until `check` has put in what the rate says.
    #[serde(default, with = "Count::<u32, 1, 1_000_000>")]
    pub burst: u32,
    /// Clients that are remembered at a time. 64 to 16777216, rounded up to a power of two.
    #[serde(default = "number::<usize, 65_536>", with = "As::<Entries>")]
    pub table_entries: usize,
    /// Whether every answer says what is left.
    #[serde(default)]
    pub announce: bool,
}

fn by_address() -> ClientKey {
    ClientKey::Ip
}

/// So many requests in so long a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub requests: u32,
    pub period: Duration,
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.period.as_secs() {
            1 => "s",
            60 => "m",
            3600 => "h",
            _ => "d",
        };
        write!(out, "{}/{unit}", self.requests)
    }
}

/// Of `RATE_FORM`.
fn parse_rate(text: &str) -> Option<Rate> {
    let (count, unit) = text.split_once('/')?;
    let is_number = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    let requests = is_number.then(|| count.parse().ok()).flatten()?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let period = Duration::from_secs(seconds);
    (1..=1_000_000).contains(&requests).then_some(Rate { requests, period })
}

type AnyEntries = Whole<usize, 64, 16_777_216>;

scalar_kind!(
    /// A power of two, or what is below it.
    Entries: usize, AnyEntries::EXPECTED, AnyEntries::schema(),
    |given| AnyEntries::take(given).map(usize::next_power_of_two),
    |value| (*value).into()
);

/// By what clients are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientKey {
    /// IPv6 by its /64.
    Ip,
    /// Not at all.
    Route,
    /// In lower case.
    Header(String),
    /// Cookies only tell cohorts apart.
    Cookie(String),
}

impl ClientKey {
    /// The network that an address stands for: itself, or the /64 that one customer gets.
    pub fn network(client: ClientAddress) -> u64 {
        match client {
            ClientAddress::Ip(IpAddr::V4(address)) => u64::from(address.to_bits()),
            // The first bit tells it from IPv4. No two networks that are in use differ in it alone.
            ClientAddress::Ip(IpAddr::V6(address)) => (address.to_bits() >> 64) as u64 | 1 << 63,
            // No network of IPv4 is above 32 bits, and none of IPv6 below the first.
            ClientAddress::Unix => 1 << 32,
        }
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip => out.write_str("ip"),
            Self::Route => out.write_str("route"),
            Self::Header(name) => write!(out, "header:{name}"),
            Self::Cookie(name) => write!(out, "cookie:{name}"),
        }
    }
}

pub(super) fn client_key(text: &str) -> Option<ClientKey> {
    match text.split_once(':') {
        None if text == "ip" => Some(ClientKey::Ip),
        None if text == "route" => Some(ClientKey::Route),
        Some(("header", name)) if is_field_name(name) => {
            Some(ClientKey::Header(name.to_ascii_lowercase()))
        }
        Some(("cookie", name)) if is_field_name(name) => Some(ClientKey::Cookie(name.to_owned())),
        _ => None,
    }
}

/// A login with a password.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicAuthConfig {
    /// An htpasswd file with lines of user:hash (bcrypt or argon2).
    #[serde(with = "As::<UsersFile>")]
    pub users_file: PathBuf,
    /// What the challenge of a 401 names. Printable ASCII without " and \.
    #[serde(default = "realm", with = "As::<Realm>")]
    pub realm: String,
    /// Wrong passwords per client address and minute; after them, 429. 1 to 1000.
    #[serde(default = "number::<u32, 10>", with = "Count::<u32, 1, 1000>")]
    pub auth_failures: u32,
}

fn realm() -> String {
    "ringway".to_owned()
}

/// A question to an upstream, before a request may go on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwardAuthConfig {
    /// The name of the upstream that is asked.
    // Index in `Config::upstreams`.
    #[serde(with = "As::<UpstreamName>")]
    pub upstream: usize,
    /// What it is asked for.
    #[serde(default = "root", with = "As::<Path>")]
    pub path: String,
    /// Request fields that the question quotes.
    #[serde(default = "quoted_fields", with = "List::<Quotable>")]
    pub request_headers: Vec<String>,
    /// Fields of a good answer that the origin is sent in place of the client's.
    #[serde(default, with = "List::<Editable>")]
    pub response_headers: Vec<String>,
    /// Which of `response_headers` names the user, for the access log. "" is none.
    #[serde(default = "user_field", with = "As::<UserField>")]
    pub user_header: String,
    /// For the answer. 1ms to 1m.
    #[serde(default = "millis::<5_000>", with = "Question")]
    pub timeout: Duration,
    /// Whether a request goes on when nobody answers: "closed" or "open".
    #[serde(default, with = "Word::<OnFailure>")]
    pub on_failure: OnFailure,
}

fn root() -> String {
    "/".to_owned()
}

fn user_field() -> String {
    "Remote-User".to_owned()
}

fn quoted_fields() -> Vec<String> {
    ["Authorization", "Cookie"].map(str::to_owned).to_vec()
}

/// What becomes of a request when the one who was asked about it fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It is refused.
    #[default]
    Closed,
    /// It goes on.
    Open,
}

impl Words for OnFailure {
    const WORDS: &'static [(&'static str, Self)] =
        &[("closed", Self::Closed), ("open", Self::Open)];
}

/// A hook that was compiled into the binary.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomConfig {
    /// Its name.
    #[serde(with = "As::<Custom>")]
    #[schemars(extend("x-form" = "a hook of a binary of one's own"))]
    pub hook: String,
    /// For what it says. 1ms to 1m.
    #[serde(default = "millis::<100>", with = "Question")]
    pub timeout: Duration,
    /// Whether a request goes on when it fails: "closed" or "open".
    #[serde(default, with = "Word::<OnFailure>")]
    pub on_failure: OnFailure,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HooksConfig;
    use crate::config::tests::{self, all_refused};

    fn hooks(keys: &str) -> HooksConfig {
        tests::hooks(&format!("[hooks]\n{keys}"))
    }

    #[test]
    fn who_may_ask_is_read_as_it_is_written() {
        let access = hooks("allow = []\ndeny = [\"10.0.0.0/8\"]\nmethods = [\"GET\"]");
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
            let expected = expected
                .map(|(requests, seconds)| Rate { requests, period: Duration::from_secs(seconds) });
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
