//! Access to the forward proxy: its rules and helpers, compiled and started once.
//!
//! In goes the configuration with the addresses that ringway listens on; out comes what all workers
//! ask when somebody wants a server that is not ours. Says at start where it stands open.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::config::{
    Config, DnsConfig, ForwardConfig, ListenerConfig, ParentConfig, ParentScheme, UpstreamTlsConfig,
};
use crate::forward_proxy::lists;
use crate::forward_proxy::lookup::NameLookup;
use crate::forward_proxy::parent_health::ParentHealth;
use crate::forward_proxy::user_rules::UserRules;
use crate::forward_proxy::{Authenticator, Policy, Users};
use crate::tls::connector::Connector;

/// What the forward proxy needs beside the configuration.
pub(crate) struct Access {
    /// The listeners that offer the forward proxy, by their numbers.
    offered: Vec<u16>,
    pub policy: Policy,
    pub authenticator: Option<Arc<Authenticator>>,
    /// Counts the authenticators of the process: a user of one is unknown to the next.
    pub logins: u64,
    /// `None` where no listener offers the forward proxy.
    pub names: Option<NameLookup>,
    /// The field line that goes with a 407.
    pub challenge: String,
    /// The listeners that speak SOCKS5, by their numbers.
    socks: Vec<u16>,
    /// By parent proxy, which of its places could not be reached lately.
    pub parent_health: Vec<ParentHealth>,
    /// By parent proxy, the field line that tells it who we are; empty where it need not know.
    pub parent_logins: Vec<String>,
    /// By parent proxy, how it is spoken to over TLS; `None` where it is not.
    pub parent_tls: Vec<Option<Arc<Connector>>>,
    /// What `names` was started with.
    dns: DnsConfig,
}

impl Access {
    /// `own` are the addresses that ringway listens on, as they were bound, and `numbers` those of
    /// `server.listeners`, in their order. The error is one line.
    pub(crate) fn prepare(
        config: &Config,
        own: &[SocketAddr],
        numbers: &[u16],
        before: Option<&Self>,
    ) -> Result<Self, String> {
        let settings = &config.forward;
        let names = settings.enabled.then(|| names(config, before)).transpose()?;
        let users = settings.users_file.as_ref().filter(|_| settings.enabled);
        let users = users.map(|path| Users::load(path)).transpose()?;
        let policy = policy(config, users.as_ref(), own)?;
        let authenticator =
            users.map(|users| authenticator(users, settings, before)).transpose()?;
        let challenge = authenticator
            .as_ref()
            .map_or_else(String::new, |it| format!("Proxy-Authenticate: {}\r\n", it.challenge()));
        let is_offered = |listener: &ListenerConfig| {
            let chosen = &settings.listeners;
            settings.enabled && (chosen.is_empty() || chosen.contains(&listener.address))
        };
        let is_socks = |listener: &ListenerConfig| {
            settings.enabled && settings.socks_listeners.contains(&listener.address)
        };
        let listeners = config.server.listeners.iter().zip(numbers);
        let (socks, listeners): (Vec<_>, Vec<_>) =
            listeners.partition(|(listener, _)| is_socks(listener));
        let parents = config.parents.iter();
        let parent_tls = parents.map(|parent| parent_tls(parent, before)).collect::<Result<_, _>>();
        let parent_tls = parent_tls.map_err(|error| format!("a parent proxy: {error}"))?;
        let access = Self {
            socks: socks.into_iter().map(|(_, number)| *number).collect(),
            parent_health: config
                .parents
                .iter()
                .map(|parent| ParentHealth::new(parent.places().count()))
                .collect(),
            offered: listeners
                .into_iter()
                .filter(|(listener, _)| is_offered(listener))
                .map(|(_, number)| *number)
                .collect(),
            policy,
            logins: before.map_or(0, |access| {
                access.logins + u64::from(!access.knows(authenticator.as_ref()))
            }),
            authenticator,
            names,
            challenge,
            parent_logins: config.parents.iter().map(parent_login).collect(),
            parent_tls,
            dns: config.dns.clone(),
        };
        if settings.enabled
            && access.authenticator.is_none()
            && settings.allow_clients.has_everybody()
        {
            tracing::warn!(
                "this is an open proxy: forward.allow_clients lets everybody in and there is no \
                 forward.users_file, so that whoever reaches the port can hide behind this machine"
            );
        }
        Ok(access)
    }
}

impl Access {
    /// Forgets what can be found out again.
    pub(crate) fn drop_caches(&self) {
        self.names.iter().for_each(NameLookup::forget);
        self.authenticator.iter().for_each(|it| it.drop_cache());
    }

    /// What those caches hold.
    pub(crate) fn cache_bytes(&self) -> u64 {
        let names = self.names.as_ref().map_or(0, NameLookup::cache_bytes);
        names + self.authenticator.as_ref().map_or(0, |it| it.cache_bytes())
    }

    /// Whether the listener with the number `listener` offers the forward proxy.
    pub(crate) fn is_offered(&self, listener: u16) -> bool {
        self.offered.contains(&listener)
    }

    /// Whether SOCKS5 is spoken at the listener with the number `listener`.
    pub(crate) fn is_socks(&self, listener: u16) -> bool {
        self.socks.contains(&listener)
    }

    fn knows(&self, authenticator: Option<&Arc<Authenticator>>) -> bool {
        match (&self.authenticator, authenticator) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (None, None) => true,
            _ => false,
        }
    }
}

fn policy(config: &Config, users: Option<&Users>, own: &[SocketAddr]) -> Result<Policy, String> {
    let listed = lists::read(config)?;
    let policy = Policy::new(&listed, own.to_vec());
    if !config.forward.enabled {
        return Ok(policy);
    }
    let rules = UserRules::read(&listed.forward, users)?;
    for warning in &rules.warnings {
        tracing::warn!("forward: {warning}");
    }
    Ok(policy.with_rules(rules))
}

/// The resolver that there is, with what it knows, unless it is to ask otherwise.
fn names(config: &Config, before: Option<&Access>) -> Result<NameLookup, String> {
    let kept =
        before.filter(|access| access.dns == config.dns).and_then(|access| access.names.clone());
    if let Some(kept) = &kept {
        kept.reread(&config.dns);
    }
    kept.map_or_else(|| NameLookup::start(&config.dns), Ok)
        .map_err(|error| format!("names cannot be resolved: {error}"))
}

/// The authenticator that there is, with what it knows, unless it is to know others.
fn authenticator(
    users: Users,
    settings: &ForwardConfig,
    before: Option<&Access>,
) -> Result<Arc<Authenticator>, String> {
    let kept = before.and_then(|access| access.authenticator.as_ref());
    if let Some(kept) = kept.filter(|it| it.is_for(&users, settings)) {
        return Ok(kept.clone());
    }
    let started = match kept {
        Some(kept) => Authenticator::start_after(kept, users, settings),
        None => Authenticator::start(users, settings),
    };
    started.map_err(|error| format!("passwords cannot be verified: {error}"))
}

/// How `parent` is spoken to over TLS, if it is; as before where that is the same.
fn parent_tls(
    parent: &ParentConfig,
    before: Option<&Access>,
) -> Result<Option<Arc<Connector>>, String> {
    if parent.address.scheme != ParentScheme::Https {
        return Ok(None);
    }
    let known = before.iter().flat_map(|access| access.parent_tls.iter().flatten());
    let standard = UpstreamTlsConfig::default();
    let loaded = Connector::load(parent.tls.as_ref().unwrap_or(&standard), known);
    loaded.map(Some).map_err(|error| format!("{:?}: {error}", parent.name))
}

fn parent_login(parent: &ParentConfig) -> String {
    parent.credentials.as_ref().map_or_else(String::new, |credentials| {
        format!("Proxy-Authorization: Basic {}\r\n", BASE64.encode(credentials.reveal()))
    })
}
