//! The sections of the forward proxy, `[forward]` and `[[parent]]`, as they hold.
//!
//! In: nothing; `check` fills these types in. Out: who may use the forward proxy, what it may
//! reach and through whom. This file decides nothing: whether a rule fits is for the data path.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;

use super::Networks;

/// The forward proxy: for whom, and to where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct ForwardConfig {
    pub enabled: bool,
    /// As they stand in `ServerConfig::listeners`. Empty means all of them.
    pub listeners: Vec<SocketAddr>,
    /// Who may use it at all.
    pub allow_clients: Networks,
    /// Whether a target may be a loopback address.
    pub allow_loopback: bool,
    /// Whether a target may be a private address (RFC 1918, RFC 6598, fc00::/7).
    pub allow_private: bool,
    /// What CONNECT may reach. Empty means nothing.
    pub connect_ports: Vec<RangeInclusive<u16>>,
    /// If not empty, only what fits one of them may be reached.
    pub allow: Vec<Rule>,
    /// Asked before `allow`.
    pub deny: Vec<Rule>,
    /// An htpasswd file. `None` asks no client who it is.
    pub users_file: Option<PathBuf>,
    /// Stands in a quoted string as it is. Never empty.
    pub realm: String,
    /// Per client address and minute, before passwords are no longer looked at. At least 1.
    pub auth_failures: u32,
    /// Whether the target is told who the client is.
    pub add_forwarded: bool,
}

/// Hosts or addresses, and the ports of theirs that are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// As it was written.
    pub text: String,
    pub target: RuleTarget,
    /// Never holds 0. All the others where the rule names none.
    pub ports: RangeInclusive<u16>,
}

/// Names are in lower case, without the root's dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleTarget {
    Any,
    Exact(String),
    /// `.example.org` for `*.example.org`, which `example.org` itself does not fit.
    Suffix(String),
    /// A single address is a network of one.
    Network(IpNet),
}

/// Another proxy that forward requests go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentConfig {
    /// Unique. Letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// A name in lower case or an IP literal without brackets.
    pub host: String,
    pub port: u16,
    /// `host:port` as `OriginConfig::authority` has it.
    pub authority: String,
    /// `user:password` for Basic.
    pub credentials: Option<Secret>,
    /// The hosts that go through it; every port of theirs.
    pub domains: Vec<Rule>,
    /// Those among `domains` that do not.
    pub except: Vec<Rule>,
    /// Whether to do without it when it cannot be reached.
    pub direct_fallback: bool,
}

/// What no log and no error text may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}
