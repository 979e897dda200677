//! Conditions: what an `if` and the `acl`s that it names ask of a request.
//!
//! In go the words behind an `if`; out come alternatives, each of which a route can ask for. What a
//! route cannot ask for is an error, which says why.

use std::collections::BTreeMap;

use super::super::choice::Takes;
use super::super::values::{is_host, is_path, network};
use super::sections::{Line, Section};
use crate::config::hooks::pattern;

/// More alternatives would be more routes than anybody reads.
const ALTERNATIVES_MAX: usize = 64;

/// What a request has to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted {
    pub(super) host: Option<String>,
    pub(super) takes: Option<Takes>,
    pub(super) methods: Vec<String>,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) cookies: BTreeMap<String, String>,
    pub(super) clients: Vec<String>,
    /// `Some`: whether it came by TLS.
    pub(super) is_tls: Option<bool>,
}

impl Wanted {
    /// Conditions beside host and path.
    pub(super) fn count(&self) -> usize {
        usize::from(!self.methods.is_empty())
            + self.headers.len()
            + self.cookies.len()
            + usize::from(!self.clients.is_empty())
    }

    /// What is both, if a route can say it.
    fn and(&self, other: &Self) -> Option<Self> {
        /// The one that is said, by either; two different ones are an error.
        fn one<T: Clone + PartialEq>(a: Option<&T>, b: Option<&T>) -> Result<Option<T>, ()> {
            match (a, b) {
                (Some(a), Some(b)) if a != b => Err(()),
                (a, b) => Ok(a.or(b).cloned()),
            }
        }
        fn list(a: &[String], b: &[String]) -> Option<Vec<String>> {
            let is_known = a.is_empty() || b.is_empty() || a == b;
            is_known.then(|| if a.is_empty() { b.to_vec() } else { a.to_vec() })
        }
        let mut headers = self.headers.clone();
        headers.extend(other.headers.clone());
        let mut cookies = self.cookies.clone();
        cookies.extend(other.cookies.clone());
        Some(Self {
            host: one(self.host.as_ref(), other.host.as_ref()).ok()?,
            takes: one(self.takes.as_ref(), other.takes.as_ref()).ok()?,
            methods: list(&self.methods, &other.methods)?,
            headers,
            cookies,
            clients: list(&self.clients, &other.clients)?,
            is_tls: one(self.is_tls.as_ref(), other.is_tls.as_ref()).ok()?,
        })
    }
}

/// The alternatives of the words behind an `if`.
pub(super) fn wanted(words: &[String], section: &Section) -> Result<Vec<Wanted>, String> {
    let mut all = Vec::new();
    for part in words.split(|word| word == "or" || word == "||") {
        let mut these = vec![Wanted::default()];
        let mut words = part.iter();
        while let Some(word) = words.next() {
            let is_not = word.starts_with('!');
            let bare = word.trim_start_matches('!');
            let term = if bare == "{" || (bare.is_empty() && is_not) {
                let mut inner: Vec<String> =
                    words.by_ref().take_while(|it| *it != "}").cloned().collect();
                if inner.first().is_some_and(|first| first == "{") {
                    inner.remove(0);
                }
                criterion(&inner)?
            } else {
                named(bare, section)?
            };
            let term = if is_not { not(term)? } else { term };
            these = these.iter().flat_map(|a| term.iter().filter_map(|b| a.and(b))).collect();
            if these.is_empty() {
                return Err("two conditions of one kind hold at once in no route".to_owned());
            }
            if these.len() > ALTERNATIVES_MAX {
                return Err(format!("it has more than {ALTERNATIVES_MAX} alternatives"));
            }
        }
        all.extend(these);
    }
    if all.len() > ALTERNATIVES_MAX {
        return Err(format!("it has more than {ALTERNATIVES_MAX} alternatives"));
    }
    Ok(all)
}

/// What is left of the alternatives without what a route cannot ask for: more requests than were
/// meant. Empty, where nothing would be left of one.
pub(super) fn widened(words: &[String], section: &Section) -> Vec<Wanted> {
    let mut all = Vec::new();
    for part in words.split(|word| word == "or" || word == "||") {
        let mut these = vec![Wanted::default()];
        for term in terms(part) {
            let Ok(term) = wanted(&term, section) else { continue };
            let both: Vec<_> =
                these.iter().flat_map(|a| term.iter().filter_map(|b| a.and(b))).collect();
            these = if both.is_empty() { these } else { both };
            these.truncate(ALTERNATIVES_MAX);
        }
        all.extend(these);
    }
    let is_bare = |it: &Wanted| *it == Wanted::default() || it.is_tls.is_some();
    if all.iter().any(is_bare) || all.len() > ALTERNATIVES_MAX { Vec::new() } else { all }
}

/// The names and the braces of one alternative, each with its `!`.
fn terms(words: &[String]) -> Vec<Vec<String>> {
    let mut terms: Vec<Vec<String>> = Vec::new();
    let mut depth = 0_usize;
    for word in words {
        let is_going_on = depth > 0 || terms.last().is_some_and(|it| it.as_slice() == ["!"]);
        depth += usize::from(word.trim_start_matches('!') == "{");
        depth -= usize::from(word == "}").min(depth);
        match terms.last_mut().filter(|_| is_going_on) {
            Some(term) => term.push(word.clone()),
            None => terms.push(vec![word.clone()]),
        }
    }
    terms
}

fn not(term: Vec<Wanted>) -> Result<Vec<Wanted>, String> {
    match term.as_slice() {
        [Wanted { is_tls: Some(is_tls), .. }] => {
            Ok(vec![Wanted { is_tls: Some(!is_tls), ..Wanted::default() }])
        }
        _ => Err("a route does not ask what a request is not".to_owned()),
    }
}

fn named(name: &str, section: &Section) -> Result<Vec<Wanted>, String> {
    let is_it = |line: &&Line| line.word(0) == "acl" && line.word(1) == name;
    let mut found = Vec::new();
    for line in section.all().filter(is_it) {
        found.extend(criterion(line.rest(2))?);
    }
    match (found.is_empty(), name) {
        (false, _) => Ok(found),
        (true, "TRUE") => Ok(vec![Wanted::default()]),
        (true, "METH_GET") => Ok(vec![methods(&["GET", "HEAD"])]),
        (true, "METH_POST") => Ok(vec![methods(&["POST"])]),
        (true, "METH_OPTIONS") => Ok(vec![methods(&["OPTIONS"])]),
        (true, "LOCALHOST") => {
            let clients = vec!["127.0.0.0/8".to_owned()];
            Ok(vec![Wanted { clients, ..Wanted::default() }])
        }
        _ => Err(format!("there is no acl {name}")),
    }
}

fn methods(names: &[&str]) -> Wanted {
    let methods = names.iter().map(|it| (*it).to_owned()).collect();
    Wanted { methods, ..Wanted::default() }
}

/// A criterion with its values, each of which is an alternative.
fn criterion(words: &[String]) -> Result<Vec<Wanted>, String> {
    let Some(fetch) = words.first() else { return Err("a condition without a word".to_owned()) };
    let (mut matching, mut is_blind, mut values) = (None, false, Vec::new());
    let mut rest = words[1..].iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "-i" => is_blind = true,
            "-m" => matching = rest.next().cloned(),
            "-f" | "-M" | "-n" => return Err("its values are in a file".to_owned()),
            "-u" => drop(rest.next()),
            "--" => {}
            _ => values.push(word.as_str()),
        }
    }
    let fetch = fetch.strip_suffix(",lower").unwrap_or(fetch);
    let fetch = fetch.strip_prefix("req.").unwrap_or(fetch);
    let (name, argument) = match fetch.split_once('(') {
        Some((name, argument)) => (name, argument.trim_end_matches(')')),
        None => (fetch, ""),
    };
    let (base, short) = match name.split_once('_') {
        Some((base, short)) if ["path", "hdr", "url", "cook"].contains(&base) => {
            (base, Some(short))
        }
        _ => (name, None),
    };
    let matching = matching.as_deref().or(short).unwrap_or("str");
    match base {
        "ssl_fc" => Ok(vec![Wanted { is_tls: Some(true), ..Wanted::default() }]),
        "method" => Ok(vec![methods(&values)]),
        "always_true" => Ok(vec![Wanted::default()]),
        "src" => {
            let clients: Option<Vec<String>> = values.iter().map(|it| network(it)).collect();
            let clients = clients.ok_or("a client is known by networks")?;
            Ok(vec![Wanted { clients, ..Wanted::default() }])
        }
        "path" | "url" => values.iter().map(|it| path(it, matching, is_blind)).collect(),
        "hdr" if argument.split(',').next().is_some_and(|it| it.eq_ignore_ascii_case("host")) => {
            values.iter().map(|it| host(it, matching)).collect()
        }
        "hdr" | "cook" => values_of(base, argument, matching, &values),
        _ => Err(format!("a route does not ask for {fetch}")),
    }
}

fn path(value: &str, matching: &str, is_blind: bool) -> Result<Wanted, String> {
    let escaped = regex::escape(value);
    let takes = match matching {
        "str" if !is_blind => Takes::Exact(value.to_owned()),
        "beg" if !is_blind => Takes::Prefix { path: value.to_owned(), is_final: false },
        "str" => Takes::Pattern(format!("^{escaped}$")),
        "beg" => Takes::Pattern(format!("^{escaped}")),
        "end" => Takes::Pattern(format!("{escaped}$")),
        "sub" => Takes::Pattern(escaped),
        "dir" => Takes::Pattern(format!("/{}(/|$)", escaped.trim_matches('/'))),
        "reg" => Takes::Pattern(value.to_owned()),
        _ => return Err(format!("a path is not compared by {matching}")),
    };
    let takes = match takes {
        Takes::Pattern(text) => {
            let text = if is_blind { format!("(?i){text}") } else { text };
            pattern(&text).map_err(|expected| format!("it is not {expected}"))?;
            Takes::Pattern(text)
        }
        Takes::Exact(path) | Takes::Prefix { path, .. } if !is_path(&path) => {
            return Err("a path begins with / and has no space, ? or #".to_owned());
        }
        takes => takes,
    };
    Ok(Wanted { takes: Some(takes), ..Wanted::default() })
}

fn host(value: &str, matching: &str) -> Result<Wanted, String> {
    let lower = value.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let host = match matching {
        "str" => lower,
        "end" if lower.starts_with('.') => format!("*{lower}"),
        _ => return Err("a host is a name, or all below one".to_owned()),
    };
    if !is_host(&host) {
        return Err(format!("{value} is no host of a route"));
    }
    Ok(Wanted { host: Some(host), ..Wanted::default() })
}

fn values_of(
    base: &str,
    name: &str,
    matching: &str,
    values: &[&str],
) -> Result<Vec<Wanted>, String> {
    let name = name.split(',').next().unwrap_or_default().to_ascii_lowercase();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err("it names no field".to_owned());
    }
    let values: Vec<&str> = match matching {
        "found" => vec!["*"],
        "str" if !values.is_empty() => values.to_vec(),
        _ => return Err("a value is compared as a whole".to_owned()),
    };
    let one = |value: &str| {
        let pair = BTreeMap::from([(name.clone(), value.to_owned())]);
        match base {
            "hdr" => Wanted { headers: pair, ..Wanted::default() },
            _ => Wanted { cookies: pair, ..Wanted::default() },
        }
    };
    Ok(values.into_iter().map(one).collect())
}
