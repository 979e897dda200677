//! Hooks: `[hooks]` and `[route.hooks]`.
//!
//! In: one such table as it was written, and the upstreams. Out: what is to be done to requests and
//! answers, or the first refusal. Files are not opened here.

mod access;
mod heads;
mod traffic;

use super::Checked;
use super::values::{number, size};
use crate::config::error::{Problem, nearest};
use crate::config::hooks::raw::RawHooks;
use crate::config::names::is_token;
use crate::config::raw::Given;
use crate::config::{HooksConfig, UpstreamConfig};

/// A request body of any size is `u64::MAX`, which the file writes as 0.
const UNLIMITED: u64 = u64::MAX;

/// `None` where the table says nothing.
pub(super) fn hooks(
    raw: &RawHooks,
    upstreams: &[UpstreamConfig],
) -> Checked<Option<Box<HooksConfig>>> {
    let connections = raw.connections_per_client.as_ref();
    let body = raw.body_bytes.as_ref();
    let custom = raw.custom.as_ref();
    let hooks = HooksConfig {
        access: access::access(raw)?,
        request_id: raw.request_id.as_deref().map(access::request_id).transpose()?,
        cors: raw.cors.as_deref().map(access::cors).transpose()?,
        rate_limit: raw.rate_limit.as_ref().map(access::rate_limit).transpose()?,
        connections_per_client: connections
            .map(|given| number(Some(given), 1..=1_000_000, 1))
            .transpose()?,
        body_bytes: body
            .map(|given| size(Some(given), 0..=u64::MAX, 0))
            .transpose()?
            .map(|bytes| if bytes == 0 { UNLIMITED } else { bytes }),
        redirect: raw.redirect.as_ref().map(heads::redirect).transpose()?,
        basic_auth: raw.basic_auth.as_ref().map(access::basic_auth).transpose()?,
        forward_auth: raw
            .forward_auth
            .as_ref()
            .map(|given| access::forward_auth(given, upstreams))
            .transpose()?,
        custom: custom
            .map(|list| list.iter().map(access::custom).collect::<Checked<_>>())
            .transpose()?,
        respond: raw.respond.as_deref().map(heads::respond).transpose()?,
        split: raw.split.as_ref().map(|given| traffic::split(given, upstreams)).transpose()?,
        mirror: raw.mirror.as_ref().map(|given| traffic::mirror(given, upstreams)).transpose()?,
        retry: raw.retry.as_deref().map(traffic::retry).transpose()?,
        rewrite: raw.rewrite.as_ref().map(heads::rewrite).transpose()?,
        request_headers: heads::headers(&raw.request_headers, heads::Head::Request)?,
        response_headers: heads::headers(&raw.response_headers, heads::Head::Response)?,
        security_headers: raw.security_headers.as_deref().map(heads::security).transpose()?,
        error_pages: heads::error_pages(raw)?,
    };
    Ok((hooks != HooksConfig::default()).then(|| Box::new(hooks)))
}

/// The index of the upstream that is called so.
pub(super) fn upstream(name: &Given<String>, upstreams: &[UpstreamConfig]) -> Checked<usize> {
    let index = upstreams.iter().position(|upstream| upstream.name == name.value);
    index.ok_or_else(|| unknown_upstream(name, &name.value, upstreams))
}

fn unknown_upstream<T>(
    place: &Given<T>,
    name: &str,
    upstreams: &[UpstreamConfig],
) -> super::super::error::Refusal {
    let known = upstreams.iter().map(|upstream| upstream.name.as_str());
    let nearest = nearest(name, known);
    place.refuse_for(Problem::UnknownUpstream { name: name.to_owned(), nearest })
}

const FIELD_FORM: &str = "a field name: 1 to 64 letters, digits, \"-\" and \"_\"";

const VALUE_FORM: &str = "text without control characters, of at most 4096 bytes";
const VALUE_BYTES_MAX: usize = 4096;

fn is_field_name(name: &str) -> bool {
    name.len() <= 64 && is_token(name)
}

fn field_name(given: &Given<String>) -> Checked<String> {
    if is_field_name(&given.value) {
        return Ok(given.value.clone());
    }
    Err(given.refuse(FIELD_FORM))
}

fn is_field_value(text: &str) -> bool {
    let is_trimmed = text.trim_matches([' ', '\t']).len() == text.len();
    text.len() <= VALUE_BYTES_MAX && is_trimmed && !text.chars().any(char::is_control)
}

fn field_value(given: &Given<String>) -> Checked<String> {
    if is_field_value(&given.value) {
        return Ok(given.value.clone());
    }
    Err(given.refuse(VALUE_FORM))
}

/// Items for which `check` gives something.
fn each<T>(
    given: Option<&Given<Vec<Given<String>>>>,
    check: impl Fn(&Given<String>) -> Checked<T>,
) -> Checked<Vec<T>> {
    given.map_or(Ok(Vec::new()), |list| list.value.iter().map(check).collect())
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{all_refused, parse};

    #[test]
    fn a_route_without_hooks_has_none() {
        let config = parse("[[route]]\nupstream = \"demo\"\n[route.hooks]").unwrap();
        assert_eq!((config.hooks, &config.routes[0].hooks), (None, &None));
    }

    #[test]
    fn hooks_are_for_everybody_or_for_a_route() {
        let text = "[hooks]\nbody_bytes = 0\n[[route]]\nupstream = \"demo\"\n\
                    inherit_hooks = false\n[route.hooks]\nconnections_per_client = 7\n\
                    body_bytes = 5";
        let config = parse(text).unwrap();
        assert_eq!(config.hooks.unwrap().body_bytes, Some(u64::MAX));
        let own = config.routes[0].hooks.as_ref().unwrap();
        assert_eq!((own.connections_per_client, own.body_bytes), (Some(7), Some(5)));
        assert!(!config.routes[0].inherits_hooks);
    }

    #[test]
    fn an_unknown_key_of_a_hook_names_its_place_and_the_nearest_known_one() {
        let route = "[[route]]\nupstream = \"demo\"\n";
        all_refused(&[
            ("[hooks]\nredirct = {}", "2:1: hooks.redirct: unknown key, did you mean `redirect`?"),
            (
                &format!("{route}[route.hooks.rate_limit]\nrtae = \"1/s\""),
                "4:1: route[0].hooks.rate_limit.rtae: unknown key, did you mean `rate`?",
            ),
            (
                &format!("{route}[route.hooks.request_headers]\nsets = {{}}"),
                "4:1: route[0].hooks.request_headers.sets: unknown key, did you mean `set`?",
            ),
            ("[hooks]\ncors = 5", "2:8: hooks.cors: invalid type: integer `5`, expected a table"),
            ("[hooks]\nconnections_per_client = 0", "2:26: hooks.connections_per_client: found 0"),
            ("[hooks.mirror]\npercent = \"x\"", "2:11: hooks.mirror.percent: invalid type: string"),
        ]);
    }
}
