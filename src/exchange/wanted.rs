//! To whom a request is to go, as far as it says so itself.
//!
//! In goes a request head; out comes what its upstream keeps it together with, and whom its client
//! is kept with. Whether that target can be asked is not known here.

use crate::config::HashKey;
use crate::exchange::request::Request;
use crate::exchange::seen::kept_with;
use crate::http::Method;
use crate::http::names::cookies;
use crate::http::path::path_of;
use crate::upstream::balance::hash;
use crate::upstream::{Upgrade, Upstream, Wanted};

/// To whom the request is to go, as far as it says so itself: what it is kept together with, and
/// whom its client is kept with.
#[inline]
pub(super) fn wanted<S>(request: &Request<'_, S>, upstream: &Upstream) -> Wanted<'static> {
    Wanted {
        key: upstream.hash_key().map_or(0, |key| hash_of(request, key)),
        mark: upstream.sticky().and_then(|sticky| kept_with(request, sticky)).map(|(mark, _)| mark),
        upgrade: if request.head.is_upgrade && upstream.may_speak_http2() {
            upgrade_of(request)
        } else {
            Upgrade::Nothing
        },
        ..Wanted::default()
    }
}

#[cold]
fn upgrade_of<S>(request: &Request<'_, S>) -> Upgrade {
    let head = &request.head;
    let protocol = head.fields.only_value(request.inbox.filled(), b"upgrade");
    let is_websocket = protocol.is_some_and(|it| it.eq_ignore_ascii_case(b"websocket"));
    let has_body = !head.body.is_empty();
    if is_websocket && head.method == Method::Get && !has_body {
        Upgrade::WebSocket
    } else {
        Upgrade::Other
    }
}

#[cold]
fn hash_of<S>(request: &Request<'_, S>, key: &HashKey) -> u64 {
    let (head, text) = (&request.head, request.inbox.filled());
    let found = match key {
        HashKey::Client => None,
        HashKey::Path => Some(path_of(head.path(text))),
        HashKey::Header(name) => head.fields.values(text, name.as_bytes()).next(),
        HashKey::Cookie(name) => {
            let mut fields = head.fields.values(text, b"cookie");
            fields.find_map(|field| cookies(field, name.as_bytes()).next())
        }
    };
    match found {
        Some(found) => hash(found),
        None => hash(request.peer.client.to_string().as_bytes()),
    }
}
