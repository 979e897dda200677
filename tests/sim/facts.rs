//! What is known of each request of a run: what its client asked, and what origins made of it.
//!
//! In go requests as they are made up, and what either end sees of them; out comes what the other
//! end may see. Whatever must not be is kept as a line.

use crate::wire::Framing;

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

#[derive(Default)]
pub(crate) struct Facts {
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
    pub(crate) fn offend(&mut self, what: String) {
        if self.offences.len() < 20 {
            self.offences.push(what);
        }
    }
}
