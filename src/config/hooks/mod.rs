//! Hooks, `[hooks]` and `[route.hooks]`, as they hold.
//!
//! In: nothing; `check` fills these types in. Out: what is done to the requests and answers of a
//! route beside passing them on. Every value is in range, every template is parsed, every name is
//! one that may be edited. Files that are named here (users, error pages) are not opened here, and
//! what a hook does is `crate::hooks`'s part.

pub(super) mod raw;
pub(super) mod spelled;
pub mod template;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

pub use self::template::{Part, Scope, Template, Variable};

use super::names::is_token;
use super::{Networks, UpstreamConfig};
use crate::http::names::FieldName;

impl HooksConfig {
    /// What is configured, key by key, in the order in which it takes effect.
    pub fn lines(&self, upstreams: &[UpstreamConfig]) -> Vec<String> {
        let keys = spelled::hooks(self, upstreams).into_iter();
        keys.map(|(key, value)| format!("{key} = {value}")).collect()
    }
}

/// The hooks of one table. `HooksConfig::default()` does nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HooksConfig {
    pub access: AccessConfig,
    pub request_id: Option<RequestIdConfig>,
    pub cors: Option<CorsConfig>,
    pub rate_limit: Option<RateLimitConfig>,
    /// Requests under way per client address.
    pub connections_per_client: Option<u32>,
    /// Takes the place of `limits.body_bytes`.
    pub body_bytes: Option<u64>,
    pub redirect: Option<RedirectConfig>,
    pub basic_auth: Option<BasicAuthConfig>,
    pub forward_auth: Option<ForwardAuthConfig>,
    /// `None` leaves those of the weaker table; none at all is a choice.
    pub custom: Option<Vec<CustomConfig>>,
    pub respond: Option<RespondConfig>,
    pub split: Option<SplitConfig>,
    pub mirror: Option<MirrorConfig>,
    pub retry: Option<RetryConfig>,
    pub rewrite: Option<RewriteConfig>,
    pub request_headers: HeadersConfig,
    pub response_headers: HeadersConfig,
    pub security_headers: Option<SecurityConfig>,
    pub error_pages: Option<ErrorPagesConfig>,
}

/// Who may ask, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessConfig {
    /// `None` lets everybody in.
    pub allow: Option<Networks>,
    /// Asked before `allow`.
    pub deny: Networks,
    /// `None` lets every method in.
    pub methods: Option<Vec<String>>,
}

/// A name for each request, in the logs of everybody who sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestIdConfig {
    /// A field name as it is sent.
    pub header: String,
    pub trust: IdTrust,
}

/// Whose names for requests are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdTrust {
    Nobody,
    /// `server.trusted_proxies`.
    #[default]
    Trusted,
    Everybody,
}

/// Which pages of other origins may use this one (the Fetch standard's CORS protocol).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsConfig {
    /// Empty: any. Never empty with `credentials`.
    pub origins: Vec<String>,
    pub methods: Vec<String>,
    /// Request fields beyond the ones that are always allowed. Empty: whatever is asked for.
    pub headers: Vec<String>,
    /// Response fields that a page may read.
    pub expose: Vec<String>,
    pub credentials: bool,
    pub max_age: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitConfig {
    pub key: ClientKey,
    /// Requests per `period`. At least 1.
    pub requests: u32,
    pub period: Duration,
    /// Requests that may come at once. At least 1.
    pub burst: u32,
    /// Keys that are remembered at a time, a power of two.
    pub table_entries: usize,
    /// Whether every answer says what is left.
    pub announce: bool,
}

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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectConfig {
    pub to: Template,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BasicAuthConfig {
    pub users_file: PathBuf,
    /// Stands in a quoted string as it is.
    pub realm: String,
    /// Per client address and minute.
    pub auth_failures: u32,
}

/// A question to an upstream, before a request may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardAuthConfig {
    /// Index in `Config::upstreams`.
    pub upstream: usize,
    pub path: String,
    /// Request fields that the question quotes.
    pub request_headers: Vec<String>,
    /// Fields of a good answer that the origin is sent in place of the client's.
    pub response_headers: Vec<String>,
    pub timeout: Duration,
    pub on_failure: OnFailure,
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

/// A hook that was compiled into the binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomConfig {
    pub hook: String,
    pub timeout: Duration,
    pub on_failure: OnFailure,
}

/// An answer without an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RespondConfig {
    pub status: u16,
    pub body: String,
    pub content_type: String,
    pub headers: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitConfig {
    /// Indexes in `Config::upstreams` and weights of at least 1; at least one arm.
    pub arms: Vec<(usize, u32)>,
    /// `None` draws anew for every request.
    pub sticky: Option<ClientKey>,
    /// How long a client keeps the cookie of `sticky`.
    pub max_age: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorConfig {
    /// Index in `Config::upstreams`.
    pub upstream: usize,
    /// In hundredths of a percent: 10,000 is all of them.
    pub share: u32,
    /// Requests with a larger body are not mirrored.
    pub body_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    /// Further ones, after the first.
    pub attempts: u32,
    pub on: RetryOn,
    /// Of the requests of the route.
    pub budget_percent: u32,
}

/// What is worth another attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a set of four words")]
pub struct RetryOn {
    /// The origin could not be reached.
    pub connect: bool,
    /// The connection ended before an answer began.
    pub reset: bool,
    /// No answer began in time.
    pub timeout: bool,
    /// 502, 503 or 504.
    pub unavailable: bool,
}

/// Another path for the origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RewriteConfig {
    /// In place of the route's own path. Begins with `/`.
    Prefix(String),
    Regex {
        /// One that compiles within `REGEX_BYTES_MAX`.
        pattern: String,
        /// Begins with a literal `/`.
        replacement: Template,
    },
}

/// Edits to a head, in the order of the fields here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadersConfig {
    pub rename: Vec<(String, String)>,
    pub remove: Vec<String>,
    pub set: Vec<(String, Template)>,
    pub add: Vec<(String, Template)>,
}

/// Policies that browsers keep. `None` leaves the origin's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityConfig {
    pub hsts: Option<String>,
    pub nosniff: bool,
    pub frame_options: Option<String>,
    pub referrer_policy: Option<String>,
    pub content_security_policy: Option<String>,
}

/// What stands in answers that are errors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorPagesConfig {
    pub pages: Vec<(Statuses, PageSource)>,
    /// Whether an origin's errors are answered so too.
    pub intercept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statuses {
    Exact(u16),
    /// 4 or 5.
    Class(u16),
}

impl fmt::Display for Statuses {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(code) => write!(out, "{code}"),
            Self::Class(class) => write!(out, "{class}xx"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageSource {
    Inline(String),
    File(PathBuf),
}

/// What a compiled pattern may take. Patterns of a few hundred bytes stay far below.
pub const REGEX_BYTES_MAX: usize = 256 * 1024;

impl ClientKey {
    /// The network that an address stands for: itself, or the /64 that one customer gets.
    pub fn network(address: IpAddr) -> u64 {
        match address.to_canonical() {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            // The first bit tells it from IPv4. No two networks that are in use differ in it alone.
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64 | 1 << 63,
        }
    }
}

impl HeadersConfig {
    pub fn is_empty(&self) -> bool {
        self.rename.is_empty()
            && self.remove.is_empty()
            && self.set.is_empty()
            && self.add.is_empty()
    }
}

/// Whether a field may be edited: not what frames a message, concerns one connection only or is
/// ringway's own to say.
pub fn is_editable(name: &str) -> bool {
    use FieldName as K;
    let known = FieldName::of(name.as_bytes());
    let is_open = matches!(known, K::Other | K::Forwarded | K::XForwardedFor | K::XForwardedHost)
        || known == K::XForwardedProto;
    is_token(name) && is_open
}

/// Compiles a pattern for paths, which are bytes and not text. What was expected, if it is none.
pub fn pattern(text: &str) -> Result<regex::bytes::Regex, String> {
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
pub fn announce_custom(names: Vec<&'static str>) {
    let _ = CUSTOM_HOOKS.set(names);
}

pub(super) fn custom_names() -> &'static [&'static str] {
    CUSTOM_HOOKS.get().map_or(&[], Vec::as_slice)
}
