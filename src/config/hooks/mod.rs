//! Hooks: `[hooks]` and `[route.hooks]`.
//!
//! In: TOML, JSON and texts, by way of serde. Out: what is done to the requests and answers of a
//! route beside passing them on. Every value is in range, every template is parsed, every name is
//! one that may be edited. Files that are named here (users, error pages) are not opened here, and
//! what a hook does is `crate::hooks`'s part.

mod access;
mod answers;
mod heads;
pub(crate) mod template;
mod traffic;

use std::sync::OnceLock;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

pub(crate) use self::access::{
    BasicAuthConfig, ClientKey, CorsConfig, CustomConfig, ForwardAuthConfig, IdTrust, OnFailure,
    Rate, RateLimitConfig, RequestIdConfig,
};
pub(crate) use self::answers::{ErrorPagesConfig, PageSource, RespondConfig, Statuses};
pub(crate) use self::heads::{HeadersConfig, RedirectConfig, RewriteConfig, SecurityConfig};
pub(crate) use self::template::{Part, Scope, Template, TlsFact, Variable};
pub(crate) use self::traffic::{Hedge, MirrorConfig, RetryConfig, RetryOn, SplitConfig};

pub(super) use self::access::Method;
use self::answers::Pages;
use self::heads::RewriteTable;
use super::effective::toml;
use super::kinds::own::NetworkList;
use super::kinds::plain::{AnyBytes, Whole};
use super::kinds::{As, AtLeastOne, Optional, some_table, table, tables};
use super::names::is_token;
use super::{Networks, UpstreamConfig, scope};
use crate::http::names::FieldName;

/// Hooks: what is done to requests and answers beside passing them on. [hooks] is for every route;
/// a route may have the same keys in its own `hooks`, such as hooks = { methods = ["GET"] }. A
/// route without hooks does none of their work. Every key is optional; what each one means, in
/// which order they run and which variables there are is in docs/reference/hooks.md.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HooksConfig {
    /// Networks of clients; others are answered 403.
    #[serde(with = "Optional::<NetworkList>", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = r#"["10.0.0.0/8"]"#))]
    pub allow: Option<Networks>,
    /// Networks of clients that are answered 403, asked before `allow`.
    #[serde(with = "As::<NetworkList>", skip_serializing_if = "Networks::is_empty")]
    #[schemars(extend("x-example" = r#"["10.66.0.0/16"]"#))]
    pub deny: Networks,
    /// Others are answered 405.
    #[serde(with = "Optional::<AtLeastOne<Method>>", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = r#"["GET", "HEAD", "POST"]"#))]
    pub methods: Option<Vec<String>>,
    /// A name for each request, in the logs of everybody who sees it.
    #[serde(deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = r#"{ header = "X-Request-Id", trust = "trusted" }"#))]
    pub request_id: Option<RequestIdConfig>,
    /// Answers preflights, and marks answers for the origins that may read them.
    #[serde(deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "x-example" = "\
            { origins = [\"https://app.example\"], methods = [\"GET\"], headers = [], expose = \
            [], credentials = false, max_age = \"10m\" }"
    ))]
    pub cors: Option<CorsConfig>,
    /// Requests of a client beyond this rate are answered 429.
    #[serde(deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "x-example" = "\
            { key = \"ip\", rate = \"100/s\", burst = 100, table_entries = 65536, announce = \
            false }"
    ))]
    pub rate_limit: Option<RateLimitConfig>,
    /// The same by the address of the client, beside `rate_limit`, whose key a client may choose.
    #[serde(deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = r#"{ rate = "1000/s" }"#))]
    pub address_rate_limit: Option<RateLimitConfig>,
    /// Requests under way per client address; more are answered 429. 1 to 1000000.
    #[serde(
        with = "Optional::<Whole<u32, 1, 1_000_000>>",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(extend("x-example" = "20"))]
    pub connections_per_client: Option<u32>,
    /// A larger request body is answered 413, whatever limits.body_bytes says. 0 is unlimited.
    #[serde(with = "Optional::<AnyBytes>", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = r#""1MiB""#))]
    pub body_bytes: Option<u64>,
    /// Another place for the client to ask.
    #[serde(deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = r#"{ to = "https://${host}${target}", status = 308 }"#))]
    pub redirect: Option<RedirectConfig>,
    /// A login with a password, else 401.
    #[serde(deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "x-example" = "\
            { users_file = \"/etc/ringway/users\", realm = \"ringway\", auth_failures = 10 }"
    ))]
    pub basic_auth: Option<BasicAuthConfig>,
    /// Asks an upstream whether the request may go on.
    #[serde(deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "x-example" = "\
            { upstream = \"login\", path = \"/verify\", request_headers = [\"Cookie\"], \
            response_headers = [\"X-User\"], timeout = \"5s\", on_failure = \"closed\" }"
    ))]
    pub forward_auth: Option<ForwardAuthConfig>,
    /// Hooks in Rust, of a binary of one's own.
    // `None` leaves those of the weaker table; none at all is a choice.
    #[serde(deserialize_with = "some_tables", skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "x-example" = "\
            [{ hook = \"tickets\", timeout = \"100ms\", on_failure = \"closed\" }]"
    ))]
    pub custom: Option<Vec<CustomConfig>>,
    /// An answer that is always the same.
    #[serde(deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "x-example" = "\
            { status = 200, body = \"ok\", content_type = \"text/plain\", headers = { X-A = \
            \"b\" } }"
    ))]
    pub respond: Option<RespondConfig>,
    /// Which upstream, by weight.
    #[serde(deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "x-example" = "\
            { weights = { stable = 90, canary = 10 }, sticky = \"cookie:cohort\", max_age = \
            \"30d\" }"
    ))]
    pub split: Option<SplitConfig>,
    /// A copy of a share of the requests to another upstream; its answers are thrown away.
    #[serde(deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "x-example" = "\
            { upstream = \"shadow\", percent = 5, body_bytes = \"64KiB\" }"
    ))]
    pub mirror: Option<MirrorConfig>,
    /// More attempts, on what, and how large a share of the requests they may be. They go to
    /// another origin, where there is one. `hedge` sends what is slow to be answered twice.
    #[serde(deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "x-example" = "\
            { attempts = 2, on = [\"connect\", \"reset\", \"503\"], budget_percent = 20, hedge = \
            \"p95\", hedge_percent = 10, non_idempotent = false }"
    ))]
    pub retry: Option<RetryConfig>,
    /// Another path: { prefix = "/v2" } in place of the route's own, or by a regular expression.
    #[serde(deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RewriteTable")]
    #[schemars(extend("x-example" = r#"{ regex = "^/old/(.*)$", replacement = "/new/$1" }"#))]
    pub rewrite: Option<RewriteConfig>,
    /// What the origin sees of the request's fields.
    #[serde(deserialize_with = "table", skip_serializing_if = "HeadersConfig::is_empty")]
    #[schemars(extend(
        "x-example" = "\
            { rename = { X-A = \"X-B\" }, remove = [\"X-C\"], set = { X-D = \"${client_ip}\" }, \
            add = { X-E = \"e\" } }"
    ))]
    pub request_headers: HeadersConfig,
    /// What the client sees of the answer's fields.
    #[serde(deserialize_with = "table", skip_serializing_if = "HeadersConfig::is_empty")]
    #[schemars(extend("x-example" = r#"{ remove = ["Server"] }"#))]
    pub response_headers: HeadersConfig,
    /// Policies that browsers keep. "" leaves the origin's.
    #[serde(deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "x-example" = "\
            { hsts = \"\", nosniff = true, frame_options = \"SAMEORIGIN\", referrer_policy = \
            \"\", content_security_policy = \"\" }"
    ))]
    pub security_headers: Option<SecurityConfig>,
    /// What stands in answers that are errors: a text, or "file:" and a path.
    #[serde(with = "Optional::<Pages>", skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "x-example" = "\
            { 404 = \"nothing here\", 5xx = \"file:/etc/ringway/5xx.html\" }"
    ))]
    pub error_pages: Option<ErrorPagesConfig>,
    /// Whether an origin's errors are answered so too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = "false"))]
    pub intercept_errors: Option<bool>,
}

impl HooksConfig {
    /// What is configured, key by key, in the order of their names.
    pub fn lines(&self, upstreams: &[UpstreamConfig]) -> Vec<String> {
        let keys = scope::spelling(upstreams, false, || serde_json::to_value(self));
        let keys = keys.unwrap_or_default();
        let members = super::keys::section("hooks").keys.iter();
        let given = members.filter_map(|key| Some((&key.name, keys.get(&key.name)?)));
        given.map(|(key, value)| format!("{key} = {}", toml(value))).collect()
    }
}

impl HooksConfig {
    /// Those that can keep a request from its origin.
    pub fn guards(&self) -> Self {
        Self {
            allow: self.allow.clone(),
            deny: self.deny.clone(),
            methods: self.methods.clone(),
            rate_limit: self.rate_limit.clone(),
            address_rate_limit: self.address_rate_limit.clone(),
            connections_per_client: self.connections_per_client,
            body_bytes: self.body_bytes,
            redirect: self.redirect.clone(),
            basic_auth: self.basic_auth.clone(),
            forward_auth: self.forward_auth.clone(),
            custom: self.custom.clone(),
            respond: self.respond.clone(),
            ..Self::default()
        }
    }
}

/// `None` where the table says nothing.
pub(super) fn hooks_table<'de, D>(from: D) -> Result<Option<Box<HooksConfig>>, D::Error>
where
    D: Deserializer<'de>,
{
    table(from).map(|hooks| Some(Box::new(hooks)))
}

fn some_tables<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<CustomConfig>>, D::Error> {
    tables(from).map(Some)
}

/// What a compiled pattern may take. Patterns of a few hundred bytes stay far below.
pub(crate) const REGEX_BYTES_MAX: usize = 256 * 1024;

/// Whether a field may be edited: not what frames a message, concerns one connection only or is
/// ringway's own to say.
pub(crate) fn is_editable(name: &str) -> bool {
    use FieldName as K;
    let known = FieldName::of(name.as_bytes());
    let is_open = matches!(
        known,
        K::Other
            | K::Shadow
            | K::Authorization
            | K::Forwarded
            | K::Proxy
            | K::XForwardedFor
            | K::XForwardedHost
            | K::XForwardedProto
    );
    is_token(name) && (is_open || known.is_claim())
}

/// Compiles a pattern for paths, which are bytes and not text. What was expected, if it is none.
pub(crate) fn pattern(text: &str) -> Result<regex::bytes::Regex, String> {
    let built = regex::bytes::RegexBuilder::new(text)
        .unicode(false)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(REGEX_BYTES_MAX)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(bytes) => format!("a pattern that compiles to {bytes} bytes"),
        other => {
            // The last line says what is wrong; the ones before it draw an arrow.
            let text = other.to_string();
            let reason = text.lines().last().unwrap_or_default();
            format!("a regular expression ({})", reason.trim_start_matches("error: "))
        }
    })
}

/// The names of the hooks that are compiled into this binary.
static CUSTOM_HOOKS: OnceLock<Vec<&'static str>> = OnceLock::new();

/// Makes the names of custom hooks known, before any configuration is read. Only the first call
/// counts.
pub(crate) fn announce_custom(names: Vec<&'static str>) {
    let _ = CUSTOM_HOOKS.set(names);
}

pub(super) fn custom_names() -> &'static [&'static str] {
    CUSTOM_HOOKS.get().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{all_refused, parse};

    #[test]
    fn a_route_without_hooks_has_none() {
        let config = parse("[[route]]\nupstream = \"demo\"\n[route.hooks]").unwrap();
        assert_eq!((config.hooks, &config.routes[0].hooks), (None, &None));
    }

    #[test]
    fn hooks_are_for_everybody_or_for_a_route() {
        let text = "[hooks]\nbody_bytes = 0\n[[route]]\nupstream = \"demo\"\n\
                    inherit_hooks = false\n[route.hooks]\nconnections_per_client = 7\n\
                    body_bytes = 5";
        let config = parse(text).unwrap();
        assert_eq!(config.hooks.unwrap().body_bytes, Some(u64::MAX));
        let own = config.routes[0].hooks.as_ref().unwrap();
        assert_eq!((own.connections_per_client, own.body_bytes), (Some(7), Some(5)));
        assert!(!config.routes[0].inherits_hooks);
    }

    #[test]
    fn an_unknown_key_of_a_hook_names_its_place_and_the_nearest_known_one() {
        let route = "[[route]]\nupstream = \"demo\"\n";
        all_refused(&[
            ("[hooks]\nredirct = {}", "2:1: hooks.redirct: unknown key, did you mean `redirect`?"),
            (
                &format!("{route}[route.hooks.rate_limit]\nrtae = \"1/s\""),
                "4:1: route[0].hooks.rate_limit.rtae: unknown key, did you mean `rate`?",
            ),
            (
                &format!("{route}[route.hooks.request_headers]\nsets = {{}}"),
                "4:1: route[0].hooks.request_headers.sets: unknown key, did you mean `set`?",
            ),
            ("[hooks]\ncors = 5", "2:8: hooks.cors: invalid type: integer `5`, expected a table"),
            ("[hooks]\nconnections_per_client = 0", "2:26: hooks.connections_per_client: found 0"),
            ("[hooks.mirror]\npercent = \"x\"", "2:11: hooks.mirror.percent: invalid type: string"),
        ]);
    }

    #[test]
    fn what_is_spelled_reads_back_to_the_same() {
        let tables = [
            "allow = []\ndeny = [\"10.0.0.0/8\"]\nmethods = [\"GET\"]\nbody_bytes = 0\n\
             connections_per_client = 3\nintercept_errors = true\n\
             error_pages = { 404 = \"a\\n\\\"b\\\"\", 5xx = \"file:/a b.html\" }",
            "cors = {}\nrate_limit = { rate = \"7/d\", burst = 2, announce = true }\n\
             request_id = { header = \"X-Id\", trust = \"everybody\" }",
            "cors = { origins = [\"http://a\"], credentials = true, max_age = \"90s\" }\n\
             rate_limit = { rate = \"7/m\", key = \"header:X-Key\" }\n\
             redirect = { to = \"/${path}$$x\", status = 301 }",
            "basic_auth = { users_file = \"/a\", realm = \"b\" }\ncustom = []\n\
             forward_auth = { upstream = \"demo\", response_headers = [\"X-User\"] }\n\
             respond = { body = \"a\", headers = { X-A = \"b\", \"X.B\" = \"c\" } }",
            "split = { weights = { demo = 3 }, sticky = \"cookie:c\" }\nretry = {}\n\
             mirror = { upstream = \"demo\", percent = 0.25, body_bytes = 0 }\n\
             rewrite = { regex = \"^/(.*)$\", replacement = \"/$1/${1}$$${host}\" }",
            "split = { weights = { demo = 3 }, sticky = \"ip\" }\n\
             retry = { on = [\"5xx\", \"429\"], hedge = \"50ms\" }\n\
             rewrite = { prefix = \"/a\" }\nsecurity_headers = { frame_options = \"\" }\n\
             request_headers = { set = { X-A = \"${header.x-b}\" }, remove = [\"X-C\"] }\n\
             response_headers = { rename = { X-D = \"X-E\" }, add = { X-F = \"$${host}$\" } }",
        ];
        for text in tables {
            let config =
                parse(&format!("[hooks]\n{text}")).unwrap_or_else(|error| panic!("{error}"));
            let section = config.hooks.as_ref().unwrap();
            let lines = section.lines(&config.upstreams);
            let again = parse(&format!("[hooks]\n{}", lines.join("\n")));
            let again = again.unwrap_or_else(|error| panic!("{error}\n{lines:?}"));
            assert_eq!(again.hooks, config.hooks, "{lines:?}");
            let own = lines.join(", ");
            let route = format!("[[route]]\nupstream = \"demo\"\nhooks = {{ {own} }}");
            assert_eq!(parse(&route).unwrap().routes[0].hooks, config.hooks);
        }
    }
}
