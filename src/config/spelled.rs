//! Values as a file spells them.
//!
//! In: a section as it holds. Out: each of its keys with a value that reads back to the same. A
//! section is taken apart field by field, so that a new field does not compile before it has a
//! key here. What was trimmed or resolved at loading is spelled as it holds.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::effective::Entry;
use super::hooks::spelled::{hooks as given_hooks, table as hooks_table};
use super::rules::ANY_PORT;
use super::units::{bytes_text, duration_text};
use super::{
    AdminAddress, AdminConfig, AlertsConfig, BuffersConfig, Config, DnsConfig, ForwardConfig,
    HalfClose, HostPattern, HostPolicy, LimitsConfig, LogConfig, LogFormat, LogTarget,
    MemoryConfig, MemoryMax, Networks, OriginConfig, ParentConfig, PoolConfig, RouteConfig, Rule,
    Secret, ServerConfig, StatsConfig, TimeoutsConfig, UpstreamConfig,
};

/// One key of a section.
pub(super) struct Key {
    name: &'static str,
    value: Json,
    is_secret: bool,
}

type Keys = Vec<Key>;
type Section = (&'static str, Keys);

pub(super) fn sections_before_tables(config: &Config) -> [Section; 6] {
    [
        ("server", server(&config.server)),
        ("limits", limits(&config.limits)),
        ("timeouts", timeouts(&config.timeouts)),
        ("pool", pool(&config.pool)),
        ("buffers", buffers(&config.buffers)),
        ("log", log(&config.log)),
    ]
}

/// The keys of `[forward]`, and the sections behind the parents.
pub(super) fn sections_after_tables(config: &Config) -> (Keys, [Section; 5]) {
    let after = [
        ("dns", dns(&config.dns)),
        ("memory", memory(&config.memory)),
        ("admin", admin(&config.admin)),
        ("stats", stats(&config.stats)),
        ("alerts", alerts(&config.alerts)),
    ];
    (forward(&config.forward), after)
}

impl RouteConfig {
    /// What people call it: host and path, where `*` is any host.
    pub fn name(&self) -> String {
        let host = host_text(&self.host);
        let host = if host.is_empty() { "*" } else { &host };
        format!("{host}{}", self.path)
    }
}

/// A JSON value as TOML, on one line.
pub(super) fn toml(value: &Json) -> String {
    match value {
        // TOML wants the one control character escaped that JSON leaves as it is.
        Json::String(_) => value.to_string().replace('\u{7f}', "\\u007f"),
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(toml).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(members) => {
            let members: Vec<String> = members
                .iter()
                .map(|(key, value)| format!("{} = {}", bare(key), toml(value)))
                .collect();
            format!("{{ {} }}", members.join(", "))
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => value.to_string(),
    }
}

/// A key as a table has it: in quotes, unless it is of the plainest letters.
fn bare(key: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !key.is_empty() && key.bytes().all(is_plain) {
        Cow::Borrowed(key)
    } else {
        Cow::Owned(toml(&key.into()))
    }
}

impl Key {
    /// `path` and `name` are what the table is called in a file, and in a list of changes.
    pub(super) fn entry(self, path: &str, name: &str) -> Entry {
        let Self { name: key, value, is_secret } = self;
        Entry { path: format!("{path}.{key}"), key: format!("{name}.{key}"), value, is_secret }
    }
}

fn key(name: &'static str, value: impl Into<Json>) -> Key {
    Key { name, value: value.into(), is_secret: false }
}

/// Without a value there is nothing to hide.
fn secret(name: &'static str, value: Option<&str>) -> Key {
    Key { name, value: value.unwrap_or_default().into(), is_secret: value.is_some() }
}

fn server(section: &ServerConfig) -> Keys {
    let ServerConfig {
        listeners,
        workers,
        trusted_proxies,
        via,
        drain_timeout,
        ready_grace,
        backlog,
        watch_config,
        half_close,
    } = section;
    let (first, further) = listeners.split_first().map_or((None, &[][..]), |(a, b)| (Some(a), b));
    vec![
        key("host", first.map(|address| address.ip().to_string())),
        key("port", first.map(SocketAddr::port)),
        key("listen", addresses(further)),
        key("workers", *workers),
        key("trusted_proxies", networks(trusted_proxies)),
        key("via", via.as_str()),
        key("drain_timeout", time(*drain_timeout)),
        key("ready_grace", time(*ready_grace)),
        key("backlog", *backlog),
        key("watch_config", *watch_config),
        key("half_close", half_close_text(*half_close)),
    ]
}

fn limits(section: &LimitsConfig) -> Keys {
    let LimitsConfig {
        clients,
        tunnels,
        long_responses,
        head_bytes,
        header_count,
        target_bytes,
        body_bytes,
        min_body_rate,
    } = section;
    let is_unlimited = *body_bytes == u64::MAX;
    vec![
        key("clients", *clients),
        key("tunnels", *tunnels),
        key("long_responses", *long_responses),
        key("head_bytes", size(*head_bytes as u64)),
        key("header_count", *header_count),
        key("target_bytes", size(*target_bytes as u64)),
        key("body_bytes", if is_unlimited { json!(0) } else { size(*body_bytes) }),
        key("min_body_rate", size(*min_body_rate)),
    ]
}

fn timeouts(section: &TimeoutsConfig) -> Keys {
    let TimeoutsConfig {
        connect,
        read,
        write,
        client_write,
        pool,
        pool_status,
        client_head,
        client_idle,
        tunnel_idle,
        tunnel_half_closed,
    } = section;
    vec![
        key("connect", time(*connect)),
        key("read", time(*read)),
        key("write", time(*write)),
        key("client_write", time(*client_write)),
        key("pool", time(*pool)),
        key("pool_status", pool_status.code()),
        key("client_head", time(*client_head)),
        key("client_idle", time(*client_idle)),
        key("tunnel_idle", time(*tunnel_idle)),
        key("tunnel_half_closed", time(*tunnel_half_closed)),
    ]
}

fn pool(section: &PoolConfig) -> Keys {
    let PoolConfig { max_connections, max_idle, idle_expiry, prewarm, tcp_keepalive } = section;
    vec![
        key("max_connections", *max_connections),
        key("max_idle", *max_idle),
        key("idle_expiry", time(*idle_expiry)),
        key("prewarm", *prewarm),
        key("tcp_keepalive", time(*tcp_keepalive)),
    ]
}

fn buffers(section: &BuffersConfig) -> Keys {
    let BuffersConfig {
        chunk_bytes,
        chunks_per_worker,
        operation_chunks,
        fixed_operations,
        head_buffer_bytes,
    } = section;
    vec![
        key("chunk_bytes", size(*chunk_bytes as u64)),
        key("chunks_per_worker", *chunks_per_worker),
        key("operation_chunks", *operation_chunks),
        key("fixed_operations", *fixed_operations),
        key("head_buffer_bytes", size(*head_buffer_bytes as u64)),
    ]
}

fn log(section: &LogConfig) -> Keys {
    let LogConfig { level, format, target, access, access_format, access_target, queue_lines } =
        section;
    let own = Some(access_target).filter(|access| *access != target);
    vec![
        key("level", level.to_string()),
        key("format", format_text(*format)),
        key("file", file(Some(target))),
        key("access", *access),
        key("access_format", format_text(*access_format)),
        key("access_file", file(own)),
        key("queue_lines", *queue_lines),
    ]
}

pub(super) fn upstream(section: &UpstreamConfig) -> Keys {
    let UpstreamConfig { name, is_demo, origins, host, fail_timeout, max_connections } = section;
    // The demo's address is of this start only.
    let servers = if *is_demo {
        key("builtin", "demo")
    } else {
        key("origins", origins.iter().map(origin).collect::<Vec<_>>())
    };
    let host = match host {
        HostPolicy::Pass => "pass",
        HostPolicy::Origin => "origin",
        HostPolicy::Fixed(host) => host.as_str(),
    };
    let mut keys = vec![
        key("name", name.as_str()),
        servers,
        key("host", host),
        key("fail_timeout", time(*fail_timeout)),
    ];
    keys.extend(max_connections.map(|max| key("max_connections", max)));
    keys
}

fn origin(origin: &OriginConfig) -> Json {
    let OriginConfig { host: _, port: _, weight, authority } = origin;
    let url = format!("http://{authority}");
    if *weight == 1 { url.into() } else { json!({ "url": url, "weight": weight }) }
}

pub(super) fn route(section: &RouteConfig, upstreams: &[UpstreamConfig]) -> Keys {
    let RouteConfig { host, path, upstream, strip_prefix, hooks, inherits_hooks } = section;
    let own = hooks.as_ref().map(|own| hooks_table(own, upstreams));
    let keys = vec![
        key("host", host_text(host)),
        key("path", path.as_str()),
        key("upstream", upstreams.get(*upstream).map(|upstream| upstream.name.as_str())),
        key("strip_prefix", *strip_prefix),
        key("inherit_hooks", *inherits_hooks),
    ];
    keys.into_iter().chain(own.map(|own| key("hooks", own))).collect()
}

/// The keys of `[hooks]` that are given.
pub(super) fn hooks(config: &Config) -> Keys {
    let given = config.hooks.iter().flat_map(|section| given_hooks(section, &config.upstreams));
    given.map(|(name, value)| key(name, value)).collect()
}

fn forward(section: &ForwardConfig) -> Keys {
    let ForwardConfig {
        enabled,
        listeners,
        allow_clients,
        allow_loopback,
        allow_private,
        connect_ports,
        allow,
        deny,
        users_file,
        realm,
        auth_failures,
        add_forwarded,
    } = section;
    let users_file = users_file.as_ref().map(|path| path.to_string_lossy());
    vec![
        key("enabled", *enabled),
        key("listeners", addresses(listeners)),
        key("allow_clients", networks(allow_clients)),
        key("allow_loopback", *allow_loopback),
        key("allow_private", *allow_private),
        key("connect_ports", connect_ports.iter().map(ports).collect::<Vec<_>>()),
        key("allow", rules(allow)),
        key("deny", rules(deny)),
        key("users_file", users_file.unwrap_or_default()),
        key("realm", realm.as_str()),
        key("auth_failures", *auth_failures),
        key("add_forwarded", *add_forwarded),
    ]
}

pub(super) fn parent(section: &ParentConfig) -> Keys {
    let ParentConfig {
        name,
        host: _,
        port: _,
        authority,
        credentials,
        domains,
        except,
        direct_fallback,
    } = section;
    vec![
        key("name", name.as_str()),
        key("url", format!("http://{authority}")),
        secret("credentials", credentials.as_ref().map(Secret::reveal)),
        key("domains", rules(domains)),
        key("except", rules(except)),
        key("direct_fallback", *direct_fallback),
    ]
}

fn dns(section: &DnsConfig) -> Keys {
    let DnsConfig { cache_entries, negative_ttl, timeout } = section;
    vec![
        key("cache_entries", *cache_entries),
        key("negative_ttl", time(*negative_ttl)),
        key("timeout", time(*timeout)),
    ]
}

fn memory(section: &MemoryConfig) -> Keys {
    let MemoryConfig { check_interval, cleanup_mb, max } = section;
    let max = match max {
        MemoryMax::Auto => json!("auto"),
        MemoryMax::Mb(mb) => json!(mb),
    };
    vec![
        key("check_interval", time(*check_interval)),
        key("cleanup_mb", *cleanup_mb),
        key("max_mb", max),
    ]
}

fn admin(section: &AdminConfig) -> Keys {
    let AdminConfig { enabled, address, token, on_data_port } = section;
    let address = match address {
        AdminAddress::Tcp(address) => address.to_string(),
        AdminAddress::Unix(path) => format!("unix:{}", path.to_string_lossy()),
    };
    vec![
        key("enabled", *enabled),
        key("address", address),
        secret("token", token.as_ref().map(Secret::reveal)),
        key("on_data_port", *on_data_port),
    ]
}

fn stats(section: &StatsConfig) -> Keys {
    let StatsConfig { interval, log } = section;
    vec![key("interval", time(*interval)), key("log", *log)]
}

fn alerts(section: &AlertsConfig) -> Keys {
    let AlertsConfig {
        error_rate,
        p95,
        memory_mb,
        pool_wait,
        upstream_down,
        open_files,
        interval,
        webhook,
    } = section;
    vec![
        key("error_rate", *error_rate),
        key("p95", time(*p95)),
        key("memory_mb", *memory_mb),
        key("pool_wait", time(*pool_wait)),
        key("upstream_down", *upstream_down),
        key("open_files", *open_files),
        key("interval", time(*interval)),
        // A reader who knows the URL can post there.
        secret("webhook", webhook.as_deref()),
    ]
}

fn time(duration: Duration) -> Json {
    // Below the smallest unit only a number says it.
    if duration.subsec_nanos().is_multiple_of(1000) {
        duration_text(duration).into()
    } else {
        duration.as_secs_f64().into()
    }
}

fn size(bytes: u64) -> Json {
    if bytes == 0 { json!(0) } else { bytes_text(bytes).into() }
}

fn addresses(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(SocketAddr::to_string).collect()
}

fn networks(networks: &Networks) -> Vec<String> {
    networks.0.iter().map(ToString::to_string).collect()
}

fn rules(rules: &[Rule]) -> Vec<&str> {
    rules.iter().map(|rule| rule.text.as_str()).collect()
}

fn ports(ports: &RangeInclusive<u16>) -> String {
    match (ports.start(), ports.end()) {
        _ if *ports == ANY_PORT => "*".to_owned(),
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

fn host_text(host: &HostPattern) -> String {
    match host {
        HostPattern::Any => String::new(),
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
    }
}

fn half_close_text(half_close: HalfClose) -> &'static str {
    match half_close {
        HalfClose::Close => "close",
        HalfClose::Keep => "keep",
    }
}

fn format_text(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}

fn file(target: Option<&LogTarget>) -> String {
    match target {
        Some(LogTarget::File(path)) => path.to_string_lossy().into_owned(),
        Some(LogTarget::StandardOutput) | None => String::new(),
    }
}
