//! What a route asks of a request beside its host and its path.
//!
//! In: the conditions of a route, compiled once; then the facts of a request. Out: yes or no. All
//! conditions of a route have to hold. A field, a parameter or a cookie that comes several times
//! holds if any of them does. Routes without conditions have none of this.

use memchr::memchr;
use regex::bytes::Regex;

use crate::address::ClientAddress;
use crate::config::hooks::pattern;
use crate::config::{Networks, RouteConfig};
use crate::http::head::RequestHead;
use crate::http::names::cookies;
use crate::http::path::{decoded, path_of};

/// What of a request decides about its route.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub head: &'a RequestHead,
    /// The buffer that `head` was read from.
    pub text: &'a [u8],
    pub client: ClientAddress,
}

impl<'a> Asked<'a> {
    pub(super) fn authority(&self) -> &'a [u8] {
        self.head.authority.of(self.text)
    }

    pub(super) fn target(&self) -> &'a [u8] {
        self.head.path(self.text)
    }
}

/// The conditions of one route.
#[derive(Debug)]
pub(super) struct Conditions {
    path: Option<Regex>,
    methods: Vec<String>,
    headers: Vec<(String, Wanted)>,
    query: Vec<(String, Wanted)>,
    cookies: Vec<(String, Wanted)>,
    clients: Networks,
}

#[derive(Debug)]
enum Wanted {
    Any,
    Value(String),
}

impl Wanted {
    fn new(value: &str) -> Self {
        if value == "*" { Self::Any } else { Self::Value(value.to_owned()) }
    }

    fn is(&self, value: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Value(wanted) => wanted.as_bytes() == value,
        }
    }
}

impl Conditions {
    /// `None`: the route asks for nothing more.
    pub(super) fn new(route: &RouteConfig) -> Option<Box<Self>> {
        if route.conditions().is_empty() {
            return None;
        }
        let pairs = |pairs: &[(String, String)]| {
            pairs.iter().map(|(name, value)| (name.clone(), Wanted::new(value))).collect()
        };
        // It has been compiled before, when the configuration was read.
        let path = route.path_regex.as_deref().and_then(|text| pattern(text).ok());
        Some(Box::new(Self {
            path,
            methods: route.methods.clone(),
            headers: pairs(&route.headers),
            query: pairs(&route.query),
            cookies: pairs(&route.cookies),
            clients: route.clients.clone(),
        }))
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        usize::from(self.path.is_some())
            + usize::from(!self.methods.is_empty())
            + self.headers.len()
            + self.query.len()
            + self.cookies.len()
            + usize::from(!self.clients.is_empty())
    }

    /// `path` is what the request's path is taken for; it may have a query.
    pub(super) fn hold(&self, path: &[u8], asked: &Asked<'_>) -> bool {
        self.path_fits(path) && self.failing(asked).is_none()
    }

    /// The first condition beside that of the path that `asked` does not fulfil.
    pub(super) fn failing(&self, asked: &Asked<'_>) -> Option<&'static str> {
        let Asked { head, text, client } = *asked;
        let method = head.method_text.of(text);
        if !self.methods.is_empty() && !self.methods.iter().any(|it| it.as_bytes() == method) {
            return Some("methods");
        }
        let has_field = |(name, wanted): &(String, Wanted)| {
            head.fields.values(text, name.as_bytes()).any(|value| wanted.is(value))
        };
        if !self.headers.iter().all(has_field) {
            return Some("headers");
        }
        let target = asked.target();
        let query = target.get(path_of(target).len() + 1..).unwrap_or_default();
        let has_parameter = |(name, wanted): &(String, Wanted)| {
            parameters(query).any(|(key, value)| key == name.as_bytes() && wanted.is(&value))
        };
        if !self.query.iter().all(has_parameter) {
            return Some("query");
        }
        let has_cookie = |(name, wanted): &(String, Wanted)| {
            let fields = head.fields.values(text, b"cookie");
            fields.flat_map(|field| cookies(field, name.as_bytes())).any(|value| wanted.is(value))
        };
        if !self.cookies.iter().all(has_cookie) {
            return Some("cookies");
        }
        let is_known = self.clients.is_empty() || self.clients.has(client);
        (!is_known).then_some("clients")
    }

    pub(super) fn path_fits(&self, path: &[u8]) -> bool {
        self.path.as_ref().is_none_or(|regex| regex.is_match(path_of(path)))
    }
}

/// The names and values of a query, decoded as forms are (WHATWG URL §5.1).
fn parameters(query: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    query.split(|byte| *byte == b'&').map(|pair| {
        let equals = memchr(b'=', pair).unwrap_or(pair.len());
        let value = pair.get(equals + 1..).unwrap_or_default();
        (form_decoded(&pair[..equals]), form_decoded(value))
    })
}

fn form_decoded(text: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> =
        text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    decoded(&spaced)
}
