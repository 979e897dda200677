//! What a client sees of an answer otherwise than its origin says it: where things are, and a
//! cookie that leads the client back.
//!
//! In goes a request with the head of its answer, of an upstream whose clients do; out comes what
//! the head is written with. What an origin's cookie leads to is learnt here.

use std::sync::Arc;

use crate::exchange::request::Request;
use crate::http::moved::Moved;
use crate::http::names::cookies;
use crate::http::rewrite::Seen;
use crate::ring::clock;
use crate::routing::Route;
use crate::upstream::lease::Lease;
use crate::upstream::sticky::{Sticky, value_of};
use crate::upstream::{Origin, Upstream};

/// What is said of one answer.
pub(crate) struct SeenOtherwise {
    /// The origin, and what stands for the client where its paths begin.
    moved: Option<(Arc<Origin>, String)>,
    cookie: String,
}

impl SeenOtherwise {
    /// Of the origin at the other end of `lease`, whose head `buf` begins with.
    #[cold]
    pub(super) fn of<S>(
        request: &Request<'_, S>,
        route: &Route,
        upstream: &Upstream,
        (lease, buf): (&Lease, &[u8]),
    ) -> Self {
        let origin = lease.whose().filter(|_| upstream.config().map_location);
        let moved = origin.map(|origin| {
            let routes = &request.peer.generation.config.routes;
            (origin, routes[route.index as usize].cut_prefix().to_owned())
        });
        let sticky = upstream.sticky().zip(upstream.mark(lease.origin()));
        let cookie = sticky.and_then(|(sticky, mark)| keep(request, sticky, (mark, buf)));
        Self { moved, cookie: cookie.unwrap_or_default() }
    }

    pub(crate) fn as_seen(&self) -> Seen<'_> {
        let moved = self.moved.as_ref().map(|(origin, prefix)| Moved {
            authority: origin.authority.as_bytes(),
            base: origin.base.as_bytes(),
            prefix: prefix.as_bytes(),
        });
        Seen { moved, cookie: self.cookie.as_bytes() }
    }
}

/// Keeps the client with the target that has answered; the cookie that it gets for that, if any.
fn keep<S>(request: &Request<'_, S>, sticky: &Sticky, (mark, buf): (u64, &[u8])) -> Option<String> {
    let now_s = clock::unix_seconds();
    if sticky.config.learn {
        let name = sticky.config.cookie.as_bytes();
        let given = request.response.fields.values(buf, b"set-cookie");
        for cookie in given.filter_map(|cookie| value_of(cookie, name)) {
            sticky.learn(cookie, mark, now_s);
        }
        return None;
    }
    let mut cookie = sticky.issue(mark, kept_with(request, sticky), now_s)?;
    if request.peer.slot.socket().is_secure() {
        cookie.push_str("; Secure");
    }
    Some(cookie)
}

/// The mark of the target that the request's client is kept with, and the second until which.
#[cold]
pub(super) fn kept_with<S>(request: &Request<'_, S>, sticky: &Sticky) -> Option<(u64, u64)> {
    let (head, text) = (&request.head, request.inbox.filled());
    let name = sticky.config.cookie.as_bytes();
    let now_s = clock::unix_seconds();
    let mut values = head.fields.values(text, b"cookie").flat_map(|field| cookies(field, name));
    values.find_map(|value| sticky.read(value, now_s))
}
