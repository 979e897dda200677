//! Requests that come round again: two proxies that are each other's parent, or upstream.
//!
//! In goes a request; out comes whether it has been here too often. Via says it of forward
//! requests (RFC 9110 §7.6.3), CDN-Loop of those that take a route (RFC 8586). Several proxies in a
//! row may well have the same name, so that a few rounds are none. Nothing here waits.

use crate::exchange::request::Request;
use crate::http::names::{FieldName, FieldNameSet, elements};

/// A proxy whose name a request has met so often is in a loop.
const ROUNDS_MAX: usize = 8;

const MARKS: FieldNameSet = FieldNameSet::EMPTY.with(FieldName::Via).with(FieldName::CdnLoop);

/// Whether the request in the inbox has been here too often.
#[inline]
pub(crate) fn is_loop<S>(request: &Request<'_, S>) -> bool {
    request.head.fields.has_any(MARKS) && rounds(request) >= ROUNDS_MAX
}

/// How often the request says that it came through a proxy of our name.
#[cold]
fn rounds<S>(request: &Request<'_, S>) -> usize {
    let (fields, text) = (&request.head.fields, request.inbox.filled());
    let name = request.peer.generation.config.server.via.as_bytes();
    let count = |known, is_us: &dyn Fn(&[u8]) -> bool| {
        let values = fields.all(known).flat_map(|field| elements(field.value.of(text)));
        values.filter(|element| is_us(element)).count()
    };
    // `1.1 name (comment)`, and `name; parameter`.
    let in_via = count(FieldName::Via, &|element| {
        let mut words = element.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        words.nth(1).is_some_and(|word| word.eq_ignore_ascii_case(name))
    });
    let in_cdn_loop = count(FieldName::CdnLoop, &|element| {
        let mut words = element.split(|byte| matches!(byte, b' ' | b'\t' | b';'));
        words.next().is_some_and(|word| word.eq_ignore_ascii_case(name))
    });
    in_via.max(in_cdn_loop)
}
