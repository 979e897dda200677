//! What is believed of a client, and what origins are told of it.
//!
//! In: the keys of `[server]` and `[limits]` that say so. Out: what the code that reads and writes
//! heads goes by. Nothing here looks at a head.

use std::net::IpAddr;

use super::kinds::plain::Words;
use super::{Networks, ServerConfig};
use crate::address::ClientAddress;
use crate::http::client_chain::Trust;
use crate::http::fields::Underscores;
use crate::http::forwarded_header::Introduction;
use crate::http::names::FieldName;

/// By which fields origins are told of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedForms {
    X,
    Rfc,
    Both,
}

impl Words for ForwardedForms {
    const WORDS: &'static [(&'static str, Self)] =
        &[("x", Self::X), ("rfc", Self::Rfc), ("both", Self::Both)];
}

/// Who is told in Via what a message came through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddVia {
    /// Both sides of the forward proxy.
    #[default]
    Forward,
    /// Every origin and client.
    Both,
    /// Nobody.
    Off,
}

impl AddVia {
    /// Whether it is said, to the origin and to the client, of a message of the forward proxy or of
    /// another one.
    pub fn holds(self, is_forward: bool) -> bool {
        match self {
            Self::Forward => is_forward,
            Self::Both => true,
            Self::Off => false,
        }
    }
}

impl Words for AddVia {
    const WORDS: &'static [(&'static str, Self)] =
        &[("forward", Self::Forward), ("both", Self::Both), ("off", Self::Off)];
}

impl Words for Underscores {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("drop_shadowing", Self::DropShadowing),
        ("keep", Self::Keep),
        ("drop_all", Self::DropAll),
        ("refuse", Self::Refuse),
    ];
}

impl Trust for Networks {
    fn trusts(&self, address: IpAddr) -> bool {
        self.has(ClientAddress::of(address))
    }
}

impl ServerConfig {
    /// What origins are told of clients.
    pub fn introduction(&self) -> Introduction {
        Introduction {
            says_x: self.forwarded != ForwardedForms::Rfc,
            says_rfc: self.forwarded != ForwardedForms::X,
            says_real_ip: self.add_real_ip,
            says_port: self.add_forwarded_port,
            says_ssl: self.add_forwarded_ssl,
            believed: self.client_ip_class(),
        }
    }

    /// The class of the field that says who the client is.
    pub fn client_ip_class(&self) -> FieldName {
        match FieldName::of(self.client_ip_header.as_bytes()) {
            FieldName::Other => FieldName::ClientIp,
            known => known,
        }
    }
}
