//! The Host that an origin sees.
//!
//! In goes what the configuration says of an upstream's `host`; out comes what a request to one of
//! its origins is written with.

use crate::address::is_unix;
use crate::config::HostPolicy;
use crate::http::head::RequestHead;
use crate::http::rewrite::HostRule;

/// The Host that an origin sees, whose own is `authority`.
pub(crate) fn host_rule<'a>(
    policy: &'a HostPolicy,
    head: &RequestHead,
    authority: Option<&'a str>,
) -> HostRule<'a> {
    match policy {
        HostPolicy::Pass if !head.authority.is_empty() => HostRule::Pass,
        HostPolicy::Fixed(host) => HostRule::Set(host.as_bytes()),
        // An HTTP/1.0 request need not name a host, a request to an origin must.
        HostPolicy::Pass | HostPolicy::Origin => {
            authority.map_or(HostRule::Pass, |own| HostRule::Set(name_of(own).as_bytes()))
        }
    }
}

/// The Host of a question to an origin whose own is `authority`.
pub(crate) fn host<'a>(policy: &'a HostPolicy, authority: Option<&'a str>) -> &'a str {
    match policy {
        HostPolicy::Fixed(host) => host,
        HostPolicy::Pass | HostPolicy::Origin => authority.map(name_of).unwrap_or_default(),
    }
}

/// A path is no host: what listens there is on this machine.
fn name_of(authority: &str) -> &str {
    if is_unix(authority) { "localhost" } else { authority }
}
