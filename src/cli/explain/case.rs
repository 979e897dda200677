//! The case that is explained, and how it ends.
//!
//! In goes a configuration with the head of a request; every section of an explanation reads it,
//! and out comes what would become of the request.

use crate::address::ClientAddress;
use crate::cli::output::Failure;
use crate::config::Config;
use crate::fault::Fault;
use crate::forward_proxy::access::Access;
use crate::hooks::Plans;
use crate::http::forwarded_header::{ClientText, Introduction, Scheme};
use crate::http::head::RequestHead;
use crate::routing::Routes;

/// A request, and what decides about it.
pub(super) struct Case<'c> {
    pub(super) config: &'c Config,
    /// The head as a client would send it.
    pub(super) text: Vec<u8>,
    pub(super) head: RequestHead,
    /// Who connects.
    pub(super) peer: ClientAddress,
    /// Who has sent the request: the peer, or whom it speaks for.
    pub(super) client: ClientAddress,
    pub(super) routes: Routes,
    pub(super) plans: Plans,
    pub(super) access: Access,
    /// The user of the forward proxy that it is asked as, without a password.
    pub(super) user: Option<&'c str>,
    /// Whether the listener offers the forward proxy.
    pub(super) is_offered: bool,
}

impl Case<'_> {
    /// The client as fields and templates have it.
    pub(super) fn client_text(&self) -> String {
        ClientText::new(self.client, Scheme::Http, Introduction::default()).address().to_owned()
    }
}

/// How it ends.
pub(super) enum Ending {
    /// Sent on to somebody.
    Sent(String),
    /// Answered by ringway itself.
    Own(String),
    Refused(Fault, String),
}

pub(super) fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn lines_of(head: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(head).trim_end().lines().map(str::to_owned).collect()
}

pub(super) type Explained = Result<Ending, Failure>;
