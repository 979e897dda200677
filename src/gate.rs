//! The gate of the forward proxy: its rules and helpers, compiled and started once.
//!
//! In goes the configuration with the addresses that ringway listens on; out comes what all workers
//! ask when somebody wants a server that is not ours. Says at start where it stands open.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::config::{Config, ParentConfig};
use crate::forward::{Authenticator, Policy, Users};
use crate::upstream::names::Names;

/// What the forward proxy needs beside the configuration.
pub struct Gate {
    /// By listener, whether it offers the forward proxy.
    pub offered: Vec<bool>,
    pub policy: Policy,
    pub authenticator: Option<Arc<Authenticator>>,
    /// `None` where no listener offers the forward proxy.
    pub names: Option<Names>,
    /// The field line that goes with a 407.
    pub challenge: String,
    /// By parent proxy, the field line that tells it who we are; empty where it need not know.
    pub parent_logins: Vec<String>,
}

impl Gate {
    /// `own` are the addresses that ringway listens on, as they were bound. The error is one line.
    pub fn prepare(config: &Config, own: &[SocketAddr]) -> Result<Self, String> {
        let settings = &config.forward;
        let chosen = &settings.listeners;
        let is_offered = |address: &SocketAddr| {
            settings.enabled && (chosen.is_empty() || chosen.contains(address))
        };
        let names = settings.enabled.then(|| Names::start(&config.dns)).transpose();
        let users = settings.users_file.as_ref().filter(|_| settings.enabled);
        let authenticator = users
            .map(|path| {
                let started = Authenticator::start(Users::load(path)?, settings);
                started.map_err(|error| format!("passwords cannot be verified: {error}"))
            })
            .transpose()?;
        let challenge = authenticator
            .as_ref()
            .map_or_else(String::new, |it| format!("Proxy-Authenticate: {}\r\n", it.challenge()));
        let gate = Self {
            offered: config.server.listeners.iter().map(is_offered).collect(),
            policy: Policy::new(config, own.to_vec()),
            authenticator,
            names: names.map_err(|error| format!("names cannot be resolved: {error}"))?,
            challenge,
            parent_logins: config.parents.iter().map(parent_login).collect(),
        };
        if settings.enabled
            && gate.authenticator.is_none()
            && settings.allow_clients.has_everybody()
        {
            tracing::warn!(
                "this is an open proxy: forward.allow_clients lets everybody in and there is no \
                 forward.users_file, so that whoever reaches the port can hide behind this machine"
            );
        }
        Ok(gate)
    }
}

fn parent_login(parent: &ParentConfig) -> String {
    parent.credentials.as_ref().map_or_else(String::new, |credentials| {
        format!("Proxy-Authorization: Basic {}\r\n", BASE64.encode(credentials.reveal()))
    })
}
