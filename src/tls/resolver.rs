//! Which certificate a client gets where some are files and others are ordered.
//!
//! In goes what a client asks for; out comes a chain with its key, or nothing, and the handshake
//! fails. A name that was ordered and is not there yet is shown no other one's certificate.

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificates::Certificates;
use super::managed::Managed;
use super::session::ALPN_PROOF;

#[derive(Debug)]
pub(super) struct Resolver {
    pub(super) files: Arc<Certificates>,
    pub(super) managed: Arc<Managed>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let mut offered = hello.alpn().into_iter().flatten();
        if offered.any(|protocol| protocol == ALPN_PROOF) {
            return self.managed.proofs.of_name(&name?);
        }
        let offered = hello.signature_schemes();
        let ordered = name.as_deref().and_then(|name| self.managed.shown(name));
        let ordered = ordered.filter(|shown| shown.suits(offered));
        let (is_exact, is_covered) = self.files.knows(name.as_deref());
        let shown = match ordered {
            Some(ordered) if !is_exact => Some(ordered),
            ordered => {
                let is_ours = name.as_deref().is_some_and(|name| self.managed.is_for(name));
                let may_choose = is_exact || is_covered || !is_ours;
                let chosen = may_choose.then(|| self.files.choose(name.as_deref(), offered));
                chosen.flatten().or(ordered).or_else(|| {
                    let is_any = !is_ours && self.files.has_none_for(name.as_deref());
                    self.managed.list().into_iter().find(|it| is_any && it.suits(offered))
                })
            }
        };
        Some(shown?.show(name))
    }
}
