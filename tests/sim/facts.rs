//! What is known of each request of a run: what its client asked, and what origins made of it.
//!
//! In go requests as they are made up, and what either end sees of them; out comes what the other
//! end may see. Whatever must not be is kept as a line.

use crate::wire::Framing;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Put,
    Post,
    /// GET with Upgrade, for an echo.
    Upgrade,
    /// A tunnel to an echo.
    Connect,
}

impl Method {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get | Self::Upgrade => "GET",
            Self::Head => "HEAD",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Connect => "CONNECT",
        }
    }

    pub(crate) fn is_tunnel(self) -> bool {
        matches!(self, Self::Upgrade | Self::Connect)
    }
}

/// A request and its fate.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    pub method: Method,
    pub framing: Framing,
    pub length: usize,
    /// The client has sent all of it.
    pub is_sent: bool,
    pub answers: Vec<Answer>,
}

/// An answer that an origin has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub length: usize,
    pub framing: Framing,
    /// The origin breaks it off.
    pub is_cut: bool,
}

/// How often what came about that a world may have or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Names that have other hosts.
    pub renames: u64,
    /// Answers of the name server: with hosts, without any, and failures.
    pub answers: u64,
    pub empty_answers: u64,
    pub failures: u64,
    /// Connections and requests that went to a host shortly after it was gone.
    pub to_gone: u64,
    /// Looks at memory that found it short, and cleanups.
    pub looks_light: u64,
    pub looks_forced: u64,
    pub cleanups_light: u64,
    pub cleanups_forced: u64,
    /// Budgets that were cut.
    pub squeezes: u64,
    /// What cleanups ended.
    pub freed_idle: u64,
    pub freed_clients: u64,
    pub cut_transfers: u64,
    /// Answers that say that there is no room.
    pub no_room: u64,
    /// Clients that came after everything had got better.
    pub probes: u64,
}

#[derive(Default)]
pub(crate) struct Facts {
    pub counts: Counts,
    pub requests: Vec<Fact>,
    /// What must not be, the first ones.
    pub offences: Vec<String>,
    /// Exchanges that ended with a whole answer of an origin, with one of the proxy, and cut.
    pub whole: u64,
    pub refused: u64,
    pub cut: u64,
    pub tunnels: u64,
    pub bytes: u64,
}

impl Facts {
    /// The proxy has answered `what` by itself: it says why.
    pub(crate) fn refuse(&mut self, what: fmt::Arguments<'_>, status: u16, proxy: &str) {
        if status < 400 || !proxy.contains("error=") {
            self.offend(format!("{what} got {status}, which nobody explains: {proxy:?}"));
        }
        self.counts.no_room +=
            u64::from(status == 503 && proxy.contains("error=proxy_internal_error"));
    }

    pub(crate) fn offend(&mut self, what: String) {
        if self.offences.len() < 20 {
            self.offences.push(what);
        }
    }
}
