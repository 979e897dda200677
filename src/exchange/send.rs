//! The request on its way out: its head as the origin shall see it.
//!
//! In go a connection and what is known of the request; out go the head and what of the body came
//! with it. The rest of a body is an upload's affair.

use crate::exchange::destination::Destination;
use crate::exchange::request::Request;
use crate::exchange::stream::ClientStream;
use crate::exchange::upload::RequestBody;
use crate::http::rewrite::RequestRewrite;
use crate::upstream::h1::{self, AttemptError};
use crate::upstream::lease::Lease;

/// Sends the head as the origin shall see it, with what of the body came with it. There is a copy
/// of it for a second attempt, so that the first one's stands where it is called.
pub(super) async fn send_request<const IS_SECOND: bool>(
    request: &Request<'_, impl ClientStream>,
    lease: &Lease,
    destination: &Destination,
    body: &RequestBody,
) -> Result<(), AttemptError> {
    if request.peer.generation.times.differ {
        lease.limit_write(request.peer.times.write);
    }
    let text = request.inbox.filled();
    let head = &request.head;
    h1::send(&request.peer.worker.outbox, request.peer.origin(lease.socket()), |out| {
        if let Some(version) = destination.proxy_protocol(request, lease) {
            request.peer.put_proxy_protocol(version, out);
        }
        let length = body.length();
        let is_plain = destination.is_plain() && length.is_none();
        let repeated = if is_plain { head.repeated() } else { None };
        let repeated = repeated.map(|it| (it, request.peer.generation.id, lease.origin()));
        request.sent_head.borrow_mut().put(repeated, out, |out| {
            let path = destination.sent_path(head, text);
            let origin = destination.origin(request, lease);
            let how = destination.rewrite(request, origin.as_deref(), &path);
            let how = RequestRewrite { length, ..how };
            destination.put_request(request, &how, out);
        });
        body.put(request, out);
    })
    .await
}
