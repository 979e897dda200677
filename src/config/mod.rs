//! The configuration, parsed once and never checked again.
//!
//! In: the built-in defaults, a profile, a file (TOML, or flat JSON), the environment and the
//! command line's flags, each overriding the ones before it. Out: a `Config` in which every value
//! is in range, every name is resolved to an index and nothing means "default". It is shared as
//! an `Arc` and read on the data path. This is the only module that knows TOML. It never opens a
//! socket and never asks DNS.

mod access_field;
mod access_format;
mod access_when;
mod acme;
pub(crate) mod change;
mod check;
mod conditions;
pub(crate) mod docker;
pub(crate) mod document;
pub(crate) mod effective;
mod environment;
mod error;
mod flags;
mod flat;
mod forward;
mod found;
mod health;
mod hints;
pub(crate) mod hooks;
mod http2;
mod introduction;
#[doc(hidden)]
pub(crate) mod invariants;
mod keys;
mod kinds;
mod listener;
mod names;
mod networks;
mod operation;
mod origins;
pub(crate) mod origins_file;
#[cfg(test)]
mod properties;
pub(crate) mod reference;
mod rules;
mod scope;
mod sections;
mod sources;
mod sticky;
mod takes;
mod timeouts;
mod tls;
mod traces;
mod tree;
mod units;
mod upstreams;

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::effective::Origins;
use self::environment::Environment;
pub(crate) use self::environment::UPGRADE_VARIABLE;
use self::error::{Location, NOT_TEXT, Problem};
use self::hooks::hooks_table;
use self::kinds::{table, tables};
use self::sources::Sources;

pub(crate) use self::access_field::AccessField;
pub(crate) use self::access_format::{
    AccessFormat, AccessPiece, AccessTemplate, Escape, FORMAT_BYTES_MAX,
};
pub(crate) use self::access_when::{AccessFacts, AccessWhen};
pub(crate) use self::acme::{AcmeChallenge, AcmeConfig};
pub(crate) use self::docker::DockerConfig;
pub(crate) use self::error::{ConfigError, EXIT_CONFIG};
pub use self::flags::Flags;
pub(crate) use self::flags::Profile;
pub(crate) use self::forward::{
    ForwardConfig, ParentAddress, ParentConfig, ParentScheme, Rule, RuleAction, RuleTarget, Secret,
};
pub(crate) use self::found::FoundUpstream;
pub(crate) use self::health::{EjectConfig, HashKey, HealthConfig, Policy};
pub(crate) use self::hooks::BasicAuthConfig;
pub(crate) use self::hooks::ClientKey;
pub(crate) use self::hooks::CorsConfig;
pub(crate) use self::hooks::CustomConfig;
pub(crate) use self::hooks::ErrorPagesConfig;
pub(crate) use self::hooks::ForwardAuthConfig;
pub(crate) use self::hooks::HeadersConfig;
pub(crate) use self::hooks::Hedge;
pub(crate) use self::hooks::HooksConfig;
pub(crate) use self::hooks::IdTrust;
pub(crate) use self::hooks::MirrorConfig;
pub(crate) use self::hooks::OnFailure;
pub(crate) use self::hooks::PageSource;
pub(crate) use self::hooks::Rate;
pub(crate) use self::hooks::RateLimitConfig;
pub(crate) use self::hooks::RedirectConfig;
pub(crate) use self::hooks::RespondConfig;
pub(crate) use self::hooks::RetryConfig;
pub(crate) use self::hooks::RetryOn;
pub(crate) use self::hooks::RewriteConfig;
pub(crate) use self::hooks::SecurityConfig;
pub(crate) use self::hooks::SplitConfig;
pub(crate) use self::hooks::Statuses;
pub(crate) use self::hooks::TlsFact;
pub(crate) use self::http2::Http2Config;
pub use self::keys::schema;
pub(crate) use self::listener::ListenerConfig;
pub(crate) use self::networks::Networks;
pub(crate) use self::operation::AdminAddress;
pub(crate) use self::operation::AdminConfig;
pub(crate) use self::operation::MemoryConfig;
pub(crate) use self::operation::MemoryMax;
pub(crate) use self::operation::OnDataPort;
pub(crate) use self::operation::StatsConfig;
pub(crate) use self::operation::{AlertsConfig, WebhookFormat};
pub(crate) use self::operation::{DnsConfig, DnsFamily};
pub(crate) use self::origins::OriginConfig;
pub(crate) use self::rules::{RULE_FORM, parse_rule};
pub(crate) use self::sections::{
    BuffersConfig, DriverChoice, HalfClose, LimitsConfig, LogConfig, LogFormat, LogTarget,
    PathMatch, PoolConfig, Prewarm, ServerConfig,
};
pub(crate) use self::sticky::{SameSite, StickyConfig};
pub(crate) use self::timeouts::{PoolStatus, TimeoutsConfig};
pub(crate) use self::tls::{
    CertificateConfig, ClientAuth, TlsConfig, TlsVersion, UpstreamTlsConfig,
};
pub(crate) use self::traces::TracingConfig;
pub(crate) use self::units::{parse_bytes, parse_duration};
pub(crate) use self::upstreams::SendPath;
pub use self::upstreams::{HostPattern, RouteConfig};
pub(crate) use self::upstreams::{HostPolicy, OriginHttp, UpstreamConfig};

/// Read when no file is named and the command line names no upstream.
pub(crate) const DEFAULT_FILE: &str = "config.toml";

/// A file of 10,000 routes is below this. A larger one is not a configuration.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default = "Config::as_written")]
pub struct Config {
    #[serde(deserialize_with = "table")]
    pub server: ServerConfig,
    #[serde(deserialize_with = "table")]
    pub tls: TlsConfig,
    #[serde(deserialize_with = "table")]
    pub http2: Http2Config,
    #[serde(deserialize_with = "table")]
    pub limits: LimitsConfig,
    #[serde(deserialize_with = "table")]
    pub timeouts: TimeoutsConfig,
    #[serde(deserialize_with = "table")]
    pub pool: PoolConfig,
    #[serde(deserialize_with = "table")]
    pub buffers: BuffersConfig,
    #[serde(deserialize_with = "table")]
    pub log: LogConfig,
    // Never empty. Routes and the data path name an upstream by its index here.
    #[serde(rename = "upstream", deserialize_with = "tables")]
    pub upstreams: Vec<UpstreamConfig>,
    // Never empty: without a `[[route]]` one route sends everything to the first upstream.
    #[serde(rename = "route", deserialize_with = "tables")]
    pub routes: Vec<RouteConfig>,
    // For every route that does not opt out, before the route's own.
    #[serde(deserialize_with = "hooks_table")]
    pub hooks: Option<Box<HooksConfig>>,
    #[serde(deserialize_with = "table")]
    pub forward: ForwardConfig,
    // The first that is for a host is the one it goes through. Empty without `[[parent]]`.
    #[serde(rename = "parent", deserialize_with = "tables")]
    pub parents: Vec<ParentConfig>,
    #[serde(deserialize_with = "table")]
    pub docker: DockerConfig,
    #[serde(deserialize_with = "table")]
    pub dns: DnsConfig,
    #[serde(deserialize_with = "table")]
    pub memory: MemoryConfig,
    #[serde(deserialize_with = "table")]
    pub admin: AdminConfig,
    #[serde(deserialize_with = "table")]
    pub stats: StatsConfig,
    #[serde(deserialize_with = "table")]
    pub alerts: AlertsConfig,
    #[serde(deserialize_with = "table")]
    pub tracing: TracingConfig,
}

impl Default for Config {
    fn default() -> Self {
        let mut config = Self::as_written();
        check::settle(&mut config);
        config
    }
}

impl Config {
    /// The defaults before one of them means anything for another.
    fn as_written() -> Self {
        Self {
            server: ServerConfig::default(),
            tls: TlsConfig::default(),
            http2: Http2Config::default(),
            limits: LimitsConfig::default(),
            timeouts: TimeoutsConfig::default(),
            pool: PoolConfig::default(),
            buffers: BuffersConfig::default(),
            log: LogConfig::default(),
            upstreams: vec![UpstreamConfig::demo()],
            routes: Vec::new(),
            hooks: None,
            forward: ForwardConfig::default(),
            parents: Vec::new(),
            docker: DockerConfig::default(),
            dns: DnsConfig::default(),
            memory: MemoryConfig::default(),
            admin: AdminConfig::default(),
            stats: StatsConfig::default(),
            alerts: AlertsConfig::default(),
            tracing: TracingConfig::default(),
        }
    }

    /// Reads the environment and `path`, or without one what `file_in_use` finds, and lets
    /// `flags` override them.
    pub fn load(path: Option<&Path>, flags: &Flags) -> Result<Self, ConfigError> {
        Self::load_traced(path, flags).map(|(config, _)| config)
    }

    /// As `load`, with where each value was given.
    pub fn load_traced(path: Option<&Path>, flags: &Flags) -> Result<(Self, Origins), ConfigError> {
        let (config, origins, _) = Self::load_with_text(path, flags)?;
        Ok((config, origins))
    }

    /// As `load_traced`, with what the file says.
    pub(crate) fn load_with_text(
        path: Option<&Path>,
        flags: &Flags,
    ) -> Result<(Self, Origins, Option<String>), ConfigError> {
        let environment = match &flags.variables {
            Some(variables) => Environment::of(variables.iter().cloned())?,
            None => Environment::of_process()?,
        };
        let Some(path) = file_in_use(path, flags) else {
            let file = Path::new(DEFAULT_FILE);
            let (config, origins) = Self::merge_traced(file, "", &environment, flags)?;
            return Ok((config, origins, None));
        };
        let text = read(&path)
            .map_err(|problem| ConfigError::new(Location::File(path.clone()), problem))?;
        let (mut config, origins) = Self::merge_traced(&path, &text, &environment, flags)?;
        config.leave_the_demo_out(&origins);
        Ok((config, origins, Some(text)))
    }

    /// What the environment has that is hardly meant for ringway, in one line.
    pub(crate) fn environment_warning() -> Option<String> {
        Environment::of_process().ok()?.warning()
    }

    /// What the file at `path` says, whatever the environment and the command line do.
    pub fn of_file(path: &Path) -> Result<(Self, Origins), ConfigError> {
        Self::of_text(path, &Self::text_of(path)?)
    }

    /// What stands in the file at `path`, which may be of another program.
    pub(crate) fn text_of(path: &Path) -> Result<String, ConfigError> {
        read(path).map_err(|problem| ConfigError::new(Location::File(path.to_owned()), problem))
    }

    /// As `of_file`, of a text that may stand in no file yet.
    pub(crate) fn of_text(path: &Path, text: &str) -> Result<(Self, Origins), ConfigError> {
        let (mut config, origins) =
            Self::merge_traced(path, text, &Environment::default(), &Flags::default())?;
        config.leave_the_demo_out(&origins);
        Ok((config, origins))
    }

    /// Who has a file and names no upstream in it is not shown somebody else's pages.
    fn leave_the_demo_out(&mut self, origins: &Origins) {
        if self.is_demo_by_default(origins) {
            self.upstreams.clear();
            self.routes.clear();
        }
    }

    /// Whether the demo is there because nobody has said anything of upstreams or routes.
    fn is_demo_by_default(&self, origins: &Origins) -> bool {
        let is_unsaid = |path: &str| origins.of(path) == effective::Origin::Default;
        let has_own = self.routes.iter().any(|route| route.hooks.is_some());
        is_unsaid("route.0.upstream")
            && is_unsaid("upstream.0.name")
            && is_unsaid("upstream.0.builtin")
            && !has_own
            && !self.asks_an_upstream()
            && matches!(self.upstreams.as_slice(), [only] if only.is_demo)
    }

    #[cfg(test)]
    fn merge(
        path: &Path,
        text: &str,
        environment: &Environment,
        flags: &Flags,
    ) -> Result<Self, ConfigError> {
        Self::merge_traced(path, text, environment, flags).map(|(config, _)| config)
    }

    /// The one place where sources meet: flags > environment > file > profile > defaults. Each
    /// lies over the ones before it, key by key.
    fn merge_traced(
        path: &Path,
        text: &str,
        environment: &Environment,
        flags: &Flags,
    ) -> Result<(Self, Origins), ConfigError> {
        let profile = flags.profile.map(Profile::settings).unwrap_or_default();
        let is_flat = flat::is_flat(path);
        let flat = if is_flat { flat::settings(path, text)? } else { Vec::new() };
        let flags = flags.settings()?;
        let mut sources = Sources::new(path, text);
        sources.lay(&profile);
        if is_flat {
            sources.lay(&flat);
        } else {
            sources.lay_file();
        }
        sources.lay(environment.settings());
        sources.lay(&flags);
        sources.config()
    }

    /// What is no mistake and hardly meant, a line each.
    pub fn warnings(&self, origins: &Origins) -> Vec<String> {
        let own = self.routes.iter().filter_map(|route| route.hooks.as_deref());
        let hooks: Vec<&HooksConfig> = self.hooks.as_deref().into_iter().chain(own).collect();
        let asked = hooks.iter().filter_map(|hooks| hooks.forward_auth.as_ref());
        let mirrors = hooks.iter().filter_map(|hooks| hooks.mirror.as_ref());
        let used: HashSet<usize> = (self.routes.iter().map(|route| route.upstream))
            .chain(self.split_upstreams())
            .chain(asked.map(|asked| asked.upstream))
            .chain(mirrors.map(|mirror| mirror.upstream))
            .collect();
        let unused = self.upstreams.iter().enumerate().filter(|(index, _)| !used.contains(index));
        let warning = |(index, upstream): (usize, &UpstreamConfig)| {
            let (place, name) = (origins.of(&format!("upstream.{index}.name")), &upstream.name);
            format!(
                "{place:#}: no route uses the upstream {name:?}: write [[route]] with upstream = \
                 {name:?} and a `path` or `host`, or leave it out"
            )
        };
        let mut warnings: Vec<_> = unused.map(warning).collect();
        if self.is_demo_by_default(origins) {
            warnings.push(
                "this is the demo: a small server inside ringway answers, since there is neither \
                 a file nor an upstream; give --upstream URL, or a file with [[upstream]]"
                    .to_owned(),
            );
        }
        let has_others = self.forward.enabled || self.docker.socket.is_some();
        if self.upstreams.is_empty() && !has_others {
            warnings.push(
                "there is no upstream, so that every request is answered 404: write [[upstream]] \
                 with origins, or give --upstream URL"
                    .to_owned(),
            );
        }
        warnings
    }

    /// The upstreams that splits choose from, some of them more than once.
    pub fn split_upstreams(&self) -> impl Iterator<Item = usize> {
        let own = self.routes.iter().filter_map(|route| route.hooks.as_deref());
        let hooks = self.hooks.as_deref().into_iter().chain(own);
        let splits = hooks.filter_map(|hooks| hooks.split.as_ref());
        splits.flat_map(|split| split.arms.iter().map(|(upstream, _)| *upstream))
    }

    /// Whether something speaks TLS to its clients.
    pub fn shows_certificates(&self) -> bool {
        !self.server.listen_tls.is_empty() || self.admin.is_tls()
    }

    /// The files of certificates, keys and authorities in use.
    pub fn tls_files(&self) -> Vec<PathBuf> {
        let tls = Some(&self.tls).filter(|_| self.shows_certificates());
        let own = tls.into_iter().flat_map(TlsConfig::files);
        let origins = self.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref());
        let parents = self.parents.iter().filter_map(|parent| parent.tls.as_ref());
        let others = origins.chain(parents).flat_map(UpstreamTlsConfig::files);
        own.chain(others).cloned().collect()
    }

    /// Whether nothing but the forward proxy, or containers, are wanted, where no upstream is named
    /// either.
    fn needs_no_upstream(&self) -> bool {
        let has_others = self.forward.enabled || self.docker.socket.is_some();
        has_others && self.routes.is_empty() && !self.asks_an_upstream()
    }

    /// Whether a hook for all routes names one.
    fn asks_an_upstream(&self) -> bool {
        self.hooks.as_deref().is_some_and(|hooks| {
            hooks.split.is_some() || hooks.forward_auth.is_some() || hooks.mirror.is_some()
        })
    }

    /// Whether the demo origin has to be started.
    pub fn needs_demo(&self) -> bool {
        self.upstreams.iter().any(|upstream| upstream.is_demo)
    }

    /// Makes `address` the origin of every upstream that is the built-in demo.
    pub fn place_demo(&mut self, address: SocketAddr) {
        for upstream in self.upstreams.iter_mut().filter(|upstream| upstream.is_demo) {
            upstream.origins = vec![OriginConfig {
                host: address.ip().to_string(),
                port: address.port(),
                authority: address.to_string(),
                ..OriginConfig::default()
            }];
        }
    }
}

/// The file that `Config::load` reads: the one named, else `config.toml` if it is there. Flags
/// that name an upstream are a whole configuration, so they need no file and look for none.
pub(crate) fn file_in_use(path: Option<&Path>, flags: &Flags) -> Option<PathBuf> {
    match path {
        Some(path) => Some(path.to_owned()),
        None if flags.upstream.is_empty() => {
            Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists())
        }
        None => None,
    }
}

fn read(path: &Path) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(Problem::Unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let what = format!("is larger than {FILE_BYTES_MAX} bytes, which no configuration is");
        return Err(Problem::Said(what));
    }
    let text = String::from_utf8(bytes).map_err(|_| Problem::Said(NOT_TEXT.to_owned()))?;
    // Some editors begin a file with the mark of its encoding.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use tracing::level_filters::LevelFilter;

    use super::*;

    const SHIPPED: &str = include_str!("../../config.toml");

    /// A file in which every kind of key has a value of its own.
    pub(in crate::config) const FULL: &str = r#"
        [server]
        host = "127.0.0.1"
        port = 8100
        listen = ["[::1]:8001", "127.0.0.1:8002"]
        listen_tls = ["127.0.0.1:8003"]
        workers = 3
        trusted_proxies = ["10.1.2.3/8", "::1"]
        zone = "a"
        via = "edge"
        watch_config = true
        [tls.acme]
        domains = ["example.org", "www.example.org"]
        contact = ["admin@example.org"]
        accept_terms = true
        [http2]
        streams = 50
        [limits]
        body_bytes = "1MiB"
        [timeouts]
        read = 0.25
        pool_status = 503
        [pool]
        max_connections = 10
        tcp_keepalive = 0
        [log]
        level = "off"
        format = "json"
        file = "/var/log/ringway.log"
        access_file = "/var/log/access.log"
        [[upstream]]
        name = "a.b"
        origins = ["http://[::1]:81", { url = "https://b", weight = 3, max_idle = 9 }]
        file = "origins.toml"
        host = "origin"
        balance = "consistent_hash"
        hash = "cookie:sid"
        slow_start = "10s"
        health = { path = "/up", interval = "1s", status = "200,204" }
        eject = { errors = 3 }
        sticky = { ttl = "8h" }
        panic_below = 30
        map_location = true
        max_connections = 7
        max_idle = 3
        queue = 20
        timeouts = { connect = "2s", read = "5m", pool_status = 503 }
        tls = { sni = "b.example", insecure_skip_verify = true }
        proxy_protocol = "v1"
        [[upstream]]
        name = "c"
        builtin = "demo"
        host = "app.example:8080"
        fail_timeout = 0
        [[route]]
        host = "*.example.org"
        path = "/api"
        path_regex = "^/api/v[0-9]+"
        methods = ["GET"]
        headers = { X-Canary = "1" }
        query = { "a b" = "*" }
        cookies = { canary = "always" }
        clients = ["10.0.0.0/8"]
        send_path = "normal"
        timeouts = { read = "1h", client_write = 90, tunnel_idle = "2d" }
        upstream = "c"
        strip_prefix = true
        buffer_requests = "64KiB"
        buffer_responses = "256KiB"
        inherit_hooks = false
        hooks = { body_bytes = "5MiB", response_headers = { set = { "X.Y" = "${status}" } } }
        [[route]]
        upstream = "a.b"
        [hooks]
        allow = ["10.0.0.0/8"]
        deny = ["10.1.0.0/16"]
        methods = ["GET", "PUT"]
        request_id = { header = "X-Id", trust = "everybody" }
        cors = { origins = ["https://a.example"], credentials = true }
        rate_limit = { key = "header:x-key", rate = "5/m", burst = 7 }
        address_rate_limit = { rate = "9/s" }
        connections_per_client = 9
        body_bytes = 0
        redirect = { to = "https://${host}${target}", status = 301 }
        basic_auth = { users_file = "/etc/users" }
        forward_auth = { upstream = "c", path = "/verify" }
        custom = []
        respond = { status = 404, body = "none" }
        split = { weights = { "a.b" = 9, c = 1 }, sticky = "cookie:cohort" }
        mirror = { upstream = "c", percent = 0.5 }
        retry = { attempts = 3, on = ["5xx", "500"], hedge = true, non_idempotent = true }
        rewrite = { regex = "^/old/(.*)$", replacement = "/new/$1" }
        request_headers = { rename = { X-A = "X-B" }, add = { X-C = "c" } }
        response_headers = { remove = ["Server"] }
        security_headers = { hsts = "max-age=1" }
        error_pages = { 404 = "none", 5xx = "file:/etc/5xx.html" }
        intercept_errors = true
        [forward]
        enabled = true
        listeners = ["[::1]:8001"]
        connect_ports = [443, "8000-8999"]
        deny = ["*.example.org:443", "10.0.0.0/8"]
        users_file = "/etc/users"
        groups = { "the staff" = ["ann", "bob"] }
        groups_file = "/etc/groups"
        rule = [{ groups = ["the staff"], targets = ["*.example.org"], action = "allow" },
            { users = ["carl"], action = "deny" }]
        [[parent]]
        name = "office"
        url = "https://proxy.example:3128"
        credentials = "user:sesame"
        except = ["*.example.org"]
        tls = { ca = "office.pem" }
        [docker]
        socket = "/var/run/docker.sock"
        network = "shop_default"
        [memory]
        max_mb = "auto"
        [admin]
        address = "unix:/run/ringway.sock"
        token = "0123456789abcdef"
        hosts = ["ringway.internal"]
        on_data_port = "all"
        [alerts]
        error_rate = 1
        webhook = "https://a.example/hook-path"
        [tracing]
        enabled = true
        endpoint = "http://collector.example:4318"
        authorization = "Bearer 0123456789"
    "#;

    pub(crate) fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::merge(Path::new("a.toml"), text, &Environment::default(), &Flags::default())
    }

    fn with_flags(text: &str, flags: &Flags) -> Result<Config, ConfigError> {
        Config::merge(Path::new("a.toml"), text, &Environment::default(), flags)
    }

    fn with_variables(
        text: &str,
        variables: &[(&str, &str)],
        flags: &Flags,
    ) -> Result<Config, ConfigError> {
        let environment = variables.iter().map(|(name, value)| (name.into(), value.into()));
        let environment = Environment::of(environment).unwrap();
        Config::merge(Path::new("a.toml"), text, &environment, flags)
    }

    #[track_caller]
    pub(in crate::config) fn from(text: &str, variables: &[(&str, &str)], flags: &Flags) -> Config {
        match with_variables(text, variables, flags) {
            Ok(config) => config,
            Err(error) => panic!("{error}"),
        }
    }

    #[track_caller]
    pub(in crate::config) fn refused(
        text: &str,
        variables: &[(&str, &str)],
        flags: &Flags,
    ) -> String {
        with_variables(text, variables, flags).expect_err("a mistake").to_string()
    }

    /// The global hooks of a file.
    #[track_caller]
    pub(in crate::config) fn hooks(text: &str) -> HooksConfig {
        match parse(text) {
            Ok(config) => *config.hooks.expect("a table [hooks]"),
            Err(error) => panic!("{error}"),
        }
    }

    /// Each entry: a file, and how the error for it begins after the file's name.
    #[track_caller]
    pub(in crate::config) fn all_refused(table: &[(&str, &str)]) {
        for (text, expected) in table {
            let error = parse(text).expect_err(text).to_string();
            let error = error.strip_prefix("a.toml:").unwrap_or(&error);
            assert!(
                error.starts_with(expected),
                "\n{text}\n  found: {error}\n  wanted: {expected}"
            );
        }
    }

    #[test]
    fn the_shipped_file_and_an_empty_one_are_the_defaults() {
        assert_eq!(parse(SHIPPED).unwrap(), Config::default());
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_key_names_its_place_and_the_nearest_known_one() {
        all_refused(&[
            ("[servr]", "1:2: servr: unknown key, did you mean `server`?"),
            ("[server]\nprot = 1", "2:1: server.prot: unknown key, did you mean `port`?"),
            ("port = 1", "1:1: port: unknown key, expected one of server, tls, http2, limits,"),
            ("a.b.c = 1", "1:1: a: unknown key, expected one of server,"),
            ("[pool]\nsize = 1", "2:1: pool.size: unknown key, expected one of max_connections,"),
            (
                "[[upstream]]\nname = \"a\"\norigins = [\"http://a\", { ulr = \"\" }]",
                "3:26: upstream[0].origins[1].ulr: unknown key, did you mean `url`?",
            ),
            (
                "[[route]]\nupstream = \"demo\"\n[[route]]\nstrip_prefx = true",
                "4:1: route[1].strip_prefx: unknown key, did you mean `strip_prefix`?",
            ),
        ]);
    }

    #[test]
    fn a_value_of_the_wrong_type_names_what_was_expected() {
        all_refused(&[
            ("server = 1", "1:10: server: invalid type: integer `1`, expected a table"),
            ("server = [\"::\", 1]", "1:10: server: invalid type: array, expected a table"),
            ("[[server]]\nport = 1", "1:1: server[0]: invalid type: array, expected a table"),
            ("upstream = 5", "1:12: upstream: invalid type: integer `5`, expected an array"),
            ("[server]\nport = 1.5", "2:8: server.port: invalid type: floating point `1.5`, exp"),
            ("[log]\naccess = 1", "2:10: log.access: invalid type: integer `1`, expected a bool"),
            ("[log]\nfile = 1", "2:8: log.file: invalid type: integer `1`, expected a string"),
            (
                "[timeouts]\nread = \"5 parsecs\"",
                "2:8: timeouts.read: invalid value: string \"5 parsecs\", expected a duration such",
            ),
            (
                "[buffers]\nchunk_bytes = -1",
                "2:15: buffers.chunk_bytes: invalid value: integer `-1`, expected a size such as",
            ),
            (
                "[[upstream]]\nname = \"a\"\norigins = [\"http://a\", 5]",
                "3:24: upstream[0].origins[1]: invalid type: integer `5`, expected a URL such as",
            ),
            (
                "[[upstream]]\nname = \"a\"\norigins = [{ weight = 1 }]",
                "3:12: upstream[0].origins[0]: missing key `url`",
            ),
        ]);
    }

    /// Every mistake in a file, without the file's name.
    fn mistakes(text: &str) -> Vec<String> {
        let error = parse(text).expect_err(text).to_string();
        let line = |line: &str| line.strip_prefix("a.toml:").unwrap_or(line).to_owned();
        error.lines().map(line).collect()
    }

    #[test]
    fn every_mistake_is_shown_in_the_order_of_their_places() {
        let text = "\
            [server]\n\
            prot = 1\n\
            port = 70000\n\
            listen = [\"a\", \"[::]:81\", \"b\"]\n\
            [timeouts]\n\
            read = \"soon\"\n\
            write = 30s\n\
            [[upstream]]\n\
            origins = [\"ftp://a\"]\n\
            [[upstream]]\n\
            name = \"b\"\n\
            [[route]]\n\
            upstream = \"c\"\n\
            path = \"a\"\n\
            [pol]\n\
            [hooks.cors]\n\
            credentials = true\n\
            [hooks.retry]\n\
            attempts = 11\n\
            on = [\"4xx\", \"5xx\", \"6xx\"]\n";
        let starts = [
            "2:1: server.prot: unknown key, did you mean `port`?",
            "3:8: server.port: found 70000, expected a whole number from 0 to 65535",
            "4:11: server.listen[0]: found \"a\", expected an address and port such as",
            "4:27: server.listen[2]: found \"b\", expected an address and port such as",
            "6:8: timeouts.read: invalid value: string \"soon\", expected a duration such as",
            "7:9: string values must be quoted, expected literal string: write write = \"30s\"",
            "9:12: upstream[0].origins[0]: found \"ftp://a\", expected",
            "13:12: route[0].upstream: there is no upstream \"c\"",
            "14:8: route[0].path: found \"a\", expected a path that begins with /",
            "15:2: pol: unknown key, did you mean `pool`?",
            "19:12: hooks.retry.attempts: found 11, expected a whole number from 1 to 10",
            "20:7: hooks.retry.on[0]: found \"4xx\", expected \"connect\",",
            "20:21: hooks.retry.on[2]: found \"6xx\", expected \"connect\",",
        ];
        let found = mistakes(text);
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for (found, start) in found.iter().zip(starts) {
            assert!(found.starts_with(start), "\n  found: {found}\n  wanted: {start}");
        }
    }

    #[test]
    fn what_follows_from_a_mistake_is_not_another_one() {
        for (text, expected) in [
            // The upstream lacks a name only because its own was wrong.
            (
                "[[upstream]]\nname = \"a b\"\norigins = [\"http://a\"]\n[[route]]\nupstream = \
                 \"a b\"",
                "2:8: upstream[0].name: found \"a b\"",
            ),
            ("[[upstream]]\nname = \"a\"\norigins = [5]", "3:12: upstream[0].origins[0]: invalid"),
            ("[hooks.rewrite]\nprefix = \"a\"", "2:10: hooks.rewrite.prefix: found \"a\""),
            (
                "[server]\nport = 80000\nlisten = [\"0.0.0.0:8000\"]",
                "2:8: server.port: found 80000",
            ),
            ("[server]\nport = 1\n[server\nvia = 5", "3:8: unclosed table, expected `]`"),
        ] {
            let found = mistakes(text);
            assert!(found.len() == 1 && found[0].starts_with(expected), "{text}\n{found:#?}");
        }
    }

    #[test]
    fn rules_between_keys_are_all_looked_at() {
        let found = mistakes(
            "[server]\nlisten = [\"0.0.0.0:8000\", \"127.0.0.1:9901\"]\n\
             [[upstream]]\nname = \"a\"\nbuiltin = \"demo\"\norigins = [\"http://a\"]\n\
             [[upstream]]\nname = \"a\"\nbuiltin = \"demo\"\n\
             [hooks]\ncors = { credentials = true }\nintercept_errors = true",
        );
        let starts = [
            "2:11: server.listen[0]: 0.0.0.0:8000 is taken by the listener 0.0.0.0:8000",
            "2:27: server.listen[1]: the administrator's 127.0.0.1:9901 is taken by the listener",
            "6:11: upstream[0].origins: an upstream has either `builtin` or `origins`",
            "8:8: upstream[1].name: there is already an upstream named \"a\"",
            "11:24: hooks.cors.credentials: `credentials` needs `origins` by name",
            "12:20: hooks.intercept_errors: `intercept_errors` needs `error_pages`",
        ];
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        assert!(
            found.iter().zip(starts).all(|(found, start)| found.starts_with(start)),
            "{found:#?}"
        );
    }

    #[test]
    fn a_mistake_says_how_it_could_be_written() {
        for (text, expected) in [
            (
                "[upstream]\nname = \"a\"",
                "1:1: upstream: invalid type: table, expected an array: write [[upstream]]",
            ),
            (
                "[[server]]\nport = 1",
                "1:1: server[0]: invalid type: array, expected a table: write [server], and",
            ),
            (
                "[timeouts]\nread = 30s",
                "2:8: string values must be quoted, expected literal string: write read = \"30s\"",
            ),
            ("[log]\nlevel = info", "2:9: string values must be quoted: write level = \"info\""),
            (
                "[server]\nhost = 127.0.0.1 # here",
                "2:8: string values must be quoted: write host = \"127.0.0.1\"",
            ),
            ("[log]\naccess = True", "2:10: invalid boolean, expected `true`: write access = true"),
            ("[server]\nport = 80x", "2:8: "),
            ("[server\nport = 80", "1:8: unclosed table, expected `]`: write [server]"),
            (
                "[upstream]]\nname = \"a\"",
                "1:11: unexpected key or value, expected newline, `#`: write [[upstream]]",
            ),
            ("[server]\nport: 80", "2:7: key with no value, expected `=`: write port = 80"),
            (
                "[log]\naccess = \"yes\"",
                "2:10: log.access: invalid type: string \"yes\", expected a boolean: write \
                 access = true",
            ),
            (
                "[server]\nlisten = \"127.0.0.1:80\"",
                "2:10: server.listen: invalid type: string \"127.0.0.1:80\", expected an array: \
                 write listen = [\"127.0.0.1:80\"]",
            ),
            (
                "[server]\nport = \"8000\"",
                "2:8: server.port: found \"8000\", expected a whole number from 0 to 65535: \
                 write port = 8000",
            ),
            (
                "[log]\nfile = 5",
                "2:8: log.file: invalid type: integer `5`, expected a string: write file = \"5\"",
            ),
            (
                "[server]\nport = 1\n[pool]\n[server] # again\nvia = \"a\"",
                "4:2: duplicate key: the first is in line 1",
            ),
            ("[server]\nport = 1\n# b\nport = 2", "4:1: duplicate key: the first is in line 2"),
            (
                "[[route]]\nupstream = \"demo\"\npath = \"/api/*\"",
                "3:8: route[0].path: found \"/api/*\", expected a prefix, which holds for all \
                 that is below it: write \"/api\"",
            ),
            (
                "[[route]]\nupstream = \"demo\"\npath = \"/*\"",
                "3:8: route[0].path: found \"/*\", expected a prefix, which holds for all that \
                 is below it: write \"/\"",
            ),
        ] {
            let found = mistakes(text);
            assert!(found.len() == 1 && found[0].starts_with(expected), "{text}\n{found:#?}");
        }
    }

    #[test]
    fn no_hint_shows_a_secret() {
        for text in [
            "[admin]\ntoken = hunter2x",
            "[alerts]\nwebhook = hunter2",
            "[admin]\ntoken = [\"hunter2\"]",
            "admin.token = hunter2x",
            "admin = { token = hunter2 }",
            "[[parent]]\ncredentials = a:hunter2",
        ] {
            let found = mistakes(text);
            assert!(!found.concat().contains("hunter2"), "{found:#?}");
        }
    }

    #[test]
    fn only_so_many_mistakes_are_shown() {
        let keys: Vec<String> = (0..1000).map(|number| format!("k{number} = 1")).collect();
        let found = mistakes(&format!("[server]\n{}", keys.join("\n")));
        assert_eq!(found.len(), 33);
        assert_eq!(found[32].trim(), "there are more mistakes than are shown");
    }

    #[test]
    fn an_upstream_that_nothing_leads_to_is_warned_about() {
        let text = "[[upstream]]\nname = \"a\"\nbuiltin = \"demo\"\n\
                    [[upstream]]\nname = \"b\"\nbuiltin = \"demo\"\n";
        let warned = |text: &str| {
            let (environment, flags) = (Environment::default(), Flags::default());
            let path = Path::new("a.toml");
            let (config, origins) = Config::merge_traced(path, text, &environment, &flags).unwrap();
            config.warnings(&origins)
        };
        let [warning] = warned(text).try_into().unwrap();
        assert!(
            warning.starts_with("a.toml:5:8: no route uses the upstream \"b\": write"),
            "{warning}"
        );
        for used in [
            "[[route]]\nupstream = \"a\"\n[[route]]\nhost = \"b\"\nupstream = \"b\"",
            "[hooks.split]\nweights = { b = 1 }",
            "[hooks.mirror]\nupstream = \"b\"",
            "[[route]]\nupstream = \"a\"\nhooks = { forward_auth = { upstream = \"b\" } }",
        ] {
            assert_eq!(warned(&format!("{text}{used}")), Vec::<String>::new(), "{used}");
        }
    }

    #[test]
    fn text_that_is_not_toml_is_refused_at_its_place() {
        all_refused(&[
            ("[server]\nport = 1\nport = 2", "3:1: duplicate key"),
            ("[server", "1:8: unclosed table, expected `]`"),
            ("x = ", "1:5: "),
            ("\0", "1:"),
            (&"[".repeat(100_000), "1:"),
            (&format!("x = {}", "[".repeat(100_000)), "1:"),
            (&format!("x = {}", "{a=".repeat(100_000)), "1:"),
        ]);
    }

    #[test]
    fn a_full_file_is_read_as_it_is_written() {
        let config = parse(
            r#"
            [server]
            host = "127.0.0.1"
            port = 0
            listen = ["127.0.0.1:0", "[::1]:8001"]
            workers = 3
            trusted_proxies = ["10.1.2.3/8", "::1"]
            drain_timeout = 0
            [limits]
            body_bytes = "1MiB"
            [timeouts]
            read = "1m30s"
            write = 0.25
            pool_status = 503
            [log]
            level = "off"
            format = "json"
            file = "/var/log/ringway.log"
            [[upstream]]
            name = "a"
            origins = ["http://10.0.0.1:8080", { url = "http://b", weight = 3 }]
            host = "origin"
            fail_timeout = 0
            [[upstream]]
            name = "b"
            origins = ["http://[::1]:81"]
            host = "app.example:8080"
            [[route]]
            host = "*.example.org"
            path = "/api"
            upstream = "b"
            strip_prefix = true
            [[route]]
            upstream = "a"
            "#,
        )
        .unwrap();
        let listeners = ["127.0.0.1:0", "127.0.0.1:0", "[::1]:8001"];
        assert_eq!(config.server.listeners, listeners.map(|text| text.parse().unwrap()));
        assert_eq!(config.server.workers, 3);
        assert_eq!(config.server.drain_timeout, Duration::ZERO);
        assert_eq!(config.limits.body_bytes, 1 << 20);
        assert_eq!(config.timeouts.read, Duration::from_secs(90));
        assert_eq!(config.timeouts.write, Duration::from_millis(250));
        assert_eq!(config.timeouts.pool_status.code(), 503);
        assert_eq!(config.log.level, LevelFilter::OFF);
        assert_eq!(config.log.format, LogFormat::Json);
        assert_eq!(config.log.target, LogTarget::File("/var/log/ringway.log".into()));
        let origin = |host: &str, port, weight, authority: &str| OriginConfig {
            host: host.to_owned(),
            port,
            weight,
            authority: authority.to_owned(),
            ..OriginConfig::default()
        };
        let [a, b] = config.upstreams.as_slice() else { panic!("{:?}", config.upstreams) };
        let origins = [origin("10.0.0.1", 8080, 1, "10.0.0.1:8080"), origin("b", 80, 3, "b")];
        assert_eq!(a.origins, origins);
        assert_eq!((&a.host, a.fail_timeout), (&HostPolicy::Origin, Duration::ZERO));
        assert_eq!(b.origins, [origin("::1", 81, 1, "[::1]:81")]);
        assert_eq!(b.host, HostPolicy::Fixed("app.example:8080".to_owned()));
        let [first, second] = config.routes.as_slice() else { panic!("{:?}", config.routes) };
        assert_eq!(first.host, HostPattern::Suffix(".example.org".to_owned()));
        assert_eq!((first.path.as_str(), first.upstream, first.strip_prefix), ("/api", 1, true));
        assert_eq!((&second.host, second.path.as_str()), (&HostPattern::Any, "/"));
        assert!(!config.needs_demo());
    }

    #[test]
    fn flags_override_the_file() {
        let flags = Flags {
            host: Some("::1".to_owned()),
            port: Some(0),
            upstream: vec!["http://a:1".to_owned(), "http://b:2".to_owned()],
            workers: Some(2),
            forward: true,
            ..Flags::default()
        };
        let text = "[server]\nport = 99\nworkers = 9\n[pool]\nmax_idle = 7\n\
                    [[upstream]]\nname = \"x\"\norigins = [\"http://x\"]\n\
                    [[route]]\nhost = \"x\"\nupstream = \"x\"";
        let config = with_flags(text, &flags).unwrap();
        assert_eq!(config.server.listeners, ["[::1]:0".parse().unwrap()]);
        assert_eq!(config.server.workers, 2);
        assert!(config.forward.enabled);
        assert_eq!(config.pool.max_idle, 7);
        assert_eq!(config.routes, Config::default().routes);
        let [upstream] = config.upstreams.as_slice() else { panic!("{:?}", config.upstreams) };
        assert_eq!(upstream.name, flags::FLAG_UPSTREAM);
        let authorities: Vec<_> = upstream.origins.iter().map(|o| o.authority.as_str()).collect();
        assert_eq!(authorities, ["a:1", "b:2"]);
    }

    #[test]
    fn a_mistake_in_a_flag_names_the_flag() {
        let table = [
            (
                Flags { upstream: vec!["b:80".to_owned()], ..Flags::default() },
                "--upstream: found \"b:80\", expected a URL of the form http://HOST:PORT",
            ),
            (
                Flags { host: Some("b".to_owned()), ..Flags::default() },
                "--host: found \"b\", expected an IP address",
            ),
            (
                Flags { workers: Some(5000), ..Flags::default() },
                "--workers: found 5000, expected a whole number from 0 to 1024",
            ),
        ];
        for (flags, expected) in table {
            let error = with_flags("", &flags).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_mistake_in_what_a_flag_replaces_is_still_refused_when_it_is_not_toml() {
        let flags = Flags { upstream: vec!["http://a".to_owned()], ..Flags::default() };
        let text = "[[upstream]]\nnmae = \"x\"";
        assert!(with_flags(text, &flags).is_err());
    }

    #[test]
    fn upstream_flags_need_no_file_and_look_for_none() {
        let with = Flags { upstream: vec!["http://a".to_owned()], ..Flags::default() };
        let named = Path::new("named.toml");
        assert_eq!(file_in_use(None, &with), None);
        assert_eq!(file_in_use(Some(named), &with).as_deref(), Some(named));
        assert_eq!(file_in_use(Some(named), &Flags::default()).as_deref(), Some(named));
    }

    #[test]
    fn a_file_that_cannot_be_a_configuration_is_named() {
        let directory = std::env::temp_dir().join(format!("ringway-config-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let large = directory.join("large.toml");
        std::fs::write(&large, vec![b'#'; FILE_BYTES_MAX as usize + 1]).unwrap();
        let binary = directory.join("binary.toml");
        std::fs::write(&binary, [0xff, 0xfe, 0]).unwrap();
        let table = [
            (directory.join("absent.toml"), "cannot be read: No such file or directory"),
            (directory.clone(), "cannot be read: Is a directory"),
            (large, "is larger than 4194304 bytes"),
            (binary, "is not UTF-8 text"),
        ];
        for (path, expected) in table {
            let error = Config::load(Some(&path), &Flags::default()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{}: {expected}", path.display())), "{error}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_demo_gets_its_address_when_it_has_started() {
        let mut config = Config::default();
        assert!(config.needs_demo());
        config.place_demo("127.0.0.1:4321".parse().unwrap());
        let origin = &config.upstreams[0].origins[0];
        assert_eq!((origin.host.as_str(), origin.port), ("127.0.0.1", 4321));
        assert_eq!(origin.authority, "127.0.0.1:4321");
    }

    #[test]
    fn no_text_makes_the_parser_panic() {
        // Every prefix, and the shipped file with each of its bytes replaced: errors or not, but
        // a position that can be computed.
        for end in (0..SHIPPED.len()).filter(|end| SHIPPED.is_char_boundary(*end)) {
            let _ = parse(&SHIPPED[..end]).map_err(|error| error.to_string());
        }
        for (at, _) in SHIPPED.char_indices() {
            for with in ["\"", "é"] {
                let text = format!("{}{with}{}", &SHIPPED[..at], &SHIPPED[at + 1..]);
                let _ = parse(&text).map_err(|error| error.to_string());
            }
        }
    }
}
