//! A server of nginx's.
//!
//! In go its block and what was found in it; out comes what routes are made of, once it is known
//! which hosts are its own. Nothing is decided here.

use super::lexer::Directive;
use super::listen::Listen;
use super::scope::Scope;
use super::site::Site;
use super::template::Around;

/// A server, before it is known which hosts are its own here.
pub(super) struct Server<'t> {
    pub(super) directive: &'t Directive,
    pub(super) scope: Scope<'t>,
    pub(super) listens: Vec<Listen>,
    pub(super) names: Vec<String>,
    /// It does nothing but send clients to https:// of the host that they ask for.
    pub(super) is_redirect: bool,
    pub(super) is_closed: bool,
}

impl Server<'_> {
    /// Whether nobody but this machine reaches it.
    pub(super) fn is_local(&self) -> bool {
        !self.listens.is_empty() && self.listens.iter().all(Listen::is_local)
    }

    pub(super) fn has_tls(&self) -> bool {
        self.listens.iter().any(|listen| listen.is_tls)
    }
}

impl<'t> Server<'t> {
    pub(super) fn site(&'t self, hosts: Vec<String>) -> Site<'t> {
        let Self { directive, scope, is_closed, .. } = self;
        let scheme = Some(if self.has_tls() { "https" } else { "http" });
        let name = self.names.first().map(String::as_str);
        let around = Around { scheme, name, has_groups: false };
        let is_local = self.is_local();
        Site { directive, scope: scope.clone(), around, hosts, is_closed: *is_closed, is_local }
    }
}
