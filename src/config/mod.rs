//! The configuration, parsed once and never checked again.
//!
//! In: the built-in defaults, a profile, a file (TOML, or flat JSON), the environment and the
//! command line's flags, each overriding the ones before it. Out: a `Config` in which every value
//! is in range, every name is resolved to an index and nothing means "default". It is shared as
//! an `Arc` and read on the data path. This is the only module that knows TOML. It never opens a
//! socket and never asks DNS.

pub mod change;
mod check;
mod defaults;
pub mod document;
pub mod effective;
mod environment;
mod error;
mod flags;
mod flat;
mod forward;
pub mod hooks;
mod names;
mod operation;
#[cfg(test)]
mod properties;
mod raw;
mod rules;
mod sections;
mod sources;
mod spelled;
mod tree;
mod units;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use self::effective::Origins;
use self::environment::Environment;
pub use self::environment::UPGRADE_VARIABLE;
use self::error::{Location, Problem};
use self::sources::Sources;

pub use self::error::{ConfigError, EXIT_CONFIG};
pub use self::flags::{FLAG_UPSTREAM, Flags, Profile};
pub use self::forward::{ForwardConfig, ParentConfig, Rule, RuleTarget, Secret};
pub use self::hooks::{
    AccessConfig, BasicAuthConfig, ClientKey, CorsConfig, CustomConfig, ErrorPagesConfig,
    ForwardAuthConfig, HeadersConfig, HooksConfig, IdTrust, MirrorConfig, OnFailure, PageSource,
    RateLimitConfig, RedirectConfig, RequestIdConfig, RespondConfig, RetryConfig, RetryOn,
    RewriteConfig, SecurityConfig, SplitConfig, Statuses,
};
pub use self::operation::{
    AdminAddress, AdminConfig, AlertsConfig, DnsConfig, MemoryConfig, MemoryLimits, MemoryMax,
    StatsConfig,
};
pub use self::sections::{
    BuffersConfig, HalfClose, HostPattern, HostPolicy, LimitsConfig, LogConfig, LogFormat,
    LogTarget, Networks, OriginConfig, PoolConfig, PoolStatus, RouteConfig, ServerConfig,
    TimeoutsConfig, UpstreamConfig,
};
pub use self::units::{parse_bytes, parse_duration};

/// Read when no file is named and the command line names no upstream.
pub const DEFAULT_FILE: &str = "config.toml";

/// A file of 10,000 routes is below this. A larger one is not a configuration.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub server: ServerConfig,
    pub limits: LimitsConfig,
    pub timeouts: TimeoutsConfig,
    pub pool: PoolConfig,
    pub buffers: BuffersConfig,
    pub log: LogConfig,
    /// Never empty. Routes and the data path name an upstream by its index here.
    pub upstreams: Vec<UpstreamConfig>,
    /// Never empty: without a `[[route]]` one route sends everything to the first upstream.
    pub routes: Vec<RouteConfig>,
    pub forward: ForwardConfig,
    /// The first that is for a host is the one it goes through. Empty without `[[parent]]`.
    pub parents: Vec<ParentConfig>,
    pub dns: DnsConfig,
    pub memory: MemoryConfig,
    pub admin: AdminConfig,
    pub stats: StatsConfig,
    pub alerts: AlertsConfig,
    /// For every route that does not opt out, before the route's own.
    pub hooks: Option<Box<HooksConfig>>,
}

impl Config {
    /// Reads the environment and `path`, or without one what `file_in_use` finds, and lets
    /// `flags` override them.
    pub fn load(path: Option<&Path>, flags: &Flags) -> Result<Self, ConfigError> {
        Self::load_traced(path, flags).map(|(config, _)| config)
    }

    /// As `load`, with where each value was given.
    pub fn load_traced(path: Option<&Path>, flags: &Flags) -> Result<(Self, Origins), ConfigError> {
        let environment = Environment::of_process()?;
        let Some(path) = file_in_use(path, flags) else {
            return Self::merge_traced(Path::new(DEFAULT_FILE), "", &environment, flags);
        };
        let text = read(&path)
            .map_err(|problem| ConfigError::new(Location::File(path.clone()), problem))?;
        Self::merge_traced(&path, &text, &environment, flags)
    }

    /// What the file at `path` says, whatever the environment and the command line do.
    pub fn of_file(path: &Path) -> Result<(Self, Origins), ConfigError> {
        let text = read(path)
            .map_err(|problem| ConfigError::new(Location::File(path.to_owned()), problem))?;
        Self::merge_traced(path, &text, &Environment::default(), &Flags::default())
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
    /// lies over the ones before it, key by key, and `check` fills in the defaults.
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
        sources.lay(&profile)?;
        if is_flat {
            sources.lay(&flat)?;
        } else {
            sources.lay_file()?;
        }
        sources.lay(environment.settings())?;
        sources.lay(&flags)?;
        let raw = sources.raw()?;
        let config = check::config(&raw).map_err(|refusal| sources.refused(refusal))?;
        Ok((config, sources.origins()))
    }

    /// The upstreams that splits choose from, some of them more than once.
    pub fn split_upstreams(&self) -> impl Iterator<Item = usize> {
        let own = self.routes.iter().filter_map(|route| route.hooks.as_deref());
        let hooks = self.hooks.as_deref().into_iter().chain(own);
        let splits = hooks.filter_map(|hooks| hooks.split.as_ref());
        splits.flat_map(|split| split.arms.iter().map(|(upstream, _)| *upstream))
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
                weight: 1,
                authority: address.to_string(),
            }];
        }
    }
}

/// The file that `Config::load` reads: the one named, else `config.toml` if it is there. Flags
/// that name an upstream are a whole configuration, so they need no file and look for none.
pub fn file_in_use(path: Option<&Path>, flags: &Flags) -> Option<PathBuf> {
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
        return Err(Problem::TooLarge { bytes_max: FILE_BYTES_MAX });
    }
    String::from_utf8(bytes).map_err(|_| Problem::NotText)
}

#[cfg(test)]
pub(in crate::config) mod tests {
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
        workers = 3
        trusted_proxies = ["10.1.2.3/8", "::1"]
        via = "edge"
        watch_config = true
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
        origins = ["http://[::1]:81", { url = "http://b", weight = 3 }]
        host = "origin"
        max_connections = 7
        [[upstream]]
        name = "c"
        builtin = "demo"
        host = "app.example:8080"
        fail_timeout = 0
        [[route]]
        host = "*.example.org"
        path = "/api"
        upstream = "c"
        strip_prefix = true
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
        connections_per_client = 9
        body_bytes = 0
        redirect = { to = "https://${host}${target}", status = 301 }
        basic_auth = { users_file = "/etc/users" }
        forward_auth = { upstream = "c", path = "/verify" }
        custom = []
        respond = { status = 404, body = "none" }
        split = { weights = { "a.b" = 9, c = 1 }, sticky = "cookie:cohort" }
        mirror = { upstream = "c", percent = 0.5 }
        retry = { attempts = 3, on = ["5xx"] }
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
        [[parent]]
        name = "office"
        url = "http://proxy.example:3128"
        credentials = "user:sesame"
        except = ["*.example.org"]
        [memory]
        max_mb = "auto"
        [admin]
        address = "unix:/run/ringway.sock"
        token = "0123456789abcdef"
        [alerts]
        error_rate = 1
        webhook = "https://a.example/hook-path"
    "#;

    pub(in crate::config) fn parse(text: &str) -> Result<Config, ConfigError> {
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
            ("port = 1", "1:1: port: unknown key, expected one of server, limits, timeouts,"),
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
        assert_eq!(upstream.name, FLAG_UPSTREAM);
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
