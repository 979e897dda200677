//! The request on its way out: its head as the origin shall see it.
//!
//! In go a connection and what is known of the request; out go the head and what of the body came
//! with it. The rest of a body is an upload's affair.

use crate::exchange::destination::Destination;
use crate::exchange::request::Request;
use crate::exchange::stream::ClientStream;
use crate::exchange::upload::RequestBody;
use crate::http::rewrite::RequestRewrite;
use crate::ledger::Counted;
use crate::upstream::h1::{self, AttemptError};
use crate::upstream::lease::Lease;

/// Sends the head as the origin shall see it, with what of the body came with it, as far as the
/// origin takes that at once; the rest. Nothing is awaited here, because what has to be kept over a
/// wait costs each request.
pub(super) fn begin_request(
    request: &Request<'_, impl ClientStream>,
    lease: &Lease,
    destination: &Destination,
    body: &RequestBody,
) -> Result<Option<Counted>, AttemptError> {
    if request.peer.generation.times.differ {
        lease.limit_write(request.peer.times.write);
    }
    let text = request.inbox.filled();
    let head = &request.head;
    h1::begin_to_send(&request.peer.worker.outbox, lease.socket(), |out| {
        if let Some(version) = destination.proxy_protocol(request, lease) {
            request.peer.put_proxy_protocol(version, out);
        }
        let length = body.length();
        let trace = request.trace.as_deref();
        let is_plain = destination.is_plain() && length.is_none() && trace.is_none();
        let repeated = if is_plain { head.repeated() } else { None };
        let origin = destination.origin_number(request, lease);
        let repeated = repeated.map(|it| (it, request.peer.generation.id, origin));
        request.sent_head.borrow_mut().put(repeated, out, |out| {
            let path = destination.sent_path(head, text);
            let origin = destination.origin(request, lease);
            let how = destination.rewrite(request, origin.as_deref(), &path);
            let how = RequestRewrite { length, ..how };
            let start = out.len();
            destination.put_request(request, &how, out);
            if let Some(trace) = trace {
                trace.put(out, start, lease.address());
            }
        });
        body.put(request, out);
    })
}

/// Sends what [`begin_request`] has left, waiting where the origin is slower. An origin may send
/// the request back meanwhile, of which all is at hand where it `is_whole`.
pub(super) async fn finish_request(
    request: &Request<'_, impl ClientStream>,
    lease: &Lease,
    (rest, is_whole): (Counted, bool),
) -> Result<(), AttemptError> {
    let sent = h1::send_rest(request.peer.origin(lease.socket()), &rest).await;
    sent.map_err(|error| error.on(lease.socket(), is_whole))
}
